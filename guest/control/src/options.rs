//! The control domain's arguments: `policy=fixed|share|pressure`, `interval=` (ms), `reserve=` (a size that the policies
//! leave to the host), `stay`.

use crate::policy::{Fixed, Policy, Pressure, ProportionalShare};
use crate::script::parse_size;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

/// Which memory policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyKind {
    /// Targets stay.
    #[default]
    Fixed,
    /// By weight.
    Share,
    /// By what guests report.
    Pressure,
}

impl PolicyKind {
    /// A policy of that kind.
    pub fn make(self) -> Box<dyn Policy> {
        match self {
            PolicyKind::Fixed => Box::new(Fixed),
            PolicyKind::Share => Box::new(ProportionalShare),
            PolicyKind::Pressure => Box::new(Pressure::default()),
        }
    }
}

/// The arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The policy.
    pub policy: PolicyKind,
    /// How often it looks, ns.
    pub interval: u64,
    /// What it leaves to the host, KiB.
    pub reserve: u64,
    /// The machine does not end when only privileged domains remain.
    pub stay: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { policy: PolicyKind::Fixed, interval: 1_000_000_000, reserve: 16 * 1024, stay: false }
    }
}

/// The shortest interval, ms.
const INTERVAL_MIN: u64 = 10;

impl Options {
    /// Reads the arguments out of a command line; other words are other people's.
    pub fn parse(line: &str) -> Result<Options, String> {
        let mut options = Options::default();
        for word in line.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "policy" => {
                    options.policy = match value {
                        "fixed" => PolicyKind::Fixed,
                        "share" => PolicyKind::Share,
                        "pressure" => PolicyKind::Pressure,
                        _ => return Err(format!("policy={value} is none of fixed, share, pressure")),
                    }
                }
                "interval" => {
                    let ms: Option<u64> = value.parse().ok().filter(|ms| (INTERVAL_MIN..=3_600_000).contains(ms));
                    options.interval =
                        ms.ok_or(format!("interval={value} is not {INTERVAL_MIN} ms to an hour"))? * 1_000_000;
                }
                "reserve" => {
                    options.reserve = parse_size(value).ok_or(format!("reserve={value} is no size"))?;
                }
                "stay" if word == "stay" => options.stay = true,
                _ => {}
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_among_others() {
        let options = Options::parse("workload=control policy=share interval=250 cpus=1 stay reserve=8M").unwrap();
        let wanted = Options { policy: PolicyKind::Share, interval: 250_000_000, reserve: 8192, stay: true };
        assert_eq!(options, wanted);
        assert_eq!(Options::parse("workload=control").unwrap(), Options::default());
        assert_eq!(options.policy.make().name(), "share");
    }

    #[test]
    fn mistakes_are_named() {
        for bad in ["policy=", "policy=best", "interval=0", "interval=9", "interval=x", "reserve=much"] {
            assert!(Options::parse(bad).unwrap_err().starts_with(bad), "{bad}");
        }
    }
}
