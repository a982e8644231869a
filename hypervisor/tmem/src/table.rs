//! A hash table of slots, in frames: linear hashing, so that it grows and shrinks one bucket at a time and no
//! operation ever pays for rehashing the whole.
//!
//! A bucket is a cache line of a segment, which is a frame: seven entries from the first one on, each a slot with part
//! of its hash, and the chain of what has no place there. So nothing but the bucket is looked at for a slot that is not
//! in it, and the bucket's neighbours in the machine's caches are not disturbed. A chained slot has the next one in its
//! word 0; every slot in the table has its hash in the high half of word 1. When there is more than one segment,
//! directory frames list them. A segment that cannot be had is done without: chains get longer. Only the first one must
//! be there. Locking: the owner's.

use core::sync::atomic::Ordering::Relaxed;

use crate::frames::{FRAME_WORDS, Frame, Frames, Spares};
use crate::slab::{NIL, Slab, SlotId};

/// The word of a slot that chains it.
const NEXT: usize = 0;
/// Words of a bucket; the last one is the chain.
const BUCKET: usize = 8;
const ENTRIES: usize = BUCKET - 1;
/// Buckets in a segment, and segments in a directory: two a word.
const SEGMENT: u64 = (FRAME_WORDS / BUCKET) as u64;
const DIRECTORY: u64 = FRAME_WORDS as u64 * 2;
const DIRECTORIES: usize = 8;
/// The most buckets.
const MOST: u64 = SEGMENT * DIRECTORY * DIRECTORIES as u64;
/// Items for a bucket before the table grows.
const LOAD: u64 = 4;
/// An entry: the slot, and above it as much of the hash as there is room for.
const SLOT_BITS: u32 = 40;
const SLOT: u64 = (1 << SLOT_BITS) - 1;

/// The table. `WORDS` is the size of its slots.
#[derive(Debug)]
pub struct Table<const WORDS: usize> {
    buckets: u64,
    items: u64,
    /// The only segment, or the directories.
    roots: [u32; DIRECTORIES],
}

/// Where a bucket is.
#[derive(Clone, Copy)]
struct Bucket {
    segment: u32,
    first: usize,
}

impl Bucket {
    fn get<F: Frames>(self, frames: &F, index: usize) -> u64 {
        frames.word(self.segment, self.first + index).load(Relaxed)
    }

    fn set<F: Frames>(self, frames: &F, index: usize, value: u64) {
        frames.word(self.segment, self.first + index).store(value, Relaxed);
    }

    /// Empties it: what was in it.
    fn take<F: Frames>(self, frames: &F) -> [u64; BUCKET] {
        core::array::from_fn(|index| {
            let word = self.get(frames, index);
            self.set(frames, index, 0);
            word
        })
    }
}

fn entry(hash: u32, slot: SlotId) -> u64 {
    u64::from(hash) << SLOT_BITS | slot
}

/// The part of the hash that an entry has. More than there are bits in a bucket's number.
fn tag(entry: u64) -> u32 {
    (entry >> SLOT_BITS) as u32
}

impl<const WORDS: usize> Table<WORDS> {
    /// An empty one.
    pub const fn new() -> Self {
        const { assert!(MOST <= 1 << (u64::BITS - SLOT_BITS)) }
        Self { buckets: 0, items: 0, roots: [NIL; DIRECTORIES] }
    }

    /// Frames held.
    pub fn frames(&self) -> u64 {
        let segments = self.buckets.div_ceil(SEGMENT);
        segments + if segments > 1 { segments.div_ceil(DIRECTORY) } else { 0 }
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
        Self::frames_for(self.buckets / SEGMENT)
    }

    /// Frames for one more segment: the second one and the first one of a directory need that too.
    fn frames_for(segment: u64) -> usize {
        if segment == 1 || segment.is_multiple_of(DIRECTORY) { 2 } else { 1 }
    }

    /// Adds the first segment.
    pub fn begin(&mut self, segment: Frame) {
        debug_assert!(self.buckets == 0);
        self.roots[0] = segment.into_number();
        self.buckets = SEGMENT;
    }

