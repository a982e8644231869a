//! `shared_info` and `vcpu_info` (`xen.h`, `arch-x86/xen.h`), 64-bit layout. Both sides write these pages at once: the
//! structures here give offsets and initial contents; live pages are accessed as atomics through `offset_of!`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_LEGACY_MAX_VCPUS`: vCPUs whose `vcpu_info` lies in the shared_info page.
pub const LEGACY_MAX_VCPUS: usize = 32;

/// `XEN_PVCLOCK_TSC_STABLE_BIT`: TSCs of all CPUs agree. In [`VcpuTimeInfo::flags`].
pub const PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
/// `XEN_PVCLOCK_GUEST_STOPPED`: the guest was stopped by its host. In [`VcpuTimeInfo::flags`].
pub const PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;

/// `XEN_NMIREASON_io_error`: in [`ArchSharedInfo::nmi_reason`]: an I/O check.
pub const NMIREASON_IO_ERROR: u64 = 1 << 0;
/// `XEN_NMIREASON_pci_serr`: in [`ArchSharedInfo::nmi_reason`]: a PCI system error.
pub const NMIREASON_PCI_SERR: u64 = 1 << 1;
/// `XEN_NMIREASON_unknown`: in [`ArchSharedInfo::nmi_reason`]: unknown.
pub const NMIREASON_UNKNOWN: u64 = 1 << 2;

/// `struct vcpu_time_info`: the PV clock. `version` is odd while an update is under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VcpuTimeInfo {
    /// Odd while being written; a reader retries when it changed.
    pub version: u32,
    /// Padding.
    pub pad0: u32,
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// Time since boot at the last update, ns.
    pub system_time: u64,
    /// Multiplier of TSC differences, a fraction of 2^32, after the shift.
    pub tsc_to_system_mul: u32,
    /// Left shift (negative: right) of TSC differences.
    pub tsc_shift: i8,
    /// `XEN_PVCLOCK_*`.
    pub flags: u8,
    /// Padding.
    pub pad1: [u8; 2],
}

/// `struct arch_vcpu_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ArchVcpuInfo {
    /// Fault address (paravirtual guests).
    pub cr2: u64,
    /// Padding.
    pub pad: u64,
}

/// `struct vcpu_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VcpuInfo {
    /// Non-zero: an event is pending for this vCPU.
    pub evtchn_upcall_pending: u8,
    /// Non-zero: upcalls are masked (paravirtual guests; zero here).
    pub evtchn_upcall_mask: u8,
    /// Padding.
    pub pad: [u8; 6],
    /// 2-level ABI: which words of `evtchn_pending` to look at.
    pub evtchn_pending_sel: u64,
    /// Architecture's part.
    pub arch: ArchVcpuInfo,
    /// The PV clock.
    pub time: VcpuTimeInfo,
}

/// `struct arch_shared_info`. Used by paravirtual guests, but for `nmi_reason`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ArchSharedInfo {
    /// Greatest valid pfn.
    pub max_pfn: u64,
    /// Frame of the list of lists of p2m frames.
    pub pfn_to_mfn_frame_list_list: u64,
    /// `XEN_NMIREASON_*`.
    pub nmi_reason: u64,
    /// Page table of the linear p2m.
    pub p2m_cr3: u64,
    /// Address of the linear p2m.
    pub p2m_vaddr: u64,
    /// Generation count of the linear p2m.
    pub p2m_generation: u64,
}

/// `struct shared_info`, one page of each domain.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SharedInfo {
    /// The `vcpu_info` of the first 32 vCPUs, until they register another.
    pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS],
    /// 2-level ABI: a bit per port.
    pub evtchn_pending: [u64; 64],
    /// 2-level ABI: a bit per port.
    pub evtchn_mask: [u64; 64],
    /// Odd while the wall clock is being written.
    pub wc_version: u32,
    /// Wall clock at system time 0: seconds since 1970, low half.
    pub wc_sec: u32,
    /// And nanoseconds.
    pub wc_nsec: u32,
    /// And the high half of the seconds.
    pub wc_sec_hi: u32,
    /// Architecture's part.
    pub arch: ArchSharedInfo,
}

/// Byte offsets in the shared_info page, for access in place.
pub mod shared_info_offset {
    use super::{SharedInfo, VcpuInfo};
    use core::mem::offset_of;

    /// `vcpu_info[0]`.
    pub const VCPU_INFO: usize = offset_of!(SharedInfo, vcpu_info);
    /// Distance from one `vcpu_info` to the next.
    pub const VCPU_INFO_STRIDE: usize = size_of::<VcpuInfo>();
    /// `evtchn_pending[0]`.
    pub const EVTCHN_PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
    /// `evtchn_mask[0]`.
    pub const EVTCHN_MASK: usize = offset_of!(SharedInfo, evtchn_mask);
    /// `wc_version`.
    pub const WC_VERSION: usize = offset_of!(SharedInfo, wc_version);
    /// `wc_sec`.
    pub const WC_SEC: usize = offset_of!(SharedInfo, wc_sec);
    /// `wc_nsec`.
    pub const WC_NSEC: usize = offset_of!(SharedInfo, wc_nsec);
    /// `wc_sec_hi`.
    pub const WC_SEC_HI: usize = offset_of!(SharedInfo, wc_sec_hi);
    /// `arch.nmi_reason`.
    pub const NMI_REASON: usize = offset_of!(SharedInfo, arch.nmi_reason);
}

/// Byte offsets in a `vcpu_info`, for access in place.
pub mod vcpu_info_offset {
    use super::VcpuInfo;
    use core::mem::offset_of;

    /// `evtchn_upcall_pending`.
    pub const EVTCHN_UPCALL_PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
    /// `evtchn_upcall_mask`.
    pub const EVTCHN_UPCALL_MASK: usize = offset_of!(VcpuInfo, evtchn_upcall_mask);
    /// `evtchn_pending_sel`.
    pub const EVTCHN_PENDING_SEL: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
    /// `time`.
    pub const TIME: usize = offset_of!(VcpuInfo, time);
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<VcpuTimeInfo>() == 32);
    assert!(offset_of!(VcpuTimeInfo, tsc_timestamp) == 8);
    assert!(offset_of!(VcpuTimeInfo, tsc_to_system_mul) == 24);
    assert!(offset_of!(VcpuTimeInfo, flags) == 29);
    assert!(size_of::<VcpuInfo>() == 64);
    assert!(offset_of!(VcpuInfo, evtchn_pending_sel) == 8);
    assert!(offset_of!(VcpuInfo, arch) == 16);
    assert!(offset_of!(VcpuInfo, time) == 32);
    assert!(size_of::<ArchSharedInfo>() == 48);
    assert!(size_of::<SharedInfo>() == 3136);
    assert!(offset_of!(SharedInfo, evtchn_pending) == 2048);
    assert!(offset_of!(SharedInfo, evtchn_mask) == 2560);
    assert!(offset_of!(SharedInfo, wc_version) == 3072);
    assert!(offset_of!(SharedInfo, wc_sec_hi) == 3084);
    assert!(offset_of!(SharedInfo, arch) == 3088);
};
