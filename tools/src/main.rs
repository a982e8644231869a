//! The `ebb` command: what is common to its subcommands is in the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ebb_tools::cmd;

/// Packs, runs, watches and measures Ebb, a micro-hypervisor with the Xen ABI
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a machine in QEMU and watch memory move between its guests
    #[command(after_help = EXITS)]
    Run(Box<cmd::run::Run>),
    /// Measure the hypercalls in instructions, beside Xen's figures
    Bench(Box<cmd::bench::Bench>),
    /// Compare ways to divide a host's memory, or locks under overcommit: tables and plots
    Experiment(Box<cmd::experiment::Experiment>),
    /// Pack a scenario or a list of domains into a boot archive
    Pack(cmd::pack::Pack),
    /// Make a disc image that boots by BIOS and UEFI
    Iso(cmd::iso::Iso),
    /// Fetch the distribution's Linux kernel through apt and unpack it, or unpack a bzImage
    Kernel(cmd::kernel::KernelArgs),
    /// Show a recorded trace as text, CSV or for Perfetto
    Trace(cmd::trace::Trace),
}

const EXITS: &str = "Exit status: 0 all domains ended well; 1 an error of this tool; 2 wrong usage; 3 a domain crashed; \
                     4 the hypervisor panicked; 5 Ebb could not start; 6 --timeout; 7 the machine was reset, powered off \
                     or QEMU failed; 130 stopped by Ctrl-C.";

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(run) => run.run(),
        Command::Bench(bench) => bench.run(),
        Command::Experiment(experiment) => experiment.run(),
        Command::Pack(pack) => pack.run(),
        Command::Iso(iso) => iso.run(),
        Command::Kernel(kernel) => kernel.run(),
        Command::Trace(trace) => trace.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ebb: {error:#}");
        ExitCode::FAILURE
    })
}
