//! Scenarios: a machine and its domains, written by people in TOML.
//!
//! Unknown keys are mistakes, sizes are human, and a domain's `kernel` may be left out: then it is
//! Ebb's own guest. Paths are relative to the scenario's file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use shared_abi::tmem_settings::TmemSettings;

use crate::config::{self, ConfigError, Domain, OnReboot, WEIGHT_DEFAULT};
use crate::control::{self, Control, Step};
use crate::library::{self, Library};
use crate::size::Size;

/// The scenario `ebb run` plays when it is given none.
pub const DEFAULT: &str = include_str!("../scenarios/default.toml");

/// The scenario with a Linux domain that `ebb run` plays when there is a kernel for it.
pub const LINUX: &str = include_str!("../scenarios/linux.toml");
/// The domain of [`LINUX`] that runs Linux.
pub const LINUX_DOMAIN: &str = "tux";

/// Memory that the hypervisor and its boot need at least, whatever the domains ask for.
const HOST_RESERVE: Size = Size::mib(12);

/// A machine and its domains.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The machine.
    #[serde(default)]
    pub host: Host,
    /// The control domain, if something is to be said about it.
    control: Option<Control>,
    /// Its domains, in boot order.
    #[serde(default, rename = "domain")]
    domains: Vec<DomainToml>,
    /// Where relative paths start.
    #[serde(skip)]
    base: PathBuf,
}

/// The emulated machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    /// Physical processors.
    pub cpus: u32,
    /// Physical memory.
    pub memory: Size,
    /// Further options for the hypervisor's command line.
    pub options: String,
}

impl Default for Host {
    fn default() -> Self {
        Self { cpus: 2, memory: Size::mib(256), options: String::new() }
    }
}

/// A domain as a scenario writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DomainToml {
    name: String,
    memory: Size,
    maxmem: Option<Size>,
    #[serde(default = "one")]
    vcpus: u32,
    #[serde(default = "weight_default")]
    weight: u32,
    #[serde(default)]
    cap: u32,
    #[serde(default)]
    privileged: bool,
    kernel: Option<String>,
    ramdisk: Option<String>,
    #[serde(default)]
    args: String,
    #[serde(default)]
    on_reboot: OnReboot,
    /// What happens to it, and when.
    #[serde(default)]
    script: Vec<Step>,
    /// Its transcendent memory, as in the line of a boot configuration.
    #[serde(default, deserialize_with = "tmem_settings")]
    tmem: TmemSettings,
}

fn one() -> u32 {
    1
}

fn weight_default() -> u32 {
    WEIGHT_DEFAULT
}

fn tmem_settings<'de, D: Deserializer<'de>>(from: D) -> Result<TmemSettings, D::Error> {
    TmemSettings::parse(&String::deserialize(from)?).map_err(|why| D::Error::custom(format_args!("tmem: {why}")))
}

impl DomainToml {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The domain, its paths starting at `base`.
    #[must_use]
    pub fn to_domain(&self, base: &Path) -> Domain {
        let image = |image: &String| library::resolve(base, image);
        Domain {
            name: self.name.clone(),
            memory: self.memory,
            maxmem: self.maxmem.unwrap_or(self.memory),
            vcpus: self.vcpus,
            weight: self.weight,
            cap: self.cap,
            tmem: self.tmem,
            privileged: self.privileged,
            kernel: self.kernel.as_ref().map_or_else(|| library::GUEST.to_owned(), image),
            ramdisk: self.ramdisk.as_ref().map(image),
            on_reboot: self.on_reboot,
            args: self.args.trim().to_owned(),
        }
    }
}

