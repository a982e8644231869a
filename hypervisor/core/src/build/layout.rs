//! Where everything goes in a new domain's physical address space, computed and checked before any frame is taken.
//!
//! RAM begins at 0 and continues at 4 GiB when it reaches [`HOLE_START`]. The 384 KiB below 1 MiB are backed, but
//! reserved as on a PC; the ACPI root pointer is there. In the hole: the ACPI tables' page, the pages for XenStore and
//! console, the local APIC. After the kernel come the ramdisk and the start-of-day pages (start info, memory map, module
//! list, command line), which Linux must reach through its first, small page tables.

use alloc::vec::Vec;

use shared_abi::memory::{E820_ACPI, E820_RAM, E820_RESERVED};

use super::image::Image;
use crate::domain::{DomainConfig, MAX_VCPUS};
use crate::p2m::GFN_LIMIT;

/// First address of the hole below 4 GiB.
pub const HOLE_START: u64 = 0xc000_0000;
/// The end of the hole.
pub const HOLE_END: u64 = 1 << 32;
/// The page of the ACPI tables.
pub const ACPI_PAGE: u64 = 0xfc00_0000;
/// Where the ACPI root pointer is: the last place at which a kernel that searches for it looks, for some do not look at
/// `rsdp_paddr` (Linux 4.15); Xen's tools put it there for them.
pub const RSDP_ADDRESS: u64 = HIGH_RAM_START - 64;
/// Reserved for pages that are neither RAM nor devices: XenStore, console.
pub const SPECIAL_START: u64 = 0xfeff_8000;
/// End of those.
pub const SPECIAL_END: u64 = 0xff00_0000;
const LOW_RAM_END: u64 = 0xa_0000;
const HIGH_RAM_START: u64 = 0x10_0000;
/// What Linux's first page tables map.
const EARLY_LIMIT: u64 = 1 << 30;
const PAGE: u64 = 4096;

/// Type `E820_*` of an address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Type.
    pub kind: u32,
}

/// The plan.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Runs of RAM: first address and size.
    pub ram: Vec<(u64, u64)>,
    /// The memory map shown to the guest.
    pub map: Vec<MapEntry>,
    /// Where the ramdisk goes.
    pub ramdisk: u64,
    /// Where the start-of-day pages go.
    pub start_info: u64,
}

/// Longest command line (bytes). No kernel takes more.
const MAX_ARGUMENTS: usize = 1 << 16;

/// Checks what does not depend on the files.
///
/// # Errors
/// Which field is wrong, for people.
pub fn check(config: &DomainConfig) -> Result<(), &'static str> {
    let whole_pages = (config.memory | config.max_memory).is_multiple_of(PAGE);
    if !whole_pages {
        return Err("memory: memory= and maxmem= must be whole pages");
    }
    if config.memory <= HIGH_RAM_START {
        return Err("memory: a domain needs more than 1 MiB");
    }
    if config.memory > GFN_LIMIT * PAGE - HOLE_END {
        return Err("memory: more than a domain can address");
    }
    if config.max_memory < config.memory {
        return Err("maxmem: less than memory=");
    }
    if config.vcpus == 0 || config.vcpus as usize > MAX_VCPUS {
        return Err("vcpus: from 1 to 64");
    }
    if config.arguments.len() > MAX_ARGUMENTS || config.arguments.contains('\0') {
        return Err("arguments: too long, or with a zero byte in them");
    }
    Ok(())
}

