//! Selfballooning and frontswap-selfshrinking: a thread that calls `ebb-selfballoon` once an interval and hands the
//! results to the balloon and to the engine of `reclaim`. It also makes room when the balloon is to give memory and
//! there are no free pages, whoever set the target.
//!
//! Tunables come from the kernel's arguments, by the names of Linux's driver, and from the store: each has a node
//! `data/selfballoon/NAME`, and what is written there applies at once, or is written over with what applies.
//!
//! Locking: `TUNABLES` is a leaf. The locks of the engine and of the balloon are taken one after the other, never both.

use crate::thread::{self, ThreadId};
use crate::xenstore::{self, Client, agent};
use crate::{balloon, clock, page, println, reclaim, start_info, trace};
use alloc::format;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebb_guest_logic::args::Args;
use ebb_reclaim::Figures;
use ebb_selfballoon::{Boot, Inputs, SelfShrink, Step, Tunables, Why, relief, step};
use ebb_xenbus::Error;
use shared_abi::guest_event::SelfballoonStep;
use spin::Mutex;

const MS: u64 = 1_000_000;
/// How often room is made for the balloon, ns.
const TICK: u64 = 20 * MS;
/// Pages reclaimed, or brought back, with the engine's lock held.
const BATCH: u64 = 64;
/// Free pages that the kernel needs beside the balloon's reserve: its heap grows by so many.
const HEAP: u64 = 64;

static TUNABLES: Mutex<Tunables> = Mutex::new(Tunables::DEFAULT);
static THREAD: AtomicU64 = AtomicU64::new(0);
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// What the arguments say: `noselfballooning`, `noselfshrink`, tunables by name, and `verbose`: print each step.
fn tunables(args: Args<'static>, tmem: bool) -> Result<Tunables, alloc::string::String> {
    let boot =
        Boot { tmem, no_selfballooning: args.flag("noselfballooning"), no_selfshrink: args.flag("noselfshrink") };
    let mut tunables = Tunables::at_boot(boot);
    for name in Tunables::NAMES {
        if let Some(value) = args.get(name) {
            tunables.set(name, value).map_err(|why| format!("{name}={value}: {why}"))?;
        }
    }
    Ok(tunables)
}

/// Starts the loops, beside the balloon and the engine. `tmem`: transcendent memory is used.
pub fn start(tmem: bool) -> Result<(), alloc::string::String> {
    let args = start_info::args();
    let tunables = tunables(args, tmem)?;
    *TUNABLES.lock() = tunables;
    VERBOSE.store(args.flag("verbose"), Ordering::Relaxed);
    println!(
        "selfballoon: {}, selfshrinking {}, every {} ms, down 1/{}, up 1/{}, frontswap 1/{} after {}",
        if tunables.selfballooning { "on" } else { "off" },
        if tunables.selfshrinking { "on" } else { "off" },
        tunables.interval_ns / MS,
        tunables.down_hysteresis,
        tunables.up_hysteresis,
        tunables.frontswap_hysteresis,
        tunables.frontswap_inertia
    );
    let handle = thread::spawn("selfballoon", None, run)?;
    THREAD.store(handle.id().to_bits(), Ordering::SeqCst);
    if let Some(client) = xenstore::client().filter(|_| args.get("store") != Some("ignore")) {
        // It runs for ever.
        let _ = thread::spawn("tunables", None, move || agent::complain("selfballoon", follow(client)))?;
    }
    Ok(())
}

/// The figures now.
fn inputs(figures: &Figures) -> Inputs {
    let (stats, layout) = (balloon::stats(), page::layout());
    // The first MiB, the image, and the allocator's own records: RAM that it does not manage.
    let total = stats.current.saturating_sub(layout.ram.total() - layout.managed.total());
    Inputs {
        committed: figures.committed,
        current: stats.current,
        total,
        unreclaimable: total.saturating_sub(page::free_pages() + figures.file + figures.anon),
        reserve: balloon::RESERVE + HEAP,
        swap: figures.swap,
        most: stats.total,
    }
}

fn inputs_now() -> Inputs {
    inputs(&reclaim::with(|engine| engine.figures()).unwrap_or_default())
}

/// Whether so many pages more may be promised with the memory there is.
pub fn may_commit(pages: u64) -> bool {
    inputs_now().may_commit(pages)
}

/// An allocation finds `pages` too few: the balloon is to get them. Whether it did within `patience` ns.
pub fn relieve(pages: u64, patience: u64) -> bool {
    let inputs = inputs_now();
    let step = relief(&TUNABLES.lock(), &inputs, pages);
    if step.target <= step.current {
        return false;
    }
    balloon::set_target(step.target);
    report(&step, &inputs, 0, 0);
    balloon::wait_for_target(patience)
}

