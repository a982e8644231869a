//! A mutex whose waiters sleep, for kernel threads.
//!
//! The rules of a mutex:
//!
//! - one holder at a time, and only the holder unlocks;
//! - no unlock of what is unlocked, no lock of what one holds already;
//! - it is made through [`Mutex::new`] or [`RawMutex::new`], not by copying or clearing memory, and a held one is not made anew;
//! - a thread does not end holding one, and the memory of a held one is not freed;
//! - it is not used in interrupt handlers.
//!
//! Rust's types make some mistakes impossible. A guard cannot unlock twice:
//!
//! ```compile_fail,E0382
//! # use ebb_mutex::doc::*;
//! let mutex = mutex(1);
//! let guard = mutex.lock();
//! drop(guard);
//! drop(guard);
//! ```
//!
//! The data cannot be kept beyond the guard:
//!
//! ```compile_fail,E0505
//! # use ebb_mutex::doc::*;
//! let mutex = mutex(1);
//! let guard = mutex.lock();
//! let data: &u32 = &guard;
//! drop(guard);
//! assert_eq!(*data, 1);
//! ```
//!
//! A mutex is neither freed nor made anew while somebody has a guard:
//!
//! ```compile_fail,E0505
//! # use ebb_mutex::doc::*;
//! let mutex = mutex(1);
//! let guard = mutex.lock();
//! drop(mutex);
//! assert_eq!(*guard, 1);
//! ```
//!
//! ```compile_fail,E0506
//! # use ebb_mutex::doc::*;
//! let mut mutex = mutex(1);
//! let guard = mutex.lock();
//! mutex = ebb_mutex::doc::mutex(2);
//! assert_eq!(*guard, 1);
//! ```
//!
//! And another thread cannot unlock it:
//!
//! ```compile_fail,E0277
//! # use ebb_mutex::doc::*;
//! let mutex = mutex(1);
//! let guard = mutex.lock();
//! std::thread::scope(|scope| {
//!     scope.spawn(move || drop(guard));
//! });
//! ```
//!
//! What is left (a guard forgotten, a raw mutex, recursion, an interrupt handler, memory reused behind Rust's back) is
//! found by [`Checked`], the debug build's [`Rules`]: it names the lock, its owner, both places, all locks held, and for
//! a deadlock every thread and lock of the circle. With [`Unchecked`] nothing of it is compiled.
//!
//! Locking: inside, a byte that protects the wait list, held for a few instructions and never across a sleep; in a debug
//! build the [`Registry`]'s, too. Specification: the generic mutex that came to Linux in 2006 and its rules; the semaphore
//! is the one it replaced.
#![no_std]
#![deny(unsafe_code)]

mod debug;
#[doc(hidden)]
pub mod doc;
mod list;
mod mutex;
mod raw;
mod semaphore;
mod tasks;

/// The atomics, which a model checker replaces (`tests/loom.rs` includes the modules beside another such module).
mod sync {
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, Ordering};
}

pub use debug::{Checked, Held, Registry, Supervisor, Violation};
pub use list::WaitList;
pub use mutex::{Guard, Interrupted, Mutex};
pub use raw::{RawMutex, Rules, Unchecked};
pub use semaphore::Semaphore;
pub use tasks::{TaskId, Tasks};
