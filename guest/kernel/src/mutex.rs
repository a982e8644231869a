//! The kernel's mutex: `ebb_mutex` over this kernel's threads.
//!
//! A build with assertions watches every [`Mutex`]; [`Watched`] is watched in any build, for the workload that breaks
//! the rules. For threads only: the idle context cannot wait.

use crate::thread::{self, MAX_THREADS};
use crate::{page, percpu};
use core::panic::Location;
use core::sync::atomic::{AtomicU16, Ordering};
use ebb_mutex::{Checked, Registry, Supervisor, TaskId, Tasks, Violation};
use shared_abi::xen::PAGE_SIZE;

/// This kernel, as mutexes see it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

#[cfg(debug_assertions)]
type KernelRules = Checked;
#[cfg(not(debug_assertions))]
type KernelRules = ebb_mutex::Unchecked;

/// Data that one thread at a time works on; others sleep.
pub type Mutex<T> = ebb_mutex::Mutex<T, Kernel, KernelRules>;
/// The same, watched in every build.
pub type Watched<T> = ebb_mutex::Mutex<T, Kernel, Checked>;

/// The semaphore beside it.
pub type Semaphore = ebb_mutex::Semaphore<Kernel>;

/// A free mutex; the name is for reports.
pub const fn new<T>(_name: &'static str, value: T) -> Mutex<T> {
    #[cfg(debug_assertions)]
    let rules = Checked::new(_name);
    #[cfg(not(debug_assertions))]
    let rules = ebb_mutex::Unchecked;
    Mutex::new(value, Kernel, rules)
}

/// A free mutex that is watched in every build.
pub const fn watched<T>(name: &'static str, value: T) -> Watched<T> {
    Watched::new(value, Kernel, Checked::new(name))
}

static LINKS: [AtomicU16; MAX_THREADS] = [const { AtomicU16::new(0) }; MAX_THREADS];
static REGISTRY: Registry = Registry::new();

impl Tasks for Kernel {
    fn current(&self) -> TaskId {
        // The idle context is `TaskId::NONE`.
        TaskId(percpu::own().current.load(Ordering::Relaxed) as u16)
    }

    fn link(&self, task: TaskId) -> &AtomicU16 {
        &LINKS[usize::from(task.0)]
    }

    fn park(&self) {
        thread::park_until(u64::MAX);
    }

    fn unpark(&self, task: TaskId) {
        thread::unpark_slot(task.0);
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }
}

impl Supervisor for Kernel {
    fn registry(&self) -> &Registry {
        &REGISTRY
    }

    fn name(&self, task: TaskId) -> &str {
        thread::name_of(task.0)
    }

    fn in_interrupt(&self) -> bool {
        percpu::own().in_handler.load(Ordering::Relaxed)
    }

    fn misuse(&self, violation: &Violation<'_>) -> ! {
        panic!("{violation}")
    }
}

/// The calling thread is about to end.
pub fn thread_ends() {
    REGISTRY.task_ends(&Kernel, Kernel.current());
}

/// Pages are about to be given to the allocator: no held mutex may lie in them.
#[track_caller]
pub fn memory_ends(page: u64, order: u32) {
    let start = (page * PAGE_SIZE) as usize;
    REGISTRY.memory_ends(&Kernel, start..start + ((PAGE_SIZE as usize) << order), Location::caller());
}

/// Gives a page back, looking for held mutexes in it in every build.
#[track_caller]
pub fn give_watched(page: u64) {
    memory_ends(page, 0);
    page::give(page, 0);
}
