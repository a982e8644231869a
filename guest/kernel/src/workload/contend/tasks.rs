//! `mutex`: `tasks=` threads on all vCPUs take a mutex, then a semaphore, `duration=` ms each; operations, fairness and
//! the processor time used are reported. After Linux's test-mutex.

use super::report::{self, Share};
use super::{busy, number};
use crate::mutex::{Kernel, Semaphore};
use crate::{clock, cpu, thread};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb_guest_logic::args::Args;
use ebb_mutex::{RawMutex, Unchecked};
use shared_abi::guest_event::{LOCK_MUTEX, LOCK_SEMAPHORE};

/// Threads at most: the kernel has a few of its own.
const MOST: u64 = 32;

trait Sleeping: Send + Sync + 'static {
    fn enter(&self);
    fn leave(&self);
}

impl Sleeping for RawMutex<Kernel, Unchecked> {
    fn enter(&self) {
        self.lock();
    }

    fn leave(&self) {
        self.unlock();
    }
}

impl Sleeping for Semaphore {
    fn enter(&self) {
        self.down();
    }

    fn leave(&self) {
        self.up();
    }
}

/// What all tasks share.
struct Arena<L> {
    lock: L,
    /// Kept by loads and stores on purpose.
    count: AtomicU64,
    shares: spin::Mutex<Vec<Share>>,
}

#[derive(Clone, Copy)]
struct Setting {
    tasks: u64,
    section: u64,
    outside: u64,
    duration: u64,
}

/// Tries both.
pub fn run(args: Args<'static>) -> Result<(), String> {
    let setting = Setting {
        tasks: number(args, "tasks", 16)?.clamp(1, MOST),
        section: number(args, "section", 200)?,
        outside: number(args, "outside", 400)?,
        duration: number(args, "duration", 300)? * clock::tsc_khz(),
    };
    try_it(LOCK_MUTEX, "mutex", RawMutex::new(Kernel, Unchecked), setting)?;
    try_it(LOCK_SEMAPHORE, "semaphore", Semaphore::new(1, Kernel), setting)
}

fn try_it<L: Sleeping>(id: u8, name: &str, lock: L, setting: Setting) -> Result<(), String> {
    let arena = Arc::new(Arena { lock, count: AtomicU64::new(0), shares: spin::Mutex::new(Vec::new()) });
    let before = report::ran_by_all();
    let threads: Vec<_> = (0..setting.tasks)
        .map(|task| {
            let arena = arena.clone();
            thread::spawn("task", None, move || work(task as usize, &arena, setting))
        })
        .collect::<Result<_, _>>()?;
    threads.into_iter().for_each(thread::JoinHandle::join);
    let mut shares = core::mem::take(&mut *arena.shares.lock());
    shares.sort_by_key(|share| share.vcpu);
    let sum: u64 = shares.iter().map(|share| share.operations).sum();
    assert_eq!(sum, arena.count.load(Ordering::SeqCst), "two were in the section at once");
    // The processor time is the kernel's, all of it, in the first share.
    shares[0].ran(report::ran_by_all() - before);
    report::tell(id, name, &shares);
    Ok(())
}

fn work<L: Sleeping>(task: usize, arena: &Arena<L>, setting: Setting) {
    let mut share = Share::new(task);
    let end = cpu::rdtsc() + setting.duration;
    loop {
        let asked = cpu::rdtsc();
        arena.lock.enter();
        let got = cpu::rdtsc();
        let count = arena.count.load(Ordering::Relaxed);
        busy(setting.section);
        arena.count.store(count + 1, Ordering::Relaxed);
        arena.lock.leave();
        // A thread may have moved to a vCPU whose clock is behind by a little.
        share.turn(got.saturating_sub(asked), false, false);
        if got >= end {
            break;
        }
        busy(setting.outside);
        // Threads are cooperative: let the others have the vCPU.
        thread::yield_now();
    }
    arena.shares.lock().push(share);
}
