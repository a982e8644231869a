//! The benchmarks: `bench` runs all, `bench=3,17` some. Rows, names and numbers: `shared_abi::bench`.
//!
//! Each row is a number of samples between two reads of the TSC, after a warm-up, less the cost of the reads
//! themselves. Under QEMU's instruction counter the TSC counts instructions, and every run gives the same figures.
//! Rows that need a second vCPU are skipped without one; they mean what they say when both vCPUs share one processor.

mod events;
mod locks;
mod memory;
mod pair;
mod simple;
mod tmem;
mod xenstore;

use crate::{cpu, println, trace};
use alloc::string::String;
use alloc::vec::Vec;
use ebb_guest_logic::args::Args;
use ebb_guest_logic::median::{Summary, summarise};
use shared_abi::bench::{BenchId, TABLE};
use shared_abi::guest_event::{BenchResult, UNIT_CYCLES};

/// Samples of a row.
const SAMPLES: usize = 256;
/// Runs before the first sample.
const WARM_UP: usize = 32;

/// What a row gives: its samples, or why there are none.
type Outcome = Result<Vec<u64>, String>;

/// A row's function.
type Row = fn() -> Outcome;

/// Every row and its function.
const ROWS: &[(BenchId, Row)] = &[
    (BenchId::NULL_HYPERCALL, simple::null_hypercall),
    (BenchId::CPUID_EXIT, simple::cpuid),
    (BenchId::SEND_PENDING, events::send_pending),
    (BenchId::SEND_SELF_UPCALL, events::send_self),
    (BenchId::SEND_OTHER_PORT, events::send_other),
    (BenchId::POLL_PENDING, events::poll_pending),
    (BenchId::YIELD_ALONE, simple::yield_alone),
    (BenchId::SET_SINGLESHOT, simple::set_singleshot),
    (BenchId::CURRENT_RESERVATION, simple::current_reservation),
    (BenchId::XAPIC_READ, simple::xapic_read),
    (BenchId::DECREASE_4K, memory::decrease_page),
    (BenchId::POPULATE_4K, memory::populate_page),
    (BenchId::DECREASE_4K_OF_512, memory::decrease_list),
    (BenchId::POPULATE_4K_OF_512, memory::populate_list),
    (BenchId::DECREASE_2M, memory::decrease_extent),
    (BenchId::POPULATE_2M, memory::populate_extent),
    (BenchId::KICK_TO_WAKE, pair::kick_to_wake),
    (BenchId::PING_PONG_POLL, pair::ping_pong_poll),
    (BenchId::PING_PONG_HALT, pair::ping_pong_halt),
    (BenchId::XENSTORE_READ, xenstore::read),
    (BenchId::XENSTORE_TRANSACTION, xenstore::transaction),
    (BenchId::TMEM_PUT, tmem::put),
    (BenchId::TMEM_GET, tmem::get),
    (BenchId::TMEM_MISS, tmem::miss),
    (BenchId::TMEM_FLUSH, tmem::flush),
    (BenchId::NATIVE_LOCK, locks::native),
    (BenchId::PV_LOCK, locks::pv),
    (BenchId::MUTEX_LOCK, locks::mutex),
    (BenchId::BLOCK, pair::block),
    (BenchId::KICK, pair::kick),
];

/// The cost of reading the clock twice.
fn overhead() -> u64 {
    (0..64)
        .map(|_| {
            let start = cpu::rdtsc();
            cpu::rdtsc() - start
        })
        .min()
        .unwrap_or(0)
}

/// Time of `work`, TSC ticks.
#[inline(always)]
fn time<R>(work: impl FnOnce() -> R) -> (u64, R) {
    let start = cpu::rdtsc();
    let result = work();
    (cpu::rdtsc() - start, result)
}

/// Samples of a call that can be repeated as it is. An error ends the row.
fn repeat<E: core::fmt::Display>(mut call: impl FnMut() -> Result<(), E>) -> Outcome {
    let mut samples = Vec::with_capacity(SAMPLES);
    for round in 0..WARM_UP + SAMPLES {
        let (ticks, result) = time(&mut call);
        result.map_err(|why| alloc::format!("{why}"))?;
        if round >= WARM_UP {
            samples.push(ticks);
        }
    }
    Ok(samples)
}

fn report(id: BenchId, name: &str, summary: Summary) {
    println!(
        "bench: {:2} {:50} median {:9} min {:9} max {:9} of {}",
        id.0, name, summary.median, summary.min, summary.max, summary.samples
    );
    trace::report(&BenchResult {
        id: id.0,
        unit: UNIT_CYCLES,
        samples: summary.samples,
        min: summary.min,
        median: summary.median,
        max: summary.max,
    });
}

/// Is this row asked for?
fn wanted(args: Args<'static>, id: BenchId) -> bool {
    args.get("bench").is_none_or(|list| list.split(',').any(|number| number.parse() == Ok(id.0)))
}

/// Runs the benchmarks.
pub fn run(args: Args<'static>) -> Result<(), String> {
    let overhead = overhead();
    println!("bench: starting; reading the clock costs {overhead}");
    for (id, row) in ROWS.iter().filter(|(id, _)| wanted(args, *id)) {
        let name = id.row().map_or("?", |row| row.name);
        match row() {
            Ok(mut samples) => {
                samples.iter_mut().for_each(|sample| *sample = sample.saturating_sub(overhead));
                if let Some(summary) = summarise(&mut samples) {
                    report(*id, name, summary);
                }
            }
            Err(why) => println!("bench: {:2} {name}: skipped: {why}", id.0),
        }
    }
    println!("bench: done, {} rows", TABLE.len());
    Ok(())
}
