//! Scenarios: a machine and its domains, written by people in TOML.
//!
//! Unknown keys are mistakes, sizes are human, and a domain's `kernel` may be left out: then it is
//! Ebb's own guest. Paths are relative to the scenario's file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::config::{self, ConfigError, Domain, OnReboot, WEIGHT_DEFAULT};
use crate::library;
use crate::size::Size;

/// The scenario `ebb run` plays when it is given none.
pub const DEFAULT: &str = include_str!("../scenarios/default.toml");

/// Memory that the hypervisor and its boot need at least, whatever the domains ask for.
const HOST_RESERVE: Size = Size::mib(12);

/// A machine and its domains.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The machine.
    #[serde(default)]
    pub host: Host,
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
    privileged: bool,
    kernel: Option<String>,
    ramdisk: Option<String>,
    #[serde(default)]
    args: String,
    #[serde(default)]
    on_reboot: OnReboot,
}

fn one() -> u32 {
    1
}

fn weight_default() -> u32 {
    WEIGHT_DEFAULT
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
            privileged: self.privileged,
            kernel: self.kernel.as_ref().map_or_else(|| library::GUEST.to_owned(), image),
            ramdisk: self.ramdisk.as_ref().map(image),
            on_reboot: self.on_reboot,
            args: self.args.trim().to_owned(),
        }
    }
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
        config::check_all(&scenario.domains())?;
        Ok(scenario)
    }

    /// The domains, their images as paths on this host or [names](library).
    #[must_use]
    pub fn domains(&self) -> Vec<Domain> {
        self.domains.iter().map(|d| d.to_domain(&self.base)).collect()
    }

    /// Checks that the domains can start together in `host_memory`.
    ///
    /// # Errors
    /// The domain with which the machine is full.
    pub fn check_fits(&self, host_memory: Size) -> Result<(), ConfigError> {
        let mut used = HOST_RESERVE.bytes();
        for domain in &self.domains {
            used = used.saturating_add(domain.memory.bytes());
            if used > host_memory.bytes() {
                return Err(ConfigError::new(
                    &domain.name,
                    "memory",
                    format!(
                        "{} does not fit: with the domains before it and {HOST_RESERVE} for the hypervisor the host \
                         would need {}, and has {host_memory}",
                        domain.memory,
                        Size(used)
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Says in which domain a mistake is, which TOML's own message leaves out.
fn locate(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let span = error.span().unwrap_or(0..text.len());
    let upto = |end: usize| text.get(..end).unwrap_or(text);
    let line = upto(span.start).matches('\n').count() + 1;
    // A missing field's span is its table's header, so look up to the span's end.
    let before = upto(span.end);
    let place = match before.matches("[[domain]]").count() {
        0 => "host".to_owned(),
        nth => format!(
            "domain {}",
            name_near(text, before.rfind("[[domain]]").unwrap_or(0)).unwrap_or(format!("number {nth}"))
        ),
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
        scenario.check_fits(scenario.host.memory).unwrap();
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
            ("[host]\nsockets=1", "host: unknown field `sockets`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}\n got: {error}\nwant: {expected}");
        }
    }

    #[test]
    fn domains_that_cannot_start_together_are_refused() {
        let scenario =
            parse("[host]\nmemory='64M'\n[[domain]]\nname='a'\nmemory='32M'\n[[domain]]\nname='b'\nmemory='32M'")
                .unwrap();
        let error = scenario.check_fits(scenario.host.memory).unwrap_err().to_string();
        assert!(error.starts_with("domain `b`: memory: 32M does not fit"), "{error}");
        scenario.check_fits(Size::mib(128)).unwrap();
    }
}
