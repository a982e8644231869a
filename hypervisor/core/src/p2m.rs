//! A domain's physical-to-machine table: the nested page table itself, its only representation.
//!
//! One walker for all formats; [`EntryFormat`] encodes and decodes entries. Four levels, numbered from 0 (4 KiB
//! leaves) to 3 (the root); leaves at levels 0, 1 (2 MiB) and 2 (1 GiB). The record of a table's frame counts its
//! present entries, so an empty table is found and freed at once, and a full one whose leaves form a superpage becomes
//! one again.
//!
//! Invariants: a leaf of kind [`FrameKind::Ram`] maps exactly one block of the domain's, of the leaf's order, and no
//! other leaf maps it. Tables are zero when their count is.
//!
//! Locking: the owner keeps a `P2m` in a lock of rank P2M. What is removed goes to a [`Retired`], which must be flushed
//! after the lock is released and before anything of it is used again.

pub mod ept;
pub mod npt;
mod retire;
mod search;
mod superpages;

use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use shared_abi::xen::{Errno, Gfn, Mfn};

use crate::heap::{Extent, FrameHeap, PinnedFrame};
use crate::machine::{Machine, MachineAddress};
pub use retire::{Flushed, MAX_FOREIGN, Retired};
pub(crate) use search::Piece;
use superpages::{HEAL_CREDIT, TO_HEAL};

/// One past the highest guest frame number: 40 bits of guest-physical address.
pub const GFN_LIMIT: u64 = 1 << 28;
const ROOT_LEVEL: u32 = 3;
const ENTRIES: u32 = 512;
/// Losses of translations are noted by this many regions.
const REGIONS: usize = 64;
/// No table: a gfn that far up does not exist.
const NO_RECENT: (u64, Mfn) = (u64::MAX, Mfn(0));

/// Whose frame a leaf maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The domain's own memory, owned through this leaf.
    Ram,
    /// A frame of the hypervisor's (shared info, …), not charged to the domain.
    Hypervisor,
    /// Another domain's frame, pinned by this leaf.
    Foreign,
    /// A frame mapped by grant, pinned by this leaf. Only the end of the grant's mapping takes it out.
    Grant,
}

impl FrameKind {
    /// In two bits of an entry.
    fn number(self) -> u64 {
        self as u64
    }

    /// Out of the two lowest bits.
    fn from_number(number: u64) -> Self {
        match number & 3 {
            0 => FrameKind::Ram,
            1 => FrameKind::Hypervisor,
            2 => FrameKind::Foreign,
            _ => FrameKind::Grant,
        }
    }
}

/// What a leaf entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The first frame.
    pub mfn: Mfn,
    /// Whose it is.
    pub kind: FrameKind,
    /// Whether the guest may write to it.
    pub writable: bool,
}

/// A decoded entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// The table of the next level down.
    Table(Mfn),
    /// A translation.
    Leaf(Leaf),
}

/// A vendor's encoding of entries. A value of 0 is [`Entry::Absent`] in every format.
pub trait EntryFormat: Send + Sync + 'static {
    /// An entry that points to a table.
    fn table(table: Mfn) -> u64;
    /// A leaf for a table of `level`.
    fn leaf(leaf: Leaf, level: u32) -> u64;
    /// What an entry in a table of `level` says. The processor may have set accessed and dirty bits.
    fn decode(entry: u64, level: u32) -> Entry;
    /// The highest level that may hold leaves: 2 with 1 GiB pages, 1 without.
    fn largest_leaf_level() -> u32 {
        2
    }
}

/// Where a guest frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The frame itself.
    pub mfn: Mfn,
    /// Whose it is.
    pub kind: FrameKind,
    /// Whether the guest may write to it.
    pub writable: bool,
    /// log2 of the number of frames of the leaf it is in.
    pub order: u32,
}

/// What a p2m operation works on besides the table.
pub struct Frames<'a, M: Machine> {
    /// The machine, for its memory.
    pub machine: &'a M,
    /// The heap, for tables and records.
    pub heap: &'a FrameHeap,
}

impl<M: Machine> Clone for Frames<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Frames<'_, M> {}

