//! A domain's grant table: frames that the guest writes, and beside each a frame that says what is in use.
//!
//! The guest may write anything into its entries at any time. Of an entry's first word (flags and domain) the
//! hypervisor takes a copy, judges it, and marks the entry as read or written by compare-and-exchange, so that the
//! guest either sees the mark or has changed the entry before and the copy is judged anew. What an entry in use means is
//! then remembered by us alone: the guest's changes to it count for nothing until its last use has ended.
//!
//! Invariants, under the table's lock: an entry's frame is pinned once for the entry while it is in use; `in_use` counts
//! the entries in use; the frames of a closed table are gone, those beside them when nothing is in use any more.

use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use shared_abi::grant_table::{
    ENTRIES_PER_FRAME_V1, ENTRY_PERMIT_ACCESS, ENTRY_TYPE_MASK, EntryFlags, GrantRef, GrantStatus,
};
use shared_abi::xen::{DomId, Errno, Gfn, Mfn};

use super::active::Active;
use crate::domain::Domain;
use crate::heap::{Extent, Owner, PinnedFrame};
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, MachineAddress};

/// Most frames of a table.
pub const MAX_FRAMES: u32 = 64;
/// How often a guest may change an entry under our hands before we give up, as in Xen.
const ATTEMPTS: usize = 5;
const ENTRY_BYTES: u32 = 8;

/// A frame of the table.
struct TableFrame {
    /// The guest's.
    shared: Mfn,
    /// Ours: a word ([`Active`]) for each entry.
    active: Mfn,
    /// Where the guest has it, plus one; 0: nowhere.
    at: AtomicU64,
}

/// The table.
pub(super) struct Table {
    frames: ArrayVec<TableFrame, { MAX_FRAMES as usize }>,
    in_use: u32,
    closed: bool,
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Place {
    /// Flags, domain; then the frame.
    entry: MachineAddress,
    active: MachineAddress,
}

impl Table {
    pub const fn new() -> Self {
        Self { frames: ArrayVec::new_const(), in_use: 0, closed: false }
    }

    /// Frames it has.
    pub fn len(&self) -> u32 {
        self.frames.len() as u32
    }

    /// Makes it at least `count` frames long.
    ///
    /// # Errors
    /// `EINVAL` beyond the limit or when the domain ends, `ENOMEM`.
    pub fn grow<M: Machine>(&mut self, hv: &Hypervisor<M>, count: u32) -> Result<(), Errno> {
        if count > MAX_FRAMES || self.closed {
            return Err(Errno::EINVAL);
        }
        while self.len() < count {
            let shared = hv.heap.allocate(&hv.machine, 0, Owner::Hypervisor).ok_or(Errno::ENOMEM)?;
            let Some(active) = hv.heap.allocate(&hv.machine, 0, Owner::Hypervisor) else {
                hv.heap.free(shared);
                return Err(Errno::ENOMEM);
            };
            let (shared, active) = (shared.into_record().0, active.into_record().0);
            self.frames.push(TableFrame { shared, active, at: AtomicU64::new(0) });
        }
        Ok(())
    }

    fn place(&self, gref: GrantRef) -> Option<Place> {
        if self.closed {
            return None;
        }
        self.place_in_use(gref)
    }

    /// The place of an entry in use, whose word we keep also after the table is gone.
    fn place_in_use(&self, gref: GrantRef) -> Option<Place> {
        let frame = self.frames.get((gref.0 / ENTRIES_PER_FRAME_V1) as usize)?;
        let offset = (gref.0 % ENTRIES_PER_FRAME_V1 * ENTRY_BYTES) as usize;
        Some(Place {
            entry: MachineAddress::in_frame(frame.shared, offset),
            active: MachineAddress::in_frame(frame.active, offset),
        })
    }

