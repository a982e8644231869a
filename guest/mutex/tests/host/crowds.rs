//! The mutex and the semaphore with real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread;

use crate::kernel::{Kernel, sit};
use ebb_mutex::{Checked, Guard, Interrupted, Mutex, RawMutex, Semaphore, TaskId, Tasks, Unchecked};

/// A kernel of no size, as kernels have.
struct Nobody;

impl Tasks for Nobody {
    fn current(&self) -> TaskId {
        TaskId(0)
    }

    fn link(&self, _: TaskId) -> &AtomicU16 {
        static LINK: AtomicU16 = AtomicU16::new(0);
        &LINK
    }

    fn park(&self) {}

    fn unpark(&self, _: TaskId) {}

    fn relax(&self) {}
}

type Plain<T> = Mutex<T, &'static Kernel>;

/// So many turns, or a few where each takes long.
const fn turns(count: i32) -> i32 {
    if cfg!(miri) { count / 100 } else { count }
}

fn crowd(threads: u16, work: impl Fn(u16) + Send + Sync + 'static) {
    let work = Arc::new(work);
    let run = |number| {
        let work = work.clone();
        thread::spawn(move || {
            sit(number);
            work(number);
        })
    };
    let all: Vec<_> = (0..threads).map(run).collect();
    all.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_mutex_is_smaller_than_the_semaphore() {
    // The kernel's reference is in both.
    let (mutex, semaphore) = (size_of::<RawMutex<&'static Kernel>>(), size_of::<Semaphore<&'static Kernel>>());
    assert!(mutex <= semaphore);
    assert!(size_of::<RawMutex<Nobody>>() < size_of::<Semaphore<Nobody>>());
    assert_eq!(size_of::<RawMutex<Nobody>>(), 12);
}

#[test]
fn one_at_a_time() {
    let mutex: Arc<Plain<i32>> = Arc::new(Mutex::new(0, Kernel::new(), Unchecked));
    let shared = mutex.clone();
    crowd(8, move |_| (0..turns(2000)).for_each(|_| *shared.lock() += 1));
    assert_eq!(*mutex.lock(), 8 * turns(2000));
    assert!(!mutex.is_locked());
}

#[test]
fn one_at_a_time_in_a_debug_build() {
    let mutex = Arc::new(Mutex::new(0, Kernel::new(), Checked::new("count")));
    let shared = mutex.clone();
    crowd(6, move |_| {
        for round in 0..turns(500) {
            let mut guard: Guard<'_, i32, _, _> = if round % 3 == 0 {
                match shared.try_lock() {
                    Some(guard) => guard,
                    None => shared.lock(),
                }
            } else {
                shared.lock_interruptible().unwrap()
            };
            *guard += 1;
        }
    });
    assert_eq!(*mutex.lock(), 6 * turns(500));
}

#[test]
fn try_lock_takes_what_is_free() {
    let mutex: Plain<u32> = Mutex::new(5, Kernel::new(), Unchecked);
    let guard = mutex.try_lock().unwrap();
    assert!(mutex.is_locked());
    assert!(mutex.try_lock().is_none());
    drop(guard);
    assert_eq!(*mutex.try_lock().unwrap(), 5);
}

#[test]
fn waiters_are_woken_in_the_order_they_came() {
    let kernel = Kernel::new();
    let mutex = Arc::new(Mutex::new(Vec::new(), kernel, Unchecked));
    sit(0);
    let guard = mutex.lock();
    let mut waiters = Vec::new();
    for number in 1..=5u16 {
        let shared = mutex.clone();
        waiters.push(thread::spawn(move || {
            sit(number);
            shared.lock().push(number);
        }));
        kernel.await_parks(usize::from(number));
    }
    drop(guard);
    waiters.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(*mutex.lock(), [1, 2, 3, 4, 5]);
}

#[test]
fn an_interrupted_wait_gives_up_and_nobody_is_forgotten() {
    let kernel = Kernel::new();
    let mutex = Arc::new(Mutex::new(0, kernel, Checked::new("interruptible")));
    sit(0);
    let guard = mutex.lock();
    let shared = mutex.clone();
    let first = thread::spawn(move || {
        sit(1);
        shared.lock_interruptible().map(drop)
    });
    kernel.await_parks(1);
    let shared = mutex.clone();
    let second = thread::spawn(move || {
        sit(2);
        *shared.lock() += 1;
    });
    kernel.await_parks(2);
    kernel.interrupt(TaskId(1));
    assert_eq!(first.join().unwrap(), Err(Interrupted));
    drop(guard);
    second.join().unwrap();
    assert_eq!(*mutex.lock(), 1);
    assert!(!mutex.is_locked());
}

#[test]
fn a_semaphore_lets_as_many_in_as_it_has_permits() {
    let semaphore = Arc::new(Semaphore::new(3, Kernel::new()));
    let inside = Arc::new(AtomicUsize::new(0));
    let (gate, count) = (semaphore.clone(), inside.clone());
    crowd(8, move |_| {
        for _ in 0..turns(1000) {
            gate.down();
            assert!(count.fetch_add(1, Ordering::SeqCst) < 3);
            count.fetch_sub(1, Ordering::SeqCst);
            gate.up();
        }
    });
    for _ in 0..3 {
        assert!(semaphore.try_down());
    }
    assert!(!semaphore.try_down());
}
