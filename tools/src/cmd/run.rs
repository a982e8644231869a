//! `ebb run`: starts a machine in QEMU and shows what its memory does.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;

use crate::accel::{self, Accel, AccelChoice};
use crate::archive::Check;
use crate::bochs;
use crate::cmd::{self, Programs, exit_code, watched_options};
use crate::library::{self, Library};
use crate::paths;
use crate::qemu::{Boot, Firmware, Machine, MachineEnd};
use crate::report::summary;
use crate::scenario::{self, LINUX_DOMAIN, Scenario};
use crate::session::{self, Files, Session, SessionEnd};
use crate::size::Size;
use crate::view::View;
use crate::view::plain::Plain;
use crate::view::terminal::Terminal;

/// The options of `ebb run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The scenario to play [default: a Linux domain, if there is a kernel for it, and Rust guests trade memory]
    scenario: Option<PathBuf>,

    #[command(flatten)]
    linux: LinuxArgs,

    /// Type on the machine's console, through the control domain's (Ctrl-A ? explains); Ctrl-C stops
    #[arg(long)]
    console: bool,

    /// Boot this disc image instead of a scenario; its own command line rules
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    iso: Option<PathBuf>,

    /// The firmware that boots the disc image
    #[arg(long, value_enum, default_value = "bios", requires = "iso")]
    firmware: Firmware,

    #[command(flatten)]
    machine: MachineArgs,

    /// Write plain lines even to a terminal
    #[arg(long)]
    plain: bool,

    /// Further options for the hypervisor's command line (may be repeated)
    #[arg(long = "option", value_name = "TEXT", conflicts_with = "iso")]
    options: Vec<String>,

    #[command(flatten)]
    programs: Programs,

    /// Further arguments for QEMU, after `--`
    #[arg(last = true, value_name = "QEMU-ARGUMENT")]
    qemu: Vec<String>,
}

/// The Linux domain of the built-in scenario.
#[derive(Args, Debug)]
pub struct LinuxArgs {
    /// With a Linux domain, or not at all
    #[arg(long, conflicts_with_all = ["scenario", "iso"])]
    linux: bool,

    /// Without a Linux domain
    #[arg(long, conflicts_with_all = ["linux", "kernel", "ramdisk", "cmdline", "scenario", "iso"])]
    no_linux: bool,

    /// The Linux domain's kernel: a bzImage, a vmlinux, a linux-image-*.deb, `debian`, `package:<name>` [default: debian]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "iso"])]
    kernel: Option<String>,

    /// The Linux domain's RAM disk [default: Ebb's own init program]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "iso"])]
    ramdisk: Option<String>,

    /// The Linux domain's command line
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["scenario", "iso"])]
    cmdline: Option<String>,
}

impl LinuxArgs {
    fn asked(&self) -> bool {
        self.linux || self.kernel.is_some() || self.ramdisk.is_some() || self.cmdline.is_some()
    }

    /// The built-in scenario that was asked for, or that this machine has what it needs for.
    fn scenario(&self, library: &Library, deterministic: bool) -> Result<Scenario> {
        if self.asked() {
            let mut scenario = Scenario::linux()?;
            let [kernel, ramdisk, cmdline] = [&self.kernel, &self.ramdisk, &self.cmdline].map(Option::as_deref);
            scenario.replace(LINUX_DOMAIN, kernel, ramdisk, cmdline);
            return Ok(scenario);
        }
        // Linux takes random numbers from the processor, so its runs do not repeat.
        if !self.no_linux && !deterministic {
            match library.read(library::LINUX_INIT).and_then(|_| library.linux(library::DEBIAN)) {
                Ok(_) => return Scenario::linux(),
                Err(why) => eprintln!("no Linux domain in this run: {why:#}"),
            }
        }
        Scenario::built_in()
    }
}

/// The machine, as the commands that start one take it.
#[derive(Args, Debug)]
pub struct MachineArgs {
    /// Physical processors [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: Option<u32>,

    /// Physical memory, such as 512M [default: the scenario's]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,

    /// What runs the machine; auto takes KVM when it can nest SVM or VMX
    #[arg(long, value_enum, default_value_t)]
    pub accel: AccelChoice,

    /// QEMU's processor model [default: EPYC under TCG, host under KVM]
    #[arg(long, value_name = "MODEL")]
    pub cpu_model: Option<String>,

    /// Count instructions as time: the same input gives the same trace, byte for byte
    #[arg(long)]
    pub deterministic: bool,

    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,

