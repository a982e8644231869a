//! Memory: what domains have of it ([`DomainMemory`]) and `memory_op`.
//!
//! Semantics and errors are those of Xen 4.17 for a translated (HVM) domain. Lists are worked through in chunks: the
//! list is read with no lock held, a chunk is applied under the target's p2m lock, what came out is flushed once and
//! freed, and between chunks the call gives way if something waits (the place travels in the command's upper bits).
//!
//! Where Ebb is stricter than Xen: memory that `populate_physmap` or `add_to_physmap` finds at its destination is given
//! back to the host, so that no frame of a domain's is out of its reach; and nothing is ever populated on demand.

mod args;
mod audit;
mod domain_memory;
mod exchange;
mod physmap;
mod query;
mod reservation;

use alloc::sync::Arc;

use shared_abi::memory as op;
use shared_abi::xen::{DomId, Errno};

use crate::domain::Domain;
use crate::hypercall::{Call, CallResult, Next};
use crate::machine::Machine;
pub use domain_memory::DomainMemory;

/// Largest order of an extent for an ordinary domain.
const DOMAIN_MAX_ORDER: u32 = 9;
/// Largest order for a privileged domain.
const PRIVILEGED_MAX_ORDER: u32 = 18;

/// `memory_op(cmd, arg)`.
///
/// # Errors
/// As the operations say; `ENOSYS` for one that is not offered.
pub fn memory_op<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let command = call.args[0];
    let (operation, start) = op::split_command(command);
    match operation {
        op::INCREASE_RESERVATION | op::DECREASE_RESERVATION | op::POPULATE_PHYSMAP => {
            Ok(reservation::adjust(call, operation, start))
        }
        op::ADD_TO_PHYSMAP => physmap::add(call, start),
        op::ADD_TO_PHYSMAP_BATCH => physmap::add_batch(call, start),
        op::ACQUIRE_RESOURCE => physmap::acquire_resource(call, start),
        op::MEMORY_MAP => query::memory_map(call),
        op::MACHINE_MEMORY_MAP => query::machine_memory_map(call),
        _ if start != 0 && is_single(operation) => Err(Errno::EINVAL),
        op::EXCHANGE => exchange::exchange(call),
        op::MAXIMUM_RAM_PAGE => Ok(Next::Return(call.hv.heap.frame_count() as i64)),
        op::CURRENT_RESERVATION | op::MAXIMUM_RESERVATION | op::MAXIMUM_GPFN => query::figure(call, operation),
        op::REMOVE_FROM_PHYSMAP => physmap::remove(call),
        op::CLAIM_PAGES => query::claim(call),
        _ => Err(Errno::ENOSYS),
    }
}

/// Operations that have no continuation by start extent, and refuse one.
fn is_single(operation: u32) -> bool {
    matches!(
        operation,
        op::EXCHANGE
            | op::MAXIMUM_RAM_PAGE
            | op::CURRENT_RESERVATION
            | op::MAXIMUM_RESERVATION
            | op::MAXIMUM_GPFN
            | op::REMOVE_FROM_PHYSMAP
            | op::CLAIM_PAGES
    )
}

impl<M: Machine> Call<'_, M> {
    /// The domain a memory operation is about.
    fn memory_target(&self, id: DomId) -> Result<Arc<Domain<M>>, Errno> {
        self.hv.target_domain(self.current.domain(), id)
    }

    fn memory_max_order(&self) -> u32 {
        if self.current.domain().is_privileged() { PRIVILEGED_MAX_ORDER } else { DOMAIN_MAX_ORDER }
    }

    /// Calls the operation again, from extent `start` on.
    fn continue_memory_op(&self, operation: u32, start: u64) -> Next {
        let mut args = self.args;
        args[0] = op::continue_command(operation, start);
        Next::Again(args)
    }
}
