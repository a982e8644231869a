//! Which pages are in the balloon.
//!
//! A page that was given away cannot hold a list node, and giving memory away is no time to allocate. So the balloon
//! remembers its pages in bitmaps, one [`Region`] of storage for each 2 MiB of address space, which the caller
//! provides once (136 bytes a region, 0.0065 % of the address space). A bitmap by region, rather than
//! Linux's list of pages, because it also answers what a list cannot: which regions are wholly absent and can come back
//! as one 2 MiB extent, which are begun and should be completed first, and which are whole again but scattered.
//!
//! Invariants, after every method: `absent` is a subset of `ram` in each region; the totals are the sums of the bits;
//! the tally counts every region in its class; no region below a hint has the class that the hint is for.

use shared_abi::xen::Gfn;

use crate::extent::{Batch, Extent, PAGES_PER_SUPERPAGE, SUPERPAGE_ORDER};

const WORDS: usize = PAGES_PER_SUPERPAGE as usize / 64;

/// The balloon's memory of 2 MiB of guest address space; see [`Balloon::new`](crate::Balloon::new).
#[derive(Clone, Debug)]
pub struct Region {
    /// Pages that are RAM, backed or not.
    ram: [u64; WORDS],
    /// Pages that are RAM and in the balloon.
    absent: [u64; WORDS],
    ram_pages: u16,
    absent_pages: u16,
    /// Some pages are, or were when they left, frames of their own and no part of a 2 MiB extent. Guests are built
    /// from 2 MiB extents, so a region starts without it.
    scattered: bool,
}

impl Region {
    /// A region without RAM.
    pub const EMPTY: Self =
        Self { ram: [0; WORDS], absent: [0; WORDS], ram_pages: 0, absent_pages: 0, scattered: false };

    const fn class(&self) -> Class {
        let all_ram = self.ram_pages == PAGES_PER_SUPERPAGE as u16;
        match self.absent_pages {
            0 if all_ram && self.scattered => Class::Scattered,
            0 => Class::Present,
            _ if all_ram && self.absent_pages == self.ram_pages => Class::Absent,
            _ => Class::Partial,
        }
    }
}

const _: () = assert!(size_of::<Region>() == 136);

/// What can be done about a region.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Nothing: it is with the guest (as one extent, or it is not all RAM), or it has no RAM.
    Present,
    /// All RAM, with the guest, in scattered frames: it can be healed.
    Scattered,
    /// Some pages are in the balloon: it can be completed.
    Partial,
    /// 512 pages of RAM, all in the balloon: it can come back as one extent.
    Absent,
}

/// Whether RAM is backed when the balloon is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The guest has it.
    Present,
    /// It is address space without memory behind it: the balloon starts with it.
    Absent,
}

/// Why RAM could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// There is no [`Region`] for some of the pages.
    OutOfRange,
    /// Some of the pages were added before.
    Overlap,
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "RAM beyond the balloon's regions",
            Self::Overlap => "RAM that the balloon has already",
        })
    }
}

impl core::error::Error for SetupError {}

/// The bitmaps of all regions, their totals, and the fate of the superpages.
#[derive(Debug)]
pub(crate) struct RegionMap<'a> {
    regions: &'a mut [Region],
    /// Pages at or above this count as high when they are absent.
    high_start: u64,
    ram: u64,
    low: u64,
    high: u64,
    regions_partial: usize,
    regions_absent: usize,
    regions_scattered: usize,
    /// No region below is partial.
    partial_hint: usize,
    /// No region below is absent.
    absent_hint: usize,
    kept: u64,
    won: u64,
    lost: u64,
}

impl<'a> RegionMap<'a> {
    /// A map without RAM over `regions`, whose contents are dropped.
    pub(crate) fn new(regions: &'a mut [Region], high_start: u64) -> Self {
        regions.fill(Region::EMPTY);
        let none = regions.len();
        Self {
            regions,
            high_start,
            ram: 0,
            low: 0,
            high: 0,
            regions_partial: 0,
            regions_absent: 0,
            regions_scattered: 0,
            partial_hint: none,
            absent_hint: none,
            kept: 0,
            won: 0,
            lost: 0,
        }
    }

    /// All pages of RAM.
    pub(crate) const fn ram(&self) -> u64 {
        self.ram
    }

    /// Pages with the guest.
    pub(crate) const fn present(&self) -> u64 {
        self.ram - self.low - self.high
    }

    /// Pages in the balloon below and above the start of high memory.
    pub(crate) const fn low_and_high(&self) -> (u64, u64) {
        (self.low, self.high)
    }

    /// Regions that can come back as one extent.
    pub(crate) const fn regions_absent(&self) -> usize {
        self.regions_absent
    }

    /// Regions that can be healed.
    pub(crate) const fn regions_scattered(&self) -> usize {
        self.regions_scattered
    }

