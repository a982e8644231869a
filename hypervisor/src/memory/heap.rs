//! The hypervisor's heap: talc over a little memory claimed at boot, which grows out of the core's frame heap once there
//! is one. It never shrinks; what it has taken is the hypervisor's in the ledger. When the machine has nothing left,
//! allocation fails.
//!
//! Locking: talc's own lock, held while it grows. The frame heap's lock is taken inside it, and nobody allocates while
//! holding that one.
#![allow(unsafe_code, reason = "giving memory to the allocator")]

use core::alloc::Layout;

use super::ranges::{PAGE_SIZE, PhysRange};
use talc::TalcLock;
use talc::base::{Talc, binning::Binning};
use talc::source::Source;

/// Least memory to grow by, in pages.
const LEAST_GROWTH: u64 = 16;
/// What the allocator may need beside the allocation itself.
const OVERHEAD: u64 = 64;

/// Gives `1 << order` pages that stay the heap's for ever: their physical address.
pub type Grow = fn(order: u32) -> Option<u64>;

static GROW: spin::Once<Grow> = spin::Once::new();

/// Memory for the allocator when it has run out.
#[derive(Debug)]
struct Frames;

// SAFETY: `acquire` touches the allocator through `talc` only: the frame heap allocates nothing (its free lists are in
// the frame table), and neither does clearing a frame.
unsafe impl Source for Frames {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let grow = GROW.get().ok_or(())?;
        let bytes = layout.size() as u64 + layout.align() as u64 + OVERHEAD;
        let order = bytes.div_ceil(PAGE_SIZE).max(LEAST_GROWTH).next_power_of_two().ilog2();
        let start = grow(order).ok_or(())?;
        let size = PAGE_SIZE << order;
        // SAFETY: the frames were just given to the heap for good, and all RAM is in the direct map.
        unsafe { talc.claim(super::phys_to_virt(start), size as usize) }.map(|_| ()).ok_or(())
    }
}

#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Frames> = TalcLock::new(Frames);

/// Says where to get more from. The first time counts.
pub fn grow_by(grow: Grow) {
    GROW.call_once(|| grow);
}

/// Gives `range`, which is in the direct map, to the heap.
///
/// # Safety
/// Nothing else uses the range, now or later.
pub(super) unsafe fn claim(range: PhysRange) {
    let start = super::phys_to_virt(range.start);
    // SAFETY: the caller's promise; the direct map makes it readable and writable.
    let claimed = unsafe { HEAP.lock().claim(start, range.size() as usize) };
    debug_assert!(claimed.is_some(), "a range too small for the heap");
}
