//! `event_channel_op` and delivery, with whichever ABI the kernel uses.

use super::{Outcome, Stop, Test, wrong_call};
use crate::events::{self, EventPort};
use crate::{check, check_eq, cpu, percpu, smp};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use ebb_guest_hypercall::{DomId, Errno, Port, VcpuId, Virq, event_channel};
use shared_abi::event_channel as abi;
use shared_abi::hypercall::EVENT_CHANNEL_OP;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("events-loop", ports_in_a_loop),
    ("events-ipi", ipi),
    ("events-virq", virq),
    ("events-mask", mask),
    ("events-vcpu", other_vcpu),
    ("events-many", many),
    ("events-errors", errors),
    ("events-exhaustion", exhaustion),
];

/// How long an event may take, ns.
const PATIENCE: u64 = 2_000_000_000;
/// A vCPU that no domain has.
const NO_VCPU: VcpuId = VcpuId(9999);

/// An unbound port for ourselves, and a port bound to it.
fn pair() -> Result<(Port, Port), Stop> {
    let unbound = event_channel::alloc_unbound(DomId::SELF)?;
    let bound = event_channel::bind_interdomain(DomId::SELF, unbound)?;
    Ok((unbound, bound))
}

fn ports_in_a_loop() -> Outcome {
    let unbound = event_channel::alloc_unbound(DomId::SELF)?;
    let status = event_channel::status(unbound)?;
    check_eq!(status.status, abi::STATUS_UNBOUND, "the new port's status");
    check_eq!(event_channel::send(unbound), Ok(()), "a send on an unbound port");
    let bound = event_channel::bind_interdomain(DomId::SELF, unbound)?;
    let status = event_channel::status(bound)?;
    check_eq!(status.status, abi::STATUS_INTERDOMAIN, "the bound port's status");
    check_eq!(status.interdomain().1, unbound, "the bound port's other end");
    check_eq!(event_channel::status(unbound)?.interdomain().1, bound, "the first port's other end");
    check_eq!(
        event_channel::bind_interdomain(DomId::SELF, unbound),
        Err(Errno::EINVAL),
        "binding a port that is bound"
    );
    let (near, far) = (EventPort::new(unbound)?, EventPort::new(bound)?);
    // Binding makes the new end pending.
    check!(far.wait(1, PATIENCE), "binding did not make the port pending");
    let (before_near, before_far) = (near.count(), far.count());
    event_channel::send(near.port())?;
    check!(far.wait(before_far + 1, PATIENCE), "an event did not arrive");
    event_channel::send(far.port())?;
    check!(near.wait(before_near + 1, PATIENCE), "an event back did not arrive");
    let near_port = near.port();
    drop(near);
    check_eq!(event_channel::status(far.port())?.status, abi::STATUS_UNBOUND, "the end that is left");
    check_eq!(event_channel::status(near_port)?.status, abi::STATUS_CLOSED, "the end that was closed");
    Ok(())
}

fn ipi() -> Outcome {
    for cpu in 0..smp::online() {
        let vcpu = VcpuId(cpu as u32);
        let port = EventPort::new(event_channel::bind_ipi(vcpu)?)?;
        let status = event_channel::status(port.port())?;
        check_eq!(status.status, abi::STATUS_IPI, "the port's status");
        check_eq!(status.vcpu, vcpu, "the port's vCPU");
        for count in 1..=50 {
            event_channel::send(port.port())?;
            check!(port.wait(count, PATIENCE), "event {count} for vCPU {cpu} did not arrive");
            check_eq!(port.last_vcpu(), cpu, "the vCPU that took it");
        }
        check_eq!(event_channel::bind_vcpu(port.port(), VcpuId(0)), Err(Errno::EINVAL), "binding an IPI anew");
    }
    Ok(())
}

