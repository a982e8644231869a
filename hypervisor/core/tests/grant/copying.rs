//! copy, between all kinds of pages.

use ebb_core::hypercall::{Next, Width};
use shared_abi::grant_table::{self as abi, GrantCopy, GrantCopyPtr, GrantStatus, MapFlags};
use shared_abi::hypercall as number;
use shared_abi::xen::DomId;
use shared_abi::xen::compat::{GrantCopy32, GrantCopyPtr32};
use zerocopy::IntoBytes;

use crate::testing;
use crate::world::*;

fn end(domid: DomId, u: u64, offset: u16) -> GrantCopyPtr {
    GrantCopyPtr { u, domid, offset, pad: 0 }
}

fn copy(guest: &Guest<'_>, source: GrantCopyPtr, dest: GrantCopyPtr, len: u16, flags: u16) -> GrantStatus {
    let mut request = [GrantCopy { source, dest, len, flags, ..GrantCopy::default() }];
    assert_eq!(guest.grant_op(abi::COPY, &mut request), 0);
    request[0].status
}

const FROM: u16 = abi::COPY_SOURCE_GREF;
const TO: u16 = abi::COPY_DEST_GREF;

#[test]
fn bytes_move_between_all_kinds_of_pages() {
    let hv = testing::hypervisor(1, 1024);
    let (granter, caller, third) = (Guest::new(&hv, 1), Guest::new(&hv, 2), Guest::new(&hv, 3));
    granter.grant(9, PERMIT | READONLY, caller.id(), 5);
    third.grant(4, PERMIT, caller.id(), 6);
    let bytes: Vec<u8> = (0..4096u32).map(|index| (index * 7) as u8).collect();
    granter.write(5 << 12, &bytes).expect("memory");
    // Granted to own, all of the page.
    let status = copy(&caller, end(granter.id(), 9, 0), end(DomId::SELF, 7, 0), 4096, FROM);
    assert_eq!(status, GrantStatus::OKAY);
    assert_eq!(caller.read::<4096>(7 << 12)[..], bytes[..]);
    // Own to granted, across the pieces in which it is done.
    let status = copy(&caller, end(DomId::SELF, 7, 13), end(third.id(), 4, 100), 1500, TO);
    assert_eq!(status, GrantStatus::OKAY);
    assert_eq!(third.read::<1500>((6 << 12) + 100)[..], bytes[13..1513]);
    assert_eq!((third.read::<100>(6 << 12), third.read::<100>((6 << 12) + 1600)), ([0; 100], [0; 100]));
    // Granted to granted, and own to own.
    let status = copy(&caller, end(granter.id(), 9, 1), end(third.id(), 4, 4095), 1, FROM | TO);
    assert_eq!(status, GrantStatus::OKAY);
    assert_eq!(third.read::<1>((6 << 12) + 4095), [7]);
    assert_eq!(copy(&caller, end(DomId::SELF, 7, 1), end(DomId::SELF, 8, 0), 2, 0), GrantStatus::OKAY);
    assert_eq!(caller.read::<2>(8 << 12), [7, 14]);
    // Nothing of it stays.
    assert_eq!((granter.flags(9), third.flags(4)), (PERMIT | READONLY, PERMIT));
    assert_eq!((granter.domain.grants.in_use(), third.domain.grants.in_use()), (0, 0));
    audit(&hv);
}

#[test]
fn copies_have_bounds() {
    let hv = testing::hypervisor(1, 1024);
    let (granter, caller) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT, caller.id(), 5);
    for (from, to, length) in [(1, 0, 4096), (0, 1, 4096), (4096, 0, 1), (u16::MAX, u16::MAX, u16::MAX)] {
        let status = copy(&caller, end(granter.id(), 9, from), end(DomId::SELF, 7, to), length, FROM);
        assert_eq!(status, GrantStatus::BAD_COPY_ARG, "{from} {to} {length}");
    }
    let nothing = copy(&caller, end(granter.id(), 9, 4096), end(DomId::SELF, 7, 4096), 0, FROM);
    assert_eq!(nothing, GrantStatus::OKAY);
    assert_eq!(granter.flags(9), PERMIT);
}

