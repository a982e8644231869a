//! Placeholder: see the brief.
pub struct VcpuClock;
impl VcpuClock { pub fn new() -> Self { Self } }
