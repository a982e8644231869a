//! The clock and the timer; see the module above.
//!
//! The constants are written once by [`init`] on the boot processor, before others run, and then only read.

use super::calibrate;
use super::scale::Scale;
use crate::acpi::AcpiInfo;
use crate::{apic, cpu, instr};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Once;

pub use crate::instr::rdtsc;

const NS_PER_SECOND: u64 = 1_000_000_000;

struct Clock {
    tsc_khz: u64,
    tsc_to_ns: Scale,
    ns_to_tsc: Scale,
    tsc_to_apic: Scale,
    /// TSC of the boot processor at time 0.
    base: u64,
}

static CLOCK: Once<Clock> = Once::new();
/// TSC ticks spent waiting during bring-up, which the measure of bring-up leaves out.
static WAITED: AtomicU64 = AtomicU64::new(0);
static TSC_DEADLINE: AtomicBool = AtomicBool::new(false);
/// Whether a run shall repeat where instructions are counted (`deterministic`).
static REPEATS: AtomicBool = AtomicBool::new(false);
/// When a sleep until a deadline is over in a run that shall repeat: so many TSC ticks after the deadline.
const SETTLED: u64 = 512;

/// Nothing was found to calibrate against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoReference;

/// Takes note of a wait during bring-up that began at TSC `since`.
pub(crate) fn note_wait(since: u64) {
    WAITED.fetch_add(rdtsc().saturating_sub(since), Ordering::Relaxed);
}

/// All waits noted, in TSC ticks.
pub(crate) fn waited() -> u64 {
    WAITED.load(Ordering::Relaxed)
}

/// Decides the timer's mode; before the local APIC is initialised.
pub(crate) fn choose_timer() {
    let deadline = raw_cpuid::CpuId::new().get_feature_info().is_some_and(|features| features.has_tsc_deadline());
    TSC_DEADLINE.store(deadline, Ordering::Relaxed);
}

/// True when timers are armed by TSC value.
#[inline(always)]
pub fn uses_tsc_deadline() -> bool {
    TSC_DEADLINE.load(Ordering::Relaxed)
}

/// Calibrates TSC and local APIC timer: at least 10 ms pass. On the boot processor, once.
///
/// # Errors
/// [`NoReference`] when neither PM timer nor PIT runs.
pub(crate) fn init(acpi: &AcpiInfo) -> Result<&'static str, NoReference> {
    let start = rdtsc();
    let rates = calibrate::measure(acpi.pm_timer).ok_or(NoReference)?;
    note_wait(start);
    CLOCK.call_once(|| Clock {
        tsc_khz: (rates.tsc_hz + 500) / 1000,
        tsc_to_ns: Scale::new(rates.tsc_hz, NS_PER_SECOND),
        ns_to_tsc: Scale::new(NS_PER_SECOND, rates.tsc_hz),
        tsc_to_apic: Scale::new(rates.tsc_hz, rates.apic_hz),
        base: rdtsc(),
    });
    Ok(rates.reference)
}

#[inline(always)]
fn clock() -> &'static Clock {
    CLOCK.get().expect("time is used after it is calibrated")
}

/// This processor's TSC, corrected so that all processors agree.
#[inline(always)]
pub fn common_tsc() -> u64 {
    rdtsc().wrapping_add_signed(cpu::this_cpu().tsc_adjust().load(Ordering::Relaxed))
}

/// Nanoseconds since the clock was calibrated, the same on all processors.
#[inline(always)]
pub fn now_ns() -> u64 {
    let clock = clock();
    clock.tsc_to_ns.apply(common_tsc().saturating_sub(clock.base))
}

/// As [`now_ns`], 0 before there is a clock.
pub fn now_ns_or_zero() -> u64 {
    if CLOCK.is_completed() { now_ns() } else { 0 }
}

/// The TSC's rate in kHz.
#[inline(always)]
pub fn tsc_khz() -> u64 {
    clock().tsc_khz
}

/// The nanosecond at which [`common_tsc`] has the value `tsc`.
#[inline(always)]
pub fn tsc_to_ns(tsc: u64) -> u64 {
    let clock = clock();
    clock.tsc_to_ns.apply(tsc.saturating_sub(clock.base))
}

/// The value [`common_tsc`] has at nanosecond `ns`.
#[inline(always)]
pub fn ns_to_tsc(ns: u64) -> u64 {
    let clock = clock();
    clock.ns_to_tsc.apply(ns).saturating_add(clock.base)
}

/// Arms this processor's timer for `deadline`, in ns as [`now_ns`] counts, or disarms it.
///
/// It never fires early by more than the clocks' rounding, with one exception: a deadline further away than the local
/// APIC's 32-bit counter reaches fires when that ends, and the caller arms it again. A deadline in the past fires at
/// once. Arming what is armed already costs nothing.
#[inline]
pub fn arm_timer(deadline: Option<u64>) {
    let armed = cpu::this_cpu().timer_deadline();
    // 0 stands for none; nanosecond 0 is long past.
    let wanted = deadline.map_or(0, |ns| ns.max(1));
    if armed.load(Ordering::Relaxed) == wanted {
        return;
    }
    armed.store(wanted, Ordering::Relaxed);
    if wanted == 0 {
        if uses_tsc_deadline() {
            apic::set_timer_deadline(0)
        } else {
            apic::set_timer_count(0)
        }
        return;
    }
    let tsc = ns_to_tsc(wanted);
    if uses_tsc_deadline() {
        let own = tsc.wrapping_add_signed(-cpu::this_cpu().tsc_adjust().load(Ordering::Relaxed));
        apic::set_timer_deadline(own.max(1));
    } else {
        let left = tsc.saturating_sub(common_tsc());
        // Rounded up, so that the deadline has passed when it fires.
        let count = clock().tsc_to_apic.apply(left).saturating_add(1);
        apic::set_timer_count(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// From now on [`sleep`] ends at a time that does not depend on the emulator's threads.
pub fn repeat() {
    REPEATS.store(true, Ordering::Relaxed);
}

/// Sleeps until an interrupt, with interrupts on meanwhile.
///
/// When all processors sleep, QEMU lets time go on to the next deadline, and then by what the last one executed since the
/// emulator last looked at its time, or not, as its threads have it (docs/hardware.md). In a run that shall repeat, little
/// is left to execute then, and whoever was woken by a deadline goes on at a fixed time after it. The TSC counts
/// instructions there.
#[inline]
pub fn sleep() {
    if !REPEATS.load(Ordering::Relaxed) {
        return instr::wait_for_interrupt();
    }
    let deadline = cpu::this_cpu().timer_deadline().load(Ordering::Relaxed);
    let end = ns_to_tsc(deadline).saturating_add(SETTLED);
    // The emulator looks at its time for this.
    rdtsc();
    instr::wait_for_interrupt();
    let left = end.saturating_sub(common_tsc());
    // More is left when something else woke this processor.
    if left < SETTLED {
        instr::execute(left);
    }
}

/// Waits actively. Only for bring-up and the way down.
pub fn delay_us(us: u64) {
    let end = now_ns().saturating_add(us * 1000);
    while now_ns() < end {
        core::hint::spin_loop();
    }
}

/// Waits about `us` µs before or after there is a clock: I/O port reads take about a microsecond each.
pub(crate) fn rough_delay_us(us: u64) {
    for _ in 0..us {
        // The POST code port: reading it has no effect.
        #[expect(unsafe_code, reason = "a harmless port read as a delay")]
        // SAFETY: port 0x80 has no side effects on a PC.
        unsafe {
            instr::inb(0x80)
        };
    }
}
