//! map_grant_ref and unmap_grant_ref.

use std::sync::atomic::Ordering;

use shared_abi::grant_table::{self as abi, GrantHandle, GrantStatus, MapFlags};
use shared_abi::hypercall as number;
use shared_abi::memory::{DECREASE_RESERVATION, MAPSPACE_GMFN, MAPSPACE_GRANT_TABLE, POPULATE_PHYSMAP};
use shared_abi::xen::{DomId, Errno, Gfn};
use zerocopy::IntoBytes;

use crate::testing::{self, FakeMachine};
use crate::world::*;

const HOST: MapFlags = MapFlags::HOST_MAP;
const HOST_READONLY: MapFlags = MapFlags::HOST_MAP.union(MapFlags::READONLY);

fn hypervisor() -> ebb_core::Hypervisor<FakeMachine> {
    testing::hypervisor(2, 1024)
}

#[test]
fn a_page_is_shared_while_it_is_mapped() {
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT, mapper.id(), 5);
    let handle = mapper.map(granter.id(), 9, EMPTY, HOST).expect("permitted");
    assert_eq!(granter.flags(9), PERMIT | READING | WRITING);
    mapper.write(EMPTY << 12, b"hello").expect("mapped writable");
    assert_eq!(&granter.read::<5>(5 << 12), b"hello");
    assert_eq!((granter.domain.grants.in_use(), mapper.domain.grants.mapped()), (1, 1));
    assert_eq!(mapper.domain.memory.current(), PAGES, "not charged to the mapper");
    audit(&hv);
    assert_eq!(mapper.unmap(handle, EMPTY), GrantStatus::OKAY);
    assert_eq!(granter.flags(9), PERMIT);
    assert_eq!(mapper.write(EMPTY << 12, b"x"), Err(Errno::EFAULT));
    assert_eq!((granter.domain.grants.in_use(), mapper.domain.grants.mapped()), (0, 0));
    assert_eq!(mapper.unmap(handle, EMPTY), GrantStatus::BAD_HANDLE);
    audit(&hv);
}

#[test]
fn a_readonly_mapping_cannot_be_written() {
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT | READONLY, mapper.id(), 5);
    assert_eq!(mapper.map(granter.id(), 9, EMPTY, HOST), Err(GrantStatus::GENERAL_ERROR));
    assert_eq!(granter.flags(9), PERMIT | READONLY);
    let handle = mapper.map(granter.id(), 9, EMPTY, HOST_READONLY).expect("permitted");
    assert_eq!(granter.flags(9), PERMIT | READONLY | READING);
    assert_eq!(mapper.write(EMPTY << 12, b"x"), Err(Errno::EFAULT));
    assert_eq!(mapper.read::<1>(EMPTY << 12), [0]);
    // Nor does the hypervisor write there on its behalf.
    let mut request = [abi::QuerySize { dom: DomId::SELF, ..abi::QuerySize::default() }];
    let result = mapper.hypercall(number::GRANT_TABLE_OP, [abi::QUERY_SIZE.into(), EMPTY << 12, 1, 0, 0]);
    assert_eq!(result, Errno::EFAULT.to_return());
    assert_eq!(mapper.grant_op(abi::QUERY_SIZE, &mut request), 0);
    // A second, writing one is refused while the entry says so, and its marks do not stay.
    assert_eq!(mapper.map(granter.id(), 9, EMPTY + 1, HOST), Err(GrantStatus::GENERAL_ERROR));
    assert_eq!(mapper.unmap(handle, EMPTY), GrantStatus::OKAY);
    assert_eq!(granter.flags(9), PERMIT | READONLY);
}

#[test]
fn marks_follow_the_uses_that_are_left() {
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT, mapper.id(), 5);
    let reader = mapper.map(granter.id(), 9, EMPTY, HOST_READONLY).expect("permitted");
    let writer = mapper.map(granter.id(), 9, EMPTY + 1, HOST).expect("permitted");
    assert_ne!(reader, writer);
    assert_eq!(granter.flags(9), PERMIT | READING | WRITING);
    assert_eq!(mapper.unmap(writer, EMPTY + 1), GrantStatus::OKAY);
    assert_eq!(granter.flags(9), PERMIT | READING);
    assert_eq!(mapper.unmap(reader, EMPTY), GrantStatus::OKAY);
    assert_eq!(granter.flags(9), PERMIT);
}

