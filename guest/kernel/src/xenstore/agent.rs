//! What the domain does because the store says so: the balloon follows `memory/target`, `control/shutdown` ends the
//! domain, and `data/memory` tells what it needs.
//!
//! A workload that has to tidy up first calls [`take_orders`], looks at [`order`] now and then, and returns when there is
//! one; the others are ended at once.

use super::{Client, client};
use crate::{balloon, clock, page, panic, println, start_info, thread};
use alloc::format;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use ebb_guest_logic::target::Target;
use ebb_xenbus::Error;
use shared_abi::Errno;

const MS: u64 = 1_000_000;

/// What the toolstack may ask for, of what a domain's tree has a node for.
const FEATURES: &[&str] = &["feature-poweroff", "feature-reboot"];

/// What the toolstack asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `poweroff`, `halt`.
    PowerOff,
    /// `reboot`.
    Reboot,
}

static ORDER: AtomicU8 = AtomicU8::new(0);
static TIDIES_UP: AtomicBool = AtomicBool::new(false);

/// The calling workload looks at [`order`] itself and returns soon after there is one.
pub fn take_orders() {
    TIDIES_UP.store(true, Ordering::SeqCst);
}

/// What the toolstack asked for.
pub fn order() -> Option<Order> {
    match ORDER.load(Ordering::SeqCst) {
        1 => Some(Order::PowerOff),
        2 => Some(Order::Reboot),
        _ => None,
    }
}

/// Ends the domain as it was asked to, or powers it off.
pub fn end() -> ! {
    match order() {
        Some(Order::Reboot) => panic::reboot(),
        _ => panic::power_off(),
    }
}

/// Starts following the domain's store, if there is one and `store=ignore` is not among the arguments.
pub fn start() -> Result<(), &'static str> {
    let Some(client) = client().filter(|_| start_info::args().get("store") != Some("ignore")) else {
        return Ok(());
    };
    balloon::start()?;
    // They run for ever.
    let _ = thread::spawn("orders", None, move || complain("control", follow_orders(client)))?;
    let _ = thread::spawn("target", None, move || complain("memory", follow_target(client)))?;
    Ok(())
}

/// Says why following ended.
pub fn complain(what: &str, result: Result<(), Error>) {
    if let Err(why) = result {
        println!("xenstore: {what}: {why}");
    }
}

/// Announces what the domain can do, then waits for orders.
fn follow_orders(client: &'static Client) -> Result<(), Error> {
    let store = client.store();
    // Watches of an earlier user of the ring; servers that do not know the request have no such user.
    let _ = store.reset_watches();
    for feature in FEATURES {
        store.write(&format!("control/{feature}"), b"1")?;
    }
    let watch = client.watch("control/shutdown")?;
    loop {
        watch.next(u64::MAX);
        let command = store.transaction(|inside| {
            let command = inside.read("control/shutdown")?;
            if !command.is_empty() {
                // Acknowledged.
                inside.write("control/shutdown", b"")?;
            }
            Ok(command)
        });
        let command = match command {
            Err(Error::Refused(Errno::ENOENT)) => continue,
            other => other?,
        };
        let order = match &command[..] {
            b"" => continue,
            b"poweroff" | b"halt" => 1,
            b"reboot" => 2,
            other => {
                println!("xenstore: no way to {}", other.escape_ascii());
                continue;
            }
        };
        println!("xenstore: asked to {}", command.escape_ascii());
        ORDER.store(order, Ordering::SeqCst);
        if !TIDIES_UP.load(Ordering::SeqCst) {
            end();
        }
    }
}

/// Has the balloon follow `memory/target`, and reports what the domain needs. For ever.
pub fn follow_target(client: &'static Client) -> Result<(), Error> {
    let store = client.store();
    // What the balloon began with: a workload may have moved it by now.
    let booted = page::layout().ram.iter().map(|range| range.len()).sum();
    let target = Target::new(store.read_number("memory/static-max").ok(), booted);
    let period = start_info::args().number("report", 500).unwrap_or(500).max(10) * MS;
    let watch = client.watch("memory/target")?;
    let mut reported = [None; 3];
    loop {
        // Only a workload that says what it wants has something new to say by itself.
        let deadline =
            if balloon::wish().is_some() || balloon::reclaimable() > 0 { clock::now() + period } else { u64::MAX };
        if watch.next(deadline).is_some() {
            match store.read_number("memory/target") {
                Ok(kib) => drop(balloon::set_limit(target.pages(kib))),
                // Not set (yet), or not a number: nothing to follow.
                Err(Error::Refused(Errno::ENOENT) | Error::Malformed) => {}
                Err(why) => return Err(why),
            }
        }
        report(client, &target, &mut reported)?;
    }
}

/// Writes those of the figures that changed since they were reported.
fn report(client: &Client, target: &Target, reported: &mut [Option<u64>; 3]) -> Result<(), Error> {
    let free = page::free_pages() + balloon::reclaimable();
    let used = balloon::stats().current.saturating_sub(free);
    let figures = [
        ("committed", Some(target.kib(used))),
        ("free", Some(free * 4)),
        ("wish", balloon::wish().map(|pages| target.kib(pages))),
    ];
    for ((name, figure), reported) in figures.into_iter().zip(reported) {
        if let Some(kib) = figure
            && figure != *reported
        {
            client.store().write(&format!("data/memory/{name}"), format!("{kib}").as_bytes())?;
            *reported = figure;
        }
    }
    Ok(())
}
