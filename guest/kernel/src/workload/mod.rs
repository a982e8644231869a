//! The workloads, by name.

mod hello;

use alloc::string::String;
use ebb_guest_logic::args::Args;

type Run = fn(Args<'static>) -> Result<(), String>;

/// Every workload and its name.
const WORKLOADS: &[(&str, Run)] = &[("hello", hello::run)];

/// Runs one.
pub fn run(name: &str, args: Args<'static>) -> Result<(), String> {
    match WORKLOADS.iter().find(|(known, _)| *known == name) {
        Some((_, run)) => run(args),
        None => Err(alloc::format!("there is no workload {name}")),
    }
}
