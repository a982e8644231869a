//! Placeholder: see the brief.
pub struct HvmParameters;
impl HvmParameters { pub fn new() -> Self { Self } }
pub fn hvm_op<M: crate::Machine>(_: &mut crate::hypercall::Call<'_, M>) -> crate::hypercall::CallResult { Err(shared_abi::xen::Errno::ENOSYS) }
