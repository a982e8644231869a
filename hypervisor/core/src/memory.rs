//! Placeholder: see the brief.
pub fn memory_op<M: crate::Machine>(_: &mut crate::hypercall::Call<'_, M>) -> crate::hypercall::CallResult { Err(shared_abi::xen::Errno::ENOSYS) }
pub struct DomainMemory<M>(core::marker::PhantomData<M>);
