//! Runs one case: makes its images, starts its machine, judges what came of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ebb_tools::accel::Accel;
use ebb_tools::archive::{self, Archive, Check};
use ebb_tools::bochs;
use ebb_tools::cmd::{watched_options, watched_records};
use ebb_tools::iso::{self, Modules};
use ebb_tools::library::{Library, Source};
use ebb_tools::qemu::{self, Firmware, Machine};
use ebb_tools::scenario::with_control;
use ebb_tools::session::{self, Session};
use ebb_tools::trace::model::Model;
use ebb_tools::view::View;
use shared_abi::trace_stream::Kind;

use crate::check::{Outcome, judge};
use crate::images;
use crate::suite::{Action, Boot, Case, Test, Typist};

/// What all cases share.
#[derive(Debug)]
pub struct Environment {
    /// The hypervisor.
    pub hypervisor: PathBuf,
    /// Ebb's own guest.
    pub guest: PathBuf,
    /// Where each case gets a directory.
    pub out: PathBuf,
    /// Time limits are multiplied by this.
    pub patience: u32,
}

/// What came of a case and where its files are.
#[derive(Debug)]
pub struct Report {
    /// The case's name.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// The console's last lines.
    pub last_lines: Vec<String>,
    /// Seconds on the wall clock.
    pub seconds: f64,
    /// Its directory.
    pub directory: PathBuf,
}

/// Set in the environment, it leaves tests with Linux out: for machines that cannot get Debian's packages.
const WITHOUT_LINUX: &str = "EBB_WITHOUT_LINUX";

/// Lines of the console shown with a failure.
const LAST_LINES: usize = 20;

impl Environment {
    /// Runs `case` of `test`.
    pub fn run(&self, test: &Test, case: &Case) -> Report {
        let directory = self.out.join(case.name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_"));
        let mut report =
            Report { name: case.name.clone(), outcome: Outcome::Pass, last_lines: Vec::new(), seconds: 0.0, directory };
        if let Some(why) = case.bochs.as_ref().and_then(|_| bochs::missing()).or_else(|| cannot_boot(case.boot)) {
            report.outcome = Outcome::Skip(why);
            return report;
        }
        if std::env::var_os(WITHOUT_LINUX).is_some() && (case.nested.is_some() || test.needs_linux()) {
            report.outcome = Outcome::Skip(format!("{WITHOUT_LINUX} is set"));
            return report;
        }
        let result = self.run_machine(test, case, &report.directory.clone(), &mut report);
        report.outcome = result.unwrap_or_else(|error| Outcome::Error(format!("{error:#}")));
        report
    }

    fn run_machine(&self, test: &Test, case: &Case, directory: &Path, report: &mut Report) -> Result<Outcome> {
        fs::create_dir_all(directory)?;
        let session = self.once(test, case, directory, "", report)?;
        let outcome = judge(test, &session);
        if !test.spec.deterministic_twice || outcome != Outcome::Pass {
            return Ok(outcome);
        }
        let second = judge(test, &self.once(test, case, directory, "second-", report)?);
        if second != Outcome::Pass {
            return Ok(second);
        }
        let mut problems = Vec::new();
        for name in ["trace.bin", "console.log"] {
            let (a, b) = (fs::read(directory.join(name))?, fs::read(directory.join(format!("second-{name}")))?);
            if let Some(difference) = first_difference(&a, &b) {
                problems.push(format!("{name} differs between two runs, first at byte {difference}"));
            }
        }
        Ok(if problems.is_empty() { Outcome::Pass } else { Outcome::Failure(problems) })
    }

    fn once(&self, test: &Test, case: &Case, directory: &Path, prefix: &str, report: &mut Report) -> Result<Session> {
        let machine = self.machine(test, case, directory, prefix)?;
        let timeout = Duration::from_secs(test.spec.timeout) * self.patience;
        let session = session::run(&machine, Some(timeout), &mut Observer::new(test), &|| false)?;
        report.seconds += session.wall.as_secs_f64();
        let skip = session.console.len().saturating_sub(LAST_LINES);
        report.last_lines = session.console[skip..].to_vec();
        Ok(session)
    }

    fn machine(&self, test: &Test, case: &Case, directory: &Path, prefix: &str) -> Result<Machine> {
        let deterministic = test.spec.deterministic || test.spec.deterministic_twice;
        // Records of polls are many, so only those who look at them get them.
        let expect = &test.spec.expect;
        let mut more = Vec::new();
        if !(expect.polls.is_empty() && expect.no_polls.is_empty()) {
            more.push(Kind::POLL);
        }
        if !expect.spins.is_empty() {
            more.extend([Kind::DOMAIN_EXITS, Kind::DOMAIN_SPINS]);
        }
        let options = watched_options(&[&watched_records(&more), &case.options], deterministic);
        Ok(Machine {
            cpus: case.cpus,
            memory: test.spec.memory,
            accel: match case {
                Case { bochs: Some(_), .. } => Accel::Bochs,
                Case { nested: Some(emulator), .. } => Accel::Nested(*emulator),
                _ => Accel::Tcg,
            },
            cpu_model: case.bochs.clone().or_else(|| test.spec.cpu_model.clone()),
            deterministic,
            mhz: bochs::MHZ,
            boot: self.boot(test, case, directory, &options)?,
            console: directory.join(format!("{prefix}console.log")),
            keyboard: test.types(),
            trace: directory.join(format!("{prefix}trace.bin")),
            messages: directory
                .join(format!("{prefix}{}", if case.bochs.is_some() { "bochs.txt" } else { "qemu.log" })),
            extra: if case.bochs.is_some() { test.spec.bochs_debugger.clone() } else { Vec::new() },
        })
    }

    fn boot(&self, test: &Test, case: &Case, directory: &Path, options: &str) -> Result<qemu::Boot> {
        let mut library = Library::new(Some(self.guest.clone()), None);
        let spec = &test.spec;
        let mut domains = with_control(&spec.domains, spec.control.as_ref(), Path::new(""), &mut library)?;
        if let (Some(kernel), Some(first)) = (&case.kernel, domains.first_mut()) {
            first.kernel.clone_from(kernel);
        }
        let image =
            |source: Source<'_>| self.image(source, &library).map_err(|e| std::io::Error::other(format!("{e:#}")));
        let packed = Archive::build(&domains, Check::Nothing, image)?;
        if case.boot == Boot::Pvh {
            let mut bytes = Vec::new();
            match &test.spec.config {
                Some(config) => archive::write_members(&mut bytes, config, &packed.images)?,
                None => packed.write(&mut bytes)?,
            }
            bytes.truncate(test.spec.truncate_archive.unwrap_or(usize::MAX));
            let path = directory.join("boot.tar");
            fs::write(&path, bytes)?;
            let archive = (!domains.is_empty() || test.spec.config.is_some()).then_some(path);
            return Ok(qemu::Boot::Pvh { hypervisor: self.hypervisor.clone(), archive, options: options.to_owned() });
        }
        if test.spec.config.is_some() || test.spec.truncate_archive.is_some() {
            bail!("config and truncate-archive need boot = [\"pvh\"]");
        }
        let path = directory.join("ebb.iso");
        let (firmware, modules) = match case.boot {
            Boot::IsoUefi => (Firmware::Uefi, Modules::Archive),
            Boot::IsoBiosModules => (Firmware::Bios, Modules::Separate),
            _ if case.bochs.is_some() => (test.spec.bochs_firmware, Modules::Archive),
            Boot::IsoBios | Boot::Pvh => (Firmware::Bios, Modules::Archive),
        };
        iso::build(&path, &self.hypervisor, &packed, modules, options, 0)?;
        Ok(qemu::Boot::Iso { path, firmware })
    }

    fn image(&self, source: Source<'_>, library: &Library) -> Result<Vec<u8>> {
        match source.name().strip_prefix(images::BROKEN) {
            Some(how) => images::broken(&fs::read(&self.guest)?, how),
            None => library.load(source),
        }
    }
}

/// Shows nothing, types and tells QEMU's monitor what the test wants, and stops the machine when the test has seen enough.
struct Observer<'t> {
    stop: Option<&'t (regex::Regex, usize)>,
    seen: usize,
    typist: Typist<'t>,
    typed: Vec<u8>,
    commands: Vec<String>,
}

