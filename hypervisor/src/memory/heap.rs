//! The hypervisor's heap: talc over memory claimed once at boot. Bounded: when it is used up, allocation fails.
#![allow(unsafe_code, reason = "giving memory to the allocator")]

use super::ranges::PhysRange;
use talc::TalcLock;
use talc::source::Manual;

#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);

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
