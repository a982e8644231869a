//! `elfnote.h`: ELF notes of guest images. Name [`NAME`], numbers below.

/// The notes' name, with its terminator.
pub const NAME: &[u8; 4] = b"Xen\0";

/// `XEN_ELFNOTE_INFO`: obsolete.
pub const INFO: u32 = 0;
/// `XEN_ELFNOTE_ENTRY`: virtual entry point (paravirtual guests).
pub const ENTRY: u32 = 1;
/// `XEN_ELFNOTE_HYPERCALL_PAGE`: virtual address of the hypercall page.
pub const HYPERCALL_PAGE: u32 = 2;
/// `XEN_ELFNOTE_VIRT_BASE`: virtual base of the initial mapping.
pub const VIRT_BASE: u32 = 3;
/// `XEN_ELFNOTE_PADDR_OFFSET`: offset of ELF physical addresses.
pub const PADDR_OFFSET: u32 = 4;
/// `XEN_ELFNOTE_XEN_VERSION`: interface version.
pub const XEN_VERSION: u32 = 5;
/// `XEN_ELFNOTE_GUEST_OS`: name of the guest.
pub const GUEST_OS: u32 = 6;
/// `XEN_ELFNOTE_GUEST_VERSION`: version of the guest.
pub const GUEST_VERSION: u32 = 7;
/// `XEN_ELFNOTE_LOADER`: loader type.
pub const LOADER: u32 = 8;
/// `XEN_ELFNOTE_PAE_MODE`: whether it needs PAE.
pub const PAE_MODE: u32 = 9;
/// `XEN_ELFNOTE_FEATURES`: features it wants or needs, as text.
pub const FEATURES: u32 = 10;
/// `XEN_ELFNOTE_BSD_SYMTAB`: whether it wants its symbols.
pub const BSD_SYMTAB: u32 = 11;
/// `XEN_ELFNOTE_HV_START_LOW`: lowest address of the hypervisor hole.
pub const HV_START_LOW: u32 = 12;
/// `XEN_ELFNOTE_L1_MFN_VALID`: which page-table entries hold frames.
pub const L1_MFN_VALID: u32 = 13;
/// `XEN_ELFNOTE_SUSPEND_CANCEL`: whether a suspend can be cancelled.
pub const SUSPEND_CANCEL: u32 = 14;
/// `XEN_ELFNOTE_INIT_P2M`: where to map the initial p2m.
pub const INIT_P2M: u32 = 15;
/// `XEN_ELFNOTE_MOD_START_PFN`: whether the ramdisk is given by frame.
pub const MOD_START_PFN: u32 = 16;
/// `XEN_ELFNOTE_SUPPORTED_FEATURES`: features it supports, as bits.
pub const SUPPORTED_FEATURES: u32 = 17;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: physical address of the 32-bit, unpaged PVH entry point.
pub const PHYS32_ENTRY: u32 = 18;
/// `XEN_ELFNOTE_MAX`: the greatest of the numbers above.
pub const MAX: u32 = PHYS32_ENTRY;
/// `XEN_ELFNOTE_CRASH_INFO`: crash notes.
pub const CRASH_INFO: u32 = 0x100_0001;
/// `XEN_ELFNOTE_CRASH_REGS`: crash registers.
pub const CRASH_REGS: u32 = 0x100_0002;
/// `XEN_ELFNOTE_DUMPCORE_NONE`: core dump marker.
pub const DUMPCORE_NONE: u32 = 0x200_0000;
/// `XEN_ELFNOTE_DUMPCORE_HEADER`: core dump header.
pub const DUMPCORE_HEADER: u32 = 0x200_0001;
/// `XEN_ELFNOTE_DUMPCORE_XEN_VERSION`: core dump: the hypervisor's version.
pub const DUMPCORE_XEN_VERSION: u32 = 0x200_0002;
/// `XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION`: core dump: format version.
pub const DUMPCORE_FORMAT_VERSION: u32 = 0x200_0003;