    /// Superpages kept, won and lost, ever.
    pub(crate) const fn superpages(&self) -> (u64, u64, u64) {
        (self.kept, self.won, self.lost)
    }

    /// Adds RAM. Nothing is added upon an error.
    pub(crate) fn add_ram(&mut self, first: Gfn, pages: u64, presence: Presence) -> Result<(), SetupError> {
        let first = first.0;
        let end = first.checked_add(pages).ok_or(SetupError::OutOfRange)?;
        if end > self.regions.len() as u64 * PAGES_PER_SUPERPAGE {
            return Err(SetupError::OutOfRange);
        }
        let overlaps = |(region, word, mask): (usize, usize, u64)| self.regions[region].ram[word] & mask != 0;
        if run_masks(first, end).any(overlaps) {
            return Err(SetupError::Overlap);
        }
        for (index, word, mask) in run_masks(first, end) {
            self.change(index, |region| {
                region.ram[word] |= mask;
                region.ram_pages += mask.count_ones() as u16;
            });
            self.ram += u64::from(mask.count_ones());
            if presence == Presence::Absent {
                self.set_absent(index, word, mask);
            }
            self.note_mixture(index);
        }
        Ok(())
    }

    /// Whether the extent is well formed and all its pages are RAM that the guest has.
    pub(crate) fn is_present(&self, extent: Extent) -> bool {
        self.locate(extent).is_some_and(|mut masks| {
            masks.all(|(region, word, mask)| {
                let region = &self.regions[region];
                region.ram[word] & !region.absent[word] & mask == mask
            })
        })
    }

    /// Puts an extent into the balloon; false, and nothing done, if the guest does not have all of it.
    pub(crate) fn mark_absent(&mut self, extent: Extent) -> bool {
        let Some(masks) = self.locate(extent).filter(|_| self.is_present(extent)) else {
            return false;
        };
        for (index, word, mask) in masks {
            self.set_absent(index, word, mask);
            if extent.order != SUPERPAGE_ORDER {
                self.scatter(index);
            }
        }
        true
    }

    /// Takes an extent out of the balloon; false, and nothing done, if not all of it is there.
    pub(crate) fn mark_present(&mut self, extent: Extent) -> bool {
        let all_absent = |(region, word, mask): (usize, usize, u64)| {
            let region: &Region = &self.regions[region];
            region.absent[word] & mask == mask
        };
        let Some(masks) = self.locate(extent) else {
            return false;
        };
        if !masks.clone().all(all_absent) {
            return false;
        }
        let whole = extent.order == SUPERPAGE_ORDER;
        for (index, word, mask) in masks {
            self.clear_absent(index, word, mask);
            if !whole {
                self.scatter(index);
            }
        }
        if whole {
            let index = (extent.first.0 / PAGES_PER_SUPERPAGE) as usize;
            let was_scattered = self.regions[index].scattered;
            self.gather(index);
            if was_scattered {
                self.won += 1;
            } else {
                self.kept += 1;
            }
        }
        true
    }

    /// Notes that a scattered region was exchanged for one extent.
    pub(crate) fn mark_healed(&mut self, index: usize) {
        if self.regions.get(index).is_some_and(|region| region.class() == Class::Scattered) {
            self.gather(index);
            self.won += 1;
        }
    }

    /// Fills the batch with wholly absent regions, lowest first.
    pub(crate) fn collect_superpages(&mut self, batch: &mut Batch) {
        let mut left = self.regions_absent;
        let mut index = self.absent_hint;
        self.absent_hint = self.regions.len();
        while left > 0 && index < self.regions.len() {
            if self.regions[index].class() == Class::Absent {
                self.absent_hint = self.absent_hint.min(index);
                if !batch.push(first_of(index)) {
                    break;
                }
                left -= 1;
            }
            index += 1;
        }
    }

    /// Fills the batch with absent pages: those that complete a region first, then by breaking up absent regions, each
    /// lowest first.
    pub(crate) fn collect_pages(&mut self, batch: &mut Batch) {
        let mut left = self.regions_partial;
        let mut index = self.partial_hint;
        self.partial_hint = self.regions.len();
        while left > 0 && index < self.regions.len() {
            if self.regions[index].class() == Class::Partial {
                self.partial_hint = self.partial_hint.min(index);
                left -= 1;
                if !push_absent(&self.regions[index], index, batch) {
                    return;
                }
            }
            index += 1;
        }
        let mut left = self.regions_absent;
        let mut index = self.absent_hint;
        while left > 0 && index < self.regions.len() {
            if self.regions[index].class() == Class::Absent {
                left -= 1;
                if !push_absent(&self.regions[index], index, batch) {
                    return;
                }
            }
            index += 1;
        }
    }