fn virq() -> Outcome {
    check_eq!(event_channel::bind_virq(Virq::TIMER, VcpuId(0)), Err(Errno::EEXIST), "a second VIRQ_TIMER");
    check_eq!(event_channel::bind_virq(Virq(24), VcpuId(0)), Err(Errno::EINVAL), "a VIRQ that does not exist");
    check_eq!(event_channel::bind_virq(Virq(u32::MAX), VcpuId(0)), Err(Errno::EINVAL), "the last VIRQ number");
    check_eq!(event_channel::bind_virq(Virq::DEBUG, NO_VCPU), Err(Errno::ENOENT), "a VIRQ of no vCPU");
    let debug = event_channel::bind_virq(Virq::DEBUG, VcpuId(0))?;
    let status = event_channel::status(debug)?;
    check_eq!(status.status, abi::STATUS_VIRQ, "the port's status");
    check_eq!(status.virq(), Virq::DEBUG, "the port's VIRQ");
    check_eq!(event_channel::send(debug), Err(Errno::EINVAL), "a send on a VIRQ's port");
    check_eq!(event_channel::bind_vcpu(debug, VcpuId(0)), Err(Errno::EINVAL), "binding a vCPU's own VIRQ anew");
    event_channel::close(debug)?;
    let again = event_channel::bind_virq(Virq::DEBUG, VcpuId(0))?;
    event_channel::close(again)?;
    if smp::online() > 1 {
        let global = event_channel::bind_virq(Virq::ARGO, VcpuId(1));
        check_eq!(global, Err(Errno::EINVAL), "a global VIRQ on vCPU 1");
    }
    Ok(())
}

fn mask() -> Outcome {
    let port = EventPort::new(event_channel::bind_ipi(VcpuId(percpu::id() as u32))?)?;
    let channels = events::channels();
    channels.mask(port.port());
    event_channel::send(port.port())?;
    event_channel::send(port.port())?;
    check!(!port.wait(1, 2_000_000), "a masked port was delivered");
    check!(channels.is_pending(port.port()), "a masked port is not pending after a send");
    channels.unmask(port.port())?;
    check!(port.wait(1, PATIENCE), "unmasking did not deliver");
    check!(!port.wait(2, 2_000_000), "two sends while masked gave two events");
    check!(!channels.is_pending(port.port()), "an event that was delivered is still pending");
    check_eq!(event_channel::unmask(port.port()), Ok(()), "unmasking what is unmasked");
    Ok(())
}

fn other_vcpu() -> Outcome {
    if smp::online() < 2 {
        return Err(Stop::Skip("it takes two vCPUs".into()));
    }
    let (unbound, bound) = pair()?;
    let last = smp::online() - 1;
    check_eq!(event_channel::bind_vcpu(unbound, NO_VCPU), Err(Errno::ENOENT), "binding to no vCPU");
    check_eq!(event_channel::status(unbound)?.vcpu, VcpuId(0), "the vCPU of a new port");
    event_channel::bind_vcpu(unbound, VcpuId(last as u32))?;
    check_eq!(event_channel::status(unbound)?.vcpu, VcpuId(last as u32), "the vCPU after binding");
    let port = EventPort::new(unbound)?;
    for round in 0..20 {
        let vcpu = if round % 2 == 0 { last } else { 0 };
        event_channel::bind_vcpu(port.port(), VcpuId(vcpu as u32))?;
        let count = port.count();
        event_channel::send(bound)?;
        check!(port.wait(count + 1, PATIENCE), "an event for vCPU {vcpu} did not arrive");
        check_eq!(port.last_vcpu(), vcpu, "the vCPU that took it");
    }
    event_channel::close(bound)?;
    Ok(())
}

