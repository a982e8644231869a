//! The tests as they are written: `tests/<name>/test.toml`, whose header comment is its page.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ebb_tools::accel::Emulator;
use ebb_tools::bochs;
use ebb_tools::library::is_packaged_linux;
use ebb_tools::qemu::{Firmware, Status};
use ebb_tools::scenario::DomainToml;
use ebb_tools::size::Size;
use regex::Regex;
use serde::Deserialize;

/// A test read from its directory.
#[derive(Debug)]
pub struct Test {
    /// The directory's name.
    pub name: String,
    /// What it says.
    pub spec: Spec,
    /// Lines that must appear, each matched by one of the console's.
    pub lines: Vec<Pattern>,
    /// Lines that must not.
    pub never: Vec<Pattern>,
    /// The line that, seen so many times, ends the run.
    pub stop: Option<(Regex, usize)>,
    /// What is done to the machine, in this order, each after a line that matches.
    pub input: Vec<(Regex, Action)>,
}

/// Something done to the machine from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Typed on the console.
    Type(String),
    /// Said to QEMU's monitor.
    Monitor(String),
}

/// Follows the console's lines and says what is to be done.
#[derive(Debug)]
pub struct Typist<'t> {
    left: &'t [(Regex, Action)],
}

impl<'t> Typist<'t> {
    /// One who has done nothing of `input` yet.
    pub fn new(input: &'t [(Regex, Action)]) -> Self {
        Self { left: input }
    }

    /// What is done after `line`. A line lets one thing through at most, so that the next waits for its own line.
    pub fn after(&mut self, line: &str) -> Option<&'t Action> {
        let ((pattern, action), rest) = self.left.split_first()?;
        pattern.is_match(line).then(|| {
            self.left = rest;
            action
        })
    }

    /// The line that is waited for, if there is something left to do.
    pub fn waits_for(&self) -> Option<&'t str> {
        self.left.first().map(|(pattern, _)| pattern.as_str())
    }
}

/// A regular expression in which `{name}` stands for the ids that the domain of that name had.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As it is written.
    pub text: String,
}

impl Pattern {
    /// Checks that it can be compiled.
    fn new(text: &str, names: &[&str]) -> Result<Self> {
        let pattern = Self { text: text.to_owned() };
        pattern.regex(&names.iter().map(|name| (*name, vec![0])).collect::<Vec<_>>())?;
        Ok(pattern)
    }

    /// The expression for domains of these names and ids.
    ///
    /// # Errors
    /// It is none.
    pub fn regex(&self, domains: &[(&str, Vec<u16>)]) -> Result<Regex> {
        let mut text = self.text.clone();
        for (name, ids) in domains {
            let ids: Vec<String> = ids.iter().map(u16::to_string).collect();
            text = text.replace(&format!("{{{name}}}"), &format!("(?:{})", ids.join("|")));
        }
        Regex::new(&text).with_context(|| format!("/{}/", self.text))
    }
}

