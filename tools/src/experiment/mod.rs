//! The experiment on transcendent memory: the same guests and the same load on the same host, with four ways to divide
//! its memory. What came of each, a table, and plots.

mod plot;

pub use plot::write as write_plot;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use shared_abi::guest_event::{ReclaimStatus, SelfballoonStep};

use crate::scenario::Scenario;
use crate::trace::model::Model;

/// The scenario with its blanks.
const SCENARIO: &str = include_str!("../../scenarios/tmem.toml");

/// What the published experiments found, to stand beside.
pub const CLAIMS: &str = "\
Published for Linux on Xen (Magenheimer, 2009 to 2011): kernel compiles up to 8% faster, 52% fewer sectors read from
the disk. Those were real kernels and disks, with compiles as the load; here guests, load and disk are Ebb's own, the
disk is simulated and the work is page accesses. What can be compared is the direction, and the share of reads saved.";

/// A way to divide the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Its name in tables and files.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    maxmem: &'static str,
    arguments: &'static str,
    /// MiB of the host.
    memory: u32,
    control: &'static str,
}

/// The host's memory for the guests, beside the hypervisor and the images.
const HOST: u32 = 70;
/// What a control domain takes, and what goes with it.
const CONTROL: u32 = 33;

/// The four.
pub const CONFIGURATIONS: [Configuration; 4] = [
    Configuration {
        name: "static",
        about: "each guest has a third",
        maxmem: "20M",
        arguments: "noselfballooning store=ignore",
        memory: HOST,
        control: "",
    },
    Configuration {
        name: "balloon",
        about: "a control domain moves memory by what guests report",
        maxmem: "40M",
        arguments: "noselfballooning report=250",
        memory: HOST + CONTROL,
        control: "[control]\npolicy = \"pressure\"\ninterval = \"250ms\"\nreserve = \"1M\"\n",
    },
    Configuration {
        name: "selfballoon",
        about: "guests selfballoon, without transcendent memory",
        maxmem: "40M",
        arguments: "selfballooning=1 store=ignore",
        memory: HOST,
        control: "",
    },
    Configuration {
        name: "all",
        about: "selfballooning, cleancache, frontswap and selfshrinking",
        maxmem: "40M",
        arguments: "tmem store=ignore",
        memory: HOST,
        control: "",
    },
];

/// The simulated disk under the guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Disk {
    /// 8 ms to seek, 100 MiB/s
    #[default]
    Disk,
    /// 90 µs, 400 MiB/s
    Ssd,
}

impl Disk {
    const fn arguments(self) -> &'static str {
        match self {
            Self::Disk => "seek=8000 transfer=40",
            Self::Ssd => "seek=90 transfer=10",
        }
    }
}

impl Configuration {
    /// The scenario to run.
    ///
    /// # Errors
    /// None unless the tool was built wrong; a test reads all.
    pub fn scenario(&self, disk: Disk) -> Result<Scenario> {
        let text = SCENARIO
            .replace("HOST-MEMORY", &format!("{}M", self.memory))
            .replace("\nCONTROL\n", &format!("\n{}\n", self.control))
            .replace("MAXMEM", self.maxmem)
            .replace("DISK", disk.arguments())
            .replace("ARGUMENTS", self.arguments);
        Scenario::parse(&text, PathBuf::new())
    }
}

/// What came of a configuration; pages, all guests together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Accesses that were done.
    pub work: u64,
    /// Pages of files read from the disk.
    pub file_reads: u64,
    /// Swapped pages read from the disk.
    pub swap_reads: u64,
    /// Pages written to the disk.
    pub writes: u64,
    /// Pages of files that came from transcendent memory.
    pub cleancache_gets: u64,
    /// Swapped pages that did.
    pub frontswap_loads: u64,
    /// Pages that were compared with what should be in them.
    pub verified: u64,
    /// The median time that a selfballoon took to settle once it had to move, ms, if any had to.
    pub settled_ms: Option<u64>,
    /// Guests that reported.
    pub guests: usize,
}

impl Figures {
    /// From a run's trace.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        let mut result = Self::default();
        for domid in model.domains.keys() {
            let last = model.reclaim.iter().rev().find(|(_, id, _)| id == domid);
            let Some((_, _, last)) = last else { continue };
            result.add(last);
        }
        result.settled_ms = settled(&model.selfballoon);
        result
    }

    fn add(&mut self, status: &ReclaimStatus) {
        self.work += u64::from(status.accesses);
        self.file_reads += u64::from(status.file_reads);
        self.swap_reads += u64::from(status.swap_reads);
        self.writes += u64::from(status.writes);
        self.cleancache_gets += u64::from(status.cleancache_gets);
        self.frontswap_loads += u64::from(status.frontswap_loads);
        self.verified += u64::from(status.verified);
        self.guests += 1;
    }

    /// Pages read from the disk for 1000 accesses.
    #[must_use]
    pub fn reads_per_1000(&self) -> u64 {
        (self.reads() * 1000).checked_div(self.work).unwrap_or(0)
    }

    /// Pages read from the disk.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.file_reads + self.swap_reads
    }
}

/// A step that leaves the balloon where it is, or moves it by less than a 64th.
fn is_settled(step: &SelfballoonStep) -> bool {
    step.target.abs_diff(step.current) <= step.current / 64
}

