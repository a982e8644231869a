//! `ebb experiment locks`: the overcommit experiment. Guests contend for each lock of the laboratory at rising numbers of
//! vCPUs for each processor; throughput, fairness, waits and preemptions become a table, `locks.csv` and plots.
//!
//! It takes no more wall-clock time than it is given: what a machine had reported when its time was up counts.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use shared_abi::guest_event::LOCKS;

use crate::accel::Accel;
use crate::archive::Check;
use crate::bochs;
use crate::cmd::{Programs, exit_code, watched_options};
use crate::contention::{self, Row, Setting};
use crate::iso::{self, Modules};
use crate::paths;
use crate::qemu::{Boot, Firmware, Machine};
use crate::scenario::Scenario;
use crate::session::{self, Files, Session, SessionEnd};
use crate::trace::model::Model;
use crate::view::View;

/// Critical sections: a name, turns of an empty loop under the lock, and turns between.
const SECTIONS: [(&str, u32, u32); 2] = [("short", 200, 400), ("long", 10_000, 20_000)];

/// The options of `ebb experiment locks`.
#[derive(Args, Debug)]
pub struct Locks {
    /// Where locks.csv and the plots go
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,

    /// Physical processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,

    /// vCPUs for each processor, one machine for each
    #[arg(long, value_name = "LIST", default_values_t = [1, 2, 3, 4], value_delimiter = ',')]
    overcommit: Vec<u32>,

    /// Domains that share them, each with its own lock
    #[arg(long, value_name = "N", default_value_t = 1)]
    domains: u32,

    /// Critical sections: short, long
    #[arg(long, value_name = "LIST", default_values_t = [String::from("short"), String::from("long")], value_delimiter = ',')]
    sections: Vec<String>,

    /// Locks of the laboratory: all, or names
    #[arg(long, value_name = "LIST", default_value = "all")]
    locks: String,

    /// How long each lock is tried, milliseconds of the machine's time
    #[arg(long, value_name = "MS", default_value_t = 500)]
    duration: u64,

    /// On Bochs' processors instead of QEMU's: ryzen when none is named, skylake_x, or another of its models. Time counts
    /// instructions, and several processors take turns of five
    #[arg(long, value_name = "MODEL", num_args = 0..=1, default_missing_value = "ryzen", conflicts_with = "wall_clock")]
    bochs: Option<String>,

    /// Millions of instructions in a second of each of Bochs' processors; QEMU's have 1000
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "bochs")]
    mhz: u32,

    /// More of the hypervisor's options: no-pause-exits, timeslice=, sched=
    #[arg(long, value_name = "TEXT", default_value = "")]
    options: String,

    /// Let time follow the wall clock instead of counting instructions: processors run at the same time, and no
    /// two runs are alike
    #[arg(long)]
    wall_clock: bool,

    /// Compare the mutex with the semaphore, 16 threads on 8 vCPUs, instead
    #[arg(long)]
    mutex: bool,

    /// Seconds of wall-clock time for everything
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    budget: u64,

    /// Take the time it needs
    #[arg(long)]
    full: bool,

    #[command(flatten)]
    programs: Programs,
}

/// Names each lock as soon as a guest has reported it.
#[derive(Default)]
struct Progress {
    reports: usize,
    told: Vec<&'static str>,
}

impl View for Progress {
    fn console(&mut self, _line: &str) -> io::Result<()> {
        Ok(())
    }

