//! A guest's page allocator.

use std::collections::BTreeSet;

use ebb_balloon::{Backing, Batch, Extent, PageSource};
use shared_abi::xen::Gfn;

use super::Random;

/// Where a page of the guest's address space is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Free,
    Used,
    /// Handed to the balloon in this step.
    Taken,
    /// With the balloon.
    Away,
}

pub struct Guest {
    pub pages: Vec<Page>,
    free: u64,
    /// Pages it does not give away.
    pub reserve: u64,
    /// Pages that came back as they were during the step.
    pub unchanged: BTreeSet<u64>,
}

impl Guest {
    /// `present` free pages of `total`.
    pub fn new(present: u64, total: u64) -> Self {
        let pages = (0..total).map(|page| if page < present { Page::Free } else { Page::Away }).collect();
        Self { pages, free: present, reserve: 0, unchanged: BTreeSet::new() }
    }

    /// The workload wants pages: from all over, so that extents break.
    pub fn allocate(&mut self, pages: u64, random: &mut Random) {
        self.turn(pages, Page::Free, Page::Used, random);
    }

    /// The workload is done with pages.
    pub fn release(&mut self, pages: u64, random: &mut Random) {
        self.turn(pages, Page::Used, Page::Free, random);
    }

    pub fn release_all(&mut self) {
        for page in self.pages.iter_mut().filter(|page| **page == Page::Used) {
            *page = Page::Free;
            self.free += 1;
        }
    }

    /// The workload takes this very page.
    pub fn allocate_at(&mut self, page: u64) {
        assert!(self.is_free(page, 1));
        self.pages[page as usize] = Page::Used;
        self.free -= 1;
    }

    pub fn is_free(&self, first: u64, pages: u64) -> bool {
        self.pages
            .get(first as usize..(first + pages) as usize)
            .is_some_and(|run| run.iter().all(|&page| page == Page::Free))
    }

    fn count(&self, kind: Page) -> u64 {
        self.pages.iter().filter(|&&page| page == kind).count() as u64
    }

    pub fn count_free(&self) -> u64 {
        self.free
    }

    fn turn(&mut self, mut left: u64, from: Page, to: Page, random: &mut Random) {
        let start = random.below(self.pages.len() as u64) as usize;
        let stride = 1 + 2 * random.below(8) as usize;
        for step in 0..self.pages.len() {
            let at = (start + step * stride) % self.pages.len();
            if left == 0 {
                break;
            }
            if self.pages[at] == from {
                self.pages[at] = to;
                left -= 1;
            }
        }
        self.free = self.count(Page::Free);
    }

    fn remove(&mut self, first: u64, pages: u64) {
        for page in first..first + pages {
            self.pages[page as usize] = Page::Taken;
            self.unchanged.remove(&page);
        }
        self.free -= pages;
    }
}

impl PageSource for Guest {
    fn take(&mut self, order: u32, out: &mut Batch) {
        let pages = 1 << order;
        for first in (0..self.pages.len() as u64).step_by(pages as usize) {
            if out.is_full() || self.free < self.reserve + pages {
                break;
            }
            if self.is_free(first, pages) {
                self.remove(first, pages);
                assert!(out.push(Gfn(first)));
            }
        }
    }

    fn take_at(&mut self, extent: Extent) -> bool {
        let free = self.is_free(extent.first.0, extent.pages());
        if free {
            self.remove(extent.first.0, extent.pages());
        }
        free
    }

    fn give_back(&mut self, extent: Extent, backing: Backing) {
        for page in extent.first.0..extent.first.0 + extent.pages() {
            let before = self.pages[page as usize];
            match backing {
                Backing::Unchanged => {
                    assert_eq!(before, Page::Taken, "page {page:#x} comes back but was not taken");
                    self.unchanged.insert(page);
                }
                Backing::Fresh => assert!(matches!(before, Page::Taken | Page::Away), "page {page:#x} is {before:?}"),
            }
            self.pages[page as usize] = Page::Free;
        }
        self.free += extent.pages();
    }
}
