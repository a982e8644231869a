//! The gate in front of a domain's event pages: who may be writing there now.
//!
//! A sender looks up a frame address (shared_info, a `vcpu_info`, a FIFO page) and writes through it without holding a
//! lock. Two things must not happen meanwhile: the frame must not leave the domain (reset, end of the domain), and the
//! ABI must not change under the sender (the switch between 2-level and FIFO carries pending bits over). So a sender
//! holds a [`Pass`] from before its look-up until after its last write. Passing costs one atomic addition each way and
//! never waits for another sender; it waits only while an ABI switch, which is bounded work, is under way.
//!
//! Whoever pauses or closes the gate holds the domain's EVENT lock and nothing of a higher rank, and a holder of a pass
//! takes no lock outside EVENT_QUEUE; so the wait in either direction ends.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::machine::Machine;

/// The ABI is being switched: come back soon.
const PAUSED: u32 = 1 << 31;
/// The domain has no event pages any more.
const CLOSED: u32 = 1 << 30;
/// The number of passes out.
const COUNT: u32 = CLOSED - 1;

/// Counts the senders inside. See the module.
#[derive(Debug, Default)]
pub struct Gate {
    word: AtomicU32,
}

/// Permission to write to the domain's event pages, until it is dropped.
#[derive(Debug)]
pub struct Pass<'a> {
    gate: &'a Gate,
}

impl Gate {
    /// An open gate with nobody inside.
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// Goes in; `None` when the domain's event pages are gone for good.
    #[inline]
    pub fn enter<M: Machine>(&self, machine: &M) -> Option<Pass<'_>> {
        loop {
            let before = self.word.fetch_add(1, Ordering::SeqCst);
            if before & (PAUSED | CLOSED) == 0 {
                return Some(Pass { gate: self });
            }
            self.word.fetch_sub(1, Ordering::SeqCst);
            if before & CLOSED != 0 {
                return None;
            }
            while self.word.load(Ordering::SeqCst) & (PAUSED | CLOSED) == PAUSED {
                machine.relax();
            }
        }
    }

    /// Keeps senders out and waits until those inside have left. The caller holds the domain's EVENT lock.
    pub fn pause<M: Machine>(&self, machine: &M) {
        self.shut(machine, PAUSED);
    }

    /// Lets senders in again after [`Gate::pause`].
    pub fn resume(&self) {
        self.word.fetch_and(!PAUSED, Ordering::SeqCst);
    }

    /// Turns senders away for ever and waits until those inside have left.
    pub fn close<M: Machine>(&self, machine: &M) {
        self.shut(machine, CLOSED);
    }

    fn shut<M: Machine>(&self, machine: &M, how: u32) {
        self.word.fetch_or(how, Ordering::SeqCst);
        while self.word.load(Ordering::SeqCst) & COUNT != 0 {
            machine.relax();
        }
    }
}

impl Drop for Pass<'_> {
    #[inline]
    fn drop(&mut self) {
        self.gate.word.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::testing::FakeMachine;

    /// Shuts the gate with `shut` while a sender is inside; the sender must have left when that returns.
    fn waits_for_senders(shut: impl Fn(&Gate, &FakeMachine) + Sync) -> Gate {
        let (gate, machine) = (Gate::new(), FakeMachine::new(2, 1));
        let left = AtomicBool::new(false);
        thread::scope(|scope| {
            let pass = gate.enter(&machine).expect("open");
            let closer = scope.spawn(|| {
                shut(&gate, &machine);
                assert!(left.load(Ordering::SeqCst), "shut with a sender inside");
            });
            while gate.word.load(Ordering::SeqCst) & (PAUSED | CLOSED) == 0 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(20));
            left.store(true, Ordering::SeqCst);
            drop(pass);
            closer.join().expect("shut");
        });
        gate
    }

    #[test]
    fn closing_waits_and_is_for_ever() {
        let gate = waits_for_senders(|gate, machine| gate.close(machine));
        let machine = FakeMachine::new(1, 1);
        assert!(gate.enter(&machine).is_none());
        assert_eq!(gate.word.load(Ordering::SeqCst), CLOSED, "who is turned away leaves no trace");
    }

    #[test]
    fn pausing_holds_senders_back_until_it_ends() {
        let gate = waits_for_senders(|gate, machine| gate.pause(machine));
        let machine = FakeMachine::new(2, 1);
        let resumed = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let pass = gate.enter(&machine);
                assert!(resumed.load(Ordering::SeqCst), "went in while paused");
                assert!(pass.is_some());
            });
            thread::sleep(Duration::from_millis(20));
            resumed.store(true, Ordering::SeqCst);
            gate.resume();
            sender.join().expect("in at last");
        });
        assert_eq!(gate.word.load(Ordering::SeqCst), 0);
    }
}
