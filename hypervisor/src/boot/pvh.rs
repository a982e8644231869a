//! Xen's PVH boot ABI: `hvm_start_info` (xen/include/public/arch-x86/hvm/start_info.h), versions 0 and 1.

use super::info::{BootError, BootInfo, MAX_COMMAND_LINE, MAX_MODULE_LINE, MAX_MODULES, MemoryKind, PhysicalMemory};
use super::info::{MAX_MEMORY_ENTRIES, Protocol, u32_at, u64_at};

/// `XEN_HVM_START_MAGIC_VALUE`, also what entry.S passes as the protocol.
pub const START_MAGIC: u32 = 0x336e_c578;

// Offsets in hvm_start_info.
const NR_MODULES: usize = 12;
const MODLIST_PADDR: usize = 16;
const CMDLINE_PADDR: usize = 24;
const RSDP_PADDR: usize = 32;
const MEMMAP_PADDR: usize = 40;
const MEMMAP_ENTRIES: usize = 48;
const SIZE_V0: u64 = 40;
const SIZE_V1: u64 = 56;

// hvm_modlist_entry: paddr, size, cmdline_paddr, reserved.
const MODULE_SIZE: u64 = 32;
// hvm_memmap_table_entry: addr, size, type, reserved.
const MEMORY_SIZE: u64 = 24;

/// Reads the structure at `address`.
///
/// # Errors
/// [`BootError`] when it is not a start info or describes no memory (version 0 does not; Xen's own PVH domains always
/// had another way to ask, which we do not need on a machine).
pub fn parse(memory: &impl PhysicalMemory, address: u64) -> Result<BootInfo, BootError> {
    let head = memory.bytes(address, SIZE_V0).ok_or(BootError::BadStructure)?;
    if u32_at(head, 0) != Some(START_MAGIC) {
        return Err(BootError::BadStructure);
    }
    let version = u32_at(head, 4).unwrap_or(0);
    let field = |offset| u64_at(head, offset).unwrap_or(0);
    let mut info = BootInfo::new(Protocol::Pvh);

    if let Some(text) = memory.text(field(CMDLINE_PADDR), MAX_COMMAND_LINE as u64) {
        info.set_command_line(text);
    }
    info.rsdp = field(RSDP_PADDR);
    let modules = u32_at(head, NR_MODULES).unwrap_or(0);
    parse_modules(memory, field(MODLIST_PADDR), modules, &mut info);

    if version >= 1 {
        let head = memory.bytes(address, SIZE_V1).ok_or(BootError::BadStructure)?;
        let table = u64_at(head, MEMMAP_PADDR).unwrap_or(0);
        let entries = u32_at(head, MEMMAP_ENTRIES).unwrap_or(0);
        parse_memory_map(memory, table, entries, &mut info);
    }
    if info.memory.is_empty() { Err(BootError::NoMemoryMap) } else { Ok(info) }
}

fn parse_modules(memory: &impl PhysicalMemory, table: u64, count: u32, info: &mut BootInfo) {
    let kept = count.min(MAX_MODULES as u32);
    info.ignored += count - kept;
    for index in 0..u64::from(kept) {
        let Some(entry) = table.checked_add(index * MODULE_SIZE).and_then(|at| memory.bytes(at, MODULE_SIZE)) else {
            info.ignored += 1;
            continue;
        };
        let field = |offset| u64_at(entry, offset).unwrap_or(0);
        let line = memory.text(field(16), MAX_MODULE_LINE as u64).unwrap_or(b"");
        info.add_module(field(0), field(8), line);
    }
}

fn parse_memory_map(memory: &impl PhysicalMemory, table: u64, count: u32, info: &mut BootInfo) {
    let kept = count.min(MAX_MEMORY_ENTRIES as u32);
    info.ignored += count - kept;
    for index in 0..u64::from(kept) {
        let Some(entry) = table.checked_add(index * MEMORY_SIZE).and_then(|at| memory.bytes(at, MEMORY_SIZE)) else {
            info.ignored += 1;
            continue;
        };
        let field = |offset| u64_at(entry, offset).unwrap_or(0);
        let kind = MemoryKind::from_e820(u32_at(entry, 16).unwrap_or(0));
        info.add_memory(field(0), field(8), kind);
    }
}

