//! A vCPU's hardware state, and the proof that one CPU at a time uses it.
//!
//! The state sits inside the core's `Vcpu`, which every CPU can reach. [`VcpuCell::claim`] takes it for one CPU by an
//! atomic exchange and gives exclusive access until the claim is dropped. The scheduler never lets a vCPU run on two
//! CPUs, so a claim that fails is a bug of ours and stops the machine.
#![allow(unsafe_code)] // Interior access behind an atomic claim, as argued at each block.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

/// Exclusive-by-claim storage.
pub struct VcpuCell<T> {
    claimed: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a `Claim`, and at most one exists at a time (the exchange in `claim`), so
// sharing the cell shares no access to the value; `T: Send` allows the claim to be taken by different CPUs in turn.
unsafe impl<T: Send> Sync for VcpuCell<T> {}

/// Exclusive access to the value of a [`VcpuCell`].
pub struct Claim<'a, T> {
    cell: &'a VcpuCell<T>,
}

impl<T> VcpuCell<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self { claimed: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the value.
    ///
    /// # Panics
    /// When somebody holds it: the scheduler gave one vCPU to two CPUs.
    pub fn claim(&self) -> Claim<'_, T> {
        assert!(!self.claimed.swap(true, Ordering::Acquire), "a vCPU is claimed by two CPUs");
        Claim { cell: self }
    }
}

impl<T> Deref for Claim<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this claim is the only one (see `claim`), and the borrow is bounded by it.
        unsafe { &*self.cell.value.get() }
    }
}

impl<T> DerefMut for Claim<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this claim is the only one, and it is borrowed exclusively.
        unsafe { &mut *self.cell.value.get() }
    }
}

impl<T> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        self.cell.claimed.store(false, Ordering::Release);
    }
}
