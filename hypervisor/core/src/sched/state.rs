//! A vCPU's scheduling state: one word, and every step that may change it.
//!
//! The word says why a vCPU may not run (down, blocked, paused, parked) and who answers for it now, its [`Placement`]. Each
//! step is a pure function from word to word; [`StateWord::update`] applies one atomically and tells what changed, and
//! whoever moved a vCPU to [`Placement::Queued`] must put it on a run queue. So exactly one CPU does, whatever races.
//!
//! Invariants (checked by the model in `model.rs` over all interleavings):
//! - a vCPU is in at most one run queue, and runs on at most one CPU;
//! - it goes to a queue, from which another CPU may take it, only after the CPU that ran it has saved its context;
//! - a wake-up is never lost: a sleeper sets `BLOCKED`, then looks for events; a waker makes the event visible, then
//!   takes `BLOCKED` away. Both put a sequentially consistent fence between their two steps, so at least one of them
//!   sees the other.
//!
//! Locking: none.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

const DOWN: u32 = 1 << 0;
const BLOCKED: u32 = 1 << 1;
const DEAF: u32 = 1 << 2;
const POLLER: u32 = 1 << 3;
const YIELDED: u32 = 1 << 4;
const SAVED: u32 = 1 << 5;
const INITIALISED: u32 = 1 << 6;
const PARKED: u32 = 1 << 7;
const PLACEMENT_SHIFT: u32 = 8;
const PLACEMENT_MASK: u32 = 3 << PLACEMENT_SHIFT;
const PAUSE_SHIFT: u32 = 16;
const PAUSE_ONE: u32 = 1 << PAUSE_SHIFT;
const PAUSE_MASK: u32 = 0xffff << PAUSE_SHIFT;

/// Who answers for a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Nobody: it is not runnable, and whoever makes it runnable queues it.
    Off,
    /// The run queue it is in (or is about to be put in, by whoever changed the word to this).
    Queued,
    /// The CPU that runs it.
    Running,
    /// The CPU that ran it and still holds its context.
    Saving,
}

/// Why a vCPU goes to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sleep {
    /// Until an event or interrupt it could take.
    Event,
    /// As [`Sleep::Event`], and until a polled port is pending or the poll's time is up.
    Poll,
    /// With interrupts off: until an NMI or a fresh start.
    Deaf,
}

/// A value of the state word.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Word(u32);

impl Word {
    /// Down, never initialised, in nobody's hands.
    pub const NEW: Word = Word(DOWN);

    fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// Who answers for it.
    pub fn placement(self) -> Placement {
        match (self.0 & PLACEMENT_MASK) >> PLACEMENT_SHIFT {
            0 => Placement::Off,
            1 => Placement::Queued,
            2 => Placement::Running,
            _ => Placement::Saving,
        }
    }

    fn placed(self, placement: Placement) -> Self {
        let value = match placement {
            Placement::Off => 0,
            Placement::Queued => 1,
            Placement::Running => 2,
            Placement::Saving => 3,
        };
        Word(self.0 & !PLACEMENT_MASK | value << PLACEMENT_SHIFT)
    }

    /// Whether it may run: up, awake, not paused, not parked.
    pub fn is_runnable(self) -> bool {
        !self.has(DOWN | BLOCKED | PARKED | PAUSE_MASK)
    }

    /// Whether it would run if a CPU was given to it: it may, or nothing but its domain's cap is in the way.
    pub fn wants_cpu(self) -> bool {
        !self.has(DOWN | BLOCKED | PAUSE_MASK)
    }

    /// Whether its domain's cap keeps it from running.
    pub fn is_parked(self) -> bool {
        self.has(PARKED)
    }

    /// Whether it is online.
    pub fn is_up(self) -> bool {
        !self.has(DOWN)
    }

    /// Whether it is offline.
    pub fn is_down(self) -> bool {
        self.has(DOWN)
    }

    /// Whether it sleeps.
    pub fn is_blocked(self) -> bool {
        self.has(BLOCKED)
    }

    /// Whether it sleeps with interrupts off.
    pub fn is_deaf(self) -> bool {
        self.has(DEAF)
    }

    /// Whether somebody paused it.
    pub fn is_paused(self) -> bool {
        self.has(PAUSE_MASK)
    }

    /// Whether its latest sleep was a poll whose traces (the domain's poller mask, the timeout) are still to be removed.
    pub fn is_poller(self) -> bool {
        self.has(POLLER)
    }

    /// Whether it asked to let others go first.
    pub fn has_yielded(self) -> bool {
        self.has(YIELDED)
    }

    /// Whether it has been given a state to start from.
    pub fn is_initialised(self) -> bool {
        self.has(INITIALISED)
    }

    /// Whether no CPU runs it or holds its context.
    pub fn is_off_cpu(self) -> bool {
        matches!(self.placement(), Placement::Off | Placement::Queued)
    }

    /// Out of nobody's hands into a queue's, if it may run.
    fn settled(self) -> Self {
        if self.placement() == Placement::Off && self.is_runnable() { self.placed(Placement::Queued) } else { self }
    }

    /// The end of its sleep, unless it is deaf.
    pub fn wake(self) -> Self {
        if self.has(DEAF) { self } else { Word(self.0 & !BLOCKED).settled() }
    }

    /// The end of any sleep: an NMI or a fresh start.
    pub fn wake_deaf(self) -> Self {
        Word(self.0 & !(BLOCKED | DEAF)).settled()
    }

