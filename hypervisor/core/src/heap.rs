//! The frame heap: all of the machine's memory, each frame with exactly one owner, and a ledger that always adds up.
//!
//! Invariants:
//! - A frame is free (cleared or dirty), being cleared, or owned by exactly one [`Owner`]; [`FrameHeap::ledger`] counts
//!   each frame once.
//! - What is handed out has been cleared since its last owner had it.
//! - A domain never holds more than its maximum, and nobody takes what is claimed by another domain.
//!
//! Ownership in transit is an [`Extent`]. A domain's frames that something else still uses are pinned
//! ([`PinnedFrame`]) and stay the domain's until the last pin goes.
//!
//! Locking: one lock of rank HEAP, held for a bounded number of steps (memory is cleared outside it). Charges of
//! domains change under it and are read without.

mod buddy;
mod extent;
mod frame;
mod pins;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use shared_abi::xen::{DomId, Mfn};

use crate::hypervisor::MAX_DOMAINS;
use crate::locks::{Mutex, rank};
use crate::machine::Machine;
pub use extent::{Extent, LEAKED, PinnedFrame};
pub use frame::FrameInfo;
pub(crate) use frame::NIL;
use frame::State;

use buddy::{FreeList, Kind};

/// The largest block: 1 GiB.
pub const MAX_ORDER: u32 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;
/// Pins are counted by regions of this size too, so that giving back a superpage need not look at each frame.
const REGION_ORDER: u32 = 9;
/// Blocks freed without letting others at the lock.
const CHAIN_BATCH: usize = 64;

/// Who a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A domain's memory, charged to it.
    Domain(DomId),
    /// The hypervisor.
    Hypervisor,
    /// The hypervisor, as a page table.
    PageTable,
    /// A domain's page in an ephemeral pool.
    TmemEphemeral(DomId),
    /// A domain's page in a persistent pool, charged to it.
    TmemPersistent(DomId),
}

impl Owner {
    /// The domain whose reservation pays.
    fn charged(self) -> Option<DomId> {
        match self {
            Owner::Domain(domain) | Owner::TmemPersistent(domain) => Some(domain),
            Owner::Hypervisor | Owner::PageTable | Owner::TmemEphemeral(_) => None,
        }
    }
}

/// Why there was no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The domain is at its maximum.
    Maximum,
    /// The machine has none left that is not promised to others, or not in one piece.
    Memory,
}

/// Where all pages of the machine are, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Free and cleared.
    pub free: u64,
    /// Free, but to be cleared first (or being cleared).
    pub scrubbing: u64,
    /// The domains' memory.
    pub domains: u64,
    /// The hypervisor's image, tables and structures.
    pub hypervisor: u64,
    /// The part of `free` and `scrubbing` that is promised to a domain. No part of the sum.
    pub claimed: u64,
    /// In ephemeral pools.
    pub tmem_ephemeral: u64,
    /// In persistent pools.
    pub tmem_persistent: u64,
    /// All pages.
    pub total: u64,
}

impl Ledger {
    /// Whether each page is counted exactly once.
    pub fn adds_up(&self) -> bool {
        let parts =
            [self.free, self.scrubbing, self.domains, self.hypervisor, self.tmem_ephemeral, self.tmem_persistent];
        parts.iter().sum::<u64>() == self.total && self.claimed <= self.free + self.scrubbing
    }
}

/// What the heap starts from.
pub struct HeapConfig {
    /// A record for each frame of the machine; the index is the frame's number. All zero.
    pub frames: &'static mut [FrameInfo],
    /// Runs of free frames: the first one, and how many.
    pub ranges: Vec<(Mfn, u64)>,
    /// Frames of RAM that the hypervisor itself occupies (image, frame records, boot modules).
    pub hypervisor_frames: u64,
    /// Whether the free frames are known to be zero now.
    pub zeroed: bool,
}

