//! One domain's configuration and the line that carries it in a boot archive's `ebb.cfg`
//! or on a GRUB module.
//!
//! The line's grammar is described in docs/command-line.md. Parsing checks completely, and every
//! complaint names the domain and the field, so that a mistake is found before a machine starts.

use std::fmt;

use shared_abi::tmem_settings::TmemSettings;

use crate::size::{PAGE, Size};

/// Longest name of a domain: the trace stream has 16 bytes for it, NUL included.
pub const NAME_MAX: usize = 15;
/// Most vCPUs a domain may have.
pub const VCPUS_MAX: u32 = 64;
/// Least memory a domain may start with.
pub const MEMORY_MIN: Size = Size::mib(4);
/// Weight of a domain that states none; twice the weight is twice the processor time.
pub const WEIGHT_DEFAULT: u32 = 256;
/// Greatest weight, as in Xen's credit scheduler.
pub const WEIGHT_MAX: u32 = 65535;

/// What to do when a domain asks for a reboot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReboot {
    /// Build it again from its images.
    #[default]
    Restart,
    /// Treat it as a power-off.
    Destroy,
}

/// A domain to be built at boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name, unique in the configuration.
    pub name: String,
    /// Memory it starts with, a multiple of the page size.
    pub memory: Size,
    /// Memory it may grow to.
    pub maxmem: Size,
    /// Its virtual processors.
    pub vcpus: u32,
    /// Its share of processor time.
    pub weight: u32,
    /// The most processor time it gets, in per cent of one processor; 0: no limit.
    pub cap: u32,
    /// Its transcendent memory.
    pub tmem: TmemSettings,
    /// Whether it may use the control interfaces.
    pub privileged: bool,
    /// Its kernel: a path on the host, or a member's name once packed.
    pub kernel: String,
    /// Its initial RAM disk, named like the kernel.
    pub ramdisk: Option<String>,
    /// What a reboot does.
    pub on_reboot: OnReboot,
    /// The kernel's command line.
    pub args: String,
}

