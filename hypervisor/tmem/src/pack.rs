//! Objects smaller than a page, packed into frames.
//!
//! A frame is 64 chunks of 64 bytes. The first is its header: list links, and a bitmap of free chunks. An object is a
//! run of chunks: a word that says whose it is and how long, then the bytes. Frames with room are listed by their
//! longest free run, so the best fit is found in constant time. An object can be moved ([`Pack::empty`]), because its
//! word leads to the record that says where it is: that is how memory is compacted. Locking: the owner's.

use core::sync::atomic::Ordering::Relaxed;

use crate::frames::{Frame, Frames};
use crate::slab::{NIL, SlotId, push, unlink};

/// Bytes of a chunk.
const CHUNK: usize = 64;
const CHUNK_WORDS: usize = CHUNK / 8;
/// Chunks for objects in a frame.
const USABLE: u32 = 63;
/// The word before an object's bytes.
const PREFIX: usize = 8;
/// The longest object: beyond it the rest of the frame is no good to anybody.
pub const LONGEST: usize = 48 * CHUNK - PREFIX;
/// Lists of frames, by a quarter of the longest free run.
const LISTS: usize = 16;

const LINKS: usize = 0;
const BITMAP: usize = 1;

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frame.
    pub frame: u32,
    /// Its first chunk.
    pub chunk: u8,
    /// Its bytes.
    pub length: u16,
}

/// The frames.
#[derive(Debug)]
pub struct Pack {
    lists: [u32; LISTS],
    frames: u64,
    free: u64,
}

fn chunks(length: u16) -> u32 {
    (PREFIX + usize::from(length)).div_ceil(CHUNK) as u32
}

fn run_mask(chunk: u32, count: u32) -> u64 {
    ((1 << count) - 1) << chunk
}

/// Bits that begin a run of `count` set bits.
fn runs_of(bits: u64, count: u32) -> u64 {
    let (mut runs, mut length) = (bits, 1);
    while length < count {
        let step = length.min(count - length);
        runs &= runs >> step;
        length += step;
    }
    runs
}

/// The longest run of set bits: where runs of each power of two begin, and then as many of these as fit together.
fn longest_run(bits: u64) -> u32 {
    let mut runs = [bits; 6];
    for power in 1..runs.len() {
        runs[power] = runs[power - 1] & runs[power - 1] >> (1 << (power - 1));
    }
    let (mut begins, mut length) = (u64::MAX, 0);
    for (power, runs) in runs.iter().enumerate().rev() {
        let longer = begins & runs >> length;
        if longer != 0 {
            (begins, length) = (longer, length + (1 << power));
        }
    }
    length
}

/// The list of a frame with these free chunks; `None` when there is none.
fn list_of(bits: u64) -> Option<usize> {
    (bits != 0).then(|| longest_run(bits) as usize / 4)
}

impl Pack {
    /// None.
    pub const fn new() -> Self {
        Self { lists: [NIL; LISTS], frames: 0, free: 0 }
    }

    /// Frames held.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Whether more than a quarter of it, and more than a frame, is free.
    pub fn is_loose(&self) -> bool {
        self.free > u64::from(USABLE) && 4 * self.free > self.frames * u64::from(USABLE)
    }

    /// Adds a frame.
    pub fn add<F: Frames>(&mut self, frames: &F, frame: Frame) {
        let frame = frame.into_number();
        self.frames += 1;
        self.free += u64::from(USABLE);
        self.set_free(frames, frame, 0, !1);
    }

    /// Room for an object, marked as the record's `owner`; `None` when a frame has to be added first.
    pub fn allocate<F: Frames>(&mut self, frames: &F, owner: SlotId, length: u16) -> Option<Place> {
        let count = chunks(length);
        let frame = self.find(frames, count)?;
        let bits = frames.word(frame, BITMAP).load(Relaxed);
        let chunk = runs_of(bits, count).trailing_zeros();
        self.set_free(frames, frame, bits, bits & !run_mask(chunk, count));
        self.free -= u64::from(count);
        let word = frames.word(frame, chunk as usize * CHUNK_WORDS);
        word.store(owner << 16 | u64::from(length), Relaxed);
        Some(Place { frame, chunk: chunk as u8, length })
    }