/// A place for an entry.
#[derive(Clone, Copy)]
struct Slot {
    table: Mfn,
    level: u32,
    index: u32,
}

impl Slot {
    fn in_table(table: Mfn, level: u32, gfn: u64) -> Self {
        Self { table, level, index: (gfn >> (9 * level)) as u32 % ENTRIES }
    }

    fn address(self) -> MachineAddress {
        MachineAddress::in_frame(self.table, self.index as usize * 8)
    }

    fn load<M: Machine>(self, machine: &M) -> u64 {
        machine.word64(self.address()).load(Ordering::Relaxed)
    }

    fn read<M: Machine>(self, machine: &M) -> Entry {
        M::Format::decode(self.load(machine), self.level)
    }

    fn store<M: Machine>(self, machine: &M, value: u64) {
        machine.word64(self.address()).store(value, Ordering::Release);
    }
}

/// The table.
pub struct P2m<M: Machine> {
    root: Option<Mfn>,
    /// Tables besides the root.
    tables: u64,
    table_limit: u64,
    generation: u64,
    /// By [`region_of`] a gfn: the generation that last lost a translation there.
    lost: [u64; REGIONS],
    /// The table of level 0 that was changed last, and which 512 gfns it is for.
    recent: (u64, Mfn),
    /// Additions since a superpage was last put together, up to [`HEAL_CREDIT`].
    heal_credit: u32,
    /// Gfns in tables that may have become superpages while there was no credit.
    to_heal: ArrayVec<Gfn, TO_HEAL>,
    closed: bool,
    machine: PhantomData<fn() -> M>,
}

impl<M: Machine> P2m<M> {
    /// An empty table that may use `table_limit` frames besides its root, or `None` when memory is short.
    pub fn new(frames: Frames<'_, M>, table_limit: u64) -> Option<Self> {
        let root = frames.heap.allocate_page_table(frames.machine)?;
        let (root, _) = root.into_record();
        Some(Self {
            root: Some(root),
            tables: 0,
            table_limit,
            generation: 0,
            lost: [0; REGIONS],
            recent: NO_RECENT,
            heal_credit: HEAL_CREDIT,
            to_heal: ArrayVec::new(),
            closed: false,
            machine: PhantomData,
        })
    }

    /// The root's frame.
    ///
    /// # Panics
    /// After [`P2m::free_root`].
    pub fn root(&self) -> Mfn {
        self.root.expect("the p2m is gone")
    }

    /// Changes with each removal or replacement of a translation, never with an addition.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether no translation in `regions` (a set of bits numbered by [`region_of`]) has been lost since `generation`.
    pub(crate) fn unchanged_since(&self, generation: u64, regions: u64) -> bool {
        let mut left = regions;
        while left != 0 {
            if self.lost[left.trailing_zeros() as usize] > generation {
                return false;
            }
            left &= left - 1;
        }
        true
    }

    /// Notes that the translations of a leaf at `gfn` are going.
    fn note_loss(&mut self, gfn: Gfn, level: u32) {
        self.generation += 1;
        if level == 2 {
            self.lost = [self.generation; REGIONS];
        } else {
            self.lost[region_of(gfn) as usize] = self.generation;
        }
    }

    /// Forbids additions from now on: the domain ends.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether additions are forbidden.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Tables in use besides the root.
    pub fn tables(&self) -> u64 {
        self.tables
    }

    /// Where `gfn` is.
    pub fn lookup(&self, machine: &M, gfn: Gfn) -> Option<Translation> {
        if gfn.0 >= GFN_LIMIT {
            return None;
        }
        let (mut table, mut level) = match self.recent_slot(gfn) {
            Some(slot) => (slot.table, 0),
            None => (self.root?, ROOT_LEVEL),
        };
        loop {
            match Slot::in_table(table, level, gfn.0).read(machine) {
                Entry::Absent => return None,
                Entry::Table(next) => {
                    table = next;
                    level -= 1;
                }
                Entry::Leaf(leaf) => {
                    let order = 9 * level;
                    let mfn = Mfn(leaf.mfn.0 + (gfn.0 & ((1 << order) - 1)));
                    return Some(Translation { mfn, kind: leaf.kind, writable: leaf.writable, order });
                }
            }
        }
    }