/// What is wrong with a configuration: which domain, which field, and what about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The domain's name, or a description of where it is when it has none.
    pub domain: String,
    /// The field.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl ConfigError {
    /// Builds an error about `field` of `domain`.
    pub fn new(domain: impl Into<String>, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { domain: domain.into(), field: field.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domain `{}`: {}: {}", self.domain, self.field, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl Domain {
    /// A domain called `name` with `memory` and `kernel`; everything else as when unstated.
    pub fn new(name: impl Into<String>, memory: Size, kernel: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            memory,
            maxmem: memory,
            vcpus: 1,
            weight: WEIGHT_DEFAULT,
            cap: 0,
            tmem: TmemSettings::default(),
            privileged: false,
            kernel: kernel.into(),
            ramdisk: None,
            on_reboot: OnReboot::Restart,
            args: String::new(),
        }
    }

    /// Checks the values against each other and against the limits.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let err = |field: &str, problem: String| Err(ConfigError::new(&self.name, field, problem));
        if let Some(problem) = name_problem(&self.name) {
            return err("name", problem);
        }
        for (field, size) in [("memory", self.memory), ("maxmem", self.maxmem)] {
            if size < MEMORY_MIN {
                return err(field, format!("{size} is less than {MEMORY_MIN}"));
            }
            if !size.bytes().is_multiple_of(PAGE) {
                return err(field, format!("{size} is not a multiple of 4K"));
            }
        }
        if self.maxmem < self.memory {
            return err("maxmem", format!("{} is less than memory ({})", self.maxmem, self.memory));
        }
        if !(1..=VCPUS_MAX).contains(&self.vcpus) {
            return err("vcpus", format!("{} is not in 1..={VCPUS_MAX}", self.vcpus));
        }
        if !(1..=WEIGHT_MAX).contains(&self.weight) {
            return err("weight", format!("{} is not in 1..={WEIGHT_MAX}", self.weight));
        }
        let cap_max = 100 * self.vcpus;
        if self.cap > cap_max {
            return err("cap", format!("{} is more than {cap_max}, 100 for each vCPU", self.cap));
        }
        for (field, text) in [("kernel", Some(&self.kernel)), ("ramdisk", self.ramdisk.as_ref())] {
            if let Some(problem) = text.and_then(|text| word_problem(text)) {
                return err(field, problem);
            }
        }
        if self.args.contains(['\n', '\r', '\0']) {
            return err("args", "must be one line".into());
        }
        Ok(())
    }

    /// Reads one line. `place` describes the line in complaints about a domain without a name.
    ///
    /// # Errors
    /// The first field that is unknown, missing, repeated or wrong.
    pub fn parse_line(line: &str, place: &str) -> Result<Self, ConfigError> {
        let (head, args) = split_args(line);
        let words: Vec<&str> = head.split_whitespace().collect();
        let name = words.iter().find_map(|w| w.strip_prefix("name=")).unwrap_or(place);
        let err = |field: &str, problem: String| ConfigError::new(name, field, problem);

        let mut fields = Fields::default();
        for word in words {
            fields.take(word).map_err(|(field, problem)| err(field, problem))?;
        }
        let missing = |field: &str| err(field, "is missing".into());
        let memory = fields.memory.ok_or_else(|| missing("memory"))?;
        let domain = Self {
            name: fields.name.ok_or_else(|| missing("name"))?,
            memory,
            maxmem: fields.maxmem.unwrap_or(memory),
            vcpus: fields.vcpus.unwrap_or(1),
            weight: fields.weight.unwrap_or(WEIGHT_DEFAULT),
            cap: fields.cap.unwrap_or(0),
            tmem: fields.tmem.unwrap_or_default(),
            privileged: fields.privileged.is_some(),
            kernel: fields.kernel.ok_or_else(|| missing("kernel"))?,
            ramdisk: fields.ramdisk,
            on_reboot: fields.on_reboot.unwrap_or_default(),
            args: args.to_owned(),
        };
        domain.check()?;
        Ok(domain)
    }

    /// The line without its `kernel=` and `ramdisk=`, as a GRUB module carries it.
    #[must_use]
    pub fn module_line(&self) -> String {
        self.line(false)
    }

    fn line(&self, images: bool) -> String {
        let mut out = format!(
            "name={} memory={} maxmem={} vcpus={} weight={}",
            self.name, self.memory, self.maxmem, self.vcpus, self.weight
        );
        if self.cap != 0 {
            out += &format!(" cap={}", self.cap);
        }
        if self.tmem != TmemSettings::default() {
            out += &format!(" tmem={}", self.tmem);
        }
        if self.privileged {
            out += " privileged";
        }
        if images {
            out += &format!(" kernel={}", self.kernel);
            if let Some(ramdisk) = &self.ramdisk {
                out += &format!(" ramdisk={ramdisk}");
            }
        }
        if self.on_reboot == OnReboot::Destroy {
            out += " on-reboot=destroy";
        }
        if !self.args.is_empty() {
            out += &format!(" -- {}", self.args);
        }
        out
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line(true))
    }
}

/// The fields of a line as they are met.
#[derive(Default)]
struct Fields {
    name: Option<String>,
    memory: Option<Size>,
    maxmem: Option<Size>,
    vcpus: Option<u32>,
    weight: Option<u32>,
    cap: Option<u32>,
    tmem: Option<TmemSettings>,
    privileged: Option<()>,
    kernel: Option<String>,
    ramdisk: Option<String>,
    on_reboot: Option<OnReboot>,
}

