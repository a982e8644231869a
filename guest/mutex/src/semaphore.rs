//! The semaphore that the mutex replaced: a count of permits, of the sleepers, and a wait list. Here to be compared with.
//!
//! The count goes down with each [`Semaphore::down`] and up with each [`Semaphore::up`]; negative, it says how many
//! sleep. What sleepers have taken off is added back under the list's lock, through `sleepers`, and whoever is first
//! looks whether a permit is left for it.

use crate::list::{LockedList, WaitList};
use crate::sync::{AtomicI32, Ordering};
use crate::tasks::Tasks;

/// A counting semaphore.
#[derive(Debug)]
pub struct Semaphore<K: Tasks> {
    count: AtomicI32,
    /// What the sleepers have taken off the count and nobody added back: 0 or 1 outside the list's lock.
    sleepers: AtomicI32,
    waiters: WaitList,
    tasks: K,
}

impl<K: Tasks> Semaphore<K> {
    /// A semaphore of the counts of permits and of sleepers (0) and an empty list.
    pub const fn with(count: AtomicI32, sleepers: AtomicI32, waiters: WaitList, tasks: K) -> Self {
        Self { count, sleepers, waiters, tasks }
    }

    /// Takes a permit, sleeping until there is one.
    #[inline]
    pub fn down(&self) {
        if self.count.fetch_sub(1, Ordering::Acquire) <= 0 {
            self.wait();
        }
    }

    /// Takes a permit if there is one; whether it did.
    #[must_use]
    pub fn try_down(&self) -> bool {
        let mut count = self.count.load(Ordering::Relaxed);
        while count > 0 {
            match self.count.compare_exchange(count, count - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
        false
    }

    /// Gives a permit.
    #[inline]
    pub fn up(&self) {
        if self.count.fetch_add(1, Ordering::Release) < 0 {
            let list = self.waiters.lock(&self.tasks);
            self.wake_first(&list);
        }
    }

    #[cold]
    fn wait(&self) {
        let me = self.tasks.current();
        let mut list = self.waiters.lock(&self.tasks);
        list.push(me);
        let mut sleepers = self.sleepers.load(Ordering::Relaxed) + 1;
        // Adds back what the others took off, and leaves one's own: a permit is there if the result is not negative.
        while self.count.fetch_add(sleepers - 1, Ordering::Acquire) + sleepers - 1 < 0 {
            self.sleepers.store(1, Ordering::Relaxed);
            drop(list);
            self.tasks.park();
            list = self.waiters.lock(&self.tasks);
            sleepers = self.sleepers.load(Ordering::Relaxed);
        }
        self.sleepers.store(0, Ordering::Relaxed);
        list.remove(me);
        // Another permit may be left for the next.
        self.wake_first(&list);
    }

    fn wake_first(&self, list: &LockedList<'_, K>) {
        if let Some(first) = list.first() {
            self.tasks.unpark(first);
        }
    }
}
