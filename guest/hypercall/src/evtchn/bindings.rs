//! What the kernel wants done for each port: a number of its own choosing, looked up by the upcall without a lock.

use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering};
use shared_abi::xen::Port;

/// Room for ports below `N`.
#[derive(Debug)]
pub struct Bindings<const N: usize> {
    tokens: [AtomicU64; N],
}

impl<const N: usize> Default for Bindings<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Bindings<N> {
    /// No port is bound.
    pub const fn new() -> Self {
        Self { tokens: [const { AtomicU64::new(0) }; N] }
    }

    /// Binds a port to `token`; false when the port has no room or is bound already.
    pub fn bind(&self, port: Port, token: NonZeroU64) -> bool {
        self.tokens
            .get(port.index())
            .is_some_and(|place| place.compare_exchange(0, token.get(), Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// Unbinds a port; what it was bound to.
    pub fn unbind(&self, port: Port) -> Option<NonZeroU64> {
        NonZeroU64::new(self.tokens.get(port.index())?.swap(0, Ordering::AcqRel))
    }

    /// What a port is bound to.
    pub fn lookup(&self, port: Port) -> Option<NonZeroU64> {
        NonZeroU64::new(self.tokens.get(port.index())?.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_binding_a_port() {
        let table = Bindings::<8>::new();
        let (one, two) = (NonZeroU64::new(1).unwrap(), NonZeroU64::new(2).unwrap());
        assert!(table.bind(Port(3), one) && !table.bind(Port(3), two) && !table.bind(Port(8), one));
        assert_eq!(table.lookup(Port(3)), Some(one));
        assert_eq!((table.unbind(Port(3)), table.lookup(Port(3))), (Some(one), None));
        assert!(table.bind(Port(3), two));
    }
}
