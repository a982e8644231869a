//! Rows about giving memory away and getting it back.
#![allow(unsafe_code)] // Pages that come and go.

use super::{Outcome, SAMPLES, WARM_UP, time};
use crate::{page, thread};
use alloc::format;
use alloc::vec::Vec;
use ebb_guest_hypercall::{Errno, Gfn, memory};
use ebb_guest_logic::frames::{BLOCK_ORDER, BLOCK_PAGES};

/// Time for the hypervisor to clean pages while the domain sleeps, ns.
const SCRUB_TIME: u64 = 2_000_000;

/// Which of the two calls is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Decrease,
    Populate,
}

/// Gives an extent away and takes it back, many times; `pages` is what a sample is divided by.
fn cycle(extents: &[Gfn], order: u32, half: Half) -> Outcome {
    let mut samples = Vec::with_capacity(SAMPLES);
    let check = |result: Result<usize, Errno>| match result {
        Ok(done) if done == extents.len() => Ok(()),
        Ok(done) => Err(format!("only {done} of {} extents", extents.len())),
        Err(errno) => Err(format!("{errno}")),
    };
    for round in 0..WARM_UP + SAMPLES {
        // SAFETY: the pages were taken from the allocator and nobody uses them.
        let (given, result) = time(|| unsafe { memory::decrease_reservation(extents, order) });
        check(result)?;
        if half == Half::Populate {
            thread::sleep(SCRUB_TIME);
        }
        // SAFETY: the extents have just become absent.
        let (got, result) = time(|| unsafe { memory::populate_physmap(extents, order) });
        check(result)?;
        if round >= WARM_UP {
            samples.push(if half == Half::Decrease { given } else { got } / extents.len() as u64);
        }
    }
    Ok(samples)
}

/// Runs `cycle` on a fresh extent. What an error left absent is not given back to the allocator.
fn on_extent(half: Half, order: u32, count: u64) -> Outcome {
    let first = page::take(BLOCK_ORDER).ok_or("no free 2 MiB extent")?;
    let step = BLOCK_PAGES.min(1 << order);
    let extents: Vec<Gfn> = (0..count).map(|index| Gfn(first + index * step)).collect();
    let samples = cycle(&extents, order, half)?;
    page::give(first, BLOCK_ORDER);
    Ok(samples)
}

/// Giving one page.
pub fn decrease_page() -> Outcome {
    on_extent(Half::Decrease, 0, 1)
}

/// Getting one page.
pub fn populate_page() -> Outcome {
    on_extent(Half::Populate, 0, 1)
}

/// Giving 512 pages one by one, each.
pub fn decrease_list() -> Outcome {
    on_extent(Half::Decrease, 0, BLOCK_PAGES)
}

/// Getting 512 pages one by one, each.
pub fn populate_list() -> Outcome {
    on_extent(Half::Populate, 0, BLOCK_PAGES)
}

/// Giving a 2 MiB extent.
pub fn decrease_extent() -> Outcome {
    on_extent(Half::Decrease, BLOCK_ORDER, 1)
}

/// Getting a 2 MiB extent.
pub fn populate_extent() -> Outcome {
    on_extent(Half::Populate, BLOCK_ORDER, 1)
}
