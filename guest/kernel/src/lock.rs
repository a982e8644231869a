//! A spin lock that switches interrupts off while it is held, for data that interrupt handlers share.
//!
//! It is the PV ticketlock of `ebb_locks`: a vCPU that has waited in vain sleeps, and is kicked when its turn has come.
//! With the argument `nopvspin`, and until a vCPU has its port, it is the plain ticketlock.
#![allow(unsafe_code)] // `UnsafeCell` behind a lock.

use crate::cpu;
use crate::percpu::MAX_CPUS;
use crate::pv::Pv;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use ebb_locks::{RawTicketLock, Small};

// Each vCPU waits for a lock once at most, and small tickets serve 128.
const _: () = assert!(MAX_CPUS <= 128);

/// A value that one vCPU at a time works on, with interrupts off.
#[derive(Debug)]
pub struct IrqLock<T> {
    raw: RawTicketLock<Small>,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives the value to one vCPU at a time.
unsafe impl<T: Send> Sync for IrqLock<T> {}

/// Access to the value; releases the lock and restores the interrupt flag when dropped.
#[derive(Debug)]
pub struct Guard<'a, T> {
    lock: &'a IrqLock<T>,
    interrupts: bool,
}

impl<T> IrqLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { raw: RawTicketLock::new(Small::new(0)), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        let interrupts = cpu::interrupts_off();
        // The guard takes the ticket from the lock: it may be dropped by another context than the one that drew it.
        let _ = self.raw.lock(&Pv);
        Guard { lock: self, interrupts }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let interrupts = cpu::interrupts_off();
        if self.raw.try_lock().is_some() {
            return Some(Guard { lock: self, interrupts });
        }
        if interrupts {
            cpu::interrupts_on();
        }
        None
    }

    /// Releases the lock without a guard; interrupts stay off.
    ///
    /// # Safety
    /// The calling vCPU holds the lock, and the guard that took it belongs to a context that will not run before it
    /// holds the lock again (a thread that was switched away from).
    pub unsafe fn force_unlock(&self) {
        self.unlock();
    }

    fn unlock(&self) {
        self.raw.unlock(&Pv, self.raw.holders_ticket());
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so this vCPU holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is exclusively borrowed.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.unlock();
        if self.interrupts {
            cpu::interrupts_on();
        }
    }
}