    /// Adds a bucket if there are many items, with frames from `spares` if it needs any.
    pub fn grow<F: Frames>(&mut self, frames: &F, spares: &mut Spares) {
        if self.items < LOAD * self.buckets || self.buckets == MOST || self.buckets == 0 {
            return;
        }
        let at = self.buckets;
        if at.is_multiple_of(SEGMENT) && !self.add_segment(frames, at / SEGMENT, spares) {
            return;
        }
        self.buckets += 1;
        // What a bucket that was taken away left there means nothing.
        let _ = self.bucket(frames, at).take(frames);
        let split = self.bucket(frames, at - (1 << at.ilog2())).take(frames);
        self.distribute(frames, &split);
    }

    fn add_segment<F: Frames>(&mut self, frames: &F, segment: u64, spares: &mut Spares) -> bool {
        let wanted = Self::frames_for(segment);
        if spares.len() < wanted {
            return false;
        }
        if wanted == 2
            && let Some(directory) = spares.pop()
        {
            let directory = directory.into_number();
            let root = &mut self.roots[(segment / DIRECTORY) as usize];
            frames.word(directory, 0).store(u64::from(*root), Relaxed);
            *root = directory;
        }
        if let Some(frame) = spares.pop() {
            self.set_segment(frames, segment, frame.into_number());
        }
        true
    }

    /// Enters what was in a bucket anew.
    fn distribute<F: Frames>(&mut self, frames: &F, words: &[u64; BUCKET]) {
        for entry in words[..ENTRIES].iter().take_while(|entry| **entry != 0) {
            self.enter(frames, tag(*entry), entry & SLOT);
        }
        let mut slot = words[ENTRIES];
        while slot != 0 {
            let next = Slab::<WORDS>::get(frames, slot, NEXT);
            self.enter(frames, Self::hash_of(frames, slot), slot);
            slot = next;
        }
    }

    /// Takes a bucket away if there are few items; all when there is none. `freed` gets what is not needed any more.
    pub fn shrink<F: Frames>(&mut self, frames: &F, freed: &mut impl FnMut(Frame)) {
        self.trim(frames, freed);
        if self.buckets <= SEGMENT || self.items > self.buckets {
            return;
        }
        // Two at a time: each removal takes one item, and most of them must go before the next round.
        for _ in 0..2 {
            if self.buckets == SEGMENT {
                return;
            }
            let at = self.buckets - 1;
            let words = self.bucket(frames, at).take(frames);
            self.buckets = at;
            if at.is_multiple_of(SEGMENT) {
                self.drop_segment(frames, at / SEGMENT, freed);
            }
            self.distribute(frames, &words);
        }
    }

    /// Gives back the last segment.
    fn drop_segment<F: Frames>(&mut self, frames: &F, segment: u64, freed: &mut impl FnMut(Frame)) {
        freed(Frame::new(self.listed_segment(frames, segment)));
        if Self::frames_for(segment) == 2 {
            let root = &mut self.roots[(segment / DIRECTORY) as usize];
            let directory = Frame::new(*root);
            *root = if segment == 1 { frames.word(*root, 0).load(Relaxed) as u32 } else { NIL };
            freed(directory);
        }
    }

    /// Takes all away if there are no items.
    pub fn trim<F: Frames>(&mut self, frames: &F, freed: &mut impl FnMut(Frame)) {
        if self.items != 0 || self.buckets == 0 {
            return;
        }
        for segment in (1..self.buckets.div_ceil(SEGMENT)).rev() {
            self.drop_segment(frames, segment, freed);
        }
        freed(Frame::new(self.roots[0]));
        *self = Self::new();
    }

    /// The first item with this hash that `matches`. Of what is asked about, most has the hash.
    pub fn find<F: Frames>(&self, frames: &F, hash: u32, mut matches: impl FnMut(SlotId) -> bool) -> Option<SlotId> {
        if self.buckets == 0 {
            return None;
        }
        let bucket = self.bucket(frames, self.address(hash));
        for index in 0..ENTRIES {
            let found = bucket.get(frames, index);
            if found == 0 {
                return None;
            }
            if (found ^ entry(hash, 0)) >> SLOT_BITS == 0 && matches(found & SLOT) {
                return Some(found & SLOT);
            }
        }
        let mut slot = bucket.get(frames, ENTRIES);
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
        self.enter(frames, Self::hash_of(frames, slot), slot);
    }