    /// A frame with a free run of `count` chunks: the tightest list whose frames all fit, else a lucky one below.
    fn find<F: Frames>(&self, frames: &F, count: u32) -> Option<u32> {
        let sure = count.div_ceil(4) as usize;
        if let Some(head) = self.lists.iter().skip(sure).find(|head| **head != NIL) {
            return Some(*head);
        }
        let below = self.lists[sure - 1];
        let fits = below != NIL && runs_of(frames.word(below, BITMAP).load(Relaxed), count) != 0;
        fits.then_some(below)
    }

    /// Frees an object; its frame, if it was the last one in it.
    #[must_use = "the frame must be freed"]
    pub fn free<F: Frames>(&mut self, frames: &F, place: Place) -> Option<Frame> {
        let count = chunks(place.length);
        let bits = frames.word(place.frame, BITMAP).load(Relaxed);
        let mask = run_mask(u32::from(place.chunk), count);
        debug_assert!(bits & mask == 0, "an object freed twice");
        self.free += u64::from(count);
        let left = bits | mask;
        if left == !1 {
            self.unlist(frames, place.frame, bits);
            self.frames -= 1;
            self.free -= u64::from(USABLE);
            return Some(Frame::new(place.frame));
        }
        self.set_free(frames, place.frame, bits, left);
        None
    }

    /// Writes an object's bytes.
    pub fn write<F: Frames>(frames: &F, place: Place, bytes: &[u8]) {
        frames.write(place.frame, usize::from(place.chunk) * CHUNK + PREFIX, bytes);
    }

    /// Reads them.
    pub fn read<F: Frames>(frames: &F, place: Place, bytes: &mut [u8]) {
        frames.read(place.frame, usize::from(place.chunk) * CHUNK + PREFIX, bytes);
    }

    /// Whether they are these.
    pub fn equal<F: Frames>(frames: &F, place: Place, bytes: &[u8]) -> bool {
        usize::from(place.length) == bytes.len()
            && frames.equal(place.frame, usize::from(place.chunk) * CHUNK + PREFIX, bytes)
    }

    /// Moves the objects of the emptiest frame into the others, and gives the frame if that worked out for all.
    /// `moved` is told of each: whose it is, and where it is now.
    #[must_use = "the frame must be freed"]
    pub fn empty<F: Frames>(&mut self, frames: &F, mut moved: impl FnMut(SlotId, Place)) -> Option<Frame> {
        let source = *self.lists.iter().rev().find(|head| **head != NIL)?;
        let mut bits = frames.word(source, BITMAP).load(Relaxed);
        let free = u64::from(bits.count_ones());
        if self.free - free < u64::from(USABLE) - free {
            return None;
        }
        self.unlist(frames, source, bits);
        let mut chunk = 1;
        while chunk <= USABLE {
            if bits >> chunk & 1 == 1 {
                chunk += 1;
                continue;
            }
            let word = frames.word(source, chunk as usize * CHUNK_WORDS).load(Relaxed);
            let (owner, count) = (word >> 16, chunks(word as u16));
            let Some(place) = self.allocate(frames, owner, word as u16) else { break };
            for index in 1..count as usize * CHUNK_WORDS {
                let value = frames.word(source, chunk as usize * CHUNK_WORDS + index).load(Relaxed);
                frames.word(place.frame, usize::from(place.chunk) * CHUNK_WORDS + index).store(value, Relaxed);
            }
            moved(owner, place);
            bits |= run_mask(chunk, count);
            self.free += u64::from(count);
            chunk += count;
        }
        if bits == !1 {
            self.frames -= 1;
            self.free -= u64::from(USABLE);
            return Some(Frame::new(source));
        }
        self.set_free(frames, source, 0, bits);
        None
    }

    /// Sets the free chunks of a frame that is in the list of those it had, and moves it to that of those it has.
    fn set_free<F: Frames>(&mut self, frames: &F, frame: u32, had: u64, has: u64) {
        frames.word(frame, BITMAP).store(has, Relaxed);
        let (from, to) = (list_of(had), list_of(has));
        if from == to {
            return;
        }
        if let Some(from) = from {
            unlink(frames, &mut self.lists[from], frame, LINKS);
        }
        if let Some(to) = to {
            push(frames, &mut self.lists[to], frame, LINKS);
        }
    }

    fn unlist<F: Frames>(&mut self, frames: &F, frame: u32, bits: u64) {
        if let Some(list) = list_of(bits) {
            unlink(frames, &mut self.lists[list], frame, LINKS);
        }
    }
}
