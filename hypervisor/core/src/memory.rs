//! Memory: what domains have of it ([`DomainMemory`]) and `memory_op`.

mod domain_memory;

pub use domain_memory::DomainMemory;

/// `memory_op`.
pub fn memory_op<M: crate::Machine>(_: &mut crate::hypercall::Call<'_, M>) -> crate::hypercall::CallResult {
    Err(shared_abi::xen::Errno::ENOSYS)
}