/// The contents of a `test.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Spec {
    /// One line for lists.
    pub summary: String,
    /// Numbers of physical processors to test with.
    #[serde(default = "two_cpus")]
    pub cpus: Vec<u32>,
    /// Further numbers under `--full`.
    #[serde(default)]
    pub full_cpus: Vec<u32>,
    /// Only under `--full`.
    #[serde(default)]
    pub full: bool,
    /// Ways to boot to test with.
    #[serde(default = "pvh")]
    pub boot: Vec<Boot>,
    /// Hypervisor options of each variant; most tests have one.
    #[serde(default = "no_options")]
    pub options: Vec<String>,
    /// Kernels to try in the first domain, one run each; most tests state none.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// Physical memory.
    #[serde(default = "host_memory")]
    pub memory: Size,
    /// Seconds of wall-clock time that one run may take.
    #[serde(default = "a_minute")]
    pub timeout: u64,
    /// Bochs' processor models to test with, beside QEMU; each starts from a disc.
    #[serde(default)]
    pub bochs: Vec<String>,
    /// Further models under `--full`.
    #[serde(default)]
    pub full_bochs: Vec<String>,
    /// Numbers of Bochs' processors.
    #[serde(default = "one_cpu")]
    pub bochs_cpus: Vec<u32>,
    /// Bochs' firmware.
    #[serde(default = "own_bios")]
    pub bochs_firmware: Firmware,
    /// What Bochs' debugger is to do; then the machine goes on to its end.
    #[serde(default)]
    pub bochs_debugger: Vec<String>,
    /// Numbers of processors to test with under Linux's KVM, which nests in an emulated machine.
    #[serde(default)]
    pub nested: Vec<u32>,
    /// The same with VMX, under `--full`.
    #[serde(default)]
    pub full_nested_vmx: Vec<u32>,
    /// QEMU's processor model.
    pub cpu_model: Option<String>,
    /// Whether time counts instructions.
    #[serde(default)]
    pub deterministic: bool,
    /// Run twice and compare traces and consoles byte for byte; implies `deterministic`.
    #[serde(default)]
    pub deterministic_twice: bool,
    /// The domains.
    #[serde(default, rename = "domain")]
    pub domains: Vec<DomainToml>,
    /// The control domain, if something is to be said about it; scripts and Linux kernels ask for one, too.
    pub control: Option<ebb_tools::control::Control>,
    /// Replaces the boot archive's `ebb.cfg` as it stands.
    pub config: Option<String>,
    /// Keep so many bytes of the boot archive.
    pub truncate_archive: Option<usize>,
    /// What is typed on the console, or said to QEMU's monitor.
    #[serde(default)]
    pub input: Vec<Input>,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expect,
}

/// What must come of a test.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Expect {
    /// The status that the machine ends with.
    pub status: u8,
    /// Regular expressions that lines of the console must match, each at least once.
    pub lines: Vec<String>,
    /// Regular expressions that no line may match.
    pub never: Vec<String>,
    /// Guests report so many tests at least, and none of them failed.
    pub tests: usize,
    /// Lists of lines (`tests/logs/<list>.txt`) that a domain's part of the console must and must not have, by the
    /// domain's name.
    pub logs: std::collections::BTreeMap<String, String>,
    /// vCPUs of a domain, by its name, sleep in `SCHEDOP_poll` at least so often, and at least so many of these sleeps
    /// end by an event sent to the polled port.
    pub polls: std::collections::BTreeMap<String, u64>,
    /// No vCPU of these domains ever sleeps in `SCHEDOP_poll`.
    pub no_polls: Vec<String>,
    /// The processor notices at least so often that a domain, by its name, spins, and another of its vCPUs gets to run;
    /// each such exit is accounted for.
    pub spins: std::collections::BTreeMap<String, u64>,
    /// How domains end, by name, in the words of `ebb run`: "powered off", "crashed", "triple fault".
    pub ends: std::collections::BTreeMap<String, String>,
    /// Domains that must be short of memory at some time and then get all of it.
    pub short_then_complete: Vec<String>,
    /// At least so many domains must be short at some time, whichever they are.
    pub short_domains: usize,
    /// At least so many domains must go from short to complete, whichever they are.
    pub completed_domains: usize,
    /// Every ledger adds up and at the end no domain holds memory. Off only where no domain starts.
    pub ledger: bool,
    /// Whether trace records may be lost.
    pub lost: bool,
    /// Stop the machine when enough was seen; for what would go on for ever. Then neither its status
    /// nor its last ledger is looked at.
    pub stop: Option<Stop>,
}

/// Something typed on the console, or said to QEMU's monitor.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// A regular expression that a line matches which comes after the one before this was done.
    pub after: String,
    /// What is typed then; a line's end is `\r`, as from a terminal.
    pub text: Option<String>,
    /// Or the command that QEMU's monitor gets then.
    pub monitor: Option<String>,
}

impl Input {
    fn action(&self) -> Result<Action> {
        match (&self.text, &self.monitor) {
            (Some(text), None) => Ok(Action::Type(text.clone())),
            (None, Some(command)) => Ok(Action::Monitor(command.clone())),
            _ => bail!("an input has a text or a command for the monitor"),
        }
    }
}

