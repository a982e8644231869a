//! How a control domain gives another one its XenStore and console: event channels, parameters, the pages.

use ebb_core::evtchn;
use shared_abi::event_channel as abi;
use shared_abi::hvm::{self, params};
use shared_abi::hypercall as number;
use shared_abi::memory::{self, AddToPhysmapBatch};
use shared_abi::xen::{DomId, Errno, Gfn, GuestHandle, Port};

use crate::testing;
use crate::world::*;

fn set(caller: &Guest<'_>, domid: DomId, index: u32, value: u64) -> Result<(), Errno> {
    caller.op(number::HVM_OP, hvm::SET_PARAM, hvm::Param { domid, pad: 0, index, value }).map(|_| ())
}

fn get(caller: &Guest<'_>, index: u32) -> Result<u64, Errno> {
    let request = hvm::Param { domid: DomId::SELF, pad: 0, index, value: 0 };
    caller.op(number::HVM_OP, hvm::GET_PARAM, request).map(|answer| answer.value)
}

fn alloc_unbound(caller: &Guest<'_>, dom: DomId, remote_dom: DomId) -> Result<Port, Errno> {
    let request = abi::AllocUnbound { dom, remote_dom, port: Port(0) };
    caller.op(number::EVENT_CHANNEL_OP, abi::ALLOC_UNBOUND, request).map(|answer| answer.port)
}

fn bind(caller: &Guest<'_>, remote_dom: DomId, remote_port: Port) -> Result<Port, Errno> {
    let request = abi::BindInterdomain { remote_dom, remote_port, ..abi::BindInterdomain::default() };
    caller.op(number::EVENT_CHANNEL_OP, abi::BIND_INTERDOMAIN, request).map(|answer| answer.local_port)
}

fn send(caller: &Guest<'_>, port: Port) -> Result<(), Errno> {
    caller.op(number::EVENT_CHANNEL_OP, abi::SEND, abi::Send { port }).map(|_| ())
}

#[test]
fn a_control_domain_makes_another_ones_channels() {
    let hv = testing::hypervisor(1, 1024);
    let (control, guest, other) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false), Guest::new(&hv, 6, false));
    let store = alloc_unbound(&control, guest.id(), DomId::SELF).expect("privileged");
    let console = alloc_unbound(&control, guest.id(), control.id()).expect("privileged");
    assert_ne!(store, console);
    assert_eq!(alloc_unbound(&other, guest.id(), DomId::SELF), Err(Errno::EPERM));
    assert_eq!(alloc_unbound(&other, guest.id(), guest.id()), Err(Errno::EPERM));
    for (index, value) in [
        (params::STORE_PFN, 0x30),
        (params::STORE_EVTCHN, u64::from(store.0)),
        (params::CONSOLE_PFN, 0x31),
        (params::CONSOLE_EVTCHN, u64::from(console.0)),
    ] {
        assert_eq!(set(&other, guest.id(), index, value), Err(Errno::EPERM));
        assert_eq!(get(&guest, index), Err(Errno::ENOENT));
        assert_eq!(set(&control, guest.id(), index, value), Ok(()));
        assert_eq!(get(&guest, index), Ok(value));
    }
    // Only whom it waits for can bind it.
    assert_eq!(bind(&other, guest.id(), store), Err(Errno::EINVAL));
    let local = bind(&control, guest.id(), store).expect("offered to it");
    assert_eq!(send(&guest, store), Ok(()));
    assert!(evtchn::port_pending(&hv, &control.domain, local));
    assert_eq!(send(&control, local), Ok(()));
    assert!(evtchn::port_pending(&hv, &guest.domain, store));
    assert!(!evtchn::port_pending(&hv, &guest.domain, console));
}

#[test]
fn a_control_domain_maps_another_ones_pages() {
    const IDXS: u64 = 44 << 12;
    const GPFNS: u64 = 45 << 12;
    const ERRS: u64 = 46 << 12;
    let hv = testing::hypervisor(1, 1024);
    let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
    let map = |caller: &Guest<'_>, foreign: DomId, idxs: [u64; 3], gfns: [u64; 3]| {
        caller.put(IDXS, &idxs);
        caller.put(GPFNS, &gfns);
        caller.put(ERRS, &[77i32; 3]);
        let request = AddToPhysmapBatch {
            domid: DomId::SELF,
            space: memory::MAPSPACE_GMFN_FOREIGN as u16,
            size: 3,
            foreign_domid: foreign,
            idxs: GuestHandle::new(IDXS),
            gpfns: GuestHandle::new(GPFNS),
            errs: GuestHandle::new(ERRS),
        };
        caller.op(number::MEMORY_OP, memory::ADD_TO_PHYSMAP_BATCH, request).map(|_| caller.take::<[i32; 3]>(ERRS))
    };
    let bad = Errno::EINVAL.to_return() as i32;
    assert_eq!(map(&control, guest.id(), [5, 0x5000, 6], [0x200, 0x201, 0x202]), Ok([0, bad, 0]));
    control.put(0x202 << 12, b"ring");
    assert_eq!(&guest.take::<[u8; 4]>(6 << 12), b"ring");
    let denied = Errno::EPERM.to_return() as i32;
    assert_eq!(map(&guest, control.id(), [5, 6, 7], [0x200, 0x201, 0x202]), Ok([denied; 3]));
    // What the guest gives away stays as long as the control domain looks at it.
    let mut current = guest.domain.memory.current();
    assert_eq!(guest.domain.memory.populate(&hv, Gfn(6), 0), Ok(()));
    assert_eq!(guest.domain.memory.current(), current + 1);
    current += 1;
    assert_eq!(&control.take::<[u8; 4]>(0x202 << 12), b"ring");
    control.domain.memory.unmap_page(&hv, Gfn(0x202)).expect("mapped");
    assert_eq!(guest.domain.memory.current(), current - 1);
    hv.audit_memory().expect("in order");
}