impl Fields {
    fn take<'w>(&mut self, word: &'w str) -> Result<(), (&'w str, String)> {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        let result = match (key, value) {
            ("privileged", None) => set(&mut self.privileged, Ok(())),
            ("name", Some(v)) => set(&mut self.name, Ok(v.to_owned())),
            ("memory", Some(v)) => set(&mut self.memory, v.parse()),
            ("maxmem", Some(v)) => set(&mut self.maxmem, v.parse()),
            ("vcpus", Some(v)) => set(&mut self.vcpus, number(v)),
            ("weight", Some(v)) => set(&mut self.weight, number(v)),
            ("cap", Some(v)) => set(&mut self.cap, number(v)),
            ("tmem", Some(v)) => set(&mut self.tmem, TmemSettings::parse(v).map_err(str::to_owned)),
            ("kernel", Some(v)) => set(&mut self.kernel, Ok(v.to_owned())),
            ("ramdisk", Some(v)) => set(&mut self.ramdisk, Ok(v.to_owned())),
            ("on-reboot", Some("restart")) => set(&mut self.on_reboot, Ok(OnReboot::Restart)),
            ("on-reboot", Some("destroy")) => set(&mut self.on_reboot, Ok(OnReboot::Destroy)),
            ("on-reboot", Some(v)) => Err(format!("`{v}` is neither restart nor destroy")),
            ("privileged", Some(_)) => Err("takes no value".into()),
            (_, Some(_)) => Err("no such field".into()),
            (_, None) => Err("expected `field=value`, `privileged`, or ` -- ` before the kernel's arguments".into()),
        };
        result.map_err(|problem| (key, problem))
    }
}

fn set<T>(slot: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    if slot.is_some() {
        return Err("given twice".into());
    }
    *slot = Some(value?);
    Ok(())
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

/// Splits a line at its first word `--`.
fn split_args(line: &str) -> (&str, &str) {
    let line = line.trim();
    if let Some(args) = line.strip_suffix(" --") {
        return (args, "");
    }
    line.split_once(" -- ").map_or((line, ""), |(head, args)| (head, args.trim()))
}

fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty".into());
    }
    if name.len() > NAME_MAX {
        return Some(format!("`{name}` is longer than {NAME_MAX} characters"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!name.chars().all(allowed)).then(|| format!("`{name}` may hold only letters, digits, `-`, `_` and `.`"))
}

fn word_problem(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("is empty".into());
    }
    text.contains(char::is_whitespace).then(|| format!("`{text}` contains white space"))
}

/// Reads a whole `ebb.cfg`.
///
/// # Errors
/// The first domain and field that are wrong, or a name used twice.
pub fn parse(text: &str) -> Result<Vec<Domain>, ConfigError> {
    let mut domains = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        domains.push(Domain::parse_line(line, &format!("line {}", index + 1))?);
    }
    check_all(&domains)?;
    Ok(domains)
}

/// Checks every domain and that no two share a name.
///
/// # Errors
/// The first domain and field that are wrong.
pub fn check_all(domains: &[Domain]) -> Result<(), ConfigError> {
    for (index, domain) in domains.iter().enumerate() {
        domain.check()?;
        if domains[..index].iter().any(|other| other.name == domain.name) {
            return Err(ConfigError::new(&domain.name, "name", "is used by two domains"));
        }
    }
    Ok(())
}

