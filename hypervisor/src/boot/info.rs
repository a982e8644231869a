//! What a loader told us, in a form that no longer depends on the boot protocol.
//!
//! Fixed capacity and no allocation: this is filled before there is a heap. What does not fit, or makes no sense, is
//! left out and counted in [`BootInfo::ignored`]; a loader's mistake never stops the boot by itself.

use arrayvec::{ArrayString, ArrayVec};
use shared_abi::memory::{E820_ACPI, E820_NVS, E820_RAM, E820_RESERVED};

/// Modules beyond this number are ignored.
pub const MAX_MODULES: usize = 32;
/// Entries of the memory map beyond this number are ignored.
pub const MAX_MEMORY_ENTRIES: usize = 256;
/// Bytes of the hypervisor's command line that are kept.
pub const MAX_COMMAND_LINE: usize = 2048;
/// Bytes of a module's line that are kept.
pub const MAX_MODULE_LINE: usize = 512;

/// What a range of physical memory may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Free for use.
    Ram,
    /// ACPI tables; RAM once they have been read.
    AcpiReclaimable,
    /// Firmware's own, to be preserved.
    AcpiNvs,
    /// Anything else: not to be touched.
    Reserved,
}

impl MemoryKind {
    /// From the type number that E820, PVH and multiboot2 share.
    pub fn from_e820(number: u32) -> Self {
        match number {
            E820_RAM => Self::Ram,
            E820_ACPI => Self::AcpiReclaimable,
            E820_NVS => Self::AcpiNvs,
            _ => Self::Reserved,
        }
    }

    /// The type number.
    pub fn to_e820(self) -> u32 {
        match self {
            Self::Ram => E820_RAM,
            Self::AcpiReclaimable => E820_ACPI,
            Self::AcpiNvs => E820_NVS,
            Self::Reserved => E820_RESERVED,
        }
    }
}

/// One entry of the memory map, in bytes; `start + size` does not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEntry {
    /// First physical address.
    pub start: u64,
    /// Length in bytes, not zero.
    pub size: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// A file that the loader put into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// First physical address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// The text that came with it (may be empty).
    pub line: ArrayString<MAX_MODULE_LINE>,
}

/// A display the loader left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// 80 × 25 text cells at the physical address (normally 0xb8000).
    Text {
        /// Physical address of the first cell.
        address: u64,
    },
    /// Pixels of 24 or 32 bits.
    Pixels {
        /// Physical address of the first pixel.
        address: u64,
        /// Bytes from one line to the next.
        pitch: u32,
        /// Pixels in a line.
        width: u32,
        /// Lines.
        height: u32,
        /// Bytes in a pixel: 3 or 4.
        pixel_bytes: u8,
    },
}

/// The boot protocol, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Xen's PVH boot ABI.
    Pvh,
    /// Multiboot2.
    Multiboot2,
}

impl Protocol {
    /// Its name as printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pvh => "PVH",
            Self::Multiboot2 => "multiboot2",
        }
    }
}

/// Everything a loader said.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// Who said it.
    pub protocol: Protocol,
    /// The memory map, in the loader's order, possibly overlapping.
    pub memory: ArrayVec<MemoryEntry, MAX_MEMORY_ENTRIES>,
    /// The modules in order.
    pub modules: ArrayVec<Module, MAX_MODULES>,
    /// The hypervisor's command line.
    pub command_line: ArrayString<MAX_COMMAND_LINE>,
    /// Physical address of ACPI's root pointer, 0 if not given.
    pub rsdp: u64,
    /// A display, if the loader described one.
    pub display: Option<Display>,
    /// Physical range (start, size) of the loader's own structure when it must outlive the boot.
    pub keep: Option<(u64, u64)>,
    /// How many things were malformed or did not fit.
    pub ignored: u32,
}

