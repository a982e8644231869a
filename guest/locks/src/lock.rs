//! A [`RawTicketLock`] with the data it protects.
#![allow(unsafe_code)] // The data is reached through a shared reference while the lock is held.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::lab::{Hybrid, Node, PlainTicket, Preemptable, Queued, SpinLock, TestAndSet};
use crate::platform::Platform;
use crate::sync::AtomicU32;
use crate::ticket::{RawTicketLock, Ticket};
use crate::word::Word;

/// Data behind a ticketlock. Interrupts are the caller's business, as with any spinlock: whoever takes the lock in a
/// handler takes it with interrupts off elsewhere.
#[derive(Debug)]
pub struct TicketLock<T, W: Word, P: Platform> {
    raw: RawTicketLock<W>,
    platform: P,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives out one guard at a time, so sending it, or sharing it, is sending the data from one thread to
// another; the word and the platform are shared as they are.
unsafe impl<T: Send, W: Word + Sync, P: Platform + Sync> Sync for TicketLock<T, W, P> {}

impl<T, W: Word, P: Platform> TicketLock<T, W, P> {
    /// An unlocked lock in `word`, which must be zero.
    pub const fn new(value: T, word: W, platform: P) -> Self {
        Self { raw: RawTicketLock::new(word), platform, value: UnsafeCell::new(value) }
    }

    /// Waits for its turn.
    #[inline]
    pub fn lock(&self) -> TicketGuard<'_, T, W, P> {
        let ticket = self.raw.lock(&self.platform);
        TicketGuard { lock: self, ticket, data: PhantomData }
    }

    /// Takes the lock if it is free now.
    #[inline]
    pub fn try_lock(&self) -> Option<TicketGuard<'_, T, W, P>> {
        let ticket = self.raw.try_lock()?;
        Some(TicketGuard { lock: self, ticket, data: PhantomData })
    }

    /// Whether somebody has the lock, at some instant.
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    /// The data of a lock that nobody else can have.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// The lock, held.
#[derive(Debug)]
#[must_use = "the lock is let go at once"]
pub struct TicketGuard<'a, T, W: Word, P: Platform> {
    lock: &'a TicketLock<T, W, P>,
    ticket: Ticket,
    /// Sharing the guard is sharing the data, which the lock alone does not ask for.
    data: PhantomData<&'a mut T>,
}

impl<T, W: Word, P: Platform> Deref for TicketGuard<'_, T, W, P> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock, so nobody else has the data, and the reference cannot outlive the guard.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, W: Word, P: Platform> DerefMut for TicketGuard<'_, T, W, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, W: Word, P: Platform> Drop for TicketGuard<'_, T, W, P> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.unlock(&self.lock.platform, self.ticket.copy());
    }
}

impl<W: Word, P: Platform> SpinLock<P> for RawTicketLock<W> {
    type Token = Ticket;

    #[inline]
    fn lock(&self, platform: &P) -> Ticket {
        self.lock(platform)
    }

    #[inline]
    fn unlock(&self, platform: &P, ticket: Ticket) {
        self.unlock(platform, ticket);
    }
}

/// Constructors over the processor's own atomics.
macro_rules! free {
    ($($lock:ident($($word:ident),*);)*) => {
        $(
            impl $lock {
                /// A free one.
                #[allow(clippy::new_without_default)]
                pub const fn new() -> Self {
                    Self::with($({
                        let $word = AtomicU32::new(0);
                        $word
                    }),*)
                }
            }
        )*
    };
}

free! {
    TestAndSet(held);
    PlainTicket(word);
    Preemptable(drawn, served, held);
    Queued(tail);
    Hybrid(word, tail, sleeper);
    Node(next, state, used);
}