/// The domains to boot, their paths from `base`, with a control domain before them if one is needed: for Linux, a script,
/// or when `control` says something about it. Its script goes into `library`.
///
/// # Errors
/// A domain has the control domain's name.
pub fn with_control(
    written: &[DomainToml],
    control: Option<&Control>,
    base: &Path,
    library: &mut Library,
) -> Result<Vec<Domain>, ConfigError> {
    let mut domains: Vec<_> = written.iter().map(|d| d.to_domain(base)).collect();
    let asked = control.is_some() || written.iter().any(|d| !d.script.is_empty());
    let has_own = domains.iter().any(|d| d.privileged);
    if asked || (!has_own && domains.iter().any(|d| library.is_linux(&d.kernel))) {
        let steps = written.iter().map(|d| (d.name.as_str(), d.script.as_slice()));
        library.add(control::SCRIPT, control::script(steps).into_bytes());
        domains.insert(0, control.cloned().unwrap_or_default().domain());
        config::check_all(&domains)?;
    }
    Ok(domains)
}

impl Scenario {
    /// Reads a scenario from `path`.
    ///
    /// # Errors
    /// The file cannot be read, or the first mistake in it.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(&text, base).with_context(|| format!("in {}", path.display()))
    }

    /// The scenario that comes with the tool.
    ///
    /// # Errors
    /// None unless the tool was built wrong; a test reads it.
    pub fn built_in() -> Result<Self> {
        Self::parse(DEFAULT, PathBuf::new())
    }

    /// The scenario with Linux that comes with the tool.
    ///
    /// # Errors
    /// As [`Scenario::built_in`].
    pub fn linux() -> Result<Self> {
        Self::parse(LINUX, PathBuf::new())
    }

    /// Reads a scenario from `text`; relative paths in it start at `base`.
    ///
    /// # Errors
    /// The first mistake, with the domain and the field or the line.
    pub fn parse(text: &str, base: PathBuf) -> Result<Self> {
        let mut scenario: Self = toml::from_str(text).map_err(|error| locate(text, &error))?;
        scenario.base = base;
        if !(1..=255).contains(&scenario.host.cpus) {
            bail!("host: cpus: {} is not in 1..=255", scenario.host.cpus);
        }
        if scenario.host.options.contains(['\n', '\0']) {
            bail!("host: options: must be one line");
        }
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), ConfigError> {
        config::check_all(&self.domains())?;
        for toml in &self.domains {
            let domain = toml.to_domain(&self.base);
            let err = |field: &str, problem: &str| Err(ConfigError::new(&domain.name, field, problem));
            if domain.privileged && (self.control.is_some() || self.domains.iter().any(|d| !d.script.is_empty())) {
                return err(
                    "privileged",
                    "a control domain is added for [control] and scripts, and must be the only one",
                );
            }
            toml.script.iter().try_for_each(|step| step.check(&domain))?;
        }
        Ok(())
    }

    /// The domains, their images as paths on this host or [names](library).
    #[must_use]
    pub fn domains(&self) -> Vec<Domain> {
        self.domains.iter().map(|d| d.to_domain(&self.base)).collect()
    }

    /// The domains to boot, with a control domain before them if one is needed: for Linux, a script,
    /// or `[control]`. Its script goes into `library`.
    ///
    /// # Errors
    /// A domain has the control domain's name.
    pub fn to_boot(&self, library: &mut Library) -> Result<Vec<Domain>, ConfigError> {
        with_control(&self.domains, self.control.as_ref(), &self.base, library)
    }

    /// Gives the domain called `name` another kernel, RAM disk or command line, the paths from here.
    pub fn replace(&mut self, name: &str, kernel: Option<&str>, ramdisk: Option<&str>, args: Option<&str>) {
        let Some(domain) = self.domains.iter_mut().find(|d| d.name == name) else {
            return;
        };
        let absolute = |image: &str| {
            let path = if library::is_name(image) { None } else { std::path::absolute(image).ok() };
            path.map_or_else(|| image.to_owned(), |path| path.to_string_lossy().into_owned())
        };
        domain.kernel = kernel.map(absolute).or(domain.kernel.take());
        domain.ramdisk = ramdisk.map(absolute).or(domain.ramdisk.take());
        if let Some(args) = args {
            args.clone_into(&mut domain.args);
        }
    }
}

