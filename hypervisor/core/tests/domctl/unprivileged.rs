//! Every operation that is a governor's, tried by a domain that is none: it is refused, and nothing happens.

use shared_abi::event_channel as evtchn;
use shared_abi::grant_table as grant;
use shared_abi::hvm::{self, params};
use shared_abi::hypercall as number;
use shared_abi::memory::{self, MemoryReservation};
use shared_abi::sched::RemoteShutdown;
use shared_abi::sysctl::Sysctl;
use shared_abi::xen::{DomId, Errno, Gfn, GuestHandle, Port, console_io};
use shared_abi::{domctl, sched, version};

use crate::testing;
use crate::world::*;

const LIST: u64 = 50 << 12;

#[test]
fn control_calls_look_at_nothing() {
    let hv = testing::hypervisor(1, 1024);
    let (guest, victim) = (Guest::new(&hv, 1, false), Guest::new(&hv, 2, false));
    for operation in 0..=128 {
        for target in [victim.id(), guest.id(), DomId(77), DomId::SELF] {
            assert_eq!(guest.domctl(operation, target, [0u64; 16]), Err(Errno::EPERM), "domctl {operation}");
        }
        assert_eq!(guest.sysctl(operation, [0u64; 16]), Err(Errno::EPERM), "sysctl {operation}");
    }
    // Not even at the request.
    let mut other_version = Sysctl::new(3);
    other_version.interface_version = 0;
    guest.put(ARGUMENTS, &other_version);
    for call in [number::DOMCTL, number::SYSCTL] {
        for address in [ARGUMENTS, 1 << 40, u64::MAX] {
            assert_eq!(guest.raw(call, [address, 0, 0, 0, 0]), Err(Errno::EPERM));
        }
    }
    assert!(victim.domain.lifecycle.is_running() && !victim.domain.control.is_paused());
    assert_eq!(victim.domain.memory.maximum(), 2 * PAGES);
    assert_eq!(domctl::INTERFACE_VERSION, 0x15);
}

#[test]
fn memory_of_others_is_out_of_reach() {
    let hv = testing::hypervisor(1, 1024);
    let (guest, victim) = (Guest::new(&hv, 1, false), Guest::new(&hv, 2, false));
    let domid = victim.id();
    let call = |operation| guest.raw(number::MEMORY_OP, [u64::from(operation), ARGUMENTS, 0, 0, 0]);
    guest.put(LIST, &5u64);
    let reservation =
        MemoryReservation { extent_start: GuestHandle::new(LIST), nr_extents: 1, domid, ..Default::default() };
    guest.put(ARGUMENTS, &reservation);
    for operation in [memory::INCREASE_RESERVATION, memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP] {
        assert_eq!(call(operation), Ok(0), "no extent done");
    }
    guest.put(ARGUMENTS, &memory::MemoryExchange { in_: reservation, out: reservation, nr_exchanged: 0 });
    assert_eq!(call(memory::EXCHANGE), Err(Errno::EPERM));
    guest.put(ARGUMENTS, &memory::MemoryDomain { domid });
    for operation in [memory::CURRENT_RESERVATION, memory::MAXIMUM_RESERVATION, memory::MAXIMUM_GPFN] {
        assert_eq!(call(operation), Err(Errno::EPERM));
    }
    let space = memory::MAPSPACE_GMFN;
    guest.put(ARGUMENTS, &memory::AddToPhysmap { domid, size: 0, space, idx: 5, gpfn: Gfn(6) });
    assert_eq!(call(memory::ADD_TO_PHYSMAP), Err(Errno::EPERM));
    guest.put(ARGUMENTS, &memory::AddToPhysmapBatch { domid, space: space as u16, size: 1, ..Default::default() });
    assert_eq!(call(memory::ADD_TO_PHYSMAP_BATCH), Err(Errno::EPERM));
    guest.put(ARGUMENTS, &memory::RemoveFromPhysmap { domid, pad: [0; 3], gpfn: Gfn(5) });
    assert_eq!(call(memory::REMOVE_FROM_PHYSMAP), Err(Errno::EPERM));
    guest.put(ARGUMENTS, &MemoryReservation { nr_extents: 70, domid, ..Default::default() });
    assert_eq!(call(memory::CLAIM_PAGES), Err(Errno::EPERM));
    guest.put(ARGUMENTS, &memory::MemoryMap::default());
    assert_eq!(call(memory::MACHINE_MEMORY_MAP), Err(Errno::EPERM));
    let type_ = memory::RESOURCE_GRANT_TABLE;
    guest.put(ARGUMENTS, &memory::MemAcquireResource { domid, type_, ..Default::default() });
    assert_eq!(call(memory::ACQUIRE_RESOURCE), Err(Errno::EPERM));
    assert_eq!((victim.domain.memory.current(), hv.heap.claimed_by(domid)), (PAGES, 0));
    assert!((0..PAGES).all(|gfn| victim.domain.memory.translate(&hv.machine, Gfn(gfn)).is_some()));
}

