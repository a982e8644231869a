//! The table as a whole: its frames, sizes and versions, and who may ask about it.

use ebb_core::grant;
use ebb_core::hypercall::{Next, Width};
use shared_abi::grant_table::{
    self as abi, CacheFlush, GetVersion, GrantRef, GrantStatus, MapFlags, QuerySize, SetVersion, SetupTable,
};
use shared_abi::hypercall as number;
use shared_abi::memory::{MAPIDX_GRANT_TABLE_STATUS, MAPSPACE_GRANT_TABLE};
use shared_abi::xen::compat::SetupTable32;
use shared_abi::xen::{DomId, Errno, Gfn, GuestHandle};
use zerocopy::IntoBytes;

use crate::testing;
use crate::world::*;

fn size(guest: &Guest<'_>, dom: DomId) -> Result<(u32, u32), GrantStatus> {
    let mut request = [QuerySize { dom, ..QuerySize::default() }];
    assert_eq!(guest.grant_op(abi::QUERY_SIZE, &mut request), 0);
    let [QuerySize { status, nr_frames, max_nr_frames, .. }] = request;
    if status == GrantStatus::OKAY { Ok((nr_frames, max_nr_frames)) } else { Err(status) }
}

fn setup(guest: &Guest<'_>, dom: DomId, nr_frames: u32, list: u64) -> GrantStatus {
    let frame_list = GuestHandle::new(list);
    let mut request = [SetupTable { dom, nr_frames, frame_list, ..SetupTable::default() }];
    assert_eq!(guest.grant_op(abi::SETUP_TABLE, &mut request), 0);
    request[0].status
}

#[test]
fn frames_appear_where_they_are_asked_for() {
    let hv = testing::hypervisor(1, 1024);
    let guest = Guest::new(&hv, 1);
    assert_eq!(size(&guest, DomId::SELF), Ok((1, 64)));
    // The highest index first, as Linux does, grows the table once.
    assert_eq!(guest.add(MAPSPACE_GRANT_TABLE, 3, EMPTY + 3), Ok(()));
    assert_eq!(size(&guest, DomId::SELF), Ok((4, 64)));
    assert_eq!(guest.add(MAPSPACE_GRANT_TABLE, 2, EMPTY + 2), Ok(()));
    for index in [64, 1 << 20, MAPIDX_GRANT_TABLE_STATUS, u64::MAX] {
        assert_eq!(guest.add(MAPSPACE_GRANT_TABLE, index, EMPTY), Err(Errno::EINVAL), "{index:#x}");
    }
    // A frame is in one place: it moves.
    guest.write((EMPTY + 2) << 12, b"entry").expect("mapped");
    assert_eq!(guest.add(MAPSPACE_GRANT_TABLE, 2, EMPTY + 9), Ok(()));
    assert_eq!(guest.write((EMPTY + 2) << 12, b"entry"), Err(Errno::EFAULT));
    assert_eq!(&guest.read::<5>((EMPTY + 9) << 12), b"entry");
    // Memory that was there is given back, and the frame is not charged.
    let before = guest.domain.memory.current();
    assert_eq!(guest.add(MAPSPACE_GRANT_TABLE, 2, 5), Ok(()));
    assert_eq!(guest.domain.memory.current(), before - 1);
    audit(&hv);
}

#[test]
fn setup_tells_where_frames_are() {
    let hv = testing::hypervisor(1, 1024);
    let guest = Guest::new(&hv, 1);
    assert_eq!(setup(&guest, DomId::SELF, 3, 0x4000), GrantStatus::OKAY);
    assert_eq!(guest.read::<24>(0x4000), *[TABLE, u64::MAX, u64::MAX].as_bytes());
    assert_eq!(guest.add(MAPSPACE_GRANT_TABLE, 2, EMPTY), Ok(()));
    assert_eq!(setup(&guest, guest.id(), 3, 0x4000), GrantStatus::OKAY);
    assert_eq!(guest.read::<24>(0x4000), *[TABLE, u64::MAX, EMPTY].as_bytes());
    // Something else took its place: it is nowhere.
    assert_eq!(guest.reservation(shared_abi::memory::POPULATE_PHYSMAP, EMPTY), 1);
    assert_eq!(setup(&guest, guest.id(), 3, 0x4000), GrantStatus::OKAY);
    assert_eq!(guest.read::<24>(0x4000), *[TABLE, u64::MAX, u64::MAX].as_bytes());
    assert_eq!(setup(&guest, DomId::SELF, 65, 0x4000), GrantStatus::GENERAL_ERROR);
    assert_eq!(setup(&guest, DomId::SELF, u32::MAX, 0x4000), GrantStatus::GENERAL_ERROR);
    assert_eq!(setup(&guest, DomId::SELF, 1, EMPTY << 20), GrantStatus::BAD_VIRT_ADDR);
    let mut two = [SetupTable { dom: DomId::SELF, ..SetupTable::default() }; 2];
    assert_eq!(guest.grant_op(abi::SETUP_TABLE, &mut two), Errno::EINVAL.to_return());
}