impl BootInfo {
    /// Nothing known yet.
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            memory: ArrayVec::new(),
            modules: ArrayVec::new(),
            command_line: ArrayString::new(),
            rsdp: 0,
            display: None,
            keep: None,
            ignored: 0,
        }
    }

    /// Adds an entry of the memory map.
    pub fn add_memory(&mut self, start: u64, size: u64, kind: MemoryKind) {
        if size == 0 {
            return;
        }
        // A range that wraps is cut at the end of the address space.
        let size = size.min(u64::MAX - start);
        if size == 0 || self.memory.try_push(MemoryEntry { start, size, kind }).is_err() {
            self.ignored += 1;
        }
    }

    /// Adds a module whose line is `line` up to its first NUL.
    pub fn add_module(&mut self, start: u64, size: u64, line: &[u8]) {
        if start.checked_add(size).is_none() || start == 0 {
            self.ignored += 1;
            return;
        }
        let mut module = Module { start, size, line: ArrayString::new() };
        self.ignored += append_text(&mut module.line, line);
        if self.modules.try_push(module).is_err() {
            self.ignored += 1;
        }
    }

    /// Sets the command line: `text` up to its first NUL.
    pub fn set_command_line(&mut self, text: &[u8]) {
        self.command_line.clear();
        self.ignored += append_text(&mut self.command_line, text);
    }
}

/// Why a loader's structure could not be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The register that carries the protocol's magic number has another value.
    UnknownProtocol(u32),
    /// The structure, or its header, is outside memory or has no sense.
    BadStructure,
    /// It describes no memory.
    NoMemoryMap,
}

impl BootError {
    /// One line for a person.
    pub fn text(self) -> &'static str {
        match self {
            Self::UnknownProtocol(_) => "started by an unknown boot protocol",
            Self::BadStructure => "the loader's boot information is malformed",
            Self::NoMemoryMap => "the loader gave no memory map",
        }
    }
}

/// Physical memory as the parsers see it; a fake one in tests.
pub trait PhysicalMemory {
    /// The bytes at `address`, or nothing when any of them cannot be read.
    fn bytes(&self, address: u64, size: u64) -> Option<&[u8]>;

    /// A NUL-terminated text of at most `limit` bytes, without the NUL.
    fn text(&self, address: u64, limit: u64) -> Option<&[u8]> {
        if address == 0 {
            return None;
        }
        let bytes = self.bytes(address, limit)?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Some(&bytes[..end])
    }
}

/// The little-endian 32-bit number at `offset`.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

/// The little-endian 64-bit number at `offset`.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// Appends printable ASCII of `bytes` up to a NUL, other bytes as `?`; returns 1 when it did not fit.
fn append_text<const N: usize>(text: &mut ArrayString<N>, bytes: &[u8]) -> u32 {
    for &byte in bytes.iter().take_while(|&&byte| byte != 0) {
        let character = match byte {
            b'\t' | b'\n' | b'\r' => ' ',
            0x20..=0x7e => char::from(byte),
            _ => '?',
        };
        if text.try_push(character).is_err() {
            return 1;
        }
    }
    0
}

#[cfg(test)]
pub(crate) mod fake {
    //! Physical memory for the parsers' tests.

    use super::PhysicalMemory;
    use std::vec::Vec;

    /// One piece of memory at `base`.
    pub struct FakeMemory {
        pub base: u64,
        pub data: Vec<u8>,
    }

    impl PhysicalMemory for FakeMemory {
        fn bytes(&self, address: u64, size: u64) -> Option<&[u8]> {
            let start = usize::try_from(address.checked_sub(self.base)?).ok()?;
            let end = start.checked_add(usize::try_from(size).ok()?)?;
            self.data.get(start..end)
        }

        fn text(&self, address: u64, limit: u64) -> Option<&[u8]> {
            let end = self.base + self.data.len() as u64;
            let bytes = self.bytes(address, limit.min(end.checked_sub(address)?))?;
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            Some(&bytes[..end])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cleaned_and_cut() {
        let mut info = BootInfo::new(Protocol::Pvh);
        info.set_command_line(b"a\tb\x80c\0rest");
        assert_eq!(info.command_line.as_str(), "a b?c");
        assert_eq!(info.ignored, 0);
        info.set_command_line(&[b'x'; MAX_COMMAND_LINE + 1]);
        assert_eq!(info.command_line.len(), MAX_COMMAND_LINE);
        assert_eq!(info.ignored, 1);
    }

    #[test]
    fn wrapping_ranges_are_cut_or_ignored() {
        let mut info = BootInfo::new(Protocol::Pvh);
        info.add_memory(u64::MAX - 0xfff, 0x2000, MemoryKind::Ram);
        assert_eq!(info.memory[0].size, 0xfff);
        info.add_module(u64::MAX, 2, b"");
        assert!(info.modules.is_empty());
        assert_eq!(info.ignored, 1);
    }
}
