//! A kernel whose threads are the host's.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use ebb_mutex::{Registry, Supervisor, TaskId, Tasks, Violation};

pub const THREADS: usize = 32;

struct Seat {
    link: AtomicU16,
    token: Mutex<bool>,
    changed: Condvar,
    interrupted: AtomicBool,
}

/// A kernel; each test has its own, for ever.
pub struct Kernel {
    seats: [Seat; THREADS],
    registry: Registry,
    pub parks: AtomicUsize,
}

thread_local! {
    static SEAT: Cell<u16> = const { Cell::new(0) };
    static IN_INTERRUPT: Cell<bool> = const { Cell::new(false) };
}

/// The calling host thread is thread `number` from now on.
pub fn sit(number: u16) {
    SEAT.set(number);
}

/// Runs `handler` as an interrupt handler would be.
pub fn as_interrupt<R>(handler: impl FnOnce() -> R) -> R {
    IN_INTERRUPT.set(true);
    let result = handler();
    IN_INTERRUPT.set(false);
    result
}

impl Kernel {
    pub fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            seats: [const {
                Seat {
                    link: AtomicU16::new(0),
                    token: Mutex::new(false),
                    changed: Condvar::new(),
                    interrupted: AtomicBool::new(false),
                }
            }; THREADS],
            registry: Registry::new(),
            parks: AtomicUsize::new(0),
        }))
    }

    pub fn interrupt(&self, task: TaskId) {
        self.seats[usize::from(task.0)].interrupted.store(true, Ordering::SeqCst);
        self.wake(task);
    }

    /// Waits until so many parks have begun.
    pub fn await_parks(&self, count: usize) {
        while self.parks.load(Ordering::SeqCst) < count {
            std::thread::yield_now();
        }
    }

    fn wake(&self, task: TaskId) {
        let seat = &self.seats[usize::from(task.0)];
        *seat.token.lock().unwrap() = true;
        seat.changed.notify_one();
    }
}

impl Tasks for &'static Kernel {
    fn current(&self) -> TaskId {
        TaskId(SEAT.get())
    }

    fn link(&self, task: TaskId) -> &AtomicU16 {
        &self.seats[usize::from(task.0)].link
    }

    fn park(&self) {
        let seat = &self.seats[usize::from(SEAT.get())];
        self.parks.fetch_add(1, Ordering::SeqCst);
        let mut token = seat.token.lock().unwrap();
        while !*token {
            token = seat.changed.wait(token).unwrap();
        }
        *token = false;
    }

    fn unpark(&self, task: TaskId) {
        self.wake(task);
    }

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn is_interrupted(&self) -> bool {
        self.seats[usize::from(SEAT.get())].interrupted.load(Ordering::SeqCst)
    }
}

impl Supervisor for &'static Kernel {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn name(&self, task: TaskId) -> &str {
        ["main", "writer", "reader", "third"].get(usize::from(task.0)).unwrap_or(&"worker")
    }

    fn in_interrupt(&self) -> bool {
        IN_INTERRUPT.get()
    }

    fn misuse(&self, violation: &Violation<'_>) -> ! {
        panic!("{violation}")
    }
}
