//! The ticketlock under loom: every interleaving of a few threads, with the memory orderings as they are written.
//!
//! Checked: mutual exclusion (the counter is a cell whose concurrent use loom reports), that what was written under the
//! lock is seen under it, first come first served, and that no wake-up is lost (loom reports threads that sleep for ever).

use std::sync::atomic::Ordering;

use ebb_locks::{Platform, RawTicketLock, WaitKey, Word};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU16, AtomicU64};
use loom::sync::{Arc, Condvar, Mutex};

/// A small lock's word under loom.
struct LoomWord(AtomicU16);

impl Word for LoomWord {
    const TICKET_BITS: u32 = 8;

    fn zero() -> Self {
        Self(AtomicU16::new(0))
    }

    fn load(&self, order: Ordering) -> u32 {
        u32::from(self.0.load(order))
    }

    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        u32::from(self.0.fetch_add(value as u16, order))
    }

    fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
        u32::from(self.0.fetch_or(bits as u16, order))
    }

    fn replace(&self, from: u32, to: u32, order: Ordering) -> bool {
        self.0.compare_exchange(from as u16, to as u16, order, Ordering::Relaxed).is_ok()
    }

    fn fence_acquire() {
        loom::sync::atomic::fence(Ordering::Acquire);
    }
}

/// A CPU's kick.
struct Kick {
    given: Mutex<bool>,
    changed: Condvar,
}

/// What all CPUs share.
struct Machine {
    waits: Vec<AtomicU64>,
    kicks: Vec<Kick>,
}

/// One CPU of the machine.
struct Cpu {
    machine: Arc<Machine>,
    number: usize,
    threshold: u32,
}

impl Platform for Cpu {
    type Interrupts = ();

    fn spin_threshold(&self) -> u32 {
        self.threshold
    }

    fn patience(&self) -> u32 {
        1
    }

    fn relax(&self) {}

    fn can_block(&self) -> bool {
        true
    }

    fn interrupts_off(&self) {}

    fn interrupts_restore(&self, (): ()) {}

    fn publish(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        let word = &self.machine.waits[self.number];
        let before = word.load(Ordering::Relaxed);
        word.store(key.map_or(0, WaitKey::to_word), Ordering::Relaxed);
        WaitKey::from_word(before)
    }

    fn waiter(&self, key: WaitKey) -> Option<usize> {
        self.machine.waits.iter().position(|word| word.load(Ordering::Relaxed) == key.to_word())
    }

    fn clear_kick(&self) {
        *self.machine.kicks[self.number].given.lock().unwrap() = false;
    }

    fn block(&self, (): &()) {
        let kick = &self.machine.kicks[self.number];
        let mut given = kick.given.lock().unwrap();
        while !*given {
            given = kick.changed.wait(given).unwrap();
        }
    }

    fn kick(&self, cpu: usize) {
        let kick = &self.machine.kicks[cpu];
        *kick.given.lock().unwrap() = true;
        kick.changed.notify_one();
    }

    fn kick_self(&self) {
        self.kick(self.number);
    }
}

/// A lock, and what it protects: a count and the last ticket.
struct Shared {
    lock: RawTicketLock<LoomWord>,
    value: UnsafeCell<(u32, Option<u32>)>,
}

/// Takes the lock once, checks and counts.
fn turn(cpu: &Cpu, shared: &Shared) {
    let ticket = shared.lock.lock(cpu);
    count(shared, ticket.number());
    shared.lock.unlock(cpu, ticket);
}

#[allow(unsafe_code)] // Loom's cell, which is what finds two at once.
fn count(shared: &Shared, ticket: u32) {
    shared.value.with_mut(|value| {
        // SAFETY: the lock is held; that this is enough is what loom checks.
        let value = unsafe { &mut *value };
        if let Some(last) = value.1 {
            assert_eq!(ticket, (last + 2) & 0xff, "not first come, first served");
        }
        *value = (value.0 + 1, Some(ticket));
    });
}

/// `threads` threads take the lock `turns` times each, a waiter looking `threshold` times before it sleeps.
fn explore(threads: usize, turns: usize, threshold: u32, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let kick = |_| Kick { given: Mutex::new(false), changed: Condvar::new() };
        let machine = Arc::new(Machine {
            waits: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            kicks: (0..threads).map(kick).collect(),
        });
        let shared = Arc::new(Shared { lock: RawTicketLock::new(LoomWord::zero()), value: UnsafeCell::new((0, None)) });
        let run = |number: usize| {
            let cpu = Cpu { machine: machine.clone(), number, threshold };
            let shared = shared.clone();
            move || (0..turns).for_each(|_| turn(&cpu, &shared))
        };
        let others: Vec<_> = (1..threads).map(|number| loom::thread::spawn(run(number))).collect();
        run(0)();
        others.into_iter().for_each(|thread| thread.join().unwrap());
        let cpu = Cpu { machine: machine.clone(), number: 0, threshold };
        let ticket = shared.lock.try_lock().expect("nobody has it");
        assert_eq!(ticket.number() as usize, 2 * threads * turns);
        count(&shared, ticket.number());
        shared.lock.unlock(&cpu, ticket);
    });
}

#[test]
fn two_threads_that_sleep_at_once() {
    explore(2, 1, 1, None);
}

#[test]
fn two_threads_that_look_before_they_sleep() {
    explore(2, 1, 2, None);
}

#[test]
fn two_threads_twice() {
    explore(2, 2, 1, Some(4));
}

#[test]
fn three_threads_that_give_up_behind_a_sleeper() {
    explore(3, 1, 2, Some(3));
}

#[test]
fn three_threads() {
    explore(3, 1, 1, Some(4));
}