    /// The place for `gfn`'s entry in the table that was changed last, if that is the one.
    fn recent_slot(&self, gfn: Gfn) -> Option<Slot> {
        (self.recent.0 == gfn.0 >> 9).then(|| Slot::in_table(self.recent.1, 0, gfn.0))
    }

    /// The place for `gfn`'s entry at `level`, if there are tables down to there.
    fn existing_slot(&self, machine: &M, gfn: Gfn, level: u32) -> Option<Slot> {
        if let Some(slot) = self.recent_slot(gfn).filter(|_| level == 0) {
            return Some(slot);
        }
        let mut slot = Slot::in_table(self.root?, ROOT_LEVEL, gfn.0);
        while slot.level != level {
            let Entry::Table(next) = slot.read(machine) else { return None };
            slot = Slot::in_table(next, slot.level - 1, gfn.0);
        }
        Some(slot)
    }

    /// The entry that points to the table of `slot`, which is on the way to `gfn` and not the root.
    fn above(&self, machine: &M, gfn: Gfn, slot: Slot) -> Slot {
        self.existing_slot(machine, gfn, slot.level + 1).expect("a table has an entry above it")
    }

    /// Maps `1 << order` frames at `gfn`, whose orders are multiples of 9 and both aligned. What was mapped there is
    /// retired.
    ///
    /// # Errors
    /// `EINVAL` for a range outside the table or misaligned, over a grant's mapping, or over foreign mappings that do
    /// not fit the batch;
    /// `ENOMEM` when a table is needed and there is none. Nothing has changed then, and `leaf` is still the caller's.
    pub fn map(
        &mut self,
        frames: Frames<'_, M>,
        gfn: Gfn,
        order: u32,
        leaf: Leaf,
        retired: &mut Retired,
    ) -> Result<(), Errno> {
        let level = order / 9;
        let aligned = (gfn.0 | leaf.mfn.0) & ((1 << order) - 1) == 0;
        if self.closed
            || !order.is_multiple_of(9)
            || level > M::Format::largest_leaf_level()
            || !aligned
            || gfn.0 >= GFN_LIMIT
        {
            return Err(Errno::EINVAL);
        }
        let slot = self.descend(frames, gfn, level, retired)?;
        let old = slot.read(frames.machine);
        if !self.may_replace(frames, old, level, retired) {
            return Err(Errno::EINVAL);
        }
        slot.store(frames.machine, M::Format::leaf(leaf, level));
        if old == Entry::Absent {
            count(frames.heap, slot.table).fetch_add(1, Ordering::Relaxed);
        } else {
            self.note_loss(gfn, level);
            self.retire(frames, old, level, retired);
        }
        self.heal(frames, gfn, slot, retired);
        Ok(())
    }

    /// Takes the leaf at `gfn` out, or as much of it as `gfn`'s alignment and `most` (an order) allow, and says what
    /// was there: its first frame's translation, with the order that was removed. The frames are retired.
    ///
    /// # Errors
    /// `ENOENT` when nothing is mapped there; `ENOMEM` when a superpage must be split and there is no frame for the
    /// table; `EAGAIN` when `retired` must be flushed and freed first.
    pub fn unmap(
        &mut self,
        frames: Frames<'_, M>,
        gfn: Gfn,
        most: u32,
        retired: &mut Retired,
    ) -> Result<Translation, Errno> {
        let (found, leaf) = self.detach_if(frames, gfn, most, retired, |_| true)?;
        self.retire(frames, Entry::Leaf(leaf), found.order / 9, retired);
        Ok(found)
    }

