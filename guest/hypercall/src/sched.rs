//! `sched_op`.
#![allow(unsafe_code)] // Commands without a structure, and a list of ports.

use crate::call::{call, command};
use shared_abi::hypercall::SCHED_OP;
use shared_abi::sched as abi;
use shared_abi::xen::{DomId, Errno, GuestHandle, Port};

/// Lets another vCPU run.
pub fn yield_now() -> Result<(), Errno> {
    // SAFETY: no argument, no effect on memory.
    unsafe { call(SCHED_OP, [u64::from(abi::YIELD), 0, 0, 0, 0]) }.map(drop)
}

/// Sleeps until an event can be delivered. Returns at once when one is pending and interrupts are on.
pub fn block() -> Result<(), Errno> {
    // SAFETY: as above.
    unsafe { call(SCHED_OP, [u64::from(abi::BLOCK), 0, 0, 0, 0]) }.map(drop)
}

/// Sleeps until one of `ports` is pending, `timeout` (system time in ns, 0 for never) has come, or an event can be
/// delivered.
pub fn poll(ports: &[Port], timeout: u64) -> Result<(), Errno> {
    let mut argument = abi::Poll {
        ports: GuestHandle::new(ports.as_ptr().expose_provenance() as u64),
        nr_ports: ports.len() as u32,
        pad: 0,
        timeout,
    };
    // The call reads the list, nothing else.
    command(SCHED_OP, u64::from(abi::POLL), &mut argument).map(drop)
}

/// Ends the domain for `reason` (`SHUTDOWN_*`). Returns only if the hypervisor refuses.
pub fn shutdown(reason: u32) -> Result<(), Errno> {
    command(SCHED_OP, u64::from(abi::SHUTDOWN), &mut abi::Shutdown { reason }).map(drop)
}

/// Ends another domain for `reason`. Privileged.
pub fn remote_shutdown(domain: DomId, reason: u32) -> Result<(), Errno> {
    let mut argument = abi::RemoteShutdown { domain_id: domain, pad: 0, reason };
    command(SCHED_OP, u64::from(abi::REMOTE_SHUTDOWN), &mut argument).map(drop)
}

/// Sets (`id` 0: a new one, whose number is returned), restarts or stops (`timeout` 0) a watchdog; seconds.
pub fn watchdog(id: u32, timeout: u32) -> Result<u32, Errno> {
    let mut argument = abi::Watchdog { id, timeout };
    let result = command(SCHED_OP, u64::from(abi::WATCHDOG), &mut argument)?;
    // Xen's error for "no more of them" loses its upper half on the way: the lower half tells.
    Errno::from_return(i64::from(result as i32)).map(|id| id as u32)
}