/// What a domain holds and may hold, in pages. Shared so that the domain can read it without the heap.
#[derive(Debug, Default)]
pub struct Account {
    current: AtomicU64,
    maximum: AtomicU64,
}

/// The accounts of all domains, by id.
pub type Accounts = Arc<[Account; MAX_DOMAINS]>;

impl Account {
    /// Pages charged to the domain now.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    /// The most that may be charged.
    pub fn maximum(&self) -> u64 {
        self.maximum.load(Ordering::Relaxed)
    }

    /// Sets the maximum. Below `current` it keeps the domain from growing, and takes nothing away.
    pub fn set_maximum(&self, pages: u64) {
        self.maximum.store(pages, Ordering::Relaxed);
    }
}

/// The frame heap.
pub struct FrameHeap {
    frames: &'static [FrameInfo],
    /// Pins by region of `1 << REGION_ORDER` frames, never fewer than there are.
    region_pins: Box<[AtomicU32]>,
    accounts: Accounts,
    state: Mutex<HeapState, { rank::HEAP }>,
    /// Frames kept for page tables, so that a domain can always give memory back (a split needs a table).
    table_reserve: u64,
}

struct HeapState {
    clean: FreeList,
    dirty: FreeList,
    /// Pages taken off the dirty list to be cleared, by whomever.
    in_flight: u64,
    /// Pages by owner.
    domains: u64,
    hypervisor: u64,
    tmem_ephemeral: u64,
    tmem_persistent: u64,
    total: u64,
    claims: ArrayVec<(DomId, u64), MAX_DOMAINS>,
    claimed: u64,
}

impl HeapState {
    fn available(&self) -> u64 {
        self.clean.pages + self.dirty.pages + self.in_flight
    }

    fn count_of(&mut self, owner: Owner) -> &mut u64 {
        match owner {
            Owner::Domain(_) => &mut self.domains,
            Owner::Hypervisor | Owner::PageTable => &mut self.hypervisor,
            Owner::TmemEphemeral(_) => &mut self.tmem_ephemeral,
            Owner::TmemPersistent(_) => &mut self.tmem_persistent,
        }
    }

    fn claim_of(&self, domain: Option<DomId>) -> u64 {
        let claim = self.claims.iter().find(|(claimant, _)| Some(*claimant) == domain);
        claim.map_or(0, |(_, pages)| *pages)
    }

    /// Replaces a domain's claim.
    fn set_claim(&mut self, domain: DomId, pages: u64) {
        self.claimed = self.claimed - self.claim_of(Some(domain)) + pages;
        self.claims.retain(|(claimant, _)| *claimant != domain);
        if pages != 0 {
            self.claims.push((domain, pages));
        }
    }
}

/// A block on its way out of the heap.
struct Taken {
    first: u32,
    clean: bool,
}

impl FrameHeap {
    /// A heap over all frames of the machine.
    pub fn new(config: HeapConfig) -> Self {
        let frames: &'static [FrameInfo] = config.frames;
        let regions = frames.len().div_ceil(1 << REGION_ORDER);
        let mut free = FreeList::new(if config.zeroed { Kind::Clean } else { Kind::Dirty });
        for (first, count) in config.ranges {
            insert_range(&mut free, frames, first.0, count);
        }
        let pages = free.pages;
        let (clean, dirty) =
            if config.zeroed { (free, FreeList::new(Kind::Dirty)) } else { (FreeList::new(Kind::Clean), free) };
        let state = HeapState {
            clean,
            dirty,
            in_flight: 0,
            domains: 0,
            hypervisor: config.hypervisor_frames,
            tmem_ephemeral: 0,
            tmem_persistent: 0,
            total: pages + config.hypervisor_frames,
            claims: ArrayVec::new(),
            claimed: 0,
        };
        Self {
            frames,
            region_pins: (0..regions).map(|_| AtomicU32::new(0)).collect(),
            accounts: Arc::new(
                [const { Account { current: AtomicU64::new(0), maximum: AtomicU64::new(0) } }; MAX_DOMAINS],
            ),
            state: Mutex::new(state),
            table_reserve: (pages / 256).min(64),
        }
    }