    /// Stop after so many seconds of wall-clock time
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

impl Run {
    /// Runs the machine to its end.
    ///
    /// # Errors
    /// It could not be started, or results not be written.
    pub fn run(&self) -> Result<ExitCode> {
        let files = Files::create(&self.machine.out)?;
        let mut library = self.programs.library();
        let scenario = match &self.scenario {
            Some(path) => Scenario::load(path)?,
            None if self.iso.is_some() => Scenario::built_in()?,
            None => self.linux.scenario(&library, self.machine.deterministic)?,
        };
        let (accel, why) =
            accel::choose(self.machine.accel, self.machine.deterministic).map_err(|why| anyhow!("no KVM: {why}"))?;
        let boot = match &self.iso {
            Some(path) => Boot::Iso { path: path.clone(), firmware: self.firmware },
            None => self.boot_scenario(&scenario, &mut library, &files)?,
        };
        let mut machine = self.machine.build(&files, accel, boot, &scenario, self.qemu.clone());
        machine.keyboard = self.console;
        let title = format!("Ebb on {} CPUs, {}, {why}", machine.cpus, machine.memory);
        eprintln!("{title}");
        let session = watch(&machine, &title, self.machine.timeout, self.plain)?;
        report(&session, &machine, &files, self.iso.is_some())
    }

    fn boot_scenario(&self, scenario: &Scenario, library: &mut Library, files: &Files) -> Result<Boot> {
        let domains = scenario.to_boot(library)?;
        let archive = cmd::pack(&domains, library, Check::Images)?.to_bytes()?;
        scenario::check_fits(&domains, archive.len() as u64, self.machine.memory.unwrap_or(scenario.host.memory))?;
        let path = files.path("boot.tar");
        std::fs::write(&path, archive).with_context(|| format!("cannot write {}", path.display()))?;
        let mut more = vec![scenario.host.options.as_str()];
        more.extend(self.options.iter().map(String::as_str));
        Ok(Boot::Pvh {
            hypervisor: paths::hypervisor(self.programs.hypervisor.as_deref())?,
            archive: Some(path),
            options: watched_options(&more, self.machine.deterministic),
        })
    }
}

impl MachineArgs {
    /// The machine that these arguments and the scenario describe.
    #[must_use]
    pub fn build(&self, files: &Files, accel: Accel, boot: Boot, scenario: &Scenario, extra: Vec<String>) -> Machine {
        Machine {
            cpus: self.cpus.unwrap_or(scenario.host.cpus),
            memory: self.memory.unwrap_or(scenario.host.memory),
            accel,
            cpu_model: self.cpu_model.clone(),
            deterministic: self.deterministic,
            mhz: bochs::MHZ,
            boot,
            console: files.path("console.log"),
            keyboard: false,
            trace: files.path("trace.bin"),
            messages: files.path("qemu.log"),
            extra,
        }
    }
}

/// Runs `machine` with a live table on a terminal, or plain lines.
///
/// # Errors
/// The machine's or the terminal's.
pub fn watch(machine: &Machine, title: &str, timeout: Option<u64>, plain: bool) -> Result<Session> {
    static INTERRUPTED: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot watch for Ctrl-C")?;
    let mut view: Box<dyn View> = if !plain && io::stdout().is_terminal() && io::stdin().is_terminal() {
        Box::new(Terminal::open(title.to_owned(), machine.keyboard)?)
    } else if machine.keyboard {
        Box::new(Plain::new(io::stdout()).with_input(io::stdin()))
    } else {
        Box::new(Plain::new(io::stdout()))
    };
    let interrupted = || INTERRUPTED.load(Ordering::Relaxed);
    session::run(machine, timeout.map(Duration::from_secs), view.as_mut(), &interrupted)
}

fn report(session: &Session, machine: &Machine, files: &Files, own_command_line: bool) -> Result<ExitCode> {
    files.write_reports(&session.model)?;
    println!("\n{}", summary::text(&session.model).trim_end());
    if session.trace_damage > 0 && session.model.start.is_some() {
        println!("{} bytes on the trace port were not part of the trace.", session.trace_damage);
    }
    let names = ["run.csv", "run.svg", "trace.bin", "console.log"].map(|n| files.path(n).display().to_string());
    println!("Written: {}", names.join(", "));
    let outcome = match session.end {
        SessionEnd::Machine(end) => end.to_string(),
        SessionEnd::TimedOut => "stopped: it took longer than --timeout allows".into(),
        SessionEnd::Interrupted => "stopped, as you asked".into(),
    };
    println!("Ebb after {:.1} s: {outcome}", session.wall.as_secs_f64());
    // A disc's own command line may well power the machine off instead of giving a status.
    if own_command_line && session.end == SessionEnd::Machine(MachineEnd::Off) {
        return Ok(ExitCode::SUCCESS);
    }
    if matches!(session.end, SessionEnd::Machine(MachineEnd::Failed(_))) {
        let said = std::fs::read_to_string(&machine.messages).unwrap_or_default();
        eprintln!("QEMU said:\n{}", said.trim_end());
    }
    Ok(ExitCode::from(exit_code(session.end)))
}
