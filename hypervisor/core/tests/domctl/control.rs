//! domctl, and figures of domains by either call.

use shared_abi::domctl::{
    self as abi, Domctl, GetDomainInfo, InfoFlags, MaxMem, SchedCredit, SchedulerOp, VcpuAffinity,
};
use shared_abi::hypercall as number;
use shared_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF};
use shared_abi::sysctl::{self, GetDomainInfoList};
use shared_abi::xen::{CtlBitmap, DomId, Errno, Gfn, GuestHandle, VcpuId};

use ebb_core::machine::CpuId;

use crate::testing;
use crate::world::*;

fn info(control: &Guest<'_>, domain: DomId) -> Result<GetDomainInfo, Errno> {
    control.domctl(abi::GETDOMAININFO, domain, GetDomainInfo::default())
}

fn flags(info: &GetDomainInfo) -> InfoFlags {
    InfoFlags::from_bits_retain(info.flags & 0xffff)
}

fn reason(info: &GetDomainInfo) -> u32 {
    info.flags >> abi::INFO_SHUTDOWN_SHIFT & abi::INFO_SHUTDOWN_MASK
}

#[test]
fn figures_of_a_domain() {
    let hv = testing::hypervisor(1, 1024);
    let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
    let found = info(&control, guest.id()).expect("there");
    assert_eq!((found.domain, found.tot_pages, found.max_pages), (guest.id(), PAGES, 2 * PAGES));
    assert_eq!((found.nr_online_vcpus, found.max_vcpu_id, found.gpaddr_bits), (1, 1, 40));
    assert_eq!(found.shared_info_frame, u64::MAX, "mapped nowhere");
    assert_eq!(flags(&found), InfoFlags::HVM_GUEST | InfoFlags::HAP);
    assert_eq!(&found.handle[..7], b"guest5\0", "the beginning of its name");
    assert_eq!(found.arch_config.emulation_flags, 1);
    assert_eq!(reason(&found), abi::INFO_SHUTDOWN_MASK);
    let frame = guest.domain.events.shared_info_frame().expect("attached");
    guest.domain.memory.map_shared_info(&hv, Gfn(0x77), frame).expect("room");
    assert_eq!(info(&control, guest.id()).expect("there").shared_info_frame, 0x77);
    // A number without a domain means the next one, a reserved one nothing.
    assert_eq!(info(&control, DomId(1)).expect("the next").domain, guest.id());
    assert_eq!(info(&control, DomId(6)), Err(Errno::ESRCH));
    assert_eq!(info(&control, DomId::SELF), Err(Errno::EINVAL));
    // What it runs is counted.
    let current = hv.schedule().expect("something to run");
    hv.machine.advance(5_000_000);
    let running = info(&control, current.domain().id).expect("there");
    assert!(flags(&running).contains(InfoFlags::RUNNING));
    assert_eq!(running.cpu_time, 5_000_000);
}

#[test]
fn lists_of_domains_come_in_pieces() {
    let hv = testing::hypervisor(1, 2048);
    let control = Guest::new(&hv, 0, true);
    let _guests = [3, 4, 9].map(|id| Guest::new(&hv, id, false));
    const BUFFER: u64 = 48 << 12;
    let list = |first, max_domains| {
        let buffer = GuestHandle::new(BUFFER);
        let first_domain = DomId(first);
        let asked = GetDomainInfoList { first_domain, max_domains, buffer, ..GetDomainInfoList::default() };
        let answer = control.sysctl(sysctl::GETDOMAININFOLIST, asked)?;
        let size = size_of::<GetDomainInfo>() as u64;
        let found = (0..u64::from(answer.num_domains)).map(|index| {
            let info: GetDomainInfo = control.take(BUFFER + index * size);
            assert_eq!(info.tot_pages, PAGES);
            info.domain.0
        });
        Ok::<Vec<u16>, Errno>(found.collect())
    };
    assert_eq!(list(0, 10), Ok(vec![0, 3, 4, 9]));
    assert_eq!(list(0, 2), Ok(vec![0, 3]));
    assert_eq!(list(4, 10), Ok(vec![4, 9]));
    assert_eq!(list(10, 10), Ok(vec![]));
    assert_eq!(list(0, 0), Ok(vec![]));
    let asked = GetDomainInfoList { max_domains: 1, buffer: GuestHandle::new(1 << 40), ..Default::default() };
    assert_eq!(control.sysctl(sysctl::GETDOMAININFOLIST, asked), Err(Errno::EFAULT));
}