#[test]
fn narrow_callers_have_their_own_layout() {
    let hv = testing::hypervisor(1, 1024);
    let guest = Guest::new(&hv, 1);
    let request = SetupTable32 { dom: DomId::SELF, nr_frames: 2, frame_list: 0x4000, ..SetupTable32::default() };
    guest.write(0x5000, request.as_bytes()).expect("memory");
    let vcpu = testing::vcpu(&guest.domain, 0);
    let args = [abi::SETUP_TABLE.into(), 0x5000, 1, 0, 0];
    let result = hv.hypercall(&vcpu, number::GRANT_TABLE_OP.into(), args, Width::Bits32, testing::UNPAGED);
    assert_eq!(result, Next::Return(0));
    assert_eq!(guest.read::<12>(0x4000), *[TABLE as u32, u32::MAX, 0].as_bytes());
}

#[test]
fn only_a_governor_asks_about_others() {
    let hv = testing::hypervisor(1, 1024);
    let (guest, other, governor) = (Guest::new(&hv, 1), Guest::new(&hv, 2), Guest::privileged(&hv, 3));
    assert_eq!(size(&other, guest.id()), Err(GrantStatus::PERMISSION_DENIED));
    assert_eq!(setup(&other, guest.id(), 1, 0x4000), GrantStatus::PERMISSION_DENIED);
    assert_eq!(size(&governor, DomId(77)), Err(GrantStatus::BAD_DOMAIN));
    assert_eq!(size(&governor, guest.id()), Ok((1, 64)));
    assert_eq!(setup(&governor, guest.id(), 1, 0x4000), GrantStatus::OKAY);
    assert_eq!(governor.read::<8>(0x4000), TABLE.to_le_bytes());
    assert_eq!(other.add_to(guest.id(), MAPSPACE_GRANT_TABLE, 0, EMPTY), Err(Errno::EPERM));
    assert_eq!(governor.add_to(guest.id(), MAPSPACE_GRANT_TABLE, 0, EMPTY), Ok(()));
    let mut version = [GetVersion { dom: guest.id(), ..GetVersion::default() }];
    assert_eq!(other.grant_op(abi::GET_VERSION, &mut version), Errno::EPERM.to_return());
    assert_eq!(governor.grant_op(abi::GET_VERSION, &mut version), 0);
    assert_eq!(version[0].version, 1);
    version[0].dom = DomId(77);
    assert_eq!(governor.grant_op(abi::GET_VERSION, &mut version), Errno::ESRCH.to_return());
}

#[test]
fn there_is_one_version() {
    let hv = testing::hypervisor(1, 1024);
    let guest = Guest::new(&hv, 1);
    for (wanted, answer) in [(1, 0), (2, Errno::ENOSYS.to_return()), (0, Errno::EINVAL.to_return())] {
        let mut request = [SetVersion { version: wanted }];
        assert_eq!(guest.grant_op(abi::SET_VERSION, &mut request), answer);
        assert_eq!(request[0].version, 1);
    }
}

#[test]
fn what_is_not_offered_says_so() {
    let hv = testing::hypervisor(1, 1024);
    let guest = Guest::new(&hv, 1);
    for operation in [abi::DUMP_TABLE, abi::TRANSFER, abi::UNMAP_AND_REPLACE, abi::SWAP_GRANT_REF, 99, u32::MAX] {
        let result = guest.hypercall(number::GRANT_TABLE_OP, [operation.into(), 0x4000, 1, 0, 0]);
        assert_eq!(result, Errno::ENOSYS.to_return(), "{operation}");
    }
    for operation in [abi::MAP_GRANT_REF, abi::UNMAP_GRANT_REF, abi::COPY, abi::CACHE_FLUSH] {
        let call = |list, count| guest.hypercall(number::GRANT_TABLE_OP, [operation.into(), list, count, 0, 0]);
        assert_eq!(call(0x4000, 1 << 31), Errno::EINVAL.to_return());
        assert_eq!(call(EMPTY << 12, 1), Errno::EFAULT.to_return());
        assert_eq!(call(u64::MAX - 8, 2), Errno::EFAULT.to_return());
        assert_eq!(call(EMPTY << 12, 0), 0);
    }
}

