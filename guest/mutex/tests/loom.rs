//! The mutex and the semaphore under loom: one holder at a time, and no lost wake-up.
#![allow(missing_docs)]

#[path = "../src/list.rs"]
mod list;
#[path = "../src/raw.rs"]
mod raw;
#[path = "../src/semaphore.rs"]
mod semaphore;
#[path = "../src/tasks.rs"]
mod tasks;

/// Loom's atomics for the modules above.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, Ordering};
}

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use sync::{AtomicBool, AtomicI32, AtomicU16, Ordering};

use list::WaitList;
use raw::{RawMutex, Unchecked};
use semaphore::Semaphore;
use tasks::{TaskId, Tasks};

struct Seat {
    link: AtomicU16,
    token: Mutex<bool>,
    changed: Condvar,
    interrupted: AtomicBool,
}

struct Kernel {
    seats: Vec<Seat>,
}

loom::thread_local! {
    static SEAT: std::cell::Cell<u16> = std::cell::Cell::new(0);
}

#[derive(Clone)]
struct Handle(Arc<Kernel>);

impl Handle {
    fn new(threads: usize) -> Self {
        let seat = |_| Seat {
            link: AtomicU16::new(0),
            token: Mutex::new(false),
            changed: Condvar::new(),
            interrupted: AtomicBool::new(false),
        };
        Self(Arc::new(Kernel { seats: (0..threads).map(seat).collect() }))
    }

    fn interrupt(&self, task: TaskId) {
        self.0.seats[usize::from(task.0)].interrupted.store(true, Ordering::SeqCst);
        self.unpark(task);
    }
}

impl Tasks for Handle {
    fn current(&self) -> TaskId {
        TaskId(SEAT.with(std::cell::Cell::get))
    }

    fn link(&self, task: TaskId) -> &AtomicU16 {
        &self.0.seats[usize::from(task.0)].link
    }

    fn park(&self) {
        let seat = &self.0.seats[usize::from(self.current().0)];
        let mut token = seat.token.lock().unwrap();
        while !*token {
            token = seat.changed.wait(token).unwrap();
        }
        *token = false;
    }

    fn unpark(&self, task: TaskId) {
        let seat = &self.0.seats[usize::from(task.0)];
        *seat.token.lock().unwrap() = true;
        seat.changed.notify_one();
    }

    fn relax(&self) {
        thread::yield_now();
    }

    fn is_interrupted(&self) -> bool {
        self.0.seats[usize::from(self.current().0)].interrupted.load(Ordering::SeqCst)
    }
}

fn list() -> WaitList {
    WaitList::with(AtomicBool::new(false), AtomicU16::new(TaskId::NONE), AtomicU16::new(TaskId::NONE))
}

#[allow(unsafe_code)] // Loom's cell, which finds two at once.
fn count(cell: &UnsafeCell<u32>) {
    // SAFETY: the lock is held; that this is enough is what loom checks.
    cell.with_mut(|value| unsafe { *value += 1 });
}

fn model(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

/// Each of `threads` threads goes through the gate once.
fn crowd<G: Send + Sync + 'static>(threads: usize, make: impl Fn(Handle) -> G, through: fn(&G, &UnsafeCell<u32>)) {
    let kernel = Handle::new(threads);
    let shared = Arc::new((make(kernel), UnsafeCell::new(0)));
    let run = |number: usize| {
        let shared = shared.clone();
        move || {
            SEAT.with(|seat| seat.set(number as u16));
            through(&shared.0, &shared.1);
        }
    };
    let others: Vec<_> = (1..threads).map(|number| thread::spawn(run(number))).collect();
    run(0)();
    others.into_iter().for_each(|thread| thread.join().unwrap());
    through(&shared.0, &shared.1);
}

fn mutex(kernel: Handle) -> RawMutex<Handle> {
    RawMutex::with(AtomicI32::new(1), list(), kernel, Unchecked)
}

fn semaphore(kernel: Handle) -> Semaphore<Handle> {
    Semaphore::with(AtomicI32::new(1), AtomicI32::new(0), list(), kernel)
}

#[test]
fn two_threads_and_a_mutex() {
    model(4, || {
        crowd(2, mutex, |mutex, cell| {
            mutex.lock();
            count(cell);
            mutex.unlock();
        });
    });
}

#[test]
fn three_threads_and_a_mutex() {
    model(2, || {
        crowd(3, mutex, |mutex, cell| {
            mutex.lock();
            count(cell);
            mutex.unlock();
        });
    });
}

#[test]
fn two_threads_and_a_semaphore() {
    model(3, || {
        crowd(2, semaphore, |semaphore, cell| {
            semaphore.down();
            count(cell);
            semaphore.up();
        });
    });
}

#[test]
fn a_try_makes_no_second_holder() {
    model(3, || {
        crowd(2, mutex, |mutex, cell| {
            if !mutex.try_lock() {
                mutex.lock();
            }
            assert!(mutex.is_locked());
            count(cell);
            mutex.unlock();
        });
    });
}

#[test]
fn a_try_takes_no_permit_that_is_not_there() {
    model(3, || {
        crowd(2, semaphore, |semaphore, cell| {
            if !semaphore.try_down() {
                semaphore.down();
            }
            count(cell);
            semaphore.up();
        });
    });
}

#[test]
fn a_mutex_made_anew_is_free() {
    model(1, || {
        let mut mutex = mutex(Handle::new(1));
        mutex.lock();
        mutex.reset();
        assert!(!mutex.is_locked() && mutex.try_lock());
    });
}

#[test]
fn a_wait_that_is_interrupted_loses_nobody() {
    model(2, || {
        let shared = Arc::new((mutex(Handle::new(3)), UnsafeCell::new(0)));
        shared.0.lock();
        let patient = {
            let shared = shared.clone();
            thread::spawn(move || {
                SEAT.with(|seat| seat.set(1));
                if shared.0.lock_interruptible() {
                    count(&shared.1);
                    shared.0.unlock();
                }
            })
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                SEAT.with(|seat| seat.set(2));
                shared.0.lock();
                count(&shared.1);
                shared.0.unlock();
            })
        };
        shared.0.tasks().interrupt(TaskId(1));
        count(&shared.1);
        shared.0.unlock();
        patient.join().unwrap();
        other.join().unwrap();
        shared.0.lock();
    });
}