/// What ends a run from outside.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// A regular expression that lines of the console match.
    pub line: String,
    /// How often.
    pub count: usize,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            status: Status::OK.0,
            lines: Vec::new(),
            never: Vec::new(),
            tests: 0,
            logs: std::collections::BTreeMap::new(),
            polls: std::collections::BTreeMap::new(),
            no_polls: Vec::new(),
            spins: std::collections::BTreeMap::new(),
            ends: std::collections::BTreeMap::new(),
            short_then_complete: Vec::new(),
            short_domains: 0,
            completed_domains: 0,
            ledger: true,
            lost: false,
            stop: None,
        }
    }
}

/// A way to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// QEMU's `-kernel`.
    Pvh,
    /// A disc under SeaBIOS, domains in an archive.
    IsoBios,
    /// A disc under OVMF, domains in an archive.
    IsoUefi,
    /// A disc under SeaBIOS, each domain a module of its own.
    IsoBiosModules,
}

impl Boot {
    /// Its name in `test.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pvh => "pvh",
            Self::IsoBios => "iso-bios",
            Self::IsoUefi => "iso-uefi",
            Self::IsoBiosModules => "iso-bios-modules",
        }
    }
}

fn one_cpu() -> Vec<u32> {
    vec![1]
}

fn two_cpus() -> Vec<u32> {
    vec![2]
}

fn pvh() -> Vec<Boot> {
    vec![Boot::Pvh]
}

fn no_options() -> Vec<String> {
    vec![String::new()]
}

fn own_bios() -> Firmware {
    Firmware::Bios
}

fn host_memory() -> Size {
    Size::mib(256)
}

fn a_minute() -> u64 {
    60
}

/// One run of a test: a processor count, a way to boot, and options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Index of the test.
    pub test: usize,
    /// The test's name with its variant.
    pub name: String,
    /// Physical processors.
    pub cpus: u32,
    /// Way to boot.
    pub boot: Boot,
    /// Hypervisor options.
    pub options: String,
    /// The first domain's kernel, if the test tries several.
    pub kernel: Option<String>,
    /// The processor model, when Bochs is the machine.
    pub bochs: Option<String>,
    /// What emulates the machine, when Linux's KVM in it is Ebb's.
    pub nested: Option<Emulator>,
}

impl Test {
    /// Reads the test in `directory`.
    ///
    /// # Errors
    /// It is not there or is wrong; a wrong test is an error of the test, not of Ebb.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join("test.toml");
        let name = directory.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let lists = directory.with_file_name("logs");
        let list = |name: &str| {
            let path = lists.join(name).with_extension("txt");
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Self::parse(name, &text, list).with_context(|| format!("in {}", path.display()))
    }

    /// Reads a test from its text; `list` gives the lists of lines by their names.
    ///
    /// # Errors
    /// It is wrong.
    pub fn parse(name: &str, text: &str, list: impl Fn(&str) -> Result<String>) -> Result<Self> {
        if !text.starts_with('#') {
            bail!("its header comment, which is its page, is missing");
        }
        let spec: Spec = toml::from_str(text)?;
        let machines = [&spec.cpus, &spec.nested, &spec.full_nested_vmx];
        let no_machine = machines.iter().all(|cpus| cpus.is_empty()) && spec.bochs.is_empty();
        if no_machine || spec.boot.is_empty() || spec.options.is_empty() {
            bail!("cpus, boot and options need a value each");
        }
        let domains: Vec<_> = spec.domains.iter().map(|d| d.to_domain(Path::new(""))).collect();
        let names: Vec<&str> = domains.iter().map(|d| d.name.as_str()).collect();
        let compile =
            |patterns: &[String]| patterns.iter().map(|p| Pattern::new(p, &names)).collect::<Result<Vec<_>>>();
        let (mut lines, mut never) = (compile(&spec.expect.lines)?, compile(&spec.expect.never)?);
        for (domain, name) in &spec.expect.logs {
            let (must, must_not) = log_patterns(domain, &list(name)?).with_context(|| format!("in the list {name}"))?;
            lines.extend(compile(&must)?);
            never.extend(compile(&must_not)?);
        }
        let stop = match &spec.expect.stop {
            Some(stop) => Some((Regex::new(&stop.line)?, stop.count)),
            None => None,
        };
        let expect = &spec.expect;
        let named = expect
            .ends
            .keys()
            .chain(expect.logs.keys())
            .chain(expect.polls.keys())
            .chain(expect.spins.keys())
            .chain(&expect.no_polls);
        for domain in named.chain(&expect.short_then_complete) {
            if spec.config.is_none() && !spec.domains.iter().any(|d| d.to_domain(Path::new("")).name == *domain) {
                bail!("expects something of `{domain}`, which is no domain of it");
            }
        }
        let input = spec.input.iter().map(|input| Ok((Regex::new(&input.after)?, input.action()?)));
        let input = input.collect::<Result<Vec<_>>>()?;
        Ok(Self { name: name.to_owned(), spec, lines, never, stop, input })
    }

