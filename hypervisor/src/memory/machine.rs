//! The part of memory management that touches the machine; see the module above for the rules.
#![allow(unsafe_code, reason = "physical memory, and the switch to the final page tables")]

use super::heap;
use super::layout::{
    BOOT_MAPPED, DIRECT_MAP_BASE, DIRECT_MAP_SIZE, FRAME_TABLE_BASE, IMAGE_BASE, LOW_MEMORY_END, MMIO_BASE,
    STACKS_BASE, STACKS_STRIDE,
};
use super::paging::{Access, MapError, PageTables};
use super::ranges::{Full, PAGE_SIZE, PhysRange, RangeSet};
use crate::boot::info::{BootInfo, MemoryKind};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// Ranges that any of the sets can hold.
pub const MAX_RANGES: usize = 256;

/// The least RAM with which Ebb starts.
pub const MIN_RAM: u64 = 32 << 20;

/// Frames kept back for page tables that [`map_mmio`] may need after [`seal`].
const TABLE_RESERVE: usize = 16;

/// The heap's size at first: a fixed part, and a part per byte of RAM for what the core keeps per region of memory. It
/// grows out of the frame heap when domains want more (heap.rs).
const HEAP_FIXED: u64 = 512 << 10;
const HEAP_SHARE: u64 = 4096;

/// Bytes that a leaf of the second level maps.
const LARGE_PAGE: u64 = 2 << 20;

/// Why memory could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// Less than [`MIN_RAM`].
    TooLittle {
        /// Bytes of RAM found.
        found: u64,
    },
    /// The loader's map has more pieces than [`MAX_RANGES`].
    TooManyRanges,
    /// The address space could not be built.
    Map(MapError),
}

impl From<Full> for MemoryError {
    fn from(_: Full) -> Self {
        Self::TooManyRanges
    }
}

impl From<MapError> for MemoryError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

/// Figures for the banner and the ledger, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryFigures {
    /// RAM in the loader's map, after `memory-limit`.
    pub ram: u64,
    /// Of it, what is free for the core.
    pub free: u64,
    /// The heap.
    pub heap: u64,
    /// Image, heap, tables, stacks: what Ebb itself takes.
    pub hypervisor: u64,
}

struct State {
    free: RangeSet<MAX_RANGES>,
    /// What the direct map covers.
    direct: RangeSet<MAX_RANGES>,
    /// Where device memory has been mapped already.
    mmio: RangeSet<32>,
    /// With root 0 until the final tables are active, which also keeps this static out of the image's file.
    tables: PageTables,
    reserve: ArrayVec<u64, TABLE_RESERVE>,
    trampoline: u64,
    sealed: bool,
    ram: u64,
    heap: u64,
    own: u64,
}

static STATE: Mutex<State> = Mutex::new(State {
    free: RangeSet::new(),
    direct: RangeSet::new(),
    mmio: RangeSet::new(),
    tables: PageTables::new(0, false),
    reserve: ArrayVec::new_const(),
    trampoline: 0,
    sealed: false,
    ram: 0,
    heap: 0,
    own: 0,
});

/// The root of the final page tables, for processors to come.
static ROOT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static image_phys_start: u8;
    static image_phys_end: u8;
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static data_start: u8;
    static data_end: u8;
    static boot_pml4: u8;
    static boot_stack: u8;
    static boot_stack_top: u8;
}

/// Address of a linker symbol.
macro_rules! symbol {
    ($name:ident) => {
        core::ptr::addr_of!($name) as u64
    };
}

/// The address at which the hypervisor sees physical `address`. Valid for RAM and ACPI memory, see [`is_mapped`].
#[inline(always)]
pub fn phys_to_virt(address: u64) -> *mut u8 {
    (DIRECT_MAP_BASE + address) as *mut u8
}

/// The physical address of an object in the direct map (heap, frames) or in the image. Not for stacks.
///
/// # Panics
/// For any other address.
pub fn virt_to_phys<T: ?Sized>(pointer: *const T) -> u64 {
    let address = pointer.cast::<u8>() as u64;
    if address >= IMAGE_BASE {
        address - IMAGE_BASE
    } else {
        assert!((DIRECT_MAP_BASE..MMIO_BASE).contains(&address), "{address:#x} has no fixed physical address");
        address - DIRECT_MAP_BASE
    }
}

