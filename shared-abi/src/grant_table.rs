//! `grant_table.h`: `grant_table_op` and version 1 of the table, 64-bit layout.

use crate::xen::{DomId, Gfn, GuestHandle};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `GNTTABOP_map_grant_ref`: map granted pages.
pub const MAP_GRANT_REF: u32 = 0;
/// `GNTTABOP_unmap_grant_ref`: unmap them.
pub const UNMAP_GRANT_REF: u32 = 1;
/// `GNTTABOP_setup_table`: grow the table and list its frames.
pub const SETUP_TABLE: u32 = 2;
/// `GNTTABOP_dump_table`: print the table.
pub const DUMP_TABLE: u32 = 3;
/// `GNTTABOP_transfer`: give pages away.
pub const TRANSFER: u32 = 4;
/// `GNTTABOP_copy`: copy between pages, granted or own.
pub const COPY: u32 = 5;
/// `GNTTABOP_query_size`: current and greatest size of the table.
pub const QUERY_SIZE: u32 = 6;
/// `GNTTABOP_unmap_and_replace`: unmap and map another page in the same place.
pub const UNMAP_AND_REPLACE: u32 = 7;
/// `GNTTABOP_set_version`: choose the table's version.
pub const SET_VERSION: u32 = 8;
/// `GNTTABOP_get_status_frames`: frames of version 2's status words.
pub const GET_STATUS_FRAMES: u32 = 9;
/// `GNTTABOP_get_version`: the table's version.
pub const GET_VERSION: u32 = 10;
/// `GNTTABOP_swap_grant_ref`: exchange two entries.
pub const SWAP_GRANT_REF: u32 = 11;
/// `GNTTABOP_cache_flush`: clean or invalidate caches.
pub const CACHE_FLUSH: u32 = 12;

/// `GNTTAB_NR_RESERVED_ENTRIES`: entries that tools use.
pub const NR_RESERVED_ENTRIES: u32 = 8;
/// `GNTTAB_RESERVED_CONSOLE`: the entry of the console's ring.
pub const RESERVED_CONSOLE: GrantRef = GrantRef(0);
/// `GNTTAB_RESERVED_XENSTORE`: the entry of XenStore's ring.
pub const RESERVED_XENSTORE: GrantRef = GrantRef(1);

/// `grant_ref_t`: an entry's number.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct GrantRef(pub u32);

/// `grant_handle_t`: names a mapping to the domain that made it.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct GrantHandle(pub u32);

/// `GNTST_*`: how an operation went.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GrantStatus(pub i16);

impl GrantStatus {
    /// `GNTST_okay`: done.
    pub const OKAY: GrantStatus = GrantStatus(0);
    /// `GNTST_general_error`: failed.
    pub const GENERAL_ERROR: GrantStatus = GrantStatus(-1);
    /// `GNTST_bad_domain`: no such domain.
    pub const BAD_DOMAIN: GrantStatus = GrantStatus(-2);
    /// `GNTST_bad_gntref`: no such entry, or not fit for this.
    pub const BAD_GNTREF: GrantStatus = GrantStatus(-3);
    /// `GNTST_bad_handle`: no such mapping.
    pub const BAD_HANDLE: GrantStatus = GrantStatus(-4);
    /// `GNTST_bad_virt_addr`: bad virtual address.
    pub const BAD_VIRT_ADDR: GrantStatus = GrantStatus(-5);
    /// `GNTST_bad_dev_addr`: bad device address.
    pub const BAD_DEV_ADDR: GrantStatus = GrantStatus(-6);
    /// `GNTST_no_device_space`: the IOMMU has no room.
    pub const NO_DEVICE_SPACE: GrantStatus = GrantStatus(-7);
    /// `GNTST_permission_denied`: not allowed.
    pub const PERMISSION_DENIED: GrantStatus = GrantStatus(-8);
    /// `GNTST_bad_page`: not a page for this.
    pub const BAD_PAGE: GrantStatus = GrantStatus(-9);
    /// `GNTST_bad_copy_arg`: a copy crosses a page's border.
    pub const BAD_COPY_ARG: GrantStatus = GrantStatus(-10);
    /// `GNTST_address_too_big`: the page's address is too large.
    pub const ADDRESS_TOO_BIG: GrantStatus = GrantStatus(-11);
    /// `GNTST_eagain`: try again.
    pub const EAGAIN: GrantStatus = GrantStatus(-12);
    /// `GNTST_no_space`: no room for another mapping.
    pub const NO_SPACE: GrantStatus = GrantStatus(-13);
}

