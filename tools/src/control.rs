//! The control domain as a scenario asks for it: its policy, and the script of what happens to which
//! domain when. What it does with them: docs/control-domain.md.

use serde::{Deserialize, Deserializer, de};

use crate::config::{ConfigError, Domain};
use crate::library;
use crate::size::{PAGE, Size};

/// Its name.
pub const NAME: &str = "control";
/// The name of its script among the images.
pub const SCRIPT: &str = "control.script";
/// Its share of processor time: everybody's console and store wait for it.
const WEIGHT: u32 = 1024;

/// The section `[control]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Control {
    /// Who decides about memory.
    policy: Policy,
    /// How often it decides.
    interval: Time,
    /// What the policies leave to the host.
    reserve: Size,
    /// What the control domain has for itself.
    memory: Size,
    /// Whether the machine goes on when nothing but the control domain is left.
    stay: bool,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            policy: Policy::Fixed,
            interval: Time { ms: 1000 },
            reserve: Size::mib(16),
            memory: Size::mib(32),
            stay: false,
        }
    }
}

/// A memory policy.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Policy {
    /// Targets stay as they are.
    Fixed,
    /// Memory is shared by weight.
    Share,
    /// Memory goes where guests report a lack of it.
    Pressure,
}

/// A time as people write it: `500ms`, `5s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    ms: u64,
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            _ => None,
        };
        let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
        number
            .and_then(|number| number.checked_mul(unit?))
            .map(|ms| Self { ms })
            .ok_or_else(|| de::Error::custom(format!("`{text}` is not a time; write for instance 500ms, 5s or 2m")))
    }
}

/// One thing that happens to a domain: an entry of `[[domain.script]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    /// When, from when the domain first ran or reached `stage`. Needed unless there is a stage.
    at: Option<Time>,
    /// Waits until the domain says in its node `data/stage` that it is there or beyond.
    stage: Option<u32>,
    /// Its memory target from then on.
    target: Option<Size>,
    /// The most memory it may have from then on.
    max_mem: Option<Size>,
    /// A SysRq key that is pressed in it.
    sysrq: Option<char>,
    /// Something else.
    #[serde(rename = "do")]
    action: Option<Action>,
}

/// What may happen to a domain besides.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Pause,
    Unpause,
    Destroy,
    Reboot,
    Shutdown,
    Poweroff,
    Halt,
}

impl Step {
    /// Checks the step of `domain`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, domain: &Domain) -> Result<(), ConfigError> {
        let err = |problem: String| Err(ConfigError::new(&domain.name, "script", format!("{}: {problem}", self.at())));
        if self.at.is_none() && self.stage.is_none() {
            return err("needs at, stage or both".into());
        }
        if self.stage == Some(0) {
            return err("stages begin with 1".into());
        }
        let given = [self.target.is_some(), self.max_mem.is_some(), self.sysrq.is_some(), self.action.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return err("needs exactly one of target, max-mem, sysrq and do".into());
        }
        if let Some(size) = self.target.or(self.max_mem)
            && (size.bytes() == 0 || !size.bytes().is_multiple_of(PAGE))
        {
            return err(format!("{size} is not a multiple of 4K above 0"));
        }
        if let Some(target) = self.target.filter(|target| *target > domain.maxmem) {
            return err(format!("target {target} is more than maxmem ({})", domain.maxmem));
        }
        if let Some(key) = self.sysrq.filter(|key| !key.is_ascii_graphic()) {
            return err(format!("{key:?} is no SysRq key"));
        }
        Ok(())
    }

    /// When it is, as messages say it.
    fn at(&self) -> String {
        let ms = self.at.map_or(0, |time| time.ms);
        self.stage.map_or_else(|| format!("at {ms} ms"), |stage| format!("stage {stage}, {ms} ms"))
    }

    /// The line of the control domain's script.
    fn line(&self, domain: &str) -> String {
        let what = match (self.target, self.max_mem, self.sysrq, self.action) {
            (Some(size), ..) => format!("target {size}"),
            (_, Some(size), ..) => format!("max-mem {size}"),
            (_, _, Some(key), _) => format!("sysrq {key}"),
            (.., Some(action)) => format!("{action:?}").to_lowercase(),
            // `check` has refused it.
            (.., None) => return String::new(),
        };
        let ms = self.at.map_or(0, |time| time.ms);
        let when = self.stage.map_or_else(|| "at".to_owned(), |stage| format!("stage {stage}"));
        format!("{when} {ms} {domain} {what}\n")
    }
}