/// True when the direct map covers all of `size` bytes at physical `address`.
pub fn is_mapped(address: u64, size: u64) -> bool {
    STATE.lock().direct.contains(PhysRange::sized(address, size))
}

/// The text's addresses, for stack traces.
pub fn text_range() -> core::ops::Range<u64> {
    symbol!(text_start)..symbol!(text_end)
}

/// Gives what only the boot needed, page tables and stack, to the heap.
///
/// # Safety
/// The final page tables are active and this processor is on its main stack.
pub(crate) unsafe fn reclaim_boot_memory() {
    let range = PhysRange::new(symbol!(boot_pml4) - IMAGE_BASE, symbol!(boot_stack_top) - IMAGE_BASE);
    STATE.lock().heap += range.size();
    // SAFETY: entry.S reserves the range for tables and stack that the caller says are not used any more; it is part
    // of the image's data, which stays in the direct map.
    unsafe { heap::claim(range) };
}

/// The boot stack's addresses, for stack traces.
pub fn boot_stack_range() -> core::ops::Range<u64> {
    symbol!(boot_stack)..symbol!(boot_stack_top)
}

/// Physical address of the page tables that every processor uses.
pub fn page_table_root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

/// Physical address of the page below 640 KiB for the processors' real-mode start, 0 if there is none.
pub fn trampoline_page() -> u64 {
    STATE.lock().trampoline
}

/// The free ranges (whole pages, sorted, disjoint): RAM minus image, modules and the hypervisor's own memory.
pub fn free_ranges() -> ArrayVec<PhysRange, MAX_RANGES> {
    STATE.lock().free.as_slice().iter().copied().collect()
}

/// Ends early allocation and gives the free ranges away: from now on they are the caller's.
pub fn seal() -> ArrayVec<PhysRange, MAX_RANGES> {
    let mut state = STATE.lock();
    state.sealed = true;
    state.free.as_slice().iter().copied().collect()
}

/// Figures as of now.
pub fn figures() -> MemoryFigures {
    let state = STATE.lock();
    MemoryFigures { ram: state.ram, free: state.free.total(), heap: state.heap, hypervisor: state.own }
}

/// Takes `pages` contiguous pages for the hypervisor, not zeroed; `None` when there are none or after [`seal`].
pub fn alloc_pages(pages: u64) -> Option<u64> {
    STATE.lock().take(pages * PAGE_SIZE, PAGE_SIZE)
}

impl State {
    fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        if self.sealed {
            return None;
        }
        // Before the final tables are active, only the low 4 GiB can be touched.
        let end = if self.tables.root() != 0 { DIRECT_MAP_SIZE } else { BOOT_MAPPED };
        let start = self.free.take(size, align, PhysRange::new(LOW_MEMORY_END, end))?;
        self.own += size;
        Some(start)
    }

    /// Memory of the size of `part`, aligned as it is as far as large pages go.
    fn take_like(&mut self, part: PhysRange) -> Option<PhysRange> {
        if part.size() < LARGE_PAGE {
            return Some(PhysRange::sized(self.take(part.size(), PAGE_SIZE)?, part.size()));
        }
        let lead = part.start % LARGE_PAGE;
        let start = self.take(lead + part.size(), LARGE_PAGE)?;
        self.own -= lead;
        self.free.insert(PhysRange::sized(start, lead)).ok()?;
        Some(PhysRange::sized(start + lead, part.size()))
    }

    /// A zeroed frame for a page table.
    fn table_frame(&mut self) -> Option<u64> {
        let frame = if self.sealed { self.reserve.pop() } else { self.take(PAGE_SIZE, PAGE_SIZE) }?;
        // SAFETY: the frame was free RAM and is now ours alone; it is mapped (boot tables below 4 GiB, else the
        // final direct map).
        unsafe { phys_to_virt(frame).write_bytes(0, PAGE_SIZE as usize) };
        Some(frame)
    }

    fn map(&mut self, address: u64, range: PhysRange, access: Access) -> Result<(), MapError> {
        // A second handle on the same tables, since the allocator borrows this object; the lock is held.
        let mut tables = self.tables.clone();
        tables.map(address, range, access, &mut || self.table_frame())
    }
}