/// The median time from the first step that is not settled to the next that is, ms.
fn settled(steps: &[(u64, u16, SelfballoonStep)]) -> Option<u64> {
    const OFF: u16 = 0;
    let mut ids: Vec<u16> = steps.iter().map(|(_, id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut times = Vec::new();
    for id in ids {
        let own = steps.iter().filter(|(_, other, step)| *other == id && step.why != OFF);
        let mut since = None;
        for (time, _, step) in own {
            if !is_settled(step) {
                since.get_or_insert(*time);
            } else if let Some(start) = since.take() {
                times.push((time - start) / 1_000_000);
            }
        }
    }
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// The table for people.
#[must_use]
pub fn text(results: &[(Configuration, Figures)]) -> String {
    let mut out = format!(
        "{:<12} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>10} {:>9}\n",
        "",
        "work",
        "against",
        "read",
        "per 1000",
        "against",
        "of swap",
        "written",
        "from tmem",
        "settled ms",
        "verified"
    );
    let base = results.first().map_or(Figures::default(), |(_, result)| *result);
    let percent = |value: u64, base: u64| {
        if base == 0 { "-".into() } else { format!("{:+.1}%", (value as f64 / base as f64 - 1.0) * 100.0) }
    };
    for (configuration, r) in results {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:<12} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>10} {:>9}",
            configuration.name,
            r.work,
            percent(r.work, base.work),
            r.reads(),
            r.reads_per_1000(),
            percent(r.reads_per_1000(), base.reads_per_1000()),
            r.swap_reads,
            r.writes,
            r.cleancache_gets + r.frontswap_loads,
            r.settled_ms.map_or_else(|| "-".into(), |ms| ms.to_string()),
            r.verified
        );
    }
    out +=
        "Work is page accesses of all guests; read, written and from tmem are pages. Against: the static division.\n";
    for (configuration, _) in results {
        let _ = writeln!(out, "  {}: {}", configuration.name, configuration.about);
    }
    out
}

/// Writes the table as comma-separated values.
///
/// # Errors
/// What `out` answers.
pub fn csv(results: &[(Configuration, Figures)], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "configuration,work,file_reads,swap_reads,writes,cleancache_gets,frontswap_loads,verified,settled_ms"
    )?;
    for (configuration, r) in results {
        writeln!(
            out,
            "{},{},{},{},{},{},{},{},{}",
            configuration.name,
            r.work,
            r.file_reads,
            r.swap_reads,
            r.writes,
            r.cleancache_gets,
            r.frontswap_loads,
            r.verified,
            r.settled_ms.map_or_else(String::new, |ms| ms.to_string())
        )?;
    }
    Ok(())
}

/// Writes every step of every guest.
///
/// # Errors
/// What `out` answers.
pub fn steps_csv(model: &Model, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "time_s,domain,goal,current,target,committed,floor,frontswap,why,waiting")?;
    for (time, id, s) in &model.selfballoon {
        let name = model.domains.get(id).map_or("", |domain| domain.name.as_str());
        writeln!(
            out,
            "{:.6},{name},{},{},{},{},{},{},{},{}",
            *time as f64 / 1e9,
            s.goal,
            s.current,
            s.target,
            s.committed,
            s.floor,
            s.frontswap,
            s.why,
            s.waiting
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(committed: u32, current: u32, target: u32, why: u16) -> SelfballoonStep {
        SelfballoonStep { goal: committed + 100, current, target, committed, why, ..Default::default() }
    }

    #[test]
    fn every_scenario_is_sound() {
        for configuration in CONFIGURATIONS {
            for disk in [Disk::Disk, Disk::Ssd] {
                let scenario = configuration.scenario(disk).unwrap();
                assert_eq!(scenario.domains().len(), 3);
                for domain in scenario.domains() {
                    assert!(!domain.args.contains("DISK") && !domain.args.contains("ARGUMENTS"), "{}", domain.args);
                    assert!(domain.args.ends_with(configuration.arguments));
                }
            }
        }
    }

    #[test]
    fn the_last_report_of_each_guest_counts() {
        let mut model = Model::default();
        for id in [1, 2] {
            model.domains.insert(id, crate::trace::model::Domain::default());
        }
        let status = |accesses, file_reads| ReclaimStatus { accesses, file_reads, swap_reads: 1, ..Default::default() };
        model.reclaim = vec![(1, 1, status(5, 5)), (2, 2, status(7, 1)), (3, 1, status(10, 8))];
        let result = Figures::of(&model);
        assert_eq!((result.work, result.reads(), result.guests, result.settled_ms), (17, 11, 2, None));
        let all = [(CONFIGURATIONS[0], result), (CONFIGURATIONS[3], Figures { work: 34, file_reads: 0, ..result })];
        let text = text(&all);
        assert!(text.contains("+100.0%") && text.contains("-91.0%"), "{text}");
        let mut out = Vec::new();
        csv(&all, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\nall,34,0,2,0,0,0,0,\n"));
    }

    #[test]
    fn settling_is_counted_from_the_first_step_that_moves() {
        const MS: u64 = 1_000_000;
        let steps = vec![
            (0, 1, step(100, 1000, 1000, 1)),
            (100 * MS, 1, step(500, 1000, 1400, 3)),
            (200 * MS, 1, step(500, 1200, 1400, 3)),
            (300 * MS, 2, step(9, 1, 900, 3)),
            (350 * MS, 1, step(500, 1400, 1400, 1)),
            (400 * MS, 1, step(500, 1400, 1400, 1)),
        ];
        assert_eq!(settled(&steps), Some(250));
        assert_eq!(settled(&[(0, 1, step(1, 1, 1, 0)), (5, 1, step(2, 1, 1, 0))]), None, "off");
    }
}