#[cfg(test)]
mod tests {
    use super::super::info::fake::FakeMemory;
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const BASE: u64 = 0x1000;

    fn put(data: &mut [u8], offset: usize, bytes: &[u8]) {
        data[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// A start info with one module, two memory entries and both texts.
    fn good() -> Vec<u8> {
        let mut data = vec![0u8; 0x400];
        put(&mut data, 0, &START_MAGIC.to_le_bytes());
        put(&mut data, 4, &1u32.to_le_bytes());
        put(&mut data, NR_MODULES, &1u32.to_le_bytes());
        put(&mut data, MODLIST_PADDR, &(BASE + 0x100).to_le_bytes());
        put(&mut data, CMDLINE_PADDR, &(BASE + 0x200).to_le_bytes());
        put(&mut data, RSDP_PADDR, &0xe_0000u64.to_le_bytes());
        put(&mut data, MEMMAP_PADDR, &(BASE + 0x140).to_le_bytes());
        put(&mut data, MEMMAP_ENTRIES, &2u32.to_le_bytes());
        put(&mut data, 0x100, &0x40_0000u64.to_le_bytes());
        put(&mut data, 0x108, &0x123u64.to_le_bytes());
        put(&mut data, 0x110, &(BASE + 0x220).to_le_bytes());
        put(&mut data, 0x148, &0x9_fc00u64.to_le_bytes());
        put(&mut data, 0x150, &1u32.to_le_bytes());
        put(&mut data, 0x158, &0x10_0000u64.to_le_bytes());
        put(&mut data, 0x160, &0x700_0000u64.to_le_bytes());
        put(&mut data, 0x168, &2u32.to_le_bytes());
        put(&mut data, 0x200, b"debug-exit=0xf4\0");
        put(&mut data, 0x220, b"name=a\0");
        data
    }

    #[test]
    fn reads_everything() {
        let info = parse(&FakeMemory { base: BASE, data: good() }, BASE).unwrap();
        assert_eq!(info.command_line.as_str(), "debug-exit=0xf4");
        assert_eq!(info.rsdp, 0xe_0000);
        assert_eq!(info.modules.len(), 1);
        assert_eq!((info.modules[0].start, info.modules[0].size), (0x40_0000, 0x123));
        assert_eq!(info.modules[0].line.as_str(), "name=a");
        assert_eq!(info.memory.len(), 2);
        assert_eq!(info.memory[0].kind, MemoryKind::Ram);
        assert_eq!(info.memory[1].kind, MemoryKind::Reserved);
        assert_eq!(info.ignored, 0);
    }

    #[test]
    fn wrong_magic_and_version_0_are_refused() {
        let mut data = good();
        data[0] ^= 1;
        assert_eq!(parse(&FakeMemory { base: BASE, data }, BASE).unwrap_err(), BootError::BadStructure);
        let mut data = good();
        data[4] = 0;
        assert_eq!(parse(&FakeMemory { base: BASE, data }, BASE).unwrap_err(), BootError::NoMemoryMap);
    }

    #[test]
    fn any_corrupt_byte_is_survived() {
        for position in 0..0x180 {
            for value in [0u8, 0x7f, 0xff] {
                let mut data = good();
                data[position] = value;
                // The result may be an error or have entries left out; it must not panic.
                let _ = parse(&FakeMemory { base: BASE, data }, BASE);
            }
        }
    }

    #[test]
    fn truncation_anywhere_is_survived() {
        let full = good();
        for length in 0..full.len() {
            let data = full[..length].to_vec();
            let _ = parse(&FakeMemory { base: BASE, data }, BASE);
        }
    }
}
