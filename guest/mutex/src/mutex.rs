//! The mutex with the data it protects.
#![allow(unsafe_code)] // The data is reached through a shared reference while the mutex is held.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::list::WaitList;
use crate::raw::{RawMutex, Rules, Unchecked};
use crate::semaphore::Semaphore;
use crate::sync::{AtomicBool, AtomicI32, AtomicU16};
use crate::tasks::{TaskId, Tasks};

/// The wait was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl WaitList {
    /// An empty list.
    pub const fn new() -> Self {
        Self::with(AtomicBool::new(false), AtomicU16::new(TaskId::NONE), AtomicU16::new(TaskId::NONE))
    }
}

impl Default for WaitList {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Tasks, R: Rules<K>> RawMutex<K, R> {
    /// A free mutex.
    pub const fn new(tasks: K, rules: R) -> Self {
        Self::with(AtomicI32::new(1), WaitList::new(), tasks, rules)
    }
}

impl<K: Tasks> Semaphore<K> {
    /// A semaphore with so many permits.
    pub const fn new(permits: i32, tasks: K) -> Self {
        Self::with(AtomicI32::new(permits), AtomicI32::new(0), WaitList::new(), tasks)
    }
}

/// Data that one thread at a time works on; the others sleep.
#[derive(Debug)]
pub struct Mutex<T, K: Tasks, R: Rules<K> = Unchecked> {
    raw: RawMutex<K, R>,
    value: UnsafeCell<T>,
}

// SAFETY: the mutex gives the data to one thread at a time; the rest is shared as it is.
unsafe impl<T: Send, K: Tasks + Sync, R: Rules<K> + Sync> Sync for Mutex<T, K, R> {}

impl<T, K: Tasks, R: Rules<K>> Mutex<T, K, R> {
    /// A free mutex around `value`.
    pub const fn new(value: T, tasks: K, rules: R) -> Self {
        Self { raw: RawMutex::new(tasks, rules), value: UnsafeCell::new(value) }
    }

    /// Waits for the mutex.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> Guard<'_, T, K, R> {
        self.raw.lock();
        Guard { mutex: self, not_send: PhantomData }
    }

    /// Waits for the mutex until the thread is interrupted.
    ///
    /// # Errors
    /// It was.
    #[inline]
    #[track_caller]
    pub fn lock_interruptible(&self) -> Result<Guard<'_, T, K, R>, Interrupted> {
        if self.raw.lock_interruptible() { Ok(Guard { mutex: self, not_send: PhantomData }) } else { Err(Interrupted) }
    }

    /// The mutex if it is free.
    #[inline]
    #[track_caller]
    pub fn try_lock(&self) -> Option<Guard<'_, T, K, R>> {
        self.raw.try_lock().then(|| Guard { mutex: self, not_send: PhantomData })
    }

    /// Whether somebody has it, at some instant.
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    /// The data of a mutex that nobody else can have.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// The mutex, held. Only the thread that locked it can drop it.
#[derive(Debug)]
#[must_use = "the mutex is unlocked at once"]
pub struct Guard<'m, T, K: Tasks, R: Rules<K>> {
    mutex: &'m Mutex<T, K, R>,
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared data.
unsafe impl<T: Sync, K: Tasks + Sync, R: Rules<K> + Sync> Sync for Guard<'_, T, K, R> {}

impl<T, K: Tasks, R: Rules<K>> Deref for Guard<'_, T, K, R> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so its thread has the mutex.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T, K: Tasks, R: Rules<K>> DerefMut for Guard<'_, T, K, R> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and the guard is borrowed mutably.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T, K: Tasks, R: Rules<K>> Drop for Guard<'_, T, K, R> {
    #[inline]
    #[track_caller]
    fn drop(&mut self) {
        self.mutex.raw.unlock();
    }
}