    /// As [`P2m::unmap`], but what the leaf owned is the caller's now: to map elsewhere, or to retire by
    /// [`P2m::retire_leaf`]. Only if `accept` agrees with what is there.
    ///
    /// # Errors
    /// As [`P2m::unmap`], and `EINVAL` when `accept` refuses.
    pub(crate) fn detach_if(
        &mut self,
        frames: Frames<'_, M>,
        gfn: Gfn,
        most: u32,
        retired: &mut Retired,
        accept: impl FnOnce(&Translation) -> bool,
    ) -> Result<(Translation, Leaf), Errno> {
        let found = self.lookup(frames.machine, gfn).ok_or(Errno::ENOENT)?;
        if !accept(&found) {
            return Err(Errno::EINVAL);
        }
        if matches!(found.kind, FrameKind::Foreign | FrameKind::Grant) && !retired.has_room() {
            return Err(Errno::EAGAIN);
        }
        let aligned = if gfn.0 == 0 { found.order } else { gfn.0.trailing_zeros() };
        let level = found.order.min(most).min(aligned) / 9;
        let slot = self.descend(frames, gfn, level, retired)?;
        self.note_loss(gfn, level);
        self.clear(frames, gfn, slot, retired);
        retired.note_change();
        let leaf = Leaf { mfn: found.mfn, kind: found.kind, writable: found.writable };
        Ok((Translation { order: 9 * level, ..found }, leaf))
    }

    /// Retires what [`P2m::detach_if`] took out.
    #[inline]
    pub(crate) fn retire_leaf(&self, frames: Frames<'_, M>, leaf: Leaf, order: u32, retired: &mut Retired) {
        match leaf.kind {
            FrameKind::Ram => retired.push(frames.heap, Extent::from_record(leaf.mfn, order)),
            FrameKind::Hypervisor => retired.note_change(),
            FrameKind::Foreign | FrameKind::Grant => retired.push_foreign(PinnedFrame::from_record(leaf.mfn)),
        }
    }

    /// Gives the root back, once nothing is mapped.
    ///
    /// # Panics
    /// When something is.
    pub fn free_root(&mut self, heap: &FrameHeap) {
        if let Some(root) = self.root.take() {
            assert_eq!(count(heap, root).load(Ordering::Relaxed), 0, "p2m freed with mappings");
            self.recent = NO_RECENT;
            heap.free_page_table(Extent::from_record(root, 0));
        }
    }

    /// Goes down to the place of `gfn`'s entry at `level`, makes tables that are missing and splits leaves in the way.
    #[inline]
    fn descend(&mut self, frames: Frames<'_, M>, gfn: Gfn, level: u32, retired: &mut Retired) -> Result<Slot, Errno> {
        match self.recent_slot(gfn) {
            Some(slot) if level == 0 => Ok(slot),
            _ => self.descend_from_root(frames, gfn, level, retired),
        }
    }

    #[inline(never)]
    fn descend_from_root(
        &mut self,
        frames: Frames<'_, M>,
        gfn: Gfn,
        level: u32,
        retired: &mut Retired,
    ) -> Result<Slot, Errno> {
        let mut slot = Slot::in_table(self.root.ok_or(Errno::EINVAL)?, ROOT_LEVEL, gfn.0);
        while slot.level != level {
            let table = match slot.read(frames.machine) {
                Entry::Table(table) => table,
                Entry::Absent => match self.new_table(frames) {
                    Ok(table) => {
                        slot.store(frames.machine, M::Format::table(table));
                        count(frames.heap, slot.table).fetch_add(1, Ordering::Relaxed);
                        table
                    }
                    Err(errno) => {
                        self.remove_empty(frames, gfn, slot, retired);
                        return Err(errno);
                    }
                },
                Entry::Leaf(leaf) => self.split(frames, slot, leaf)?,
            };
            slot = Slot::in_table(table, slot.level - 1, gfn.0);
        }
        if level == 0 {
            self.recent = (gfn.0 >> 9, slot.table);
        }
        Ok(slot)
    }

    /// Takes the table of `slot` out if it is empty, and those above it that become so.
    fn remove_empty(&mut self, frames: Frames<'_, M>, gfn: Gfn, slot: Slot, retired: &mut Retired) {
        let mut slot = slot;
        while slot.level != ROOT_LEVEL && count(frames.heap, slot.table).load(Ordering::Relaxed) == 0 {
            let above = self.above(frames.machine, gfn, slot);
            above.store(frames.machine, 0);
            count(frames.heap, above.table).fetch_sub(1, Ordering::Relaxed);
            self.retire_table(frames, slot.table, retired);
            slot = above;
        }
    }

