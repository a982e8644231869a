//! The kernel's physical memory: the frame allocator under a lock, and access to pages through the identity map.
//!
//! Pages are handed out as bare numbers; whoever holds a number alone may use the page.
#![allow(unsafe_code)] // Physical addresses become references here.

use crate::lock::IrqLock;
use crate::start_info::{self, StartInfo};
use ebb_guest_logic::frames::{BLOCK_PAGES, Block, Frames};
use ebb_guest_logic::pattern::WORDS;
use ebb_guest_logic::ranges::{Range, Ranges};
use shared_abi::hvm::start_info::MEMMAP_TYPE_RAM;
use shared_abi::xen::PAGE_SIZE;
use spin::Once;

static FRAMES: IrqLock<Option<Frames<'static>>> = IrqLock::new(None);
static LAYOUT: Once<Layout> = Once::new();

/// Pages from here on are not in the early identity map.
const EARLY_END: u64 = 1 << 20;

/// A maximum from here on (64 GiB) is no promise of memory.
const NO_LIMIT: u64 = 1 << 24;

/// Ranges of RAM.
pub type RamRanges = Ranges<80>;

/// Where things are, fixed at start.
#[derive(Debug)]
pub struct Layout {
    /// RAM by the memory map, pages.
    pub ram: RamRanges,
    /// RAM that the allocator was given at start, pages.
    pub managed: RamRanges,
    /// A page below 1 MiB for the real-mode trampoline, if there is one.
    pub trampoline: Option<u64>,
    /// Pages the domain may come to have beyond its memory map: they start absent. Empty for most domains.
    pub growth: Range,
    /// Pages the allocator can describe end here.
    pub end: u64,
}

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

/// The kernel's image, pages.
pub fn image() -> Range {
    Range {
        start: (&raw const __image_start).addr() as u64 / PAGE_SIZE,
        end: ((&raw const __image_end).addr() as u64).div_ceil(PAGE_SIZE),
    }
}

/// What was found at start.
pub fn layout() -> &'static Layout {
    LAYOUT.get().expect("memory is set up first")
}

/// Sorts out the memory and opens the allocator. `room` is how many pages the domain may get beyond those it has.
///
/// Runs while the early identity map (4 GiB) is in place: the allocator's records lie below.
pub fn init(info: &StartInfo, room: u64) -> Result<(), &'static str> {
    let mut ram = RamRanges::new();
    for entry in info.memory_map.iter().filter(|entry| entry.kind == MEMMAP_TYPE_RAM) {
        ram.insert(entry.pages_inside());
    }
    for entry in info.memory_map.iter().filter(|entry| entry.kind != MEMMAP_TYPE_RAM) {
        ram.remove(entry.pages_touched());
    }
    let mut managed = ram.clone();
    // The first MiB is left alone, but for the trampoline; page 0 stays unmapped to catch null pointers.
    managed.remove(Range { start: 0, end: 256 });
    managed.remove(image());
    for module in &info.modules {
        managed.remove(module.pages_touched());
    }
    let growth = growth(info, &ram, room);
    let end = ram.end().max(growth.end).next_multiple_of(BLOCK_PAGES);
    let blocks = place_records(&mut managed, end / BLOCK_PAGES)?;
    let mut frames = Frames::new(blocks);
    for range in managed.iter() {
        // What the early map does not reach comes with `open_high`.
        frames.give_range(range.start, range.end.min(EARLY_END)).map_err(|_| "the memory map overlaps itself")?;
    }
    *FRAMES.lock() = Some(frames);
    let trampoline = (1..0x9f).rev().find(|page| ram.contains(*page));
    LAYOUT.call_once(|| Layout { ram, managed, trampoline, growth, end });
    Ok(())
}

/// Hands the allocator the memory above 4 GiB, once it is mapped.
pub fn open_high() {
    for range in layout().managed.iter().filter(|range| range.end > EARLY_END) {
        let given = with(|frames| frames.give_range(range.start.max(EARLY_END), range.end));
        assert!(given.is_ok(), "the memory map overlaps itself");
    }
}