impl Control {
    /// The control domain.
    #[must_use]
    pub fn domain(&self) -> Domain {
        let mut args = format!(
            "workload=control policy={} interval={} reserve={}",
            format!("{:?}", self.policy).to_lowercase(),
            self.interval.ms,
            self.reserve
        );
        if self.stay {
            args += " stay";
        }
        Domain {
            privileged: true,
            weight: WEIGHT,
            ramdisk: Some(SCRIPT.to_owned()),
            args,
            ..Domain::new(NAME, self.memory, library::GUEST)
        }
    }
}

/// The control domain's script for domains with these steps.
#[must_use]
pub fn script<'s>(steps: impl IntoIterator<Item = (&'s str, &'s [Step])>) -> String {
    let mut text = String::from("# at <ms since the domain first ran> <domain> <what>\n");
    for (domain, steps) in steps {
        for step in steps {
            text += &step.line(domain);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(text: &str) -> Result<Step, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn steps_become_lines() {
        for (text, line) in [
            ("at='5s'\ntarget='64M'", "at 5000 a target 64M\n"),
            ("at='500ms'\nmax-mem=96", "at 500 a max-mem 96M\n"),
            ("at='2m'\nsysrq='c'", "at 120000 a sysrq c\n"),
            ("at='0s'\ndo='poweroff'", "at 0 a poweroff\n"),
            ("at='0s'\ntarget='8196K'", "at 0 a target 8196K\n"),
            ("stage=3\ndo='halt'", "stage 3 0 a halt\n"),
            ("stage=1\nat='2s'\ntarget=8", "stage 1 2000 a target 8M\n"),
        ] {
            let step = step(text).unwrap();
            step.check(&Domain::new("a", Size::mib(64), "k")).unwrap();
            assert_eq!(step.line("a"), line);
        }
    }

    #[test]
    fn impossible_steps_are_refused() {
        for (text, problem) in [
            ("at='5s'", "domain `a`: script: at 5000 ms: needs exactly one of"),
            ("do='pause'", "domain `a`: script: at 0 ms: needs at, stage or both"),
            ("stage=0\ndo='pause'", "domain `a`: script: stage 0, 0 ms: stages begin with 1"),
            ("at='5s'\ntarget=8\ndo='pause'", "domain `a`: script: at 5000 ms: needs exactly one of"),
            ("at='5s'\ntarget='65M'", "domain `a`: script: at 5000 ms: target 65M is more than maxmem (64M)"),
            ("at='5s'\ntarget='5K'", "domain `a`: script: at 5000 ms: 5K is not a multiple of 4K"),
            ("at='5s'\ntarget='0'", "domain `a`: script: at 5000 ms: 0K is not a multiple of 4K"),
            ("at='5s'\nsysrq=' '", "domain `a`: script: at 5000 ms: ' ' is no SysRq key"),
        ] {
            let error = step(text).unwrap().check(&Domain::new("a", Size::mib(64), "k")).unwrap_err().to_string();
            assert!(error.starts_with(problem), "got: {error}\nwant: {problem}");
        }
        for (text, problem) in [
            ("at='5'\ntarget=8", "`5` is not a time"),
            ("at='s'\ntarget=8", "`s` is not a time"),
            ("at='-5s'\ntarget=8", "`-5s` is not a time"),
            ("at='18446744073709551615m'\ntarget=8", "`18446744073709551615m` is not a time"),
            ("at='5s'\ndo='fly'", "unknown variant `fly`"),
            ("at='5s'\nsysrq='cc'", "invalid value"),
        ] {
            let error = step(text).unwrap_err();
            assert!(error.starts_with(problem), "got: {error}\nwant: {problem}");
        }
    }
}