    /// The accounts of all domains.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// One domain's account.
    ///
    /// # Panics
    /// When the id is not one a domain can have.
    pub fn account(&self, domain: DomId) -> &Account {
        &self.accounts[usize::from(domain.0)]
    }

    pub(crate) fn frame(&self, mfn: u32) -> &FrameInfo {
        &self.frames[mfn as usize]
    }

    /// One past the machine's highest frame.
    pub fn frame_count(&self) -> u64 {
        self.frames.len() as u64
    }

    /// A cleared block of `1 << order` frames for `owner`, or `None` when there is no memory or the domain that pays
    /// is at its maximum.
    pub fn allocate<M: Machine>(&self, machine: &M, order: u32, owner: Owner) -> Option<Extent> {
        self.try_allocate(machine, order, owner, false).ok()
    }

    /// As [`FrameHeap::allocate`], with the reason for a refusal. `exceed` lets a domain go over its maximum for the
    /// moment, for a caller that takes as much away from it right afterwards.
    ///
    /// # Errors
    /// What is short.
    pub fn try_allocate<M: Machine>(
        &self,
        machine: &M,
        order: u32,
        owner: Owner,
        exceed: bool,
    ) -> Result<Extent, Shortage> {
        if order > MAX_ORDER {
            return Err(Shortage::Memory);
        }
        // Clearing on demand stays within a small multiple of what is asked for.
        let mut budget = 4u64 << order;
        loop {
            let mut state = self.state.lock();
            self.check_allowed(&state, order, owner, exceed)?;
            if let Some(taken) = self.take(&mut state, order, owner) {
                drop(state);
                let extent = Extent::from_record(Mfn(u64::from(taken.first)), order);
                if !taken.clean {
                    machine.zero(extent.first(), order);
                }
                return Ok(extent);
            }
            let waiting = state.in_flight != 0;
            drop(state);
            // Memory that is being cleared elsewhere comes back soon; smaller dirty blocks may merge once cleared.
            if waiting {
                machine.relax();
                continue;
            }
            let cleared = if budget == 0 { None } else { self.scrub_one(machine, REGION_ORDER, order) };
            budget = budget.saturating_sub(1 << cleared.ok_or(Shortage::Memory)?);
        }
    }

    /// One frame for `owner`, which overwrites all of it before anybody can read it: a dirty one, if there is one, so that
    /// cleared ones stay for those who need them.
    ///
    /// # Errors
    /// What is short.
    pub(crate) fn allocate_uncleared<M: Machine>(&self, machine: &M, owner: Owner) -> Result<Extent, Shortage> {
        let mut state = self.state.lock();
        self.check_allowed(&state, 0, owner, false)?;
        if let Some(first) = state.dirty.take(self.frames, 0) {
            self.enter(&mut state, first, 0, owner);
            return Ok(Extent::from_record(Mfn(u64::from(first)), 0));
        }
        drop(state);
        self.try_allocate(machine, 0, owner, false)
    }

    /// One cleared frame for `owner`: `wanted` if it is free and cleared, else any.
    ///
    /// # Errors
    /// What is short.
    pub(crate) fn allocate_near<M: Machine>(
        &self,
        machine: &M,
        owner: Owner,
        exceed: bool,
        wanted: Option<Mfn>,
    ) -> Result<Extent, Shortage> {
        if let Some(wanted) = wanted.filter(|wanted| wanted.0 < self.frame_count()) {
            let mut state = self.state.lock();
            self.check_allowed(&state, 0, owner, exceed)?;
            if state.clean.take_frame(self.frames, wanted.0 as u32) {
                self.enter(&mut state, wanted.0 as u32, 0, owner);
                return Ok(Extent::from_record(wanted, 0));
            }
        }
        self.try_allocate(machine, 0, owner, exceed)
    }

