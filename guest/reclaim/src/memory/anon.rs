//! Anonymous memory: regions whose pages are absent until touched, then in memory or swapped.

use alloc::vec::Vec;

use ebb_guest_tmem::Calls;

use super::{Failure, Memory};
use crate::border::PageSource;
use crate::contents::Tag;
use crate::lists::Owner;
use crate::swap::SlotOwner;

/// A region of anonymous memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionId(u16);

#[cfg(test)]
impl RegionId {
    /// The first region's.
    pub(crate) const fn first() -> Self {
        Self(0)
    }
}

/// Owners of anonymous pages are numbered from here, those of files below.
const ANON: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Never touched: reads as zeros, and has no page.
    Absent,
    /// The page in use.
    Present(u32),
    /// The slot.
    Swapped(u32),
}

pub(super) struct Region {
    places: Vec<Place>,
    /// How often each page was written.
    versions: Vec<u32>,
    /// Tells this region from others that had its number.
    generation: u32,
}

impl Region {
    pub fn len(&self) -> u32 {
        self.places.len() as u32
    }

    pub fn place(&self, index: u32) -> Place {
        self.places[index as usize]
    }
}

impl<P: PageSource, C: Calls> Memory<P, C> {
    /// A region of no pages, with room for `pages` made ahead.
    pub fn map(&mut self, pages: u32) -> RegionId {
        let free = self.regions.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            self.regions.push(None);
            self.regions.len() - 1
        });
        self.generations = self.generations.wrapping_add(1);
        let (places, versions) = (Vec::with_capacity(pages as usize), Vec::with_capacity(pages as usize));
        self.regions[number] = Some(Region { places, versions, generation: self.generations });
        RegionId(number as u16)
    }

    fn region(&mut self, region: u16) -> Result<&mut Region, Failure> {
        self.regions.get_mut(usize::from(region)).and_then(Option::as_mut).ok_or(Failure::OutOfRange)
    }

    /// Promises a region `pages` pages in all, more or fewer than before. Whether the promise can be kept is for the
    /// caller to know (`ebb_selfballoon::Inputs::may_commit`). Those that go are gone.
    ///
    /// # Errors
    /// [`Failure::OutOfRange`].
    pub fn resize(&mut self, region: RegionId, pages: u32) -> Result<(), Failure> {
        let len = self.region(region.0)?.len();
        for index in pages..len {
            self.release(region.0, index);
        }
        let entry = self.region(region.0)?;
        entry.places.resize(pages as usize, Place::Absent);
        entry.versions.resize(pages as usize, 0);
        self.committed = self.committed - u64::from(len) + u64::from(pages);
        Ok(())
    }

    /// Ends a region.
    ///
    /// # Errors
    /// [`Failure::OutOfRange`].
    pub fn unmap(&mut self, region: RegionId) -> Result<(), Failure> {
        self.resize(region, 0)?;
        self.regions[usize::from(region.0)] = None;
        Ok(())
    }

    /// A page is needed no more.
    fn release(&mut self, region: u16, index: u32) {
        let Some(entry) = self.regions[usize::from(region)].as_mut() else { return };
        match core::mem::replace(&mut entry.places[index as usize], Place::Absent) {
            Place::Absent => {}
            Place::Present(page) => {
                let frame = self.lists.remove(page);
                self.source.give(frame);
            }
            Place::Swapped(slot) => self.free_slot(slot),
        }
    }

    fn free_slot(&mut self, slot: u32) {
        self.frontswap.invalidate_page(&mut self.calls, Self::slot_id(slot));
        self.slots.give(slot);
    }

    fn anon_tag(&self, region: u16, index: u32) -> Tag {
        let entry = self.regions[usize::from(region)].as_ref().expect("the region of a page");
        // The generation is spread over the seed, so that a region never sees what an earlier one of its number wrote.
        let seed = self.config.seed ^ u64::from(entry.generation) << 32;
        Tag::new(seed, ANON | u32::from(region), index, entry.versions[index as usize])
    }

    /// Touches a page: swaps it in if it must, compares it with what was last written, and writes to it if `write`. When
    /// the I/O is done.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn touch(&mut self, now: u64, region: RegionId, index: u32, write: bool) -> Result<u64, Failure> {
        let number = region.0;
        let entry = self.region(number)?;
        let place = *entry.places.get(index as usize).ok_or(Failure::OutOfRange)?;
        self.done = now;
        self.stats.anon_accesses += 1;
        let page = match place {
            Place::Absent => {
                let frame = self.allocate()?;
                let page = self.lists.insert(frame, Owner::Anon { region: number, index }, true);
                self.region(number)?.places[index as usize] = Place::Present(page);
                let tag = self.anon_tag(number, index);
                self.fill(page, tag);
                page
            }
            Place::Present(page) => {
                let tag = self.anon_tag(number, index);
                self.verify(page, tag)?;
                page
            }
            Place::Swapped(slot) => self.swap_in(number, index, slot)?,
        };
        self.lists.page_mut(page).referenced = true;
        if write {
            self.region(number)?.versions[index as usize] += 1;
            let tag = self.anon_tag(number, index);
            self.fill(page, tag);
        }
        Ok(self.done)
    }

    /// Brings a page back; its slot is free then.
    fn swap_in(&mut self, region: u16, index: u32, slot: u32) -> Result<u32, Failure> {
        let mut frame = self.allocate()?;
        let gfn = self.source.gfn(&frame);
        match self.frontswap.load(&mut self.calls, Self::slot_id(slot), gfn) {
            Ok(true) => {}
            Ok(false) => {
                self.read_in(self.swap_block + slot, &mut frame);
                self.stats.swap_disk_reads += 1;
            }
            Err(_) => {
                self.source.give(frame);
                return Err(Failure::Lost);
            }
        }
        let tag = self.anon_tag(region, index);
        let frame = self.verify_frame(frame, tag)?;
        self.stats.swap_ins += 1;
        self.free_slot(slot);
        let page = self.lists.insert(frame, Owner::Anon { region, index }, true);
        self.region(region)?.places[index as usize] = Place::Present(page);
        Ok(page)
    }

    /// Swaps a page out and frees its frame; false when the swap area is full.
    pub(super) fn swap_out(&mut self, page: u32, region: u16, index: u32) -> Result<bool, Failure> {
        let Some(slot) = self.slots.take(SlotOwner { region, index }) else { return Ok(false) };
        let tag = self.anon_tag(region, index);
        let gfn = self.source.gfn(self.lists.page(page).frame.as_ref().expect("in use"));
        if !self.frontswap.store(&mut self.calls, Self::slot_id(slot), gfn) {
            if let Err(wrong) = self.write_out(page, self.swap_block + slot, tag) {
                self.slots.give(slot);
                return Err(wrong);
            }
            self.stats.swap_disk_writes += 1;
        }
        self.stats.swap_outs += 1;
        self.region(region)?.places[index as usize] = Place::Swapped(slot);
        let frame = self.lists.remove(page);
        self.source.give(frame);
        Ok(true)
    }

    /// Partial swapoff: brings pages back from transcendent memory until `target` are left there, at most `most` at a
    /// time and only while more than the high watermark is free: it must not push others out. How many it was, and when
    /// the I/O is done. Linux: `frontswap_shrink`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn shrink_frontswap(&mut self, now: u64, target: u64, most: u64) -> Result<(u64, u64), Failure> {
        self.done = now;
        let mut back = 0;
        while back < most && self.frontswap.pages() > target && self.source.free() > self.config.watermarks.high {
            let from = Self::slot_id(self.unuse_cursor);
            let next = self.frontswap.next_stored(from).or_else(|| self.frontswap.next_stored(Self::slot_id(0)));
            let Some(slot) = next.map(|slot| slot.offset) else { break };
            self.unuse_cursor = slot + 1;
            let SlotOwner { region, index } = self.slots.owner(slot).ok_or(Failure::Lost)?;
            let page = self.swap_in(region, index, slot)?;
            // Nobody asked for it: it is the first to go again.
            self.lists.move_to(page, false);
            back += 1;
        }
        Ok((back, self.done))
    }
}