    /// The end of its sleep if that is a poll.
    pub fn wake_poller(self) -> Self {
        if self.has(POLLER) { self.wake() } else { self }
    }

    /// Asleep. Only the CPU that runs it takes this step, and looks for events afterwards.
    pub fn sleep(self, sleep: Sleep) -> Self {
        let bits = match sleep {
            Sleep::Event => BLOCKED,
            Sleep::Poll => BLOCKED | POLLER,
            Sleep::Deaf => BLOCKED | DEAF,
        };
        Word(self.0 | bits)
    }

    /// The traces of a poll are gone.
    pub fn poll_ended(self) -> Self {
        Word(self.0 & !POLLER)
    }

    /// Lets others go first, once.
    pub fn yielded(self) -> Self {
        Word(self.0 | YIELDED)
    }

    /// The request to let others go first has been honoured.
    pub fn yield_honoured(self) -> Self {
        Word(self.0 & !YIELDED)
    }

    /// One pause more. The count saturates one below its end, which no honest caller reaches.
    pub fn pause(self) -> Self {
        if self.0 & PAUSE_MASK == PAUSE_MASK { self } else { Word(self.0 + PAUSE_ONE) }
    }

    /// One pause less.
    pub fn unpause(self) -> Self {
        debug_assert!(self.is_paused(), "unpaused a vCPU that is not paused");
        if self.is_paused() { Word(self.0 - PAUSE_ONE).settled() } else { self }
    }

    /// Its domain has used up its cap. Only a CPU that has it in its queue's lock, or runs it, takes this step.
    pub fn park(self) -> Self {
        Word(self.0 | PARKED)
    }

    /// Its domain has run time again.
    pub fn unpark(self) -> Self {
        Word(self.0 & !PARKED).settled()
    }

    /// Offline.
    pub fn down(self) -> Self {
        Word(self.0 | DOWN)
    }

    /// Online.
    pub fn up(self) -> Self {
        Word(self.0 & !DOWN).settled()
    }

    /// It has a state to start from.
    pub fn initialised(self) -> Self {
        Word(self.0 | INITIALISED)
    }

    /// It has none any more: INIT took it.
    pub fn uninitialised(self) -> Self {
        Word(self.0 & !INITIALISED)
    }

    /// Taken from a queue by a CPU: to run, or out of the queue when it may no longer run.
    pub fn take(self) -> Self {
        debug_assert_eq!(self.placement(), Placement::Queued);
        if self.is_runnable() { Word(self.0 & !SAVED).placed(Placement::Running) } else { self.placed(Placement::Off) }
    }

    /// Out of its queue if it may no longer run.
    pub fn prune(self) -> Self {
        if self.placement() == Placement::Queued && !self.is_runnable() { self.placed(Placement::Off) } else { self }
    }

    /// Its CPU chose to go on with it: the context it may have saved will be loaded again.
    pub fn stay(self) -> Self {
        debug_assert_eq!(self.placement(), Placement::Running);
        Word(self.0 & !(SAVED | YIELDED))
    }

    /// Its CPU chose another. The context is still to be saved, unless that has been done already.
    pub fn leave(self) -> Self {
        debug_assert_eq!(self.placement(), Placement::Running);
        let word = Word(self.0 & !YIELDED);
        if word.has(SAVED) {
            Word(word.0 & !SAVED).placed(Placement::Off).settled()
        } else {
            word.placed(Placement::Saving)
        }
    }

    /// Its context is saved and no longer loaded anywhere.
    pub fn saved(self) -> Self {
        match self.placement() {
            Placement::Saving => self.placed(Placement::Off).settled(),
            Placement::Running => Word(self.0 | SAVED),
            Placement::Off | Placement::Queued => self,
        }
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.placement())?;
        let names = [
            (DOWN, "down"),
            (BLOCKED, "blocked"),
            (DEAF, "deaf"),
            (POLLER, "poller"),
            (YIELDED, "yielded"),
            (SAVED, "saved"),
            (PARKED, "parked"),
            (PAUSE_MASK, "paused"),
        ];
        for (bit, name) in names {
            if self.has(bit) {
                write!(f, "+{name}")?;
            }
        }
        Ok(())
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The word before it.
    pub before: Word,
    /// The word after it.
    pub after: Word,
}

impl Change {
    /// Whether the caller must put the vCPU on a run queue.
    #[must_use]
    pub fn must_enqueue(self) -> bool {
        self.after.placement() == Placement::Queued && self.before.placement() != Placement::Queued
    }

    /// By how much the number of vCPUs that want a CPU changed: 1, 0 or -1.
    pub fn wanting(self) -> i32 {
        let wants = |word: Word| i32::from(word.placement() != Placement::Off);
        wants(self.after) - wants(self.before)
    }
}

/// The word itself.
#[derive(Debug)]
pub struct StateWord(AtomicU32);

impl StateWord {
    /// A vCPU that is down.
    pub const fn new() -> Self {
        Self(AtomicU32::new(Word::NEW.0))
    }

    /// Its value now.
    pub fn load(&self) -> Word {
        Word(self.0.load(Ordering::SeqCst))
    }

    /// Takes one step. A step that changes nothing writes nothing.
    pub fn update(&self, step: impl Fn(Word) -> Word) -> Change {
        let mut before = self.load();
        loop {
            let after = step(before);
            if after == before {
                return Change { before, after };
            }
            match self.0.compare_exchange(before.0, after.0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Change { before, after },
                Err(found) => before = Word(found),
            }
        }
    }
}

impl Default for StateWord {
    fn default() -> Self {
        Self::new()
    }
}