#[test]
fn pauses_are_counted_and_keep_a_domain_from_running() {
    let hv = testing::hypervisor(1, 1024);
    let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
    let call = |operation, domain| control.domctl(operation, domain, ());
    let paused = || flags(&info(&control, guest.id()).expect("there")).contains(InfoFlags::PAUSED);
    assert_eq!(call(abi::UNPAUSEDOMAIN, guest.id()), Err(Errno::EINVAL));
    assert_eq!(call(abi::PAUSEDOMAIN, control.id()), Err(Errno::EINVAL), "not oneself");
    assert_eq!(call(abi::PAUSEDOMAIN, guest.id()), Ok(()));
    assert_eq!(call(abi::PAUSEDOMAIN, guest.id()), Ok(()));
    assert_eq!(call(abi::UNPAUSEDOMAIN, guest.id()), Ok(()));
    assert!(paused());
    for _ in 0..10 {
        let next = hv.schedule().expect("the control domain");
        assert_eq!(next.domain().id, control.id());
        hv.machine.advance(100_000_000);
    }
    assert_eq!(call(abi::UNPAUSEDOMAIN, guest.id()), Ok(()));
    assert!(!paused());
    let mut ran = false;
    for _ in 0..10 {
        hv.machine.advance(100_000_000);
        ran |= hv.schedule().is_some_and(|next| next.domain().id == guest.id());
    }
    assert!(ran);
    for _ in 0..255 {
        assert_eq!(call(abi::PAUSEDOMAIN, guest.id()), Ok(()));
    }
    assert_eq!(call(abi::PAUSEDOMAIN, guest.id()), Err(Errno::E2BIG));
}

#[test]
fn a_new_domain_waits_for_its_governor() {
    let hv = testing::hypervisor(1, 1024);
    let before = Guest::built(&hv, 3, false);
    assert!(!before.domain.control.is_paused(), "nobody is there to let it run");
    let control = Guest::built(&hv, 0, true);
    assert!(!control.domain.control.is_paused(), "nobody is above it");
    let guest = Guest::built(&hv, 5, false);
    let unpause = || control.domctl(abi::UNPAUSEDOMAIN, guest.id(), ());
    assert!(guest.domain.control.is_paused());
    assert_eq!(unpause(), Ok(()));
    assert_eq!(unpause(), Err(Errno::EINVAL), "it was paused once");
}

#[test]
fn destroyed_domains_come_apart() {
    let hv = testing::hypervisor(1, 1024);
    let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
    let destroy = |domain| control.domctl(abi::DESTROYDOMAIN, domain, ());
    assert_eq!(destroy(control.id()), Err(Errno::EINVAL));
    assert_eq!(destroy(guest.id()), Ok(()));
    let dying = info(&control, guest.id()).expect("still there");
    assert!(flags(&dying).contains(InfoFlags::DYING) && !flags(&dying).contains(InfoFlags::SHUTDOWN));
    assert_eq!(destroy(guest.id()), Ok(()), "once more does no harm");
    while hv.find_domain(guest.id()).is_some() {
        hv.teardown_step();
    }
    assert_eq!(destroy(guest.id()), Err(Errno::ESRCH));
    assert_eq!(hv.heap.account(guest.id()).current(), 0);
}

