//! Free lists by order, cleared blocks apart from dirty ones.
//!
//! Blocks are naturally aligned and merge with a free buddy of the same kind only: merging a dirty page into a cleared
//! gibibyte would throw the clearing away. Scrubbing moves blocks across, and they merge there. Every operation costs
//! at most one step per order. Locking: all under the heap lock.

use core::sync::atomic::Ordering;

use super::frame::{FrameInfo, NIL, State, Use};
use super::{MAX_ORDER, ORDERS};

/// The two kinds of free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Cleared.
    Clean,
    /// To be cleared before anyone may have it.
    Dirty,
}

impl Kind {
    fn used_as(self) -> Use {
        match self {
            Kind::Clean => Use::Clean,
            Kind::Dirty => Use::Dirty,
        }
    }
}

/// The free blocks of one kind.
#[derive(Debug)]
pub(super) struct FreeList {
    kind: Kind,
    heads: [u32; ORDERS],
    /// Bit `n`: there is a block of order `n`.
    nonempty: u32,
    /// Pages in all blocks.
    pub(super) pages: u64,
}

impl FreeList {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, heads: [NIL; ORDERS], nonempty: 0, pages: 0 }
    }

    #[inline]
    fn push(&mut self, frames: &[FrameInfo], first: u32, order: u32) {
        let head = &mut self.heads[order as usize];
        let info = &frames[first as usize];
        info.set_state(State::free(self.kind.used_as(), order));
        info.set_next(*head);
        info.prev.store(NIL, Ordering::Relaxed);
        if *head != NIL {
            frames[*head as usize].prev.store(first, Ordering::Relaxed);
        }
        *head = first;
        self.nonempty |= 1 << order;
    }

    #[inline]
    fn unlink(&mut self, frames: &[FrameInfo], first: u32, order: u32) {
        let info = &frames[first as usize];
        let (next, prev) = (info.next(), info.prev.load(Ordering::Relaxed));
        if next != NIL {
            frames[next as usize].prev.store(prev, Ordering::Relaxed);
        }
        if prev != NIL {
            frames[prev as usize].set_next(next);
        } else {
            self.heads[order as usize] = next;
            if next == NIL {
                self.nonempty &= !(1 << order);
            }
        }
        info.set_state(State::NONE);
    }

    /// Adds a block, merged with its buddies as far as they are free.
    pub(super) fn insert(&mut self, frames: &[FrameInfo], first: u32, order: u32) {
        self.pages += 1 << order;
        let (mut first, mut order) = (first, order);
        while order < MAX_ORDER {
            let buddy = first ^ (1 << order);
            let free = State::free(self.kind.used_as(), order);
            if !frames.get(buddy as usize).is_some_and(|info| info.is(free)) {
                break;
            }
            self.unlink(frames, buddy, order);
            frames[first as usize].set_state(State::NONE);
            first &= !(1 << order);
            order += 1;
        }
        self.push(frames, first, order);
    }

    /// Takes a block of exactly `order` out of the smallest one that holds it.
    #[inline]
    pub(super) fn take(&mut self, frames: &[FrameInfo], order: u32) -> Option<u32> {
        let larger = self.nonempty >> order;
        if larger == 0 {
            return None;
        }
        let found = order + larger.trailing_zeros();
        let first = self.heads[found as usize];
        self.unlink(frames, first, found);
        for half in (order..found).rev() {
            self.push(frames, first + (1 << half), half);
        }
        self.pages -= 1 << order;
        Some(first)
    }

    /// Takes one frame out of whichever block holds it; false: none does.
    pub(super) fn take_frame(&mut self, frames: &[FrameInfo], frame: u32) -> bool {
        let block = (0..ORDERS as u32).find(|order| {
            let head = frame & !((1 << order) - 1);
            frames[head as usize].is(State::free(self.kind.used_as(), *order))
        });
        let Some(order) = block else { return false };
        let mut first = frame & !((1 << order) - 1);
        self.unlink(frames, first, order);
        for half in (0..order).rev() {
            let upper = first + (1 << half);
            if frame >= upper {
                self.push(frames, first, half);
                first = upper;
            } else {
                self.push(frames, upper, half);
            }
        }
        self.pages -= 1;
        true
    }

    /// The order of the largest block below `below`.
    pub(super) fn largest(&self, below: u32) -> Option<u32> {
        let mask = self.nonempty & ((1u64 << below) - 1) as u32;
        (mask != 0).then(|| mask.ilog2())
    }

    /// Calls `visit` with each block.
    pub(super) fn each(&self, frames: &[FrameInfo], mut visit: impl FnMut(u32, u32)) {
        for (order, head) in self.heads.iter().enumerate() {
            let mut first = *head;
            while first != NIL {
                visit(first, order as u32);
                first = frames[first as usize].next();
            }
        }
    }
}
