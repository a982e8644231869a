//! A guest on the host of `ebb-guest-tmem`'s tests: its page allocator, with a balloon that is only a number.
#![allow(dead_code, reason = "each test uses its part")]

#[path = "../../../tmem/tests/common/mod.rs"]
pub mod host;

use std::rc::Rc;

use ebb_reclaim::{Config, Contents, Memory, PageSource, Timing, Watermarks, Words};
use host::{Host, HostCalls, Ram};
use shared_abi::xen::Gfn;

/// A page that is held.
pub struct Frame(u64);

/// The guest's pages: all that are backed, free or held.
pub struct Pages {
    pub host: Rc<Host>,
    pub client: u16,
    pub ram: Rc<Ram>,
    free: Vec<u64>,
    absent: Vec<u64>,
}

impl Pages {
    /// A guest of `most` pages, of which `current` are backed.
    pub fn new(host: &Rc<Host>, client: u16, current: u64, most: u64) -> Self {
        let mut pages = Self {
            host: Rc::clone(host),
            client,
            ram: Rc::new(Ram::default()),
            free: Vec::new(),
            absent: (0..most).rev().collect(),
        };
        pages.ram.0.borrow_mut().resize_with(most as usize, || None);
        assert_eq!(pages.grow(current), current, "the host has the memory to build the guest");
        pages
    }

    pub fn current(&self) -> u64 {
        self.ram.0.borrow().len() as u64 - self.absent.len() as u64
    }

    /// The balloon gives pages back to the guest; how many it got.
    pub fn grow(&mut self, pages: u64) -> u64 {
        (0..pages)
            .take_while(|_| {
                let Some(page) = self.absent.last().copied().filter(|_| self.host.populate(self.client)) else {
                    return false;
                };
                self.absent.pop();
                self.ram.0.borrow_mut()[page as usize] = Some(Box::new([0xdead; 512]));
                self.free.push(page);
                true
            })
            .count() as u64
    }

    /// The balloon takes free pages; how many there were.
    pub fn shrink(&mut self, pages: u64) -> u64 {
        let given = self.free.split_off(self.free.len() - (pages as usize).min(self.free.len()));
        for page in &given {
            self.ram.0.borrow_mut()[*page as usize] = None;
            self.host.decrease(self.client);
        }
        let count = given.len() as u64;
        self.absent.extend(given);
        count
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let held = self.ram.0.borrow().iter().filter(|page| page.is_some()).count();
        (0..held).for_each(|_| self.host.decrease(self.client));
    }
}

impl PageSource for Pages {
    type Frame = Frame;

    fn take(&mut self) -> Option<Frame> {
        self.free.pop().map(Frame)
    }

    fn give(&mut self, frame: Frame) {
        self.free.push(frame.0);
    }

    fn free(&self) -> u64 {
        self.free.len() as u64
    }

    fn gfn(&self, frame: &Frame) -> Gfn {
        Gfn(frame.0)
    }

    fn with<R>(&mut self, frame: &mut Frame, work: impl FnOnce(&mut Words) -> R) -> R {
        work(self.ram.0.borrow_mut()[frame.0 as usize].as_mut().expect("a page that is held is backed"))
    }
}

/// A guest's memory.
pub type Guest = Memory<Pages, HostCalls>;

/// Small enough to run out of everything.
pub const CONFIG: Config = Config {
    seed: 77,
    pages: 256,
    watermarks: Watermarks { min: 4, low: 8, high: 12 },
    swap: 64,
    disk: Timing { seek_ns: 1000, page_ns: 100, queue_ns: 100_000 },
    contents: Contents { zero: 1, compressible: 8 },
    cleancache: true,
    frontswap: true,
    dirty: 20,
};

/// A guest on a host.
pub fn guest(host: &Rc<Host>, client: u16, current: u64, most: u64, config: Config) -> Guest {
    let pages = Pages::new(host, client, current, most);
    let calls = HostCalls::new(host, client, &pages.ram);
    Memory::new(pages, calls, Config { seed: config.seed + u64::from(client), ..config })
}