/// Writes `ebb.cfg`.
#[must_use]
pub fn format(domains: &[Domain]) -> String {
    domains.iter().map(|domain| format!("{domain}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_line_is_read() {
        let line = "name=web memory=64M maxmem=128M vcpus=2 weight=512 cap=150 tmem=compress,cap:8M privileged kernel=guest.elf \
                    ramdisk=initrd.img on-reboot=destroy -- workload=tide a=b -- c";
        let domain = Domain::parse_line(line, "line 1").unwrap();
        assert_eq!(domain.name, "web");
        assert_eq!(domain.memory, Size::mib(64));
        assert_eq!(domain.maxmem, Size::mib(128));
        assert_eq!((domain.vcpus, domain.weight, domain.cap, domain.privileged), (2, 512, 150, true));
        assert_eq!(domain.ramdisk.as_deref(), Some("initrd.img"));
        assert_eq!((domain.tmem.compress, domain.tmem.cap), (true, Some(2048)));
        assert_eq!(domain.on_reboot, OnReboot::Destroy);
        assert_eq!(domain.args, "workload=tide a=b -- c");
    }

    #[test]
    fn unstated_fields_have_defaults() {
        let domain = Domain::parse_line("name=a memory=8 kernel=k", "line 1").unwrap();
        assert_eq!(domain, Domain::new("a", Size::mib(8), "k"));
    }

    #[test]
    fn mistakes_name_domain_and_field() {
        for (line, expected) in [
            ("memory=64M kernel=k", "domain `line 1`: name: is missing"),
            ("name=a kernel=k", "domain `a`: memory: is missing"),
            ("name=a memory=64M", "domain `a`: kernel: is missing"),
            ("name=a memory=x kernel=k", "domain `a`: memory: `x` is not a size"),
            ("memory=x name=a kernel=k", "domain `a`: memory: `x` is not a size"),
            ("name=a memory=64M maxmem=32M kernel=k", "domain `a`: maxmem: 32M is less than memory (64M)"),
            ("name=a memory=512K kernel=k", "domain `a`: memory: 512K is less than 4M"),
            ("name=a memory=5001K kernel=k", "domain `a`: memory: 5001K is not a multiple of 4K"),
            ("name=a memory=8M vcpus=0 kernel=k", "domain `a`: vcpus: 0 is not in 1..=64"),
            ("name=a memory=8M vcpus=two kernel=k", "domain `a`: vcpus: `two` is not a number"),
            ("name=a memory=8M tmem=cap:8M,cap:9M kernel=k", "domain `a`: tmem: something is given twice"),
            ("name=a memory=8M weight=65536 kernel=k", "domain `a`: weight: 65536 is not in 1..=65535"),
            ("name=a memory=8M vcpus=2 cap=201 kernel=k", "domain `a`: cap: 201 is more than 200"),
            ("name=a memory=8M memory=9M kernel=k", "domain `a`: memory: given twice"),
            ("name=a memory=8M kernel=k colour=red", "domain `a`: colour: no such field"),
            ("name=a memory=8M kernel=k quiet", "domain `a`: quiet: expected `field=value`"),
            ("name=a memory=8M kernel=k privileged=yes", "domain `a`: privileged: takes no value"),
            ("name=a memory=8M kernel=k on-reboot=maybe", "domain `a`: on-reboot: `maybe` is neither"),
            ("name=a memory=8M kernel=", "domain `a`: kernel: is empty"),
            (
                "name=sixteen-letters-x memory=8M kernel=k",
                "domain `sixteen-letters-x`: name: `sixteen-letters-x` is longer",
            ),
            ("name=a/b memory=8M kernel=k", "domain `a/b`: name: `a/b` may hold only"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{line}\n got: {error}\nwant: {expected}");
        }
    }

    #[test]
    fn two_domains_of_one_name_are_refused() {
        let error = parse("name=a memory=8M kernel=k\n# comment\n\nname=a memory=8M kernel=k").unwrap_err();
        assert_eq!(error.to_string(), "domain `a`: name: is used by two domains");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            name in "[a-z][a-z0-9._-]{0,14}", pages in 1024u64..1 << 30, more in 0u64..1 << 30,
            vcpus in 1u32..=64, weight in 1u32..=65535, cap in 0u32..=100, privileged: bool, destroy: bool,
            tmem in proptest::option::of((any::<bool>(), 0u32..9, 0u64..1 << 30)),
            ramdisk in proptest::option::of("[a-z./]{1,20}"), args in "[a-z=]?([ a-z=-]{0,30}[a-z=])?",
        ) {
            let domain = Domain {
                name, memory: Size(pages * PAGE), maxmem: Size((pages + more) * PAGE), vcpus, weight, cap, privileged,
                tmem: tmem.map_or(TmemSettings { off: privileged, ..Default::default() }, |(compress, weight, floor)| {
                    TmemSettings { off: false, compress, weight: Some(weight), floor: Some(floor), cap: None }
                }),
                kernel: "guest.elf".into(), ramdisk,
                on_reboot: if destroy { OnReboot::Destroy } else { OnReboot::Restart },
                args: args.trim().to_owned(),
            };
            prop_assert_eq!(parse(&format(std::slice::from_ref(&domain))), Ok(vec![domain]));
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = parse(&text);
        }
    }
}
