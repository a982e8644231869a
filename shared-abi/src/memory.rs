//! `memory.h`: `memory_op`, 64-bit layout.
//!
//! The command's low bits are the operation, its high bits the extent at which a continuation starts: [`split_command`].

use crate::xen::{DomId, Gfn, GuestHandle};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XENMEM_increase_reservation`: allocate extents.
pub const INCREASE_RESERVATION: u32 = 0;
/// `XENMEM_decrease_reservation`: give extents back.
pub const DECREASE_RESERVATION: u32 = 1;
/// `XENMEM_maximum_ram_page`: the host's greatest frame number.
pub const MAXIMUM_RAM_PAGE: u32 = 2;
/// `XENMEM_current_reservation`: pages a domain has.
pub const CURRENT_RESERVATION: u32 = 3;
/// `XENMEM_maximum_reservation`: pages a domain may have.
pub const MAXIMUM_RESERVATION: u32 = 4;
/// `XENMEM_machphys_mfn_list`: frames of the machine-to-physical table (paravirtual guests).
pub const MACHPHYS_MFN_LIST: u32 = 5;
/// `XENMEM_populate_physmap`: back gfns with memory.
pub const POPULATE_PHYSMAP: u32 = 6;
/// `XENMEM_add_to_physmap`: map a special page at a gfn.
pub const ADD_TO_PHYSMAP: u32 = 7;
/// `XENMEM_memory_map`: the domain's e820.
pub const MEMORY_MAP: u32 = 9;
/// `XENMEM_machine_memory_map`: the host's e820. Privileged.
pub const MACHINE_MEMORY_MAP: u32 = 10;
/// `XENMEM_exchange`: swap extents of one order for extents of another.
pub const EXCHANGE: u32 = 11;
/// `XENMEM_machphys_mapping`: where the machine-to-physical table is mapped (paravirtual guests).
pub const MACHPHYS_MAPPING: u32 = 12;
/// `XENMEM_set_memory_map`: set a domain's e820. Privileged.
pub const SET_MEMORY_MAP: u32 = 13;
/// `XENMEM_maximum_gpfn`: a domain's greatest gfn.
pub const MAXIMUM_GPFN: u32 = 14;
/// `XENMEM_remove_from_physmap`: unmap a gfn.
pub const REMOVE_FROM_PHYSMAP: u32 = 15;
/// `XENMEM_set_pod_target`: populate-on-demand target. Privileged.
pub const SET_POD_TARGET: u32 = 16;
/// `XENMEM_get_pod_target`: populate-on-demand figures. Privileged.
pub const GET_POD_TARGET: u32 = 17;
/// `XENMEM_get_sharing_freed_pages`: pages saved by sharing.
pub const GET_SHARING_FREED_PAGES: u32 = 18;
/// `XENMEM_get_sharing_shared_pages`: pages shared.
pub const GET_SHARING_SHARED_PAGES: u32 = 19;
/// `XENMEM_paging_op`: paging by the host.
pub const PAGING_OP: u32 = 20;
/// `XENMEM_access_op`: access rights per page.
pub const ACCESS_OP: u32 = 21;
/// `XENMEM_sharing_op`: page sharing.
pub const SHARING_OP: u32 = 22;
/// `XENMEM_add_to_physmap_batch`: `ADD_TO_PHYSMAP` for a list.
pub const ADD_TO_PHYSMAP_BATCH: u32 = 23;
/// `XENMEM_claim_pages`: promise pages to a domain about to be built. Privileged.
pub const CLAIM_PAGES: u32 = 24;
/// `XENMEM_machphys_compat_mfn_list`: the 32-bit machine-to-physical table (paravirtual guests).
pub const MACHPHYS_COMPAT_MFN_LIST: u32 = 25;
/// `XENMEM_get_vnumainfo`: the virtual NUMA layout.
pub const GET_VNUMAINFO: u32 = 26;
/// `XENMEM_reserved_device_memory_map`: reserved device memory.
pub const RESERVED_DEVICE_MEMORY_MAP: u32 = 27;
/// `XENMEM_acquire_resource`: map a domain's resource. Privileged.
pub const ACQUIRE_RESOURCE: u32 = 28;

/// Bits of the command that are the operation; the rest is the continuation's start extent.
pub const COMMAND_BITS: u32 = 6;
/// Mask of the operation in the command.
pub const COMMAND_MASK: u64 = (1 << COMMAND_BITS) - 1;

/// Splits a command into the operation and the extent to start from.
pub const fn split_command(command: u64) -> (u32, u64) {
    ((command & COMMAND_MASK) as u32, command >> COMMAND_BITS)
}

/// The command that continues `operation` at extent `start`.
pub const fn continue_command(operation: u32, start: u64) -> u64 {
    (start << COMMAND_BITS) | (operation as u64 & COMMAND_MASK)
}

/// `XENMEMF_populate_on_demand`: in `mem_flags`, back extents when first touched. Privileged.
pub const MEMF_POPULATE_ON_DEMAND: u32 = 1 << 16;
/// `XENMEMF_exact_node_request`: in `mem_flags`, only from the node asked for.
pub const MEMF_EXACT_NODE_REQUEST: u32 = 1 << 17;
/// `XENMEMF_vnode`: in `mem_flags`, the node is a virtual one.
pub const MEMF_VNODE: u32 = 1 << 18;

/// `XENMEMF_get_address_bits`: the greatest address width wanted, 0 for any.
pub const fn memf_address_bits(mem_flags: u32) -> u32 {
    mem_flags & 0xff
}

/// `XENMAPSPACE_shared_info`: the shared_info page.
pub const MAPSPACE_SHARED_INFO: u32 = 0;
/// `XENMAPSPACE_grant_table`: a grant table frame.
pub const MAPSPACE_GRANT_TABLE: u32 = 1;
/// `XENMAPSPACE_gmfn`: another gfn of the domain, moved.
pub const MAPSPACE_GMFN: u32 = 2;
/// `XENMAPSPACE_gmfn_range`: the same for a range.
pub const MAPSPACE_GMFN_RANGE: u32 = 3;
/// `XENMAPSPACE_gmfn_foreign`: another domain's gfn. In a batch only.
pub const MAPSPACE_GMFN_FOREIGN: u32 = 4;
/// `XENMAPSPACE_dev_mmio`: device memory.
pub const MAPSPACE_DEV_MMIO: u32 = 5;
/// `XENMAPIDX_grant_table_status`: in `idx`, the status frames of a version 2 grant table.
pub const MAPIDX_GRANT_TABLE_STATUS: u64 = 0x8000_0000;

/// `struct xen_memory_reservation`: for increase, decrease, populate and claim.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemoryReservation {
    /// First gfn of each extent.
    pub extent_start: GuestHandle<Gfn>,
    /// How many extents.
    pub nr_extents: u64,
    /// Each has 2^`extent_order` pages.
    pub extent_order: u32,
    /// `XENMEMF_*`.
    pub mem_flags: u32,
    /// Whose memory.
    pub domid: DomId,
    /// Padding.
    pub pad: [u16; 3],
}

/// `struct xen_memory_exchange`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemoryExchange {
    /// `in`: extents given.
    pub in_: MemoryReservation,
    /// Extents wanted; together as many pages as `in_`.
    pub out: MemoryReservation,
    /// In: 0. Out: input extents exchanged.
    pub nr_exchanged: u64,
}

/// `struct xen_memory_domain`: for current, maximum reservation and maximum_gpfn (a plain `domid_t` in memory).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemoryDomain {
    /// Whose figure.
    pub domid: DomId,
}

/// `struct xen_add_to_physmap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct AddToPhysmap {
    /// Whose physical map.
    pub domid: DomId,
    /// Pages, for `MAPSPACE_GMFN_RANGE`.
    pub size: u16,
    /// `XENMAPSPACE_*`.
    pub space: u32,
    /// Index within the space.
    pub idx: u64,
    /// Where the page shall appear.
    pub gpfn: Gfn,
}