/// Checks that `domains` can start together in `host_memory`, beside an archive of `archive` bytes.
///
/// # Errors
/// The domain with which the machine is full.
pub fn check_fits(domains: &[Domain], archive: u64, host_memory: Size) -> Result<(), ConfigError> {
    let reserve = HOST_RESERVE.bytes().saturating_add(archive);
    let mut used = reserve;
    for domain in domains {
        used = used.saturating_add(domain.memory.bytes());
        if used > host_memory.bytes() {
            let problem = format!(
                "{} does not fit: with the domains before it and {}M for the hypervisor and the images the host would \
                 need {}M, and has {host_memory}",
                domain.memory,
                Size(reserve).to_mib(),
                Size(used).to_mib()
            );
            return Err(ConfigError::new(&domain.name, "memory", problem));
        }
    }
    Ok(())
}

/// Says in which domain a mistake is, which TOML's own message leaves out.
fn locate(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let span = error.span().unwrap_or(0..text.len());
    let upto = |end: usize| text.get(..end).unwrap_or(text);
    let line = upto(span.start).matches('\n').count() + 1;
    // A missing field's span is its table's header, so look up to the span's end.
    let before = upto(span.end);
    let header = before.lines().rfind(|line| line.starts_with('[')).unwrap_or("[host]").trim();
    let place = match header {
        "[[domain]]" | "[[domain.script]]" => {
            let nth = before.matches("[[domain]]").count();
            let name = before.rfind("[[domain]]").and_then(|start| name_near(text, start));
            format!("domain {}", name.unwrap_or_else(|| format!("number {nth}")))
        }
        "[control]" => "control".to_owned(),
        _ => "host".to_owned(),
    };
    anyhow::anyhow!("{place}: {} (line {line})", error.message())
}

