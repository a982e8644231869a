//! What is measured: the store, and what it is compared with, all doing the same to the same memory.
//!
//! A roofline takes pages from the guest's memory to memory of its own and back, as the store does, and nothing else:
//! no books, no names, no page that is missing. So it reads and writes the same bytes, in the same order.

use ebb_tmem::{ClientId, Config, Handle, PAGE_SIZE, Page, Scratch, Store};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into};

use crate::memory::{Guest, Memory, Region, finish, scattered};

/// The kinds of pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    Zero,
    Equal,
    Compressible,
    Random,
}

/// The pages of a guest.
pub fn guest(kind: Pages, count: usize, seed: u64) -> Region {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ seed << 32;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let page = move |number: usize| {
        let mut page: Page = [0; PAGE_SIZE];
        match kind {
            Pages::Zero => {}
            Pages::Equal => page.fill(7),
            Pages::Compressible => {
                for chunk in page.chunks_mut(64) {
                    chunk[..16].fill(number as u8);
                    chunk[16..24].copy_from_slice(&next().to_le_bytes());
                }
            }
            Pages::Random => page.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&next().to_le_bytes())),
        }
        page
    };
    Region::of((0..count).map(page))
}

/// A thread's own things: its guest's pages, and buffers.
pub struct Thread {
    guest: Region,
    pages: usize,
    scratch: Scratch,
    table: CompressTable,
    lengths: Vec<usize>,
}

impl Thread {
    /// With so many pages of a kind, for `slots` names.
    pub fn new(kind: Pages, pages: usize, slots: usize, number: usize) -> Self {
        Self {
            guest: guest(kind, pages, number as u64),
            pages,
            scratch: Scratch::try_new().expect("memory"),
            table: CompressTable::small(),
            lengths: vec![0; slots],
        }
    }

    /// Which of the guest's pages is put under a name, and got back to.
    fn slot(&self, index: usize) -> usize {
        index * 7 % self.pages
    }
}

/// Something that keeps pages under numbers.
pub trait Keeper: Sync {
    fn put(&self, thread: &mut Thread, index: usize);
    fn get(&self, thread: &mut Thread, index: usize);
    fn flush(&self, _thread: &mut Thread, _index: usize) {}
}

/// The store, with one client and one persistent pool.
pub struct Kept {
    memory: Memory,
    store: Store,
}

impl Kept {
    pub fn new(pages: usize, compress: bool, deduplicate: bool) -> Self {
        // The pages, and their metadata.
        let memory = Memory::new((pages * 5 / 4 + 64) as u32);
        let store = Store::new(Config { clients: 1, seed: 1, compress, deduplicate });
        store.on(&memory).new_pool(ClientId(0), 0x0100_0001, [0, 0]).expect("a pool");
        Self { memory, store }
    }
}

fn handle(index: usize) -> Handle {
    Handle { pool: 0, oid: [index as u64 % 64, 0, 0], index: index as u32 / 64 }
}

impl Keeper for Kept {
    fn put(&self, thread: &mut Thread, index: usize) {
        let page = Guest(&thread.guest, thread.slot(index));
        self.store.on(&self.memory).put(ClientId(0), &handle(index), &page, &mut thread.scratch).expect("room");
    }

    fn get(&self, thread: &mut Thread, index: usize) {
        let page = Guest(&thread.guest, thread.slot(index));
        let found = self.store.on(&self.memory).get(ClientId(0), &handle(index), &page, &mut thread.scratch);
        assert_eq!(found, Ok(true), "a page");
    }

    fn flush(&self, _thread: &mut Thread, index: usize) {
        assert_eq!(self.store.on(&self.memory).flush_page(ClientId(0), &handle(index)), Ok(true));
    }
}

/// `memcpy`: a page there and back.
pub struct Copied {
    area: Region,
    pages: usize,
}

impl Copied {
    /// For a number of pages that is a power of two.
    pub fn new(pages: usize) -> Self {
        Self { area: Region::new(pages), pages }
    }
}

impl Keeper for Copied {
    fn put(&self, thread: &mut Thread, index: usize) {
        self.area.write(scattered(index, self.pages), 0, thread.guest.bytes(thread.slot(index), 0, PAGE_SIZE));
    }

    fn get(&self, thread: &mut Thread, index: usize) {
        thread.guest.write(thread.slot(index), 0, self.area.bytes(scattered(index, self.pages), 0, PAGE_SIZE));
    }
}

/// The same, but each page is through before the next one begins, as it is where a client calls for each page.
///
/// Without this a processor begins with the next page while the last lines of this one are still on their way, if the
/// next copy is among the few hundred instructions that it looks ahead: [`Copied`] gains a third by it. Who executes
/// more than that between two pages, whatever it is, cannot; and between two pages of a guest lie an exit from it and
/// an entry, too.
pub struct Apart(Copied);

impl Apart {
    /// For a number of pages that is a power of two.
    pub fn new(pages: usize) -> Self {
        Self(Copied::new(pages))
    }
}

impl Keeper for Apart {
    fn put(&self, thread: &mut Thread, index: usize) {
        self.0.put(thread, index);
        finish();
    }

    fn get(&self, thread: &mut Thread, index: usize) {
        self.0.get(thread, index);
        finish();
    }
}

/// LZ4: a page compressed to where it stays, and decompressed from there to where it came from.
pub struct Packed {
    area: Region,
    pages: usize,
}

impl Packed {
    /// For a number of pages that is a power of two.
    pub fn new(pages: usize) -> Self {
        // LZ4 wants room for a page that does not become smaller; what is not written to is not touched.
        Self { area: Region::new(pages * 2), pages }
    }
}

impl Keeper for Packed {
    fn put(&self, thread: &mut Thread, index: usize) {
        let page = thread.guest.bytes(thread.slot(index), 0, PAGE_SIZE);
        let table = &mut thread.table;
        thread.lengths[index] = self.area.change(scattered(index, self.pages) * 2, 2, |room| {
            compress_into_with_table(page, room, table).expect("room")
        });
    }

    fn get(&self, thread: &mut Thread, index: usize) {
        let packed = self.area.bytes(scattered(index, self.pages) * 2, 0, thread.lengths[index]);
        thread.guest.change(thread.slot(index), 1, |page| decompress_into(packed, page).expect("a page"));
    }
}
