//! `workload=tide`: a need for memory that rises and falls, with the balloon following it.
//!
//! Arguments: `min=` and `max=` (the need at its lowest and highest, default 1/8 and 1/2 of the memory), `period=`,
//! `phase=`, `duration=` in ms (default 20000, 0, 60000), `slack=` (free pages wanted beside the need, default 2 MiB),
//! `seed=`, `tick=` in ms (default 50), `sample=` in ms (default 500; how often it reports). With a store, it has at
//! most what `memory/target` says and reports what it wants; the store may ask it to end.
//!
//! The pages that are needed are really held: each is filled with a pattern of its own when it is taken, looked at now
//! and then, and checked before it is given back. A wrong one ends the domain as crashed.

use super::held::Held;
use crate::xenstore::agent;
use crate::{balloon, clock, page, println, thread, trace};
use alloc::format;
use alloc::string::String;
use ebb_guest_logic::args::Args;
use ebb_guest_logic::frames::BLOCK_PAGES;
use ebb_guest_logic::wave::Wave;
use shared_abi::guest_event::Workload;

const MS: u64 = 1_000_000;

struct Tide {
    wave: Wave,
    duration_ms: u64,
    tick_ms: u64,
    sample_ms: u64,
    slack: u64,
    /// Pages of the domain that the kernel itself uses.
    kernel: u64,
}

impl Tide {
    fn parse(args: Args<'static>) -> Result<(Self, u64), String> {
        let bad = |bad: ebb_guest_logic::args::BadValue<'_>| format!("{}={} is no number", bad.key, bad.value);
        let all = balloon::stats().total;
        let wave = Wave {
            low: args.pages("min", all / 8).map_err(bad)?,
            high: args.pages("max", all / 2).map_err(bad)?,
            period_ms: args.number("period", 20_000).map_err(bad)?,
            phase_ms: args.number("phase", 0).map_err(bad)?,
        };
        let tide = Self {
            wave,
            duration_ms: args.number("duration", 60_000).map_err(bad)?,
            tick_ms: args.number("tick", 50).map_err(bad)?.max(1),
            sample_ms: args.number("sample", 500).map_err(bad)?.max(1),
            slack: args.pages("slack", BLOCK_PAGES).map_err(bad)?,
            kernel: balloon::stats().current.saturating_sub(page::free_pages()),
        };
        Ok((tide, args.number("seed", 1).map_err(bad)?))
    }

    fn report(&self, now_ms: u64, wish: u64, held: &Held) {
        trace::report(&Workload {
            phase: (now_ms * 2 / self.wave.period_ms.max(1)) as u32,
            wish_pages: wish as u32,
            held_pages: held.count() as u32,
            verified_pages: held.verified as u32,
        });
        balloon::report();
    }

    /// One tick: follows the wave, sets the balloon's target; the wish.
    fn tick(&self, now_ms: u64, held: &mut Held) -> Result<u64, String> {
        let wish = self.wave.at(now_ms);
        held.shrink(wish)?;
        balloon::set_target(self.kernel + wish + self.slack);
        held.grow(wish);
        held.look()?;
        Ok(wish)
    }
}

/// Says when the domain becomes short of memory and when it is whole again. Being short means that a tenth of the
/// wish, and more than the wave moves in a few ticks, is missing.
struct Shortness(bool);

impl Shortness {
    fn note(&mut self, wish: u64, held: u64) {
        let missing = wish.saturating_sub(held);
        let short = if self.0 { missing > 0 } else { missing > wish / 10 && missing > BLOCK_PAGES };
        if short != self.0 {
            self.0 = short;
            let stats = balloon::stats();
            if short {
                println!(
                    "tide: short: {held} of {wish} pages held, {} of {} pages there ({:?})",
                    stats.current, stats.target, stats.shortage
                );
            } else {
                println!("tide: whole again: {held} pages held");
            }
        }
    }
}

/// Runs the workload.
pub fn run(args: Args<'static>) -> Result<(), String> {
    balloon::start()?;
    let (tide, seed) = Tide::parse(args)?;
    let mut held = Held::new(seed, tide.wave.high);
    agent::take_orders();
    println!(
        "tide: {} to {} pages every {} ms for {} ms; the kernel uses {}",
        tide.wave.low, tide.wave.high, tide.wave.period_ms, tide.duration_ms, tide.kernel
    );
    let mut shortness = Shortness(false);
    let start = clock::now();
    let mut reported = 0;
    loop {
        let now_ms = (clock::now() - start) / MS;
        if now_ms >= tide.duration_ms || agent::order().is_some() {
            break;
        }
        let wish = tide.tick(now_ms, &mut held)?;
        shortness.note(wish, held.count());
        if now_ms >= reported {
            tide.report(now_ms, wish, &held);
            reported = now_ms - now_ms % tide.sample_ms + tide.sample_ms;
        }
        let next = (now_ms / tide.tick_ms + 1) * tide.tick_ms;
        thread::sleep_until(start + next * MS);
    }
    held.shrink(0)?;
    tide.report(tide.duration_ms, 0, &held);
    let stats = balloon::stats();
    println!(
        "tide: done: {} pages verified, {} given, {} got, {} attempts fell short",
        held.verified, stats.pages_given, stats.pages_got, stats.retries_total
    );
    Ok(())
}