    /// A cleared frame for a page table; also from the reserve that others may not touch.
    pub fn allocate_page_table<M: Machine>(&self, machine: &M) -> Option<Extent> {
        self.allocate(machine, 0, Owner::PageTable)
    }

    /// A block of `1 << order` cleared frames that the hypervisor keeps for ever.
    pub fn take_for_ever<M: Machine>(&self, machine: &M, order: u32) -> Option<Mfn> {
        self.allocate(machine, order, Owner::Hypervisor).map(|extent| extent.into_record().0)
    }

    fn check_allowed(&self, state: &HeapState, order: u32, owner: Owner, exceed: bool) -> Result<(), Shortage> {
        let pages = 1 << order;
        if let Some(domain) = owner.charged()
            && !exceed
        {
            let account = self.account(domain);
            if account.current() + pages > account.maximum() {
                return Err(Shortage::Maximum);
            }
        }
        // Page tables come out of claims and of the reserve: they are part of having the memory claimed.
        let own = if state.claimed == 0 { 0 } else { state.claim_of(owner.charged()) };
        let kept = match owner {
            Owner::PageTable => 0,
            _ if own >= pages => state.claimed - own,
            _ => state.claimed - own + self.table_reserve,
        };
        if state.available() < kept + pages { Err(Shortage::Memory) } else { Ok(()) }
    }

    /// Takes a block off the free lists, cleared ones first.
    fn take(&self, state: &mut HeapState, order: u32, owner: Owner) -> Option<Taken> {
        let (first, clean) = match state.clean.take(self.frames, order) {
            Some(first) => (first, true),
            None => (state.dirty.take(self.frames, order)?, false),
        };
        self.enter(state, first, order, owner);
        Some(Taken { first, clean })
    }

    /// Enters a block that has left the free lists into the books.
    fn enter(&self, state: &mut HeapState, first: u32, order: u32, owner: Owner) {
        let pages = 1 << order;
        self.frames[first as usize].set_state(State::owned(owner, order));
        *state.count_of(owner) += pages;
        if let Some(domain) = owner.charged() {
            self.account(domain).current.fetch_add(pages, Ordering::Relaxed);
            if state.claimed != 0 {
                let claim = state.claim_of(Some(domain));
                state.set_claim(domain, claim.saturating_sub(pages));
            }
        }
        if state.claimed != 0 {
            self.shrink_claims(state);
        }
    }

    /// Page tables may eat into what is claimed; a promise cannot be larger than what there is.
    fn shrink_claims(&self, state: &mut HeapState) {
        while state.claimed > state.available() {
            let excess = state.claimed - state.available();
            let Some((domain, pages)) = state.claims.last().copied() else { return };
            state.set_claim(domain, pages.saturating_sub(excess));
        }
    }

    /// Gives a block back. It is dirty from now on, and free.
    pub fn free(&self, extent: Extent) {
        self.give_back(extent, Kind::Dirty);
    }

    /// Gives back a block that has not been used since it was allocated, and so is still cleared.
    pub(crate) fn free_untouched(&self, extent: Extent) {
        self.give_back(extent, Kind::Clean);
    }

    /// Gives back a page table. An empty one is all zero, so it need not be cleared.
    pub(crate) fn free_page_table(&self, table: Extent) {
        self.free_table_locked(&mut self.state.lock(), table);
    }

    fn free_table_locked(&self, state: &mut HeapState, table: Extent) {
        let count = &self.frame(table.first().0 as u32).count;
        let entries = count.load(Ordering::Relaxed);
        count.store(0, Ordering::Relaxed);
        self.give_back_locked(state, table, if entries == 0 { Kind::Clean } else { Kind::Dirty });
    }

    fn give_back(&self, extent: Extent, kind: Kind) {
        let mut state = self.state.lock();
        self.give_back_locked(&mut state, extent, kind);
    }