    /// Begins a use of an entry by `user`, and says which frame is behind it. It stays where it is until
    /// [`Table::end_use`].
    ///
    /// # Errors
    /// `BAD_GNTREF` outside the table; `GENERAL_ERROR` for an entry that does not permit this or is in use by another
    /// domain; `BAD_PAGE` when it does not name memory of the granter's.
    pub fn begin_use<M: Machine>(
        &mut self,
        hv: &Hypervisor<M>,
        granter: &Domain<M>,
        gref: GrantRef,
        user: DomId,
        readonly: bool,
    ) -> Result<Mfn, GrantStatus> {
        let place = self.place(gref).ok_or(GrantStatus::BAD_GNTREF)?;
        let word = hv.machine.word64(place.active);
        let active = Active::unpack(word.load(Ordering::Relaxed));
        if active.in_use() && !active.is_used_by(user) {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let mut next = active.more(readonly).ok_or(GrantStatus::GENERAL_ERROR)?;
        if !active.in_use() || (!readonly && active.writers == 0) {
            let required = (!active.in_use()).then_some(user);
            mark(&hv.machine, place.entry, required, readonly)?;
        }
        if !active.in_use() {
            let gfn = hv.machine.word32(MachineAddress(place.entry.0 + 4)).load(Ordering::Relaxed);
            let Ok(pin) = granter.memory.pin(hv, Gfn(u64::from(gfn))) else {
                unmark(&hv.machine, place.entry, active, readonly);
                return Err(GrantStatus::BAD_PAGE);
            };
            next.mfn = pin.into_record().0 as u32;
            next.domain = user.0 as u8;
            self.in_use += 1;
        }
        word.store(next.pack(), Ordering::Relaxed);
        Ok(next.frame())
    }

    /// Ends a use, after which nothing reaches the frame through it any more. Gives the entry's pin when that was the
    /// last one.
    ///
    /// # Panics
    /// When no such use has begun.
    #[must_use]
    pub fn end_use<M: Machine>(&mut self, hv: &Hypervisor<M>, gref: GrantRef, readonly: bool) -> Option<PinnedFrame> {
        let place = self.place_in_use(gref).expect("an entry in use");
        let word = hv.machine.word64(place.active);
        let before = Active::unpack(word.load(Ordering::Relaxed));
        let after = before.less(readonly);
        word.store(after.pack(), Ordering::Relaxed);
        if !self.closed {
            unmark(&hv.machine, place.entry, after, readonly);
        }
        if after.in_use() {
            return None;
        }
        self.in_use -= 1;
        self.free_records(hv);
        Some(PinnedFrame::from_record(before.frame()))
    }

    /// Frees what is left of a closed table, if nothing is in use.
    fn free_records<M: Machine>(&mut self, hv: &Hypervisor<M>) {
        if self.closed && self.in_use == 0 {
            for frame in self.frames.drain(..) {
                hv.heap.free(Extent::from_record(frame.active, 0));
            }
        }
    }

    /// Gives the table's frames back, at the end of its domain; nobody can begin a use any more. Its own domain maps
    /// none of them any more; another's mappings keep theirs.
    pub fn close<M: Machine>(&mut self, hv: &Hypervisor<M>) {
        if core::mem::replace(&mut self.closed, true) {
            return;
        }
        for frame in &self.frames {
            hv.heap.free_unless_pinned(Extent::from_record(frame.shared, 0));
        }
        self.free_records(hv);
    }

    /// Writes an entry as its guest would: `to` may use `gfn`.
    ///
    /// # Errors
    /// `EINVAL` outside the table or for a frame that no entry can name.
    pub fn permit<M: Machine>(&self, hv: &Hypervisor<M>, gref: GrantRef, to: DomId, gfn: Gfn) -> Result<(), Errno> {
        let place = self.place(gref).ok_or(Errno::EINVAL)?;
        let frame = u32::try_from(gfn.0).map_err(|_| Errno::EINVAL)?;
        hv.machine.word32(MachineAddress(place.entry.0 + 4)).store(frame, Ordering::Relaxed);
        let permission = u32::from(ENTRY_PERMIT_ACCESS) | u32::from(to.0) << 16;
        hv.machine.word32(place.entry).store(permission, Ordering::Release);
        Ok(())
    }

    /// Maps a frame of the table into its domain's memory, and nowhere else there.
    ///
    /// # Errors
    /// `EINVAL` outside the table; as [`crate::p2m::P2m::map`].
    pub fn map<M: Machine>(&self, hv: &Hypervisor<M>, owner: &Domain<M>, index: u32, gfn: Gfn) -> Result<(), Errno> {
        let frame = self.frames.get(index as usize).filter(|_| !self.closed).ok_or(Errno::EINVAL)?;
        owner.memory.map_only_at(hv, gfn, frame.shared, &frame.at)
    }

    /// Where the domain has a frame of its table.
    pub fn gfn_of<M: Machine>(&self, machine: &M, owner: &Domain<M>, index: u32) -> Option<Gfn> {
        let frame = self.frames.get(index as usize).filter(|_| !self.closed)?;
        owner.memory.place_of(machine, &frame.at).filter(|(_, mfn)| *mfn == frame.shared).map(|(gfn, _)| gfn)
    }

    /// A frame of the table, for another domain's mapping.
    ///
    /// # Errors
    /// `EINVAL` outside the table.
    pub fn pin<M: Machine>(&self, hv: &Hypervisor<M>, index: u32) -> Result<PinnedFrame, Errno> {
        let frame = self.frames.get(index as usize).filter(|_| !self.closed).ok_or(Errno::EINVAL)?;
        Ok(hv.heap.pin(frame.shared))
    }

    /// Entries in use.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }
}

/// Marks an entry as being read (and written). An entry that is not in use yet must permit `user` to use it.
fn mark<M: Machine>(
    machine: &M,
    entry: MachineAddress,
    user: Option<DomId>,
    readonly: bool,
) -> Result<(), GrantStatus> {
    let word = machine.word32(entry);
    let mut seen = word.load(Ordering::Relaxed);
    for _ in 0..ATTEMPTS {
        let flags = seen as u16;
        if let Some(user) = user {
            // A part of a page is for copies only, and only in version 2.
            let kind = flags & (ENTRY_TYPE_MASK | EntryFlags::SUB_PAGE.bits());
            if kind != ENTRY_PERMIT_ACCESS || (seen >> 16) as u16 != user.0 {
                return Err(GrantStatus::GENERAL_ERROR);
            }
        }
        let mut marks = EntryFlags::READING;
        if !readonly {
            if flags & EntryFlags::READONLY.bits() != 0 {
                return Err(GrantStatus::GENERAL_ERROR);
            }
            marks |= EntryFlags::WRITING;
        }
        let marked = seen | u32::from(marks.bits());
        match word.compare_exchange(seen, marked, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(changed) => seen = changed,
        }
    }
    Err(GrantStatus::GENERAL_ERROR)
}

/// Takes back the marks that `left`, what is still in use of an entry, does not justify after a use has ended.
fn unmark<M: Machine>(machine: &M, entry: MachineAddress, left: Active, readonly: bool) {
    let mut marks = EntryFlags::empty();
    if !left.in_use() {
        marks |= EntryFlags::READING;
    }
    if !readonly && left.writers == 0 {
        marks |= EntryFlags::WRITING;
    }
    if !marks.is_empty() {
        machine.word16(entry).fetch_and(!marks.bits(), Ordering::SeqCst);
    }
}
