//! Placeholder: see the brief.
pub fn multicall<M: crate::Machine>(_: &mut crate::hypercall::Call<'_, M>) -> crate::hypercall::CallResult { Err(shared_abi::xen::Errno::ENOSYS) }