#[test]
fn copies_need_permission() {
    let hv = testing::hypervisor(1, 1024);
    let (granter, caller, other) = (Guest::new(&hv, 1), Guest::new(&hv, 2), Guest::privileged(&hv, 3));
    granter.grant(9, PERMIT | READONLY, caller.id(), 5);
    granter.grant(10, PERMIT, caller.id(), EMPTY);
    let own = end(DomId::SELF, 7, 0);
    let from = |guest: &Guest<'_>, source| copy(guest, source, own, 8, FROM);
    assert_eq!(from(&caller, end(granter.id(), 8, 0)), GrantStatus::GENERAL_ERROR);
    assert_eq!(from(&caller, end(granter.id(), 10, 0)), GrantStatus::BAD_PAGE);
    assert_eq!(from(&caller, end(granter.id(), 512, 0)), GrantStatus::BAD_GNTREF);
    assert_eq!(from(&caller, end(DomId(50), 9, 0)), GrantStatus::BAD_DOMAIN);
    assert_eq!(from(&other, end(granter.id(), 9, 0)), GrantStatus::GENERAL_ERROR);
    let written = copy(&caller, own, end(granter.id(), 9, 0), 8, TO);
    assert_eq!(written, GrantStatus::GENERAL_ERROR, "may only be read");
    // By number only one's own pages, for the privileged too.
    assert_eq!(copy(&other, end(granter.id(), 5, 0), own, 8, 0), GrantStatus::PERMISSION_DENIED);
    assert_eq!(copy(&other, own, end(other.id(), 5, 0), 8, 0), GrantStatus::PERMISSION_DENIED);
    assert_eq!(copy(&caller, end(DomId::SELF, EMPTY, 0), own, 8, 0), GrantStatus::BAD_PAGE);
    assert_eq!(copy(&caller, own, end(DomId::SELF, u64::MAX, 0), 8, 0), GrantStatus::BAD_PAGE);
    // What is behind a mapping is not one's own.
    caller.map(granter.id(), 9, EMPTY, MapFlags::HOST_MAP | MapFlags::READONLY).expect("permitted");
    assert_eq!(copy(&caller, end(DomId::SELF, EMPTY, 0), own, 8, 0), GrantStatus::BAD_PAGE);
    assert_eq!(granter.domain.grants.in_use(), 1);
    audit(&hv);
}

#[test]
fn narrow_callers_have_their_own_layout() {
    let hv = testing::hypervisor(1, 1024);
    let (granter, caller) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT, caller.id(), 5);
    granter.write(5 << 12, b"narrow").expect("memory");
    let one = |gref| GrantCopy32 {
        source: GrantCopyPtr32 { u: gref, domid: granter.id(), offset: 0 },
        dest: GrantCopyPtr32 { u: 7, domid: DomId::SELF, offset: 2 },
        len: 6,
        flags: FROM,
        ..GrantCopy32::default()
    };
    let mut requests = [one(9), one(8)];
    caller.write(0x4000, requests.as_bytes()).expect("memory");
    let mut args = [abi::COPY.into(), 0x4000, 2, 0, 0];
    let vcpu = testing::vcpu(&caller.domain, 0);
    // Something waits on the CPU, so that each structure is a call of its own.
    let call = |args| hv.hypercall(&vcpu, number::GRANT_TABLE_OP.into(), args, Width::Bits32, testing::UNPAGED);
    if let Next::Again(rest) = call(args) {
        assert_eq!(rest[1..3], [0x4000 + 24, 1]);
        args = rest;
    }
    assert_eq!(call(args), Next::Return(0));
    hv.read_physical(&caller.domain, 0x4000, requests.as_mut_bytes()).expect("memory");
    assert_eq!(requests.map(|request| request.status), [GrantStatus::OKAY, GrantStatus::GENERAL_ERROR]);
    assert_eq!(&caller.read::<6>((7 << 12) + 2), b"narrow");
}
