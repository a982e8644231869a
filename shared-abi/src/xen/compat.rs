//! The same structures as a 32-bit guest lays them out, where the layout differs from the 64-bit one. 64-bit fields are
//! aligned to 4 bytes there, handles and `unsigned long` are 32 bits wide. Structures not listed are the same
//! (paravirtual guests' callbacks apart).

use super::{DomId, VcpuTimeInfo, shared_info::LEGACY_MAX_VCPUS};
use crate::grant_table::GrantStatus;
use crate::tmem::TmemOid;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct arch_vcpu_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ArchVcpuInfo32 {
    /// Fault address (paravirtual guests).
    pub cr2: u32,
    /// Padding.
    pub pad: [u32; 5],
}

/// `struct vcpu_info`. Size and place of the clock are those of the 64-bit layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VcpuInfo32 {
    /// Non-zero: an event is pending for this vCPU.
    pub evtchn_upcall_pending: u8,
    /// Non-zero: upcalls are masked (paravirtual guests).
    pub evtchn_upcall_mask: u8,
    /// Padding.
    pub pad: [u8; 2],
    /// 2-level ABI: which words of `evtchn_pending` to look at.
    pub evtchn_pending_sel: u32,
    /// Architecture's part.
    pub arch: ArchVcpuInfo32,
    /// The PV clock.
    pub time: VcpuTimeInfo,
}

/// `struct arch_shared_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ArchSharedInfo32 {
    /// Greatest valid pfn.
    pub max_pfn: u32,
    /// Frame of the list of lists of p2m frames.
    pub pfn_to_mfn_frame_list_list: u32,
    /// `XEN_NMIREASON_*`.
    pub nmi_reason: u32,
    /// Page table of the linear p2m.
    pub p2m_cr3: u32,
    /// Address of the linear p2m.
    pub p2m_vaddr: u32,
    /// Generation count of the linear p2m.
    pub p2m_generation: u32,
    /// Wall clock: high half of the seconds.
    pub wc_sec_hi: u32,
}

/// `struct shared_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SharedInfo32 {
    /// The `vcpu_info` of the first 32 vCPUs.
    pub vcpu_info: [VcpuInfo32; LEGACY_MAX_VCPUS],
    /// 2-level ABI: a bit per port.
    pub evtchn_pending: [u32; 32],
    /// 2-level ABI: a bit per port.
    pub evtchn_mask: [u32; 32],
    /// Odd while the wall clock is being written.
    pub wc_version: u32,
    /// Wall clock: low half of the seconds.
    pub wc_sec: u32,
    /// And nanoseconds.
    pub wc_nsec: u32,
    /// Architecture's part.
    pub arch: ArchSharedInfo32,
}

/// `struct vcpu_runstate_info`.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RunstateInfo32 {
    /// `RUNSTATE_*`.
    pub state: i32,
    /// When it was entered, ns.
    pub state_entry_time: u64,
    /// Time spent in each, ns.
    pub time: [u64; 4],
}

/// `struct vcpu_set_singleshot_timer`.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetSingleshotTimer32 {
    /// System time at which to fire, ns.
    pub timeout_abs_ns: u64,
    /// `VCPU_SSHOTTMR_*`.
    pub flags: u32,
}

/// `struct sched_poll`.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Poll32 {
    /// Where the ports are.
    pub ports: u32,
    /// How many.
    pub nr_ports: u32,
    /// System time at which to give up, ns; 0 for never.
    pub timeout: u64,
}

/// `struct multicall_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MulticallEntry32 {
    /// The hypercall's number.
    pub op: u32,
    /// Out: its return value.
    pub result: u32,
    /// Its arguments.
    pub args: [u32; 6],
}

/// `struct xen_memory_reservation`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemoryReservation32 {
    /// Where the list of (32-bit) gfns is.
    pub extent_start: u32,
    /// How many extents.
    pub nr_extents: u32,
    /// Each has 2^`extent_order` pages.
    pub extent_order: u32,
    /// `XENMEMF_*`.
    pub mem_flags: u32,
    /// Whose memory.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
}

/// `struct xen_memory_exchange`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemoryExchange32 {
    /// `in`: extents given.
    pub in_: MemoryReservation32,
    /// Extents wanted.
    pub out: MemoryReservation32,
    /// In: 0. Out: input extents exchanged.
    pub nr_exchanged: u32,
}

/// `struct xen_add_to_physmap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct AddToPhysmap32 {
    /// Whose physical map.
    pub domid: DomId,
    /// Pages, for a range.
    pub size: u16,
    /// `XENMAPSPACE_*`.
    pub space: u32,
    /// Index within the space.
    pub idx: u32,
    /// Where the page shall appear.
    pub gpfn: u32,
}

/// `struct xen_add_to_physmap_batch`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct AddToPhysmapBatch32 {
    /// Whose physical map.
    pub domid: DomId,
    /// `XENMAPSPACE_*`.
    pub space: u16,
    /// How many entries.
    pub size: u16,
    /// `u.foreign_domid`.
    pub foreign_domid: DomId,
    /// Where the (32-bit) indexes are.
    pub idxs: u32,
    /// Where the (32-bit) gfns are.
    pub gpfns: u32,
    /// Where the errors go.
    pub errs: u32,
}

