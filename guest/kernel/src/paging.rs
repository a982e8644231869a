//! The kernel's page tables: RAM mapped at its physical address by 2 MiB pages, the image with the rights of its
//! sections, ACPI tables read-only, device pages uncached, everything else absent.
//!
//! Page 0 and the guard pages below stacks are absent. A 2 MiB page is split where something finer is needed.
//! Rights other than the first mapping's come to other vCPUs only as their TLBs forget: nothing here takes rights away
//! after start, except from guard pages and from tests' own pages.
#![allow(unsafe_code)] // Page tables.

use crate::cpu;
use crate::lock::IrqLock;
use crate::page::{self, Layout};
use crate::start_info::StartInfo;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU32, Ordering};
use ebb_guest_logic::ranges::Range;
use shared_abi::hvm::start_info::{MEMMAP_TYPE_ACPI, MEMMAP_TYPE_NVS};
use shared_abi::xen::PAGE_SIZE;

/// Entry bits.
const PRESENT: u64 = 1 << 0;
/// Entry bit: writable.
pub const WRITE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_OFF: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
/// Entry bit: no code runs from here.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Entry bits: device memory.
pub const DEVICE: u64 = WRITE | WRITE_THROUGH | CACHE_OFF | NO_EXECUTE;

const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
const SIZE_2M: u64 = 1 << 21;

/// The page-table root for other vCPUs to start with; below 4 GiB. Read by `boot.s`.
pub static AP_ROOT: AtomicU32 = AtomicU32::new(0);

struct Tables {
    root: u64,
    no_execute: bool,
}

static TABLES: IrqLock<Tables> = IrqLock::new(Tables { root: 0, no_execute: false });

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __image_end: u8;
    static boot_stack_guard: u8;
}

/// An empty table's page.
fn new_table() -> Result<u64, &'static str> {
    page::take_zeroed().ok_or("no memory for page tables")
}

fn table(page: u64) -> &'static mut [u64; 512] {
    // SAFETY: table pages are taken from the allocator, mapped, and touched under the lock only.
    unsafe { page::words(page) }
}

impl Tables {
    /// The table below `entry`, made if absent, split if a large page.
    fn descend(entry: &mut u64) -> Result<u64, &'static str> {
        if *entry & PRESENT == 0 {
            *entry = new_table()? * PAGE_SIZE + (PRESENT | WRITE);
        } else if *entry & LARGE != 0 {
            let page = new_table()?;
            let (base, bits) = (*entry & ADDRESS, *entry & !ADDRESS & !LARGE);
            for (index, part) in table(page).iter_mut().enumerate() {
                *part = (base + index as u64 * PAGE_SIZE) | bits;
            }
            *entry = page * PAGE_SIZE + (PRESENT | WRITE);
        }
        Ok((*entry & ADDRESS) / PAGE_SIZE)
    }

    /// The entry for `address` at the 2 MiB or 4 KiB level.
    fn entry(&mut self, address: u64, large: bool) -> Result<&'static mut u64, &'static str> {
        let index = |shift: u32| (address >> shift & 511) as usize;
        let pointers = Self::descend(&mut table(self.root)[index(39)])?;
        let directory = Self::descend(&mut table(pointers)[index(30)])?;
        let entry = &mut table(directory)[index(21)];
        if large {
            return Ok(entry);
        }
        let pages = Self::descend(entry)?;
        Ok(&mut table(pages)[index(12)])
    }

    fn map(&mut self, virt: u64, phys: u64, bytes: u64, rights: u64) -> Result<(), &'static str> {
        let rights = if self.no_execute { rights } else { rights & !NO_EXECUTE };
        let mut done = 0;
        while done < bytes {
            let (from, to) = (virt + done, phys + done);
            let large = from % SIZE_2M == 0 && to % SIZE_2M == 0 && bytes - done >= SIZE_2M;
            *self.entry(from, large)? = to | rights | PRESENT | if large { LARGE } else { 0 };
            cpu::invlpg(from);
            done += if large { SIZE_2M } else { PAGE_SIZE };
        }
        Ok(())
    }

    fn map_pages(&mut self, range: Range, rights: u64) -> Result<(), &'static str> {
        self.map(range.start * PAGE_SIZE, range.start * PAGE_SIZE, range.len() * PAGE_SIZE, rights)
    }
}

/// Builds the tables and switches to them.
pub fn init(info: &StartInfo, layout: &Layout) -> Result<(), &'static str> {
    let mut tables = TABLES.lock();
    tables.no_execute = __cpuid(0x8000_0001).edx & 1 << 20 != 0;
    tables.root = new_table()?;
    for range in layout.ram.iter() {
        let from = range.start.max(1);
        tables.map_pages(Range { start: from, ..range }, WRITE | NO_EXECUTE)?;
    }
    tables.map_pages(layout.growth, WRITE | NO_EXECUTE)?;
    for entry in &info.memory_map {
        if matches!(entry.kind, MEMMAP_TYPE_ACPI | MEMMAP_TYPE_NVS) {
            tables.map_pages(entry.pages_touched(), NO_EXECUTE)?;
        }
    }
    let section = |start: *const u8, end: *const u8| Range {
        start: start.addr() as u64 / PAGE_SIZE,
        end: end.addr() as u64 / PAGE_SIZE,
    };
    tables.map_pages(section(&raw const __text_start, &raw const __text_end), 0)?;
    tables.map_pages(section(&raw const __rodata_start, &raw const __rodata_end), NO_EXECUTE)?;
    tables.map_pages(section(&raw const __data_start, &raw const __image_end), WRITE | NO_EXECUTE)?;
    if let Some(page) = layout.trampoline {
        tables.map_pages(Range { start: page, end: page + 1 }, WRITE)?;
    }
    *tables.entry((&raw const boot_stack_guard).addr() as u64, false)? = 0;
    let root = tables.root * PAGE_SIZE;
    AP_ROOT.store(u32::try_from(root).map_err(|_| "the page-table root is above 4 GiB")?, Ordering::Release);
    // SAFETY: the new tables map the image, the stack and everything the kernel holds at the same addresses as before.
    unsafe { cpu::set_cr3(root) };
    Ok(())
}

/// The root's physical address.
pub fn root() -> u64 {
    TABLES.lock().root * PAGE_SIZE
}

/// Maps `bytes` (whole pages) at `virt` to `phys`.
///
/// # Safety
/// Nothing of the kernel's is mapped at `virt`, and what appears there is used as it allows.
pub unsafe fn map(virt: u64, phys: u64, bytes: u64, rights: u64) -> Result<(), &'static str> {
    TABLES.lock().map(virt, phys, bytes, rights)
}

/// Makes one page absent.
///
/// # Safety
/// Nobody uses the page through this address until it is mapped again.
pub unsafe fn unmap_page(virt: u64) -> Result<(), &'static str> {
    let mut tables = TABLES.lock();
    *tables.entry(virt, false)? = 0;
    cpu::invlpg(virt);
    Ok(())
}

/// Maps the page of an ACPI table or other firmware data read-only, if it is not RAM that is mapped already.
pub fn map_firmware(start: u64, bytes: u64) -> Result<(), &'static str> {
    let mut tables = TABLES.lock();
    let pages = Range { start: start / PAGE_SIZE, end: (start + bytes).div_ceil(PAGE_SIZE) };
    for page in pages.start..pages.end {
        if !page::layout().ram.contains(page) {
            tables.map_pages(Range { start: page, end: page + 1 }, NO_EXECUTE)?;
        }
    }
    Ok(())
}
