//! A hash table of slots, in frames: linear hashing, so that it grows and shrinks one bucket at a time and no
//! operation ever pays for rehashing the whole.
//!
//! A slot in the table has its chain's next slot in word 0, and its hash in the high half of word 1. A segment is a
//! frame of buckets; when there is more than one, a directory frame lists them. A segment that cannot be had is done
//! without: chains get longer. Only the first one must be there. Locking: the owner's.

use core::sync::atomic::Ordering::Relaxed;

use crate::frames::{FRAME_WORDS, Frame, Frames, Spares};
use crate::slab::{NIL, Slab, SlotId};

/// The word of a slot that chains it.
const NEXT: usize = 0;
/// Buckets in a segment, and segments in a directory.
const SEGMENT: u64 = FRAME_WORDS as u64;
/// The most buckets.
const MOST: u64 = SEGMENT * SEGMENT;
/// Items for a bucket before the table grows.
const LOAD: u64 = 2;

/// The table. `WORDS` is the size of its slots.
#[derive(Debug)]
pub struct Table<const WORDS: usize> {
    /// The only segment, or the directory.
    root: u32,
    buckets: u64,
    items: u64,
}

impl<const WORDS: usize> Table<WORDS> {
    /// An empty one.
    pub const fn new() -> Self {
        Self { root: NIL, buckets: 0, items: 0 }
    }

    /// Frames held.
    pub fn frames(&self) -> u64 {
        self.buckets.div_ceil(SEGMENT) + u64::from(self.buckets > SEGMENT)
    }

    /// How many frames it must have before the next insertion.
    pub fn must_have(&self) -> usize {
        usize::from(self.buckets == 0)
    }

    /// How many frames it could use to grow.
    pub fn could_use(&self) -> usize {
        if self.items < LOAD * self.buckets || !self.buckets.is_multiple_of(SEGMENT) || self.buckets == MOST {
            return 0;
        }
        if self.buckets == SEGMENT { 2 } else { 1 }
    }

    /// Adds the first segment.
    pub fn begin(&mut self, segment: Frame) {
        debug_assert!(self.buckets == 0);
        self.root = segment.into_number();
        self.buckets = SEGMENT;
    }

    /// Adds a bucket if there are many items, with frames from `spares` if it needs any.
    pub fn grow<F: Frames>(&mut self, frames: &F, spares: &mut Spares) {
        if self.items < LOAD * self.buckets || self.buckets == MOST {
            return;
        }
        let at = self.buckets;
        if at.is_multiple_of(SEGMENT) && !self.add_segment(frames, at, spares) {
            return;
        }
        let split = at - (1 << at.ilog2());
        self.buckets += 1;
        self.set_bucket(frames, at, 0);
        let first = self.bucket(frames, split);
        self.set_bucket(frames, split, 0);
        self.distribute(frames, first);
    }

    fn add_segment<F: Frames>(&mut self, frames: &F, at: u64, spares: &mut Spares) -> bool {
        if spares.len() < if at == SEGMENT { 2 } else { 1 } {
            return false;
        }
        if at == SEGMENT
            && let Some(directory) = spares.pop()
        {
            let directory = directory.into_number();
            frames.word(directory, 0).store(u64::from(self.root), Relaxed);
            self.root = directory;
        }
        if let Some(segment) = spares.pop() {
            frames.word(self.root, (at / SEGMENT) as usize).store(u64::from(segment.into_number()), Relaxed);
        }
        true
    }

    /// Enters the slots of a chain anew.
    fn distribute<F: Frames>(&mut self, frames: &F, first: SlotId) {
        let mut slot = first;
        while slot != 0 {
            let next = Slab::<WORDS>::get(frames, slot, NEXT);
            self.chain(frames, slot, Self::hash_of(frames, slot));
            slot = next;
        }
    }

