//! The pages that the hypervisor and the guest write to at the same time, as structures of atomics.
//!
//! The layouts are those of `shared_abi` (asserted below); only the kind of access differs.
#![allow(unsafe_code)] // Turning an address into a reference, once, with the reason.

use core::mem::offset_of;
use core::sync::atomic::{AtomicI8, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use shared_abi::event_channel as evtchn_abi;
use shared_abi::grant_table as grant_abi;
use shared_abi::xen as abi;

/// `struct vcpu_time_info`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct TimeInfo {
    /// Odd while the hypervisor writes.
    pub version: AtomicU32,
    pad0: AtomicU32,
    /// TSC at the last update.
    pub tsc_timestamp: AtomicU64,
    /// System time at the last update, ns.
    pub system_time: AtomicU64,
    /// Multiplier, a fraction of 2^32.
    pub tsc_to_system_mul: AtomicU32,
    /// Shift of the TSC difference, before the multiplication.
    pub tsc_shift: AtomicI8,
    /// `XEN_PVCLOCK_*`.
    pub flags: AtomicU8,
    pad1: [AtomicU8; 2],
}

/// `struct vcpu_info`, aligned so that it never crosses a page.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct VcpuInfo {
    /// Set by the hypervisor when an event waits for this vCPU.
    pub upcall_pending: AtomicU8,
    /// Not used by PVH guests.
    pub upcall_mask: AtomicU8,
    pad: [AtomicU8; 6],
    /// 2-level ABI: words with pending bits.
    pub pending_sel: AtomicU64,
    arch: [AtomicU64; 2],
    /// The clock.
    pub time: TimeInfo,
}

/// The `shared_info` page.
#[derive(Debug)]
#[repr(C)]
pub struct SharedInfo {
    /// The first 32 vCPUs' own, until they register another.
    pub vcpu_info: [VcpuInfo; abi::shared_info::LEGACY_MAX_VCPUS],
    /// 2-level ABI: a bit per port.
    pub evtchn_pending: [AtomicU64; 64],
    /// 2-level ABI: a bit per port.
    pub evtchn_mask: [AtomicU64; 64],
    /// Odd while the wall clock is being written.
    pub wc_version: AtomicU32,
    /// Wall clock at system time 0, seconds, low half.
    pub wc_sec: AtomicU32,
    /// And nanoseconds.
    pub wc_nsec: AtomicU32,
    /// And the high half of the seconds.
    pub wc_sec_hi: AtomicU32,
}

/// `struct evtchn_fifo_control_block`, alone in its 128 bytes so that it never crosses a page.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct ControlBlock {
    /// A bit per queue that is not empty.
    pub ready: AtomicU32,
    rsvd: AtomicU32,
    /// First port of each queue.
    pub head: [AtomicU32; evtchn_abi::FIFO_MAX_QUEUES],
}

/// A page of event words.
pub type EventPage = [AtomicU32; evtchn_abi::FIFO_EVENT_WORDS_PER_PAGE as usize];

/// `struct grant_entry_v1`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct GrantEntry {
    /// `GTF_*`; written last.
    pub flags: AtomicU16,
    /// Who may use it.
    pub domid: AtomicU16,
    /// The page.
    pub frame: AtomicU32,
}

/// A page of a grant table of version 1.
pub type GrantFrame = [GrantEntry; grant_abi::ENTRIES_PER_FRAME_V1 as usize];

/// Memory that may be shared with the hypervisor: any bit pattern is valid, and all access is atomic.
///
/// # Safety
/// Implemented only for structures of atomics.
pub unsafe trait Shared {}

// SAFETY: the structures above consist of atomic integers.
unsafe impl Shared for VcpuInfo {}
// SAFETY: as above.
unsafe impl Shared for SharedInfo {}
// SAFETY: as above.
unsafe impl Shared for ControlBlock {}
// SAFETY: as above.
unsafe impl Shared for EventPage {}
// SAFETY: as above.
unsafe impl Shared for GrantFrame {}

/// The structure at a virtual address.
///
/// # Safety
/// The address is mapped, writable and aligned for `T`, stays so for ever, and nothing else than `T` and the hypervisor
/// uses the memory.
pub unsafe fn at<T: Shared>(address: u64) -> &'static T {
    // SAFETY: mapped, aligned and for ever by the contract; `Shared` says that concurrent writers and any contents
    // are fine.
    unsafe { &*core::ptr::with_exposed_provenance(address as usize) }
}

/// A place for a reference to a page that comes later and then stays.
#[derive(Debug)]
pub struct Slot<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Slot<T> {
    /// An empty place.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// What is there.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: only `set` stores a pointer that is not null, from a reference that lives for ever.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Fills the place.
    pub fn set(&self, value: &'static T) {
        self.0.store(core::ptr::from_ref(value).cast_mut(), Ordering::Release);
    }
}

impl<T: Sync> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = {
    assert!(size_of::<TimeInfo>() == size_of::<abi::VcpuTimeInfo>());
    assert!(offset_of!(TimeInfo, system_time) == offset_of!(abi::VcpuTimeInfo, system_time));
    assert!(offset_of!(TimeInfo, tsc_to_system_mul) == offset_of!(abi::VcpuTimeInfo, tsc_to_system_mul));
    assert!(offset_of!(TimeInfo, tsc_shift) == offset_of!(abi::VcpuTimeInfo, tsc_shift));
    assert!(offset_of!(TimeInfo, flags) == offset_of!(abi::VcpuTimeInfo, flags));
    assert!(size_of::<VcpuInfo>() == size_of::<abi::VcpuInfo>());
    assert!(offset_of!(VcpuInfo, pending_sel) == offset_of!(abi::VcpuInfo, evtchn_pending_sel));
    assert!(offset_of!(VcpuInfo, time) == offset_of!(abi::VcpuInfo, time));
    assert!(offset_of!(SharedInfo, evtchn_pending) == abi::shared_info_offset::EVTCHN_PENDING);
    assert!(offset_of!(SharedInfo, evtchn_mask) == abi::shared_info_offset::EVTCHN_MASK);
    assert!(offset_of!(SharedInfo, wc_version) == abi::shared_info_offset::WC_VERSION);
    assert!(offset_of!(SharedInfo, wc_sec_hi) == abi::shared_info_offset::WC_SEC_HI);
    assert!(offset_of!(ControlBlock, head) == offset_of!(evtchn_abi::FifoControlBlock, head));
    assert!(size_of::<ControlBlock>() >= size_of::<evtchn_abi::FifoControlBlock>());
    assert!(size_of::<GrantFrame>() == abi::PAGE_SIZE as usize);
    assert!(offset_of!(GrantEntry, domid) == offset_of!(grant_abi::GrantEntryV1, domid));
    assert!(offset_of!(GrantEntry, frame) == offset_of!(grant_abi::GrantEntryV1, frame));
    assert!(size_of::<EventPage>() == abi::PAGE_SIZE as usize);
};