impl<'t> Observer<'t> {
    fn new(test: &'t Test) -> Self {
        Self {
            stop: test.stop.as_ref(),
            seen: 0,
            typist: Typist::new(&test.input),
            typed: Vec::new(),
            commands: Vec::new(),
        }
    }
}

impl View for Observer<'_> {
    fn console(&mut self, line: &str) -> std::io::Result<()> {
        self.seen += usize::from(self.stop.is_some_and(|(pattern, _)| pattern.is_match(line)));
        match self.typist.after(line) {
            Some(Action::Type(text)) => self.typed.extend_from_slice(text.as_bytes()),
            Some(Action::Monitor(command)) => self.commands.push(command.clone()),
            None => {}
        }
        Ok(())
    }

    fn take_typed(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.typed)
    }

    fn take_commands(&mut self) -> Vec<String> {
        std::mem::take(&mut self.commands)
    }

    fn tick(&mut self, _model: &Model) -> std::io::Result<bool> {
        Ok(self.stop.is_some_and(|(_, count)| self.seen >= *count))
    }

    fn finish(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Why this machine cannot boot in this way, if it cannot.
fn cannot_boot(boot: Boot) -> Option<String> {
    let missing = |path: &str, package: &str| {
        (!Path::new(path).exists()).then(|| format!("{path} is missing (Debian package {package})"))
    };
    match boot {
        Boot::Pvh => None,
        Boot::IsoBios | Boot::IsoBiosModules => missing("/usr/lib/grub/i386-pc", "grub-pc-bin"),
        Boot::IsoUefi => {
            missing(qemu::OVMF, "ovmf").or_else(|| missing("/usr/lib/grub/x86_64-efi", "grub-efi-amd64-bin"))
        }
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let common = a.iter().zip(b).position(|(a, b)| a != b);
    common.or_else(|| (a.len() != b.len()).then(|| a.len().min(b.len())))
}

/// Finds the hypervisor and the guest, and makes the directory for results.
///
/// # Errors
/// One of them is not there.
pub fn environment(out: &Path, patience: u32) -> Result<Environment> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    Ok(Environment {
        hypervisor: ebb_tools::paths::hypervisor(None)?,
        guest: ebb_tools::paths::guest(None)?,
        out: out.to_owned(),
        patience,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
        assert_eq!(first_difference(b"", b"a"), Some(0));
    }
}
