//! The balloon of this kernel: the balloon crate over the page allocator and the hypercalls, stepped by a thread.
//!
//! All RAM of the memory map is the balloon's to move, and the address space up to the domain's maximum starts absent.
//! The state is locked by a mutex: its holder makes hypercalls that take long, and who waits lets others run.
#![allow(unsafe_code)] // Giving pages away.

use crate::mutex::{self, Mutex};
use crate::thread::{self, ThreadId};
use crate::{clock, page, start_info, trace};
use alloc::vec;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use ebb_balloon::{Backing, Balloon, Batch, Extent, Host, Next, Outcome, PageSource, Presence, Region, Stats, Tuning};
use ebb_guest_hypercall::{Errno, Gfn, memory};
use ebb_guest_logic::frames::BLOCK_PAGES;
use shared_abi::guest_event::BalloonStatus;

/// Free pages the balloon leaves to the kernel.
pub const RESERVE: u64 = 128;

static BALLOON: Mutex<Option<Balloon<'static>>> = mutex::new("balloon", None);
/// What the domain wants, and what it may have at most: the target is the lower one, once one of them is set.
static WANTED: AtomicU64 = AtomicU64::new(u64::MAX);
static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
static THREAD: AtomicU64 = AtomicU64::new(0);
/// Pages in use that could be free at once: clean pages of files.
static RECLAIMABLE: AtomicU64 = AtomicU64::new(0);
/// Why the latest attempt fell short, for reports made after a new target and before its first attempt; 0: it did not.
static REASON: AtomicU16 = AtomicU16::new(0);

/// The page allocator as the balloon sees it.
struct Pages;

impl PageSource for Pages {
    fn take(&mut self, order: u32, out: &mut Batch) {
        while !out.is_full() {
            let Some(page) = page::take_sparing(order, RESERVE) else {
                return;
            };
            // There is room: the loop asked.
            let _ = out.push(Gfn(page));
        }
    }

    fn take_at(&mut self, extent: Extent) -> bool {
        page::take_at(extent.first.0, extent.order)
    }

    fn give_back(&mut self, extent: Extent, _backing: Backing) {
        page::give(extent.first.0, extent.order);
    }
}

/// The hypercalls as the balloon sees them.
struct Calls;

fn outcome(result: Result<usize, Errno>) -> Outcome {
    match result {
        Ok(done) => Outcome::done(done),
        Err(errno) => Outcome::refused(errno),
    }
}

impl Host for Calls {
    fn decrease_reservation(&mut self, extents: &[Gfn], order: u32) -> Outcome {
        // SAFETY: the balloon passes extents that it took from the allocator, so nobody uses them.
        outcome(unsafe { memory::decrease_reservation(extents, order) })
    }

    fn populate_physmap(&mut self, extents: &[Gfn], order: u32) -> Outcome {
        // SAFETY: the balloon passes extents that are absent, and only this lock's holder populates.
        outcome(unsafe { memory::populate_physmap(extents, order) })
    }

    fn exchange(&mut self, given: &[Gfn], given_order: u32, wanted: &[Gfn], wanted_order: u32) -> Outcome {
        // SAFETY: as above: the given extents are the allocator's former ones, the wanted ones lie at the same place.
        let (done, refused) = unsafe { memory::exchange(given, given_order, wanted, wanted_order) };
        Outcome { done, refused }
    }

    fn current_reservation(&mut self) -> Result<u64, Errno> {
        memory::current_reservation()
    }

    fn maximum_reservation(&mut self) -> Result<u64, Errno> {
        memory::maximum_reservation()
    }
}

/// Tells the balloon of the memory and starts its thread, unless that was done.
pub fn start() -> Result<(), &'static str> {
    if BALLOON.lock().is_some() {
        return Ok(());
    }
    let args = start_info::args();
    let layout = page::layout();
    let milliseconds = |key, default| args.number(key, default).unwrap_or(default) * 1_000_000;
    let tuning = Tuning {
        first_delay_ns: milliseconds("balloon-first", 250),
        longest_delay_ns: milliseconds("balloon-longest", 4000),
        superpages: args.get("balloon-superpages") != Some("off"),
        ..Tuning::DEFAULT
    };
    let regions = vec![Region::EMPTY; (layout.end / BLOCK_PAGES) as usize].leak();
    let mut balloon = Balloon::new(regions, tuning);
    for range in layout.ram.iter() {
        balloon
            .add_ram(Gfn(range.start), range.len(), Presence::Present)
            .map_err(|_| "the balloon does not take the memory map")?;
    }
    if !layout.growth.is_empty() {
        balloon
            .add_ram(Gfn(layout.growth.start), layout.growth.len(), Presence::Absent)
            .map_err(|_| "the balloon does not take the room to grow")?;
    }
    *BALLOON.lock() = Some(balloon);
    let handle = thread::spawn("balloon", None, run)?;
    THREAD.store(handle.id().to_bits(), Ordering::SeqCst);
    Ok(())
}

