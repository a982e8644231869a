//! A host with the real store of `ebb-tmem`, and guests on it: the back-end of the tests here and of `ebb-reclaim`'s.
#![allow(dead_code, reason = "each test uses its part")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use ebb_guest_tmem::{Calls, PoolId, Uuid};
use ebb_tmem::{
    Charge, ClientId, Config, Error, Fault, Frame, Frames, GuestPage, Handle, Kind, PAGE_SIZE, Page, Progress, Scratch,
    Shortage, Store,
};
use shared_abi::tmem::TmemOid;
use shared_abi::xen::{Errno, Gfn};

pub const WORDS: usize = PAGE_SIZE / 8;
pub type Words = [u64; WORDS];

struct Books {
    free: Vec<u32>,
    owners: Vec<Option<Charge>>,
    /// Frames that guests have.
    guests: usize,
    /// Persistent frames of each client, and the most it may have of them and of memory together.
    persistent: [usize; 16],
    held: [usize; 16],
    maximum: [usize; 16],
}

/// The host's frames: those of guests are counted, those of the store are real.
pub struct Machine {
    frames: Vec<OnceLock<Box<[AtomicU64; WORDS]>>>,
    books: Mutex<Books>,
    time: AtomicU64,
}

impl Machine {
    fn new(frames: usize) -> Self {
        Self {
            frames: (0..frames).map(|_| OnceLock::new()).collect(),
            books: Mutex::new(Books {
                free: (0..frames as u32).rev().collect(),
                owners: vec![None; frames],
                guests: 0,
                persistent: [0; 16],
                held: [0; 16],
                maximum: [usize::MAX; 16],
            }),
            time: AtomicU64::new(0),
        }
    }

    fn words(&self, frame: u32) -> &[AtomicU64; WORDS] {
        self.frames[frame as usize].get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]))
    }
}

impl Frames for Machine {
    fn allocate(&self, charge: Charge) -> Result<Frame, Shortage> {
        let mut books = self.books.lock().unwrap();
        let client = charge.client.index();
        if charge.kind == Kind::Persistent && books.persistent[client] + books.held[client] >= books.maximum[client] {
            return Err(Shortage::Maximum);
        }
        if books.free.len() <= books.guests {
            return Err(Shortage::Memory);
        }
        let frame = books.free.pop().ok_or(Shortage::Memory)?;
        books.owners[frame as usize] = Some(charge);
        books.persistent[client] += usize::from(charge.kind == Kind::Persistent);
        drop(books);
        self.words(frame).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Ok(Frame::new(frame))
    }

    fn free(&self, frame: Frame, charge: Charge) {
        let frame = frame.into_number();
        let mut books = self.books.lock().unwrap();
        assert_eq!(books.owners[frame as usize].take(), Some(charge), "frame {frame} freed for another");
        books.persistent[charge.client.index()] -= usize::from(charge.kind == Kind::Persistent);
        books.free.push(frame);
    }

    fn time(&self) -> u64 {
        self.time.fetch_add(1, Ordering::Relaxed)
    }

    fn word(&self, frame: u32, index: usize) -> &AtomicU64 {
        &self.words(frame)[index]
    }

    fn read(&self, frame: u32, offset: usize, bytes: &mut [u8]) {
        let words = self.words(frame);
        if offset.is_multiple_of(8) && bytes.len().is_multiple_of(8) {
            for (chunk, word) in bytes.chunks_mut(8).zip(&words[offset / 8..]) {
                chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
            return;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let at = offset + at;
            *byte = (words[at / 8].load(Ordering::Relaxed) >> (at % 8 * 8)) as u8;
        }
    }

    fn write(&self, frame: u32, offset: usize, bytes: &[u8]) {
        let words = self.words(frame);
        if offset.is_multiple_of(8) && bytes.len().is_multiple_of(8) {
            for (chunk, word) in bytes.chunks(8).zip(&words[offset / 8..]) {
                word.store(u64::from_le_bytes(chunk.try_into().unwrap()), Ordering::Relaxed);
            }
            return;
        }
        for (at, byte) in bytes.iter().enumerate() {
            let at = offset + at;
            let word = &words[at / 8];
            let mask = 0xff << (at % 8 * 8);
            let value = u64::from(*byte) << (at % 8 * 8);
            word.store(word.load(Ordering::Relaxed) & !mask | value, Ordering::Relaxed);
        }
    }
}

/// A host: its memory and its store.
pub struct Host {
    pub machine: Machine,
    pub store: Store,
}

impl Host {
    pub fn new(frames: usize) -> Rc<Self> {
        Self::with(frames, false)
    }

