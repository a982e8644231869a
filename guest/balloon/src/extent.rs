//! Extents (naturally aligned runs of 2^order pages) and the fixed batch in which they travel.
//!
//! Orders above [`SUPERPAGE_ORDER`] do not exist here: Xen's default limit for an unprivileged domain is order 9, and
//! the balloon's bookkeeping is by 2 MiB regions.

use shared_abi::xen::Gfn;

/// The order of a 2 MiB extent, the largest the balloon moves.
pub const SUPERPAGE_ORDER: u32 = 9;

/// Pages of 4 KiB in a 2 MiB extent.
pub const PAGES_PER_SUPERPAGE: u64 = 1 << SUPERPAGE_ORDER;

/// The most extents a hypercall is given: as many frame numbers as fill a page.
pub const MAX_EXTENTS: usize = 512;

/// A run of 2^`order` pages of guest address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first page; a multiple of the extent's size if the extent is well formed.
    pub first: Gfn,
    /// Binary logarithm of the number of pages.
    pub order: u32,
}

impl Extent {
    /// The extent of one 4 KiB page.
    #[must_use]
    pub const fn page(first: Gfn) -> Self {
        Self { first, order: 0 }
    }

    /// The number of pages, or 0 for an order that the balloon does not know.
    #[must_use]
    pub const fn pages(self) -> u64 {
        if self.order <= SUPERPAGE_ORDER { 1 << self.order } else { 0 }
    }
}

/// Up to [`MAX_EXTENTS`] first frames of extents of one order, in the form the hypercalls take.
///
/// A batch has a limit, set by the balloon for each step; a [`PageSource`](crate::PageSource) pushes until it has no
/// more or the batch is full.
#[derive(Debug)]
pub struct Batch {
    firsts: [Gfn; MAX_EXTENTS],
    len: usize,
    limit: usize,
}

impl Batch {
    /// An empty batch that takes nothing until it is given a limit.
    pub(crate) const fn new() -> Self {
        Self { firsts: [Gfn(0); MAX_EXTENTS], len: 0, limit: 0 }
    }

    /// Empties the batch and lets it take `limit` extents (at most [`MAX_EXTENTS`]).
    pub(crate) fn reset(&mut self, limit: usize) {
        self.len = 0;
        self.limit = limit.min(MAX_EXTENTS);
    }

    /// Adds an extent by its first frame; false, and nothing added, when the batch is full.
    #[must_use]
    pub fn push(&mut self, first: Gfn) -> bool {
        let room = self.len < self.limit;
        if room {
            self.firsts[self.len] = first;
            self.len += 1;
        }
        room
    }

    /// How many more extents are wanted.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.limit - self.len
    }

    /// How many extents there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no more extents are wanted.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// The first frames, in the order they were pushed.
    #[must_use]
    pub fn as_slice(&self) -> &[Gfn] {
        &self.firsts[..self.len]
    }

    /// Keeps the extents for which `keep` holds, in their order; answers how many were dropped.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Gfn) -> bool) -> usize {
        let before = self.len;
        let mut kept = 0;
        for index in 0..before {
            let first = self.firsts[index];
            if keep(first) {
                self.firsts[kept] = first;
                kept += 1;
            }
        }
        self.len = kept;
        before - kept
    }
}
