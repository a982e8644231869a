//! Rows about transcendent memory: a page that does not compress, in a private pool of 64 pages.
#![allow(unsafe_code)] // Gets into a page.

use super::{Outcome, SAMPLES, WARM_UP, time};
use crate::page;
use alloc::format;
use alloc::vec::Vec;
use ebb_guest_hypercall::{Errno, Gfn, tmem};
use ebb_guest_logic::rng::Rng;
use ebb_guest_tmem::EPHEMERAL_POOL;
use shared_abi::tmem::TmemOid;

/// Pages beside the measured one.
const OTHERS: u32 = 64;
const OID: TmemOid = TmemOid { oid: [1, 0, 0] };

/// The four calls, in the order in which a sample makes them.
#[derive(Clone, Copy)]
enum Call {
    Put,
    Get,
    Miss,
    Flush,
}

/// A put, a get that takes the page out, a get that misses, a put again and its flush: one of them is the sample.
fn sample(pool: u32, own: u64) -> Result<[u64; 4], Errno> {
    let (put, result) = time(|| tmem::put(pool, OID, 0, Gfn(own)));
    result?;
    // SAFETY: the page is the row's own, and nothing refers to it.
    let (get, result) = time(|| unsafe { tmem::get(pool, OID, 0, Gfn(own)) });
    let there = result?;
    // SAFETY: as above.
    let (miss, result) = time(|| unsafe { tmem::get(pool, OID, 0, Gfn(own)) });
    let again = result?;
    tmem::put(pool, OID, 0, Gfn(own))?;
    let (flush, result) = time(|| tmem::flush_page(pool, OID, 0));
    if there && !again && result? { Ok([put, get, miss, flush]) } else { Err(Errno::EINVAL) }
}

fn row(call: Call) -> Outcome {
    let own = page::take(0).ok_or("no memory")?;
    let pool = tmem::new_pool([0; 2], EPHEMERAL_POOL).map_err(|errno| format!("no pool: {errno}"))?;
    let mut rng = Rng::new(7);
    let mut fill = || {
        // SAFETY: the page was taken above, and the reference ends here.
        unsafe { page::words(own) }.iter_mut().for_each(|word| *word = rng.next_u64());
    };
    for index in 1..=OTHERS {
        fill();
        tmem::put(pool, OID, index, Gfn(own)).map_err(|errno| format!("{errno}"))?;
    }
    let mut samples = Vec::with_capacity(SAMPLES);
    for round in 0..WARM_UP + SAMPLES {
        fill();
        let ticks = sample(pool, own).map_err(|errno| format!("{errno}"))?;
        if round >= WARM_UP {
            samples.push(ticks[call as usize]);
        }
    }
    let _ = tmem::destroy_pool(pool);
    page::give(own, 0);
    Ok(samples)
}

/// A put.
pub fn put() -> Outcome {
    row(Call::Put)
}

/// A get that finds its page.
pub fn get() -> Outcome {
    row(Call::Get)
}

/// A get that does not.
pub fn miss() -> Outcome {
    row(Call::Miss)
}

/// A flush of a page.
pub fn flush() -> Outcome {
    row(Call::Flush)
}
