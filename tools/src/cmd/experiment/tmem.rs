//! `ebb experiment tmem`: the same load under four ways to divide a host's memory, in machines whose time counts
//! instructions, so that the figures repeat.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::accel::Accel;
use crate::archive::Check;
use crate::bochs;
use crate::cmd::{Programs, exit_code, watched_options};
use crate::experiment::{self, CLAIMS, CONFIGURATIONS, Configuration, Disk, Figures};
use crate::paths;
use crate::qemu::{Boot, Machine};
use crate::session::{self, Files, Session, Silent};

/// The options of `ebb experiment tmem`.
#[derive(Args, Debug)]
pub struct Tmem {
    /// The disk under the guests, which is simulated
    #[arg(long, value_enum, default_value_t)]
    disk: Disk,

    /// Only this configuration (may be repeated): static, balloon, selfballoon, all
    #[arg(long = "only", value_name = "NAME")]
    only: Vec<String>,

    /// Where tables and plots go
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,

    /// QEMU's processor model
    #[arg(long, value_name = "MODEL")]
    cpu_model: Option<String>,

    /// Seconds of wall-clock time that one configuration may take
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,

    #[command(flatten)]
    programs: Programs,
}

impl Tmem {
    /// Runs the configurations one after the other, and prints what came of them.
    ///
    /// # Errors
    /// A machine could not be started or ended badly, or results not be written.
    pub fn run(&self) -> Result<ExitCode> {
        let files = Files::create(&self.out)?;
        let known = |name: &String| CONFIGURATIONS.iter().any(|configuration| configuration.name == name);
        if let Some(unknown) = self.only.iter().find(|name| !known(name)) {
            bail!("there is no configuration {unknown}");
        }
        let mut results = Vec::new();
        for configuration in CONFIGURATIONS {
            if !self.only.is_empty() && !self.only.iter().any(|name| name == configuration.name) {
                continue;
            }
            eprintln!("{}: {} ...", configuration.name, configuration.about);
            let session = self.session(&configuration, &files)?;
            results.push((configuration, self.result(&configuration, &session, &files)?));
        }
        println!("{}\n{CLAIMS}", experiment::text(&results));
        let path = files.path("tmem.csv");
        let mut out = BufWriter::new(File::create(&path)?);
        experiment::csv(&results, &mut out)?;
        out.flush()?;
        println!("Written: {}, and tmem-*.csv and tmem-*.svg beside it", path.display());
        Ok(ExitCode::SUCCESS)
    }

    fn session(&self, configuration: &Configuration, files: &Files) -> Result<Session> {
        let scenario = configuration.scenario(self.disk)?;
        let mut library = self.programs.library();
        let domains = scenario.to_boot(&mut library)?;
        let name = |what: &str| files.path(&format!("tmem-{}{what}", configuration.name));
        let path = name(".tar");
        let archive = crate::cmd::pack(&domains, &library, Check::Images)?.to_bytes()?;
        fs::write(&path, archive).with_context(|| format!("cannot write {}", path.display()))?;
        let machine = Machine {
            cpus: scenario.host.cpus,
            memory: scenario.host.memory,
            accel: Accel::Tcg,
            cpu_model: self.cpu_model.clone(),
            deterministic: true,
            mhz: bochs::MHZ,
            boot: Boot::Pvh {
                hypervisor: paths::hypervisor(self.programs.hypervisor.as_deref())?,
                archive: Some(path),
                options: watched_options(&[&scenario.host.options], true),
            },
            console: name("-console.log"),
            keyboard: false,
            trace: name("-trace.bin"),
            messages: name("-qemu.log"),
            extra: Vec::new(),
        };
        session::run(&machine, Some(Duration::from_secs(self.timeout)), &mut Silent, &|| false)
    }

    fn result(&self, configuration: &Configuration, session: &Session, files: &Files) -> Result<Figures> {
        let result = Figures::of(&session.model);
        if exit_code(session.end) != 0 || result.guests != 3 {
            for line in session.console.iter().rev().take(20).rev() {
                eprintln!("  {line}");
            }
            bail!("{}: {} of 3 guests reported, and it ended as {:?}", configuration.name, result.guests, session.end);
        }
        if !session.model.broken_ledgers.is_empty() {
            bail!("{}: a ledger did not add up", configuration.name);
        }
        let name = |what: &str| files.path(&format!("tmem-{}{what}", configuration.name));
        let mut out = BufWriter::new(File::create(name(".csv"))?);
        experiment::steps_csv(&session.model, &mut out)?;
        out.flush()?;
        let title = format!("{}: {}", configuration.name, configuration.about);
        experiment::write_plot(&session.model, &title, &name(".svg"))?;
        Ok(result)
    }
}
