//! The physical page allocator: 4 KiB pages, 2 MiB extents and aligned runs between them.
//!
//! Memory is seen as blocks of 512 pages, each with a bit per page (set: free) and a count. Whole free blocks and
//! partly free blocks are kept in two lists. A small request is served from a partly free block first, so that whole
//! blocks survive for those who need 2 MiB; a block whose last page comes back is a whole one again.
//!
//! The allocator only counts. Pages that do not exist, belong to the kernel's image or are in the balloon are simply
//! not free. Freeing a page that is free, or outside, is refused and reported: it is a bug in the kernel.
//! Not locked: the owner wraps it.

/// Pages in a block.
pub const BLOCK_PAGES: u64 = 512;
/// The order of a block.
pub const BLOCK_ORDER: u32 = 9;

const NONE: u32 = u32::MAX;
const WORDS: usize = BLOCK_PAGES as usize / 64;

/// A page number that was freed twice or lies outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFree(pub u64);

/// What the allocator knows about 512 pages.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    free: [u64; WORDS],
    count: u16,
    next: u32,
    prev: u32,
}

impl Block {
    /// A block without a free page.
    pub const EMPTY: Self = Self { free: [0; WORDS], count: 0, next: NONE, prev: NONE };

    /// The first run of `1 << order` free pages, aligned to its size.
    fn find(&self, order: u32) -> Option<u32> {
        let pages = 1u32 << order;
        if order >= 6 {
            let words = (pages / 64) as usize;
            return (0..WORDS)
                .step_by(words)
                .find(|start| self.free[*start..start + words].iter().all(|word| *word == !0))
                .map(|start| start as u32 * 64);
        }
        self.free.iter().enumerate().find_map(|(index, word)| {
            let fit = aligned_runs(*word, order);
            (fit != 0).then(|| index as u32 * 64 + fit.trailing_zeros())
        })
    }

    /// Sets or clears the bits of `1 << order` pages from `page`; false when one of them is so already.
    fn mark(&mut self, page: u32, order: u32, free: bool) -> bool {
        let pages = 1u32 << order;
        let (first, words) = ((page / 64) as usize, (pages as usize).div_ceil(64));
        let mask = if pages >= 64 { !0 } else { ((1u64 << pages) - 1) << (page % 64) };
        let wanted = if free { 0 } else { mask };
        if self.free[first..first + words].iter().any(|word| word & mask != wanted) {
            return false;
        }
        for word in &mut self.free[first..first + words] {
            *word ^= mask;
        }
        if free {
            self.count += pages as u16;
        } else {
            self.count -= pages as u16;
        }
        true
    }
}

/// Bits of `word` at which a run of `1 << order` set bits starts, aligned to its size. `order` is below 6.
fn aligned_runs(word: u64, order: u32) -> u64 {
    const STARTS: [u64; 6] = [
        !0,
        0x5555_5555_5555_5555,
        0x1111_1111_1111_1111,
        0x0101_0101_0101_0101,
        0x0001_0001_0001_0001,
        0x0000_0001_0000_0001,
    ];
    let mut runs = word;
    for step in 0..order {
        runs &= runs >> (1 << step);
    }
    runs & STARTS[order as usize]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Partial,
    Whole,
}

/// The allocator over borrowed block records: `blocks[n]` describes pages `512 n` to `512 n + 511`.
#[derive(Debug)]
pub struct Frames<'a> {
    blocks: &'a mut [Block],
    partial: u32,
    whole: u32,
    free: u64,
    free_blocks: u64,
}

impl<'a> Frames<'a> {
    /// Starts with nothing free. `blocks` is overwritten.
    pub fn new(blocks: &'a mut [Block]) -> Self {
        blocks.fill(Block::EMPTY);
        Self { blocks, partial: NONE, whole: NONE, free: 0, free_blocks: 0 }
    }

    /// Free pages.
    pub fn free_pages(&self) -> u64 {
        self.free
    }

    /// Whole free 2 MiB extents.
    pub fn free_extents(&self) -> u64 {
        self.free_blocks
    }

    /// One past the highest page that can be described.
    pub fn end(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_PAGES
    }

    /// Takes `1 << order` pages (order at most 9), aligned to their size; the number of the first one.
    pub fn take(&mut self, order: u32) -> Option<u64> {
        assert!(order <= BLOCK_ORDER, "an extent is at most one block");
        if order < BLOCK_ORDER {
            let mut index = self.partial;
            while index != NONE {
                if let Some(page) = self.blocks[index as usize].find(order) {
                    return Some(self.take_in(index, page, order));
                }
                index = self.blocks[index as usize].next;
            }
        }
        let index = self.whole;
        (index != NONE).then(|| self.take_in(index, 0, order))
    }

    /// Takes exactly the `1 << order` pages from `page` on, if all are free.
    pub fn take_at(&mut self, page: u64, order: u32) -> bool {
        let index = page / BLOCK_PAGES;
        if order > BLOCK_ORDER || !page.is_multiple_of(1 << order) || index >= self.blocks.len() as u64 {
            return false;
        }
        let before = self.blocks[index as usize].count;
        let taken = self.blocks[index as usize].mark((page % BLOCK_PAGES) as u32, order, false);
        if taken {
            self.free -= 1 << order;
            self.relist(index as u32, before);
        }
        taken
    }

    /// Gives `1 << order` pages back.
    pub fn give(&mut self, page: u64, order: u32) -> Result<(), BadFree> {
        let index = page / BLOCK_PAGES;
        let aligned = order <= BLOCK_ORDER && page.is_multiple_of(1 << order);
        if !aligned || index >= self.blocks.len() as u64 {
            return Err(BadFree(page));
        }
        let index = index as u32;
        let before = self.blocks[index as usize].count;
        if !self.blocks[index as usize].mark((page % BLOCK_PAGES) as u32, order, true) {
            return Err(BadFree(page));
        }
        self.free += 1 << order;
        self.relist(index, before);
        Ok(())
    }