/// The table with a record of `record_size` bytes for each frame, zeroed: its address, and how many frames it has. It
/// has memory of its own only where it describes RAM; the rest of it reads as zero and cannot be written.
///
/// # Errors
/// [`MapError::NoMemory`].
pub fn map_frame_table(record_size: u64) -> Result<(*mut u8, u64), MapError> {
    let mut state = STATE.lock();
    let mut wanted = RangeSet::<MAX_RANGES>::new();
    for range in state.free.as_slice() {
        let records = PhysRange::new(range.start / PAGE_SIZE * record_size, range.end / PAGE_SIZE * record_size);
        wanted.insert(records.grow_to_pages()).map_err(|Full| MapError::NoMemory)?;
    }
    let frames = state.free.as_slice().iter().map(|range| range.end).max().unwrap_or(0) / PAGE_SIZE;
    let zeroes = state.table_frame().ok_or(MapError::NoMemory)?;
    let mut at = 0;
    for part in wanted.as_slice() {
        for hole in (at..part.start).step_by(PAGE_SIZE as usize) {
            state.map(FRAME_TABLE_BASE + hole, PhysRange::sized(zeroes, PAGE_SIZE), Access::Read)?;
        }
        let memory = state.take_like(*part).ok_or(MapError::NoMemory)?;
        // SAFETY: the memory was just taken for this and is in the direct map.
        unsafe { phys_to_virt(memory.start).write_bytes(0, memory.size() as usize) };
        state.map(FRAME_TABLE_BASE + part.start, memory, Access::ReadWrite)?;
        at = part.end;
    }
    Ok((FRAME_TABLE_BASE as *mut u8, frames))
}

/// Reads the loader's map and builds the final address space; the page tables are switched before it returns.
///
/// # Errors
/// [`MemoryError`]; the boot page tables are then still active.
pub fn init(info: &BootInfo, limit: Option<u64>) -> Result<(), MemoryError> {
    let mut state = STATE.lock();
    sort_memory(&mut state, info, limit)?;
    if state.ram < MIN_RAM {
        return Err(MemoryError::TooLittle { found: state.ram });
    }
    let gigabyte_pages = raw_cpuid::CpuId::new()
        .get_extended_processor_and_feature_identifiers()
        .is_some_and(|features| features.has_1gib_pages());
    let root = state.table_frame().ok_or(MapError::NoMemory)?;
    let mut tables = PageTables::new(root, gigabyte_pages);
    map_image(&mut state, &mut tables)?;
    let direct = state.direct.clone();
    for range in direct.as_slice() {
        tables.map(DIRECT_MAP_BASE + range.start, *range, Access::ReadWrite, &mut || state.table_frame())?;
    }
    state.tables = tables;
    ROOT.store(root, Ordering::Relaxed);
    // SAFETY: the new tables map the image at the same addresses with the rights its sections need; the boot stack is
    // in the image's data; everything reached by physical address goes through the direct map, which is at the same
    // base and now covers all RAM.
    unsafe { crate::instr::set_cr3(root) };
    fill_heap(&mut state)?;
    while !state.reserve.is_full() {
        let frame = state.take(PAGE_SIZE, PAGE_SIZE).ok_or(MapError::NoMemory)?;
        state.reserve.push(frame);
    }
    Ok(())
}

