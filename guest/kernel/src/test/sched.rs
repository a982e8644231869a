//! `sched_op`: yield, block, poll, watchdogs.

use super::{Outcome, Stop, Test, wrong_call};
use crate::event_loop::Loop;
use crate::events::EventPort;
use crate::{check, check_eq, clock, cpu, events, idle, percpu, smp, thread};
use ebb_guest_hypercall::{DomId, Errno, Port, VcpuId, domctl, event_channel, sched, vcpu};
use shared_abi::domctl::SchedCredit;
use shared_abi::hypercall::SCHED_OP;
use shared_abi::sched as abi;
use shared_abi::vcpu::RUNSTATE_RUNNING;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("sched-yield", yields),
    ("sched-poll-pending", poll_pending),
    ("sched-poll-timeout", poll_timeout),
    ("sched-poll-wake", poll_wake),
    ("sched-poll-errors", poll_errors),
    ("sched-block", block),
    ("sched-watchdog", watchdog),
    ("sched-cap", cap),
    ("sched-errors", errors),
];

const MS: u64 = 1_000_000;

fn yields() -> Outcome {
    for _ in 0..100 {
        check_eq!(sched::yield_now(), Ok(()), "a yield");
    }
    Ok(())
}

fn poll_pending() -> Outcome {
    let ports = Loop::new(0)?;
    let other = Loop::new(0)?;
    event_channel::send(ports.near)?;
    check_eq!(sched::poll(&[ports.far], 0), Ok(()), "a poll on a pending port, for ever");
    check_eq!(sched::poll(&[other.far, ports.far], 0), Ok(()), "a poll on two ports, one pending");
    check!(events::channels().is_pending(ports.far), "a poll took the event");
    Ok(())
}

/// How late is the host's affair; a timeout that never comes is the time limit's.
fn poll_timeout() -> Outcome {
    let ports = Loop::new(0)?;
    for list in [&[ports.far][..], &[ports.far, ports.near], &[]] {
        let end = clock::now() + 5 * MS;
        // Other events end a poll too.
        while clock::now() < end {
            check_eq!(sched::poll(list, end), Ok(()), "a poll with a timeout");
        }
    }
    check_eq!(sched::poll(&[ports.far], clock::now() - MS), Ok(()), "a poll with a timeout in the past");
    Ok(())
}

/// Another vCPU's send ends a poll without a timeout, many times over.
fn poll_wake() -> Outcome {
    if smp::online() < 2 {
        return Err(Stop::Skip("it takes two vCPUs".into()));
    }
    let there = Loop::new(1)?;
    let back = Loop::new(0)?;
    let (port, answer) = (there.far, back.near);
    let partner = thread::spawn("poller", Some(1), move || {
        for _ in 0..500 {
            while !events::channels().clear_pending(port) {
                let _ = sched::poll(&[port], 0);
            }
            let _ = event_channel::send(answer);
        }
    })?;
    let (send, wait) = (there.near, back.far);
    let own = thread::spawn("sender", Some(0), move || {
        for _ in 0..500 {
            let _ = event_channel::send(send);
            while !events::channels().clear_pending(wait) {
                let _ = sched::poll(&[wait], 0);
            }
        }
    })?;
    let deadline = clock::now() + 20_000 * MS;
    while !(partner.is_finished() && own.is_finished()) {
        check!(clock::now() < deadline, "a poll was not woken");
        thread::sleep(MS);
    }
    Ok(())
}

fn poll_errors() -> Outcome {
    let wrong = [Port(u32::MAX)];
    check_eq!(sched::poll(&wrong, 0), Err(Errno::EINVAL), "a port that cannot be");
    check_eq!(sched::poll(&[Port(0x1_FFFF); 1], clock::now()).is_ok(), false, "a port beyond those there are");
    check_eq!(sched::poll(&[Port(1); 129], 0), Err(Errno::EINVAL), "129 ports");
    let op = |address: u64| wrong_call(SCHED_OP, [abi::POLL.into(), address, 0, 0, 0]);
    check_eq!(op(0x7000_0000_0000), Err(Errno::EFAULT), "an argument that is not mapped");
    let argument =
        abi::Poll { ports: shared_abi::xen::GuestHandle::new(0x7000_0000_0000), nr_ports: 2, pad: 0, timeout: 0 };
    let address = (&raw const argument).expose_provenance() as u64;
    check_eq!(op(address), Err(Errno::EFAULT), "a list that is not mapped");
    Ok(())
}

