//! The rates of TSC and local APIC timer, measured against a clock of known rate over 10 ms.
#![allow(unsafe_code, reason = "timer registers")]

use crate::acpi::Register;
use crate::{apic, instr};

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub tsc_hz: u64,
    pub apic_hz: u64,
    /// The reference's name.
    pub reference: &'static str,
}

/// ACPI's PM timer (ACPI 6.5, 4.8.2.1).
const PM_HZ: u64 = 3_579_545;
const PM_MASK: u32 = 0x00ff_ffff;
/// The 8254's input clock.
const PIT_HZ: u64 = 1_193_182;
/// 10 ms of the PIT.
const PIT_COUNT: u16 = 11_932;

/// Reads of the reference without progress after which it counts as absent.
const PATIENCE: u32 = 1_000_000;

/// The three clocks at about the same moment.
#[derive(Clone, Copy)]
struct Sample {
    reference: u32,
    tsc: u64,
    apic: u32,
}

/// Measures; `None` when no reference runs or the result is absurd. At least 10 ms have passed on success.
pub(super) fn measure(pm_timer: Option<Register>) -> Option<Rates> {
    apic::start_timer_masked();
    let rates = pm_timer.and_then(with_pm_timer).or_else(with_pit);
    apic::stop_timer_unmask();
    rates.filter(|rates| rates.tsc_hz > 1_000_000 && rates.apic_hz > 1_000)
}

fn rates(first: Sample, last: Sample, ticks: u64, hz: u64, reference: &'static str) -> Rates {
    let per_second = |elapsed: u64| (elapsed as u128 * hz as u128 / ticks as u128) as u64;
    Rates {
        tsc_hz: per_second(last.tsc - first.tsc),
        // It counts down.
        apic_hz: per_second(first.apic.wrapping_sub(last.apic).into()),
        reference,
    }
}

fn with_pm_timer(timer: Register) -> Option<Rates> {
    let read: &dyn Fn() -> u32 = match timer {
        // SAFETY: reading the PM timer has no effect; the FADT says where it is.
        Register::Port(port) => &move || unsafe { instr::inl(port) } & PM_MASK,
        Register::Memory(address) => {
            let register = Register::map(address)?.cast::<u32>();
            // SAFETY: mapped just now; reading has no effect.
            &move || unsafe { register.read_volatile() } & PM_MASK
        }
    };
    let first = sample(read);
    let target = (PM_HZ / 100) as u32;
    let mut quiet = 0;
    let mut seen = first.reference;
    loop {
        let now = read();
        if now.wrapping_sub(first.reference) & PM_MASK >= target {
            break;
        }
        // Also lets an emulator that runs one processor at a time deliver the INITs just sent.
        core::hint::spin_loop();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
        if quiet > PATIENCE {
            return None;
        }
    }
    let last = sample(read);
    let ticks = last.reference.wrapping_sub(first.reference) & PM_MASK;
    Some(rates(first, last, ticks.into(), PM_HZ, "PM timer"))
}

/// The clocks right after the reference has gone to a new value: the quickest of a few attempts, the one least disturbed
/// between the reads.
fn sample(read: &dyn Fn() -> u32) -> Sample {
    let mut best = (u64::MAX, Sample { reference: 0, tsc: 0, apic: 0 });
    for _ in 0..4 {
        let old = read();
        let mut before = instr::rdtsc();
        let mut reference = read();
        for _ in 0..PATIENCE {
            if reference != old {
                break;
            }
            before = instr::rdtsc();
            reference = read();
        }
        let tsc = instr::rdtsc();
        let apic = apic::timer_count();
        if tsc - before < best.0 {
            best = (tsc - before, Sample { reference, tsc, apic });
        }
    }
    best.1
}

/// Channel 2 of the 8254, gated by port 0x61, counts down once; bit 5 of the port says that it has ended.
fn with_pit() -> Option<Rates> {
    let clocks = || Sample { reference: 0, tsc: instr::rdtsc(), apic: apic::timer_count() };
    // SAFETY: channel 2 drives only the speaker, which is kept off (bit 1).
    unsafe {
        let gate = instr::inb(0x61) & !3;
        instr::outb(0x61, gate);
        instr::outb(0x43, 0xb0);
        instr::outb(0x42, PIT_COUNT as u8);
        instr::outb(0x42, (PIT_COUNT >> 8) as u8);
        instr::outb(0x61, gate | 1);
        let first = clocks();
        let mut reads = 0;
        while instr::inb(0x61) & 0x20 == 0 {
            core::hint::spin_loop();
            reads += 1;
            if reads > PATIENCE {
                return None;
            }
        }
        let last = clocks();
        instr::outb(0x61, gate);
        Some(rates(first, last, PIT_COUNT.into(), PIT_HZ, "PIT"))
    }
}
