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
        let kind = match leaf.kind {
            FrameKind::Ram => 0,
            FrameKind::Hypervisor => 1,
            FrameKind::Foreign => 2,
            FrameKind::Grant => 3,
        };
        leaf.mfn.0 << 12
            | PRESENT
            | USER
            | ACCESSED
            | DIRTY
            | if leaf.writable { WRITABLE } else { 0 }
            | if level != 0 { LARGE } else { 0 }
            | kind << KIND_SHIFT
    }

    fn decode(entry: u64, level: u32) -> Entry {
        if entry & PRESENT == 0 {
            return Entry::Absent;
        }
        let mfn = Mfn((entry & ADDRESS) >> 12);
        if level != 0 && entry & LARGE == 0 {
            return Entry::Table(mfn);
        }
        let kind = match entry >> KIND_SHIFT & 3 {
            0 => FrameKind::Ram,
            1 => FrameKind::Hypervisor,
            2 => FrameKind::Foreign,
            _ => FrameKind::Grant,
        };
        Entry::Leaf(Leaf { mfn, kind, writable: entry & WRITABLE != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_a_round_trip() {
        for level in 0..3 {
            for kind in [FrameKind::Ram, FrameKind::Hypervisor, FrameKind::Foreign, FrameKind::Grant] {
                for writable in [false, true] {
                    let leaf = Leaf { mfn: Mfn(0xab_c000_0000 >> 12), kind, writable };
                    assert_eq!(Npt::decode(Npt::leaf(leaf, level), level), Entry::Leaf(leaf));
                }
            }
        }
        assert_eq!(Npt::decode(Npt::table(Mfn(77)), 2), Entry::Table(Mfn(77)));
        assert_eq!(Npt::decode(0, 1), Entry::Absent);
    }
}