/// `struct xen_add_to_physmap_batch`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct AddToPhysmapBatch {
    /// Whose physical map.
    pub domid: DomId,
    /// `XENMAPSPACE_*`.
    pub space: u16,
    /// How many entries.
    pub size: u16,
    /// `u.foreign_domid`: the owner, for `MAPSPACE_GMFN_FOREIGN`; else 0.
    pub foreign_domid: DomId,
    /// Indexes within the space.
    pub idxs: GuestHandle<u64>,
    /// Where the pages shall appear.
    pub gpfns: GuestHandle<Gfn>,
    /// Out: an errno (negated) or 0 for each.
    pub errs: GuestHandle<i32>,
}

/// `struct xen_remove_from_physmap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RemoveFromPhysmap {
    /// Whose physical map.
    pub domid: DomId,
    /// Padding.
    pub pad: [u16; 3],
    /// The gfn to unmap.
    pub gpfn: Gfn,
}

/// `struct xen_memory_map`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemoryMap {
    /// In: room in the buffer. Out: entries written.
    pub nr_entries: u32,
    /// Padding.
    pub pad: u32,
    /// Where the entries go.
    pub buffer: GuestHandle<E820Entry>,
}

/// `struct xen_foreign_memory_map`: for `SET_MEMORY_MAP`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ForeignMemoryMap {
    /// Whose map.
    pub domid: DomId,
    /// Padding.
    pub pad: [u16; 3],
    /// The map.
    pub map: MemoryMap,
}