    fn enter<F: Frames>(&mut self, frames: &F, hash: u32, slot: SlotId) {
        let bucket = self.bucket(frames, self.address(hash));
        if let Some(free) = (0..ENTRIES).find(|index| bucket.get(frames, *index) == 0) {
            bucket.set(frames, free, entry(hash, slot));
            return;
        }
        Slab::<WORDS>::set(frames, slot, NEXT, bucket.get(frames, ENTRIES));
        bucket.set(frames, ENTRIES, slot);
    }

    /// Takes a slot out.
    pub fn remove<F: Frames>(&mut self, frames: &F, slot: SlotId) {
        self.items -= 1;
        let bucket = self.bucket(frames, self.address(Self::hash_of(frames, slot)));
        let entries = (0..ENTRIES).take_while(|index| bucket.get(frames, *index) != 0).count();
        let Some(place) = (0..entries).find(|index| bucket.get(frames, *index) & SLOT == slot) else {
            return Self::unchain(frames, bucket, slot);
        };
        // The first of the chain takes its place, or the last entry does.
        let chained = bucket.get(frames, ENTRIES);
        if chained != 0 {
            bucket.set(frames, ENTRIES, Slab::<WORDS>::get(frames, chained, NEXT));
            bucket.set(frames, place, entry(Self::hash_of(frames, chained), chained));
        } else {
            bucket.set(frames, place, bucket.get(frames, entries - 1));
            bucket.set(frames, entries - 1, 0);
        }
    }

    fn unchain<F: Frames>(frames: &F, bucket: Bucket, slot: SlotId) {
        let next = Slab::<WORDS>::get(frames, slot, NEXT);
        let mut at = bucket.get(frames, ENTRIES);
        if at == slot {
            return bucket.set(frames, ENTRIES, next);
        }
        loop {
            assert!(at != 0, "slot {slot:#x} is not in its table");
            let follower = Slab::<WORDS>::get(frames, at, NEXT);
            if follower == slot {
                return Slab::<WORDS>::set(frames, at, NEXT, next);
            }
            at = follower;
        }
    }

    fn hash_of<F: Frames>(frames: &F, slot: SlotId) -> u32 {
        (Slab::<WORDS>::get(frames, slot, 1) >> 32) as u32
    }

    /// The bucket of a hash: by as many bits as there are buckets for.
    fn address(&self, hash: u32) -> u64 {
        let mask = u64::MAX >> (self.buckets - 1).leading_zeros();
        let bucket = u64::from(hash) & mask;
        if bucket < self.buckets { bucket } else { bucket & mask >> 1 }
    }

    fn bucket<F: Frames>(&self, frames: &F, bucket: u64) -> Bucket {
        let segment =
            if self.buckets > SEGMENT { self.listed_segment(frames, bucket / SEGMENT) } else { self.roots[0] };
        Bucket { segment, first: (bucket % SEGMENT) as usize * BUCKET }
    }

    /// The segment of a number, as a directory has it.
    fn listed_segment<F: Frames>(&self, frames: &F, segment: u64) -> u32 {
        let (directory, place) = (self.roots[(segment / DIRECTORY) as usize], segment % DIRECTORY);
        let word = frames.word(directory, (place / 2) as usize).load(Relaxed);
        (word >> (place % 2 * 32)) as u32
    }

    fn set_segment<F: Frames>(&self, frames: &F, segment: u64, frame: u32) {
        let (directory, place) = (self.roots[(segment / DIRECTORY) as usize], segment % DIRECTORY);
        let (word, shift) = (frames.word(directory, (place / 2) as usize), place % 2 * 32);
        let others = word.load(Relaxed) & !(0xffff_ffff << shift);
        word.store(others | u64::from(frame) << shift, Relaxed);
    }
}
