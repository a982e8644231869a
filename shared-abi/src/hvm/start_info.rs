//! `arch-x86/hvm/start_info.h`: what `ebx` points to at the PVH entry. All addresses are guest physical.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3" with the 0x80 bit of the "E" set.
pub const MAGIC: u32 = 0x336e_c578;
/// `SIF_PRIVILEGED`: in `flags`: the domain is privileged.
pub const SIF_PRIVILEGED: u32 = 1 << 0;
/// `SIF_INITDOMAIN`: in `flags`: the domain is the initial one.
pub const SIF_INITDOMAIN: u32 = 1 << 1;

/// `XEN_HVM_MEMMAP_TYPE_RAM`: usable memory.
pub const MEMMAP_TYPE_RAM: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_RESERVED`: reserved.
pub const MEMMAP_TYPE_RESERVED: u32 = 2;
/// `XEN_HVM_MEMMAP_TYPE_ACPI`: ACPI tables.
pub const MEMMAP_TYPE_ACPI: u32 = 3;
/// `XEN_HVM_MEMMAP_TYPE_NVS`: ACPI non-volatile storage.
pub const MEMMAP_TYPE_NVS: u32 = 4;
/// `XEN_HVM_MEMMAP_TYPE_UNUSABLE`: memory with errors.
pub const MEMMAP_TYPE_UNUSABLE: u32 = 5;
/// `XEN_HVM_MEMMAP_TYPE_DISABLED`: disabled.
pub const MEMMAP_TYPE_DISABLED: u32 = 6;
/// `XEN_HVM_MEMMAP_TYPE_PMEM`: persistent memory.
pub const MEMMAP_TYPE_PMEM: u32 = 7;

/// Bytes of a version 0 structure: up to and without the memory map.
pub const VERSION_0_SIZE: usize = 40;

/// `struct hvm_start_info`, version 1. Version 0 ends before `memmap_paddr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// 0 or 1.
    pub version: u32,
    /// `SIF_*`.
    pub flags: u32,
    /// Modules in the list.
    pub nr_modules: u32,
    /// Address of the list of [`ModlistEntry`].
    pub modlist_paddr: u64,
    /// Address of the command line, NUL-terminated; 0 for none.
    pub cmdline_paddr: u64,
    /// Address of the ACPI RSDP; 0 for none.
    pub rsdp_paddr: u64,
    /// Version 1: address of the list of [`MemmapTableEntry`].
    pub memmap_paddr: u64,
    /// Version 1: how many.
    pub memmap_entries: u32,
    /// Version 1: must be 0.
    pub reserved: u32,
}

/// `struct hvm_modlist_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ModlistEntry {
    /// Address of the module.
    pub paddr: u64,
    /// Bytes.
    pub size: u64,
    /// Address of its command line; 0 for none.
    pub cmdline_paddr: u64,
    /// Must be 0.
    pub reserved: u64,
}

/// `struct hvm_memmap_table_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemmapTableEntry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// `type`: `XEN_HVM_MEMMAP_TYPE_*`.
    pub type_: u32,
    /// Must be 0.
    pub reserved: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<StartInfo>() == 56);
    assert!(offset_of!(StartInfo, modlist_paddr) == 16);
    assert!(offset_of!(StartInfo, memmap_paddr) == VERSION_0_SIZE);
    assert!(offset_of!(StartInfo, memmap_entries) == 48);
    assert!(size_of::<ModlistEntry>() == 32);
    assert!(size_of::<MemmapTableEntry>() == 24);
    assert!(offset_of!(MemmapTableEntry, type_) == 16);
};