    /// Whether something is typed in it.
    pub fn types(&self) -> bool {
        self.input.iter().any(|(_, action)| matches!(action, Action::Type(_)))
    }

    /// Whether a domain of it runs Linux from a package.
    pub fn needs_linux(&self) -> bool {
        self.spec.domains.iter().any(|d| is_packaged_linux(&d.to_domain(Path::new("")).kernel))
    }

    /// The runs it asks for.
    pub fn cases(&self, index: usize, full: bool) -> Vec<Case> {
        let spec = &self.spec;
        if spec.full && !full {
            return Vec::new();
        }
        let more = if full { spec.full_cpus.as_slice() } else { &[] };
        let kernels: Vec<Option<&String>> =
            if spec.kernels.is_empty() { vec![None] } else { spec.kernels.iter().map(Some).collect() };
        let mut cases = Vec::new();
        for (options, kernel) in spec.options.iter().flat_map(|o| kernels.iter().map(move |k| (o, *k))) {
            for &boot in &spec.boot {
                for &cpus in spec.cpus.iter().chain(more) {
                    let mut name = self.name.clone();
                    if spec.boot.len() > 1 {
                        name += &format!(" {}", boot.name());
                    }
                    if spec.options.len() > 1 && !options.is_empty() {
                        name += &format!(" {options}");
                    }
                    if let Some(kernel) = kernel {
                        name += &format!(" {kernel}");
                    }
                    name += &format!(" cpus={cpus}");
                    let (options, kernel) = (options.clone(), kernel.cloned());
                    cases.push(Case { test: index, name, cpus, boot, options, kernel, bochs: None, nested: None });
                }
            }
        }
        cases.extend(self.cases_of_bochs(index, full));
        cases.extend(self.nested_cases(index, full));
        cases
    }

    /// `case` under KVM, if it can be run there: it starts by PVH on any processor, whose instructions nobody counts, and
    /// says nothing to QEMU's monitor.
    pub fn nested(&self, case: Case) -> Option<Case> {
        let spec = &self.spec;
        let counts = spec.deterministic || spec.deterministic_twice;
        let monitor = self.input.iter().any(|(_, action)| matches!(action, Action::Monitor(_)));
        let plain = case.boot == Boot::Pvh && case.bochs.is_none() && spec.cpu_model.is_none();
        let (name, emulator) = (format!("{} SVM", case.name), Emulator::Qemu);
        (plain && !counts && !monitor).then_some(match case.nested {
            Some(_) => case,
            None => Case { name, nested: Some(emulator), ..case },
        })
    }

    fn nested_cases(&self, index: usize, full: bool) -> impl Iterator<Item = Case> {
        let vmx = if full { self.spec.full_nested_vmx.as_slice() } else { &[] };
        let machines = [(Emulator::Qemu, "SVM", self.spec.nested.as_slice()), (Emulator::Bochs, "VMX", vmx)];
        let machines =
            machines.into_iter().flat_map(|(emulator, name, cpus)| cpus.iter().map(move |&n| (emulator, name, n)));
        machines.map(move |(emulator, name, cpus)| Case {
            test: index,
            name: format!("{} {name} cpus={cpus}", self.name),
            cpus,
            boot: Boot::Pvh,
            options: self.spec.options[0].clone(),
            kernel: None,
            bochs: None,
            nested: Some(emulator),
        })
    }

