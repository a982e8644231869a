//! `ebb experiment`: series of machines whose figures stand beside published ones.

pub mod locks;
pub mod tmem;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

/// The options of `ebb experiment`.
#[derive(Args, Debug)]
pub struct Experiment {
    #[command(subcommand)]
    which: Which,
}

/// What can be tried.
#[derive(Subcommand, Debug)]
enum Which {
    /// Divide a host's memory in four ways under the same load: statically, by balloon, by selfballoon, and with all of
    /// transcendent memory
    Tmem(tmem::Tmem),
    /// Contend for each lock of the laboratory at rising overcommit: throughput, fairness, waits, preemptions
    Locks(locks::Locks),
}

impl Experiment {
    /// Runs it.
    ///
    /// # Errors
    /// A machine could not be started or ended badly, or results not be written.
    pub fn run(&self) -> Result<ExitCode> {
        match &self.which {
            Which::Tmem(tmem) => tmem.run(),
            Which::Locks(locks) => locks.run(),
        }
    }
}
