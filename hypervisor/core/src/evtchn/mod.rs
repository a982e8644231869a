//! Placeholder: see the brief.
pub struct VcpuEvents;
impl VcpuEvents { pub fn new() -> Self { Self } }
pub struct DomainEvents;
impl DomainEvents { pub fn new() -> Self { Self } }
pub fn event_channel_op<M: crate::Machine>(_: &mut crate::hypercall::Call<'_, M>) -> crate::hypercall::CallResult { Err(shared_abi::xen::Errno::ENOSYS) }