#[test]
fn the_reason_of_an_end_is_told() {
    for code in [SHUTDOWN_POWEROFF, SHUTDOWN_CRASH] {
        let hv = testing::hypervisor(1, 1024);
        let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
        ebb_core::lifecycle::shutdown(&hv, &guest.domain, code);
        let ended = info(&control, guest.id()).expect("still there");
        assert!(flags(&ended).contains(InfoFlags::DYING | InfoFlags::SHUTDOWN));
        assert_eq!(reason(&ended), code);
    }
    let hv = testing::hypervisor(1, 1024);
    let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
    ebb_core::lifecycle::triple_fault(&hv, &testing::vcpu(&guest.domain, 0));
    assert_eq!(reason(&info(&control, guest.id()).expect("still there")), SHUTDOWN_CRASH);
}

#[test]
fn the_maximum_of_memory_is_the_governors() {
    let hv = testing::hypervisor(1, 1024);
    let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
    let set = |max_memkb| control.domctl(abi::MAX_MEM, guest.id(), MaxMem { max_memkb }).map(|_| ());
    assert_eq!(set(4 * (PAGES + 1) + 3), Ok(()));
    assert_eq!(guest.domain.memory.maximum(), PAGES + 1);
    assert_eq!(guest.domain.memory.populate(&hv, Gfn(0x100), 0), Ok(()));
    assert_eq!(guest.domain.memory.populate(&hv, Gfn(0x101), 0), Err(Errno::ENOMEM));
    // Below what it has: it keeps that, and gets nothing more.
    assert_eq!(set(0), Ok(()));
    assert_eq!(guest.domain.memory.current(), PAGES + 1);
    assert_eq!(set(u64::MAX), Ok(()));
    assert_eq!(guest.domain.memory.populate(&hv, Gfn(0x101), 0), Ok(()));
}

#[test]
fn weights_and_caps_can_be_read_and_set() {
    let hv = testing::hypervisor(1, 1024);
    let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
    let call = |sched_id, cmd, weight, cap| {
        let mut operation = SchedulerOp { sched_id, cmd, ..SchedulerOp::default() };
        operation.set_credit(SchedCredit { weight, cap });
        control.domctl(abi::SCHEDULER_OP, guest.id(), operation).map(|answer| answer.credit())
    };
    let credit = |cmd, weight, cap| call(abi::SCHEDULER_CREDIT, cmd, weight, cap);
    let get = || credit(abi::SCHEDOP_GETINFO, 7, 7);
    assert_eq!(get(), Ok(SchedCredit { weight: 256, cap: 0 }));
    assert!(credit(abi::SCHEDOP_PUTINFO, 1000, 0).is_ok());
    assert!(credit(abi::SCHEDOP_PUTINFO, 0, u16::MAX).is_ok(), "neither is to change");
    assert_eq!(get(), Ok(SchedCredit { weight: 1000, cap: 0 }));
    assert!(credit(abi::SCHEDOP_PUTINFO, 0, 50).is_ok(), "the cap alone");
    assert_eq!(get(), Ok(SchedCredit { weight: 1000, cap: 50 }));
    assert!(credit(abi::SCHEDOP_PUTINFO, 300, u16::MAX).is_ok(), "the weight alone");
    assert_eq!(get(), Ok(SchedCredit { weight: 300, cap: 50 }));
    assert_eq!((guest.domain.sched.weight(), guest.domain.sched.cap()), (300, 50));
    // As on Xen any other number is one: more than its vCPUs can use does not bind.
    assert!(credit(abi::SCHEDOP_PUTINFO, 0, 65534).is_ok());
    assert_eq!(get(), Ok(SchedCredit { weight: 300, cap: 65534 }));
    assert!(credit(abi::SCHEDOP_PUTINFO, 0, 0).is_ok(), "none any more");
    assert_eq!(get(), Ok(SchedCredit { weight: 300, cap: 0 }));
    assert_eq!(credit(abi::SCHEDOP_PUTVCPUINFO, 1, 0), Err(Errno::EINVAL));
    assert_eq!(credit(9, 1, 0), Err(Errno::EINVAL));
    assert_eq!(call(abi::SCHEDULER_RTDS, abi::SCHEDOP_GETINFO, 0, 0), Err(Errno::EINVAL));
}