#[test]
fn caches_need_no_flush_where_there_is_memory() {
    let hv = testing::hypervisor(1, 1024);
    let guest = Guest::new(&hv, 1);
    let flush = |a, offset, length, op| {
        let mut request = [CacheFlush { a, offset, length, op }];
        Errno::from_return(guest.grant_op(abi::CACHE_FLUSH, &mut request)).map(|_| ())
    };
    assert_eq!(flush(0x3000, 0, 4096, abi::CACHE_CLEAN | abi::CACHE_INVAL), Ok(()));
    assert_eq!(flush(0x3000, 4000, 97, abi::CACHE_CLEAN), Err(Errno::EINVAL));
    assert_eq!(flush(0x3000, 4096, 0, abi::CACHE_CLEAN), Err(Errno::EINVAL));
    assert_eq!(flush(0x3000, 0, 64, 4), Err(Errno::EINVAL));
    assert_eq!(flush(EMPTY << 12, 0, 64, abi::CACHE_INVAL), Err(Errno::EINVAL));
    assert_eq!(flush(EMPTY << 12, 0, 0, abi::CACHE_INVAL), Ok(()), "nothing to flush");
}

#[test]
fn a_control_domain_fills_the_reserved_entries() {
    let hv = testing::hypervisor(1, 1024);
    let (guest, control, other) = (Guest::new(&hv, 1), Guest::privileged(&hv, 0), Guest::new(&hv, 2));
    // By mapping the table...
    assert_eq!(control.acquire(guest.id(), 0, 0, &[]), Ok(()));
    assert_eq!(control.acquired_frames(), 64);
    assert_eq!(control.acquire(guest.id(), 0, 1, &[EMPTY]), Ok(()));
    let entry = abi::GrantEntryV1 { flags: PERMIT, domid: control.id(), frame: 7 };
    control.write((EMPTY << 12) + 8, entry.as_bytes()).expect("mapped writable");
    let handle = control.map(guest.id(), abi::RESERVED_XENSTORE.0, EMPTY + 1, MapFlags::HOST_MAP).expect("permitted");
    guest.write(7 << 12, b"store").expect("memory");
    assert_eq!(&control.read::<5>((EMPTY + 1) << 12), b"store");
    assert_eq!(control.unmap(handle, EMPTY + 1), GrantStatus::OKAY);
    // ...or as the domain's builder does.
    grant::permit(&hv, &guest.domain, abi::RESERVED_CONSOLE, control.id(), Gfn(8)).expect("a table");
    assert_eq!(guest.flags(0), PERMIT);
    assert!(control.map(guest.id(), 0, EMPTY + 1, MapFlags::HOST_MAP).is_ok());
    assert_eq!(
        grant::permit(&hv, &guest.domain, GrantRef(512), control.id(), Gfn(8)),
        Err(Errno::EINVAL),
        "outside the table"
    );
    // Nobody else gets at a table, and nobody at what is not there.
    assert_eq!(other.acquire(guest.id(), 0, 1, &[EMPTY]), Err(Errno::EPERM));
    assert_eq!(control.acquire(DomId::SELF, 0, 1, &[EMPTY]), Err(Errno::EPERM));
    assert_eq!(control.acquire(DomId(50), 0, 1, &[EMPTY]), Err(Errno::ESRCH));
    assert_eq!(control.acquire(guest.id(), 64, 1, &[EMPTY]), Err(Errno::EINVAL));
    assert_eq!(control.acquire(guest.id(), u64::MAX, 1, &[EMPTY]), Err(Errno::EINVAL));
    assert_eq!(control.acquire(guest.id(), 62, 2, &[EMPTY + 2, EMPTY + 3]), Ok(()), "the table grows");
    assert_eq!(size(&guest, DomId::SELF), Ok((64, 64)));
    // A mapping of the table outlives the table.
    guest.die();
    control.write(EMPTY << 12, &[1]).expect("still mapped");
    assert_eq!(control.remove(EMPTY), Ok(()));
    audit(&hv);
}
