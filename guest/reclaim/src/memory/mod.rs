//! The memory of a guest: its files in the page cache, its anonymous memory, and what is needed for both.

mod anon;
mod file;
mod reclaim;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use ebb_guest_tmem::{CacheStats, Calls, Cleancache, Frontswap, SlotId, SwapStats};

use crate::border::PageSource;
use crate::contents::{Contents, Mismatch, Tag};
use crate::disk::{Disk, DiskStats, Timing};
use crate::lists::{Kind, Lists, Owner};
use crate::swap::Slots;
use anon::Region;
use file::{File, Mount};
use reclaim::Balance;

pub use anon::RegionId;
pub use file::{FileId, MountId};

/// The swap area that frontswap stands in front of.
const SWAP_AREA: u8 = 0;

/// Free pages at which something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Below this an allocation reclaims first; no page is taken that would leave fewer.
    pub min: u64,
    /// Below this pages are reclaimed in the background,
    pub low: u64,
    /// until there are so many.
    pub high: u64,
}

/// What a guest's memory starts with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Tells this guest's pages from others'.
    pub seed: u64,
    /// Pages for which descriptions are made ahead.
    pub pages: usize,
    /// When reclaim begins and ends.
    pub watermarks: Watermarks,
    /// Pages of the swap area.
    pub swap: u32,
    /// The disk, which holds files and the swap area.
    pub disk: Timing,
    /// What is in pages.
    pub contents: Contents,
    /// Whether clean pages go to transcendent memory.
    pub cleancache: bool,
    /// Whether swapped pages go to transcendent memory first.
    pub frontswap: bool,
    /// Dirty pages of files beyond which they are written back at once.
    pub dirty: u64,
}

/// Why an operation could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No page is free and none can be reclaimed.
    OutOfMemory,
    /// A page is not what was last written to it. The operation's page is left alone.
    Wrong(Mismatch),
    /// Transcendent memory does not give back a page that it took.
    Lost,
    /// There is no such page of this file or region.
    OutOfRange,
}

/// What has been done, ever, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Operations on pages of files, and how many found their page in the page cache.
    pub file_accesses: u64,
    /// See `file_accesses`.
    pub file_hits: u64,
    /// Operations on anonymous pages, and how many of them had to swap in.
    pub anon_accesses: u64,
    /// Pages swapped in, from transcendent memory and from the disk.
    pub swap_ins: u64,
    /// Pages swapped out, to transcendent memory and to the disk.
    pub swap_outs: u64,
    /// Of those, from the disk.
    pub swap_disk_reads: u64,
    /// Of those, to the disk.
    pub swap_disk_writes: u64,
    /// Pages of files read from the disk.
    pub file_disk_reads: u64,
    /// Pages of files written to it.
    pub file_disk_writes: u64,
    /// Pages whose contents were found right.
    pub verified: u64,
    /// Pages that reclaim looked at.
    pub scanned: u64,
    /// Pages that it freed.
    pub reclaimed: u64,
    /// Times that an allocation had to reclaim itself.
    pub direct_reclaims: u64,
}

/// What there is now, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Anonymous pages promised.
    pub committed: u64,
    /// Pages in the page cache, of which...
    pub file: u64,
    /// ...are dirty.
    pub dirty: u64,
    /// Anonymous pages in memory.
    pub anon: u64,
    /// Pages of the swap area.
    pub swap: u64,
    /// How many of them are used, of which...
    pub swap_used: u64,
    /// ...are in transcendent memory.
    pub frontswap: u64,
}

/// A guest's memory over its page allocator and its calls.
pub struct Memory<P: PageSource, C: Calls> {
    pub(crate) source: P,
    pub(crate) calls: C,
    config: Config,
    disk: Disk,
    lists: Lists<P::Frame>,
    mounts: Vec<Mount>,
    files: Vec<File>,
    regions: Vec<Option<Region>>,
    /// Regions made so far.
    generations: u32,
    slots: Slots,
    /// The swap area's first block.
    swap_block: u32,
    cleancache: Cleancache,
    frontswap: Frontswap,
    /// Where the next partial swapoff goes on.
    unuse_cursor: u32,
    /// Pages of files that became dirty, the oldest first; some are clean or gone since.
    dirtied: VecDeque<(u16, u32)>,
    dirty: u64,
    committed: u64,
    balance: Balance,
    /// When the I/O of the operation in progress is done.
    done: u64,
    stats: Stats,
}

