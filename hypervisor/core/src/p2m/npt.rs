//! AMD's nested page tables: ordinary four-level long-mode entries, walked with user rights.
//!
//! Specification: AMD64 Architecture Programmer's Manual, volume 2, "Nested Paging". Accessed and dirty are preset, so
//! that the processor has nothing to write back. Bits 9 to 11 are software's.

use shared_abi::xen::Mfn;

use super::{Entry, EntryFormat, FrameKind, Leaf};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const KIND_SHIFT: u32 = 9;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The format of AMD's nested page tables.
#[derive(Clone, Copy, Debug)]
pub struct Npt;

impl EntryFormat for Npt {
    fn table(table: Mfn) -> u64 {
        table.0 << 12 | PRESENT | WRITABLE | USER | ACCESSED
    }

    fn leaf(leaf: Leaf, level: u32) -> u64 {
        leaf.mfn.0 << 12
            | PRESENT
            | USER
            | ACCESSED
            | DIRTY
            | if leaf.writable { WRITABLE } else { 0 }
            | if level != 0 { LARGE } else { 0 }
            | leaf.kind.number() << KIND_SHIFT
    }

    fn decode(entry: u64, level: u32) -> Entry {
        if entry & PRESENT == 0 {
            return Entry::Absent;
        }
        let mfn = Mfn((entry & ADDRESS) >> 12);
        if level != 0 && entry & LARGE == 0 {
            return Entry::Table(mfn);
        }
        let kind = FrameKind::from_number(entry >> KIND_SHIFT);
        Entry::Leaf(Leaf { mfn, kind, writable: entry & WRITABLE != 0 })
    }
}
