//! A CPU's buffers for one call: the page as the guest gave it, and its compressed form. Too large for a stack.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use crate::frames::{PAGE_SIZE, Page};
use crate::pack::LONGEST;

const OUTPUT: usize = get_maximum_output_size(PAGE_SIZE);

/// The buffers. Their contents mean nothing between calls.
pub struct Scratch {
    /// The page.
    pub(crate) page: Page,
    /// Its compressed form.
    pub(crate) packed: [u8; OUTPUT],
    table: CompressTable,
}

impl Scratch {
    /// New buffers.
    pub fn new() -> Self {
        Self { page: [0; PAGE_SIZE], packed: [0; OUTPUT], table: CompressTable::small() }
    }

    /// Compresses the page. The length, or `None` when it does not become small enough to be worth it.
    pub(crate) fn compress(&mut self) -> Option<usize> {
        let length = compress_into_with_table(&self.page, &mut self.packed, &mut self.table).ok()?;
        (length <= LONGEST).then_some(length)
    }

    /// Decompresses `length` bytes into the page. False when they are no compressed page.
    pub(crate) fn decompress(&mut self, length: usize) -> bool {
        decompress_into(&self.packed[..length], &mut self.page).is_ok_and(|length| length == PAGE_SIZE)
    }

    /// Whether the page is all zero.
    pub(crate) fn is_zero(&self) -> bool {
        self.page.as_chunks::<64>().0.iter().all(|chunk| chunk == &[0; 64])
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
