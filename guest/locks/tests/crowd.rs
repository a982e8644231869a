//! Every lock with many host threads, more than there are processors: exclusion, progress, and that no sleeper is
//! forgotten.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use ebb_locks::lab::{
    Hybrid, NODES_PER_CPU, Node, PlainTicket, Preemptable, QueuePlatform, Queued, SpinLock, TestAndSet,
};
use ebb_locks::{Large, Platform, RawTicketLock, Small, TicketLock, WaitKey, WaitTable};

const THREADS: usize = if cfg!(miri) { 3 } else { 12 };
const TURNS: u64 = if cfg!(miri) { 6 } else { 400 };

struct Kick {
    given: Mutex<bool>,
    changed: Condvar,
}

struct Machine {
    nodes: [Node; THREADS * NODES_PER_CPU],
    waits: WaitTable<THREADS>,
    kicks: [Kick; THREADS],
    blocks: bool,
}

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

#[derive(Clone)]
struct Cpu(Arc<Machine>);

impl Platform for Cpu {
    type Interrupts = ();

    fn spin_threshold(&self) -> u32 {
        3
    }

    fn relax(&self) {
        thread::yield_now();
    }

    fn can_block(&self) -> bool {
        self.0.blocks
    }

    fn interrupts_off(&self) {}

    fn interrupts_restore(&self, (): ()) {}

    fn publish(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        self.0.waits.publish(CPU.get(), key)
    }

    fn waiter(&self, key: WaitKey) -> Option<usize> {
        self.0.waits.waiter(key)
    }

    fn clear_kick(&self) {
        *self.0.kicks[CPU.get()].given.lock().unwrap() = false;
    }

    fn block(&self, (): &()) {
        let kick = &self.0.kicks[CPU.get()];
        let mut given = kick.given.lock().unwrap();
        while !*given {
            given = kick.changed.wait(given).unwrap();
        }
    }

    fn kick(&self, cpu: usize) {
        *self.0.kicks[cpu].given.lock().unwrap() = true;
        self.0.kicks[cpu].changed.notify_one();
    }

    fn kick_self(&self) {
        self.kick(CPU.get());
    }
}

impl QueuePlatform for Cpu {
    fn cpu(&self) -> usize {
        CPU.get()
    }

    fn nodes(&self) -> &[Node] {
        &self.0.nodes
    }
}

fn machine(blocks: bool) -> Cpu {
    Cpu(Arc::new(Machine {
        nodes: [const { Node::new() }; THREADS * NODES_PER_CPU],
        waits: WaitTable::new(),
        kicks: [const { Kick { given: Mutex::new(false), changed: Condvar::new() } }; THREADS],
        blocks,
    }))
}

fn crowd<L: SpinLock<Cpu> + Send + Sync + 'static>(blocks: bool, lock: L) {
    let machine = machine(blocks);
    let shared = Arc::new((lock, AtomicU64::new(0)));
    let run = |cpu| {
        let (machine, shared) = (machine.clone(), shared.clone());
        thread::spawn(move || {
            CPU.set(cpu);
            for _ in 0..TURNS {
                let token = shared.0.lock(&machine);
                // A load and a store: two at once would lose counts.
                let count = shared.1.load(Ordering::Relaxed);
                if count % 7 == 0 {
                    thread::yield_now();
                }
                shared.1.store(count + 1, Ordering::Relaxed);
                shared.0.unlock(&machine, token);
            }
        })
    };
    let threads: Vec<_> = (0..THREADS).map(run).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(shared.1.load(Ordering::Relaxed), THREADS as u64 * TURNS);
}

#[test]
fn those_that_spin() {
    crowd(false, TestAndSet::new());
    crowd(false, PlainTicket::new());
    crowd(false, Preemptable::new());
    crowd(false, Queued::new());
    crowd(false, Hybrid::new());
    crowd(false, RawTicketLock::<Large>::new(Large::new(0)));
}

#[test]
fn those_that_sleep() {
    crowd(true, RawTicketLock::<Large>::new(Large::new(0)));
    // Twelve threads draw thousands of tickets: the small ones wrap many times.
    crowd(true, RawTicketLock::<Small>::new(Small::new(0)));
    crowd(true, Queued::new());
    crowd(true, Hybrid::new());
}

/// The lock that has its data in it: plain memory, so miri sees whether one holder's turn comes after another's.
#[test]
fn the_data_is_with_one_at_a_time() {
    for blocks in [false, true] {
        let shared = Arc::new(TicketLock::new((0, 0), Large::new(0), machine(blocks)));
        let run = |cpu| {
            let shared = shared.clone();
            thread::spawn(move || {
                CPU.set(cpu);
                for turn in 0..TURNS {
                    let mut data =
                        if turn % 3 == 0 { shared.try_lock() } else { None }.unwrap_or_else(|| shared.lock());
                    assert_eq!(data.0, data.1);
                    data.0 += 1;
                    thread::yield_now();
                    data.1 += 1;
                }
            })
        };
        let threads: Vec<_> = (0..THREADS).map(run).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(!shared.is_locked());
        assert_eq!(*shared.lock(), (THREADS as u64 * TURNS, THREADS as u64 * TURNS));
    }
}
