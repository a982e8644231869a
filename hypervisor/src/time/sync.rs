//! Do the processors' TSCs agree? Each new processor exchanges a few messages with the boot processor, as clocks on a
//! network do, and corrects its TSC when the difference is more than the exchange's own uncertainty. Processors that
//! came out of reset together have the same TSC, and then nothing is changed.
//!
//! One processor at a time is started, so one set of words serves all.

use crate::{cpu, debug, instr, time};
use core::sync::atomic::{AtomicU64, Ordering};

/// Exchanges per processor.
const ROUNDS: u64 = 4;

/// The round the new processor asks for, the round answered, and the boot processor's TSC in the answer.
static ASKED: AtomicU64 = AtomicU64::new(0);
static ANSWERED: AtomicU64 = AtomicU64::new(0);
static ANSWER: AtomicU64 = AtomicU64::new(0);

/// On the boot processor: answers until `done`, at most `limit_us` µs. True when done.
pub(crate) fn serve_until(limit_us: u64, done: impl Fn() -> bool) -> bool {
    let start = instr::rdtsc();
    let end = time::now_ns().saturating_add(limit_us * 1000);
    let done = loop {
        let asked = ASKED.load(Ordering::Acquire);
        if asked != ANSWERED.load(Ordering::Relaxed) {
            ANSWER.store(instr::rdtsc(), Ordering::Relaxed);
            ANSWERED.store(asked, Ordering::Release);
        }
        if done() {
            break true;
        }
        if time::now_ns() > end {
            break false;
        }
        core::hint::spin_loop();
    };
    time::note_wait(start);
    done
}

/// On a new processor, before it reports that it is up.
pub(crate) fn measure_this_cpu() {
    let mut best = (u64::MAX, 0i64);
    // Numbers continue from the processor before, so that an answer is never an old one.
    let first = ANSWERED.load(Ordering::Acquire) + 1;
    for round in first..first + ROUNDS {
        let sent = instr::rdtsc();
        ASKED.store(round, Ordering::Release);
        while ANSWERED.load(Ordering::Acquire) != round {
            core::hint::spin_loop();
        }
        let received = instr::rdtsc();
        let middle = sent + (received - sent) / 2;
        let offset = ANSWER.load(Ordering::Relaxed).wrapping_sub(middle) as i64;
        if received - sent < best.0 {
            best = (received - sent, offset);
        }
    }
    let (round_trip, offset) = best;
    if offset.unsigned_abs() > round_trip {
        cpu::this_cpu().tsc_adjust().store(offset, Ordering::Relaxed);
        debug!("TSC of APIC id {} is off by {offset}, corrected", cpu::this_cpu().apic_id());
    }
}
