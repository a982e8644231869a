//! The unfair hybrid: whoever comes tries to take a free lock a few times, then queues; only the head of the queue waits
//! for the lock itself. A running vCPU takes what a sleeping one cannot use, which is what overcommitted machines want.
//! The wait stays bounded: a head that was woken [`PATIENCE`] times in vain bars the thieves until it has the lock.
//!
//! The word: [`LOCKED`], [`SLEEPER`] (the head sleeps, or is about to), [`BARRED`]. The head sets its bits by an
//! operation on the word that also tells it whether the lock is held, the unlock is one on the same word: one of the two
//! comes first, and either the head sees a free lock or the unlocker sees the sleeper.

use super::SpinLock;
use super::queue::{Queue, QueuePlatform, asleep};
use crate::sync::{AtomicU32, Ordering};

const LOCKED: u32 = 1;
const SLEEPER: u32 = 2;
const BARRED: u32 = 4;

/// Tries before one queues.
const TRIES: u32 = 32;
/// Rounds of the head until it bars thieves.
const PATIENCE: u32 = 4;

/// The lock.
#[derive(Debug)]
pub struct Hybrid {
    word: AtomicU32,
    queue: Queue,
    /// The CPU of the head while [`SLEEPER`] is set.
    sleeper: AtomicU32,
}

impl Hybrid {
    /// A free lock of three zeros.
    pub const fn with(word: AtomicU32, tail: AtomicU32, sleeper: AtomicU32) -> Self {
        Self { word, queue: Queue::with(tail), sleeper }
    }

    /// Takes a free lock; `not` are the bits that forbid it, `clears` those that go with it.
    #[inline]
    fn take(&self, not: u32, clears: u32) -> bool {
        let now = self.word.load(Ordering::Relaxed);
        now & not == 0
            && self.word.compare_exchange(now, now & !clears | LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn queue<P: QueuePlatform>(&self, platform: &P) {
        for _ in 0..TRIES.min(platform.spin_threshold()) {
            if self.take(LOCKED | BARRED, 0) {
                return;
            }
            platform.relax();
        }
        let node = self.queue.enter(platform);
        let mut rounds = 0;
        while !self.spin(platform) {
            rounds += 1;
            let bar = if rounds >= PATIENCE { BARRED } else { 0 };
            if platform.can_block() {
                self.sleep(platform, bar);
            } else if bar != 0 {
                self.word.fetch_or(bar, Ordering::Relaxed);
            }
        }
        self.queue.leave(platform, node);
    }

    /// Looks for a free lock for a while, as the head.
    fn spin<P: QueuePlatform>(&self, platform: &P) -> bool {
        for _ in 0..platform.spin_threshold().max(1) {
            if self.take(LOCKED, BARRED | SLEEPER) {
                return true;
            }
            platform.relax();
        }
        false
    }

    fn sleep<P: QueuePlatform>(&self, platform: &P, bar: u32) {
        asleep(platform, core::ptr::from_ref(self).addr(), || {
            self.sleeper.store(platform.cpu() as u32, Ordering::Relaxed);
            self.word.fetch_or(SLEEPER | bar, Ordering::Release) & LOCKED != 0
        });
    }
}

impl<P: QueuePlatform> SpinLock<P> for Hybrid {
    type Token = ();

    #[inline]
    fn lock(&self, platform: &P) {
        if self.word.compare_exchange(0, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.queue(platform);
        }
    }

    #[inline]
    fn unlock(&self, platform: &P, (): ()) {
        // Acquire: who sleeps was written before the bit.
        let before = self.word.fetch_and(!(LOCKED | SLEEPER), Ordering::AcqRel);
        if before & SLEEPER != 0 {
            platform.kick(self.sleeper.load(Ordering::Relaxed) as usize);
        }
    }
}
