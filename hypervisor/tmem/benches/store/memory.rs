//! Memory as a hypervisor has it: plain, present, mapped in large pages; frames and guests' pages in it.
//!
//! Frames come from a list per thread, as from a heap with a list per processor: what is measured is the store, not
//! who lends it frames. Unsafe: copies must be the machine's own, not loops over atomic words.
#![allow(unsafe_code, reason = "frames and guests' pages that are plain memory")]

use core::arch::x86_64::{_mm_lfence, _mm_mfence, _rdtsc};
use std::cell::Cell;
use std::ptr::{NonNull, copy_nonoverlapping, null_mut, write_bytes};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use ebb_tmem::{Charge, Fault, Frame, Frames, GuestPage, PAGE_SIZE, Page, Shortage};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Threads at most.
pub const THREADS: usize = 2;
const LARGE_PAGE: usize = 2 << 20;

thread_local! {
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Tells this thread which one it is.
pub fn set_thread(number: usize) {
    THREAD.set(number);
}

/// Waits until all that this thread has read is there and all that it has written is in its caches.
pub fn finish() {
    // SAFETY: every x86-64 processor has them; they touch nothing.
    unsafe {
        _mm_mfence();
        _mm_lfence();
    }
}

/// A number below `count`, a power of two, for each such number, far from those of its neighbours. Memory that has been
/// used for a while is like this; a processor foresees less of it than of pages in a row.
pub fn scattered(index: usize, count: usize) -> usize {
    index.wrapping_mul(0x9e37_79b9) % count
}

/// Pages side by side, all of them present.
pub struct Region {
    mapping: NonNull<u8>,
    first: NonNull<u8>,
    length: usize,
}

// SAFETY: memory that is there as long as the value; who may touch what is said at each access.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// So many pages of zeros.
    pub fn new(pages: usize) -> Self {
        let length = pages * PAGE_SIZE + LARGE_PAGE;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping, where the kernel wants it.
        let mapping = unsafe { mmap_anonymous(null_mut(), length, protection, flags) }.expect("memory");
        // SAFETY: advice about all of this mapping. Where it is not followed, pages are small for all that is compared.
        let _ = unsafe { madvise(mapping, length, Advice::LinuxHugepage) };
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("a mapping");
        let ahead = mapping.as_ptr().align_offset(LARGE_PAGE);
        // SAFETY: less than a large page ahead, and the mapping is longer by one.
        let first = unsafe { mapping.add(ahead) };
        // SAFETY: inside the mapping, and nobody else's yet.
        unsafe { write_bytes(first.as_ptr(), 0, pages * PAGE_SIZE) }
        Self { mapping, first, length }
    }

    /// Pages with these contents.
    pub fn of(pages: impl ExactSizeIterator<Item = Page>) -> Self {
        let region = Self::new(pages.len());
        pages.enumerate().for_each(|(index, page)| region.write(index, 0, &page));
        region
    }

    fn at(&self, page: usize, offset: usize, length: usize) -> *mut u8 {
        assert!(page < (self.length - LARGE_PAGE) / PAGE_SIZE && offset + length <= PAGE_SIZE);
        // SAFETY: inside the mapping, by the assertion.
        unsafe { self.first.add(page * PAGE_SIZE + offset).as_ptr() }
    }

    /// Bytes that nobody writes to meanwhile: a frame that somebody has a reference to, or a page of this thread's.
    pub fn bytes(&self, page: usize, offset: usize, length: usize) -> &[u8] {
        // SAFETY: inside the mapping (`at`), initialised, and not written to as the caller promises.
        unsafe { std::slice::from_raw_parts(self.at(page, offset, length), length) }
    }

    /// Copies into a page that nobody else uses meanwhile.
    pub fn write(&self, page: usize, offset: usize, bytes: &[u8]) {
        // SAFETY: inside the mapping (`at`); no reference to these bytes is alive, as the caller promises.
        unsafe { copy_nonoverlapping(bytes.as_ptr(), self.at(page, offset, bytes.len()), bytes.len()) }
    }
}