    /// The next region at or after `from`, going round, that can be healed.
    pub(crate) fn next_scattered(&self, from: usize) -> Option<usize> {
        if self.regions_scattered == 0 {
            return None;
        }
        let scattered = |&index: &usize| self.regions[index].class() == Class::Scattered;
        let from = from.min(self.regions.len());
        (from..self.regions.len()).find(scattered).or_else(|| (0..from).find(scattered))
    }

    /// The words and masks of an extent, if it is well formed and within the regions.
    fn locate(&self, extent: Extent) -> Option<impl Iterator<Item = (usize, usize, u64)> + Clone + use<>> {
        let pages = extent.pages();
        let first = extent.first.0;
        let within = first < self.regions.len() as u64 * PAGES_PER_SUPERPAGE;
        // Aligned and at most a region long, an extent that begins in a region ends in it.
        (pages != 0 && within && first.is_multiple_of(pages)).then(|| run_masks(first, first + pages))
    }

    fn set_absent(&mut self, index: usize, word: usize, mask: u64) {
        self.change(index, |region| {
            region.absent[word] |= mask;
            region.absent_pages += mask.count_ones() as u16;
        });
        let (low, high) = self.split(index, word, mask);
        self.low += low;
        self.high += high;
        match self.regions[index].class() {
            Class::Absent => self.absent_hint = self.absent_hint.min(index),
            _ => self.partial_hint = self.partial_hint.min(index),
        }
    }

    fn clear_absent(&mut self, index: usize, word: usize, mask: u64) {
        self.change(index, |region| {
            region.absent[word] &= !mask;
            region.absent_pages -= mask.count_ones() as u16;
        });
        let (low, high) = self.split(index, word, mask);
        self.low -= low;
        self.high -= high;
        if self.regions[index].class() == Class::Partial {
            self.partial_hint = self.partial_hint.min(index);
        }
    }

    /// How many pages of a mask are below and above the start of high memory.
    fn split(&self, index: usize, word: usize, mask: u64) -> (u64, u64) {
        let first = first_of(index).0 + word as u64 * 64;
        let below = match self.high_start.saturating_sub(first) {
            0 => 0,
            pages @ 1..64 => mask & ((1 << pages) - 1),
            _ => mask,
        };
        (u64::from(below.count_ones()), u64::from((mask & !below).count_ones()))
    }

    /// Notes that a region of which the guest starts with a part never was one extent.
    fn note_mixture(&mut self, index: usize) {
        let region = &self.regions[index];
        if region.absent_pages != 0 && region.absent_pages != region.ram_pages {
            self.change(index, |region| region.scattered = true);
        }
    }

    /// Notes that a region is no longer one extent.
    fn scatter(&mut self, index: usize) {
        if !self.regions[index].scattered {
            self.change(index, |region| region.scattered = true);
            if self.regions[index].ram_pages == PAGES_PER_SUPERPAGE as u16 {
                self.lost += 1;
            }
        }
    }

    /// Notes that a region is one extent.
    fn gather(&mut self, index: usize) {
        self.change(index, |region| region.scattered = false);
    }

    /// Changes a region and keeps the tally.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Region)) {
        let region = &mut self.regions[index];
        let before = region.class();
        change(region);
        let after = region.class();
        if let Some(count) = self.tally(before) {
            *count -= 1;
        }
        if let Some(count) = self.tally(after) {
            *count += 1;
        }
    }

    fn tally(&mut self, class: Class) -> Option<&mut usize> {
        match class {
            Class::Present => None,
            Class::Scattered => Some(&mut self.regions_scattered),
            Class::Partial => Some(&mut self.regions_partial),
            Class::Absent => Some(&mut self.regions_absent),
        }
    }
}

/// The first frame of a region.
pub(crate) fn first_of(index: usize) -> Gfn {
    Gfn(index as u64 * PAGES_PER_SUPERPAGE)
}

/// Pushes a region's absent pages; false when the batch was full before the region was exhausted.
fn push_absent(region: &Region, index: usize, batch: &mut Batch) -> bool {
    let base = first_of(index).0;
    for (word, &bits) in region.absent.iter().enumerate() {
        let mut bits = bits;
        while bits != 0 {
            if !batch.push(Gfn(base + word as u64 * 64 + u64::from(bits.trailing_zeros()))) {
                return false;
            }
            bits &= bits - 1;
        }
    }
    true
}

/// The (region, word, mask) triples that cover the pages `first..end`.
fn run_masks(first: u64, end: u64) -> impl Iterator<Item = (usize, usize, u64)> + Clone {
    let mut at = first;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let bit = at % 64;
        let pages = (64 - bit).min(end - at);
        let mask = (u64::MAX >> (64 - pages)) << bit;
        let place = ((at / PAGES_PER_SUPERPAGE) as usize, (at % PAGES_PER_SUPERPAGE / 64) as usize, mask);
        at += pages;
        Some(place)
    })
}
