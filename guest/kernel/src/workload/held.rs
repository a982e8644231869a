//! Pages that a workload really holds: each is filled with a pattern of its own when it is taken, looked at now and then,
//! and checked before it is given back.
#![allow(unsafe_code)] // Access to the pages that are held.

use crate::page;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ebb_guest_logic::frames::{BLOCK_ORDER, BLOCK_PAGES};
use ebb_guest_logic::pattern;
use ebb_guest_logic::rng::Rng;

/// Free pages that are left to the kernel.
const RESERVE: u64 = 160;
/// Held pages that are looked at in one go.
const LOOKS: usize = 16;
/// Single pages that can be listed: the heap has no larger pieces.
const MAX_SINGLE: u64 = 480_000;

/// The pages that are held.
pub struct Held {
    seed: u64,
    rng: Rng,
    extents: Vec<u32>,
    pages: Vec<u32>,
    /// Pages whose contents were found right.
    pub verified: u64,
}

impl Held {
    /// None, and room for `most` pages at once, so that the heap does not grow while memory is short.
    pub fn new(seed: u64, most: u64) -> Self {
        Self {
            seed,
            rng: Rng::new(seed),
            extents: Vec::with_capacity((most / BLOCK_PAGES) as usize + 1),
            pages: Vec::with_capacity((most + BLOCK_PAGES).min(MAX_SINGLE) as usize),
            verified: 0,
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.extents.len() as u64 * BLOCK_PAGES + self.pages.len() as u64
    }

    fn fill(&self, page: u64) {
        // SAFETY: the page was taken from the allocator and is in neither list yet.
        pattern::fill(unsafe { page::words(page) }, page, self.seed);
    }

    fn check(&mut self, page: u64) -> Result<(), String> {
        // SAFETY: the page is held, and this is the only reference to it.
        pattern::check(unsafe { page::words(page) }, page, self.seed).map_err(|wrong| {
            format!(
                "page {:#x} is wrong at word {}: {:#x} instead of {:#x}",
                wrong.gfn, wrong.index, wrong.found, wrong.expected
            )
        })?;
        self.verified += 1;
        Ok(())
    }

    /// Takes pages until `wish` are held or there are no more to spare.
    pub fn grow(&mut self, wish: u64) {
        while self.count() + BLOCK_PAGES <= wish {
            let Some(first) = page::take_sparing(BLOCK_ORDER, RESERVE) else {
                break;
            };
            (first..first + BLOCK_PAGES).for_each(|page| self.fill(page));
            self.extents.push(first as u32);
        }
        while self.count() < wish && self.pages.len() < self.pages.capacity() {
            let Some(page) = page::take_sparing(0, RESERVE) else {
                break;
            };
            self.fill(page);
            self.pages.push(page as u32);
        }
    }

    /// Gives pages back, each found right, until `wish` are held.
    pub fn shrink(&mut self, wish: u64) -> Result<(), String> {
        while self.count() > wish {
            let excess = self.count() - wish;
            if (excess >= BLOCK_PAGES || self.pages.is_empty())
                && let Some(first) = self.extents.pop()
            {
                let first = u64::from(first);
                if excess >= BLOCK_PAGES {
                    (first..first + BLOCK_PAGES).try_for_each(|page| self.check(page))?;
                    page::give(first, BLOCK_ORDER);
                } else {
                    self.pages.extend(first as u32..first as u32 + BLOCK_PAGES as u32);
                }
            } else if let Some(page) = self.pages.pop() {
                self.check(u64::from(page))?;
                page::give(u64::from(page), 0);
            }
        }
        Ok(())
    }

    /// Looks at a few of the held pages.
    pub fn look(&mut self) -> Result<(), String> {
        for _ in 0..LOOKS.min(self.count() as usize) {
            let index = self.rng.below(self.count());
            let single = self.pages.len() as u64;
            let page = if index < single {
                self.pages[index as usize].into()
            } else {
                let place = index - single;
                u64::from(self.extents[(place / BLOCK_PAGES) as usize]) + place % BLOCK_PAGES
            };
            self.check(page)?;
        }
        Ok(())
    }
}