    pub fn with(frames: usize, compress: bool) -> Rc<Self> {
        let config = Config { clients: 16, seed: 0x5eed, compress, deduplicate: true };
        Rc::new(Self { machine: Machine::new(frames), store: Store::new(config) })
    }

    /// Frames that nobody has.
    pub fn free(&self) -> usize {
        let books = self.machine.books.lock().unwrap();
        books.free.len() - books.guests
    }

    /// A guest takes a frame, from ephemeral pages if there is no other: within its maximum it is entitled to it.
    pub fn populate(&self, client: u16) -> bool {
        let take = || {
            let mut books = self.machine.books.lock().unwrap();
            let client = usize::from(client);
            let may = books.held[client] + books.persistent[client] < books.maximum[client];
            let there = may && books.free.len() > books.guests;
            books.guests += usize::from(there);
            books.held[client] += usize::from(there);
            (may, there)
        };
        match take() {
            (true, false) => {
                self.store.on(&self.machine).reclaim(1, 64);
                take().1
            }
            (_, there) => there,
        }
    }

    /// A guest gives a frame back.
    pub fn decrease(&self, client: u16) {
        let mut books = self.machine.books.lock().unwrap();
        books.guests -= 1;
        books.held[usize::from(client)] -= 1;
    }

    pub fn set_maximum(&self, client: u16, frames: usize) {
        self.machine.books.lock().unwrap().maximum[usize::from(client)] = frames;
    }

    /// Frames that the store uses for a guest.
    pub fn tmem(&self, client: u16, kind: Kind) -> u64 {
        self.store.account(ClientId(client)).map_or(0, |account| account.frames(kind))
    }

    /// Everything adds up: the store's links and books, and they with the frames'.
    pub fn audit(&self) {
        self.store.on(&self.machine).audit();
        let books = self.machine.books.lock().unwrap();
        let owned = books.owners.iter().flatten().count();
        assert_eq!(owned + books.free.len(), books.owners.len(), "frames of the store and free ones are all");
        for client in 0..16 {
            let of = |kind| {
                let charge = Some(Charge { client: ClientId(client), kind });
                books.owners.iter().filter(|owner| **owner == charge).count() as u64
            };
            assert_eq!(of(Kind::Ephemeral), self.tmem(client, Kind::Ephemeral), "ephemeral frames of {client}");
            assert_eq!(of(Kind::Persistent), self.tmem(client, Kind::Persistent), "persistent frames of {client}");
        }
    }

    /// The guest ends.
    pub fn end(&self, client: u16) {
        while self.store.on(&self.machine).destroy_client(ClientId(client), 64) == Progress::More {}
    }
}

/// A guest's physical memory; an absent page faults.
#[derive(Default)]
pub struct Ram(pub RefCell<Vec<Option<Box<Words>>>>);

struct RamPage<'a>(&'a Ram, Gfn);

impl RamPage<'_> {
    fn with<R>(&self, work: impl FnOnce(&mut Words) -> R) -> Result<R, Fault> {
        let mut pages = self.0.0.borrow_mut();
        let page = pages.get_mut(self.1.0 as usize).and_then(Option::as_mut).ok_or(Fault)?;
        Ok(work(page))
    }
}

impl GuestPage<Machine> for RamPage<'_> {
    fn read(&self, page: &mut Page) -> Result<(), Fault> {
        self.with(|words| {
            for (chunk, word) in page.chunks_mut(8).zip(words.iter()) {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
        })
    }

    fn read_frame(&self, frames: &Machine, frame: u32) -> Result<(), Fault> {
        self.with(|words| {
            for (index, word) in words.iter().enumerate() {
                frames.word(frame, index).store(*word, Ordering::Relaxed);
            }
        })
    }

    fn write(&self, page: &Page) -> Result<(), Fault> {
        self.with(|words| {
            for (chunk, word) in page.chunks(8).zip(words.iter_mut()) {
                *word = u64::from_le_bytes(chunk.try_into().unwrap());
            }
        })
    }

    fn write_frame(&self, frames: &Machine, frame: u32) -> Result<(), Fault> {
        self.with(|words| {
            for (index, word) in words.iter_mut().enumerate() {
                *word = frames.word(frame, index).load(Ordering::Relaxed);
            }
        })
    }
}

