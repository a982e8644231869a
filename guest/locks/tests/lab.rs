//! The laboratory's locks under loom: mutual exclusion with the orderings as they are written, and no lost wake-up.
#![allow(missing_docs)]

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unused_imports)]
mod lab;

/// What the laboratory's modules name.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};
}

mod platform {
    pub(crate) use ebb_locks::{Platform, WaitKey};
}

/// For the table in the laboratory's page.
#[allow(unused_imports)]
use ebb_locks::RawTicketLock;

use lab::{Hybrid, NODES_PER_CPU, Node, PlainTicket, Preemptable, QueuePlatform, Queued, SpinLock};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use platform::{Platform, WaitKey};

struct Kick {
    given: Mutex<bool>,
    changed: Condvar,
}

struct Machine {
    nodes: Vec<Node>,
    waits: Vec<AtomicU64>,
    kicks: Vec<Kick>,
}

struct Cpu {
    machine: Arc<Machine>,
    number: usize,
    blocks: bool,
}

impl Platform for Cpu {
    type Interrupts = ();

    fn spin_threshold(&self) -> u32 {
        1
    }

    fn relax(&self) {
        loom::thread::yield_now();
    }

    fn can_block(&self) -> bool {
        self.blocks
    }

    fn interrupts_off(&self) {}

    fn interrupts_restore(&self, (): ()) {}

    fn publish(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        let word = &self.machine.waits[self.number];
        let before = word.load(Ordering::Relaxed);
        word.store(key.map_or(0, WaitKey::to_word), Ordering::Relaxed);
        WaitKey::from_word(before)
    }

    fn waiter(&self, _: WaitKey) -> Option<usize> {
        unreachable!("the laboratory's locks know whom they kick")
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

impl QueuePlatform for Cpu {
    fn cpu(&self) -> usize {
        self.number
    }

    fn nodes(&self) -> &[Node] {
        &self.machine.nodes
    }
}

fn word() -> AtomicU32 {
    AtomicU32::new(0)
}

#[allow(unsafe_code)] // Loom's cell, which finds two at once.
fn turn<L: SpinLock<Cpu>>(lock: &L, cpu: &Cpu, cell: &UnsafeCell<u32>) {
    let token = lock.lock(cpu);
    // SAFETY: the lock is held; that this is enough is what loom checks.
    cell.with_mut(|value| unsafe { *value += 1 });
    lock.unlock(cpu, token);
}

fn explore<L>(threads: usize, preemptions: usize, blocks: bool, make: fn() -> L)
where
    L: SpinLock<Cpu> + Send + Sync + 'static,
{
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 20_000;
    model.check(move || {
        let kick = |_| Kick { given: Mutex::new(false), changed: Condvar::new() };
        let machine = Arc::new(Machine {
            nodes: (0..threads * NODES_PER_CPU).map(|_| Node::with(word(), word(), word())).collect(),
            waits: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            kicks: (0..threads).map(kick).collect(),
        });
        let shared = Arc::new((make(), UnsafeCell::new(0)));
        let run = |number| {
            let (cpu, shared) = (Cpu { machine: machine.clone(), number, blocks }, shared.clone());
            move || turn(&shared.0, &cpu, &shared.1)
        };
        let others: Vec<_> = (1..threads).map(|number| loom::thread::spawn(run(number))).collect();
        run(0)();
        others.into_iter().for_each(|thread| thread.join().unwrap());
        run(0)();
    });
}

// A lock whose waiters only spin has endless interleavings: this one is explored with one switch that nobody asked for.
// Test-and-set cannot be: in loom's eyes its relaxed look may see the old value for ever. `crowd.rs` has it.

#[test]
fn plain_ticket() {
    explore(2, 1, false, || PlainTicket::with(word()));
}

#[test]
fn preemptable_ticket() {
    explore(2, 3, false, || Preemptable::with(word(), word(), word()));
    explore(3, 1, false, || Preemptable::with(word(), word(), word()));
}

#[test]
fn queued_that_sleeps() {
    explore(2, 3, true, || Queued::with(word()));
    explore(3, 2, true, || Queued::with(word()));
}

#[test]
fn hybrid_that_spins() {
    explore(2, 3, false, || Hybrid::with(word(), word(), word()));
}

#[test]
fn hybrid_that_sleeps() {
    explore(2, 3, true, || Hybrid::with(word(), word(), word()));
    explore(3, 2, true, || Hybrid::with(word(), word(), word()));
}
