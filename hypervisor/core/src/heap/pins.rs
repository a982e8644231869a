//! A domain's blocks once they are out of the free lists: their pieces, their pins, and how they come back.
//!
//! A pinned frame that leaves its p2m is not freed with the rest: it becomes an orphan, and the last pin frees it. The
//! frame's count decides the race between the two: whoever of "taken out" and "last pin gone" comes second frees.

use core::sync::atomic::Ordering;

use shared_abi::xen::Mfn;

use super::frame::{NIL, ORPHANED, State, Use};
use super::{CHAIN_BATCH, Extent, FrameHeap, HeapState, Kind, Owner, PinnedFrame, REGION_ORDER};

/// For the audit.
impl FrameHeap {
    /// Calls `visit` with each free block.
    pub(crate) fn each_free(&self, mut visit: impl FnMut(u32, u32)) {
        let state = self.state.lock();
        state.clean.each(self.frames, &mut visit);
        state.dirty.each(self.frames, &mut visit);
    }

    /// Who a block belongs to, by its head's record, and its order; `None` for what is free or no head.
    pub(crate) fn owner_of(&self, mfn: u32) -> Option<(Owner, u32)> {
        let state = self.frames.get(mfn as usize)?.state();
        state.owner().map(|owner| (owner, state.order))
    }

    /// Whether a frame is kept only by its pins.
    pub(crate) fn is_orphan(&self, mfn: u32) -> bool {
        self.owner_of(mfn).is_some_and(|(owner, _)| matches!(owner, Owner::Domain(_)))
            && self.frame(mfn).count.load(Ordering::SeqCst) & ORPHANED != 0
    }
}

/// A domain's blocks: pieces, pins, and the end of them.
impl FrameHeap {
    /// Counts a pin on a domain's frame. The caller holds something that keeps the frame the domain's meanwhile (the
    /// lock of the p2m it found it in).
    pub(crate) fn pin(&self, mfn: Mfn) -> PinnedFrame {
        // The region first and last: its count is never below the frames' counts.
        self.region_pins[(mfn.0 >> REGION_ORDER) as usize].fetch_add(1, Ordering::SeqCst);
        self.frames[mfn.0 as usize].count.fetch_add(1, Ordering::SeqCst);
        PinnedFrame::counted(mfn)
    }

    fn unpin(&self, pin: PinnedFrame) {
        let mfn = pin.into_record();
        let info = &self.frames[mfn.0 as usize];
        if info.count.fetch_sub(1, Ordering::SeqCst) == ORPHANED | 1 {
            info.count.store(0, Ordering::SeqCst);
            self.free(Extent::from_record(mfn, 0));
        }
        self.region_pins[(mfn.0 >> REGION_ORDER) as usize].fetch_sub(1, Ordering::SeqCst);
    }

    /// Takes back blocks that have left their domain's p2m and every TLB, chained through their records: frees them,
    /// except for frames that are still pinned; those go with their last pin.
    pub(crate) fn free_chain(&self, head: u32) {
        let mut at = head;
        while at != NIL {
            let mut state = self.state.lock();
            for _ in 0..CHAIN_BATCH {
                if at == NIL {
                    break;
                }
                let info = self.frame(at);
                let (next, record) = (info.next(), info.state());
                let extent = Extent::from_record(Mfn(u64::from(at)), record.order);
                if record.used_as == Use::PageTable {
                    self.free_table_locked(&mut state, extent);
                } else {
                    self.free_unless_pinned_locked(&mut state, extent);
                }
                at = next;
            }
        }
    }

    /// [`FrameHeap::free_chain`] for one block.
    pub(crate) fn free_unless_pinned(&self, extent: Extent) {
        self.free_unless_pinned_locked(&mut self.state.lock(), extent);
    }

    #[inline]
    fn free_unless_pinned_locked(&self, state: &mut HeapState, extent: Extent) {
        if !self.region_pinned(&extent) {
            return self.give_back_locked(state, extent, Kind::Dirty);
        }
        let (first, order) = extent.into_record();
        if order > REGION_ORDER {
            // Only the regions with pins go frame by frame.
            self.split_record(first, order, REGION_ORDER);
            for region in (first.0..first.0 + (1 << order)).step_by(1 << REGION_ORDER) {
                self.free_unless_pinned_locked(state, Extent::from_record(Mfn(region), REGION_ORDER));
            }
            return;
        }
        self.split_record(first, order, 0);
        for mfn in (first.0..first.0 + (1 << order)).map(Mfn) {
            let count = &self.frames[mfn.0 as usize].count;
            if count.load(Ordering::SeqCst) == 0 || count.fetch_or(ORPHANED, Ordering::SeqCst) == 0 {
                count.store(0, Ordering::SeqCst);
                self.give_back_locked(state, Extent::from_record(mfn, 0), Kind::Dirty);
            }
        }
    }

    fn region_pinned(&self, extent: &Extent) -> bool {
        let first = extent.first().0 >> REGION_ORDER;
        let end = ((extent.first().0 + extent.frames() - 1) >> REGION_ORDER) + 1;
        self.region_pins[first as usize..end as usize].iter().any(|pins| pins.load(Ordering::SeqCst) != 0)
    }

    /// Turns the record of one block into records of blocks of order `piece`. The caller owns the block.
    pub(crate) fn split_record(&self, first: Mfn, order: u32, piece: u32) {
        let state = State { order: piece, ..self.frames[first.0 as usize].state() };
        for index in (0..1u64 << order).step_by(1 << piece) {
            self.frames[(first.0 + index) as usize].set_state(state);
        }
    }

    /// The reverse of [`FrameHeap::split_record`]. The caller owns all pieces, and they are of one owner.
    pub(crate) fn merge_record(&self, first: Mfn, order: u32, piece: u32) {
        let state = State { order, ..self.frames[first.0 as usize].state() };
        for index in (0..1u64 << order).step_by(1 << piece) {
            self.frames[(first.0 + index) as usize].set_state(State::NONE);
        }
        self.frames[first.0 as usize].set_state(state);
    }

    /// The order of the block that `mfn` is the head of.
    pub(crate) fn block_order(&self, mfn: u32) -> u32 {
        self.frames[mfn as usize].state().order
    }
}

impl PinnedFrame {
    /// Gives the pin up.
    pub fn release(self, heap: &FrameHeap) {
        heap.unpin(self);
    }
}
