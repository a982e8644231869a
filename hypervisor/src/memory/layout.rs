//! The hypervisor's address space, the same on every processor. Page 0 and everything below the direct map is
//! unmapped; every mapping is either writable or executable, never both.
//!
//! | from | what |
//! |---|---|
//! | `DIRECT_MAP_BASE` | all RAM and ACPI memory at base + physical address, RW |
//! | `MMIO_BASE` | device memory on request at base + physical address, RW, uncached or write-combining |
//! | `FRAME_TABLE_BASE` | the core's record of each frame; pages of it that describe no RAM are one zero page, R |
//! | `STACKS_BASE` | each processor's stacks, an unmapped guard page below each |
//! | `IMAGE_BASE` | the image at base + physical address: text RX, rodata R, data RW |

/// Base of the direct map.
pub const DIRECT_MAP_BASE: u64 = 0xffff_8000_0000_0000;
/// Physical addresses at or above this are outside the direct map and unused.
pub const DIRECT_MAP_SIZE: u64 = 1 << 45;
/// Base of device mappings.
pub const MMIO_BASE: u64 = 0xffff_c000_0000_0000;
/// Base of the table with a record for each frame.
pub const FRAME_TABLE_BASE: u64 = 0xffff_f000_0000_0000;
/// Base of the stacks.
pub const STACKS_BASE: u64 = 0xffff_ff00_0000_0000;
/// Distance from one processor's stacks to the next's.
pub const STACKS_STRIDE: u64 = 0x4_0000;
/// Base of the image, link.ld's IMAGE_BASE.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Physical memory that the boot page tables (entry.S) map.
pub const BOOT_MAPPED: u64 = 4 << 30;
/// Memory below this belongs to firmware and the trampoline.
pub const LOW_MEMORY_END: u64 = 0x10_0000;

const _: () = assert!(DIRECT_MAP_BASE + DIRECT_MAP_SIZE <= MMIO_BASE);
const _: () = assert!(MMIO_BASE + DIRECT_MAP_SIZE <= FRAME_TABLE_BASE);
