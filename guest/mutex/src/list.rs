//! A wait list: who waits, in the order they came, and the lock that protects it. Linked by thread numbers, one word for
//! each thread, because a thread waits in one list at a time.

use crate::sync::{AtomicBool, AtomicU16, Ordering};
use crate::tasks::{TaskId, Tasks};

/// The list. Its words are only touched while [`WaitList::lock`] is held.
#[derive(Debug)]
pub struct WaitList {
    head: AtomicU16,
    tail: AtomicU16,
    locked: AtomicBool,
}

impl WaitList {
    /// An empty list, of a lock that is false and two words that are [`TaskId::NONE`].
    pub const fn with(locked: AtomicBool, head: AtomicU16, tail: AtomicU16) -> Self {
        Self { head, tail, locked }
    }

    /// Takes the list for oneself.
    pub fn lock<'l, K: Tasks>(&'l self, tasks: &'l K) -> LockedList<'l, K> {
        while self.locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            tasks.relax();
        }
        LockedList { list: self, tasks }
    }
}

/// The list while it is locked.
#[derive(Debug)]
pub struct LockedList<'l, K: Tasks> {
    list: &'l WaitList,
    tasks: &'l K,
}

impl<K: Tasks> LockedList<'_, K> {
    /// The one who waits longest.
    pub fn first(&self) -> Option<TaskId> {
        some(self.list.head.load(Ordering::Relaxed))
    }

    /// Adds one at the end.
    pub fn push(&self, task: TaskId) {
        self.tasks.link(task).store(TaskId::NONE, Ordering::Relaxed);
        let last = some(self.list.tail.load(Ordering::Relaxed));
        last.map_or(&self.list.head, |last| self.tasks.link(last)).store(task.0, Ordering::Relaxed);
        self.list.tail.store(task.0, Ordering::Relaxed);
    }

    /// Takes one out, wherever it stands.
    pub fn remove(&self, task: TaskId) {
        let next = self.tasks.link(task).load(Ordering::Relaxed);
        let mut before = None;
        let mut at = self.first();
        while let Some(other) = at {
            if other == task {
                before.map_or(&self.list.head, |before| self.tasks.link(before)).store(next, Ordering::Relaxed);
                if next == TaskId::NONE {
                    self.list.tail.store(before.map_or(TaskId::NONE, |before: TaskId| before.0), Ordering::Relaxed);
                }
                return;
            }
            before = at;
            at = some(self.tasks.link(other).load(Ordering::Relaxed));
        }
    }
}

impl<K: Tasks> Drop for LockedList<'_, K> {
    fn drop(&mut self) {
        self.list.locked.store(false, Ordering::Release);
    }
}

fn some(word: u16) -> Option<TaskId> {
    (word != TaskId::NONE).then_some(TaskId(word))
}
