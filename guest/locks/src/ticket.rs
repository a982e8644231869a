//! The ticketlock, and what makes it sleep.
//!
//! The word has two tickets, stepping by 2: in its low half the head, whose turn it is, in its high half the tail, the
//! next to be drawn. The tail's lowest bit says that somebody sleeps, or is about to.
//!
//! Uncontended, `lock` is one atomic add and a compare, `unlock` one atomic add and a test. Only the holder changes the
//! head, and it knows its value (its own ticket), so it adds such that nothing carries into the tail.
//!
//! Nobody sleeps for ever. A waiter withdraws old kicks, says what it waits for, sets the flag, and sleeps only if the
//! word, as that very operation found it, does not have its turn. The unlocker's add is on the same word, so it comes
//! before the waiter's (which then sees its turn) or after it: then it finds the flag, and through the flag's release
//! what the waiter said, and kicks; a kick before the block ends the block. The flag goes only when the word has neither
//! waiter nor anyone about to be one, by a compare-and-exchange.
//!
//! Nor does one spin for somebody who sleeps. The sleeper whose turn comes has been kicked, and takes back what it said
//! when it is awake. If it has not done so after [`Platform::patience`] further looks, then it has no CPU to run on, and
//! the waiter's own may be the one: it sleeps at once. As long as CPUs are free nobody does, so that one sleep does not
//! make all that follow sleep, too.
//!
//! An interrupt may come while a CPU sleeps, or just before, and its handler may wait for another lock and sleep as
//! well: it puts back what was said before it, and kicks its own CPU so that the outer waiter looks again.

use core::sync::atomic::Ordering;

use crate::platform::{Platform, WaitKey};
use crate::word::Word;

/// Distance between two tickets.
const STEP: u32 = 2;
/// In the tail: somebody sleeps.
const SLOW: u32 = 1;

/// A turn at a lock: proof that its holder has it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the lock stays locked until its ticket is given back"]
pub struct Ticket(u32);

impl Ticket {
    /// Its number; the next one's is greater by 2, wrapping at the width of a ticket.
    pub fn number(&self) -> u32 {
        self.0
    }

    /// For a guard that ends by giving it back.
    pub(crate) fn copy(&self) -> Self {
        Self(self.0)
    }
}

/// A ticketlock without data.
#[derive(Debug)]
pub struct RawTicketLock<W: Word> {
    word: W,
}

impl<W: Word> RawTicketLock<W> {
    const MASK: u32 = (1 << W::TICKET_BITS) - 1;
    const FLAG: u32 = SLOW << W::TICKET_BITS;

    /// An unlocked lock in `word`, which must be zero.
    pub const fn new(word: W) -> Self {
        Self { word }
    }

    /// Waits for its turn.
    #[inline]
    pub fn lock<P: Platform>(&self, platform: &P) -> Ticket {
        let before = self.word.fetch_add(STEP << W::TICKET_BITS, Ordering::Acquire);
        let ticket = Self::tail(before);
        if Self::head(before) != ticket {
            self.lock_contended(platform, ticket);
        }
        Ticket(ticket)
    }

    /// Takes the lock if it is free now.
    #[inline]
    pub fn try_lock(&self) -> Option<Ticket> {
        let now = self.word.load(Ordering::Relaxed);
        let ticket = Self::tail(now);
        if Self::head(now) != ticket {
            return None;
        }
        let drawn = Self::add(now, STEP << W::TICKET_BITS);
        self.word.replace(now, drawn, Ordering::Acquire).then_some(Ticket(ticket))
    }

    /// Lets the next one in.
    #[inline]
    pub fn unlock<P: Platform>(&self, platform: &P, ticket: Ticket) {
        let next = (ticket.0 + STEP) & Self::MASK;
        let before = self.word.fetch_add(next.wrapping_sub(ticket.0), Ordering::Release);
        if before & Self::FLAG != 0 {
            self.unlock_slow(platform, before, next);
        }
    }

    /// The ticket of the holder, for a lock that one context takes and another lets go.
    ///
    /// Called by the holder only: to anybody else the answer means nothing.
    #[inline]
    pub fn holders_ticket(&self) -> Ticket {
        Ticket(Self::head(self.word.load(Ordering::Relaxed)))
    }

    /// Whether somebody has the lock, at some instant.
    pub fn is_locked(&self) -> bool {
        let now = self.word.load(Ordering::Relaxed);
        Self::head(now) != Self::tail(now)
    }

    fn head(word: u32) -> u32 {
        word & Self::MASK
    }

    fn tail(word: u32) -> u32 {
        word >> W::TICKET_BITS & Self::MASK & !SLOW
    }

    /// Addition at the word's width.
    fn add(word: u32, value: u32) -> u32 {
        word.wrapping_add(value) & (Self::MASK << W::TICKET_BITS | Self::MASK)
    }

    #[cold]
    #[inline(never)]
    fn lock_contended<P: Platform>(&self, platform: &P, ticket: u32) {
        while !self.spin(platform, ticket) {
            if platform.can_block() {
                self.sleep(platform, ticket);
            }
        }
    }

    /// Looks whether it is this ticket's turn until that is so, or spinning on has no sense: for as long as the threshold
    /// says, or until the turn has been for a while with one that sleeps.
    fn spin<P: Platform>(&self, platform: &P, ticket: u32) -> bool {
        let patience = platform.patience().max(1);
        let mut left = platform.spin_threshold().max(1);
        let mut turn = Self::head(self.word.load(Ordering::Relaxed));
        while left > 0 {
            let looks = left.min(patience);
            let mut head = turn;
            for _ in 0..looks {
                head = Self::head(self.word.load(Ordering::Acquire));
                if head == ticket {
                    return true;
                }
                platform.relax();
            }
            if head == turn && platform.waiter(self.key(head)).is_some() {
                break;
            }
            turn = head;
            left -= looks;
        }
        false
    }

    /// Sleeps until kicked, unless it is this ticket's turn already.
    fn sleep<P: Platform>(&self, platform: &P, ticket: u32) {
        let interrupts = platform.interrupts_off();
        platform.clear_kick();
        let outer = platform.publish(Some(self.key(ticket)));
        let now = self.word.fetch_or(Self::FLAG, Ordering::Release);
        if Self::head(now) != ticket {
            platform.block(&interrupts);
        }
        platform.publish(outer);
        if outer.is_some() {
            platform.kick_self();
        }
        platform.interrupts_restore(interrupts);
    }

    #[cold]
    #[inline(never)]
    fn unlock_slow<P: Platform>(&self, platform: &P, before: u32, next: u32) {
        // Pairs with the release of whoever set the flag: what it waits for is visible now.
        W::fence_acquire();
        let after = before & !Self::MASK | next;
        if Self::tail(after) == next && self.word.replace(after, after & !Self::FLAG, Ordering::Relaxed) {
            return;
        }
        if let Some(cpu) = platform.waiter(self.key(next)) {
            platform.kick(cpu);
        }
    }

    fn key(&self, ticket: u32) -> WaitKey {
        WaitKey::new(core::ptr::from_ref(self).addr(), ticket)
    }
}
