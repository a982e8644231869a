//! The thread table's queues: who runs next, and who sleeps until when.
//!
//! Threads are slots (small numbers). Both structures have fixed room and no allocation, because interrupt handlers
//! use them. Not locked: the scheduler's lock covers them.

use arrayvec::ArrayVec;

/// Runnable threads in the order they became so; a thread may be tied to one vCPU.
#[derive(Debug, Default)]
pub struct RunQueue<const N: usize> {
    list: ArrayVec<(u16, Option<u16>), N>,
}

impl<const N: usize> RunQueue<N> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { list: ArrayVec::new_const() }
    }

    /// Puts a thread at the end. Each thread may be in the queue once: a second time is ignored.
    pub fn push(&mut self, slot: u16, pinned: Option<u16>) {
        if !self.list.iter().any(|(present, _)| *present == slot) {
            self.list.push((slot, pinned));
        }
    }

    /// Takes the first thread that may run on `vcpu`.
    pub fn pop(&mut self, vcpu: u16) -> Option<u16> {
        let place = self.list.iter().position(|(_, pinned)| pinned.is_none_or(|only| only == vcpu))?;
        Some(self.list.remove(place).0)
    }

    /// Is there a thread for `vcpu`?
    pub fn has_work(&self, vcpu: u16) -> bool {
        self.list.iter().any(|(_, pinned)| pinned.is_none_or(|only| only == vcpu))
    }
}

/// Sleeping threads by deadline (ns), the earliest last so that it can be popped.
#[derive(Debug, Default)]
pub struct Sleepers<const N: usize> {
    list: ArrayVec<(u64, u16), N>,
}

impl<const N: usize> Sleepers<N> {
    /// Nobody sleeps.
    pub const fn new() -> Self {
        Self { list: ArrayVec::new_const() }
    }

    /// Adds a sleeper; of equal deadlines the first one added wakes first.
    pub fn insert(&mut self, deadline: u64, slot: u16) {
        let place = self.list.partition_point(|(other, _)| *other > deadline);
        self.list.insert(place, (deadline, slot));
    }

    /// Takes a sleeper out before its time; false when it does not sleep.
    pub fn remove(&mut self, slot: u16) -> bool {
        match self.list.iter().position(|(_, other)| *other == slot) {
            Some(place) => {
                self.list.remove(place);
                true
            }
            None => false,
        }
    }

    /// Takes the earliest sleeper whose deadline is not after `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<u16> {
        let (deadline, _) = *self.list.last()?;
        if deadline > now {
            return None;
        }
        self.list.pop().map(|(_, slot)| slot)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<u64> {
        self.list.last().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_threads_wait_for_their_vcpu() {
        let mut queue = RunQueue::<4>::new();
        queue.push(1, Some(1));
        queue.push(2, None);
        queue.push(3, Some(0));
        queue.push(2, None);
        assert!(queue.has_work(5));
        assert_eq!(queue.pop(0), Some(2));
        assert!(!queue.has_work(5));
        assert_eq!(queue.pop(0), Some(3));
        assert_eq!(queue.pop(0), None);
        assert_eq!(queue.pop(1), Some(1));
    }

    #[test]
    fn sleepers_wake_in_order_of_time() {
        let mut sleepers = Sleepers::<4>::new();
        sleepers.insert(30, 3);
        sleepers.insert(10, 1);
        sleepers.insert(20, 2);
        sleepers.insert(10, 4);
        assert_eq!(sleepers.next_deadline(), Some(10));
        assert_eq!(sleepers.pop_due(9), None);
        assert!(sleepers.remove(2) && !sleepers.remove(2));
        let first = [sleepers.pop_due(10), sleepers.pop_due(10), sleepers.pop_due(10)];
        assert_eq!(first, [Some(1), Some(4), None]);
        assert_eq!(sleepers.pop_due(100), Some(3));
        assert_eq!(sleepers.next_deadline(), None);
    }
}