    fn cases_of_bochs(&self, index: usize, full: bool) -> impl Iterator<Item = Case> {
        let more = if full { self.spec.full_bochs.as_slice() } else { &[] };
        let models = self.spec.bochs.iter().chain(more);
        models.flat_map(move |model| {
            self.spec.bochs_cpus.iter().map(move |&cpus| Case {
                test: index,
                name: format!("{} {model} cpus={cpus}", self.name),
                cpus,
                boot: Boot::IsoBios,
                options: bochs::OPTION.into(),
                kernel: None,
                bochs: Some(model.clone()),
                nested: None,
            })
        })
    }
}

/// A list of lines, as patterns for the lines of `domain`: what must be there and what must not. A line of the list is
/// `+` or `-`, a space and a regular expression; `#` begins a comment.
fn log_patterns(domain: &str, list: &str) -> Result<(Vec<String>, Vec<String>)> {
    let (mut must, mut must_not) = (Vec::new(), Vec::new());
    for line in list.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_at_checked(2) {
            Some(("+ ", text)) => must.push(text),
            Some(("- ", text)) => must_not.push(text),
            _ => bail!("`{line}` begins with neither `+ ` nor `- `"),
        }
    }
    let of_domain = |texts: Vec<&str>| texts.iter().map(|text| format!("^\\(d{{{domain}}}\\) .*(?:{text})")).collect();
    Ok((of_domain(must), of_domain(must_not)))
}

/// All test directories under `root`, by name.
///
/// # Errors
/// `root` cannot be read.
pub fn directories(root: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut found: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.join("test.toml").is_file()).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_in_the_tree_is_well_formed() {
        let found = directories(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(found.len() >= 10, "{found:?}");
        for directory in found {
            let test = Test::load(&directory).unwrap();
            assert!(!test.cases(0, true).is_empty());
        }
    }

    #[test]
    fn lists_of_lines_are_a_domain_s() {
        let text = "# page\nsummary='s'\n[expect]\nlogs={ tux = 'l' }\n[[domain]]\nname='tux'\nmemory=8\n";
        let test = Test::parse("t", text, |_| Ok("# comment\n+ Xen version\n- BUG:\n".into())).unwrap();
        let regex = test.lines[0].regex(&[("tux", vec![3])]).unwrap();
        assert!(regex.is_match("(d3) [    0.1] Xen version: 4.17") && !regex.is_match("(d2) Xen version"));
        assert!(test.never[0].regex(&[("tux", vec![3])]).unwrap().is_match("(d3) BUG: it"));
        assert!(Test::parse("t", text, |_| Ok("Xen version\n".into())).is_err());
    }

    #[test]
    fn the_matrix_is_the_product() {
        let text = "# page\nsummary='s'\ncpus=[1,2]\nfull-cpus=[4]\nboot=['pvh','iso-uefi']\noptions=['a','b']\n";
        let test = Test::parse("t", text, |_| unreachable!()).unwrap();
        assert_eq!(test.cases(0, false).len(), 8);
        assert_eq!(test.cases(0, true).len(), 12);
        assert_eq!(test.cases(0, false)[0].name, "t pvh a cpus=1");
        let plain = Test::parse("t", "# page\nsummary='s'\n", |_| unreachable!()).unwrap();
        assert_eq!(plain.cases(3, true)[0].name, "t cpus=2");
    }

    #[test]
    fn broken_tests_are_found() {
        for text in [
            "summary='no page'",
            "# page\n",
            "# page\nsummary='s'\ncolour='red'",
            "# page\nsummary='s'\ncpus=[]",
            "# page\nsummary='s'\n[expect]\nlines=['(']",
            "# page\nsummary='s'\ninput=[{after='(', text='x'}]",
            "# page\nsummary='s'\n[expect]\nends={a='crashed'}",
        ] {
            assert!(Test::parse("t", text, |_| bail!("no list")).is_err(), "{text}");
        }
    }
}
