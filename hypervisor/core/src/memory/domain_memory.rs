//! What a domain has of memory: its p2m, its charge, and the flush that goes with every removal.
//!
//! Locking: `p2m` (rank P2M) for every change and every hypervisor copy; `unmapped` (rank RESERVATION). Additions to
//! the p2m need no flush (nothing caches an absence). Removals collect in a [`Retired`], which is flushed after the
//! lock is released and only then freed.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use shared_abi::memory::E820Entry;
use shared_abi::xen::{DomId, Errno, Gfn, Mfn};

use crate::domain::Domain;
use crate::heap::{Accounts, Extent, NIL, Owner, PinnedFrame, Shortage};
use crate::hypervisor::Hypervisor;
use crate::locks::{Mutex, RwLock, rank};
use crate::machine::Machine;
use crate::p2m::{FrameKind, Frames, GFN_LIMIT, Leaf, P2m, Retired, Translation, leaf_order};

/// A domain's memory.
pub struct DomainMemory<M: Machine> {
    id: DomId,
    accounts: Accounts,
    /// The nested page table.
    pub p2m: RwLock<P2m<M>, { rank::P2M }>,
    root: Mfn,
    translation_generation: AtomicU64,
    /// The memory map that the domain was built with.
    pub e820: spin::Once<Vec<E820Entry>>,
    /// Memory of the domain's that is in no p2m (`increase_reservation`): a chain of blocks.
    unmapped: Mutex<Unmapped, { rank::RESERVATION }>,
    /// Where shared_info is mapped, plus one; 0: nowhere.
    shared_info_at: AtomicU64,
    /// How far [`DomainMemory::release_all`] has come.
    released_to: AtomicU64,
}

/// A chain of blocks.
struct Unmapped {
    head: u32,
    /// The domain ends: nothing may be added.
    closed: bool,
}

impl<M: Machine> DomainMemory<M> {
    /// Empty memory for domain `id`, of at most `maximum` pages; `None` when memory is short.
    pub fn new(hv: &Hypervisor<M>, id: DomId, maximum: u64) -> Option<Self> {
        // Twice what a domain of that size needs, scattered, and enough for the special places of a small one.
        let p2m = P2m::new(hv.frames(), 512 + maximum / 64)?;
        hv.heap.account(id).set_maximum(maximum);
        Some(Self {
            id,
            accounts: hv.heap.accounts().clone(),
            root: p2m.root(),
            p2m: RwLock::new(p2m),
            translation_generation: AtomicU64::new(1),
            e820: spin::Once::new(),
            unmapped: Mutex::new(Unmapped { head: NIL, closed: false }),
            shared_info_at: AtomicU64::new(0),
            released_to: AtomicU64::new(0),
        })
    }

    /// Pages charged to the domain.
    pub fn current(&self) -> u64 {
        self.accounts[usize::from(self.id.0)].current()
    }

    /// The most pages it may hold.
    pub fn maximum(&self) -> u64 {
        self.accounts[usize::from(self.id.0)].maximum()
    }

    /// Sets the most pages it may hold. It keeps what it has.
    pub fn set_maximum(&self, pages: u64) {
        self.accounts[usize::from(self.id.0)].set_maximum(pages);
    }

    /// The frame of the nested page table's root, for entries.
    pub fn nested_root(&self) -> Mfn {
        self.root
    }

    /// Changes whenever translations a CPU may have cached for this domain are no longer valid. Read by the entry code
    /// after [`crate::hypervisor::PerCpu::enter_guest`]: when it differs from the value at the CPU's last flush for
    /// this domain, the CPU flushes.
    pub fn translation_generation(&self) -> u64 {
        self.translation_generation.load(Ordering::SeqCst)
    }

    /// The frame behind `gfn`, and whether the guest may write to it. Holds only as long as the caller excludes
    /// removals; copies go through `guest_memory`, and a longer use through [`DomainMemory::pin`].
    pub fn translate(&self, machine: &M, gfn: Gfn) -> Option<(Mfn, bool)> {
        self.lookup(machine, gfn).map(|found| (found.mfn, found.writable))
    }

    /// [`DomainMemory::translate`] with all there is to know.
    pub fn lookup(&self, machine: &M, gfn: Gfn) -> Option<Translation> {
        self.p2m.read().lookup(machine, gfn)
    }

    /// One past the highest gfn of RAM or of any mapping.
    pub fn gfn_end(&self, machine: &M) -> u64 {
        self.p2m.read().last_mapped(machine).map_or(0, |gfn| gfn.0 + 1)
    }

