//! `sched_op`: yield, block, shutdown, poll, watchdogs.
//!
//! Specification: Xen's `public/sched.h` and what Xen 4.17 answers.

use alloc::sync::Arc;

use shared_abi::sched as abi;
use shared_abi::trace::SCHED_SHUTDOWN;
use shared_abi::xen::{Errno, GuestHandle, Port};

use super::sleep;
use crate::domain::Domain;
use crate::hypercall::{Call, CallResult, Next, Width};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::{evtchn, lifecycle, timer};

/// Runs `sched_op(cmd, arg)`.
///
/// # Errors
/// `ENOSYS` for an unknown operation, `EFAULT` for an argument the guest does not map, and what each operation says.
pub fn sched_op<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let argument = call.args[1];
    match call.args[0] as u32 {
        abi::YIELD => {
            sleep::yield_cpu(call.hv, call.current);
            Ok(Next::Return(0))
        }
        abi::BLOCK => {
            // Xen also clears `evtchn_upcall_mask` here; nothing reads that byte for guests like ours.
            sleep::block(call.hv, call.current);
            Ok(Next::Return(0))
        }
        abi::SHUTDOWN => {
            let shutdown: abi::Shutdown = call.read_guest(argument)?;
            let (domid, vcpu) = (u32::from(call.current.domain().id.0), call.current.id.0);
            call.hv.record(SCHED_SHUTDOWN, &[domid, vcpu, shutdown.reason]);
            lifecycle::shutdown(call.hv, call.current.domain(), shutdown.reason & 0xff);
            Ok(Next::Return(0))
        }
        abi::POLL => poll(call, argument),
        abi::REMOTE_SHUTDOWN => {
            let remote: abi::RemoteShutdown = call.read_guest(argument)?;
            let caller = call.current.domain();
            let domain = call.hv.find_domain(remote.domain_id).ok_or(Errno::ESRCH)?;
            if !caller.is_privileged() {
                return Err(Errno::EPERM);
            }
            lifecycle::shutdown(call.hv, &domain, remote.reason & 0xff);
            Ok(Next::Return(0))
        }
        abi::SHUTDOWN_CODE => {
            let shutdown: abi::Shutdown = call.read_guest(argument)?;
            call.current.domain().sched.shutdown_reason(shutdown.reason & 0xff);
            Ok(Next::Return(0))
        }
        abi::WATCHDOG => {
            let watchdog: abi::Watchdog = call.read_guest(argument)?;
            set_watchdog(call.hv, call.current.domain(), watchdog).map(|id| Next::Return(i64::from(id)))
        }
        abi::PIN_OVERRIDE if !call.current.domain().is_privileged() => Err(Errno::EPERM),
        _ => Err(Errno::ENOSYS),
    }
}

/// `SCHEDOP_poll`. All ports are copied in and checked before anything is done; the call then answers 0, whatever ends
/// the sleep.
fn poll<M: Machine>(call: &mut Call<'_, M>, argument: u64) -> CallResult {
    let request = read_poll(call, argument)?;
    if request.nr_ports > abi::POLL_MAX_PORTS {
        return Err(Errno::EINVAL);
    }
    let (one, mut many): (Port, [Port; abi::POLL_MAX_PORTS as usize]);
    // The waiter of a lock has one port, and is in a hurry.
    let ports = if request.nr_ports == 1 {
        one = call.read_guest(request.ports.address())?;
        core::slice::from_ref(&one)
    } else {
        many = [Port(0); _];
        let ports = &mut many[..request.nr_ports as usize];
        call.read_guest_slice(request.ports.address(), ports)?;
        ports
    };
    let domain = call.current.domain();
    if !ports.iter().all(|port| evtchn::port_is_valid(domain, *port)) {
        return Err(Errno::EINVAL);
    }
    let only = if let [port] = ports { Some(*port) } else { None };
    let hv = call.hv;
    sleep::poll(hv, call.current, only, request.timeout, call.paging.interrupts, || {
        ports.iter().any(|port| evtchn::port_pending(hv, domain, *port))
    });
    Ok(Next::Return(0))
}

/// Reads `struct sched_poll` in the layout of the caller's width.
fn read_poll<M: Machine>(call: &mut Call<'_, M>, argument: u64) -> Result<abi::Poll, Errno> {
    match call.width {
        Width::Bits64 => call.read_guest(argument),
        Width::Bits32 => {
            let [ports, nr_ports, low, high]: [u32; 4] = call.read_guest(argument)?;
            let timeout = u64::from(high) << 32 | u64::from(low);
            Ok(abi::Poll { ports: GuestHandle::new(u64::from(ports)), nr_ports, pad: 0, timeout })
        }
    }
}

/// `SCHEDOP_watchdog`: with id 0 starts a free one and answers its id (from 1), else restarts or stops that one.
fn set_watchdog<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, request: abi::Watchdog) -> Result<u32, Errno> {
    if request.id > abi::WATCHDOG_COUNT {
        return Err(Errno::EINVAL);
    }
    let mut in_use = domain.sched.watchdogs.lock();
    let (index, answer, stops) = if request.id == 0 {
        let free = in_use.iter().position(|used| !used).ok_or(Errno::ENOSPC)?;
        (free, free as u32 + 1, false)
    } else {
        let index = request.id as usize - 1;
        if !in_use[index] {
            return Err(Errno::EINVAL);
        }
        (index, 0, request.timeout == 0)
    };
    in_use[index] = !stops;
    let deadline = (!stops).then(|| hv.machine.now() + u64::from(request.timeout) * 1_000_000_000);
    timer::set_watchdog(hv, domain, index, deadline);
    Ok(answer)
}
