//! Placeholder: see the brief.
pub struct VcpuSched;
impl VcpuSched { pub fn new() -> Self { Self } }
pub fn sched_op<M: crate::Machine>(_: &mut crate::hypercall::Call<'_, M>) -> crate::hypercall::CallResult { Err(shared_abi::xen::Errno::ENOSYS) }
pub struct CpuSched<M>(core::marker::PhantomData<M>);
impl<M: crate::Machine> CpuSched<M> { pub fn new(_: crate::machine::CpuId) -> Self { Self(core::marker::PhantomData) } }
pub struct SchedConfig;
