//! The walk through a guest's page tables, in software.
//!
//! Specification: AMD64 Architecture Programmer's Manual, volume 2, chapter 5: no paging, 32-bit two-level (with 4 MiB
//! pages and PSE-36), PAE, four and five levels. Like the processor, the walk refuses reserved bits and sets accessed
//! and dirty. Every guest frame on the way goes through the p2m, so nothing outside the domain can be reached.
//!
//! Bounded: five levels at most, and a fixed number of repetitions when the guest changes an entry meanwhile.

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use shared_abi::xen::{Gfn, Mfn};

use super::Access;
use crate::hypercall::GuestPaging;
use crate::machine::{Machine, MachineAddress, PAGE_SHIFT};
use crate::p2m::{P2m, region_of};

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Most levels of tables.
pub(super) const MAX_STEPS: usize = 5;
/// How often an entry that changes under the walk is tried again.
const RETRIES: usize = 4;

/// One entry that was used: where it is, and what it contained.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    pub address: u64,
    pub value: u64,
}

/// Where a virtual address leads.
#[derive(Debug)]
pub(super) struct Walk {
    /// The guest's frame.
    pub gfn: Gfn,
    /// The machine's frame.
    pub mfn: Mfn,
    /// Whether a write is allowed, and has nothing left to note in the tables.
    pub writable: bool,
    /// The regions of the p2m that the tables and the page are in.
    pub regions: u64,
    /// The entries on the way, when all are 64 bits wide.
    pub steps: Option<ArrayVec<Step, MAX_STEPS>>,
}

/// The shape of the tables in force.
#[derive(Clone, Copy)]
struct Shape {
    levels: u32,
    wide: bool,
    /// Bits of an entry that must be 0 at any level.
    reserved: u64,
}

/// What one entry says about the rest of the walk.
enum Target {
    Table(u64),
    /// A page: its base, and the number of address bits inside it.
    Page(u64, u32),
}

/// Walks to the page at `address`; `None`: it is not there for this access.
pub(super) fn walk<M: Machine>(
    machine: &M,
    p2m: &P2m<M>,
    paging: &GuestPaging,
    address: u64,
    access: Access,
) -> Option<Walk> {
    if paging.cr0 & CR0_PG == 0 {
        return finish(machine, p2m, u32::try_from(address).ok()?.into(), true, access, Some(ArrayVec::new()));
    }
    if paging.efer & EFER_LMA != 0 {
        let levels = if paging.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
        let unused = 64 - (12 + 9 * levels);
        if ((address << unused) as i64 >> unused) as u64 != address {
            return None;
        }
        let reserved = reserved_bits(paging);
        return walk_tables(machine, p2m, paging, Shape { levels, wide: true, reserved }, address, access);
    }
    let address = u64::from(u32::try_from(address).ok()?);
    let shape = if paging.cr4 & CR4_PAE != 0 {
        Shape { levels: 3, wide: true, reserved: reserved_bits(paging) }
    } else {
        Shape { levels: 2, wide: false, reserved: 0 }
    };
    walk_tables(machine, p2m, paging, shape, address, access)
}

fn reserved_bits(paging: &GuestPaging) -> u64 {
    if paging.efer & EFER_NXE == 0 { NO_EXECUTE } else { 0 }
}

fn walk_tables<M: Machine>(
    machine: &M,
    p2m: &P2m<M>,
    paging: &GuestPaging,
    shape: Shape,
    address: u64,
    access: Access,
) -> Option<Walk> {
    let mut steps = ArrayVec::new();
    let mut writable = true;
    let mut regions = 0;
    let mut table = match (shape.wide, shape.levels) {
        (false, _) => paging.cr3 & 0xffff_f000,
        (true, 3) => paging.cr3 & 0xffff_ffe0,
        _ => paging.cr3 & ADDRESS,
    };
    for level in (0..shape.levels).rev() {
        let entry_address = table + entry_offset(shape, level, address);
        let table_gfn = Gfn(entry_address >> PAGE_SHIFT);
        let frame = p2m.lookup(machine, table_gfn)?;
        regions |= 1 << region_of(table_gfn);
        let at = MachineAddress::in_frame(frame.mfn, entry_address as usize % (1 << PAGE_SHIFT));
        // The top level of a PAE walk has neither rights nor accessed bits.
        let plain = shape.wide && shape.levels == 3 && level == 2;
        let (entry, target) = use_entry(machine, at, paging, shape, level, access, frame.writable && !plain)?;
        steps.push(Step { address: at.0, value: entry });
        if !plain {
            writable &= entry & WRITABLE != 0;
        }
        match target {
            Target::Table(next) => table = next,
            Target::Page(base, bits) => {
                let physical = base | (address & ((1 << bits) - 1));
                // Without write protection the kernel may write to read-only pages.
                let writable = writable || paging.cr0 & CR0_WP == 0;
                let steps = shape.wide.then_some(steps);
                let mut found = finish(machine, p2m, physical, writable, access, steps)?;
                // A write that has dirty still to set must come back here.
                found.regions |= regions;
                found.writable &= entry & DIRTY != 0;
                return Some(found);
            }
        }
    }
    None
}