#[test]
fn what_an_entry_does_not_permit_is_refused() {
    let hv = hypervisor();
    let (granter, mapper, other) = (Guest::new(&hv, 1), Guest::new(&hv, 2), Guest::new(&hv, 3));
    let map = |gref| mapper.map(granter.id(), gref, EMPTY, HOST);
    granter.grant(9, PERMIT, other.id(), 5);
    granter.grant(10, abi::ENTRY_ACCEPT_TRANSFER, mapper.id(), 5);
    granter.grant(11, PERMIT | abi::EntryFlags::SUB_PAGE.bits(), mapper.id(), 5);
    granter.grant(12, PERMIT, mapper.id(), EMPTY);
    granter.grant(13, PERMIT, mapper.id(), u64::from(u32::MAX));
    granter.grant(14, PERMIT, mapper.id(), TABLE);
    for gref in [8, 9, 10, 11] {
        assert_eq!(map(gref), Err(GrantStatus::GENERAL_ERROR), "{gref}");
    }
    for gref in [12, 13, 14] {
        assert_eq!(map(gref), Err(GrantStatus::BAD_PAGE), "{gref}");
        assert_eq!(granter.flags(gref), PERMIT, "no mark stays");
    }
    for gref in [512, 32_768, u32::MAX] {
        assert_eq!(map(gref), Err(GrantStatus::BAD_GNTREF), "{gref}");
    }
    for id in [DomId(55), DomId::SELF, DomId::INVALID, DomId(u16::MAX)] {
        assert_eq!(mapper.map(id, 9, EMPTY, HOST), Err(GrantStatus::BAD_DOMAIN));
    }
    // A page that the granter has from somebody else is not the granter's to give.
    other.grant(1, PERMIT, granter.id(), 5);
    granter.map(other.id(), 1, EMPTY, HOST).expect("permitted");
    assert_eq!(map(12), Err(GrantStatus::BAD_PAGE));
    assert_eq!((granter.domain.grants.in_use(), mapper.domain.grants.mapped()), (0, 0));
    audit(&hv);
}

#[test]
fn a_used_entry_is_for_its_user_alone_whatever_it_says() {
    let hv = hypervisor();
    let (granter, mapper, other) = (Guest::new(&hv, 1), Guest::new(&hv, 2), Guest::new(&hv, 3));
    granter.grant(9, PERMIT, mapper.id(), 5);
    let handle = mapper.map(granter.id(), 9, EMPTY, HOST).expect("permitted");
    granter.grant(9, PERMIT, other.id(), 6);
    assert_eq!(other.map(granter.id(), 9, EMPTY, HOST), Err(GrantStatus::GENERAL_ERROR));
    // The user may map it again, and gets the page it had.
    let again = mapper.map(granter.id(), 9, EMPTY + 1, HOST_READONLY).expect("in use");
    granter.write(5 << 12, b"five").expect("memory");
    assert_eq!(&mapper.read::<4>((EMPTY + 1) << 12), b"five");
    for (handle, gfn) in [(handle, EMPTY), (again, EMPTY + 1)] {
        assert_eq!(mapper.unmap(handle, gfn), GrantStatus::OKAY);
    }
    assert!(other.map(granter.id(), 9, EMPTY, HOST).is_ok());
    audit(&hv);
}

#[test]
fn flags_for_other_kinds_of_guests_are_refused() {
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT, mapper.id(), 5);
    for flags in [MapFlags::empty(), MapFlags::READONLY, MapFlags::APPLICATION_MAP] {
        assert_eq!(mapper.map(granter.id(), 9, EMPTY, flags), Err(GrantStatus::BAD_GNTREF));
    }
    for flag in
        [MapFlags::DEVICE_MAP, MapFlags::APPLICATION_MAP, MapFlags::CONTAINS_PTE, MapFlags::from_bits_retain(64)]
    {
        assert_eq!(mapper.map(granter.id(), 9, EMPTY, HOST | flag), Err(GrantStatus::GENERAL_ERROR));
    }
    assert_eq!(granter.flags(9), PERMIT);
}

