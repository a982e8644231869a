//! What a lock that sleeps needs of the kernel around it.

use core::sync::atomic::{AtomicU64, Ordering};

/// A turn somebody waits for: a lock and a ticket. The lock's address without its upper 16 bits, which are the same for
/// all of a kernel's addresses, and the ticket in their place; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitKey(u64);

impl WaitKey {
    /// The turn of `ticket` (16 bits) at the lock at `address`.
    pub fn new(address: usize, ticket: u32) -> Self {
        debug_assert!(ticket <= 0xffff);
        Self((address as u64) << 16 | u64::from(ticket))
    }

    /// As a word, for a table of atomics.
    pub fn to_word(self) -> u64 {
        self.0
    }

    /// Out of such a word; 0 is no key.
    pub fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self(word))
    }
}

/// The kernel around a lock. A lock is given one, usually of no size, and calls it only when it has spun in vain.
pub trait Platform {
    /// What [`Platform::interrupts_off`] remembers.
    type Interrupts;

    /// How often a waiter looks at the lock before it sleeps.
    fn spin_threshold(&self) -> u32;
    /// How many looks a sleeper has to get up once it is its turn, before others give up spinning behind it: more than
    /// a kick takes when there is a free CPU.
    fn patience(&self) -> u32 {
        256
    }
    /// A pause in a spin loop.
    fn relax(&self);
    /// Whether this CPU may sleep while it waits: the kernel runs on a hypervisor that can, it was not told otherwise,
    /// and the CPU has a kick to wait for. While false the lock is the plain ticketlock.
    fn can_block(&self) -> bool;
    /// Turns this CPU's interrupts off and says how they were.
    fn interrupts_off(&self) -> Self::Interrupts;
    /// Undoes [`Platform::interrupts_off`].
    fn interrupts_restore(&self, before: Self::Interrupts);

    /// Says what this CPU waits for from now on, and returns what it said before. Called with interrupts off. Ordered
    /// before the lock's next write to its word by that write's release, so a relaxed store does.
    fn publish(&self, key: Option<WaitKey>) -> Option<WaitKey>;
    /// The CPU that said it waits for this turn, if one did. Loads that follow an acquire of the lock's word.
    fn waiter(&self, key: WaitKey) -> Option<usize>;

    /// Withdraws a kick of this CPU that came before.
    fn clear_kick(&self);
    /// Sleeps until this CPU has been kicked since [`Platform::clear_kick`], with interrupts as they were `before`.
    /// It may return for any other reason, too.
    fn block(&self, before: &Self::Interrupts);
    /// Kicks a CPU: ends its block, or makes its next block return at once.
    fn kick(&self, cpu: usize);
    /// Kicks this CPU.
    fn kick_self(&self);
}

/// What each of `CPUS` CPUs waits for; the part of a [`Platform`] that is the same for all.
pub struct WaitTable<const CPUS: usize> {
    words: [AtomicU64; CPUS],
}

impl<const CPUS: usize> WaitTable<CPUS> {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { words: [const { AtomicU64::new(0) }; CPUS] }
    }

    /// [`Platform::publish`] for `cpu`.
    pub fn publish(&self, cpu: usize, key: Option<WaitKey>) -> Option<WaitKey> {
        let word = &self.words[cpu];
        let before = word.load(Ordering::Relaxed);
        word.store(key.map_or(0, WaitKey::to_word), Ordering::Relaxed);
        WaitKey::from_word(before)
    }

    /// [`Platform::waiter`].
    pub fn waiter(&self, key: WaitKey) -> Option<usize> {
        self.words.iter().position(|word| word.load(Ordering::Relaxed) == key.to_word())
    }
}

impl<const CPUS: usize> Default for WaitTable<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}
