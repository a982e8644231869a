//! The word a ticketlock lives in: two tickets side by side, and the few atomic operations on them.

use core::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

/// An atomic word of two tickets of [`Word::TICKET_BITS`] bits each. Values travel as `u32`, the unused upper bits zero.
pub trait Word {
    /// Bits of one ticket: half of the word.
    const TICKET_BITS: u32;

    /// A word of zero.
    fn zero() -> Self;
    /// The value.
    fn load(&self, order: Ordering) -> u32;
    /// Adds, wrapping at the word's width, and returns what was there.
    fn fetch_add(&self, value: u32, order: Ordering) -> u32;
    /// Sets bits and returns what was there.
    fn fetch_or(&self, bits: u32, order: Ordering) -> u32;
    /// Replaces `from` by `to`, or does nothing; whether it did.
    fn replace(&self, from: u32, to: u32, order: Ordering) -> bool;
    /// A fence: what was released to the operations before it is visible after it.
    fn fence_acquire();
}

/// Two tickets of 8 bits: up to 128 CPUs.
pub type Small = AtomicU16;
/// Two tickets of 16 bits: up to 32768 CPUs.
pub type Large = AtomicU32;

macro_rules! word {
    ($atomic:ty, $value:ty, $bits:literal) => {
        impl Word for $atomic {
            const TICKET_BITS: u32 = $bits;

            fn zero() -> Self {
                Self::new(0)
            }

            #[inline(always)]
            fn load(&self, order: Ordering) -> u32 {
                u32::from(self.load(order))
            }

            #[inline(always)]
            fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
                u32::from(self.fetch_add(value as $value, order))
            }

            #[inline(always)]
            fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
                u32::from(self.fetch_or(bits as $value, order))
            }

            #[inline(always)]
            fn replace(&self, from: u32, to: u32, order: Ordering) -> bool {
                self.compare_exchange(from as $value, to as $value, order, Ordering::Relaxed).is_ok()
            }

            #[inline(always)]
            fn fence_acquire() {
                fence(Ordering::Acquire);
            }
        }
    };
}

word!(AtomicU16, u16, 8);
word!(AtomicU32, u32, 16);
