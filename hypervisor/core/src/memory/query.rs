//! The memory operations that only ask, and claims.

use shared_abi::memory as op;
use shared_abi::memory::{E820Entry, MemoryDomain, MemoryMap, MemoryReservation};
use shared_abi::xen::Errno;

use crate::heap::Shortage;
use crate::hypercall::{Call, CallResult, Next};
use crate::machine::Machine;

/// current_reservation, maximum_reservation, maximum_gpfn.
///
/// # Errors
/// `EFAULT`, `ESRCH`, `EPERM`.
pub(super) fn figure<M: Machine>(call: &Call<'_, M>, operation: u32) -> CallResult {
    let MemoryDomain { domid } = call.read_guest(call.args[1])?;
    let domain = call.memory_target(domid)?;
    let value = match operation {
        op::CURRENT_RESERVATION => domain.memory.current(),
        op::MAXIMUM_RESERVATION => domain.memory.maximum(),
        _ => domain.memory.gfn_end(&call.hv.machine).saturating_sub(1),
    };
    Ok(Next::Return(value as i64))
}

/// memory_map: the caller's own, as it was built.
///
/// # Errors
/// `EFAULT`; `ENOSYS` when the domain has none.
pub(super) fn memory_map<M: Machine>(call: &Call<'_, M>) -> CallResult {
    let map: MemoryMap = call.memory_argument()?;
    let entries = call.current.domain().memory.e820.get().filter(|entries| !entries.is_empty());
    let entries = entries.ok_or(Errno::ENOSYS)?;
    let count = entries.len().min(map.nr_entries as usize);
    write_map(call, &map, &entries[..count])?;
    Ok(Next::Return(0))
}

/// machine_memory_map: the machine's, for a privileged domain. A null buffer asks for the number of entries.
///
/// # Errors
/// `EPERM`, `EFAULT`; `EINVAL` when there is not room for one entry more than there are, as in Xen.
pub(super) fn machine_memory_map<M: Machine>(call: &Call<'_, M>) -> CallResult {
    if !call.current.domain().is_privileged() {
        return Err(Errno::EPERM);
    }
    let map: MemoryMap = call.memory_argument()?;
    let entries = call.hv.machine.memory_map();
    if map.buffer.is_null() {
        call.write_guest(call.args[1], &(entries.len() as u32))?;
        return Ok(Next::Return(0));
    }
    if (map.nr_entries as usize) <= entries.len() {
        return Err(Errno::EINVAL);
    }
    write_map(call, &map, entries)?;
    Ok(Next::Return(0))
}

/// Writes entries, and their number into the first field of the structure.
fn write_map<M: Machine>(call: &Call<'_, M>, map: &MemoryMap, entries: &[E820Entry]) -> Result<(), Errno> {
    call.write_elements(map.buffer, 0, entries)?;
    call.write_guest(call.args[1], &(entries.len() as u32))
}

/// claim_pages: promises a domain memory, 0 withdraws.
///
/// # Errors
/// `EPERM` for an unprivileged caller; `EINVAL` for a domain that is not there, has a claim, holds more than that or
/// may not hold so much; `ENOMEM`.
pub(super) fn claim<M: Machine>(call: &Call<'_, M>) -> CallResult {
    let reservation: MemoryReservation = call.memory_argument()?;
    if !reservation.extent_start.is_null() || reservation.extent_order != 0 || reservation.mem_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let domain = call.hv.find_domain(reservation.domid).ok_or(Errno::EINVAL)?;
    if !call.current.domain().is_privileged() {
        return Err(Errno::EPERM);
    }
    if domain.memory.is_closed() || (reservation.nr_extents != 0 && call.hv.heap.claimed_by(domain.id) != 0) {
        return Err(Errno::EINVAL);
    }
    loop {
        match call.hv.heap.claim(domain.id, reservation.nr_extents) {
            Ok(()) => return Ok(Next::Return(0)),
            Err(Shortage::Maximum) => return Err(Errno::EINVAL),
            Err(Shortage::Memory)
                if !call.hv.take_back_for_claim(reservation.nr_extents.saturating_sub(domain.memory.current())) =>
            {
                return Err(Errno::ENOMEM);
            }
            Err(Shortage::Memory) if call.should_preempt() => return Ok(Next::Again(call.args)),
            Err(Shortage::Memory) => {}
        }
    }
}
