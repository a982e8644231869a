//! sysctl's figures of the machine, and what a PVH guest expects of calls that are not for it.

use std::sync::atomic::Ordering;

use shared_abi::domctl::SCHEDULER_CREDIT;
use shared_abi::hypercall as number;
use shared_abi::sysctl::{self as abi, AvailHeap, PhysCapabilities, PhysInfo, SchedId, Sysctl};
use shared_abi::xen::{Errno, vm_assist};

use crate::testing;
use crate::world::*;

#[test]
fn the_machine_in_figures() {
    let hv = testing::hypervisor(3, 1024);
    let control = Guest::new(&hv, 0, true);
    let info = control.sysctl(abi::PHYSINFO, PhysInfo::default()).expect("privileged");
    let ledger = hv.heap.ledger();
    assert_eq!((info.nr_cpus, info.max_cpu_id, info.nr_nodes, info.max_node_id), (3, 2, 1, 0));
    assert_eq!((info.total_pages, info.max_mfn), (1024, 1023));
    assert_eq!((info.free_pages, info.scrub_pages), (ledger.free + ledger.scrubbing, ledger.scrubbing));
    assert_eq!(info.cpu_khz, 2_000_000);
    let capabilities = PhysCapabilities::from_bits_retain(info.capabilities);
    assert!(capabilities.contains(PhysCapabilities::HVM | PhysCapabilities::HAP | PhysCapabilities::GNTTAB_V1));
    assert!(!capabilities.intersects(PhysCapabilities::PV | PhysCapabilities::GNTTAB_V2));
    hv.heap.claim(control.id(), PAGES + 10).expect("room");
    let info = control.sysctl(abi::PHYSINFO, PhysInfo::default()).expect("privileged");
    assert_eq!(info.outstanding_pages, 10);

    let heap = control.sysctl(abi::AVAILHEAP, AvailHeap { node: -1, ..AvailHeap::default() }).expect("privileged");
    assert_eq!(heap.avail_bytes, info.free_pages * 4096);
    for asked in [AvailHeap { node: 1, ..heap }, AvailHeap { max_bitwidth: 32, ..heap }] {
        assert_eq!(control.sysctl(abi::AVAILHEAP, asked), Err(Errno::EINVAL));
    }
    assert_eq!(control.sysctl(abi::SCHED_ID, SchedId::default()), Ok(SchedId { sched_id: SCHEDULER_CREDIT }));
}

#[test]
fn requests_are_checked() {
    let hv = testing::hypervisor(1, 1024);
    let control = Guest::new(&hv, 0, true);
    let mut request = Sysctl::new(abi::PHYSINFO);
    request.interface_version -= 1;
    control.put(ARGUMENTS, &request);
    assert_eq!(control.raw(number::SYSCTL, [ARGUMENTS, 0, 0, 0, 0]), Err(Errno::EACCES));
    assert_eq!(control.raw(number::SYSCTL, [1 << 40, 0, 0, 0, 0]), Err(Errno::EFAULT));
    assert_eq!(control.sysctl(1000, ()), Err(Errno::ENOSYS));
}

#[test]
fn the_one_assist_is_the_runstates() {
    let hv = testing::hypervisor(1, 1024);
    let guest = Guest::new(&hv, 5, false);
    let assist = |command, kind| guest.raw(number::VM_ASSIST, [command, kind, 0, 0, 0]);
    let flag = || guest.domain.sched.runstate_update_flag.load(Ordering::SeqCst);
    let (enable, disable) = (u64::from(vm_assist::ENABLE), u64::from(vm_assist::DISABLE));
    let runstate = u64::from(vm_assist::TYPE_RUNSTATE_UPDATE_FLAG);
    assert_eq!(assist(enable, runstate), Ok(0));
    assert!(flag());
    assert_eq!(assist(2, runstate), Err(Errno::ENOSYS));
    assert!(flag());
    assert_eq!(assist(disable, runstate), Ok(0));
    assert!(!flag());
    for kind in [0, 1, 2, 3, 4, 6, 32, 64, u64::from(u32::MAX)] {
        assert_eq!(assist(enable, kind), Err(Errno::EINVAL), "{kind}");
    }
}

#[test]
fn there_are_no_physical_devices_and_no_security_modules() {
    let hv = testing::hypervisor(1, 1024);
    for guest in [Guest::new(&hv, 5, false), Guest::new(&hv, 0, true)] {
        for operation in 0..40 {
            for call in [number::PHYSDEV_OP, number::XSM_OP] {
                assert_eq!(guest.raw(call, [operation, ARGUMENTS, 0, 0, 0]), Err(Errno::ENOSYS));
            }
        }
    }
}