/// A guest's calls to the host's store.
pub struct HostCalls {
    pub host: Rc<Host>,
    pub client: u16,
    pub ram: Rc<Ram>,
    scratch: Scratch,
    /// Calls made, and a fault for tests: puts and gets answered with this, while set.
    pub calls: u64,
    pub broken: Option<Errno>,
}

impl HostCalls {
    pub fn new(host: &Rc<Host>, client: u16, ram: &Rc<Ram>) -> Self {
        let scratch = Scratch::try_new().expect("memory");
        Self { host: Rc::clone(host), client, ram: Rc::clone(ram), scratch, calls: 0, broken: None }
    }
}

fn errno(error: Error) -> Errno {
    match error {
        Error::Permission => Errno::EPERM,
        Error::NoMemory => Errno::ENOMEM,
        Error::Fault => Errno::EFAULT,
        Error::NoPool => Errno::ENODEV,
        Error::NoSpace => Errno::ENOSPC,
        Error::Frozen => Errno::EFROZEN,
        Error::Empty => Errno::EEMPTY,
        _ => Errno::EINVAL,
    }
}

impl Calls for HostCalls {
    fn new_pool(&mut self, uuid: Uuid, flags: u32) -> Result<PoolId, Errno> {
        self.calls += 1;
        let tmem = self.host.store.on(&self.host.machine);
        tmem.new_pool(ClientId(self.client), flags, uuid).map(PoolId).map_err(errno)
    }

    fn destroy_pool(&mut self, pool: PoolId) {
        self.calls += 1;
        let tmem = self.host.store.on(&self.host.machine);
        while tmem.destroy_pool(ClientId(self.client), pool.0, 64).1 == Progress::More {}
    }

    fn put(&mut self, pool: PoolId, oid: TmemOid, index: u32, page: Gfn) -> Result<(), Errno> {
        self.calls += 1;
        if let Some(errno) = self.broken {
            return Err(errno);
        }
        let (tmem, handle) = (self.host.store.on(&self.host.machine), Handle { pool: pool.0, oid: oid.oid, index });
        tmem.put(ClientId(self.client), &handle, &RamPage(&self.ram, page), &mut self.scratch).map_err(errno)
    }

    fn get(&mut self, pool: PoolId, oid: TmemOid, index: u32, page: Gfn) -> bool {
        self.calls += 1;
        let (tmem, handle) = (self.host.store.on(&self.host.machine), Handle { pool: pool.0, oid: oid.oid, index });
        self.broken.is_none()
            && tmem.get(ClientId(self.client), &handle, &RamPage(&self.ram, page), &mut self.scratch) == Ok(true)
    }

    fn flush_page(&mut self, pool: PoolId, oid: TmemOid, index: u32) {
        self.calls += 1;
        let tmem = self.host.store.on(&self.host.machine);
        let _ = tmem.flush_page(ClientId(self.client), &Handle { pool: pool.0, oid: oid.oid, index });
    }

    fn flush_object(&mut self, pool: PoolId, oid: TmemOid) {
        self.calls += 1;
        let tmem = self.host.store.on(&self.host.machine);
        while tmem.flush_object(ClientId(self.client), pool.0, oid.oid, 64) == Ok(Progress::More) {}
    }
}

/// A machine without transcendent memory.
pub struct NoTmem;

impl Calls for NoTmem {
    fn new_pool(&mut self, _: Uuid, _: u32) -> Result<PoolId, Errno> {
        Err(Errno::ENOSYS)
    }
    fn destroy_pool(&mut self, _: PoolId) {
        panic!("there is no pool");
    }
    fn put(&mut self, _: PoolId, _: TmemOid, _: u32, _: Gfn) -> Result<(), Errno> {
        panic!("there is no pool");
    }
    fn get(&mut self, _: PoolId, _: TmemOid, _: u32, _: Gfn) -> bool {
        panic!("there is no pool");
    }
    fn flush_page(&mut self, _: PoolId, _: TmemOid, _: u32) {
        panic!("there is no pool");
    }
    fn flush_object(&mut self, _: PoolId, _: TmemOid) {
        panic!("there is no pool");
    }
}
