//! The two ends of a ring.

use shared_abi::io::{console, ring, xs_wire};

use crate::page::Page;

/// The peer's index claims more than the ring can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndex;

/// Where a ring lies in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset of the bytes.
    data: usize,
    /// How many; a power of two.
    size: u32,
    /// Offset of the producer's index.
    producer: usize,
    /// Offset of the consumer's.
    consumer: usize,
}

impl Layout {
    /// XenStore: from the client to the server.
    pub const STORE_REQUESTS: Layout = Layout {
        data: xs_wire::REQ,
        size: xs_wire::RING_SIZE,
        producer: xs_wire::REQ_PROD,
        consumer: xs_wire::REQ_CONS,
    };
    /// XenStore: from the server to the client.
    pub const STORE_REPLIES: Layout = Layout {
        data: xs_wire::RSP,
        size: xs_wire::RING_SIZE,
        producer: xs_wire::RSP_PROD,
        consumer: xs_wire::RSP_CONS,
    };
    /// Console: from the back end to the guest.
    pub const CONSOLE_INPUT: Layout =
        Layout { data: console::IN, size: console::IN_SIZE, producer: console::IN_PROD, consumer: console::IN_CONS };
    /// Console: from the guest to the back end.
    pub const CONSOLE_OUTPUT: Layout = Layout {
        data: console::OUT,
        size: console::OUT_SIZE,
        producer: console::OUT_PROD,
        consumer: console::OUT_CONS,
    };

    /// Bytes that the ring holds.
    pub const fn size(&self) -> usize {
        self.size as usize
    }

    /// Empties the ring and sets both indexes to 0: for the one side that a protocol allows it.
    pub fn clear(&self, page: &impl Page) {
        page.store(self.consumer, 0);
        page.store(self.producer, 0);
    }
}

/// The end that bytes are put in at.
#[derive(Debug)]
pub struct Producer {
    layout: Layout,
    index: u32,
}

impl Producer {
    /// Goes on where the page says that this end is.
    pub fn attach(layout: Layout, page: &impl Page) -> Producer {
        Producer { layout, index: page.load(layout.producer) }
    }

    /// Goes on at an index that the page need not say.
    pub const fn at(layout: Layout, index: u32) -> Producer {
        Producer { layout, index }
    }

    /// Bytes that could be put in now.
    pub fn room(&self, page: &impl Page) -> Result<usize, BadIndex> {
        let consumer = page.load(self.layout.consumer);
        ring::free(self.index, consumer, self.layout.size).map(|free| free as usize).ok_or(BadIndex)
    }

    /// Puts in as many of the bytes as there is room for; how many.
    pub fn write(&mut self, page: &impl Page, bytes: &[u8]) -> Result<usize, BadIndex> {
        let count = self.room(page)?.min(bytes.len());
        let mut rest = &bytes[..count];
        for (offset, length) in ring::pieces(self.index, count as u32, self.layout.size) {
            let (piece, after) = rest.split_at(length);
            page.write(self.layout.data + offset, piece);
            rest = after;
        }
        if count > 0 {
            self.index = self.index.wrapping_add(count as u32);
            page.store(self.layout.producer, self.index);
        }
        Ok(count)
    }
}

/// The end that bytes are taken out at.
#[derive(Debug)]
pub struct Consumer {
    layout: Layout,
    index: u32,
}

impl Consumer {
    /// Goes on where the page says that this end is.
    pub fn attach(layout: Layout, page: &impl Page) -> Consumer {
        Consumer { layout, index: page.load(layout.consumer) }
    }

    /// Goes on at an index that the page need not say.
    pub const fn at(layout: Layout, index: u32) -> Consumer {
        Consumer { layout, index }
    }

    /// Bytes that could be taken out now.
    pub fn available(&self, page: &impl Page) -> Result<usize, BadIndex> {
        let producer = page.load(self.layout.producer);
        ring::available(producer, self.index, self.layout.size).map(|count| count as usize).ok_or(BadIndex)
    }

    /// Copies out as many bytes as there are and fit, and leaves them in the ring; how many.
    pub fn peek(&self, page: &impl Page, to: &mut [u8]) -> Result<usize, BadIndex> {
        let count = self.available(page)?.min(to.len());
        let mut rest = &mut to[..count];
        for (offset, length) in ring::pieces(self.index, count as u32, self.layout.size) {
            let (piece, after) = rest.split_at_mut(length);
            page.read(self.layout.data + offset, piece);
            rest = after;
        }
        Ok(count)
    }

    /// Takes out bytes that [`peek`](Self::peek) gave: `count` of them, at most as many.
    pub fn advance(&mut self, page: &impl Page, count: usize) {
        debug_assert!(count <= self.layout.size());
        if count > 0 {
            self.index = self.index.wrapping_add(count as u32);
            page.store(self.layout.consumer, self.index);
        }
    }

    /// Takes out as many bytes as there are and fit; how many.
    pub fn read(&mut self, page: &impl Page, to: &mut [u8]) -> Result<usize, BadIndex> {
        let count = self.peek(page, to)?;
        self.advance(page, count);
        Ok(count)
    }
}
