//! Every errno, as Xen 4.17 gives it.

use shared_abi::event_channel as abi;
use shared_abi::xen::{DomId, Errno, Gfn, Port, VcpuId, Virq};

use super::guest::Guest;
use crate::evtchn::MAX_PORTS;
use crate::testing;

#[test]
fn ports_run_out_with_enospc() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    for expected in 1..MAX_PORTS {
        assert_eq!(guest.bind_ipi(0), Ok(Port(expected)));
    }
    assert_eq!(guest.bind_ipi(0), Err(Errno::ENOSPC));
    assert_eq!(guest.alloc_unbound(DomId(2)), Err(Errno::ENOSPC));
    assert_eq!(guest.bind_virq(Virq::TIMER, 0), Err(Errno::ENOSPC));
    assert_eq!(guest.close(Port(77)), Ok(()));
    assert_eq!(guest.bind_ipi(0), Ok(Port(77)), "the lowest free port is given out");
}

#[test]
fn virqs_are_bound_once_and_where_they_belong() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 2);
    assert_eq!(guest.bind_virq(Virq(24), 0), Err(Errno::EINVAL));
    assert_eq!(guest.bind_virq(Virq(u32::MAX), 0), Err(Errno::EINVAL));
    assert_eq!(guest.bind_virq(Virq::DOM_EXC, 1), Err(Errno::EINVAL), "global: vCPU 0 only");
    assert_eq!(guest.bind_virq(Virq::TIMER, 2), Err(Errno::ENOENT));
    let timer = guest.bind_virq(Virq::TIMER, 1).unwrap();
    assert_eq!(guest.bind_virq(Virq::TIMER, 1), Err(Errno::EEXIST));
    assert!(guest.bind_virq(Virq::TIMER, 0).is_ok(), "each vCPU has its own");
    assert_eq!(guest.bind_vcpu(timer, 0), Err(Errno::EINVAL), "a per-vCPU line stays");
    let global = guest.bind_virq(Virq::DOM_EXC, 0).unwrap();
    assert_eq!(guest.bind_vcpu(global, 1), Ok(()), "a global one moves");
    assert_eq!(guest.bind_virq(Virq::DOM_EXC, 0), Err(Errno::EEXIST));
    assert_eq!(guest.close(global), Ok(()));
    assert!(guest.bind_virq(Virq::DOM_EXC, 0).is_ok(), "closing after a move frees the line");
    assert_eq!(guest.send(timer), Err(Errno::EINVAL), "a VIRQ cannot be sent");
}

#[test]
fn ipis_do_not_move() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 2);
    assert_eq!(guest.bind_ipi(2), Err(Errno::ENOENT));
    let port = guest.bind_ipi(1).unwrap();
    assert_eq!(guest.bind_vcpu(port, 0), Err(Errno::EINVAL));
    assert_eq!(guest.bind_vcpu(port, 9), Err(Errno::ENOENT));
    assert_eq!(guest.bind_vcpu(Port(99_999), 0), Err(Errno::EINVAL));
    assert_eq!(guest.status(port).unwrap().vcpu, VcpuId(1));
}

#[test]
fn ports_that_are_not() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    for port in [Port(0), Port(5), Port(4096), Port(u32::MAX)] {
        assert_eq!(guest.send(port), Err(Errno::EINVAL));
        assert_eq!(guest.close(port), Err(Errno::EINVAL));
        assert_eq!(guest.bind_vcpu(port, 0), Err(Errno::EINVAL));
    }
    assert_eq!(guest.status(Port(1 << 20)).err(), Some(Errno::EINVAL));
    assert_eq!(guest.op(abi::UNMASK, &mut abi::Unmask { port: Port(70_000) }), Err(Errno::EINVAL));
}

#[test]
fn offers_are_for_whom_they_name() {
    let hv = testing::hypervisor(1, 1024);
    let (a, b, c) = (Guest::new(&hv, 1, 1), Guest::new(&hv, 2, 1), Guest::new(&hv, 3, 1));
    let offered = a.alloc_unbound(b.id()).unwrap();
    assert_eq!(c.bind_interdomain(a.id(), offered), Err(Errno::EINVAL));
    assert_eq!(b.bind_interdomain(DomId(99), offered), Err(Errno::ESRCH));
    assert_eq!(b.bind_interdomain(a.id(), Port(60_000)), Err(Errno::EINVAL));
    assert_eq!(a.send(offered), Ok(()), "nobody listens yet: silently nothing");
    let local = b.bind_interdomain(a.id(), offered).unwrap();
    assert_eq!(b.bind_interdomain(a.id(), offered), Err(Errno::EINVAL), "taken");
    let status = a.status(offered).unwrap();
    assert_eq!((status.status, status.interdomain()), (abi::STATUS_INTERDOMAIN, (b.id(), local)));
    assert_eq!(b.close(local), Ok(()));
    let status = a.status(offered).unwrap();
    assert_eq!((status.status, status.unbound_dom()), (abi::STATUS_UNBOUND, b.id()));
}

