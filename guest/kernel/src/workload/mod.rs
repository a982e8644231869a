//! The workloads, by name.

mod contend;
mod ending;
mod follow;
mod held;
mod hello;
mod hostile;
mod misuse;
mod reclaim;
mod tide;
mod tmem;

use alloc::string::String;
use ebb_guest_logic::args::Args;

type Run = fn(Args<'static>) -> Result<(), String>;

/// Every workload and its name.
const WORKLOADS: &[(&str, Run)] = &[
    ("hello", hello::run),
    ("control", crate::control::run),
    ("tide", tide::run),
    ("follow", follow::run),
    ("reclaim", reclaim::run),
    ("contend", contend::run),
    ("mutex", contend::run_tasks),
    ("spin", ending::spin),
    ("tripleflt", ending::triple_fault),
    ("flood-console", ending::flood_console),
    ("send-loop", ending::send_loop),
    ("unmap-all", ending::unmap_all),
    ("free-page-tables", ending::free_page_tables),
    ("hostile", hostile::run),
    ("misuse", misuse::run),
    ("hostile-tmem", tmem::hostile),
    ("hoard-tmem", tmem::hoard),
    ("crash", ending::crash),
    ("stack-overflow", ending::stack_overflow),
    ("reboot", ending::reboot),
    ("idle-forever", ending::idle_forever),
    ("halt", ending::halt),
];

/// Runs one.
pub fn run(name: &str, args: Args<'static>) -> Result<(), String> {
    match WORKLOADS.iter().find(|(known, _)| *known == name) {
        Some((_, run)) => run(args),
        None => Err(alloc::format!("there is no workload {name}")),
    }
}
