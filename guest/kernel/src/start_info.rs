//! What the domain is told at its start: memory map, modules, command line, RSDP (`hvm_start_info`, version 0 or 1).
//!
//! Everything is copied out while the early identity map of the first 4 GiB is in place, because the structures lie in
//! memory that the allocator may hand out later.
#![allow(unsafe_code)] // Reading physical memory that the hypervisor filled.

use arrayvec::{ArrayString, ArrayVec};
use ebb_guest_logic::ranges::Range;
use shared_abi::hvm::start_info as abi;
use shared_abi::xen::PAGE_SIZE;
use spin::Once;
use zerocopy::FromBytes;

/// Entries of the memory map that are kept.
const MAX_ENTRIES: usize = 64;

/// One entry of the memory map.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// `XEN_HVM_MEMMAP_TYPE_*`.
    pub kind: u32,
}

impl Entry {
    /// The pages that lie wholly inside.
    pub fn pages_inside(&self) -> Range {
        Range { start: self.start.div_ceil(PAGE_SIZE), end: self.end / PAGE_SIZE }
    }

    /// The pages that are touched.
    pub fn pages_touched(&self) -> Range {
        Range { start: self.start / PAGE_SIZE, end: self.end.div_ceil(PAGE_SIZE) }
    }
}

/// The start-of-day information.
#[derive(Debug)]
pub struct StartInfo {
    /// 0 or 1.
    pub version: u32,
    /// `SIF_*`.
    pub flags: u32,
    /// The kernel's arguments.
    pub command_line: ArrayString<1024>,
    /// The memory map.
    pub memory_map: ArrayVec<Entry, MAX_ENTRIES>,
    /// The modules, as byte ranges.
    pub modules: ArrayVec<Entry, 8>,
    /// Physical address of the ACPI RSDP, 0 for none.
    pub rsdp: u64,
}

static INFO: Once<StartInfo> = Once::new();

/// What was parsed at start.
pub fn get() -> &'static StartInfo {
    INFO.get().expect("start info is parsed first")
}

/// The kernel's arguments.
pub fn args() -> ebb_guest_logic::args::Args<'static> {
    ebb_guest_logic::args::Args::new(&get().command_line)
}

/// A structure in physical memory, copied out.
fn read<T: FromBytes>(address: u64) -> T {
    // SAFETY: the hypervisor placed the structure below 4 GiB, which is mapped; any contents are valid.
    unsafe { core::ptr::with_exposed_provenance::<T>(address as usize).read_unaligned() }
}

/// Parses the structure at `address` (physical).
pub fn parse(address: u64) -> Result<&'static StartInfo, &'static str> {
    let raw: abi::StartInfo = read(address);
    if raw.magic != abi::MAGIC {
        return Err("the start info's magic is wrong");
    }
    let mut info = StartInfo {
        version: raw.version,
        flags: raw.flags,
        command_line: ArrayString::new(),
        memory_map: ArrayVec::new(),
        modules: ArrayVec::new(),
        rsdp: raw.rsdp_paddr,
    };
    copy_command_line(raw.cmdline_paddr, &mut info.command_line);
    if raw.version >= 1 && raw.memmap_paddr != 0 {
        for index in 0..u64::from(raw.memmap_entries) {
            let entry: abi::MemmapTableEntry =
                read(raw.memmap_paddr + index * size_of::<abi::MemmapTableEntry>() as u64);
            add_entry(&mut info, entry.addr, entry.size, entry.type_);
        }
    } else {
        ask_memory_map(&mut info)?;
    }
    for index in 0..u64::from(raw.nr_modules) {
        let module: abi::ModlistEntry = read(raw.modlist_paddr + index * size_of::<abi::ModlistEntry>() as u64);
        let kept = info.modules.try_push(Entry {
            start: module.paddr,
            end: module.paddr.saturating_add(module.size),
            kind: 0,
        });
        if kept.is_err() {
            break;
        }
    }
    Ok(INFO.call_once(|| info))
}

fn add_entry(info: &mut StartInfo, start: u64, size: u64, kind: u32) {
    // An entry too many is left out: its memory is not used.
    let _ = info.memory_map.try_push(Entry { start, end: start.saturating_add(size), kind });
}

/// A version 0 start info has no memory map: ask the hypervisor.
fn ask_memory_map(info: &mut StartInfo) -> Result<(), &'static str> {
    let mut entries = [shared_abi::memory::E820Entry::default(); MAX_ENTRIES];
    let count = ebb_guest_hypercall::memory::memory_map(&mut entries)
        .map_err(|_| "there is no memory map, and XENMEM_memory_map failed")?;
    for entry in &entries[..count] {
        // The e820 types for RAM, reserved and ACPI are numbered alike.
        add_entry(info, entry.addr, entry.size, entry.type_);
    }
    Ok(())
}

fn copy_command_line(address: u64, text: &mut ArrayString<1024>) {
    if address == 0 {
        return;
    }
    for offset in 0..text.capacity() as u64 {
        let byte: u8 = read(address + offset);
        if byte == 0 {
            break;
        }
        let printable = if byte.is_ascii() { char::from(byte) } else { '?' };
        if text.try_push(printable).is_err() {
            break;
        }
    }
}