/// Sleeping by block: an event that is pending, or comes, ends it; none is lost.
fn block() -> Outcome {
    let was = idle::by_block();
    idle::choose(true);
    let slept = sleep_by_idle();
    idle::choose(was);
    slept?;
    let port = EventPort::new(event_channel::bind_ipi(VcpuId(percpu::id() as u32))?)?;
    let interrupts = cpu::interrupts_off();
    event_channel::send(port.port())?;
    // Returns at once: the event is pending, and is taken as interrupts come on.
    idle::wait();
    if !interrupts {
        cpu::interrupts_off();
    }
    check!(port.wait(1, 1_000 * MS), "the event did not arrive");
    Ok(())
}

fn sleep_by_idle() -> Outcome {
    for _ in 0..20 {
        let start = clock::now();
        thread::sleep(MS);
        let slept = clock::now() - start;
        check!((MS..3_000 * MS).contains(&slept), "slept {slept} ns instead of 1 ms");
    }
    Ok(())
}

fn watchdog() -> Outcome {
    // Long enough never to expire here: the timeout is in seconds.
    let first = sched::watchdog(0, 10_000)?;
    check_eq!(first, 1, "the first watchdog's number");
    let second = sched::watchdog(0, 10_000)?;
    check_eq!(second, 2, "the second watchdog's number");
    check_eq!(sched::watchdog(0, 10_000), Err(Errno::ENOSPC), "a third watchdog");
    check_eq!(sched::watchdog(1, 20_000), Ok(0), "setting the first anew");
    check_eq!(sched::watchdog(1, 0), Ok(0), "stopping the first");
    check_eq!(sched::watchdog(2, 0), Ok(0), "stopping the second");
    check_eq!(sched::watchdog(1, 0), Err(Errno::EINVAL), "stopping what is stopped");
    check_eq!(sched::watchdog(99, 5), Err(Errno::EINVAL), "a watchdog that does not exist");
    Ok(())
}

/// A privileged domain caps itself: by the hypervisor's account it then has a processor for so much of the time, although
/// it computes without a pause; and again for all of it once the cap is lifted. Other domains must leave it a processor.
fn cap() -> Outcome {
    if !super::is_privileged() {
        return Err(Stop::Skip("it takes a privileged domain".into()));
    }
    let own = crate::xen::hypervisor().domid.and_then(|id| u16::try_from(id).ok()).ok_or("no domain id")?;
    let own = DomId(own);
    let before = domctl::scheduler_info(own)?;
    for cap in [25, 60] {
        domctl::set_scheduler_info(own, SchedCredit { weight: 0, cap })?;
        check_eq!(domctl::scheduler_info(own), Ok(SchedCredit { cap, ..before }), "the cap as it was set");
        let share = share_of(1_000)?;
        let expected = u64::from(cap) * 10;
        check!(share.abs_diff(expected) <= 100, "with a cap of {cap} it ran {share} per mille");
    }
    domctl::set_scheduler_info(own, SchedCredit { weight: 0, cap: u16::MAX })?;
    check_eq!(domctl::scheduler_info(own)?.cap, 60, "a cap that stays");
    domctl::set_scheduler_info(own, SchedCredit { weight: 0, cap: 0 })?;
    check_eq!(domctl::scheduler_info(own), Ok(SchedCredit { cap: 0, ..before }), "no cap");
    let share = share_of(300)?;
    check!(share > 800, "without a cap it ran {share} per mille");
    Ok(())
}

/// How much of so many milliseconds this vCPU has a processor while it computes, per mille.
fn share_of(ms: u64) -> Result<u64, Stop> {
    let ran = || Ok::<_, Stop>(vcpu::runstate(VcpuId(percpu::id() as u32))?.time[RUNSTATE_RUNNING as usize]);
    let (start, before) = (clock::now(), ran()?);
    clock::spin(ms * MS);
    Ok((ran()? - before) * 1000 / (clock::now() - start))
}

fn errors() -> Outcome {
    let op = |op: u64, address: u64| wrong_call(SCHED_OP, [op, address, 0, 0, 0]);
    check_eq!(op(99, 0), Err(Errno::ENOSYS), "an operation that does not exist");
    check_eq!(op(abi::SHUTDOWN.into(), 0x7000_0000_0000), Err(Errno::EFAULT), "a shutdown without a reason");
    let argument = abi::RemoteShutdown { domain_id: DomId(0x7000), pad: 0, reason: abi::SHUTDOWN_CRASH };
    let address = (&raw const argument).expose_provenance() as u64;
    let remote = op(abi::REMOTE_SHUTDOWN.into(), address);
    check!(matches!(remote, Err(Errno::ESRCH | Errno::EPERM)), "ending a domain that does not exist: {remote:?}");
    Ok(())
}