    /// Gives a range of pages back, in the largest extents that fit.
    pub fn give_range(&mut self, start: u64, end: u64) -> Result<(), BadFree> {
        let mut page = start;
        while page < end {
            let order = page.trailing_zeros().min((end - page).ilog2()).min(BLOCK_ORDER);
            self.give(page, order)?;
            page += 1 << order;
        }
        Ok(())
    }

    /// Is this page free?
    pub fn is_free(&self, page: u64) -> bool {
        let bit = page % BLOCK_PAGES;
        self.blocks
            .get((page / BLOCK_PAGES) as usize)
            .is_some_and(|block| block.free[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    fn take_in(&mut self, index: u32, page: u32, order: u32) -> u64 {
        let before = self.blocks[index as usize].count;
        let marked = self.blocks[index as usize].mark(page, order, false);
        debug_assert!(marked, "found pages are free");
        self.free -= 1 << order;
        self.relist(index, before);
        u64::from(index) * BLOCK_PAGES + u64::from(page)
    }

    /// Moves a block to the list that its count demands; `before` is the count its present list belongs to.
    fn relist(&mut self, index: u32, before: u16) {
        let (old, new) = (list_of(before), list_of(self.blocks[index as usize].count));
        if old == new {
            return;
        }
        if let Some(list) = old {
            self.unlink(index, list);
        }
        if let Some(list) = new {
            self.link(index, list);
        }
    }

    fn head(&mut self, list: List) -> &mut u32 {
        match list {
            List::Partial => &mut self.partial,
            List::Whole => &mut self.whole,
        }
    }

    fn link(&mut self, index: u32, list: List) {
        let first = core::mem::replace(self.head(list), index);
        self.blocks[index as usize].next = first;
        self.blocks[index as usize].prev = NONE;
        if first != NONE {
            self.blocks[first as usize].prev = index;
        }
        if list == List::Whole {
            self.free_blocks += 1;
        }
    }

    fn unlink(&mut self, index: u32, list: List) {
        let Block { next, prev, .. } = self.blocks[index as usize];
        if prev == NONE {
            *self.head(list) = next;
        } else {
            self.blocks[prev as usize].next = next;
        }
        if next != NONE {
            self.blocks[next as usize].prev = prev;
        }
        if list == List::Whole {
            self.free_blocks -= 1;
        }
    }
}

fn list_of(count: u16) -> Option<List> {
    match u64::from(count) {
        0 => None,
        BLOCK_PAGES => Some(List::Whole),
        _ => Some(List::Partial),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn small_requests_spare_whole_blocks() {
        let mut blocks = [Block::EMPTY; 4];
        let mut frames = Frames::new(&mut blocks);
        frames.give_range(100, 2048).unwrap();
        assert_eq!((frames.free_pages(), frames.free_extents()), (1948, 3));
        for _ in 0..412 {
            assert!(frames.take(0).unwrap() < 512);
        }
        assert_eq!(frames.free_extents(), 3);
        let page = frames.take(0).unwrap();
        assert_eq!(frames.free_extents(), 2);
        assert!(frames.take_at(1024, 9) && !frames.take_at(1024 + 7, 0) && !frames.take_at(1, 0));
        frames.give(1024, 9).unwrap();
        frames.give(page, 0).unwrap();
        assert_eq!(frames.free_extents(), 3, "a block heals");
    }

    #[test]
    fn double_and_foreign_frees_are_refused() {
        let mut blocks = [Block::EMPTY; 1];
        let mut frames = Frames::new(&mut blocks);
        frames.give(8, 3).unwrap();
        assert_eq!(frames.give(8, 3), Err(BadFree(8)));
        assert_eq!(frames.give(10, 0), Err(BadFree(10)));
        assert_eq!(frames.give(9, 1), Err(BadFree(9)), "not aligned");
        assert_eq!(frames.give(512, 0), Err(BadFree(512)));
        assert_eq!(frames.free_pages(), 8);
    }

    #[test]
    fn random_work_never_hands_a_page_out_twice() {
        let mut blocks = vec![Block::EMPTY; 16];
        let mut frames = Frames::new(&mut blocks);
        frames.give_range(3, 16 * 512 - 5).unwrap();
        let total = frames.free_pages();
        let mut owned: Vec<(u64, u32)> = Vec::new();
        let mut used = vec![false; 16 * 512];
        let mut rng = Rng::new(7);
        for _ in 0..20_000 {
            if rng.one_in(2) {
                let order = rng.pick(&[0, 0, 0, 1, 2, 3, 5, 6, 7, 8, 9]);
                let Some(page) = frames.take(order) else {
                    continue;
                };
                assert_eq!(page % (1 << order), 0);
                for slot in &mut used[page as usize..(page + (1 << order)) as usize] {
                    assert!(!*slot);
                    *slot = true;
                }
                owned.push((page, order));
            } else if !owned.is_empty() {
                let (page, order) = owned.swap_remove(rng.below(owned.len() as u64) as usize);
                used[page as usize..(page + (1 << order)) as usize].fill(false);
                frames.give(page, order).unwrap();
            }
            let held: u64 = owned.iter().map(|(_, order)| 1 << order).sum();
            assert_eq!(frames.free_pages() + held, total);
        }
        for (page, order) in owned {
            frames.give(page, order).unwrap();
        }
        assert_eq!((frames.free_pages(), frames.free_extents()), (total, 14));
    }
}
