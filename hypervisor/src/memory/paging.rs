//! The hypervisor's own page tables: 4 levels, leaves of 1 GiB, 2 MiB and 4 KiB (Intel SDM vol. 3, 4.5; AMD APM
//! vol. 2, 5.3).
//!
//! Tables live in the direct map's reach and are only ever added to, under memory/mod.rs's lock; a mapping that exists
//! is never changed, so no translation has to be flushed.
#![allow(unsafe_code, reason = "page tables are physical memory reached through the direct map")]

use super::layout::DIRECT_MAP_BASE;
use super::ranges::{PAGE_SIZE, PhysRange};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
const PAT_SMALL: u64 = 1 << 7;
const PAT_LARGE: u64 = 1 << 12;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Code.
    ReadExecute,
    /// Constants.
    Read,
    /// Data.
    ReadWrite,
    /// Device registers.
    Uncached,
    /// Frame buffers (PAT entry 5, see `cpu::init_registers`).
    WriteCombining,
}

impl Access {
    fn bits(self, large: bool) -> u64 {
        let pat = if large { PAT_LARGE } else { PAT_SMALL };
        PRESENT
            | match self {
                Self::ReadExecute => 0,
                Self::Read => NO_EXECUTE,
                Self::ReadWrite => NO_EXECUTE | WRITABLE,
                Self::Uncached => NO_EXECUTE | WRITABLE | CACHE_DISABLE | WRITE_THROUGH,
                Self::WriteCombining => NO_EXECUTE | WRITABLE | WRITE_THROUGH | pat,
            }
    }
}

/// Why a mapping was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No frame left for a table.
    NoMemory,
    /// Something is mapped there already.
    Occupied,
}

/// One address space: the root's address, while the tables themselves are in memory.
#[derive(Clone)]
pub struct PageTables {
    root: u64,
    gigabyte_pages: bool,
}

impl PageTables {
    /// An empty one; `root` is the physical address of a zeroed frame that nothing else uses.
    pub const fn new(root: u64, gigabyte_pages: bool) -> Self {
        Self { root, gigabyte_pages }
    }

    /// The root's physical address, for CR3.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Maps `range` (whole pages) at `address`, with the largest pages that fit. `allocate` gives zeroed frames.
    ///
    /// # Errors
    /// [`MapError`]; pages before the failing one stay mapped.
    pub fn map(
        &mut self,
        address: u64,
        range: PhysRange,
        access: Access,
        allocate: &mut dyn FnMut() -> Option<u64>,
    ) -> Result<(), MapError> {
        let (mut virt, mut phys) = (address, range.start);
        while phys < range.end {
            let level = self.leaf_level(virt, phys, range.end - phys);
            self.map_one(virt, phys, level, access, allocate)?;
            let size = level_size(level);
            phys += size;
            virt = virt.wrapping_add(size);
        }
        Ok(())
    }

    /// The highest level (1: 4 KiB, 2: 2 MiB, 3: 1 GiB) whose page fits here.
    fn leaf_level(&self, virt: u64, phys: u64, left: u64) -> u32 {
        let highest = if self.gigabyte_pages { 3 } else { 2 };
        (1..=highest)
            .rev()
            .find(|&level| (virt | phys).is_multiple_of(level_size(level)) && left >= level_size(level))
            .unwrap_or(1)
    }

    fn map_one(
        &mut self,
        virt: u64,
        phys: u64,
        leaf: u32,
        access: Access,
        allocate: &mut dyn FnMut() -> Option<u64>,
    ) -> Result<(), MapError> {
        let mut table = self.root;
        for level in (leaf + 1..=4).rev() {
            let entry = entry(table, virt, level);
            // SAFETY: `entry` points into a page table of ours; `map` has exclusive access through `&mut self`, and
            // the processor's own walks only set accessed bits.
            let value = unsafe { entry.read_volatile() };
            table = if value & PRESENT == 0 {
                let frame = allocate().ok_or(MapError::NoMemory)?;
                // SAFETY: as above. The frame is zeroed, so the new table maps nothing yet.
                unsafe { entry.write_volatile(frame | PRESENT | WRITABLE) };
                frame
            } else if value & LARGE != 0 {
                return Err(MapError::Occupied);
            } else {
                value & ADDRESS
            };
        }
        let entry = entry(table, virt, leaf);
        let large = if leaf > 1 { LARGE } else { 0 };
        // SAFETY: as above; the entry was not present, so no translation changes.
        unsafe {
            if entry.read_volatile() & PRESENT != 0 {
                return Err(MapError::Occupied);
            }
            entry.write_volatile(phys | large | access.bits(leaf > 1));
        }
        Ok(())
    }
}

/// Bytes that an entry of `level` covers.
const fn level_size(level: u32) -> u64 {
    PAGE_SIZE << (9 * (level - 1))
}

/// The entry for `virt` in the table of `level` at physical `table`.
fn entry(table: u64, virt: u64, level: u32) -> *mut u64 {
    let index = virt / level_size(level) % 512;
    (DIRECT_MAP_BASE + table + index * 8) as *mut u64
}
