//! Going through a whole table: for teardown, for the highest gfn, for the audit.

use core::sync::atomic::Ordering;

use shared_abi::xen::{Gfn, Mfn};

use super::{ENTRIES, Entry, Frames, GFN_LIMIT, Leaf, P2m, ROOT_LEVEL, Slot, count};
use crate::machine::Machine;

impl<M: Machine> P2m<M> {
    /// The first mapped gfn at or above `from`, with the order of its leaf.
    pub fn next_mapped(&self, machine: &M, from: Gfn) -> Option<(Gfn, u32)> {
        let mut gfn = from.0;
        'restart: while gfn < GFN_LIMIT {
            let mut table = self.root?;
            for level in (0..=ROOT_LEVEL).rev() {
                let mut slot = Slot::in_table(table, level, gfn);
                let span = 1u64 << (9 * level);
                loop {
                    match slot.read(machine) {
                        Entry::Leaf(_) => return Some((Gfn(gfn), 9 * level)),
                        Entry::Table(next) => {
                            table = next;
                            break;
                        }
                        Entry::Absent => {
                            gfn = (gfn & !(span - 1)) + span;
                            slot.index += 1;
                            if slot.index == ENTRIES || gfn >= GFN_LIMIT {
                                continue 'restart;
                            }
                        }
                    }
                }
            }
        }
        None
    }

    /// The highest mapped gfn.
    pub fn last_mapped(&self, machine: &M) -> Option<Gfn> {
        let (mut table, mut level, mut base) = (self.root?, ROOT_LEVEL, 0);
        loop {
            // No table but the root is ever empty.
            let (index, entry) = (0..ENTRIES).rev().find_map(|index| {
                let entry = Slot { table, level, index }.read(machine);
                (entry != Entry::Absent).then_some((index, entry))
            })?;
            base += u64::from(index) << (9 * level);
            match entry {
                Entry::Table(next) => {
                    table = next;
                    level -= 1;
                }
                _ => return Some(Gfn(base + (1 << (9 * level)) - 1)),
            }
        }
    }

    /// Calls `visit` with each table (its frame, its level, the entries its record counts and those it has) and each
    /// leaf (its first gfn, its order).
    pub(crate) fn inspect(&self, frames: Frames<'_, M>, visit: &mut impl FnMut(Piece)) {
        if let Some(root) = self.root {
            inspect_table(frames, root, ROOT_LEVEL, 0, visit);
        }
    }
}

/// What [`P2m::inspect`] reports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece {
    /// A table.
    Table { table: Mfn, counted: u32, present: u32 },
    /// A leaf of `1 << order` frames.
    Leaf { gfn: Gfn, leaf: Leaf, order: u32 },
}

fn inspect_table<M: Machine>(frames: Frames<'_, M>, table: Mfn, level: u32, base: u64, visit: &mut impl FnMut(Piece)) {
    let mut present = 0;
    for index in 0..ENTRIES {
        let gfn = base + (u64::from(index) << (9 * level));
        match (Slot { table, level, index }).read(frames.machine) {
            Entry::Absent => continue,
            Entry::Table(next) => inspect_table(frames, next, level - 1, gfn, visit),
            Entry::Leaf(leaf) => visit(Piece::Leaf { gfn: Gfn(gfn), leaf, order: 9 * level }),
        }
        present += 1;
    }
    visit(Piece::Table { table, counted: count(frames.heap, table).load(Ordering::Relaxed), present });
}
