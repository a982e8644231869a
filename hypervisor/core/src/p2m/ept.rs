//! Intel's extended page tables.
//!
//! Specification: Intel SDM, volume 3, "The Extended Page Table Mechanism (EPT)". All memory is write-back, the guest's
//! PAT decides the rest. Accessed and dirty are preset, so that the processor has nothing to write back. Bits 52 and 53
//! are ignored by the processor and software's.

use core::sync::atomic::{AtomicBool, Ordering};

use shared_abi::xen::Mfn;

use super::{Entry, EntryFormat, FrameKind, Leaf};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const WRITE_BACK: u64 = 6 << 3;
const LARGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const KIND_SHIFT: u32 = 52;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Whether this machine has leaves of 1 GiB.
static GIGABYTE_LEAVES: AtomicBool = AtomicBool::new(false);

/// The format of Intel's extended page tables.
#[derive(Clone, Copy, Debug)]
pub struct Ept;

impl Ept {
    /// Says whether the processor takes leaves of 1 GiB. Before any table exists.
    pub fn set_up(gigabyte_leaves: bool) {
        GIGABYTE_LEAVES.store(gigabyte_leaves, Ordering::Relaxed);
    }
}

impl EntryFormat for Ept {
    fn table(table: Mfn) -> u64 {
        table.0 << 12 | READ | WRITE | EXECUTE | ACCESSED
    }

    fn leaf(leaf: Leaf, level: u32) -> u64 {
        leaf.mfn.0 << 12
            | READ
            | EXECUTE
            | WRITE_BACK
            | ACCESSED
            | DIRTY
            | if leaf.writable { WRITE } else { 0 }
            | if level != 0 { LARGE } else { 0 }
            | leaf.kind.number() << KIND_SHIFT
    }

    fn decode(entry: u64, level: u32) -> Entry {
        if entry & (READ | WRITE | EXECUTE) == 0 {
            return Entry::Absent;
        }
        let mfn = Mfn((entry & ADDRESS) >> 12);
        if level != 0 && entry & LARGE == 0 {
            return Entry::Table(mfn);
        }
        let kind = FrameKind::from_number(entry >> KIND_SHIFT);
        Entry::Leaf(Leaf { mfn, kind, writable: entry & WRITE != 0 })
    }

    fn largest_leaf_level() -> u32 {
        if GIGABYTE_LEAVES.load(Ordering::Relaxed) { 2 } else { 1 }
    }
}