/// Plans a domain whose configuration has been checked.
///
/// # Errors
/// What does not fit, for people.
pub fn plan(config: &DomainConfig, image: &Image<'_>, start_of_day: u64) -> Result<Layout, &'static str> {
    let memory = config.memory;
    let below = memory.min(HOLE_START);
    let mut ram = alloc::vec![(0, below)];
    if memory > below {
        ram.push((HOLE_END, memory - below));
    }
    for segment in &image.segments {
        let (start, end) = (segment.address, segment.address + segment.size);
        if end > below {
            return Err("kernel: does not fit into memory=");
        }
        if start < HIGH_RAM_START && end > LOW_RAM_END {
            return Err("kernel: a segment lies in the reserved range from 640 KiB to 1 MiB");
        }
    }
    let after_kernel = image.end().max(HIGH_RAM_START).next_multiple_of(PAGE);
    let ramdisk_size = config.ramdisk.map_or(0, |bytes| bytes.len() as u64);
    let start_info = after_kernel + ramdisk_size.next_multiple_of(PAGE);
    let end = start_info + start_of_day.next_multiple_of(PAGE);
    if end > below {
        return Err(if ramdisk_size > 0 {
            "ramdisk: does not fit into memory= behind the kernel"
        } else {
            "memory: too small for the kernel and its start info"
        });
    }
    if end > EARLY_LIMIT {
        return Err(if ramdisk_size > 0 {
            "ramdisk: kernel and ramdisk together must end below 1 GiB"
        } else {
            "kernel: it and its start info must end below 1 GiB"
        });
    }
    Ok(Layout { map: map(&ram), ram, ramdisk: after_kernel, start_info })
}

fn map(ram: &[(u64, u64)]) -> Vec<MapEntry> {
    let below = ram[0].1;
    let entry = |start, end: u64, kind| MapEntry { start, size: end - start, kind };
    let mut map = alloc::vec![
        entry(0, LOW_RAM_END, E820_RAM),
        entry(LOW_RAM_END, HIGH_RAM_START, E820_RESERVED),
        entry(HIGH_RAM_START, below, E820_RAM),
        entry(ACPI_PAGE, ACPI_PAGE + PAGE, E820_ACPI),
        entry(SPECIAL_START, SPECIAL_END, E820_RESERVED),
    ];
    if let Some(&(start, size)) = ram.get(1) {
        map.push(entry(start, start + size, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::image::elf64;
    use crate::domain::OnReboot;

    fn config(memory: u64, ramdisk: Option<&'static [u8]>) -> DomainConfig {
        DomainConfig {
            name: "test".into(),
            memory,
            max_memory: memory,
            vcpus: 1,
            weight: 256,
            cap: 0,
            tmem: Default::default(),
            privileged: false,
            on_reboot: OnReboot::Destroy,
            arguments: "".into(),
            kernel: b"",
            ramdisk,
        }
    }

    #[test]
    fn memory_goes_around_the_hole() {
        let file = elf64(0x100_0000, b"code", 0x3000, 0x100_0000);
        let image = Image::parse(&file).unwrap();
        let small = plan(&config(64 << 20, None), &image, 0x1000).unwrap();
        assert_eq!(small.ram, [(0, 64 << 20)]);
        assert_eq!(small.start_info, 0x100_3000);
        let large = plan(&config(5 << 30, None), &image, 0x1000).unwrap();
        assert_eq!(large.ram, [(0, HOLE_START), (HOLE_END, 2 << 30)]);
        let usable: u64 = large.map.iter().filter(|entry| entry.kind == E820_RAM).map(|entry| entry.size).sum();
        assert_eq!(usable, (5 << 30) - (HIGH_RAM_START - LOW_RAM_END));
        assert!(large.map.windows(2).all(|pair| pair[0].start + pair[0].size <= pair[1].start));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let file = elf64(0x100_0000, b"code", 0x3000, 0x100_0000);
        let image = Image::parse(&file).unwrap();
        assert!(plan(&config(8 << 20, None), &image, 0x1000).unwrap_err().contains("kernel"));
        let ramdisk: &'static [u8] = &[0; 2 << 20];
        assert!(plan(&config(17 << 20, Some(ramdisk)), &image, 0x1000).unwrap_err().contains("ramdisk"));
        let low = elf64(0x9_f000, b"code", 0x3000, 0x9_f000);
        let low = Image::parse(&low).unwrap();
        assert!(plan(&config(64 << 20, None), &low, 0x1000).unwrap_err().contains("640 KiB"));
    }
}