#[test]
fn where_a_page_is_mapped() {
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    for gref in 9..12 {
        granter.grant(gref, PERMIT, mapper.id(), u64::from(gref));
    }
    // Not beyond the physical address space.
    assert_eq!(mapper.map(granter.id(), 9, 1 << 28, HOST), Err(GrantStatus::GENERAL_ERROR));
    assert_eq!(mapper.map(granter.id(), 9, (1 << 52) - 1, HOST), Err(GrantStatus::GENERAL_ERROR));
    assert_eq!(granter.flags(9), PERMIT);
    // In place of memory, which is given back.
    let handle = mapper.map(granter.id(), 9, 6, HOST).expect("permitted");
    assert_eq!(mapper.domain.memory.current(), PAGES - 1);
    // Not over another mapping.
    assert_eq!(mapper.map(granter.id(), 10, 6, HOST), Err(GrantStatus::GENERAL_ERROR));
    assert_eq!(granter.flags(10), PERMIT);
    // Unmapped where it was mapped.
    assert_eq!(mapper.unmap(handle, 7), GrantStatus::GENERAL_ERROR);
    assert_eq!(mapper.unmap(handle, 0), GrantStatus::OKAY, "no address: nothing is done");
    assert_eq!(granter.flags(9), PERMIT | READING | WRITING);
    assert_eq!(mapper.unmap(GrantHandle(handle.0 + 1), 6), GrantStatus::BAD_HANDLE);
    assert_eq!(mapper.unmap(GrantHandle(u32::MAX), 6), GrantStatus::BAD_HANDLE);
    assert_eq!(mapper.unmap(GrantHandle(1 << 20), 0), GrantStatus::BAD_HANDLE);
    assert_eq!(mapper.unmap(handle, 6), GrantStatus::OKAY);
    // A domain may map its own page.
    mapper.grant(1, PERMIT, mapper.id(), 5);
    let own = mapper.map(mapper.id(), 1, EMPTY, HOST).expect("permitted");
    mapper.write(EMPTY << 12, b"me").expect("mapped");
    assert_eq!(&mapper.read::<2>(5 << 12), b"me");
    audit(&hv);
    assert_eq!(mapper.unmap(own, EMPTY), GrantStatus::OKAY);
    audit(&hv);
}

#[test]
fn nothing_else_takes_a_mapping_out() {
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT, mapper.id(), 5);
    let handle = mapper.map(granter.id(), 9, EMPTY, HOST).expect("permitted");
    assert_eq!(mapper.remove(EMPTY), Err(Errno::ENOENT));
    assert_eq!(mapper.reservation(DECREASE_RESERVATION, EMPTY), 0);
    assert_eq!(mapper.reservation(POPULATE_PHYSMAP, EMPTY), 0);
    assert_eq!(mapper.add(MAPSPACE_GRANT_TABLE, 0, EMPTY), Err(Errno::EINVAL));
    assert_eq!(mapper.add(MAPSPACE_GMFN, 5, EMPTY), Err(Errno::EINVAL));
    assert_eq!(mapper.add(MAPSPACE_GMFN, EMPTY, EMPTY + 1), Err(Errno::EINVAL));
    granter.write(5 << 12, b"here").expect("memory");
    assert_eq!(&mapper.read::<4>(EMPTY << 12), b"here");
    audit(&hv);
    assert_eq!(mapper.unmap(handle, EMPTY), GrantStatus::OKAY);
    audit(&hv);
}

#[test]
fn a_mapped_page_stays_its_granters_until_it_is_unmapped() {
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT, mapper.id(), 5);
    granter.write(5 << 12, b"kept").expect("memory");
    let handle = mapper.map(granter.id(), 9, EMPTY, HOST).expect("permitted");
    assert_eq!(granter.reservation(DECREASE_RESERVATION, 5), 1);
    assert_eq!(granter.domain.memory.current(), PAGES, "still charged");
    assert_eq!(&mapper.read::<4>(EMPTY << 12), b"kept");
    audit(&hv);
    assert_eq!(mapper.unmap(handle, EMPTY), GrantStatus::OKAY);
    assert_eq!(granter.domain.memory.current(), PAGES - 1);
    audit(&hv);
}

