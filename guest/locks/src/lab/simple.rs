//! Locks that need nothing but a word or two, and never sleep.

use super::SpinLock;
use crate::platform::Platform;
use crate::sync::{AtomicU32, Ordering};

/// One word: whoever sets it has the lock.
#[derive(Debug)]
pub struct TestAndSet {
    held: AtomicU32,
}

impl TestAndSet {
    /// A free lock of a zero.
    pub const fn with(held: AtomicU32) -> Self {
        Self { held }
    }
}

impl<P: Platform> SpinLock<P> for TestAndSet {
    type Token = ();

    #[inline]
    fn lock(&self, platform: &P) {
        while self.held.swap(1, Ordering::Acquire) != 0 {
            loop {
                platform.relax();
                if self.held.load(Ordering::Relaxed) == 0 {
                    break;
                }
            }
        }
    }

    #[inline]
    fn unlock(&self, _: &P, (): ()) {
        self.held.store(0, Ordering::Release);
    }
}

/// The ticketlock as it was before it knew of virtual machines: head in the low half, tail in the high half.
#[derive(Debug)]
pub struct PlainTicket {
    word: AtomicU32,
}

impl PlainTicket {
    /// A free lock of a zero.
    pub const fn with(word: AtomicU32) -> Self {
        Self { word }
    }
}

impl<P: Platform> SpinLock<P> for PlainTicket {
    type Token = u16;

    #[inline]
    fn lock(&self, platform: &P) -> u16 {
        let before = self.word.fetch_add(1 << 16, Ordering::Acquire);
        let ticket = (before >> 16) as u16;
        let mut head = before as u16;
        while head != ticket {
            platform.relax();
            head = self.word.load(Ordering::Acquire) as u16;
        }
        ticket
    }

    #[inline]
    fn unlock(&self, _: &P, ticket: u16) {
        // The head is the ticket; nothing may carry into the tail.
        let next = u32::from(ticket.wrapping_add(1));
        self.word.fetch_add(next.wrapping_sub(ticket.into()), Ordering::Release);
    }
}

/// How many looks a waiter takes for each place before it, until it may pass.
const PATIENCE: u32 = 128;

/// A ticketlock whose order is a wish: a waiter that has looked longer than its place deserves takes the lock when it is
/// free, so one that does not run holds up nobody for long. After the preemptable ticketlock of Ouyang and Lange (2013).
#[derive(Debug)]
pub struct Preemptable {
    drawn: AtomicU32,
    served: AtomicU32,
    held: AtomicU32,
}

impl Preemptable {
    /// A free lock of three zeros.
    pub const fn with(drawn: AtomicU32, served: AtomicU32, held: AtomicU32) -> Self {
        Self { drawn, served, held }
    }
}

impl<P: Platform> SpinLock<P> for Preemptable {
    type Token = ();

    fn lock(&self, platform: &P) {
        let ticket = self.drawn.fetch_add(1, Ordering::Relaxed);
        let mut looks = 0u32;
        loop {
            // Negative for one that was passed: its turn has come long since.
            let place = ticket.wrapping_sub(self.served.load(Ordering::Relaxed)) as i32;
            let may = place <= 0 || looks / PATIENCE >= place.unsigned_abs();
            if may
                && self.held.load(Ordering::Relaxed) == 0
                && self.held.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            looks = looks.saturating_add(1);
            platform.relax();
        }
    }

    #[inline]
    fn unlock(&self, _: &P, (): ()) {
        self.served.fetch_add(1, Ordering::Relaxed);
        self.held.store(0, Ordering::Release);
    }
}
