//! Frontswap: the hypervisor's memory in front of the swap device.
//!
//! One persistent pool serves all swap areas. A bit for each slot says whether the hypervisor has it.

use alloc::vec;
use alloc::vec::Vec;

use shared_abi::tmem::TmemOid;
use shared_abi::xen::Gfn;

use crate::calls::{Calls, PERSISTENT_POOL, PoolId};

/// Swap areas at one time, as in Linux.
pub const MAX_AREAS: usize = 32;
/// Objects that an area's slots are spread over, so that their pages are not all one object's.
const SPREAD: u32 = 16;

/// A slot of a swap area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId {
    /// The area, below [`MAX_AREAS`].
    pub area: u8,
    /// The slot in it.
    pub offset: u32,
}

impl SlotId {
    /// Its object and index, as Linux's driver numbers them.
    const fn key(self) -> (TmemOid, u32) {
        (object(self.area, self.offset % SPREAD), self.offset / SPREAD)
    }
}

const fn object(area: u8, part: u32) -> TmemOid {
    TmemOid { oid: [(area as u64) << 4 | part as u64, 0, 0] }
}

/// A page that the hypervisor took and does not give back: it broke its promise, or the pool is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// What has been done, ever; Linux's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapStats {
    /// Pages stored.
    pub succ_stores: u64,
    /// Pages refused.
    pub failed_stores: u64,
    /// Pages loaded.
    pub loads: u64,
    /// Pages and areas invalidated.
    pub invalidates: u64,
}

#[derive(Clone, Debug)]
struct Area {
    slots: u32,
    stored: Vec<u64>,
    count: u64,
}

impl Area {
    fn has(&self, offset: u32) -> bool {
        self.stored.get((offset / 64) as usize).is_some_and(|word| word >> (offset % 64) & 1 == 1)
    }

    fn set(&mut self, offset: u32) {
        if !self.has(offset)
            && let Some(word) = self.stored.get_mut((offset / 64) as usize)
        {
            *word |= 1 << (offset % 64);
            self.count += 1;
        }
    }

    fn clear(&mut self, offset: u32) {
        if self.has(offset) {
            self.stored[(offset / 64) as usize] &= !(1 << (offset % 64));
            self.count -= 1;
        }
    }
}

/// The swap areas and which of their slots the hypervisor has.
#[derive(Clone, Debug, Default)]
pub struct Frontswap {
    pool: Option<PoolId>,
    areas: Vec<Option<Area>>,
    stats: SwapStats,
}

impl Frontswap {
    /// With a pool of its own, if there is one to be had.
    #[must_use]
    pub fn new(calls: &mut impl Calls) -> Self {
        Self { pool: calls.new_pool([0; 2], PERSISTENT_POOL).ok(), ..Self::default() }
    }

    /// Without transcendent memory: refuses everything.
    #[must_use]
    pub fn without() -> Self {
        Self::default()
    }

    /// Whether there is a pool.
    #[must_use]
    pub fn has_pool(&self) -> bool {
        self.pool.is_some()
    }

    /// An area of `slots` slots is swapped on. Forgets what an area of this number may have left there before.
    pub fn swap_on(&mut self, calls: &mut impl Calls, area: u8, slots: u32) {
        let number = usize::from(area);
        if number >= MAX_AREAS {
            return;
        }
        if self.areas.len() <= number {
            self.areas.resize(number + 1, None);
        }
        self.areas[number] = Some(Area { slots, stored: vec![0; slots.div_ceil(64) as usize], count: 0 });
        self.flush_area(calls, area);
    }

    /// An area is swapped off: nothing of it is needed any more.
    pub fn invalidate_area(&mut self, calls: &mut impl Calls, area: u8) {
        let Some(slot @ Some(_)) = self.areas.get_mut(usize::from(area)) else { return };
        *slot = None;
        self.flush_area(calls, area);
        self.stats.invalidates += 1;
    }

