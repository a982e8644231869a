//! A machine for the store's tests: frames with an owner each, and guests' pages that may be missing.
#![allow(dead_code, reason = "each test uses its part")]

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use ebb_tmem::{Charge, ClientId, Fault, Frame, Frames, GuestPage, Kind, PAGE_SIZE, Page, Shortage};

const WORDS: usize = PAGE_SIZE / 8;
/// What freed frames are full of: nothing may read it.
const POISON: u64 = 0xdead_f4ee_dead_f4ee;

type Words = [AtomicU64; WORDS];

struct Books {
    free: Vec<u32>,
    owners: Vec<Option<Charge>>,
    /// The most persistent frames of each client.
    maximum: Vec<usize>,
}

/// A machine of so many frames.
pub struct Machine {
    frames: Vec<OnceLock<Box<Words>>>,
    books: Mutex<Books>,
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

    fn words(&self, frame: u32) -> &Words {
        self.frames[frame as usize].get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]))
    }

    fn fill(&self, frame: u32, value: u64) {
        self.words(frame).iter().for_each(|word| word.store(value, Ordering::Relaxed));
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
        if !cfg!(miri) {
            self.fill(frame.number(), POISON);
        }
        Ok(frame)
    }

    fn free(&self, frame: Frame, charge: Charge) {
        let frame = frame.into_number();
        // What nobody cleared is found without it too; miri would take minutes over it.
        if !cfg!(miri) {
            self.fill(frame, POISON);
        }
        let mut books = self.books.lock().unwrap();
        assert_eq!(books.owners[frame as usize].take(), Some(charge), "frame {frame} freed for another");
        books.free.push(frame);
    }

    fn word(&self, frame: u32, index: usize) -> &AtomicU64 {
        &self.words(frame)[index]
    }

    fn read(&self, frame: u32, offset: usize, bytes: &mut [u8]) {
        assert!(offset.is_multiple_of(8), "the store reads from words on");
        for (chunk, word) in bytes.chunks_mut(8).zip(&self.words(frame)[offset / 8..]) {
            let length = chunk.len();
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..length]);
        }
    }

    fn write(&self, frame: u32, offset: usize, bytes: &[u8]) {
        assert!(offset.is_multiple_of(8), "the store writes from words on");
        for (chunk, word) in bytes.chunks(8).zip(&self.words(frame)[offset / 8..]) {
            let mut value = word.load(Ordering::Relaxed).to_le_bytes();
            value[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
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
