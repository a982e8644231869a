//! Where a guest of the test keeps what in its physical memory.

/// Buffers for arguments: eight slots of 2 KiB.
pub const BUFFERS: u64 = 0x1000;
/// The list of a multicall.
pub const MULTICALLS: u64 = 0x5000;
/// The list of a long reservation: two pages.
pub const LONG_LIST: u64 = 0x6000;
/// Page tables that map guest-physical addresses to themselves: four levels, and the starts for the other modes.
pub const TABLES: u64 = 0x1_0000;
pub const PAE_TABLE: u64 = 0x1_3000;
pub const LEGACY_TABLE: u64 = 0x1_4000;
pub const FIVE_LEVEL_TABLE: u64 = 0x1_5000;
/// FIFO control blocks, a page per vCPU.
pub const CONTROL_GFN: u64 = 0x50;
/// The page of FIFO event words.
pub const ARRAY_GFN: u64 = 0x58;
/// Pages of `vcpu_info`, one per vCPU.
pub const INFO_GFN: u64 = 0x60;
/// The page of runstate and time areas.
pub const RUNSTATE_GFN: u64 = 0x68;
/// Pages from here on are nobody's in particular.
pub const FIRST_FREE_GFN: u64 = 0x80;