/// Translates the guest-physical address at the end of a walk.
fn finish<M: Machine>(
    machine: &M,
    p2m: &P2m<M>,
    physical: u64,
    writable: bool,
    access: Access,
    steps: Option<ArrayVec<Step, MAX_STEPS>>,
) -> Option<Walk> {
    let gfn = Gfn(physical >> PAGE_SHIFT);
    let found = p2m.lookup(machine, gfn)?;
    let writable = writable && found.writable;
    if access == Access::Write && !writable {
        return None;
    }
    Some(Walk { gfn, mfn: found.mfn, writable, regions: 1 << region_of(gfn), steps })
}

fn entry_offset(shape: Shape, level: u32, address: u64) -> u64 {
    match (shape.wide, level) {
        (false, level) => (address >> (12 + 10 * level) & 0x3ff) * 4,
        (true, level) => (address >> (12 + 9 * level) & 0x1ff) * 8,
    }
}

/// Reads an entry, checks it, and sets accessed (and dirty in a leaf that is written through) as the processor would
/// if `may_mark`. Gives the entry as it is in memory then.
fn use_entry<M: Machine>(
    machine: &M,
    at: MachineAddress,
    paging: &GuestPaging,
    shape: Shape,
    level: u32,
    access: Access,
    may_mark: bool,
) -> Option<(u64, Target)> {
    for _ in 0..RETRIES {
        let entry = load(machine, at, shape.wide);
        if entry & PRESENT == 0 || entry & shape.reserved != 0 {
            return None;
        }
        let target = decode(paging, shape, level, entry)?;
        let leaf = matches!(target, Target::Page(..));
        let protected = paging.cr0 & CR0_WP != 0 && entry & WRITABLE == 0;
        let marks = ACCESSED | if leaf && access == Access::Write && !protected { DIRTY } else { 0 };
        if !may_mark || entry & marks == marks {
            return Some((entry, target));
        }
        if replace(machine, at, shape.wide, entry, entry | marks) {
            return Some((entry | marks, target));
        }
    }
    // The guest keeps changing it: any of the values it had is right, and so is a fault.
    None
}

/// Where an entry leads; `None` when a reserved bit is set.
fn decode(paging: &GuestPaging, shape: Shape, level: u32, entry: u64) -> Option<Target> {
    if !shape.wide {
        return Some(match level {
            0 => Target::Page(entry & 0xffff_f000, 12),
            _ if entry & LARGE != 0 && paging.cr4 & CR4_PSE != 0 => {
                // PSE-36: bits 13 to 20 are address bits 32 to 39.
                Target::Page(entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32, 22)
            }
            _ => Target::Table(entry & 0xffff_f000),
        });
    }
    let bits = 12 + 9 * level;
    match (level, entry & LARGE != 0) {
        (0, _) => Some(Target::Page(entry & ADDRESS, 12)),
        (1, true) | (2, true) if shape.levels != 3 || level == 1 => {
            // Bit 12 is the page attribute table's; the rest below the page's base is reserved.
            let low = ((1 << bits) - 1) & ADDRESS & !(1 << 12);
            (entry & low == 0).then_some(Target::Page(entry & ADDRESS & !((1 << bits) - 1), bits))
        }
        (_, true) => None,
        (_, false) => Some(Target::Table(entry & ADDRESS)),
    }
}

fn load<M: Machine>(machine: &M, at: MachineAddress, wide: bool) -> u64 {
    if wide { machine.word64(at).load(Ordering::Acquire) } else { machine.word32(at).load(Ordering::Acquire).into() }
}

fn replace<M: Machine>(machine: &M, at: MachineAddress, wide: bool, old: u64, new: u64) -> bool {
    if wide {
        machine.word64(at).compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    } else {
        let (old, new) = (old as u32, new as u32);
        machine.word32(at).compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