/// The `name = "..."` of the table that starts at `start`.
fn name_near(text: &str, start: usize) -> Option<String> {
    let table = &text[start..];
    let end = table[2..].find("\n[").map_or(table.len(), |i| i + 2);
    table[..end].lines().find_map(|line| {
        let value = line.trim().strip_prefix("name")?.trim_start().strip_prefix('=')?;
        Some(format!("`{}`", value.trim().trim_matches(['"', '\''])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Scenario> {
        Scenario::parse(text, PathBuf::from("/s"))
    }

    #[test]
    fn the_built_in_scenario_is_sound() {
        let scenario = Scenario::built_in().unwrap();
        let domains = scenario.domains();
        assert!(domains.len() >= 3);
        check_fits(&domains, 1 << 20, scenario.host.memory).unwrap();
        let wish: u64 = domains.iter().map(|d| d.maxmem.bytes()).sum();
        assert!(wish > scenario.host.memory.bytes(), "the wishes must exceed the host");
    }

    #[test]
    fn paths_start_at_the_file() {
        let scenario = parse("[[domain]]\nname='a'\nmemory='8M'\nkernel='k.elf'\nramdisk='/r'").unwrap();
        let domain = &scenario.domains()[0];
        assert_eq!(domain.kernel, "/s/k.elf");
        assert_eq!(domain.ramdisk.as_deref(), Some("/r"));
    }

    #[test]
    fn mistakes_name_domain_and_field() {
        for (text, expected) in [
            ("[[domain]]\nname='a'\nmemory='8M'\ncolour='red'", "domain `a`: unknown field `colour`"),
            ("[[domain]]\nname='a'\nmemory='8Q'", "domain `a`: `8Q` is not a size"),
            ("[[domain]]\nname='a'", "domain `a`: missing field `memory`"),
            ("[[domain]]\nmemory=8", "domain number 1: missing field `name`"),
            ("[[domain]]\nname='a'\nmemory=8\nvcpus=0", "domain `a`: vcpus: 0 is not in"),
            ("[[domain]]\nname='a'\nmemory=8\nmaxmem=4", "domain `a`: maxmem: 4M is less"),
            ("[host]\ncpus=0", "host: cpus: 0 is not in"),
            ("[host]\nmemory=-1", "host: `-1` is not a size"),
            (
                "[[domain]]\nname='a'\nmemory=8\ntmem='on'",
                "domain `a`: tmem: off, or of weight:N, compress, floor:SIZE and cap:SIZE, with commas (line 4)",
            ),
            ("[[domain]]\nname='a'\nmemory=8\n[[domain.script]]\nat='5s'", "domain `a`: script: at 5000 ms: needs"),
            ("[[domain]]\nname='a'\nmemory=8\n[[domain.script]]\nat=5", "domain `a`: invalid type"),
            ("[[domain]]\nname='a'\nmemory=8\n[[domain.script]]\nat='5s'\nwhen=1", "domain `a`: unknown field `when`"),
            ("[control]\n[[domain]]\nname='a'\nmemory=8\nprivileged=true", "domain `a`: privileged: a control domain"),
            ("[[domain]]\nname='a'\nmemory=8\n[control]\npolicy='free'", "control: unknown variant `free`"),
            ("[control]\ncolour='red'", "control: unknown field `colour`"),
            ("[host]\nsockets=1", "host: unknown field `sockets`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}\n got: {error}\nwant: {expected}");
        }
    }

    #[test]
    fn domains_that_cannot_start_together_are_refused() {
        let domains =
            parse("[[domain]]\nname='a'\nmemory='32M'\n[[domain]]\nname='b'\nmemory='32M'").unwrap().domains();
        let error = check_fits(&domains, 0, Size::mib(64)).unwrap_err().to_string();
        assert!(error.starts_with("domain `b`: memory: 32M does not fit"), "{error}");
        check_fits(&domains, 0, Size::mib(128)).unwrap();
        // The archive stays, to build domains again from.
        let error = check_fits(&domains, 60 << 20, Size::mib(128)).unwrap_err().to_string();
        assert!(
            error.ends_with("72M for the hypervisor and the images the host would need 136M, and has 128M"),
            "{error}"
        );
    }

    #[test]
    fn a_control_domain_is_added_when_needed() {
        let boot = |text: &str| {
            let mut library = Library::default();
            let domains = parse(text).unwrap().to_boot(&mut library);
            domains.map(|domains| (domains, library.read(control::SCRIPT).ok()))
        };
        let (domains, script) = boot("[[domain]]\nname='a'\nmemory=8").unwrap();
        assert_eq!((domains.len(), script), (1, None));

        let (domains, script) =
            boot("[[domain]]\nname='a'\nmemory=8\n[[domain.script]]\nat='1s'\ntarget='7M'").unwrap();
        assert_eq!((domains[0].name.as_str(), domains[0].privileged, domains.len()), ("control", true, 2));
        assert_eq!(domains[0].args, "workload=control policy=fixed interval=1000 reserve=16M");
        assert!(String::from_utf8(script.unwrap()).unwrap().ends_with("\nat 1000 a target 7M\n"));

        let (domains, _) = boot("[control]\npolicy='share'\ninterval='2s'\nstay=true").unwrap();
        assert_eq!(domains[0].args, "workload=control policy=share interval=2000 reserve=16M stay");
        assert_eq!(boot("[[domain]]\nname='tux'\nmemory=128\nkernel='debian'").unwrap().0.len(), 2);
        let own =
            "[[domain]]\nname='mine'\nmemory=8\nprivileged=true\n[[domain]]\nname='tux'\nmemory=128\nkernel='debian'";
        assert_eq!(boot(own).unwrap().0.len(), 2);

        let error = boot("[control]\n[[domain]]\nname='control'\nmemory=8").unwrap_err().to_string();
        assert_eq!(error, "domain `control`: name: is used by two domains");
    }

    #[test]
    fn the_linux_scenario_is_sound() {
        let mut scenario = Scenario::linux().unwrap();
        let domains = scenario.to_boot(&mut Library::default()).unwrap();
        assert_eq!(domains[0].name, "control");
        // Debian's kernel is about 53 MiB.
        check_fits(&domains, 60 << 20, scenario.host.memory).unwrap();
        scenario.replace(LINUX_DOMAIN, Some("/k"), None, Some("quiet"));
        let domains = scenario.domains();
        let tux = domains.iter().find(|d| d.name == LINUX_DOMAIN).unwrap();
        assert_eq!((tux.kernel.as_str(), tux.ramdisk.as_deref(), tux.args.as_str()), ("/k", Some("ebb-init"), "quiet"));
    }
}
