//! Two ports of this domain that are connected: a send on `near` makes `far` pending. For benchmarks and tests, which
//! look at the pending bit themselves: both ports are masked.

use crate::events;
use ebb_guest_hypercall::{DomId, Errno, Port, VcpuId, event_channel};

/// The two ports; closed when dropped.
#[derive(Debug)]
pub struct Loop {
    /// The sending end.
    pub near: Port,
    /// The receiving end.
    pub far: Port,
}

impl Loop {
    /// Connects two new ports; both are masked. `far` signals `vcpu`.
    pub fn new(vcpu: usize) -> Result<Self, &'static str> {
        let error = |_: Errno| "a loop of ports cannot be made";
        let far = event_channel::alloc_unbound(DomId::SELF).map_err(error)?;
        let near = event_channel::bind_interdomain(DomId::SELF, far).map_err(error)?;
        for port in [near, far] {
            events::make_room(port)?;
            events::channels().mask(port);
            // Binding makes a port pending.
            events::channels().clear_pending(port);
        }
        event_channel::bind_vcpu(far, VcpuId(vcpu as u32)).map_err(error)?;
        Ok(Self { near, far })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Closing what exists does not fail.
        let _ = event_channel::close(self.near);
        let _ = event_channel::close(self.far);
    }
}