#[test]
fn affinity_can_be_set_and_read() {
    let hv = testing::hypervisor(3, 1024);
    let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
    const MAP: u64 = 48 << 12;
    let call = |operation, vcpu, flags, nr_bits| {
        let map = CtlBitmap { bitmap: GuestHandle::new(MAP), nr_bits, pad: 0 };
        let request = VcpuAffinity { vcpu: VcpuId(vcpu), flags, cpumap_hard: map, cpumap_soft: map };
        control.domctl(operation, guest.id(), request).map(|_| control.take::<u8>(MAP))
    };
    let set = |bits: u16, flags, nr_bits| {
        control.put(MAP, &bits);
        call(abi::SETVCPUAFFINITY, 0, flags, nr_bits)
    };
    let get = || call(abi::GETVCPUAFFINITY, 0, abi::VCPUAFFINITY_HARD, 8);
    assert_eq!(get(), Ok(7), "anywhere");
    assert_eq!(set(0xfd, abi::VCPUAFFINITY_HARD, 16), Ok(5), "of the CPUs there are");
    assert_eq!(get(), Ok(5));
    assert!(!testing::vcpu(&guest.domain, 0).sched.may_run_on(CpuId(1)));
    // Bits beyond the number count for nothing.
    assert_eq!(set(0xfff4, abi::VCPUAFFINITY_HARD, 2), Err(Errno::EINVAL), "no CPU is left");
    assert_eq!(set(0, abi::VCPUAFFINITY_HARD, 8), Err(Errno::EINVAL));
    assert_eq!(set(1, abi::VCPUAFFINITY_HARD, 0), Err(Errno::EINVAL));
    assert_eq!(set(1, abi::VCPUAFFINITY_SOFT, 8), Err(Errno::EOPNOTSUPP));
    assert_eq!(set(1, 0, 8), Err(Errno::EINVAL));
    assert_eq!(set(1, abi::VCPUAFFINITY_HARD | 8, 8), Err(Errno::EINVAL));
    assert_eq!(call(abi::GETVCPUAFFINITY, 7, abi::VCPUAFFINITY_HARD, 8), Err(Errno::ESRCH));
    assert_eq!(get(), Ok(5), "as it was");
}

#[test]
fn requests_are_checked() {
    let hv = testing::hypervisor(1, 1024);
    let (control, guest) = (Guest::new(&hv, 0, true), Guest::new(&hv, 5, false));
    let mut request = Domctl::new(abi::PAUSEDOMAIN, guest.id());
    request.interface_version += 1;
    control.put(ARGUMENTS, &request);
    assert_eq!(control.raw(number::DOMCTL, [ARGUMENTS, 0, 0, 0, 0]), Err(Errno::EACCES));
    assert_eq!(control.raw(number::DOMCTL, [1 << 40, 0, 0, 0, 0]), Err(Errno::EFAULT));
    assert!(!guest.domain.control.is_paused());
    for operation in [abi::PAUSEDOMAIN, abi::DESTROYDOMAIN, abi::MAX_MEM, abi::SETDOMAINHANDLE] {
        assert_eq!(control.domctl(operation, DomId(77), ()), Err(Errno::ESRCH));
        assert_eq!(control.domctl(operation, DomId::SELF, ()), Err(Errno::ESRCH));
    }
    for operation in [abi::CREATEDOMAIN, abi::MAX_VCPUS, abi::GETVCPUCONTEXT, 0, 1000] {
        assert_eq!(control.domctl(operation, guest.id(), ()), Err(Errno::ENOSYS));
    }
}