/// Many ports, some beyond the first pages of event words, sent to with interrupts off: every one arrives once.
fn many() -> Outcome {
    let vcpu = VcpuId(percpu::id() as u32);
    let mut fillers = Vec::new();
    while fillers.len() < 2100 {
        fillers.push(event_channel::alloc_unbound(DomId::SELF)?);
    }
    let ports = (0..100)
        .map(|_| EventPort::new(event_channel::bind_ipi(vcpu)?).map_err(Stop::from))
        .collect::<Result<Vec<_>, Stop>>()?;
    let highest = ports.iter().map(|port| port.port().0).max().unwrap_or(0);
    let interrupts = cpu::interrupts_off();
    for round in 0..3 {
        for port in ports.iter().skip(round) {
            let _ = event_channel::send(port.port());
        }
    }
    if interrupts {
        cpu::interrupts_on();
    }
    let arrived = ports.iter().filter(|port| port.wait(1, PATIENCE)).count();
    let twice = ports.iter().filter(|port| port.count() > 1).count();
    for port in fillers {
        event_channel::close(port)?;
    }
    check!(highest > 2048, "the highest port is {highest} only");
    check_eq!(arrived, 100, "ports whose event arrived");
    check_eq!(twice, 0, "ports with more than one event");
    Ok(())
}

fn errors() -> Outcome {
    let free = event_channel::alloc_unbound(DomId::SELF)?;
    event_channel::close(free)?;
    for port in [Port(0), free, Port(abi::FIFO_NR_CHANNELS), Port(u32::MAX)] {
        check_eq!(event_channel::send(port), Err(Errno::EINVAL), alloc::format!("a send on port {port}"));
        check_eq!(event_channel::close(port), Err(Errno::EINVAL), alloc::format!("closing port {port}"));
    }
    let beyond = Port(abi::FIFO_NR_CHANNELS);
    check_eq!(event_channel::unmask(beyond), Err(Errno::EINVAL), "unmasking a port that cannot be");
    check_eq!(event_channel::status(beyond).map(|_| ()), Err(Errno::EINVAL), "the status of a port that cannot be");
    check_eq!(event_channel::bind_vcpu(beyond, VcpuId(0)), Err(Errno::EINVAL), "binding a port that cannot be");
    check_eq!(event_channel::bind_ipi(NO_VCPU), Err(Errno::ENOENT), "an IPI for no vCPU");
    let stranger = event_channel::bind_interdomain(DomId(0x7000), Port(1));
    check_eq!(stranger, Err(Errno::ESRCH), "binding to a domain that does not exist");
    let op = |op: u64, address: u64| wrong_call(EVENT_CHANNEL_OP, [op, address, 0, 0, 0]);
    check_eq!(op(99, 0), Err(Errno::ENOSYS), "an operation that does not exist");
    for operation in 0..=13u64 {
        let result = op(operation, 0x7000_0000_0000);
        check!(result.is_err(), "operation {operation} with an argument that is not mapped gave {result:?}");
    }
    check_eq!(op(abi::SEND.into(), 0x7000_0000_0000), Err(Errno::EFAULT), "a send with an unmapped argument");
    Ok(())
}

/// All ports there are, and one more: -ENOSPC, and afterwards everything works.
fn exhaustion() -> Outcome {
    if events::is_fifo() {
        return Err(Stop::Skip("only with the 2-level ABI: evtchn=2l".into()));
    }
    let mut ports = Vec::with_capacity(4096);
    let errno = loop {
        match event_channel::alloc_unbound(DomId::SELF) {
            Ok(port) if ports.len() < 5000 => ports.push(port),
            Ok(_) => break None,
            Err(errno) => break Some(errno),
        }
    };
    let count = ports.len();
    for port in ports {
        event_channel::close(port)?;
    }
    check_eq!(errno, Some(Errno::ENOSPC), alloc::format!("the error after {count} ports"));
    let before = percpu::own().upcalls.load(Ordering::Relaxed);
    let port = EventPort::new(event_channel::bind_ipi(VcpuId(percpu::id() as u32))?)?;
    event_channel::send(port.port())?;
    check!(port.wait(1, PATIENCE), "no event after exhaustion ({before} upcalls before)");
    Ok(())
}