#[test]
fn only_the_privileged_act_for_others() {
    let hv = testing::hypervisor(1, 1024);
    let (a, b) = (Guest::new(&hv, 1, 1), Guest::new(&hv, 2, 1));
    let governor = Guest::privileged(&hv, 3);
    let mut request = abi::AllocUnbound { dom: b.id(), remote_dom: a.id(), port: Port(0) };
    assert_eq!(a.op(abi::ALLOC_UNBOUND, &mut request), Err(Errno::EPERM));
    assert_eq!(governor.op(abi::ALLOC_UNBOUND, &mut request), Ok(()));
    assert!(a.bind_interdomain(b.id(), request.port).is_ok());
    let mut nobody = abi::AllocUnbound { dom: DomId(77), remote_dom: a.id(), port: Port(0) };
    assert_eq!(governor.op(abi::ALLOC_UNBOUND, &mut nobody), Err(Errno::ESRCH));
    let mut status = abi::Status { dom: b.id(), port: request.port, ..Default::default() };
    assert_eq!(a.op(abi::STATUS, &mut status), Err(Errno::EPERM));
    assert_eq!(governor.op(abi::STATUS, &mut status), Ok(()));
    assert_eq!(a.op(abi::RESET, &mut abi::Reset { dom: b.id() }), Err(Errno::EPERM));
    assert_eq!(governor.op(abi::RESET, &mut abi::Reset { dom: b.id() }), Err(Errno::EINVAL));
}

#[test]
fn fifo_setup_is_checked() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    let control = |gfn, offset, vcpu| {
        let mut request = abi::InitControl { control_gfn: Gfn(gfn), offset, vcpu: VcpuId(vcpu), ..Default::default() };
        guest.op(abi::INIT_CONTROL, &mut request)
    };
    let port = guest.bind_ipi(0).unwrap();
    assert_eq!(guest.set_priority(port, 3), Err(Errno::ENOSYS), "2-level has no priorities");
    assert_eq!(guest.expand_array(0), Err(Errno::EOPNOTSUPP));
    assert_eq!(control(16, 0, 1), Err(Errno::ENOENT));
    assert_eq!(control(16, 4096 - 72 + 8, 0), Err(Errno::EINVAL));
    assert_eq!(control(16, 4, 0), Err(Errno::EINVAL));
    assert_eq!(control(1 << 40, 0, 0), Err(Errno::EINVAL), "no such page");
    assert_eq!(control(u64::MAX, 0, 0), Err(Errno::EINVAL));
    assert!(!guest.domain.events.uses_fifo(), "what fails changes nothing");
    assert_eq!(control(16, 4096 - 72, 0), Ok(()));
    assert_eq!(control(17, 0, 0), Err(Errno::EINVAL), "once per vCPU");
    assert_eq!(guest.op(abi::EXPAND_ARRAY, &mut abi::ExpandArray { array_gfn: Gfn(9999) }), Err(Errno::EINVAL));
    for _ in 0..128 {
        assert_eq!(guest.expand_array(0), Ok(()));
    }
    assert_eq!(guest.expand_array(0), Err(Errno::ENOSPC));
    assert_eq!(guest.set_priority(port, 16), Err(Errno::EINVAL));
    assert_eq!(guest.set_priority(port, 15), Ok(()));
}

#[test]
fn unknown_operations_and_bad_addresses() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    let mut request = abi::Send { port: Port(1) };
    assert_eq!(guest.op(abi::BIND_PIRQ, &mut request), Err(Errno::ENOSYS));
    assert_eq!(guest.op(15, &mut request), Err(Errno::ENOSYS));
    assert_eq!(guest.op(u32::MAX, &mut request), Err(Errno::ENOSYS));
    let vcpu = testing::vcpu(&guest.domain, 0);
    let number = u64::from(shared_abi::hypercall::EVENT_CHANNEL_OP);
    for operation in (0..14).filter(|operation| *operation != u64::from(abi::BIND_PIRQ)) {
        let args = [operation, 0xffff_f000, 0, 0, 0];
        let result = testing::hypercall(&hv, &vcpu, number, args);
        assert_eq!(result, Errno::EFAULT.to_return(), "operation {operation}");
    }
}
