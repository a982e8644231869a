//! A simulated disk: one head, a stated time for each request, contents computed from tags.

use alloc::vec;
use alloc::vec::Vec;

use crate::border::Words;
use crate::contents::{Contents, Mismatch, Tag};

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// To another place than right behind the last request, in ns.
    pub seek_ns: u64,
    /// To transfer a page, in ns.
    pub page_ns: u64,
    /// How far writes may run behind before those who write must wait, in ns.
    pub queue_ns: u64,
}

impl Timing {
    /// A disk that turns 7,200 times a minute: 8 ms and 100 MiB/s.
    pub const DISK: Self = Self { seek_ns: 8_000_000, page_ns: 40_000, queue_ns: 100_000_000 };
    /// A solid-state disk on SATA: 100 µs and 400 MiB/s.
    pub const SSD: Self = Self { seek_ns: 90_000, page_ns: 10_000, queue_ns: 10_000_000 };
}

/// What it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Pages read.
    pub reads: u64,
    /// Pages written.
    pub writes: u64,
    /// Time it was busy, in ns.
    pub busy_ns: u64,
}

/// The disk. Blocks are pages.
#[derive(Debug)]
pub struct Disk {
    timing: Timing,
    contents: Contents,
    tags: Vec<Tag>,
    busy_until: u64,
    /// The block behind the last request.
    next: u32,
    stats: DiskStats,
}

impl Disk {
    /// An empty disk, to be grown.
    #[must_use]
    pub fn new(timing: Timing, contents: Contents) -> Self {
        Self { timing, contents, tags: Vec::new(), busy_until: 0, next: 0, stats: DiskStats::default() }
    }

    /// Adds blocks at the end, holding what `tag` says; the first one's number.
    pub fn grow(&mut self, blocks: u32, tag: impl Fn(u32) -> Tag) -> u32 {
        let first = self.tags.len() as u32;
        self.tags.extend((0..blocks).map(tag));
        first
    }

    /// Adds blocks that nothing was written to.
    pub fn grow_empty(&mut self, blocks: u32) -> u32 {
        let first = self.tags.len() as u32;
        self.tags.extend(vec![Tag(0); blocks as usize]);
        first
    }

    /// Time for a request at `now`; when it is done.
    fn request(&mut self, now: u64, block: u32) -> u64 {
        let seek = if block == self.next { 0 } else { self.timing.seek_ns };
        let takes = seek + self.timing.page_ns;
        self.next = block + 1;
        self.stats.busy_ns += takes;
        self.busy_until = self.busy_until.max(now) + takes;
        self.busy_until
    }

    /// Reads a block; when it is there.
    pub fn read(&mut self, now: u64, block: u32, page: &mut Words) -> u64 {
        self.contents.fill(self.tags[block as usize], page);
        self.stats.reads += 1;
        self.request(now, block)
    }

    /// Writes a page with this tag; until when the writer must wait, which is not the end of it.
    ///
    /// # Errors
    /// The page does not hold what the tag says; nothing is written.
    pub fn write(&mut self, now: u64, block: u32, tag: Tag, page: &Words) -> Result<u64, Mismatch> {
        self.contents.check(tag, page)?;
        self.tags[block as usize] = tag;
        self.stats.writes += 1;
        Ok(self.request(now, block).saturating_sub(self.timing.queue_ns))
    }

    /// The figures.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_for_those_before_it_and_neighbours_need_no_seek() {
        let timing = Timing { seek_ns: 1000, page_ns: 10, queue_ns: 5000 };
        let mut disk = Disk::new(timing, Contents::USUAL);
        disk.grow_empty(100);
        let mut page = [0; 512];
        assert_eq!(disk.read(100, 0, &mut page), 110, "the head is there");
        assert_eq!(disk.read(100, 1, &mut page), 120);
        assert_eq!(disk.read(100, 50, &mut page), 1130);
        assert_eq!(disk.read(9000, 51, &mut page), 9010);
        assert_eq!(disk.stats(), DiskStats { reads: 4, writes: 0, busy_ns: 1040 });
    }

    #[test]
    fn writers_wait_when_the_queue_is_long_and_wrong_pages_are_refused() {
        let timing = Timing { seek_ns: 1000, page_ns: 0, queue_ns: 2500 };
        let mut disk = Disk::new(timing, Contents { zero: 0, compressible: 0 });
        disk.grow_empty(100);
        let mut page = [0; 512];
        let tag = Tag::new(1, 1, 1, 1);
        assert!(disk.write(0, 7, tag, &page).is_err());
        disk.contents.fill(tag, &mut page);
        let waits: Vec<u64> = [7, 17, 27, 37].map(|block| disk.write(0, block, tag, &page).unwrap()).into();
        assert_eq!(waits, [0, 0, 500, 1500]);
        page.fill(0);
        disk.read(0, 27, &mut page);
        assert_eq!(disk.contents.check(tag, &page), Ok(()));
    }
}