/// The thread.
fn run() {
    let (mut shrink, mut next, mut said) = (SelfShrink::new(), clock::now(), Why::Off);
    loop {
        let now = clock::now();
        let interval = TUNABLES.lock().interval_ns;
        if now >= next {
            said = one_step(&mut shrink, said);
            next = now.saturating_add(interval);
        }
        // An interval that was made shorter applies at once.
        next = next.min(now.saturating_add(interval));
        make_room();
        thread::park_until(next.min(clock::now() + TICK));
    }
}

/// One interval's work.
fn one_step(shrink: &mut SelfShrink, said: Why) -> Why {
    let tunables = *TUNABLES.lock();
    let Some(figures) = reclaim::with(|engine| engine.figures()) else { return said };
    let inputs = inputs(&figures);
    balloon::set_floor(inputs.floor());
    balloon::set_reclaimable(figures.file - figures.dirty);
    let step = step(&tunables, &inputs);
    if step.why != Why::Off && step.target != step.current {
        balloon::set_target(step.target);
    }
    let target = shrink.step(&tunables, figures.frontswap);
    report(&step, &inputs, figures.frontswap, shrink.waiting());
    if step.why != said || VERBOSE.load(Ordering::Relaxed) {
        println!(
            "selfballoon: goal {} current {} step {} target {}: {}",
            step.goal,
            step.current,
            step.pages(),
            step.target,
            step.why.name()
        );
    }
    if let Some(target) = target {
        bring_back(target);
    }
    step.why
}

fn report(step: &Step, inputs: &Inputs, frontswap: u64, waiting: u64) {
    let cut = |pages: u64| u32::try_from(pages).unwrap_or(u32::MAX);
    trace::report(&SelfballoonStep {
        goal: cut(step.goal),
        current: cut(step.current),
        target: cut(step.target),
        committed: cut(inputs.committed),
        floor: cut(inputs.floor()),
        frontswap: cut(frontswap),
        why: step.why.code(),
        waiting: u16::try_from(waiting).unwrap_or(u16::MAX),
    });
}

/// Partial swapoff, until `target` pages are left in frontswap or there is no room.
fn bring_back(target: u64) {
    loop {
        match reclaim::with(|engine| engine.shrink_frontswap(clock::now(), target, BATCH)) {
            Some(Ok((pages @ 1.., done))) => {
                thread::sleep_until(done);
                if pages < BATCH {
                    return;
                }
            }
            None | Some(Ok(_)) => return,
            Some(Err(failure)) => {
                // Wrong pages are told by whoever touches them; a shortage ends the shrink.
                println!("selfballoon: frontswap does not shrink: {failure:?}");
                return;
            }
        }
    }
}

/// Reclaims what the balloon is to give and does not find free.
fn make_room() {
    let stats = balloon::stats();
    let excess = stats.current.saturating_sub(stats.target);
    let mut missing = (excess + balloon::RESERVE).saturating_sub(page::free_pages());
    if excess == 0 || missing == 0 {
        return;
    }
    while missing > 0 {
        match reclaim::with(|engine| engine.reclaim(clock::now(), missing.min(BATCH))) {
            Some(Ok((pages @ 1.., done))) => {
                missing -= pages.min(missing);
                thread::sleep_until(done);
                thread::yield_now();
            }
            None | Some(Ok(_)) => break,
            Some(Err(failure)) => {
                println!("selfballoon: reclaim for the balloon: {failure:?}");
                break;
            }
        }
    }
    balloon::retry();
}

/// Follows the tunables in the store: `data/selfballoon/NAME`.
fn follow(client: &'static Client) -> Result<(), Error> {
    let store = client.store();
    for name in Tunables::NAMES {
        write_back(client, name)?;
    }
    let watch = client.watch("data/selfballoon")?;
    loop {
        let Some(path) = watch.next(u64::MAX) else { continue };
        let name = core::str::from_utf8(&path).ok().and_then(|path| path.rsplit('/').next()).unwrap_or("");
        let Some(name) = Tunables::NAMES.into_iter().find(|known| *known == name) else { continue };
        let Ok(value) = store.read(&format!("data/selfballoon/{name}")) else { continue };
        let Ok(value) = core::str::from_utf8(&value) else { continue };
        if TUNABLES.lock().get(name).is_some_and(|now| value.parse() == Ok(now)) {
            continue;
        }
        let outcome = TUNABLES.lock().set(name, value);
        match outcome {
            Ok(()) => println!("selfballoon: {name} is {value}"),
            Err(why) => {
                println!("selfballoon: {name} is not {value}: {why}");
                write_back(client, name)?;
            }
        }
        if let Some(thread) = ThreadId::from_bits(THREAD.load(Ordering::SeqCst)) {
            thread::unpark(thread);
        }
    }
}

/// Writes what applies.
fn write_back(client: &Client, name: &str) -> Result<(), Error> {
    let value = TUNABLES.lock().get(name).unwrap_or_default();
    client.store().write(&format!("data/selfballoon/{name}"), format!("{value}").as_bytes())
}
