//! Slots of one size in frames: nodes, and records of contents.
//!
//! A frame's first slot is its header: neighbours in the list of frames with free slots, and a bitmap of these. A
//! frame without used slots goes back at once. Locking: the owner's.

use core::sync::atomic::Ordering::Relaxed;

use crate::frames::{FRAME_WORDS, Frame, Frames};

/// No frame.
pub const NIL: u32 = u32::MAX;

/// The name of a slot. 0 is none.
pub type SlotId = u64;

/// Frames cut into slots of `WORDS` words (4 or 8).
#[derive(Debug)]
pub struct Slab<const WORDS: usize> {
    /// First frame with free slots.
    partial: u32,
    used: u64,
    frames: u64,
}

const LINKS: usize = 0;
const BITMAP: usize = 1;

impl<const WORDS: usize> Slab<WORDS> {
    const SLOTS: usize = FRAME_WORDS / WORDS;
    const SHIFT: u32 = Self::SLOTS.ilog2();
    const BITMAPS: usize = Self::SLOTS / 64;

    /// None.
    pub const fn new() -> Self {
        const { assert!(WORDS == 4 || WORDS == 8) }
        Self { partial: NIL, used: 0, frames: 0 }
    }

    /// Slots in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Frames held.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// A free slot, in which anything may be; `None` when a frame has to be added first.
    pub fn allocate<F: Frames>(&mut self, frames: &F) -> Option<SlotId> {
        let frame = self.partial;
        if frame == NIL {
            return None;
        }
        let (index, bits) =
            (0..Self::BITMAPS).map(|index| (index, Self::bitmap(frames, frame, index))).find(|(_, bits)| *bits != 0)?;
        let slot = index * 64 + bits.trailing_zeros() as usize;
        frames.word(frame, BITMAP + index).store(bits & (bits - 1), Relaxed);
        if Self::is_full(frames, frame) {
            self.unlink(frames, frame);
        }
        self.used += 1;
        Some(u64::from(frame) << Self::SHIFT | slot as u64)
    }

    /// Adds a frame.
    pub fn add<F: Frames>(&mut self, frames: &F, frame: Frame) {
        let frame = frame.into_number();
        for index in 0..Self::BITMAPS {
            frames.word(frame, BITMAP + index).store(Self::unused(index), Relaxed);
        }
        self.frames += 1;
        self.link(frames, frame);
    }

    /// Frees a slot; its frame, if that was the last one in it.
    #[must_use = "the frame must be freed"]
    pub fn free<F: Frames>(&mut self, frames: &F, id: SlotId) -> Option<Frame> {
        let (frame, slot) = Self::place(id);
        let was_full = Self::is_full(frames, frame);
        let bitmap = frames.word(frame, BITMAP + slot / 64);
        let bits = bitmap.load(Relaxed);
        debug_assert!(slot != 0 && bits >> (slot % 64) & 1 == 0, "slot {id:#x} freed twice");
        bitmap.store(bits | 1 << (slot % 64), Relaxed);
        self.used -= 1;
        if (0..Self::BITMAPS).all(|index| Self::bitmap(frames, frame, index) == Self::unused(index)) {
            if !was_full {
                self.unlink(frames, frame);
            }
            self.frames -= 1;
            return Some(Frame::new(frame));
        }
        if was_full {
            self.link(frames, frame);
        }
        None
    }

    /// Word `index` of a slot.
    pub fn get<F: Frames>(frames: &F, id: SlotId, index: usize) -> u64 {
        let (frame, slot) = Self::place(id);
        frames.word(frame, slot * WORDS + index).load(Relaxed)
    }

    /// Sets word `index` of a slot.
    pub fn set<F: Frames>(frames: &F, id: SlotId, index: usize, value: u64) {
        let (frame, slot) = Self::place(id);
        frames.word(frame, slot * WORDS + index).store(value, Relaxed);
    }

    /// The frame of a slot, and its place there.
    pub fn place(id: SlotId) -> (u32, usize) {
        ((id >> Self::SHIFT) as u32, id as usize % Self::SLOTS)
    }

    fn bitmap<F: Frames>(frames: &F, frame: u32, index: usize) -> u64 {
        frames.word(frame, BITMAP + index).load(Relaxed)
    }

    /// Part of the bitmap of a frame with no used slot. The header is no slot.
    fn unused(index: usize) -> u64 {
        if index == 0 { !1 } else { !0 }
    }

    fn is_full<F: Frames>(frames: &F, frame: u32) -> bool {
        (0..Self::BITMAPS).all(|index| Self::bitmap(frames, frame, index) == 0)
    }

    fn link<F: Frames>(&mut self, frames: &F, frame: u32) {
        push(frames, &mut self.partial, frame, LINKS);
    }

    fn unlink<F: Frames>(&mut self, frames: &F, frame: u32) {
        unlink(frames, &mut self.partial, frame, LINKS);
    }
}

/// Puts a frame first in a list of frames that is linked through the word `at` of each: next low, previous high.
pub fn push<F: Frames>(frames: &F, head: &mut u32, frame: u32, at: usize) {
    let next = *head;
    frames.word(frame, at).store(u64::from(NIL) << 32 | u64::from(next), Relaxed);
    if next != NIL {
        let word = frames.word(next, at);
        word.store(word.load(Relaxed) & 0xffff_ffff | u64::from(frame) << 32, Relaxed);
    }
    *head = frame;
}

/// Takes a frame out of such a list.
pub fn unlink<F: Frames>(frames: &F, head: &mut u32, frame: u32, at: usize) {
    let links = frames.word(frame, at).load(Relaxed);
    let (next, previous) = (links as u32, (links >> 32) as u32);
    if next != NIL {
        let word = frames.word(next, at);
        word.store(word.load(Relaxed) & 0xffff_ffff | u64::from(previous) << 32, Relaxed);
    }
    if previous == NIL {
        *head = next;
    } else {
        let word = frames.word(previous, at);
        word.store(word.load(Relaxed) >> 32 << 32 | u64::from(next), Relaxed);
    }
}