    #[inline]
    fn give_back_locked(&self, state: &mut HeapState, extent: Extent, kind: Kind) {
        let (first, order) = extent.into_record();
        let first = first.0 as u32;
        let record = self.frames[first as usize].state();
        let owner = record.owner().filter(|_| record.order == order);
        let owner = owner.unwrap_or_else(|| panic!("frame {first:#x} order {order} freed, is {record:?}"));
        let pages = 1u64 << order;
        *state.count_of(owner) -= pages;
        if let Some(domain) = owner.charged() {
            self.account(domain).current.fetch_sub(pages, Ordering::Relaxed);
        }
        self.frames[first as usize].set_state(State::NONE);
        match kind {
            Kind::Clean => state.clean.insert(self.frames, first, order),
            Kind::Dirty => state.dirty.insert(self.frames, first, order),
        }
    }

    /// Clears at most `budget` frames of dirty memory, and says whether there is more to do. Work for idle CPUs.
    pub fn scrub_some<M: Machine>(&self, machine: &M, budget: u64) -> bool {
        let mut left = budget;
        while left != 0 {
            match self.scrub_one(machine, left.ilog2().min(REGION_ORDER), ORDERS as u32) {
                Some(order) => left -= 1 << order,
                None => return false,
            }
        }
        self.state.lock().dirty.pages != 0
    }

    /// Clears a block of at most order `most` out of the largest dirty one below order `below`.
    fn scrub_one<M: Machine>(&self, machine: &M, most: u32, below: u32) -> Option<u32> {
        let mut state = self.state.lock();
        let order = state.dirty.largest(below)?.min(most);
        let first = state.dirty.take(self.frames, order)?;
        state.in_flight += 1 << order;
        drop(state);
        machine.zero(Mfn(u64::from(first)), order);
        let mut state = self.state.lock();
        state.in_flight -= 1 << order;
        state.clean.insert(self.frames, first, order);
        Some(order)
    }

    /// Promises a domain that it will have `pages` pages in all, what it holds now included: nobody else can take
    /// them. 0 withdraws the promise.
    ///
    /// # Errors
    /// [`Shortage::Maximum`] when that is more than its maximum or less than it holds, [`Shortage::Memory`] when
    /// there is not so much that is not promised yet.
    pub fn claim(&self, domain: DomId, pages: u64) -> Result<(), Shortage> {
        let mut state = self.state.lock();
        if pages == 0 {
            state.set_claim(domain, 0);
            return Ok(());
        }
        let account = self.account(domain);
        if pages > account.maximum() || pages < account.current() {
            return Err(Shortage::Maximum);
        }
        let wanted = pages - account.current();
        let free = state.available().saturating_sub(state.claimed - state.claim_of(Some(domain)) + self.table_reserve);
        if wanted > free {
            return Err(Shortage::Memory);
        }
        state.set_claim(domain, wanted);
        Ok(())
    }

    /// Pages promised to `domain` and not taken yet.
    pub fn claimed_by(&self, domain: DomId) -> u64 {
        self.state.lock().claim_of(Some(domain))
    }

    /// Where all pages are.
    pub fn ledger(&self) -> Ledger {
        let state = self.state.lock();
        Ledger {
            free: state.clean.pages,
            scrubbing: state.dirty.pages + state.in_flight,
            domains: state.domains,
            hypervisor: state.hypervisor,
            claimed: state.claimed,
            tmem_ephemeral: state.tmem_ephemeral,
            tmem_persistent: state.tmem_persistent,
            total: state.total,
        }
    }
}

/// Adds a run of frames as the largest aligned blocks it holds.
fn insert_range(list: &mut FreeList, frames: &[FrameInfo], first: u64, count: u64) {
    let end = first.saturating_add(count).min(frames.len() as u64);
    let mut at = first;
    while at < end {
        let aligned = if at == 0 { MAX_ORDER } else { at.trailing_zeros().min(MAX_ORDER) };
        let order = aligned.min((end - at).ilog2());
        list.insert(frames, at as u32, order);
        at += 1 << order;
    }
}
