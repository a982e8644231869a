//! The kernel's heap: talc over extents of the page allocator. It grows when it must and does not shrink.
#![allow(unsafe_code)] // A global allocator.

use crate::lock::IrqLock;
use crate::page;
use core::alloc::{GlobalAlloc, Layout};
use ebb_guest_logic::frames::BLOCK_ORDER;
use shared_abi::xen::PAGE_SIZE;
use talc::base::Talc;
use talc::base::binning::DefaultBinning;
use talc::source::Manual;

/// The heap grows by at least this order of pages: 256 KiB.
const GROWTH_ORDER: u32 = 6;

struct Heap(IrqLock<Holder>);

struct Holder(Talc<Manual, DefaultBinning>);

// SAFETY: talc's pointers lead into memory that belongs to the heap alone; the lock gives it to one vCPU at a time.
unsafe impl Send for Holder {}

#[global_allocator]
static HEAP: Heap = Heap(IrqLock::new(Holder(Talc::new(Manual))));

/// Gives talc an extent large enough for `layout`; false when there is none.
fn grow(talc: &mut Talc<Manual, DefaultBinning>, layout: Layout) -> bool {
    // Room for the request, its alignment and talc's own records.
    let bytes = layout.size() as u64 + layout.align() as u64 + 2 * PAGE_SIZE;
    let order = bytes.div_ceil(PAGE_SIZE).next_power_of_two().ilog2().max(GROWTH_ORDER);
    if order > BLOCK_ORDER {
        return false;
    }
    let Some(first) = page::take(order) else {
        return false;
    };
    let base = core::ptr::with_exposed_provenance_mut((first * PAGE_SIZE) as usize);
    // SAFETY: the pages were just taken, are mapped, and belong to the heap from now on.
    unsafe { talc.claim(base, (PAGE_SIZE << order) as usize) }.is_some()
}

// SAFETY: allocations come from talc under a lock; talc fulfils the contract of an allocator.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut holder = self.0.lock();
        // SAFETY: the layout's size is not 0, by the trait's contract.
        if let Some(place) = unsafe { holder.0.try_allocate(layout) } {
            return place.as_ptr();
        }
        if !grow(&mut holder.0, layout) {
            return core::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { holder.0.try_allocate(layout) }.map_or(core::ptr::null_mut(), |place| place.as_ptr())
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the place came from `alloc` with this layout, by the trait's contract.
        unsafe { self.0.lock().0.deallocate(place, layout) };
    }
}

/// Makes room for so many bytes now, so that the heap need not grow while memory is short. At most 1 MiB.
pub fn make_room(bytes: usize) {
    drop(core::hint::black_box(alloc::vec::Vec::<u8>::with_capacity(bytes.min(1 << 20))));
}