/// Fills the sets `direct` and `free` and picks the trampoline's page.
fn sort_memory(state: &mut State, info: &BootInfo, limit: Option<u64>) -> Result<(), MemoryError> {
    let reachable = PhysRange::new(0, DIRECT_MAP_SIZE);
    let clip = |range: PhysRange| PhysRange::new(range.start.min(reachable.end), range.end.min(reachable.end));
    state.direct.insert(PhysRange::new(0, LOW_MEMORY_END))?;
    for entry in &info.memory {
        let range = clip(PhysRange::sized(entry.start, entry.size));
        if entry.kind != MemoryKind::Reserved {
            state.direct.insert(range.grow_to_pages())?;
        }
        if entry.kind == MemoryKind::Ram {
            state.free.insert(range.shrink_to_pages())?;
        }
    }
    // Where entries overlap, the less friendly one wins.
    for entry in info.memory.iter().filter(|entry| entry.kind != MemoryKind::Ram) {
        state.free.remove(clip(PhysRange::sized(entry.start, entry.size)).grow_to_pages())?;
    }
    state.free.truncate_to(limit.unwrap_or(u64::MAX));
    state.ram = state.free.total();

    let image = PhysRange::new(symbol!(image_phys_start), symbol!(image_phys_end));
    state.own += image.size();
    state.free.remove(image.grow_to_pages())?;
    // Text and constants have no writable second mapping.
    let data = symbol!(data_start) - IMAGE_BASE;
    state.direct.remove(PhysRange::new(image.start, data))?;
    if let Some((start, size)) = info.keep {
        state.free.remove(PhysRange::sized(start, size).grow_to_pages())?;
    }
    for module in &info.modules {
        let range = PhysRange::sized(module.start, module.size).grow_to_pages();
        state.direct.insert(clip(range))?;
        state.free.remove(range)?;
    }
    // Page 0 has the real-mode vectors; the last pages before 640 KiB are often the firmware's.
    state.trampoline = state.free.take(PAGE_SIZE, PAGE_SIZE, PhysRange::new(0x2000, 0xa_0000)).unwrap_or(0);
    state.free.remove(PhysRange::new(0, LOW_MEMORY_END))?;
    Ok(())
}

fn map_image(state: &mut State, tables: &mut PageTables) -> Result<(), MapError> {
    let sections = [
        (symbol!(text_start), symbol!(text_end), Access::ReadExecute),
        (symbol!(rodata_start), symbol!(rodata_end), Access::Read),
        (symbol!(data_start), symbol!(data_end), Access::ReadWrite),
    ];
    for (start, end, access) in sections {
        let range = PhysRange::new(start - IMAGE_BASE, end - IMAGE_BASE).grow_to_pages();
        tables.map(start, range, access, &mut || state.table_frame())?;
    }
    Ok(())
}

fn fill_heap(state: &mut State) -> Result<(), MemoryError> {
    let size = PhysRange::sized(0, HEAP_FIXED + state.ram / HEAP_SHARE).grow_to_pages().size();
    let start = state.take(size, PAGE_SIZE).ok_or(MapError::NoMemory)?;
    state.heap = size;
    // SAFETY: the range was just taken for this and is in the direct map.
    unsafe { heap::claim(PhysRange::sized(start, size)) };
    Ok(())
}

/// Maps device memory (or firmware tables that are not in the direct map) and returns its address. Pages that are
/// mapped already stay as they are: whoever asks for the same page must want the same access.
///
/// # Errors
/// [`MapError`] when the address is out of reach, or no table frame is left.
pub fn map_mmio(address: u64, size: u64, access: Access) -> Result<*mut u8, MapError> {
    let range = PhysRange::sized(address, size).grow_to_pages();
    if range.end > DIRECT_MAP_SIZE {
        return Err(MapError::Occupied);
    }
    let mut state = STATE.lock();
    if !state.mmio.overlaps(range) {
        state.map(MMIO_BASE + range.start, range, access)?;
    } else {
        for page in (range.start..range.end).step_by(PAGE_SIZE as usize) {
            let page = PhysRange::sized(page, PAGE_SIZE);
            if !state.mmio.contains(page) {
                state.map(MMIO_BASE + page.start, page, access)?;
            }
        }
    }
    state.mmio.insert(range).map_err(|Full| MapError::NoMemory)?;
    Ok((MMIO_BASE + address) as *mut u8)
}

/// Maps a stack of `pages` pages for processor `cpu` at `offset` within its stacks; the page below stays unmapped.
/// Returns the address of its top.
///
/// # Errors
/// [`MapError`] when there is no memory for it.
pub fn map_stack(cpu: usize, offset: u64, pages: u64) -> Result<u64, MapError> {
    let mut state = STATE.lock();
    let bottom = STACKS_BASE + cpu as u64 * STACKS_STRIDE + offset;
    let frames = state.take(pages * PAGE_SIZE, PAGE_SIZE).ok_or(MapError::NoMemory)?;
    let range = PhysRange::sized(frames, pages * PAGE_SIZE);
    state.map(bottom, range, Access::ReadWrite)?;
    Ok(bottom + pages * PAGE_SIZE)
}
