//! A machine for the store's tests: frames with an owner each, and guests' pages that may be missing.
//!
//! Unsafe: frames are plain memory, as they are in a hypervisor, copied at once and reached as atomic words else. So miri
//! sees what a race of the store's would do, and is not kept waiting by copies word by word.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(unsafe_code, reason = "frames that are plain memory")]

use std::cell::{Cell, RefCell, UnsafeCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use ebb_tmem::{Charge, ClientId, Fault, Frame, Frames, GuestPage, Kind, PAGE_SIZE, Page, Shortage};

const WORDS: usize = PAGE_SIZE / 8;
/// What freed frames are full of: nothing may read it.
const POISON: u8 = 0xde;

/// A frame's memory.
struct Bytes(UnsafeCell<[u64; WORDS]>);

// SAFETY: the store hands each frame to one user at a time, who alone writes to it by bytes; words that several look at
// are reached as atomics. Miri checks that.
unsafe impl Sync for Bytes {}

struct Books {
    free: Vec<u32>,
    owners: Vec<Option<Charge>>,
    /// The most persistent frames of each client.
    maximum: Vec<usize>,
}

/// A machine of so many frames.
pub struct Machine {
    frames: Vec<OnceLock<Box<Bytes>>>,
    books: Mutex<Books>,
    time: AtomicU64,
}

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Tells this thread which CPU it is.
pub fn set_cpu(number: usize) {
    CPU.set(number);
}

impl Machine {
    pub fn new(frames: usize) -> Self {
        Self {
            frames: (0..frames).map(|_| OnceLock::new()).collect(),
            books: Mutex::new(Books {
                free: (0..frames as u32).rev().collect(),
                owners: vec![None; frames],
                maximum: vec![usize::MAX; 128],
            }),
            time: AtomicU64::new(0),
        }
    }

    pub fn set_maximum(&self, client: ClientId, frames: usize) {
        self.books.lock().unwrap().maximum[client.index()] = frames;
    }

    pub fn free_frames(&self) -> usize {
        self.books.lock().unwrap().free.len()
    }

    /// Takes frames away from the store, as other users of memory do.
    pub fn take(&self, count: usize) -> Vec<u32> {
        let mut books = self.books.lock().unwrap();
        let left = books.free.len().saturating_sub(count);
        books.free.split_off(left)
    }

    pub fn give(&self, frames: Vec<u32>) {
        self.books.lock().unwrap().free.extend(frames);
    }

    /// Frames charged to a client.
    pub fn charged(&self, client: ClientId, kind: Kind) -> u64 {
        let charge = Some(Charge { client, kind });
        self.books.lock().unwrap().owners.iter().filter(|owner| **owner == charge).count() as u64
    }

    fn at(&self, frame: u32, offset: usize, length: usize) -> *mut u8 {
        assert!(offset.is_multiple_of(8), "the store reads and writes from words on");
        assert!(offset + length <= PAGE_SIZE);
        let bytes = self.frames[frame as usize].get_or_init(|| Box::new(Bytes(UnsafeCell::new([0; WORDS]))));
        // SAFETY: inside the frame, by the assertion.
        unsafe { bytes.0.get().cast::<u8>().add(offset) }
    }

    fn fill(&self, frame: u32, value: u8) {
        // SAFETY: inside the frame (`at`), which is nobody's just now.
        unsafe { self.at(frame, 0, PAGE_SIZE).write_bytes(value, PAGE_SIZE) }
    }
}

impl Frames for Machine {
    fn allocate(&self, charge: Charge) -> Result<Frame, Shortage> {
        let mut books = self.books.lock().unwrap();
        if charge.kind == Kind::Persistent {
            let held = books.owners.iter().filter(|owner| **owner == Some(charge)).count();
            if held >= books.maximum[charge.client.index()] {
                return Err(Shortage::Maximum);
            }
        }
        let frame = books.free.pop().ok_or(Shortage::Memory)?;
        books.owners[frame as usize] = Some(charge);
        drop(books);
        self.fill(frame, 0);
        Ok(Frame::new(frame))
    }

    fn allocate_any(&self, charge: Charge) -> Result<Frame, Shortage> {
        let frame = self.allocate(charge)?;
        self.fill(frame.number(), POISON);
        Ok(frame)
    }

    fn free(&self, frame: Frame, charge: Charge) {
        let frame = frame.into_number();
        self.fill(frame, POISON);
        let mut books = self.books.lock().unwrap();
        assert_eq!(books.owners[frame as usize].take(), Some(charge), "frame {frame} freed for another");
        books.free.push(frame);
    }

    fn cpu(&self) -> usize {
        CPU.get()
    }

    fn time(&self) -> u64 {
        self.time.fetch_add(1, Ordering::Relaxed)
    }

    fn word(&self, frame: u32, index: usize) -> &AtomicU64 {
        // SAFETY: inside the frame (`at`) and aligned; what is reached as words is not copied meanwhile.
        unsafe { AtomicU64::from_ptr(self.at(frame, index * 8, 8).cast()) }
    }

    fn read(&self, frame: u32, offset: usize, bytes: &mut [u8]) {
        // SAFETY: inside the frame (`at`); the store lets nobody write to it meanwhile.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.at(frame, offset, bytes.len()), bytes.len()) }
    }

    fn write(&self, frame: u32, offset: usize, bytes: &[u8]) {
        // SAFETY: inside the frame (`at`); the store writes to it before others know it, or under a lock.
        unsafe { bytes.as_ptr().copy_to_nonoverlapping(self.at(frame, offset, bytes.len()), bytes.len()) }
    }
}

/// A guest's page: there, or not mapped.
pub struct Guest(pub RefCell<Option<Box<Page>>>);

impl Guest {
    pub fn new(page: Page) -> Self {
        Self(RefCell::new(Some(Box::new(page))))
    }

    pub fn unmapped() -> Self {
        Self(RefCell::new(None))
    }

    pub fn empty() -> Self {
        Self::new([0xee; PAGE_SIZE])
    }

    pub fn page(&self) -> Page {
        **self.0.borrow().as_ref().expect("a mapped page")
    }
}

impl GuestPage<Machine> for Guest {
    fn read(&self, page: &mut Page) -> Result<(), Fault> {
        page.copy_from_slice(&self.0.borrow().as_ref().ok_or(Fault)?[..]);
        Ok(())
    }

    fn read_frame(&self, frames: &Machine, frame: u32) -> Result<(), Fault> {
        frames.write(frame, 0, &self.0.borrow().as_ref().ok_or(Fault)?[..]);
        Ok(())
    }

    fn write(&self, page: &Page) -> Result<(), Fault> {
        self.0.borrow_mut().as_mut().ok_or(Fault)?.copy_from_slice(page);
        Ok(())
    }

    fn write_frame(&self, frames: &Machine, frame: u32) -> Result<(), Fault> {
        frames.read(frame, 0, &mut self.0.borrow_mut().as_mut().ok_or(Fault)?[..]);
        Ok(())
    }
}

/// A pseudo-random sequence, the same each time.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Kinds of pages that the store treats differently.
pub fn page_of(kind: u8, number: u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    let mut random = Random(number.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1);
    match kind % 4 {
        0 => {}
        // Compresses well, and its first word tells it from others.
        1 => {
            for (index, byte) in page.iter_mut().enumerate() {
                *byte = (index / 64) as u8 ^ number as u8;
            }
            page[..8].copy_from_slice(&number.to_le_bytes());
        }
        // Compresses to about half.
        2 => {
            for chunk in page.chunks_mut(24) {
                chunk[..8].copy_from_slice(&random.next().to_le_bytes());
            }
        }
        _ => page.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes())),
    }
    page
}
