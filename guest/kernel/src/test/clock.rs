//! The PV clock and the timers behind `sleep`.

use super::{Outcome, Test};
use crate::{check, clock, cpu, events, smp, thread};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb_guest_hypercall::hvm;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("clock-monotonic", monotonic),
    ("clock-rate", rate),
    ("clock-wall", wall),
    ("clock-sleep", sleep),
    ("clock-between-vcpus", between),
    ("clock-get-time", get_time),
];

const MS: u64 = 1_000_000;

fn monotonic() -> Outcome {
    let mut last = clock::now();
    for _ in 0..20_000 {
        let now = clock::now();
        check!(now >= last, "the clock went back by {} ns", last - now);
        last = now;
    }
    Ok(())
}

fn rate() -> Outcome {
    let khz = clock::tsc_khz();
    check!(khz > 100_000, "the clock's scale means a TSC of {khz} kHz");
    // Each reading of the clock between two of the TSC: however long anything takes in between.
    let read = || (cpu::rdtsc(), clock::now(), cpu::rdtsc());
    let (first, from, second) = read();
    clock::spin(20 * MS);
    let (third, to, fourth) = read();
    let (time, ns) = (to - from, |ticks: u64| ticks * 1_000_000 / khz);
    let (least, most) = (ns(third - second), ns(fourth - first));
    check!(
        least - least / 50 <= time && time <= most + most / 50,
        "by {khz} kHz from {least} to {most} ns have passed, but the clock moved by {time}"
    );
    Ok(())
}

fn wall() -> Outcome {
    // 2020 to 2100.
    let (seconds, nanoseconds) = clock::wall();
    check!((1_577_836_800..4_102_444_800).contains(&seconds), "the wall clock says {seconds}");
    check!(nanoseconds < 1_000_000_000, "{nanoseconds} nanoseconds");
    Ok(())
}

fn sleep() -> Outcome {
    for ms in [1, 5, 20] {
        let start = clock::now();
        thread::sleep(ms * MS);
        let slept = clock::now() - start;
        check!(slept >= ms * MS, "slept {slept} ns instead of {ms} ms");
        check!(slept < 5_000 * MS, "slept {slept} ns instead of {ms} ms");
    }
    Ok(())
}

/// A time that was read before, on another vCPU, is not in the future. Without the hypervisor's word that all TSCs
/// agree, a little is allowed for.
fn between() -> Outcome {
    if smp::online() < 2 {
        return Err(super::Stop::Skip("it takes two vCPUs".into()));
    }
    let flags = events::vcpu_info(0).time.flags.load(Ordering::Relaxed);
    let tolerance = if flags & shared_abi::xen::shared_info::PVCLOCK_TSC_STABLE_BIT != 0 { 0 } else { MS };
    let shared = Arc::new(AtomicU64::new(clock::now()));
    let worst = Arc::new(AtomicU64::new(0));
    let mut threads = alloc::vec::Vec::new();
    for cpu in 0..2 {
        let (shared, worst) = (shared.clone(), worst.clone());
        threads.push(thread::spawn("clock", Some(cpu), move || {
            for round in 0..5_000 {
                let other = shared.load(Ordering::SeqCst);
                let now = clock::now();
                worst.fetch_max(other.saturating_sub(now), Ordering::SeqCst);
                shared.fetch_max(now, Ordering::SeqCst);
                if round % 100 == 0 {
                    let _ = ebb_guest_hypercall::sched::yield_now();
                }
            }
        })?);
    }
    threads.into_iter().for_each(thread::JoinHandle::join);
    let worst = worst.load(Ordering::SeqCst);
    check!(worst <= tolerance, "a time from another vCPU was {worst} ns in the future");
    Ok(())
}

/// The clock before and after a reading of the domain's time: the reading lies in between.
fn read_time() -> Result<(u64, u64, u64), super::Stop> {
    let before = clock::now();
    let time = hvm::get_time()?;
    Ok((before, time, clock::now()))
}

fn get_time() -> Outcome {
    let (start_before, first, start_after) = read_time()?;
    thread::sleep(5 * MS);
    let (end_before, second, end_after) = read_time()?;
    let moved = second - first;
    let (least, most) = (end_before - start_after, end_after - start_before);
    check!(
        (least - least / 50..=most + most / 50).contains(&moved),
        "HVMOP_get_time moved by {moved} ns in {least} to {most}"
    );
    Ok(())
}
