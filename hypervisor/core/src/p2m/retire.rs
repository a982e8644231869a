//! Frames between their removal from a p2m and their next use: flush before free, enforced by types.
//!
//! What a p2m operation takes out of the tables lands in [`Retired`]. The only way on is [`Retired::flush`], after
//! which no CPU can reach the frames through the domain's translations, and from there [`Flushed::free`].

use arrayvec::ArrayVec;

use crate::heap::{Extent, FrameHeap, NIL, PinnedFrame};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::memory::DomainMemory;

/// Most foreign mappings one batch may remove.
pub const MAX_FOREIGN: usize = 4;

/// Blocks out of a p2m that some TLB may still reach.
#[derive(Debug)]
#[must_use = "retired frames must be flushed and freed"]
pub struct Retired {
    /// A chain of blocks through their frames' records: domain memory and page tables.
    head: u32,
    foreign: ArrayVec<PinnedFrame, MAX_FOREIGN>,
    /// Whether any translation has changed, so that a flush is due even without frames.
    changed: bool,
}

impl Default for Retired {
    fn default() -> Self {
        Self::new()
    }
}

impl Retired {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { head: NIL, foreign: ArrayVec::new(), changed: false }
    }

    /// Whether there is nothing to flush and nothing to free.
    pub fn is_empty(&self) -> bool {
        self.head == NIL && self.foreign.is_empty() && !self.changed
    }

    /// Whether another foreign mapping fits.
    pub(super) fn has_room(&self) -> bool {
        !self.foreign.is_full()
    }

    pub(super) fn push(&mut self, heap: &FrameHeap, extent: Extent) {
        let (first, _) = extent.into_record();
        heap.frame(first.0 as u32).set_next(self.head);
        self.head = first.0 as u32;
        self.changed = true;
    }

    pub(super) fn push_foreign(&mut self, pin: PinnedFrame) {
        self.foreign.push(pin);
        self.changed = true;
    }

    pub(super) fn note_change(&mut self) {
        self.changed = true;
    }

    /// Makes sure that no CPU translates through what has been removed. The caller holds no p2m lock.
    pub fn flush<M: Machine>(self, hv: &Hypervisor<M>, memory: &DomainMemory<M>) -> Flushed {
        if self.changed {
            hv.flush_memory(memory);
        }
        Flushed { retired: self }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        #[cfg(test)]
        if std::thread::panicking() {
            return;
        }
        debug_assert!(self.head == NIL && self.foreign.is_empty(), "retired frames dropped");
    }
}

/// Blocks that nothing reaches any more.
#[derive(Debug)]
#[must_use = "flushed frames must be freed"]
pub struct Flushed {
    retired: Retired,
}

impl Flushed {
    /// Gives the frames back to the heap (pinned ones go with their last pin).
    pub fn free(mut self, heap: &FrameHeap) {
        heap.free_chain(core::mem::replace(&mut self.retired.head, NIL));
        for pin in self.retired.foreign.drain(..) {
            pin.release(heap);
        }
    }
}