/// An e820 entry as the BIOS call returns it: 20 bytes, so entries of an array are not aligned.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// `E820_*`.
    pub type_: u32,
}

/// e820: usable memory.
pub const E820_RAM: u32 = 1;
/// e820: reserved.
pub const E820_RESERVED: u32 = 2;
/// e820: ACPI tables, reclaimable.
pub const E820_ACPI: u32 = 3;
/// e820: ACPI non-volatile storage.
pub const E820_NVS: u32 = 4;
/// e820: memory with errors.
pub const E820_UNUSABLE: u32 = 5;

/// `XENMEM_resource_ioreq_server`: pages of a device model's request server.
pub const RESOURCE_IOREQ_SERVER: u16 = 0;
/// `XENMEM_resource_grant_table`: grant table frames.
pub const RESOURCE_GRANT_TABLE: u16 = 1;
/// `XENMEM_resource_vmtrace_buf`: a vCPU's processor trace buffer.
pub const RESOURCE_VMTRACE_BUF: u16 = 2;
/// `XENMEM_resource_grant_table_id_shared`: in `id`, the shared frames.
pub const RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0;
/// `XENMEM_resource_grant_table_id_status`: in `id`, the status frames (version 2).
pub const RESOURCE_GRANT_TABLE_ID_STATUS: u32 = 1;

/// `struct xen_mem_acquire_resource`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemAcquireResource {
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
    /// In: gfns at which the frames shall appear.
    pub frame_list: GuestHandle<Gfn>,
}

/// `struct xen_pod_target`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PodTarget {
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
    pub pad: [u16; 3],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<MemoryReservation>() == 32);
    assert!(offset_of!(MemoryReservation, nr_extents) == 8);
    assert!(offset_of!(MemoryReservation, extent_order) == 16);
    assert!(offset_of!(MemoryReservation, mem_flags) == 20);
    assert!(offset_of!(MemoryReservation, domid) == 24);
    assert!(size_of::<MemoryExchange>() == 72);
    assert!(offset_of!(MemoryExchange, out) == 32);
    assert!(offset_of!(MemoryExchange, nr_exchanged) == 64);
    assert!(size_of::<MemoryDomain>() == 2);
    assert!(size_of::<AddToPhysmap>() == 24);
    assert!(offset_of!(AddToPhysmap, space) == 4);
    assert!(offset_of!(AddToPhysmap, idx) == 8);
    assert!(offset_of!(AddToPhysmap, gpfn) == 16);
    assert!(size_of::<AddToPhysmapBatch>() == 32);
    assert!(offset_of!(AddToPhysmapBatch, foreign_domid) == 6);
    assert!(offset_of!(AddToPhysmapBatch, errs) == 24);
    assert!(size_of::<RemoveFromPhysmap>() == 16);
    assert!(offset_of!(RemoveFromPhysmap, gpfn) == 8);
    assert!(size_of::<MemoryMap>() == 16);
    assert!(offset_of!(MemoryMap, buffer) == 8);
    assert!(size_of::<ForeignMemoryMap>() == 24);
    assert!(offset_of!(ForeignMemoryMap, map) == 8);
    assert!(size_of::<E820Entry>() == 20);
    assert!(size_of::<MemAcquireResource>() == 32);
    assert!(offset_of!(MemAcquireResource, id) == 4);
    assert!(offset_of!(MemAcquireResource, frame) == 16);
    assert!(offset_of!(MemAcquireResource, frame_list) == 24);
    assert!(size_of::<PodTarget>() == 40);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_carries_its_continuation() {
        for start in [0, 1, 511, (1 << 58) - 1] {
            assert_eq!(split_command(continue_command(POPULATE_PHYSMAP, start)), (POPULATE_PHYSMAP, start));
        }
    }
}