    /// Backs `1 << order` frames at `gfn` with memory of the domain's. What was there is given back.
    ///
    /// # Errors
    /// `EINVAL` for a range that cannot be mapped; `ENOMEM` when the domain is at its maximum or memory is short.
    pub fn populate(&self, hv: &Hypervisor<M>, gfn: Gfn, order: u32) -> Result<(), Errno> {
        let mut retired = Retired::new();
        let result = self.populate_locked(hv.frames(), &mut self.p2m.write(), gfn, order, false, &mut retired);
        retired.flush(hv, self).free(&hv.heap);
        result
    }

    /// [`DomainMemory::populate`] within a batch. `exceed`: see [`crate::heap::FrameHeap::try_allocate`].
    pub(super) fn populate_locked(
        &self,
        frames: Frames<'_, M>,
        p2m: &mut P2m<M>,
        gfn: Gfn,
        order: u32,
        exceed: bool,
        retired: &mut Retired,
    ) -> Result<(), Errno> {
        if p2m.is_closed() || gfn.0 & ((1 << order) - 1) != 0 || gfn.0 >= GFN_LIMIT {
            return Err(Errno::EINVAL);
        }
        let owner = Owner::Domain(self.id);
        let extent = if order == 0 {
            frames.heap.allocate_near(frames.machine, owner, exceed, p2m.continuation(frames.machine, gfn))
        } else {
            frames.heap.try_allocate(frames.machine, order, owner, exceed)
        };
        let extent = extent.map_err(|_: Shortage| Errno::ENOMEM)?;
        self.map_extent_locked(frames, p2m, gfn, extent, retired)
    }

    /// Maps memory of the domain's at `gfn` within a batch, or gives it back.
    #[inline]
    pub(super) fn map_extent_locked(
        &self,
        frames: Frames<'_, M>,
        p2m: &mut P2m<M>,
        gfn: Gfn,
        extent: Extent,
        retired: &mut Retired,
    ) -> Result<(), Errno> {
        let (first, order) = extent.into_record();
        if leaf_order::<M>(order) != order {
            return Self::map_in_pieces(frames, p2m, gfn, Extent::from_record(first, order), retired);
        }
        let leaf = Leaf { mfn: first, kind: FrameKind::Ram, writable: true };
        let result = p2m.map(frames, gfn, order, leaf, retired);
        if result.is_err() {
            frames.heap.free_untouched(Extent::from_record(first, order));
        }
        result
    }

    /// Maps an extent of an order between two leaf sizes in pieces of the smaller; what cannot be mapped is given back.
    #[cold]
    fn map_in_pieces(
        frames: Frames<'_, M>,
        p2m: &mut P2m<M>,
        gfn: Gfn,
        extent: Extent,
        retired: &mut Retired,
    ) -> Result<(), Errno> {
        let (first, order) = extent.into_record();
        let piece = leaf_order::<M>(order);
        frames.heap.split_record(first, order, piece);
        for offset in (0..1u64 << order).step_by(1 << piece) {
            let leaf = Leaf { mfn: Mfn(first.0 + offset), kind: FrameKind::Ram, writable: true };
            if let Err(errno) = p2m.map(frames, Gfn(gfn.0 + offset), piece, leaf, retired) {
                for rest in (offset..1 << order).step_by(1 << piece) {
                    frames.heap.free_untouched(Extent::from_record(Mfn(first.0 + rest), piece));
                }
                return Err(errno);
            }
        }
        Ok(())
    }

    /// Takes `1 << order` frames at `gfn` away within a batch. Stops at the first one that is not there; what came
    /// before it is gone.
    ///
    /// # Errors
    /// `ENOENT` for a frame that is not mapped, `EINVAL` for one that is not the domain's to give, `ENOMEM` when a
    /// superpage cannot be split now.
    pub(super) fn remove_locked(
        &self,
        frames: Frames<'_, M>,
        p2m: &mut P2m<M>,
        gfn: Gfn,
        order: u32,
        retired: &mut Retired,
    ) -> Result<(), Errno> {
        let end = gfn.0.checked_add(1 << order).ok_or(Errno::EINVAL)?;
        let mut at = gfn.0;
        while at < end {
            let own = |found: &Translation| !matches!(found.kind, FrameKind::Foreign | FrameKind::Grant);
            let (found, leaf) = p2m.detach_if(frames, Gfn(at), (end - at).ilog2(), retired, own)?;
            p2m.retire_leaf(frames, leaf, found.order, retired);
            at += 1 << found.order;
        }
        Ok(())
    }