#[test]
fn so_is_everything_else_of_theirs() {
    let hv = testing::hypervisor(1, 1024);
    let (guest, victim) = (Guest::new(&hv, 1, false), Guest::new(&hv, 2, false));
    let dom = victim.id();
    let denied = Err(Errno::EPERM);
    let event = |operation| guest.raw(number::EVENT_CHANNEL_OP, [u64::from(operation), ARGUMENTS, 0, 0, 0]);
    guest.put(ARGUMENTS, &evtchn::AllocUnbound { dom, remote_dom: guest.id(), port: Port(0) });
    assert_eq!(event(evtchn::ALLOC_UNBOUND), denied);
    guest.put(ARGUMENTS, &evtchn::Status { dom, port: Port(1), ..Default::default() });
    assert_eq!(event(evtchn::STATUS), denied);
    guest.put(ARGUMENTS, &evtchn::Reset { dom });
    assert_eq!(event(evtchn::RESET), denied);

    for index in 0..params::COUNT {
        for operation in [hvm::SET_PARAM, hvm::GET_PARAM] {
            guest.put(ARGUMENTS, &hvm::Param { domid: dom, pad: 0, index, value: 1 });
            let result = guest.raw(number::HVM_OP, [u64::from(operation), ARGUMENTS, 0, 0, 0]);
            assert_eq!(result, denied, "parameter {index}");
        }
    }

    let schedule = |operation| guest.raw(number::SCHED_OP, [u64::from(operation), ARGUMENTS, 0, 0, 0]);
    guest.put(ARGUMENTS, &RemoteShutdown { domain_id: dom, pad: 0, reason: 0 });
    assert_eq!(schedule(sched::REMOTE_SHUTDOWN), denied);
    assert_eq!(schedule(sched::PIN_OVERRIDE), denied);
    assert_eq!(guest.raw(number::CONSOLE_IO, [console_io::READ.into(), 16, ARGUMENTS, 0, 0]), denied);
    assert_eq!(guest.raw(number::XEN_VERSION, [version::BUILD_ID.into(), 0, 0, 0, 0]), denied);

    let status = |operation: u32, at: u64| {
        assert_eq!(guest.raw(number::GRANT_TABLE_OP, [operation.into(), ARGUMENTS, 1, 0, 0]), Ok(0));
        guest.take::<grant::GrantStatus>(ARGUMENTS + at)
    };
    guest.put(ARGUMENTS, &grant::SetupTable { dom, nr_frames: 1, ..Default::default() });
    assert_eq!(status(grant::SETUP_TABLE, 8), grant::GrantStatus::PERMISSION_DENIED);
    guest.put(ARGUMENTS, &grant::QuerySize { dom, ..Default::default() });
    assert_eq!(status(grant::QUERY_SIZE, 12), grant::GrantStatus::PERMISSION_DENIED);
    guest.put(ARGUMENTS, &grant::GetVersion { dom, ..Default::default() });
    assert_eq!(guest.raw(number::GRANT_TABLE_OP, [grant::GET_VERSION.into(), ARGUMENTS, 1, 0, 0]), denied);
    assert!(victim.domain.lifecycle.is_running());
}
