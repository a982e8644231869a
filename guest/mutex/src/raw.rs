//! The mutex without data: a count and a wait list.
//!
//! The count is 1 when the mutex is free, 0 when it is held, negative when it is held and somebody may wait. Uncontended,
//! lock and unlock are one atomic operation each. A waiter stands in the list and keeps the count at -1, so that the
//! unlock looks at the list; unlock sets the count to 1 under the list's lock and wakes the first. Whoever comes by may
//! take a free mutex before the woken one does (that is what makes it fast); the woken one keeps its place in the list.

use core::panic::Location;

use crate::list::WaitList;
use crate::sync::{AtomicI32, Ordering};
use crate::tasks::Tasks;

/// What watches a mutex's use. Each is called with the place in the caller's code.
pub trait Rules<K: Tasks> {
    /// A thread is about to lock. The mutex is at `lock`.
    fn lock(&self, tasks: &K, lock: usize, place: &'static Location<'static>);
    /// It has to wait.
    fn wait(&self, tasks: &K, lock: usize, place: &'static Location<'static>);
    /// It gave up waiting.
    fn give_up(&self, tasks: &K, lock: usize);
    /// It has the mutex.
    fn acquired(&self, tasks: &K, lock: usize, place: &'static Location<'static>);
    /// It is about to unlock.
    fn unlock(&self, tasks: &K, lock: usize, place: &'static Location<'static>);
    /// The mutex is freed or made anew.
    fn end(&self, tasks: &K, lock: usize, place: &'static Location<'static>);
}

/// No rules: the release build.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unchecked;

impl<K: Tasks> Rules<K> for Unchecked {
    #[inline(always)]
    fn lock(&self, _: &K, _: usize, _: &'static Location<'static>) {}
    #[inline(always)]
    fn wait(&self, _: &K, _: usize, _: &'static Location<'static>) {}
    #[inline(always)]
    fn give_up(&self, _: &K, _: usize) {}
    #[inline(always)]
    fn acquired(&self, _: &K, _: usize, _: &'static Location<'static>) {}
    #[inline(always)]
    fn unlock(&self, _: &K, _: usize, _: &'static Location<'static>) {}
    #[inline(always)]
    fn end(&self, _: &K, _: usize, _: &'static Location<'static>) {}
}

/// A mutex without data, whose user calls lock and unlock in pairs. What can go wrong with that is what [`Rules`] find.
#[derive(Debug)]
pub struct RawMutex<K: Tasks, R: Rules<K> = Unchecked> {
    count: AtomicI32,
    waiters: WaitList,
    tasks: K,
    rules: R,
}

impl<K: Tasks, R: Rules<K>> RawMutex<K, R> {
    /// A free mutex of a count of 1 and an empty list.
    pub const fn with(count: AtomicI32, waiters: WaitList, tasks: K, rules: R) -> Self {
        Self { count, waiters, tasks, rules }
    }

    /// Where it is, which is how the rules know it.
    pub fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Locks, waiting as long as it takes.
    #[inline]
    #[track_caller]
    pub fn lock(&self) {
        let place = Location::caller();
        self.rules.lock(&self.tasks, self.address(), place);
        if self.count.fetch_sub(1, Ordering::Acquire) != 1 {
            // Nobody interrupts this wait, so it always gets the mutex.
            let _ = self.wait(false, place);
        }
        self.rules.acquired(&self.tasks, self.address(), place);
    }

    /// Locks, or gives up when the thread is interrupted while it waits; whether it locked.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn lock_interruptible(&self) -> bool {
        let place = Location::caller();
        self.rules.lock(&self.tasks, self.address(), place);
        if self.count.fetch_sub(1, Ordering::Acquire) != 1 && !self.wait(true, place) {
            return false;
        }
        self.rules.acquired(&self.tasks, self.address(), place);
        true
    }

    /// Locks if nobody has it; whether it did.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn try_lock(&self) -> bool {
        let place = Location::caller();
        let free = self.count.compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if free {
            self.rules.lock(&self.tasks, self.address(), place);
            self.rules.acquired(&self.tasks, self.address(), place);
        }
        free
    }

    /// Unlocks. By the holder only.
    #[inline]
    #[track_caller]
    pub fn unlock(&self) {
        self.rules.unlock(&self.tasks, self.address(), Location::caller());
        if self.count.fetch_add(1, Ordering::Release) != 0 {
            self.wake();
        }
    }

    /// Whether somebody has it, at some instant.
    pub fn is_locked(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 1
    }

    /// Makes it a free mutex again, whatever it was.
    #[track_caller]
    pub fn reset(&mut self) {
        self.rules.end(&self.tasks, self.address(), Location::caller());
        self.count.store(1, Ordering::Relaxed);
    }

    /// The kernel it lives in.
    pub fn tasks(&self) -> &K {
        &self.tasks
    }

    /// Waits in the list. Whoever locks takes the count from 1 to something else, so an exchange that finds 1 locked it.
    #[cold]
    fn wait(&self, interruptible: bool, place: &'static Location<'static>) -> bool {
        let me = self.tasks.current();
        let mut list = self.waiters.lock(&self.tasks);
        list.push(me);
        let mut announced = false;
        while self.count.swap(-1, Ordering::Acquire) != 1 {
            let gives_up = interruptible && self.tasks.is_interrupted();
            if gives_up {
                // A negative count without waiters makes the next unlock look at an empty list, no more.
                list.remove(me);
            }
            drop(list);
            if gives_up {
                self.rules.give_up(&self.tasks, self.address());
                return false;
            }
            if !announced {
                self.rules.wait(&self.tasks, self.address(), place);
                announced = true;
            }
            self.tasks.park();
            list = self.waiters.lock(&self.tasks);
        }
        list.remove(me);
        if list.first().is_none() {
            // An exchange, here and in `wake`, though a store would do: loom orders stores that race with it wrongly.
            self.count.swap(0, Ordering::Relaxed);
        }
        true
    }

    #[cold]
    fn wake(&self) {
        let list = self.waiters.lock(&self.tasks);
        self.count.swap(1, Ordering::Release);
        if let Some(first) = list.first() {
            // Under the list's lock: the thread cannot have gone.
            self.tasks.unpark(first);
        }
    }
}

impl<K: Tasks, R: Rules<K>> Drop for RawMutex<K, R> {
    #[track_caller]
    fn drop(&mut self) {
        self.rules.end(&self.tasks, self.address(), Location::caller());
    }
}
