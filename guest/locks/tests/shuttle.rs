//! The ticketlock with more threads than loom can explore: shuttle runs many schedules that are chosen at random, from
//! a fixed seed. It has sequentially consistent memory only, so it says nothing of orderings (`loom.rs` does); it finds
//! lost wake-ups and broken order in deep queues, with kicks that come late, twice, or for no reason.

use std::sync::atomic::Ordering;

use ebb_locks::{Platform, RawTicketLock, WaitKey, Word};
use shuttle::scheduler::RandomScheduler;
use shuttle::sync::atomic::{AtomicU16, AtomicU64};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::{Runner, thread};

const THREADS: usize = 10;
const TURNS: usize = 3;
const SCHEDULES: usize = 400;

/// What is wrong, to see that it would be noticed.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// A kick for a CPU that does not sleep yet is forgotten.
    EarlyKicksAreLost,
    /// The one who sleeps is not found.
    WaitersAreForgotten,
    /// Two may draw the same ticket.
    WordIsTorn,
}

struct ShuttleWord(AtomicU16, Fault);

impl Word for ShuttleWord {
    const TICKET_BITS: u32 = 8;

    fn zero() -> Self {
        Self(AtomicU16::new(0), Fault::None)
    }

    fn load(&self, _: Ordering) -> u32 {
        u32::from(self.0.load(Ordering::SeqCst))
    }

    fn fetch_add(&self, value: u32, _: Ordering) -> u32 {
        if self.1 == Fault::WordIsTorn {
            let before = self.0.load(Ordering::SeqCst);
            self.0.store(before.wrapping_add(value as u16), Ordering::SeqCst);
            return u32::from(before);
        }
        u32::from(self.0.fetch_add(value as u16, Ordering::SeqCst))
    }

    fn fetch_or(&self, bits: u32, _: Ordering) -> u32 {
        u32::from(self.0.fetch_or(bits as u16, Ordering::SeqCst))
    }

    fn replace(&self, from: u32, to: u32, _: Ordering) -> bool {
        self.0.compare_exchange(from as u16, to as u16, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn fence_acquire() {}
}

struct Machine {
    waits: Vec<AtomicU64>,
    kicks: Vec<(Mutex<bool>, Condvar)>,
    fault: Fault,
}

struct Cpu {
    machine: Arc<Machine>,
    number: usize,
}

impl Platform for Cpu {
    type Interrupts = ();

    fn spin_threshold(&self) -> u32 {
        2
    }

    fn relax(&self) {
        thread::yield_now();
    }

    fn can_block(&self) -> bool {
        true
    }

    fn interrupts_off(&self) {}

    fn interrupts_restore(&self, (): ()) {}

    fn publish(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        let before = self.machine.waits[self.number].swap(key.map_or(0, WaitKey::to_word), Ordering::SeqCst);
        WaitKey::from_word(before)
    }

    fn waiter(&self, key: WaitKey) -> Option<usize> {
        if self.machine.fault == Fault::WaitersAreForgotten {
            return None;
        }
        self.machine.waits.iter().position(|word| word.load(Ordering::SeqCst) == key.to_word())
    }

    fn clear_kick(&self) {
        *self.machine.kicks[self.number].0.lock().unwrap() = false;
    }

    fn block(&self, (): &()) {
        let (given, changed) = &self.machine.kicks[self.number];
        let mut given = given.lock().unwrap();
        if self.machine.fault == Fault::EarlyKicksAreLost {
            *given = false;
        }
        while !*given {
            given = changed.wait(given).unwrap();
        }
    }

    fn kick(&self, cpu: usize) {
        let (given, changed) = &self.machine.kicks[cpu];
        *given.lock().unwrap() = true;
        changed.notify_one();
    }

    fn kick_self(&self) {
        self.kick(self.number);
    }
}

/// Every schedule: all threads have their turns, one at a time, in the order of their tickets, and none sleeps for ever
/// (shuttle reports a deadlock). A thread more kicks whom it likes.
fn crowd(fault: Fault) {
    let machine = Arc::new(Machine {
        waits: (0..THREADS).map(|_| AtomicU64::new(0)).collect(),
        kicks: (0..THREADS).map(|_| (Mutex::new(false), Condvar::new())).collect(),
        fault,
    });
    let lock = Arc::new(RawTicketLock::new(ShuttleWord(AtomicU16::new(0), fault)));
    let count = Arc::new(AtomicU16::new(0));
    let mut threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (cpu, lock, count) = (Cpu { machine: machine.clone(), number }, lock.clone(), count.clone());
            thread::spawn(move || {
                for _ in 0..TURNS {
                    let ticket = lock.lock(&cpu);
                    let before = count.load(Ordering::SeqCst);
                    assert_eq!(ticket.number(), (u32::from(before) * 2) & 0xff, "not alone, or out of order");
                    thread::yield_now();
                    count.store(before + 1, Ordering::SeqCst);
                    lock.unlock(&cpu, ticket);
                }
            })
        })
        .collect();
    let stranger = Cpu { machine, number: 0 };
    threads.push(thread::spawn(move || (0..THREADS).for_each(|cpu| stranger.kick(cpu))));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(usize::from(count.load(Ordering::SeqCst)), THREADS * TURNS);
    assert!(!lock.is_locked());
}

fn at_random(fault: Fault) {
    let scheduler = RandomScheduler::new_from_seed(0x5EED, SCHEDULES);
    Runner::new(scheduler, Default::default()).run(move || crowd(fault));
}

#[test]
fn ten_threads_at_random() {
    at_random(Fault::None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_kick_that_comes_early_must_not_be_lost() {
    at_random(Fault::EarlyKicksAreLost);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_waiter_must_be_found() {
    at_random(Fault::WaitersAreForgotten);
}

/// Two get in at once, or a ticket that nobody has is waited for.
#[test]
#[should_panic]
fn a_ticket_must_be_drawn_once() {
    at_random(Fault::WordIsTorn);
}