impl<P: PageSource, C: Calls> Memory<P, C> {
    /// Nothing mounted and nothing promised.
    pub fn new(source: P, mut calls: C, config: Config) -> Self {
        let mut disk = Disk::new(config.disk, config.contents);
        let swap_block = disk.grow_empty(config.swap);
        let mut frontswap = if config.frontswap { Frontswap::new(&mut calls) } else { Frontswap::without() };
        frontswap.swap_on(&mut calls, SWAP_AREA, config.swap);
        Self {
            source,
            calls,
            config,
            disk,
            lists: Lists::new(config.pages),
            mounts: Vec::new(),
            files: Vec::new(),
            regions: Vec::new(),
            generations: 0,
            slots: Slots::new(config.swap),
            swap_block,
            cleancache: Cleancache::new(),
            frontswap,
            unuse_cursor: 0,
            dirtied: VecDeque::with_capacity(config.pages),
            dirty: 0,
            committed: 0,
            balance: Balance::default(),
            done: 0,
            stats: Stats::default(),
        }
    }

    /// Whether there is transcendent memory and it is used.
    #[must_use]
    pub fn uses_tmem(&self) -> bool {
        self.frontswap.has_pool() || self.mounts.iter().any(|mount| self.cleancache.has_pool(mount.file_system))
    }

    /// A page for an operation, reclaiming first when too few are free.
    fn allocate(&mut self) -> Result<P::Frame, Failure> {
        if self.source.free() <= self.config.watermarks.min {
            self.stats.direct_reclaims += 1;
            self.reclaim_some(reclaim::BATCH)?;
        }
        if self.source.free() <= self.config.watermarks.min {
            return Err(Failure::OutOfMemory);
        }
        self.source.take().ok_or(Failure::OutOfMemory)
    }

    /// Reclaims in the background: when fewer than low are free, until high are. When the I/O is done.
    ///
    /// # Errors
    /// [`Failure::Wrong`].
    pub fn balance(&mut self, now: u64) -> Result<u64, Failure> {
        self.done = now;
        let Watermarks { low, high, .. } = self.config.watermarks;
        let free = self.source.free();
        if free < low {
            self.reclaim_some(high - free)?;
        }
        Ok(self.done)
    }

    /// Reclaims up to `pages` pages for somebody else, the balloon. How many it was, and when the I/O is done.
    ///
    /// # Errors
    /// [`Failure::Wrong`].
    pub fn reclaim(&mut self, now: u64, pages: u64) -> Result<(u64, u64), Failure> {
        self.done = now;
        let freed = self.reclaim_some(pages)?;
        Ok((freed, self.done))
    }

    /// Compares a page in use with what should be there.
    fn verify(&mut self, page: u32, tag: Tag) -> Result<(), Failure> {
        let frame = self.lists.page_mut(page).frame.as_mut().expect("in use");
        let contents = self.config.contents;
        self.source.with(frame, |words| contents.check(tag, words)).map_err(Failure::Wrong)?;
        self.stats.verified += 1;
        Ok(())
    }

    /// The same for a frame that just came back; it is given back when it is wrong.
    fn verify_frame(&mut self, mut frame: P::Frame, tag: Tag) -> Result<P::Frame, Failure> {
        let contents = self.config.contents;
        let checked = self.source.with(&mut frame, |words| contents.check(tag, words));
        if let Err(wrong) = checked {
            self.source.give(frame);
            return Err(Failure::Wrong(wrong));
        }
        self.stats.verified += 1;
        Ok(frame)
    }

    /// Writes what the tag says into a page in use.
    fn fill(&mut self, page: u32, tag: Tag) {
        let frame = self.lists.page_mut(page).frame.as_mut().expect("in use");
        let contents = self.config.contents;
        self.source.with(frame, |words| contents.fill(tag, words));
    }

    /// A page was used: the second time while inactive makes it active.
    fn touch_page(&mut self, page: u32) {
        let entry = self.lists.page_mut(page);
        if entry.referenced && !entry.active {
            entry.referenced = false;
            self.lists.move_to(page, true);
        } else {
            entry.referenced = true;
        }
    }

