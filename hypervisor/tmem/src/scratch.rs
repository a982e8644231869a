//! A CPU's buffers for one call: the page as the guest gave it, and its compressed form. Too large for a stack.

use alloc::vec::Vec;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use crate::frames::{PAGE_SIZE, Page};
use crate::pack::LONGEST;

const OUTPUT: usize = get_maximum_output_size(PAGE_SIZE);

/// The buffers. Their contents mean nothing between calls.
pub struct Scratch {
    /// The page: one element. So is `packed`'s and `table`'s: a `Vec`, because making one can fail.
    page: Vec<Page>,
    packed: Vec<[u8; OUTPUT]>,
    table: Vec<CompressTable>,
}

fn one<T>(value: impl FnOnce() -> T) -> Option<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(1).ok()?;
    list.push(value());
    Some(list)
}

impl Scratch {
    /// New buffers; `None` when there is no memory.
    pub fn try_new() -> Option<Self> {
        Some(Self { page: one(|| [0; PAGE_SIZE])?, packed: one(|| [0; OUTPUT])?, table: one(CompressTable::small)? })
    }

    /// The page.
    pub(crate) fn page(&self) -> &Page {
        &self.page[0]
    }

    /// The page, to be filled.
    pub(crate) fn page_mut(&mut self) -> &mut Page {
        &mut self.page[0]
    }

    /// The page, cleared.
    pub(crate) fn zero(&mut self) -> &Page {
        self.page[0].fill(0);
        &self.page[0]
    }

    /// The first bytes of its compressed form.
    pub(crate) fn packed(&self, length: usize) -> &[u8] {
        &self.packed[0][..length]
    }

    /// The same, to be filled.
    pub(crate) fn packed_mut(&mut self, length: usize) -> &mut [u8] {
        &mut self.packed[0][..length]
    }

    /// Compresses the page. The length, or `None` when it does not become small enough to be worth it.
    pub(crate) fn compress(&mut self) -> Option<usize> {
        let length = compress_into_with_table(&self.page[0], &mut self.packed[0], &mut self.table[0]).ok()?;
        (length <= LONGEST).then_some(length)
    }

    /// Decompresses `length` bytes into the page. False when they are no compressed page.
    pub(crate) fn decompress(&mut self, length: usize) -> bool {
        decompress_into(&self.packed[0][..length], &mut self.page[0]).is_ok_and(|length| length == PAGE_SIZE)
    }

    /// Whether the page is all zero.
    pub(crate) fn is_zero(&self) -> bool {
        let zero = |chunk: &[u8; 64]| {
            chunk.as_chunks::<8>().0.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
        };
        self.page[0].as_chunks::<64>().0.iter().all(zero)
    }
}