/// Address space for the memory that the domain may get beyond its memory map: above all of it, 2 MiB aligned.
fn growth(info: &StartInfo, ram: &RamRanges, room: u64) -> Range {
    let top = info.memory_map.iter().map(|entry| entry.pages_touched().end).max().unwrap_or(0);
    let below_devices = ram.end().next_multiple_of(BLOCK_PAGES);
    // Right above RAM when nothing of the map lies there, otherwise above everything.
    // Xen gives its first domain no limit worth the name.
    let wanted = if room >= NO_LIMIT { 0 } else { room };
    if wanted == 0 {
        return Range { start: 0, end: 0 };
    }
    let free = !info.memory_map.iter().any(|entry| {
        let pages = entry.pages_touched();
        pages.end > below_devices && pages.start < below_devices + wanted
    });
    let start = if free && below_devices + wanted <= 0xf_0000 {
        below_devices
    } else {
        top.max(1 << 20).next_multiple_of(BLOCK_PAGES)
    };
    Range { start, end: start + wanted }
}

/// Takes room for `count` block records out of the usable memory, below 4 GiB.
fn place_records(managed: &mut RamRanges, count: u64) -> Result<&'static mut [Block], &'static str> {
    let pages = (count * size_of::<Block>() as u64).div_ceil(PAGE_SIZE);
    let place = managed
        .iter()
        .find(|range| range.len() >= pages && range.start + pages <= EARLY_END)
        .ok_or("no memory for the allocator's records")?;
    managed.remove(Range { start: place.start, end: place.start + pages });
    let first: *mut Block = core::ptr::with_exposed_provenance_mut((place.start * PAGE_SIZE) as usize);
    // SAFETY: the pages are RAM, mapped, and now removed from what is managed, so they are this slice's alone. The
    // records are written before the slice is made.
    unsafe {
        for index in 0..count as usize {
            first.add(index).write(Block::EMPTY);
        }
        Ok(core::slice::from_raw_parts_mut(first, count as usize))
    }
}

/// Runs `work` on the allocator.
fn with<R>(work: impl FnOnce(&mut Frames<'static>) -> R) -> R {
    work(FRAMES.lock().as_mut().expect("memory is set up first"))
}

/// Takes `1 << order` pages (order at most 9), aligned to their size. Their contents are anything.
pub fn take(order: u32) -> Option<u64> {
    with(|frames| frames.take(order))
}

/// As [`take`], but leaves at least `reserve` pages free.
pub fn take_sparing(order: u32, reserve: u64) -> Option<u64> {
    with(|frames| (frames.free_pages() >= reserve + (1 << order)).then(|| frames.take(order)).flatten())
}

/// Takes exactly these pages if all are free.
pub fn take_at(page: u64, order: u32) -> bool {
    with(|frames| frames.take_at(page, order))
}

/// Gives pages back. A page that is free already, or never was the allocator's, is the kernel's bug.
pub fn give(page: u64, order: u32) {
    #[cfg(debug_assertions)]
    crate::mutex::memory_ends(page, order);
    if let Err(bad) = with(|frames| frames.give(page, order)) {
        panic!("page {:#x} freed twice, or never taken", bad.0);
    }
}

/// Free pages.
pub fn free_pages() -> u64 {
    with(|frames| frames.free_pages())
}

/// Free 2 MiB extents.
pub fn free_extents() -> u64 {
    with(|frames| frames.free_extents())
}

/// A zeroed page of the kernel's own, for ever.
pub fn take_zeroed() -> Option<u64> {
    let page = take(0)?;
    // SAFETY: the page was just taken, so nobody else uses it.
    unsafe { words(page) }.fill(0);
    Some(page)
}

/// A page's contents.
///
/// # Safety
/// The caller holds the page (from [`take`]), makes one reference to it at a time, and the page is backed.
pub unsafe fn words(page: u64) -> &'static mut [u64; WORDS] {
    // SAFETY: RAM is identity mapped and writable; exclusive by the contract.
    unsafe { &mut *core::ptr::with_exposed_provenance_mut((page * PAGE_SIZE) as usize) }
}

/// Pages that are RAM for the kernel at start, without looking at the balloon.
pub fn ram_pages() -> u64 {
    start_info::get()
        .memory_map
        .iter()
        .filter(|entry| entry.kind == MEMMAP_TYPE_RAM)
        .map(|entry| entry.pages_inside().len())
        .sum()
}