    /// Writes a page in use to a block.
    fn write_out(&mut self, page: u32, block: u32, tag: Tag) -> Result<(), Failure> {
        let frame = self.lists.page_mut(page).frame.as_mut().expect("in use");
        let (disk, now) = (&mut self.disk, self.done);
        let wait = self.source.with(frame, |words| disk.write(now, block, tag, words)).map_err(Failure::Wrong)?;
        self.done = self.done.max(wait);
        Ok(())
    }

    /// Reads a block into a frame.
    fn read_in(&mut self, block: u32, frame: &mut P::Frame) {
        let (disk, now) = (&mut self.disk, self.done);
        self.done = self.source.with(frame, |words| disk.read(now, block, words));
    }

    fn slot_id(slot: u32) -> SlotId {
        SlotId { area: SWAP_AREA, offset: slot }
    }

    /// What there is now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            committed: self.committed,
            file: self.lists.count(Kind::File, true) + self.lists.count(Kind::File, false),
            dirty: self.dirty,
            anon: self.lists.count(Kind::Anon, true) + self.lists.count(Kind::Anon, false),
            swap: self.slots.total().into(),
            swap_used: self.slots.used().into(),
            frontswap: self.frontswap.pages(),
        }
    }

    /// What has been done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What the disk has done.
    #[must_use]
    pub fn disk(&self) -> DiskStats {
        self.disk.stats()
    }

    /// What cleancache has done.
    #[must_use]
    pub fn cleancache(&self) -> CacheStats {
        self.cleancache.stats()
    }

    /// What frontswap has done.
    #[must_use]
    pub fn frontswap(&self) -> SwapStats {
        self.frontswap.stats()
    }

    /// When reclaim begins and ends.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        self.config.watermarks
    }

    /// The page allocator.
    pub fn source(&mut self) -> &mut P {
        &mut self.source
    }

    /// The calls.
    pub fn calls(&mut self) -> &mut C {
        &mut self.calls
    }

    /// Checks every link and figure. For tests.
    ///
    /// # Panics
    /// When something does not add up.
    pub fn audit(&self) {
        let (mut file, mut anon, mut dirty) = (0, 0, 0);
        for (number, page) in self.lists.in_use() {
            match page.owner {
                Owner::File { file: owner, index } => {
                    assert_eq!(self.files[usize::from(owner)].pages[index as usize], number);
                    file += 1;
                    dirty += u64::from(page.dirty);
                }
                Owner::Anon { region, index } => {
                    let region = self.regions[usize::from(region)].as_ref().expect("a page's region is there");
                    assert_eq!(region.place(index), anon::Place::Present(number));
                    anon += 1;
                }
            }
        }
        let figures = self.figures();
        assert_eq!((figures.file, figures.anon, figures.dirty), (file, anon, dirty));
        assert_eq!(self.lists.total(), file + anon);
        let cached: usize = self.files.iter().map(|file| file.cached()).sum();
        assert_eq!(cached as u64, file);
        self.audit_swap(anon);
    }

    fn audit_swap(&self, anon: u64) {
        let (mut present, mut swapped, mut committed) = (0, 0, 0);
        for (number, region) in self.regions.iter().enumerate() {
            let Some(region) = region else { continue };
            committed += u64::from(region.len());
            for index in 0..region.len() {
                match region.place(index) {
                    anon::Place::Absent => {}
                    anon::Place::Present(_) => present += 1,
                    anon::Place::Swapped(slot) => {
                        let owner = self.slots.owner(slot).expect("a slot in use");
                        assert_eq!((usize::from(owner.region), owner.index), (number, index));
                        swapped += 1;
                    }
                }
            }
        }
        assert_eq!((present, swapped, committed), (anon, u64::from(self.slots.used()), self.committed));
        let stored = (0..self.slots.total()).filter(|slot| self.frontswap.has(Self::slot_id(*slot)));
        let stored = stored.inspect(|slot| assert!(self.slots.owner(*slot).is_some(), "a free slot is in frontswap"));
        assert_eq!(stored.count() as u64, self.frontswap.pages());
    }
}