    /// Takes a bucket away if there are few items; all when there is none. `freed` gets what is not needed any more.
    pub fn shrink<F: Frames>(&mut self, frames: &F, freed: &mut impl FnMut(Frame)) {
        self.trim(frames, freed);
        if self.buckets <= SEGMENT || self.items > self.buckets / 2 {
            return;
        }
        // Two at a time: each removal takes one item, and half of the items must go before the next round.
        for _ in 0..2 {
            if self.buckets == SEGMENT {
                return;
            }
            let at = self.buckets - 1;
            let first = self.bucket(frames, at);
            if at.is_multiple_of(SEGMENT) {
                freed(Frame::new(frames.word(self.root, (at / SEGMENT) as usize).load(Relaxed) as u32));
            }
            if at == SEGMENT {
                let directory = Frame::new(self.root);
                self.root = frames.word(self.root, 0).load(Relaxed) as u32;
                freed(directory);
            }
            self.buckets = at;
            self.distribute(frames, first);
        }
    }

    /// Takes all away if there are no items.
    pub fn trim<F: Frames>(&mut self, frames: &F, freed: &mut impl FnMut(Frame)) {
        if self.items != 0 {
            return;
        }
        if self.buckets > SEGMENT {
            for segment in 0..self.buckets.div_ceil(SEGMENT) {
                freed(Frame::new(frames.word(self.root, segment as usize).load(Relaxed) as u32));
            }
        }
        if self.buckets != 0 {
            freed(Frame::new(self.root));
        }
        *self = Self::new();
    }

    /// The first item with this hash that `matches`.
    pub fn find<F: Frames>(&self, frames: &F, hash: u32, mut matches: impl FnMut(SlotId) -> bool) -> Option<SlotId> {
        if self.buckets == 0 {
            return None;
        }
        let mut slot = self.bucket(frames, self.address(hash));
        while slot != 0 {
            if Self::hash_of(frames, slot) == hash && matches(slot) {
                return Some(slot);
            }
            slot = Slab::<WORDS>::get(frames, slot, NEXT);
        }
        None
    }

    /// Enters a slot whose hash is set already.
    pub fn insert<F: Frames>(&mut self, frames: &F, slot: SlotId) {
        self.items += 1;
        self.chain(frames, slot, Self::hash_of(frames, slot));
    }

    /// Takes a slot out.
    pub fn remove<F: Frames>(&mut self, frames: &F, slot: SlotId) {
        let bucket = self.address(Self::hash_of(frames, slot));
        let next = Slab::<WORDS>::get(frames, slot, NEXT);
        let mut at = self.bucket(frames, bucket);
        if at == slot {
            self.set_bucket(frames, bucket, next);
        } else {
            loop {
                assert!(at != 0, "slot {slot:#x} is not in its table");
                let follower = Slab::<WORDS>::get(frames, at, NEXT);
                if follower == slot {
                    break;
                }
                at = follower;
            }
            Slab::<WORDS>::set(frames, at, NEXT, next);
        }
        self.items -= 1;
    }

    fn chain<F: Frames>(&mut self, frames: &F, slot: SlotId, hash: u32) {
        let bucket = self.address(hash);
        Slab::<WORDS>::set(frames, slot, NEXT, self.bucket(frames, bucket));
        self.set_bucket(frames, bucket, slot);
    }

    fn hash_of<F: Frames>(frames: &F, slot: SlotId) -> u32 {
        (Slab::<WORDS>::get(frames, slot, 1) >> 32) as u32
    }

    /// The bucket of a hash: by as many bits as there are buckets for.
    fn address(&self, hash: u32) -> u64 {
        let mask = self.buckets.next_power_of_two() - 1;
        let bucket = u64::from(hash) & mask;
        if bucket < self.buckets { bucket } else { bucket & mask >> 1 }
    }

    fn segment<F: Frames>(&self, frames: &F, bucket: u64) -> u32 {
        if self.buckets > SEGMENT {
            frames.word(self.root, (bucket / SEGMENT) as usize).load(Relaxed) as u32
        } else {
            self.root
        }
    }

    fn bucket<F: Frames>(&self, frames: &F, bucket: u64) -> SlotId {
        let segment = self.segment(frames, bucket);
        frames.word(segment, (bucket % SEGMENT) as usize).load(Relaxed)
    }

    fn set_bucket<F: Frames>(&self, frames: &F, bucket: u64, slot: SlotId) {
        let segment = self.segment(frames, bucket);
        frames.word(segment, (bucket % SEGMENT) as usize).store(slot, Relaxed);
    }
}