/// `struct xen_remove_from_physmap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RemoveFromPhysmap32 {
    /// Whose physical map.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
    /// The gfn to unmap.
    pub gpfn: u32,
}

/// `struct xen_memory_map`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemoryMap32 {
    /// In: room in the buffer. Out: entries written.
    pub nr_entries: u32,
    /// Where the entries go.
    pub buffer: u32,
}

/// `struct xen_foreign_memory_map`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ForeignMemoryMap32 {
    /// Whose map.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
    /// The map.
    pub map: MemoryMap32,
}

/// `struct xen_pod_target`.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PodTarget32 {
    /// In: the target, pages.
    pub target_pages: u64,
    /// Out: pages of the domain.
    pub tot_pages: u64,
    /// Out: pages in the cache.
    pub pod_cache_pages: u64,
    /// Out: entries not backed yet.
    pub pod_entries: u64,
    /// Whose.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
}

/// `struct xen_platform_parameters`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PlatformParameters32 {
    /// Where the hypervisor's area starts (paravirtual guests).
    pub virt_start: u32,
}

/// `struct xen_mem_acquire_resource`.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemAcquireResource32 {
    /// Whose resource.
    pub domid: DomId,
    /// `type`: `XENMEM_resource_*`.
    pub type_: u16,
    /// Which one of that type.
    pub id: u32,
    /// In: frames wanted. Out, with a null list: how many there are.
    pub nr_frames: u32,
    /// Padding; must be 0.
    pub pad: u32,
    /// First frame of the resource.
    pub frame: u64,
    /// Where the (32-bit) gfns are.
    pub frame_list: u32,
}

/// `struct gnttab_setup_table`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetupTable32 {
    /// Whose table.
    pub dom: DomId,
    /// Padding.
    pub pad0: u16,
    /// How many frames it shall have.
    pub nr_frames: u32,
    /// Out.
    pub status: GrantStatus,
    /// Padding.
    pub pad1: u16,
    /// Where the (32-bit) frames go.
    pub frame_list: u32,
}

/// `struct gnttab_copy_ptr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GrantCopyPtr32 {
    /// The union: an entry's number, or a gfn.
    pub u: u32,
    /// Whose page.
    pub domid: DomId,
    /// Where in it.
    pub offset: u16,
}

/// `struct gnttab_copy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GrantCopy32 {
    /// From.
    pub source: GrantCopyPtr32,
    /// To.
    pub dest: GrantCopyPtr32,
    /// Bytes.
    pub len: u16,
    /// `GNTCOPY_*`.
    pub flags: u16,
    /// Out.
    pub status: GrantStatus,
    /// Padding.
    pub pad: u16,
}

/// `struct tmem_op` for all operations but making a pool, which is laid out as in 64-bit.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TmemOp32 {
    /// The operation.
    pub cmd: u32,
    /// The pool.
    pub pool_id: i32,
    /// `u.gen.oid`: the object.
    pub oid: TmemOid,
    /// `u.gen.index`: the page in the object.
    pub index: u32,
    /// `u.gen.tmem_offset`: obsolete.
    pub tmem_offset: u32,
    /// `u.gen.pfn_offset`: obsolete.
    pub pfn_offset: u32,
    /// `u.gen.len`: obsolete.
    pub len: u32,
    /// `u.gen.cmfn`: the guest's page.
    pub cmfn: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<VcpuInfo32>() == 64);
    assert!(offset_of!(VcpuInfo32, evtchn_pending_sel) == 4);
    assert!(offset_of!(VcpuInfo32, time) == 32);
    assert!(size_of::<SharedInfo32>() == 2344);
    assert!(offset_of!(SharedInfo32, evtchn_pending) == 2048);
    assert!(offset_of!(SharedInfo32, evtchn_mask) == 2176);
    assert!(offset_of!(SharedInfo32, wc_version) == 2304);
    assert!(offset_of!(SharedInfo32, arch) == 2316);
    assert!(size_of::<RunstateInfo32>() == 44);
    assert!(offset_of!(RunstateInfo32, time) == 12);
    assert!(size_of::<SetSingleshotTimer32>() == 12);
    assert!(size_of::<Poll32>() == 16);
    assert!(size_of::<MulticallEntry32>() == 32);
    assert!(size_of::<MemoryReservation32>() == 20);
    assert!(size_of::<MemoryExchange32>() == 44);
    assert!(size_of::<AddToPhysmap32>() == 16);
    assert!(size_of::<AddToPhysmapBatch32>() == 20);
    assert!(size_of::<RemoveFromPhysmap32>() == 8);
    assert!(size_of::<MemoryMap32>() == 8);
    assert!(size_of::<ForeignMemoryMap32>() == 12);
    assert!(size_of::<PodTarget32>() == 36);
    assert!(size_of::<PlatformParameters32>() == 4);
    assert!(size_of::<MemAcquireResource32>() == 28);
    assert!(size_of::<SetupTable32>() == 16);
    assert!(size_of::<GrantCopy32>() == 24);
    assert!(size_of::<TmemOp32>() == 52);
    assert!(offset_of!(TmemOp32, cmfn) == 48);
};
