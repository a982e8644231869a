//! Placeholder: see the brief.
pub struct VcpuTimers;
impl VcpuTimers { pub fn new() -> Self { Self } }
pub fn set_timer_op<M: crate::Machine>(_: &mut crate::hypercall::Call<'_, M>) -> crate::hypercall::CallResult { Err(shared_abi::xen::Errno::ENOSYS) }
pub struct CpuTimers<M>(core::marker::PhantomData<M>);
impl<M: crate::Machine> CpuTimers<M> { pub fn new() -> Self { Self(core::marker::PhantomData) } }
