//! Placeholder: see the brief.
pub fn xen_version<M: crate::Machine>(_: &mut crate::hypercall::Call<'_, M>) -> crate::hypercall::CallResult { Err(shared_abi::xen::Errno::ENOSYS) }
