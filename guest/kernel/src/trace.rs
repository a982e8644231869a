//! Reports to the host tool: guest events through Xen's own `HVMOP_xentrace`.

use ebb_guest_hypercall::hvm;
use shared_abi::guest_event::GuestEvent;

/// Puts an event into the hypervisor's trace. A hypervisor without one is no error for the guest.
pub fn event(number: u16, bytes: &[u8]) {
    let _ = hvm::xentrace(number, bytes);
}

/// Reports a typed event.
pub fn report<E: GuestEvent>(payload: &E) {
    event(E::EVENT, payload.as_bytes());
}
