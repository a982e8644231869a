//! This kernel's page cache and anonymous memory: the engine of `ebb-reclaim` over the page allocator and the hypercalls.
//!
//! Locking: a plain spin lock, threads only. Nobody sleeps with it; an operation answers when its I/O is done, and the
//! caller sleeps until then with the lock free. Inside it only the allocator's lock and hypercalls are used.
#![allow(unsafe_code)] // Contents of pages that are held.

use crate::page;
use ebb_guest_hypercall::{Errno, Gfn, tmem};
use ebb_guest_tmem::{Calls, PoolId, Uuid};
use ebb_reclaim::{Config, Memory, PageSource, Watermarks, Words};
use shared_abi::tmem::TmemOid;
use spin::Mutex;

/// When reclaim begins and ends. The highest is what the balloon leaves free, so that neither works against the other.
pub const WATERMARKS: Watermarks = Watermarks { min: 48, low: 80, high: crate::balloon::RESERVE };

/// The engine of this kernel.
pub type Engine = Memory<Pages, Hypercalls>;

static ENGINE: Mutex<Option<Engine>> = Mutex::new(None);

/// The page allocator.
#[derive(Debug)]
pub struct Pages(());

/// A page that was taken and not given back. Made only by [`Pages::take`].
#[derive(Debug)]
pub struct Frame(u64);

impl PageSource for Pages {
    type Frame = Frame;

    fn take(&mut self) -> Option<Frame> {
        page::take(0).map(Frame)
    }

    fn give(&mut self, frame: Frame) {
        page::give(frame.0, 0);
    }

    fn free(&self) -> u64 {
        page::free_pages()
    }

    fn gfn(&self, frame: &Frame) -> Gfn {
        Gfn(frame.0)
    }

    fn with<R>(&mut self, frame: &mut Frame, work: impl FnOnce(&mut Words) -> R) -> R {
        // SAFETY: the frame is held by the caller alone, who lends it for this call; nothing else refers to the page.
        work(unsafe { page::words(frame.0) })
    }
}

/// `tmem_op` itself.
#[derive(Debug)]
pub struct Hypercalls(());

impl Calls for Hypercalls {
    fn new_pool(&mut self, uuid: Uuid, flags: u32) -> Result<PoolId, Errno> {
        tmem::new_pool(uuid, flags).map(PoolId)
    }

    fn destroy_pool(&mut self, pool: PoolId) {
        // A pool that is gone already is as good.
        let _ = tmem::destroy_pool(pool.0);
    }

    fn put(&mut self, pool: PoolId, oid: TmemOid, index: u32, page: Gfn) -> Result<(), Errno> {
        match tmem::put(pool.0, oid, index, page) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Errno::EINVAL),
            Err(errno) => Err(errno),
        }
    }

    fn get(&mut self, pool: PoolId, oid: TmemOid, index: u32, page: Gfn) -> bool {
        // SAFETY: the engine gets into a frame that it has just taken, and nothing refers to its contents.
        let there = unsafe { tmem::get(pool.0, oid, index, page) };
        there == Ok(true)
    }

    fn flush_page(&mut self, pool: PoolId, oid: TmemOid, index: u32) {
        // Whatever the answer, the page is gone.
        let _ = tmem::flush_page(pool.0, oid, index);
    }

    fn flush_object(&mut self, pool: PoolId, oid: TmemOid) {
        let _ = tmem::flush_object(pool.0, oid);
    }
}

/// Starts the engine.
pub fn start(config: Config) {
    *ENGINE.lock() = Some(Memory::new(Pages(()), Hypercalls(()), config));
}

/// Works with the engine, when it was started.
pub fn with<R>(work: impl FnOnce(&mut Engine) -> R) -> Option<R> {
    ENGINE.lock().as_mut().map(work)
}