#[test]
fn lists_are_done_in_pieces_and_in_order() {
    const COUNT: u32 = 100;
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    for gref in 0..COUNT {
        granter.grant(gref, if gref == 50 { 0 } else { PERMIT }, mapper.id(), u64::from(gref % 32));
    }
    hv.machine.interrupt.store(true, Ordering::SeqCst);
    let at = |gref: u32| EMPTY + u64::from(gref);
    let mut maps: Vec<_> = (0..COUNT).map(|gref| map_request(granter.id(), gref, at(gref), HOST)).collect();
    assert_eq!(mapper.grant_op(abi::MAP_GRANT_REF, &mut maps), 0);
    for (gref, map) in maps.iter().enumerate() {
        assert_eq!(map.status, if gref == 50 { GrantStatus::GENERAL_ERROR } else { GrantStatus::OKAY });
        assert_eq!(map.dev_bus_addr, if gref == 50 { 0 } else { map.host_addr });
    }
    assert_eq!(mapper.domain.grants.mapped(), 99);
    // Each twice: the second finds nothing, also within one batch.
    let good = maps.iter().filter(|map| map.status == GrantStatus::OKAY);
    let mut unmaps: Vec<_> = good.flat_map(|map| [unmap_request(map.handle, map.host_addr >> 12); 2]).collect();
    assert_eq!(mapper.grant_op(abi::UNMAP_GRANT_REF, &mut unmaps), 0);
    for pair in unmaps.chunks(2) {
        assert_eq!([pair[0].status, pair[1].status], [GrantStatus::OKAY, GrantStatus::BAD_HANDLE]);
    }
    assert_eq!((granter.domain.grants.in_use(), mapper.domain.grants.mapped()), (0, 0));
    audit(&hv);
}

#[test]
fn a_fault_leaves_what_came_before_done() {
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT, mapper.id(), 5);
    let first = mapper.map(granter.id(), 9, EMPTY, HOST).expect("permitted");
    let second = mapper.map(granter.id(), 9, EMPTY + 1, HOST).expect("permitted");
    // Two structures before the end of memory, of three.
    let list = (PAGES << 12) - 48;
    let requests = [unmap_request(first, EMPTY), unmap_request(second, EMPTY + 1)];
    mapper.write(list, requests.as_bytes()).expect("memory");
    let result = mapper.hypercall(number::GRANT_TABLE_OP, [abi::UNMAP_GRANT_REF.into(), list, 3, 0, 0]);
    assert_eq!(result, Errno::EFAULT.to_return());
    assert_eq!((granter.flags(9), mapper.domain.grants.mapped()), (PERMIT, 0));
    audit(&hv);
}

#[test]
fn mappings_are_limited() {
    let hv = testing::hypervisor(2, 2048);
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(1, PERMIT, mapper.id(), 5);
    granter.grant(2, PERMIT, mapper.id(), 5);
    let mut refused = None;
    for index in 0..5000 {
        let gref = 1 + u32::from(index >= 4000);
        match mapper.map(granter.id(), gref, EMPTY + index, HOST_READONLY) {
            Ok(_) => {}
            Err(status) => {
                refused = Some((index, status));
                break;
            }
        }
    }
    assert_eq!(refused, Some((4096, GrantStatus::NO_SPACE)));
    audit(&hv);
    mapper.die();
    assert_eq!(granter.domain.grants.in_use(), 0);
    assert_eq!((granter.flags(1), granter.flags(2)), (PERMIT, PERMIT));
    // Nor can one entry be used without end.
    let other = Guest::privileged(&hv, 3);
    granter.grant(1, PERMIT, other.id(), 5);
    let used = (0..5000).take_while(|index| other.map(granter.id(), 1, EMPTY + index, HOST_READONLY).is_ok()).count();
    assert_eq!(used, 4095);
    other.die();
    audit(&hv);
}

#[test]
fn a_failed_mapping_leaves_the_translation_alone() {
    let hv = hypervisor();
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, 0, mapper.id(), 5);
    mapper.write(6 << 12, b"mine").expect("memory");
    assert!(mapper.map(granter.id(), 9, 6, HOST).is_err());
    assert_eq!(&mapper.read::<4>(6 << 12), b"mine");
    assert!(mapper.domain.memory.translate(&hv.machine, Gfn(EMPTY)).is_none());
}