impl Region {
    /// Runs `work` on pages that nobody else uses meanwhile.
    pub fn change<R>(&self, page: usize, count: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let _ = self.at(page + count - 1, 0, PAGE_SIZE);
        // SAFETY: inside the mapping (`at`); no reference to these bytes is alive, as the caller promises.
        work(unsafe { std::slice::from_raw_parts_mut(self.at(page, 0, PAGE_SIZE), count * PAGE_SIZE) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nobody has a reference into any more.
        unsafe { munmap(self.mapping.as_ptr().cast(), self.length) }.expect("a mapping");
    }
}

/// A list of free frames, in a cache line of its own.
#[repr(align(128))]
struct Lane(Mutex<Vec<u32>>);

/// The machine's frames.
pub struct Memory {
    region: Region,
    lanes: [Lane; THREADS],
}

impl Memory {
    /// So many frames, which are handed out in no order.
    pub fn new(frames: u32) -> Self {
        let frames = frames.next_power_of_two();
        let share = frames / THREADS as u32;
        let list =
            |index: u32| (index * share..(index + 1) * share).map(|at| scattered(at as usize, frames as usize) as u32);
        let lane = |index: u32| Lane(Mutex::new(list(index).collect()));
        Self { region: Region::new(frames as usize), lanes: std::array::from_fn(|index| lane(index as u32)) }
    }

    fn take(&self, lane: usize) -> Option<u32> {
        let own = self.lanes[lane].0.lock().unwrap().pop();
        own.or_else(|| self.lanes[(lane + 1) % THREADS].0.lock().unwrap().pop())
    }
}

impl Frames for Memory {
    fn allocate(&self, charge: Charge) -> Result<Frame, Shortage> {
        let frame = self.allocate_any(charge)?;
        // SAFETY: inside the region (`at`); a frame that has just been allocated is nobody else's.
        unsafe { write_bytes(self.region.at(frame.number() as usize, 0, PAGE_SIZE), 0, PAGE_SIZE) }
        Ok(frame)
    }

    fn allocate_any(&self, _charge: Charge) -> Result<Frame, Shortage> {
        self.take(THREAD.get()).map(Frame::new).ok_or(Shortage::Memory)
    }

    fn free(&self, frame: Frame, _charge: Charge) {
        // A hypervisor clears freed frames when it is idle.
        self.lanes[THREAD.get()].0.lock().unwrap().push(frame.into_number());
    }

    fn cpu(&self) -> usize {
        THREAD.get()
    }

    fn time(&self) -> u64 {
        // SAFETY: every x86-64 processor has it.
        unsafe { _rdtsc() }
    }

    fn word(&self, frame: u32, index: usize) -> &AtomicU64 {
        // SAFETY: an allocated frame is inside the region; the word is aligned, and metadata is reached as words only.
        // As in the hypervisor, nothing is checked at each access.
        unsafe { AtomicU64::from_ptr(self.region.first.add(frame as usize * PAGE_SIZE + index * 8).as_ptr().cast()) }
    }

    fn read(&self, frame: u32, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.region.bytes(frame as usize, offset, bytes.len()));
    }

    fn write(&self, frame: u32, offset: usize, bytes: &[u8]) {
        self.region.write(frame as usize, offset, bytes);
    }

    fn equal(&self, frame: u32, offset: usize, bytes: &[u8]) -> bool {
        self.region.bytes(frame as usize, offset, bytes.len()) == bytes
    }
}

/// A page of a guest that only this thread uses.
pub struct Guest<'a>(pub &'a Region, pub usize);

impl GuestPage<Memory> for Guest<'_> {
    fn read(&self, page: &mut Page) -> Result<(), Fault> {
        page.copy_from_slice(self.0.bytes(self.1, 0, PAGE_SIZE));
        Ok(())
    }

    fn read_frame(&self, frames: &Memory, frame: u32) -> Result<(), Fault> {
        frames.write(frame, 0, self.0.bytes(self.1, 0, PAGE_SIZE));
        Ok(())
    }

    fn write(&self, page: &Page) -> Result<(), Fault> {
        self.0.write(self.1, 0, page);
        Ok(())
    }

    fn write_frame(&self, frames: &Memory, frame: u32) -> Result<(), Fault> {
        self.0.write(self.1, 0, frames.region.bytes(frame as usize, 0, PAGE_SIZE));
        Ok(())
    }
}
