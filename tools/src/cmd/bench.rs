//! `ebb bench`: a guest measures hypercalls in instructions, in a machine whose time counts them.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::accel::Accel;
use crate::archive::Check;
use crate::bench;
use crate::cmd::{Programs, exit_code, watched_options};
use crate::paths;
use crate::qemu::{Boot, Machine};
use crate::scenario::Scenario;
use crate::session::{self, Files, SessionEnd, Silent};

/// One processor, so that the figures for a kick and for ping-pong include the switch.
const SCENARIO: &str = include_str!("../../scenarios/bench.toml");

/// The options of `ebb bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// Where bench.json and bench.csv go
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,

    /// QEMU's processor model
    #[arg(long, value_name = "MODEL")]
    cpu_model: Option<String>,

    /// Stop after so many seconds of wall-clock time
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,

    #[command(flatten)]
    programs: Programs,
}

impl Bench {
    /// Measures and prints.
    ///
    /// # Errors
    /// The machine could not be started, or results not be written.
    pub fn run(&self) -> Result<ExitCode> {
        let files = Files::create(&self.out)?;
        let machine = self.machine(&files)?;
        eprintln!("Measuring in instructions (TCG, -icount shift=0); this takes a few minutes at most.");
        let timeout = Duration::from_secs(self.timeout);
        let session = session::run(&machine, Some(timeout), &mut Silent, &|| false)?;
        let rows = bench::rows(&session.model.benches);
        let start_up = bench::start_up(&session.model);
        println!("{}{}", bench::text(&rows), bench::start_up_text(start_up));
        self.write(&files, &rows, start_up)?;

        let missing = bench::missing(&rows);
        if missing.is_empty() && exit_code(session.end) == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        for line in session.console.iter().rev().take(20).rev() {
            eprintln!("  {line}");
        }
        match session.end {
            SessionEnd::Machine(end) => eprintln!("ebb: {end}"),
            _ => eprintln!("ebb: stopped after {} s", self.timeout),
        }
        if !missing.is_empty() {
            eprintln!("ebb: not measured: {}", missing.join("; "));
        }
        Ok(ExitCode::from(exit_code(session.end).max(1)))
    }

    fn machine(&self, files: &Files) -> Result<Machine> {
        let scenario = Scenario::parse(SCENARIO, PathBuf::new())?;
        let archive = crate::cmd::pack(&scenario.domains(), &self.programs.library(), Check::Images)?;
        let path = files.path("bench.tar");
        fs::write(&path, archive.to_bytes()?).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Machine {
            cpus: scenario.host.cpus,
            memory: scenario.host.memory,
            accel: Accel::Tcg,
            cpu_model: self.cpu_model.clone(),
            deterministic: true,
            boot: Boot::Pvh {
                hypervisor: paths::hypervisor(self.programs.hypervisor.as_deref())?,
                archive: Some(path),
                options: watched_options(&[&scenario.host.options], true),
            },
            console: files.path("bench-console.log"),
            keyboard: false,
            trace: files.path("bench-trace.bin"),
            messages: files.path("bench-qemu.log"),
            extra: Vec::new(),
        })
    }

    fn write(&self, files: &Files, rows: &[bench::Row], start_up: Option<u64>) -> Result<()> {
        let (csv, json) = (files.path("bench.csv"), files.path("bench.json"));
        let write = || {
            let mut out = BufWriter::new(File::create(&csv)?);
            bench::csv(rows, &mut out)?;
            out.flush()?;
            fs::write(&json, format!("{:#}\n", bench::json(rows, start_up)))
        };
        write().with_context(|| format!("cannot write {} or {}", csv.display(), json.display()))?;
        println!("Written: {}, {}", csv.display(), json.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_is_sound() {
        let scenario = Scenario::parse(SCENARIO, PathBuf::new()).unwrap();
        assert_eq!(scenario.host.cpus, 1);
        crate::scenario::check_fits(&scenario.domains(), 1 << 20, scenario.host.memory).unwrap();
    }
}
