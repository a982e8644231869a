//! Superpages: splitting one where a part of it goes, and putting one together where its parts have come back.
//!
//! A table whose 512 leaves continue each other on an aligned frame is a superpage in pieces. It is made whole when it is
//! full and there is credit for the work; until then its gfn waits.

use core::sync::atomic::Ordering;

use shared_abi::xen::{Errno, Gfn, Mfn};

use super::{ENTRIES, Entry, EntryFormat, FrameKind, Frames, Leaf, P2m, Retired, Slot, count};
use crate::machine::Machine;

/// Putting a superpage together costs about this many additions' worth of steps, so it is done once in as many: a guest
/// that gives a page and takes it back again does not pay for a split and a merge each time.
pub(super) const HEAL_CREDIT: u32 = 512;
/// Superpages that may wait to be put together; more are forgotten.
pub(super) const TO_HEAL: usize = 8;

impl<M: Machine> P2m<M> {
    /// The frame that would continue a neighbour of `gfn`'s: with it, a split superpage becomes whole again.
    pub fn continuation(&self, machine: &M, gfn: Gfn) -> Option<Mfn> {
        let slot = self.existing_slot(machine, gfn, 0)?;
        let (neighbour, ahead) = if slot.index == 0 { (1, true) } else { (slot.index - 1, false) };
        match (Slot { index: neighbour, ..slot }).read(machine) {
            Entry::Leaf(Leaf { mfn, kind: FrameKind::Ram, .. }) if ahead => mfn.0.checked_sub(1).map(Mfn),
            Entry::Leaf(Leaf { mfn, kind: FrameKind::Ram, .. }) => Some(Mfn(mfn.0 + 1)),
            _ => None,
        }
    }

    /// Replaces a superpage's leaf by a table of the next smaller leaves. Every translation stays what it was.
    pub(super) fn split(&mut self, frames: Frames<'_, M>, slot: Slot, leaf: Leaf) -> Result<Mfn, Errno> {
        let table = self.new_table(frames)?;
        let level = slot.level - 1;
        let order = 9 * level;
        // The format of leaves is the same but for the frame, whose field is added to.
        let first = M::Format::leaf(leaf, level);
        let step = M::Format::leaf(Leaf { mfn: Mfn(leaf.mfn.0 + (1 << order)), ..leaf }, level) - first;
        for index in 0..ENTRIES {
            Slot { table, level, index }.store(frames.machine, first + u64::from(index) * step);
        }
        count(frames.heap, table).store(ENTRIES, Ordering::Relaxed);
        if leaf.kind == FrameKind::Ram {
            frames.heap.split_record(leaf.mfn, order + 9, order);
        }
        slot.store(frames.machine, M::Format::table(table));
        Ok(table)
    }

    /// After an addition at `slot`: puts superpages together, here or where they wait, if it is time for one.
    pub(super) fn heal(&mut self, frames: Frames<'_, M>, gfn: Gfn, slot: Slot, retired: &mut Retired) {
        let whole = is_full(frames, slot) && may_be_superpage(frames, slot).is_some();
        if self.heal_credit < HEAL_CREDIT {
            self.heal_credit += 1;
            if whole && !self.to_heal.iter().any(|waiting| waiting.0 >> 9 == gfn.0 >> 9) {
                let _ = self.to_heal.try_push(gfn);
            }
        } else if whole {
            self.heal_credit = 0;
            self.merge_upwards(frames, gfn, slot, retired);
        } else if let Some(waiting) = self.to_heal.pop() {
            let slot = self.existing_slot(frames.machine, waiting, 0);
            if let Some(slot) = slot.filter(|slot| may_be_superpage(frames, *slot).is_some()) {
                self.heal_credit = 0;
                self.merge_upwards(frames, waiting, slot, retired);
            }
        }
    }

    /// Makes a superpage of the table of `slot`, and of those above it, if they have become one.
    fn merge_upwards(&mut self, frames: Frames<'_, M>, gfn: Gfn, slot: Slot, retired: &mut Retired) {
        let mut slot = slot;
        while let Some(leaf) = superpage_in(frames, slot) {
            let order = 9 * slot.level;
            frames.heap.merge_record(leaf.mfn, order + 9, order);
            let above = self.above(frames.machine, gfn, slot);
            above.store(frames.machine, M::Format::leaf(leaf, above.level));
            self.retire_table(frames, slot.table, retired);
            slot = above;
        }
    }
}

/// Whether every entry of the table of `slot` is in use.
#[inline]
fn is_full<M: Machine>(frames: Frames<'_, M>, slot: Slot) -> bool {
    count(frames.heap, slot.table).load(Ordering::Relaxed) == ENTRIES
}

/// The first leaf of the superpage that the table of `changed` may form: a look at the first entry and at `changed`, the
/// latest, which makes the common "no" cheap.
fn may_be_superpage<M: Machine>(frames: Frames<'_, M>, changed: Slot) -> Option<Leaf> {
    if changed.level >= M::Format::largest_leaf_level() || !is_full(frames, changed) {
        return None;
    }
    let order = 9 * changed.level;
    let Entry::Leaf(first) = (Slot { index: 0, ..changed }).read(frames.machine) else { return None };
    let aligned = first.kind == FrameKind::Ram && first.mfn.0 & ((1 << (order + 9)) - 1) == 0;
    (aligned && continues(frames, changed, first)).then_some(first)
}

/// The superpage that the table of `changed` forms, if it does.
fn superpage_in<M: Machine>(frames: Frames<'_, M>, changed: Slot) -> Option<Leaf> {
    let first = may_be_superpage(frames, changed)?;
    (1..ENTRIES).all(|index| continues(frames, Slot { index, ..changed }, first)).then_some(first)
}

/// Whether an entry is what it must be in the superpage that begins with `first`.
fn continues<M: Machine>(frames: Frames<'_, M>, slot: Slot, first: Leaf) -> bool {
    let expected = Leaf { mfn: Mfn(first.mfn.0 + (u64::from(slot.index) << (9 * slot.level))), ..first };
    slot.read(frames.machine) == Entry::Leaf(expected)
}