    fn tick(&mut self, model: &Model) -> io::Result<bool> {
        let shares = &model.contention.shares;
        for (_, share) in &shares[self.reports..] {
            if let Some(name) = LOCKS.get(usize::from(share.lock)).filter(|name| !self.told.contains(name)) {
                eprint!("{name} ");
                self.told.push(name);
            }
        }
        self.reports = shares.len();
        Ok(false)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Locks {
    /// Runs all machines, prints and writes.
    ///
    /// # Errors
    /// A machine could not be run, or results not be written.
    pub fn run(&self) -> Result<ExitCode> {
        let files = Files::create(&self.out)?;
        if let Some(why) = bochs::missing().filter(|_| self.bochs.is_some()) {
            bail!("{why}");
        }
        let mut rows = Vec::new();
        let end = Instant::now() + Duration::from_secs(if self.full { 24 * 3600 } else { self.budget });
        for (setting, args) in self.machines()? {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                eprintln!("The time is up (--budget, --full): the rest is left out");
                break;
            }
            eprint!(
                "Contending: {} domain(s) of {} vCPUs on {} CPU(s), {} sections ... ",
                setting.domains, setting.vcpus, setting.cpus, setting.section
            );
            let session = self.session(&files, &setting, &args, left)?;
            rows.extend(contention::rows(&setting, &session.model.contention));
        }
        ensure!(!rows.is_empty(), "no lock was reported");
        print!("{}", contention::text(&rows));
        self.write(&files, &rows)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Every machine, and its guests' arguments.
    fn machines(&self) -> Result<Vec<(Setting, String)>> {
        let duration_ms = self.duration;
        ensure!(self.cpus > 0 && self.domains > 0 && duration_ms > 0 && self.mhz > 0, "a count is 0");
        // QEMU, when it counts instructions, runs one processor until its next timer: another one's waiters may spin
        // through a whole measurement while the holder stands still.
        ensure!(
            self.cpus == 1 || self.wall_clock || self.bochs.is_some(),
            "--cpus {}: needs --bochs or --wall-clock; QEMU runs processors in long turns when it counts instructions",
            self.cpus
        );
        let machine = self.machine_name();
        if self.mutex {
            let setting = Setting { machine, cpus: self.cpus, domains: 1, vcpus: 8, section: "short", duration_ms };
            return Ok(vec![(setting, format!("workload=mutex tasks=16 duration={duration_ms}"))]);
        }
        let mut machines = Vec::new();
        for name in &self.sections {
            let Some((section, held, outside)) = SECTIONS.into_iter().find(|(known, ..)| known == name) else {
                bail!("there is no section `{name}`");
            };
            for ratio in &self.overcommit {
                let vcpus = ratio * self.cpus / self.domains;
                ensure!((1..=16).contains(&vcpus), "a domain cannot have {vcpus} vCPUs");
                let (machine, cpus, domains) = (machine.clone(), self.cpus, self.domains);
                let setting = Setting { machine, cpus, domains, vcpus, section, duration_ms };
                let locks = &self.locks;
                let args =
                    format!("workload=contend lock={locks} section={held} outside={outside} duration={duration_ms}");
                machines.push((setting, args));
            }
        }
        Ok(machines)
    }

    /// What the rows are of, for the table: the emulator's processor, what its time follows, and options.
    fn machine_name(&self) -> String {
        let emulator = match &self.bochs {
            Some(model) => format!("Bochs' {model}, {} MHz", self.mhz),
            None if self.wall_clock => "QEMU by the wall clock".to_owned(),
            None => "QEMU".to_owned(),
        };
        let parts = [emulator.as_str(), self.options.trim()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// The machine for a scenario: QEMU with a boot archive, or Bochs with a disc.
    fn machine(&self, files: &Files, scenario: &Scenario) -> Result<Machine> {
        let archive = crate::cmd::pack(&scenario.domains(), &self.programs.library(), Check::Images)?;
        let hypervisor = paths::hypervisor(self.programs.hypervisor.as_deref())?;
        let more = if self.bochs.is_some() { bochs::OPTION } else { "" };
        let options = watched_options(&[&scenario.host.options, more, &self.options], !self.wall_clock);
        let (accel, boot) = if self.bochs.is_some() {
            let path = files.path("locks.iso");
            iso::build(&path, &hypervisor, &archive, Modules::Archive, &options, 0)?;
            (Accel::Bochs, Boot::Iso { path, firmware: Firmware::Bios })
        } else {
            let path = files.path("locks.tar");
            fs::write(&path, archive.to_bytes()?).with_context(|| format!("cannot write {}", path.display()))?;
            (Accel::Tcg, Boot::Pvh { hypervisor, archive: Some(path), options })
        };
        Ok(Machine {
            cpus: scenario.host.cpus,
            memory: scenario.host.memory,
            accel,
            cpu_model: self.bochs.as_deref().map(|name| bochs::model(name).to_owned()),
            deterministic: !self.wall_clock,
            mhz: self.mhz,
            boot,
            console: files.path("locks-console.log"),
            keyboard: false,
            trace: files.path("locks-trace.bin"),
            messages: files.path(&format!("locks-{}.log", accel.program())),
            extra: Vec::new(),
        })
    }

    fn session(&self, files: &Files, setting: &Setting, args: &str, left: Duration) -> Result<Session> {
        let scenario = Scenario::parse(&scenario(setting, args), PathBuf::new())?;
        let machine = self.machine(files, &scenario)?;
        let session = session::run(&machine, Some(left), &mut Progress::default(), &|| false)?;
        eprintln!("{:.0} s", session.wall.as_secs_f32());
        if session.end == SessionEnd::TimedOut {
            eprintln!("Its time is up (--budget, --full): what it has reported so far counts");
        } else if exit_code(session.end) != 0 {
            for line in session.console.iter().rev().take(20).rev() {
                eprintln!("  {line}");
            }
            bail!("the machine ended as it should not (exit status {})", exit_code(session.end));
        }
        Ok(session)
    }

    fn write(&self, files: &Files, rows: &[Row]) -> Result<()> {
        let path = files.path("locks.csv");
        let write = || {
            let mut out = BufWriter::new(File::create(&path)?);
            contention::csv(rows, &mut out)?;
            out.flush()
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        println!("Written: {}", path.display());
        for (section, ..) in SECTIONS {
            if !self.mutex && rows.iter().any(|row| row.setting.section == section) {
                let path = files.path(&format!("locks-{section}.svg"));
                contention::plot(rows, section, &path)?;
                println!("Written: {}", path.display());
            }
        }
        Ok(())
    }
}

/// The machine's scenario.
fn scenario(setting: &Setting, args: &str) -> String {
    let mut text = format!(
        "[host]\ncpus = {}\nmemory = \"{}M\"\noptions = \"sample=10000\"\n",
        setting.cpus,
        64 + 48 * setting.domains
    );
    for domain in 0..setting.domains {
        text += &format!(
            "\n[[domain]]\nname = \"locks{domain}\"\nmemory = \"32M\"\nvcpus = {}\nargs = \"{args}\"\n",
            setting.vcpus
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        locks: Locks,
    }

    fn machines(args: &[&str]) -> Result<Vec<(Setting, String)>> {
        Cli::parse_from(["locks"].iter().chain(args)).locks.machines()
    }

    #[test]
    fn a_machine_for_each_ratio_and_section() {
        let all = machines(&[]).unwrap();
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(|(setting, args)| setting.cpus == 1 && args.contains("lock=all")));
        let two =
            machines(&["--cpus", "2", "--wall-clock", "--domains", "2", "--overcommit", "4", "--sections", "long"])
                .unwrap();
        assert_eq!(two.len(), 1);
        assert_eq!((two[0].0.vcpus, two[0].0.overcommit()), (4, 4.0));
        assert!(machines(&["--sections", "huge"]).is_err());
        assert!(machines(&["--cpus", "2"]).is_err());
        assert!(machines(&["--domains", "4", "--overcommit", "1"]).is_err());
        assert_eq!(machines(&["--mutex"]).unwrap()[0].0.vcpus, 8);
    }

    #[test]
    fn each_row_says_what_it_was_measured_on() {
        let name = |args: &[&str]| machines(args).unwrap()[0].0.machine.clone();
        assert_eq!(name(&[]), "QEMU");
        assert_eq!(name(&["--cpus", "2", "--wall-clock"]), "QEMU by the wall clock");
        assert_eq!(
            name(&["--cpus", "4", "--bochs", "--options", "no-pause-exits"]),
            "Bochs' ryzen, 1000 MHz, no-pause-exits"
        );
        assert_eq!(name(&["--bochs", "skylake_x", "--mhz", "100"]), "Bochs' skylake_x, 100 MHz");
        assert!(Cli::try_parse_from(["locks", "--bochs", "--wall-clock"]).is_err());
        assert!(Cli::try_parse_from(["locks", "--mhz", "100"]).is_err());
    }

    #[test]
    fn a_lock_is_named_once_and_as_soon_as_it_is_reported() {
        let mut progress = Progress::default();
        let mut model = Model::default();
        for lock in [1, 1, 4, 250] {
            let share = shared_abi::guest_event::Contention { lock, ..Default::default() };
            model.contention.shares.push((1, share));
            assert!(!progress.tick(&model).unwrap());
        }
        assert_eq!((progress.told, progress.reports), (vec!["ticket", "pvticket"], 4));
    }

    #[test]
    fn the_scenarios_are_sound() {
        for (setting, args) in machines(&["--cpus", "2", "--wall-clock", "--domains", "2"]).unwrap() {
            let scenario = Scenario::parse(&scenario(&setting, &args), PathBuf::new()).unwrap();
            crate::scenario::check_fits(&scenario.domains(), 1 << 20, scenario.host.memory).unwrap();
        }
    }
}
