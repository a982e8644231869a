//! The lock order of the hypervisor, in one place, and the lock types that assert it.
//!
//! A CPU may take a lock only while it holds none of the same or a higher rank. Debug builds (and host tests) check
//! this at every acquisition, so an order that could deadlock stops the machine the first time it is tried, not the
//! first time it meets its counterpart. Interrupts are off in the hypervisor, so a handler never takes a lock.
//!
//! Order, outermost first: see the constants of [`rank`].

use core::ops::{Deref, DerefMut};
use core::sync::atomic::AtomicU64;
#[cfg(not(test))]
use core::sync::atomic::Ordering;

/// Ranks, outermost first: a lock of a lower number is taken before one of a higher number.
pub mod rank {
    /// The table of domains, for creating and removing one.
    pub const DOMAIN_TABLE: u8 = 4;
    /// One domain's life: building, shutdown, teardown.
    pub const LIFECYCLE: u8 = 8;
    /// One domain's grant table.
    pub const GRANT: u8 = 12;
    /// One domain's memory operations as a whole (serialises reservations against the maximum).
    pub const RESERVATION: u8 = 16;
    /// One domain's physical-to-machine table, for reading (guest copies) or writing.
    pub const P2M: u8 = 20;
    /// Event channels: one domain's port table, for changing bindings. Two domains': lower id first.
    pub const EVENT: u8 = 28;
    /// The second domain's port table of an inter-domain binding.
    pub const EVENT_SECOND: u8 = 29;
    /// One FIFO event queue.
    pub const EVENT_QUEUE: u8 = 32;
    /// A second FIFO event queue, when an event moves from one to another; both in order of vCPU and priority.
    pub const EVENT_QUEUE_SECOND: u8 = 33;
    /// One vCPU's local APIC.
    pub const LAPIC: u8 = 36;
    /// One vCPU's scheduling state.
    pub const VCPU: u8 = 40;
    /// One CPU's run queue.
    pub const RUN_QUEUE: u8 = 44;
    /// A second CPU's run queue (load balancing), by try_lock only.
    pub const RUN_QUEUE_SECOND: u8 = 45;
    /// One vCPU's runstate times.
    pub const RUNSTATE: u8 = 46;
    /// One domain's run time under its cap.
    pub const BUDGET: u8 = 47;
    /// One CPU's timer queue.
    pub const TIMER: u8 = 48;
    /// What the trace buffers are to hold.
    pub const TRACE: u8 = 52;
    /// The frame heap.
    pub const HEAP: u8 = 56;
    /// Console and trace output.
    pub const OUTPUT: u8 = 60;
}

/// Where this CPU's set of held ranks lives: bit `r` is set while a lock of rank `r` is held. Set once at boot by the
/// machine, before it makes the hypervisor. Only builds with debug assertions look (the profile `checked` has them).
pub static HELD_RANKS: spin::Once<fn() -> &'static AtomicU64> = spin::Once::new();

#[cfg(test)]
std::thread_local! {
    static TEST_HELD: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

fn acquire(rank: u8) {
    if cfg!(debug_assertions) {
        #[cfg(test)]
        TEST_HELD.with(|held| {
            check(held.get(), rank);
            held.set(held.get() | 1 << rank);
        });
        #[cfg(not(test))]
        if let Some(slot) = HELD_RANKS.get() {
            let held = slot();
            check(held.load(Ordering::Relaxed), rank);
            held.fetch_or(1 << rank, Ordering::Relaxed);
        }
    }
}

fn check(held: u64, rank: u8) {
    assert!(held >> rank == 0, "lock order: rank {rank} wanted while holding {held:#x}");
}

fn release(rank: u8) {
    if cfg!(debug_assertions) {
        #[cfg(test)]
        TEST_HELD.with(|held| held.set(held.get() & !(1 << rank)));
        #[cfg(not(test))]
        if let Some(slot) = HELD_RANKS.get() {
            slot().fetch_and(!(1 << rank), Ordering::Relaxed);
        }
    }
}

/// A spin lock with a place in the lock order.
#[derive(Debug, Default)]
pub struct Mutex<T, const RANK: u8> {
    inner: spin::Mutex<T>,
}

/// Access to what a [`Mutex`] protects.
pub struct MutexGuard<'a, T, const RANK: u8> {
    inner: spin::MutexGuard<'a, T>,
}

impl<T, const RANK: u8> Mutex<T, RANK> {
    /// A new, unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { inner: spin::Mutex::new(value) }
    }

    /// Spins until the lock is free.
    pub fn lock(&self) -> MutexGuard<'_, T, RANK> {
        acquire(RANK);
        MutexGuard { inner: self.inner.lock() }
    }

    /// Spins until the lock is free, taking it with rank `AS` instead of its own: for the second of two locks of one
    /// kind. The caller must always take the two in the same order, which ranks cannot check.
    pub fn lock_as<const AS: u8>(&self) -> MutexGuard<'_, T, AS> {
        acquire(AS);
        MutexGuard { inner: self.inner.lock() }
    }

    /// Takes the lock if it is free now.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T, RANK>> {
        let inner = self.inner.try_lock()?;
        acquire(RANK);
        Some(MutexGuard { inner })
    }

    /// The value, without locking: the exclusive borrow proves that nobody else looks.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T, const RANK: u8> Deref for MutexGuard<'_, T, RANK> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T, const RANK: u8> DerefMut for MutexGuard<'_, T, RANK> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T, const RANK: u8> Drop for MutexGuard<'_, T, RANK> {
    fn drop(&mut self) {
        release(RANK);
    }
}

/// A readers-writer spin lock with a place in the lock order.
#[derive(Debug, Default)]
pub struct RwLock<T, const RANK: u8> {
    inner: spin::RwLock<T>,
}

/// Shared access to what an [`RwLock`] protects.
pub struct ReadGuard<'a, T, const RANK: u8> {
    inner: spin::RwLockReadGuard<'a, T>,
}

/// Exclusive access to what an [`RwLock`] protects.
pub struct WriteGuard<'a, T, const RANK: u8> {
    inner: spin::RwLockWriteGuard<'a, T>,
}

impl<T, const RANK: u8> RwLock<T, RANK> {
    /// A new, unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { inner: spin::RwLock::new(value) }
    }

    /// Spins until no writer holds the lock.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T, RANK> {
        acquire(RANK);
        ReadGuard { inner: self.inner.read() }
    }

    /// Spins until nobody holds the lock.
    pub fn write(&self) -> WriteGuard<'_, T, RANK> {
        acquire(RANK);
        WriteGuard { inner: self.inner.write() }
    }
}

impl<T, const RANK: u8> Deref for ReadGuard<'_, T, RANK> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T, const RANK: u8> Drop for ReadGuard<'_, T, RANK> {
    fn drop(&mut self) {
        release(RANK);
    }
}

impl<T, const RANK: u8> Deref for WriteGuard<'_, T, RANK> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T, const RANK: u8> DerefMut for WriteGuard<'_, T, RANK> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T, const RANK: u8> Drop for WriteGuard<'_, T, RANK> {
    fn drop(&mut self) {
        release(RANK);
    }
}