    fn flush_area(&self, calls: &mut impl Calls, area: u8) {
        if let Some(pool) = self.pool {
            (0..SPREAD).for_each(|part| calls.flush_object(pool, object(area, part)));
        }
    }

    fn area(&mut self, slot: SlotId) -> Option<&mut Area> {
        self.areas.get_mut(usize::from(slot.area))?.as_mut().filter(|area| slot.offset < area.slots)
    }

    /// A page is swapped out: whether the hypervisor took it. If not, nothing of this slot is there (an older page is
    /// not either), and the swap device must take it.
    pub fn store(&mut self, calls: &mut impl Calls, slot: SlotId, page: Gfn) -> bool {
        let (Some(pool), (oid, index)) = (self.pool, slot.key()) else { return false };
        let Some(area) = self.area(slot) else { return false };
        let had = area.has(slot.offset);
        let taken = calls.put(pool, oid, index, page).is_ok();
        if taken {
            area.set(slot.offset);
            self.stats.succ_stores += 1;
        } else {
            area.clear(slot.offset);
            self.stats.failed_stores += 1;
            if had {
                // By the ABI a failed replacement leaves nothing but for EFAULT; make sure of it.
                calls.flush_page(pool, oid, index);
            }
        }
        taken
    }

    /// A page is swapped in: false when it is on the swap device.
    ///
    /// # Errors
    /// [`Lost`], when the hypervisor should have it and does not give it.
    pub fn load(&mut self, calls: &mut impl Calls, slot: SlotId, page: Gfn) -> Result<bool, Lost> {
        let (Some(pool), (oid, index)) = (self.pool, slot.key()) else { return Ok(false) };
        if !self.area(slot).is_some_and(|area| area.has(slot.offset)) {
            return Ok(false);
        }
        if !calls.get(pool, oid, index, page) {
            return Err(Lost);
        }
        self.stats.loads += 1;
        Ok(true)
    }

    /// A slot is free: its page is needed no more.
    pub fn invalidate_page(&mut self, calls: &mut impl Calls, slot: SlotId) {
        let (Some(pool), (oid, index)) = (self.pool, slot.key()) else { return };
        if let Some(area) = self.area(slot).filter(|area| area.has(slot.offset)) {
            area.clear(slot.offset);
            calls.flush_page(pool, oid, index);
            self.stats.invalidates += 1;
        }
    }

    /// Whether the hypervisor has this slot's page.
    #[must_use]
    pub fn has(&self, slot: SlotId) -> bool {
        let area = self.areas.get(usize::from(slot.area)).and_then(Option::as_ref);
        area.is_some_and(|area| slot.offset < area.slots && area.has(slot.offset))
    }

    /// Pages that the hypervisor has. Linux: `frontswap_curr_pages`.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.areas.iter().flatten().map(|area| area.count).sum()
    }

    /// The first slot from `from` on whose page the hypervisor has: with it a kernel walks what a shrink is to bring
    /// back.
    #[must_use]
    pub fn next_stored(&self, from: SlotId) -> Option<SlotId> {
        let first = usize::from(from.area);
        (first..self.areas.len()).find_map(|number| {
            let area = self.areas[number].as_ref()?;
            let start = if number == first { from.offset } else { 0 };
            let mut word = (start / 64) as usize;
            let mut mask = !0 << (start % 64);
            while word < area.stored.len() {
                let bits = area.stored[word] & mask;
                if bits != 0 {
                    return Some(SlotId { area: number as u8, offset: word as u32 * 64 + bits.trailing_zeros() });
                }
                (word, mask) = (word + 1, !0);
            }
            None
        })
    }

    /// Gives up the pool. Nothing may be in it that is still needed.
    pub fn destroy(&mut self, calls: &mut impl Calls) {
        if let Some(pool) = self.pool.take() {
            calls.destroy_pool(pool);
        }
        self.areas.clear();
    }

    /// The figures.
    #[must_use]
    pub const fn stats(&self) -> SwapStats {
        self.stats
    }
}