fn with<R>(work: impl FnOnce(&mut Balloon<'static>) -> R) -> R {
    work(BALLOON.lock().as_mut().expect("the balloon is started first"))
}

/// The balloon's thread.
fn run() {
    loop {
        let next = with(|balloon| {
            let now = clock::now();
            let next = balloon.step(now, &mut Pages, &mut Calls);
            REASON.store(balloon.stats().shortage.code(), Ordering::Relaxed);
            match next {
                Next::Idle => balloon.heal(now, &mut Pages, &mut Calls),
                Next::At(_) => next,
            }
        });
        match next {
            Next::At(at) if at <= clock::now() => thread::yield_now(),
            Next::At(at) => {
                thread::park_until(at);
            }
            Next::Idle => {
                thread::park_until(u64::MAX);
            }
        }
    }
}

/// Sets how many pages the domain wants to have; the target that was accepted.
pub fn set_target(pages: u64) -> u64 {
    WANTED.store(pages, Ordering::SeqCst);
    apply()
}

/// Sets how many pages the domain may have at most; the target that was accepted.
pub fn set_limit(pages: u64) -> u64 {
    LIMIT.store(pages, Ordering::SeqCst);
    apply()
}

/// Pages that the domain wants, when something in it has said so.
pub fn wish() -> Option<u64> {
    Some(WANTED.load(Ordering::SeqCst)).filter(|pages| *pages != u64::MAX)
}

/// Sets the least that the domain can live with: no target goes below.
pub fn set_floor(pages: u64) {
    with(|balloon| balloon.set_floor(pages));
}

/// Memory has become free: a wait is over.
pub fn retry() {
    with(|balloon| balloon.retry_now());
    wake();
}

/// Says how many pages in use could be free at once.
pub fn set_reclaimable(pages: u64) {
    RECLAIMABLE.store(pages, Ordering::Relaxed);
}

/// Pages in use that could be free at once.
pub fn reclaimable() -> u64 {
    RECLAIMABLE.load(Ordering::Relaxed)
}

fn apply() -> u64 {
    let (before, accepted) = with(|balloon| {
        let before = balloon.target();
        let wanted = WANTED.load(Ordering::SeqCst).min(LIMIT.load(Ordering::SeqCst));
        (before, balloon.set_target(wanted))
    });
    if accepted != before {
        wake();
    }
    accepted
}

fn wake() {
    if let Some(thread) = ThreadId::from_bits(THREAD.load(Ordering::SeqCst)) {
        thread::unpark(thread);
    }
}

/// The figures.
pub fn stats() -> Stats {
    with(|balloon| balloon.stats())
}

/// Waits until the domain has what it is to have; false when `timeout_ns` passes before.
pub fn wait_for_target(timeout_ns: u64) -> bool {
    let deadline = clock::now().saturating_add(timeout_ns);
    loop {
        let stats = stats();
        if stats.current == stats.target {
            return true;
        }
        if clock::now() >= deadline {
            return false;
        }
        thread::sleep(5_000_000);
    }
}

/// Reports the figures to the host tool.
pub fn report() {
    let stats = stats();
    let shortfall = stats.target.saturating_sub(stats.current);
    let reason = match stats.shortage.code() {
        0 if shortfall > 0 => REASON.load(Ordering::Relaxed),
        code => code,
    };
    let cut = |pages: u64| u32::try_from(pages).unwrap_or(u32::MAX);
    trace::report(&BalloonStatus {
        current: cut(stats.current),
        target: cut(stats.target),
        low: cut(stats.low),
        high: cut(stats.high),
        retries: stats.retries,
        // A shortfall in the host's eyes is memory that is wanted and not there.
        shortfall: cut(shortfall),
        reason,
        superpages_won: u16::try_from(stats.superpages_won).unwrap_or(u16::MAX),
    });
}
