//! What the store needs of the machine: frames, and the guest's page of one call.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use arrayvec::ArrayVec;

/// Bytes of a page and of a frame.
pub const PAGE_SIZE: usize = 4096;
/// 64-bit words of a frame.
pub const FRAME_WORDS: usize = PAGE_SIZE / 8;

/// The bytes of a page.
pub type Page = [u8; PAGE_SIZE];

/// The number of a client: its domain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub u16);

impl ClientId {
    /// As an index into tables of clients.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For ephemeral pages: it can be taken back at any time.
    Ephemeral,
    /// For persistent pages: it stays.
    Persistent,
}

/// Who pays for a frame, and what it is for. Metadata is paid for like the pages it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The client that pays.
    pub client: ClientId,
    /// What for.
    pub kind: Kind,
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The client is at its maximum.
    Maximum,
    /// The machine has none.
    Memory,
}

/// The caller's page is not mapped, or not writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Ownership of one frame. It ends by [`Frames::free`] or by being recorded; dropping it is a bug (a panic in debug
/// builds, a leak otherwise).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame must be given to someone"]
pub struct Frame(u32);

impl Frame {
    /// Takes over the frame of this number from its allocator, or from the place that recorded it.
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.0
    }

    /// Gives ownership to the place that records the number from now on.
    pub fn into_number(self) -> u32 {
        let number = self.0;
        core::mem::forget(self);
        number
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            panic!("frame {:#x} dropped", self.0);
        }
    }
}

/// So many values in a box, made one by one where they stay: no stack has room for all of them. `None` when there is no
/// memory.
pub fn few<T, const N: usize>(make: impl Fn() -> T) -> Option<Box<[T; N]>> {
    let mut list = Vec::new();
    list.try_reserve_exact(N).ok()?;
    list.resize_with(N, make);
    list.try_into().ok()
}

/// Frames obtained ahead, because none can be allocated while a lock is held.
pub type Spares = ArrayVec<Frame, 4>;

/// Things that CPUs change all the time are there so many times, each in a cache line of its own.
pub const LANES: usize = 4;

/// The machine's frames. Methods may be called with locks of the store's held, except [`Frames::allocate`], and must
/// not call back into it.
pub trait Frames: Send + Sync {
    /// A cleared frame, charged. Called with no lock of the store's held.
    ///
    /// # Errors
    /// What is short.
    fn allocate(&self, charge: Charge) -> Result<Frame, Shortage>;
    /// The same, but whatever is in the frame may stay there: the store writes each byte before it reads it.
    ///
    /// # Errors
    /// What is short.
    fn allocate_any(&self, charge: Charge) -> Result<Frame, Shortage> {
        self.allocate(charge)
    }
    /// Gives a frame back. It is cleared before anybody else has it.
    fn free(&self, frame: Frame, charge: Charge);
    /// Which CPU this is. Only how fast things are depends on it: CPUs with numbers that differ modulo [`LANES`] do not
    /// get in each other's way.
    fn cpu(&self) -> usize {
        0
    }
    /// A number that grows with time, if need be slowly, and on all CPUs together but for a little: how old pages are.
    fn time(&self) -> u64;
    /// A 64-bit word of an allocated frame.
    fn word(&self, frame: u32, index: usize) -> &AtomicU64;
    /// Copies out of an allocated frame.
    fn read(&self, frame: u32, offset: usize, bytes: &mut [u8]);
    /// Copies into an allocated frame.
    fn write(&self, frame: u32, offset: usize, bytes: &[u8]);

    /// Whether an allocated frame has these bytes at `offset`.
    fn equal(&self, frame: u32, offset: usize, bytes: &[u8]) -> bool {
        let mut part = [0; 256];
        bytes.chunks(part.len()).enumerate().all(|(index, chunk)| {
            let part = &mut part[..chunk.len()];
            self.read(frame, offset + index * 256, part);
            part == chunk
        })
    }
}

/// The page of a caller's that is put from or got into. All or nothing: a copy that fails has changed nothing. Never
/// used with a lock of the store's held.
pub trait GuestPage<F: Frames> {
    /// Copies the caller's page.
    ///
    /// # Errors
    /// [`Fault`] when it is not mapped.
    fn read(&self, page: &mut Page) -> Result<(), Fault>;
    /// Copies the caller's page into a frame that nobody else knows of. When that fails, anything may be in the frame.
    ///
    /// # Errors
    /// As for [`GuestPage::read`].
    fn read_frame(&self, frames: &F, frame: u32) -> Result<(), Fault>;
    /// Copies into the caller's page.
    ///
    /// # Errors
    /// [`Fault`] when it is not mapped or not writable.
    fn write(&self, page: &Page) -> Result<(), Fault>;
    /// Copies a whole frame into the caller's page.
    ///
    /// # Errors
    /// As for [`GuestPage::write`].
    fn write_frame(&self, frames: &F, frame: u32) -> Result<(), Fault>;
}