    fn new_table(&mut self, frames: Frames<'_, M>) -> Result<Mfn, Errno> {
        if self.tables >= self.table_limit {
            return Err(Errno::ENOMEM);
        }
        let table = frames.heap.allocate_page_table(frames.machine).ok_or(Errno::ENOMEM)?;
        self.tables += 1;
        Ok(table.into_record().0)
    }

    /// Whether `old` can be replaced in one step: single leaves always, tables when they hold only the domain's memory.
    fn may_replace(&self, frames: Frames<'_, M>, old: Entry, level: u32, retired: &Retired) -> bool {
        match old {
            Entry::Absent => true,
            Entry::Leaf(Leaf { kind: FrameKind::Grant, .. }) => false,
            Entry::Leaf(leaf) => leaf.kind != FrameKind::Foreign || retired.has_room(),
            // A gibibyte of small pages would be too much for one step.
            Entry::Table(_) if level != 1 => false,
            Entry::Table(table) => (0..ENTRIES).all(|index| {
                let entry = Slot { table, level: 0, index }.read(frames.machine);
                !matches!(entry, Entry::Leaf(leaf) if leaf.kind != FrameKind::Ram)
            }),
        }
    }

    /// Clears an entry, and takes out the tables that become empty.
    #[inline]
    fn clear(&mut self, frames: Frames<'_, M>, gfn: Gfn, slot: Slot, retired: &mut Retired) {
        slot.store(frames.machine, 0);
        if count(frames.heap, slot.table).fetch_sub(1, Ordering::Relaxed) == 1 {
            self.remove_empty(frames, gfn, slot, retired);
        }
    }

    /// Retires what an entry of `level` held, which is in no table any more.
    #[inline]
    fn retire(&mut self, frames: Frames<'_, M>, old: Entry, level: u32, retired: &mut Retired) {
        match old {
            Entry::Absent => {}
            Entry::Leaf(leaf) => self.retire_leaf(frames, leaf, 9 * level, retired),
            Entry::Table(table) => {
                for index in 0..ENTRIES {
                    let slot = Slot { table, level: level - 1, index };
                    self.retire(frames, slot.read(frames.machine), level - 1, retired);
                }
                self.retire_table(frames, table, retired);
            }
        }
    }

    /// Retires a table that no entry points to any more.
    fn retire_table(&mut self, frames: Frames<'_, M>, table: Mfn, retired: &mut Retired) {
        self.tables -= 1;
        self.recent = NO_RECENT;
        retired.push(frames.heap, Extent::from_record(table, 0));
    }
}

/// Which of the [`REGIONS`] a gfn is in: gfns of one superpage are in one.
pub(crate) fn region_of(gfn: Gfn) -> u32 {
    (gfn.0 >> 9) as u32 % REGIONS as u32
}

fn count(heap: &FrameHeap, table: Mfn) -> &core::sync::atomic::AtomicU32 {
    &heap.frame(table.0 as u32).count
}

/// Splits `1 << order` frames at `gfn` into the pieces a p2m maps: the largest order that is a multiple of 9.
pub fn leaf_order<M: Machine>(order: u32) -> u32 {
    (order / 9).min(M::Format::largest_leaf_level()) * 9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries_survive_a_round_trip<F: EntryFormat>() {
        for level in 0..3 {
            for kind in [FrameKind::Ram, FrameKind::Hypervisor, FrameKind::Foreign, FrameKind::Grant] {
                for writable in [false, true] {
                    let leaf = Leaf { mfn: Mfn(0xab_c000_0000 >> 12), kind, writable };
                    assert_eq!(F::decode(F::leaf(leaf, level), level), Entry::Leaf(leaf));
                }
            }
        }
        assert_eq!(F::decode(F::table(Mfn(77)), 2), Entry::Table(Mfn(77)));
        assert_eq!(F::decode(0, 1), Entry::Absent);
    }

    #[test]
    fn entries_of_npt() {
        entries_survive_a_round_trip::<npt::Npt>();
    }

    #[test]
    fn entries_of_ept() {
        entries_survive_a_round_trip::<ept::Ept>();
    }
}
