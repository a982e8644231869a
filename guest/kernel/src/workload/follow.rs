//! `workload=follow`: holds all memory that the domain has, and does what the store says.
//!
//! The balloon follows `memory/target` (`xenstore::agent`). Whatever it brings is taken, filled and held; when it has to
//! give, the held pages are checked and given back. Each target that was reached is a stage (`data/stage` counts them, the
//! memory at the start being the first), for which lines of the control script can wait. Ends when the store asks for it, or after `duration=` ms (0 or
//! absent: never). `tick=` in ms (default 50), `sample=` in ms (default 500; how often it reports), `seed=`.

use super::held::Held;
use crate::xenstore::{self, agent};
use crate::{balloon, clock, page, println, thread, trace};
use alloc::format;
use alloc::string::String;
use ebb_guest_logic::args::Args;
use shared_abi::guest_event::Workload;

const MS: u64 = 1_000_000;
/// Free pages that are left for the kernel to work with, and for the balloon to take without waiting.
const SLACK: u64 = 512;

/// What to hold when `held` pages are held, `free` are free and the balloon is to give `excess`.
fn wish(held: u64, free: u64, excess: u64) -> u64 {
    (held + free).saturating_sub(SLACK + excess)
}

fn report(held: &Held, wish: u64) {
    trace::report(&Workload {
        phase: 0,
        wish_pages: wish as u32,
        held_pages: held.count() as u32,
        verified_pages: held.verified as u32,
    });
    balloon::report();
}

/// Says when a target has been reached.
#[derive(Default)]
struct Reached {
    target: Option<u64>,
    count: u32,
}

impl Reached {
    fn note(&mut self, held: u64) {
        let stats = balloon::stats();
        if stats.current == stats.target && self.target != Some(stats.target) {
            println!("follow: has {} pages as told, holds {held}", stats.current);
            self.target = Some(stats.target);
            self.count += 1;
            self.tell();
        } else if stats.current != stats.target {
            self.target = None;
        }
    }

    fn tell(&self) {
        let Some(client) = xenstore::client() else { return };
        if let Err(why) = client.store().write("data/stage", format!("{}", self.count).as_bytes()) {
            println!("follow: the stage cannot be told: {why}");
        }
    }
}

/// Runs the workload.
pub fn run(args: Args<'static>) -> Result<(), String> {
    let number =
        |key, default| args.number(key, default).map_err(|bad| format!("{}={} is no number", bad.key, bad.value));
    let (duration, tick) = (number("duration", 0)?, number("tick", 50)?.max(1) * MS);
    let (sample, seed) = (number("sample", 500)?.max(1) * MS, number("seed", 1)?);
    balloon::start()?;
    agent::take_orders();
    let mut held = Held::new(seed, balloon::stats().total);
    println!("follow: starting, {}", if xenstore::client().is_some() { "with a store" } else { "without a store" });
    let start = clock::now();
    let end = if duration == 0 { u64::MAX } else { start + duration * MS };
    let (mut reached, mut reported) = (Reached::default(), 0);
    while clock::now() < end && agent::order().is_none() {
        let stats = balloon::stats();
        let wish = wish(held.count(), page::free_pages(), stats.current.saturating_sub(stats.target));
        held.shrink(wish)?;
        held.grow(wish);
        held.look()?;
        reached.note(held.count());
        if clock::now() >= reported {
            report(&held, wish);
            reported = clock::now() + sample;
        }
        thread::sleep(tick);
    }
    held.shrink(0)?;
    report(&held, 0);
    println!("follow: done: {} pages verified", held.verified);
    Ok(())
}