bitflags! {
    /// `GTF_*`: flags of an entry beside its type, which is the low two bits ([`entry_type`]).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct EntryFlags: u16 {
        /// `GTF_readonly`: may only be read.
        const READONLY = 1 << 2;
        /// `GTF_reading`: is mapped for reading (set by the hypervisor).
        const READING = 1 << 3;
        /// `GTF_writing`: is mapped for writing (set by the hypervisor).
        const WRITING = 1 << 4;
        /// `GTF_PWT`: cache attribute.
        const PWT = 1 << 5;
        /// `GTF_PCD`: cache attribute.
        const PCD = 1 << 6;
        /// `GTF_PAT`: cache attribute.
        const PAT = 1 << 7;
        /// `GTF_sub_page`: a part of a page (version 2).
        const SUB_PAGE = 1 << 8;
        const _ = !0;
    }
}

/// `GTF_invalid`: entry type: none.
pub const ENTRY_INVALID: u16 = 0;
/// `GTF_permit_access`: entry type: `domid` may map or copy the frame.
pub const ENTRY_PERMIT_ACCESS: u16 = 1;
/// `GTF_accept_transfer`: entry type: `domid` may give a frame.
pub const ENTRY_ACCEPT_TRANSFER: u16 = 2;
/// `GTF_transitive`: entry type: another domain's grant (version 2).
pub const ENTRY_TRANSITIVE: u16 = 3;
/// `GTF_type_mask`: the type's bits.
pub const ENTRY_TYPE_MASK: u16 = 3;

/// The type of an entry with these flags.
pub const fn entry_type(flags: u16) -> u16 {
    flags & ENTRY_TYPE_MASK
}

/// `struct grant_entry_v1`. Accessed in place by both sides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GrantEntryV1 {
    /// Type and [`EntryFlags`].
    pub flags: u16,
    /// To whom.
    pub domid: DomId,
    /// What: a gfn.
    pub frame: u32,
}

/// Version 1 entries in a frame.
pub const ENTRIES_PER_FRAME_V1: u32 = 512;

bitflags! {
    /// `GNTMAP_*`: how to map.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MapFlags: u32 {
        /// `GNTMAP_device_map`: for devices.
        const DEVICE_MAP = 1 << 0;
        /// `GNTMAP_host_map`: for the CPU.
        const HOST_MAP = 1 << 1;
        /// `GNTMAP_readonly`: for reading only.
        const READONLY = 1 << 2;
        /// `GNTMAP_application_map`: for user mode (paravirtual guests).
        const APPLICATION_MAP = 1 << 3;
        /// `GNTMAP_contains_pte`: `host_addr` is a page-table entry's (paravirtual guests).
        const CONTAINS_PTE = 1 << 4;
        const _ = !0;
    }
}

/// `struct gnttab_map_grant_ref`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MapGrantRef {
    /// Guest physical address at which the page shall appear.
    pub host_addr: u64,
    /// [`MapFlags`].
    pub flags: u32,
    /// `ref`: the granter's entry.
    pub ref_: GrantRef,
    /// The granter.
    pub dom: DomId,
    /// Out.
    pub status: GrantStatus,
    /// Out: names the mapping.
    pub handle: GrantHandle,
    /// Out: address for devices.
    pub dev_bus_addr: u64,
}

/// `struct gnttab_unmap_grant_ref`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct UnmapGrantRef {
    /// As it was mapped.
    pub host_addr: u64,
    /// As it was mapped.
    pub dev_bus_addr: u64,
    /// The mapping.
    pub handle: GrantHandle,
    /// Out.
    pub status: GrantStatus,
    /// Padding.
    pub pad: u16,
}

/// `struct gnttab_setup_table`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetupTable {
    /// Whose table.
    pub dom: DomId,
    /// Padding.
    pub pad0: u16,
    /// How many frames it shall have.
    pub nr_frames: u32,
    /// Out.
    pub status: GrantStatus,
    /// Padding.
    pub pad1: [u16; 3],
    /// Out: the frames.
    pub frame_list: GuestHandle<Gfn>,
}