    /// Keeps the frame at `gfn`: it stays valid, and charged to the domain, until the pin is released.
    ///
    /// # Errors
    /// `EINVAL` when there is no writable memory of the domain's there.
    pub fn pin(&self, hv: &Hypervisor<M>, gfn: Gfn) -> Result<PinnedFrame, Errno> {
        let p2m = self.p2m.read();
        match p2m.lookup(&hv.machine, gfn) {
            Some(Translation { mfn, kind: FrameKind::Ram, writable: true, .. }) if !p2m.is_closed() => {
                Ok(hv.heap.pin(mfn))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Maps a frame of the hypervisor's at `gfn`, writable and not charged. What was there is given back.
    ///
    /// # Errors
    /// As [`P2m::map`].
    pub fn map_hypervisor_frame(&self, hv: &Hypervisor<M>, gfn: Gfn, mfn: Mfn) -> Result<(), Errno> {
        let leaf = Leaf { mfn, kind: FrameKind::Hypervisor, writable: true };
        let mut retired = Retired::new();
        let result = self.p2m.write().map(hv.frames(), gfn, 0, leaf, &mut retired);
        retired.flush(hv, self).free(&hv.heap);
        result
    }

    /// Maps shared_info at `gfn` and nowhere else.
    ///
    /// # Errors
    /// As [`P2m::map`].
    pub fn map_shared_info(&self, hv: &Hypervisor<M>, gfn: Gfn, mfn: Mfn) -> Result<(), Errno> {
        self.map_only_at(hv, gfn, mfn, &self.shared_info_at)
    }

    /// Where shared_info is mapped.
    pub fn shared_info_gfn(&self, machine: &M) -> Option<Gfn> {
        self.place_of(machine, &self.shared_info_at).map(|(gfn, _)| gfn)
    }

    /// Maps a frame of the hypervisor's at `gfn` and nowhere else. `at` remembers where that is: the gfn plus one, or 0.
    ///
    /// # Errors
    /// As [`P2m::map`].
    pub(crate) fn map_only_at(&self, hv: &Hypervisor<M>, gfn: Gfn, mfn: Mfn, at: &AtomicU64) -> Result<(), Errno> {
        let leaf = Leaf { mfn, kind: FrameKind::Hypervisor, writable: true };
        let mut retired = Retired::new();
        let mut p2m = self.p2m.write();
        let result = p2m.map(hv.frames(), gfn, 0, leaf, &mut retired);
        if result.is_ok() {
            let old = at.swap(gfn.0 + 1, Ordering::Relaxed);
            let still_there = old != 0
                && old != gfn.0 + 1
                && p2m.lookup(&hv.machine, Gfn(old - 1)).is_some_and(|found| found.mfn == mfn);
            if still_there {
                // Cannot fail: the leaf is there, and smallest.
                let _ = p2m.unmap(hv.frames(), Gfn(old - 1), 0, &mut retired);
            }
        }
        drop(p2m);
        retired.flush(hv, self).free(&hv.heap);
        result
    }

    /// Where a frame of the hypervisor's that `at` remembers is mapped, and what frame is there now.
    pub(crate) fn place_of(&self, machine: &M, at: &AtomicU64) -> Option<(Gfn, Mfn)> {
        let gfn = Gfn(at.load(Ordering::Relaxed).checked_sub(1)?);
        self.lookup(machine, gfn).filter(|found| found.kind == FrameKind::Hypervisor).map(|found| (gfn, found.mfn))
    }

    /// Maps another domain's page, or one that the hypervisor shares, for which `pin` stands. What was there is given
    /// back.
    ///
    /// # Errors
    /// As [`P2m::map`]; the pin is released then.
    pub fn map_foreign(&self, hv: &Hypervisor<M>, gfn: Gfn, pin: PinnedFrame, writable: bool) -> Result<(), Errno> {
        self.map_pinned(hv, gfn, pin, FrameKind::Foreign, writable)
    }

    /// Maps a granted page, for which `pin` stands; only [`DomainMemory::detach_grant`] and the domain's end take it
    /// out. What was there is given back.
    ///
    /// # Errors
    /// As [`P2m::map`]; the pin is released then.
    pub(crate) fn map_grant(
        &self,
        hv: &Hypervisor<M>,
        gfn: Gfn,
        pin: PinnedFrame,
        writable: bool,
    ) -> Result<(), Errno> {
        self.map_pinned(hv, gfn, pin, FrameKind::Grant, writable)
    }

    fn map_pinned(
        &self,
        hv: &Hypervisor<M>,
        gfn: Gfn,
        pin: PinnedFrame,
        kind: FrameKind,
        writable: bool,
    ) -> Result<(), Errno> {
        let mfn = pin.into_record();
        let mut retired = Retired::new();
        let result = self.p2m.write().map(hv.frames(), gfn, 0, Leaf { mfn, kind, writable }, &mut retired);
        retired.flush(hv, self).free(&hv.heap);
        if result.is_err() {
            PinnedFrame::from_record(mfn).release(&hv.heap);
        }
        result
    }

    /// Takes out the mapping of a granted page within a batch. Its pin is the caller's, to be released after the flush.
    ///
    /// # Errors
    /// `ENOENT` or `EINVAL` when there is no such mapping of `mfn`.
    pub(crate) fn detach_grant(
        &self,
        frames: Frames<'_, M>,
        p2m: &mut P2m<M>,
        gfn: Gfn,
        mfn: Mfn,
        retired: &mut Retired,
    ) -> Result<PinnedFrame, Errno> {
        let expected = |found: &Translation| found.kind == FrameKind::Grant && found.mfn == mfn;
        let (_, leaf) = p2m.detach_if(frames, gfn, 0, retired, expected)?;
        Ok(PinnedFrame::from_record(leaf.mfn))
    }

    /// Moves a page of the domain's memory to another gfn. What was there is given back.
    ///
    /// # Errors
    /// `EINVAL` when no memory of the domain's is at `from`, or `to` is outside; `ENOMEM` when tables are needed and
    /// there is no memory for them.
    pub fn move_page(&self, hv: &Hypervisor<M>, from: Gfn, to: Gfn) -> Result<(), Errno> {
        let frames = hv.frames();
        let mut retired = Retired::new();
        let mut p2m = self.p2m.write();
        let result = self.move_locked(frames, &mut p2m, from, to, &mut retired);
        drop(p2m);
        retired.flush(hv, self).free(&hv.heap);
        result.map_err(|errno| if errno == Errno::ENOENT { Errno::EINVAL } else { errno })
    }

    fn move_locked(
        &self,
        frames: Frames<'_, M>,
        p2m: &mut P2m<M>,
        from: Gfn,
        to: Gfn,
        retired: &mut Retired,
    ) -> Result<(), Errno> {
        if to.0 >= GFN_LIMIT || p2m.is_closed() {
            return Err(Errno::EINVAL);
        }
        let (_, leaf) = p2m.detach_if(frames, from, 0, retired, |found| found.kind == FrameKind::Ram)?;
        let Err(errno) = p2m.map(frames, to, 0, leaf, retired) else { return Ok(()) };
        // Back where it was. If even that has lost its tables meanwhile, the host is out of memory, and gets the page.
        if p2m.map(frames, from, 0, leaf, retired).is_err() {
            p2m.retire_leaf(frames, leaf, 0, retired);
        }
        Err(errno)
    }

    /// Unmaps a page. The domain's own memory stays its own, mapped nowhere, until the domain ends.
    ///
    /// # Errors
    /// `ENOENT` when nothing is there; `ENOMEM` when a superpage cannot be split now.
    pub fn unmap_page(&self, hv: &Hypervisor<M>, gfn: Gfn) -> Result<(), Errno> {
        let frames = hv.frames();
        let mut retired = Retired::new();
        let mut p2m = self.p2m.write();
        let result = p2m.detach_if(frames, gfn, 0, &mut retired, |found| found.kind != FrameKind::Grant);
        // As in Xen, a granted page is not there for this.
        let result = result.map_err(|errno| if errno == Errno::EINVAL { Errno::ENOENT } else { errno });
        let kept = match result {
            Ok((_, Leaf { mfn, kind: FrameKind::Ram, .. })) => Some(Extent::from_record(mfn, 0)),
            Ok((_, leaf)) => {
                p2m.retire_leaf(frames, leaf, 0, &mut retired);
                None
            }
            Err(_) => None,
        };
        drop(p2m);
        retired.flush(hv, self).free(&hv.heap);
        if let Some(Err(extent)) = kept.map(|extent| self.keep_unmapped(hv, extent)) {
            hv.heap.free_unless_pinned(extent);
        }
        result.map(|_| ())
    }

    /// Whether the domain's memory is being released: nothing can be added any more.
    pub fn is_closed(&self) -> bool {
        self.p2m.read().is_closed()
    }

    /// Adds memory that is in no p2m, or hands it back when the domain's memory is being released.
    pub(super) fn keep_unmapped(&self, hv: &Hypervisor<M>, extent: Extent) -> Result<(), Extent> {
        let mut unmapped = self.unmapped.lock();
        if unmapped.closed {
            return Err(extent);
        }
        let (first, _) = extent.into_record();
        hv.heap.frame(first.0 as u32).set_next(unmapped.head);
        unmapped.head = first.0 as u32;
        Ok(())
    }

    /// Gives all memory back, at most `budget` leaves at a time; true when all is gone. For a domain whose vCPUs are
    /// off all CPUs for good. Frames that are pinned go with their pins.
    pub fn release_all(&self, hv: &Hypervisor<M>, budget: usize) -> bool {
        let mut retired = Retired::new();
        let mut p2m = self.p2m.write();
        p2m.close();
        let mut done = false;
        for _ in 0..budget {
            let from = Gfn(self.released_to.load(Ordering::Relaxed));
            let Some((gfn, order)) = p2m.next_mapped(&hv.machine, from) else {
                done = true;
                break;
            };
            // A foreign mapping may have to wait for the next round; nothing else can fail: whole leaves go.
            if p2m.unmap(hv.frames(), gfn, order, &mut retired).is_err() {
                break;
            }
            self.released_to.store(gfn.0 + (1 << order), Ordering::Relaxed);
        }
        drop(p2m);
        retired.flush(hv, self).free(&hv.heap);
        done && self.release_unmapped(hv, budget) && {
            self.p2m.write().free_root(&hv.heap);
            let _ = hv.heap.claim(self.id, 0);
            true
        }
    }

    fn release_unmapped(&self, hv: &Hypervisor<M>, budget: usize) -> bool {
        let mut unmapped = self.unmapped.lock();
        unmapped.closed = true;
        for _ in 0..budget {
            if unmapped.head == NIL {
                break;
            }
            let first = unmapped.head;
            unmapped.head = hv.heap.frame(first).next();
            hv.heap.free_unless_pinned(Extent::from_record(Mfn(u64::from(first)), hv.heap.block_order(first)));
        }
        unmapped.head == NIL
    }

    /// Calls `visit` with each block that is in no p2m.
    pub(crate) fn each_unmapped(&self, hv: &Hypervisor<M>, mut visit: impl FnMut(Mfn, u32)) {
        let mut at = self.unmapped.lock().head;
        while at != NIL {
            visit(Mfn(u64::from(at)), hv.heap.block_order(at));
            at = hv.heap.frame(at).next();
        }
    }
}

/// CPUs waited for at a time.
const FLUSH_BATCH: usize = 32;

impl<M: Machine> Hypervisor<M> {
    /// What p2m operations work on.
    pub fn frames(&self) -> Frames<'_, M> {
        Frames { machine: &self.machine, heap: &self.heap }
    }

    /// See [`Hypervisor::flush_memory`].
    pub fn flush_translations(&self, domain: &Domain<M>) {
        self.flush_memory(&domain.memory);
    }

    /// Returns when no CPU uses a translation of this memory that was removed before the call.
    ///
    /// A CPU in the hypervisor compares generations before it next enters the guest, and flushes. A CPU in the guest is
    /// kicked and waited for until it has left once; it needs no lock for that, so the caller may hold any but its own
    /// p2m's. No CPU waits here while it counts as being in a guest, so two flushes cannot wait for each other.
    pub fn flush_memory(&self, memory: &DomainMemory<M>) {
        memory.translation_generation.fetch_add(1, Ordering::SeqCst);
        let own = self.machine.this_cpu();
        for batch in self.cpus.chunks(FLUSH_BATCH) {
            let mut stays = ArrayVec::<_, FLUSH_BATCH>::new();
            for cpu in batch.iter().filter(|cpu| cpu.id != own) {
                if let Some(stay) = cpu.stay_of(memory.id) {
                    self.machine.kick(cpu.id);
                    stays.push((cpu, stay));
                }
            }
            for (cpu, stay) in &stays {
                while cpu.stay_of(memory.id) == Some(*stay) {
                    self.machine.relax();
                }
            }
        }
    }
}