/// `GNTCOPY_source_gref`: in [`GrantCopy::flags`]: the source is an entry, not a gfn.
pub const COPY_SOURCE_GREF: u16 = 1 << 0;
/// `GNTCOPY_dest_gref`: in [`GrantCopy::flags`]: the destination is an entry, not a gfn.
pub const COPY_DEST_GREF: u16 = 1 << 1;

/// `struct gnttab_copy_ptr`: one end of a copy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GrantCopyPtr {
    /// The union: an entry's number in the low half, or a gfn.
    pub u: u64,
    /// Whose page.
    pub domid: DomId,
    /// Where in it.
    pub offset: u16,
    /// Padding.
    pub pad: u32,
}

impl GrantCopyPtr {
    /// `u.ref`: the entry.
    pub const fn gref(&self) -> GrantRef {
        GrantRef(self.u as u32)
    }

    /// `u.gmfn`: the gfn.
    pub const fn gmfn(&self) -> Gfn {
        Gfn(self.u)
    }
}

/// `struct gnttab_copy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GrantCopy {
    /// From.
    pub source: GrantCopyPtr,
    /// To.
    pub dest: GrantCopyPtr,
    /// Bytes.
    pub len: u16,
    /// `GNTCOPY_*`.
    pub flags: u16,
    /// Out.
    pub status: GrantStatus,
    /// Padding.
    pub pad: u16,
}

/// `struct gnttab_query_size`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct QuerySize {
    /// Whose table.
    pub dom: DomId,
    /// Padding.
    pub pad0: u16,
    /// Out: frames it has.
    pub nr_frames: u32,
    /// Out: frames it may have.
    pub max_nr_frames: u32,
    /// Out.
    pub status: GrantStatus,
    /// Padding.
    pub pad1: u16,
}

/// `struct gnttab_unmap_and_replace`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct UnmapAndReplace {
    /// As it was mapped.
    pub host_addr: u64,
    /// What takes its place.
    pub new_addr: u64,
    /// The mapping.
    pub handle: GrantHandle,
    /// Out.
    pub status: GrantStatus,
    /// Padding.
    pub pad: u16,
}

/// `struct gnttab_set_version`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetVersion {
    /// In: the one wanted. Out: the one in force.
    pub version: u32,
}

/// `struct gnttab_get_version`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GetVersion {
    /// Whose table.
    pub dom: DomId,
    /// Padding.
    pub pad: u16,
    /// Out.
    pub version: u32,
}

/// `struct gnttab_swap_grant_ref`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SwapGrantRef {
    /// One entry.
    pub ref_a: GrantRef,
    /// The other.
    pub ref_b: GrantRef,
    /// Out.
    pub status: GrantStatus,
    /// Padding.
    pub pad: u16,
}

/// `GNTTAB_CACHE_CLEAN`: in [`CacheFlush::op`].
pub const CACHE_CLEAN: u32 = 1 << 0;
/// `GNTTAB_CACHE_INVAL`: in [`CacheFlush::op`].
pub const CACHE_INVAL: u32 = 1 << 1;
/// `GNTTAB_CACHE_SOURCE_GREF`: in [`CacheFlush::op`]: `a` is an entry.
pub const CACHE_SOURCE_GREF: u32 = 1 << 31;

/// `struct gnttab_cache_flush`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CacheFlush {
    /// The union: a device address, or an entry's number in the low half.
    pub a: u64,
    /// Where in the page.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
    /// `GNTTAB_CACHE_*`.
    pub op: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<GrantEntryV1>() == 8);
    assert!(offset_of!(GrantEntryV1, frame) == 4);
    assert!(size_of::<MapGrantRef>() == 32);
    assert!(offset_of!(MapGrantRef, dom) == 16);
    assert!(offset_of!(MapGrantRef, dev_bus_addr) == 24);
    assert!(size_of::<UnmapGrantRef>() == 24);
    assert!(size_of::<SetupTable>() == 24);
    assert!(offset_of!(SetupTable, frame_list) == 16);
    assert!(size_of::<GrantCopyPtr>() == 16);
    assert!(size_of::<GrantCopy>() == 40);
    assert!(offset_of!(GrantCopy, len) == 32);
    assert!(size_of::<QuerySize>() == 16);
    assert!(size_of::<UnmapAndReplace>() == 24);
    assert!(size_of::<GetVersion>() == 8);
    assert!(size_of::<SwapGrantRef>() == 12);
    assert!(size_of::<CacheFlush>() == 16);
};
