//! What `ebb bench` measures from outside the guests: from the trace of whole machines whose time counts instructions.
//!
//! A nanosecond of such a machine is one instruction, so that times in the trace are the figures.

use std::fmt::Write as _;

use serde_json::{Value, json};
use shared_abi::bench::{BenchId, DOMAIN_CREATE, INITIALISATION, LINUX_BOOT, MachineBench};
use shared_abi::trace_stream::ExitReason;

use crate::bench::Row;
use crate::trace::model::{Creation, Model};

/// Bytes of a 2 MiB extent.
const EXTENT: u64 = 2 << 20;
/// What init writes first, before the number.
const BEGAN: &str = "init: began at tick ";
/// What init writes after events went round, before the ticks of the median.
const WENT_ROUND: (&str, &str) = ("init: events went round ", ", median ");

/// One figure, in instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// What Xen takes, if that is known.
    pub xen: Option<u64>,
    /// What came out.
    pub ebb: Option<u64>,
    /// Ebb's aim, where there is one.
    pub aim: Option<u64>,
}

/// Bytes per second, GiB, at 10^9 instructions a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Of what.
    pub name: &'static str,
    /// How much, if it was measured.
    pub gib: Option<f64>,
}

/// Initialisation and the making of a domain: of the first one, from memory that is as the machine's start left it, and
/// of one that was built again from memory that idle processors had cleared.
#[must_use]
pub fn start_up(model: &Model) -> Vec<Figure> {
    let initialised = model.initialised.map(|(_, i)| i.ticks.saturating_sub(i.waited));
    let clear = from_clear(model).map(|creation| creation.ns);
    let dirty = from_dirty(model).map(|creation| creation.ns);
    let figure = |bench: MachineBench, ebb| Figure {
        name: bench.name.into(),
        xen: Some(bench.xen_tcg),
        ebb,
        aim: Some(bench.aim),
    };
    vec![
        figure(INITIALISATION, initialised),
        figure(DOMAIN_CREATE, clear),
        Figure { name: "the same, its memory being cleared for it".into(), xen: None, ebb: dirty, aim: None },
    ]
}

fn from_clear(model: &Model) -> Option<&Creation> {
    model.creations.iter().skip(1).find(|creation| creation.from_scrubbed())
}

fn from_dirty(model: &Model) -> Option<&Creation> {
    model.creations.first().filter(|creation| !creation.from_scrubbed())
}

/// How fast a domain's memory changes hands in 2 MiB extents: to the host, and back from cleared memory.
#[must_use]
pub fn extent_rates(rows: &[Row]) -> Vec<Rate> {
    let of_row = |id: BenchId| {
        let median = rows.iter().find(|row| row.bench.id == id)?.result?.median;
        (median > 0).then(|| gib_per_second(EXTENT, u64::from(median)))
    };
    vec![
        Rate { name: "memory reclaimed, in 2 MiB extents", gib: of_row(BenchId::DECREASE_2M) },
        Rate { name: "memory returned, in 2 MiB extents", gib: of_row(BenchId::POPULATE_2M) },
    ]
}

/// How fast memory is cleared: by what building a domain from memory that is not clear takes longer.
#[must_use]
pub fn clearing(model: &Model) -> Option<Rate> {
    let (clear, dirty) = from_clear(model).zip(from_dirty(model))?;
    let more = dirty.ns.checked_sub(clear.ns).filter(|more| *more > 0 && dirty.pages == clear.pages)?;
    let bytes = dirty.pages.saturating_sub(dirty.clean) << 12;
    Some(Rate { name: "memory cleared (scrubbed)", gib: Some(gib_per_second(bytes, more)) })
}

fn gib_per_second(bytes: u64, instructions: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30) / (instructions as f64 / 1e9)
}

/// What a boot of Linux took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxBoot {
    /// Its vCPUs.
    pub vcpus: u32,
    /// An option of the hypervisor that is not the default, or nothing.
    pub option: &'static str,
    /// Instructions from its first to the first of its init program.
    pub instructions: Option<u64>,
    /// Its exits until its end, most frequent first.
    pub exits: Vec<(ExitReason, u64)>,
}

impl LinuxBoot {
    /// Reads what a machine with the domain `name` left behind.
    #[must_use]
    pub fn read(model: &Model, console: &[String], name: &str, vcpus: u32, option: &'static str) -> Self {
        let found = model.domains.iter().find(|(_, domain)| domain.name == name);
        let instructions = found.and_then(|(id, _)| {
            let creation = model.creations.iter().find(|creation| creation.domid == *id)?;
            init_began(model, console)?.checked_sub(creation.began_ns)
        });
        let counts = found.and_then(|(_, domain)| domain.exits).unwrap_or_default();
        let mut exits: Vec<_> = ExitReason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        exits.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Self { vcpus, option, instructions, exits }
    }

    /// The figure beside its aim; Xen's is known for two vCPUs.
    #[must_use]
    pub fn figure(&self) -> Figure {
        let two = self.vcpus == 2;
        Figure {
            name: format!("{}, {} {}", LINUX_BOOT.name, self.vcpus, self.option).trim_end().to_owned(),
            xen: two.then_some(LINUX_BOOT.xen_tcg),
            ebb: self.instructions,
            aim: two.then_some(LINUX_BOOT.aim),
        }
    }
}

/// When init's first line says that it began, in the trace's time.
fn init_began(model: &Model, console: &[String]) -> Option<u64> {
    let line = console.iter().find_map(|line| line.split_once(BEGAN))?;
    let tick: u64 = line.1.trim().parse().ok()?;
    let (time_ns, initialised) = model.initialised?;
    let khz = model.start?.tsc_khz;
    let later = u128::from(tick.checked_sub(initialised.tsc)?);
    let ns = later.checked_mul(1_000_000)?.checked_div(u128::from(khz))?;
    Some(time_ns + u64::try_from(ns).ok()?)
}

/// The median of the times in which an event went from one Linux domain to another and back, as init says.
#[must_use]
pub fn event_round_trip(model: &Model, console: &[String]) -> Figure {
    let line = console.iter().find_map(|line| line.split_once(WENT_ROUND.0)?.1.split_once(WENT_ROUND.1));
    let ticks = line.and_then(|(_, median)| median.trim().parse::<u64>().ok());
    let ns = ticks.zip(model.start).and_then(|(ticks, start)| ticks.checked_mul(1_000_000)?.checked_div(start.tsc_khz));
    Figure { name: "event round trip between two Linux domains, one CPU".into(), xen: None, ebb: ns, aim: None }
}

/// The figures for people. Empty when there are none.
#[must_use]
pub fn text(figures: &[Figure], rates: &[Rate], boots: &[LinuxBoot]) -> String {
    let mut out = String::new();
    let number = |figure: Option<u64>| figure.map_or_else(|| "-".into(), |n| n.to_string());
    // Writing to a string cannot fail.
    if !figures.is_empty() {
        let _ = writeln!(out, "{:<57} {:>12} {:>12} {:>12}", "instructions", "Xen, TCG", "Ebb", "aim");
    }
    for figure in figures {
        let missed = figure.ebb.zip(figure.aim).is_some_and(|(ebb, aim)| ebb > aim);
        let (xen, ebb, aim) = (number(figure.xen), number(figure.ebb), number(figure.aim));
        let _ = write!(out, "{:<57} {xen:>12} {ebb:>12} {aim:>12}", figure.name);
        out += if missed { "  above the aim\n" } else { "\n" };
    }
    if !rates.is_empty() {
        let _ = writeln!(out, "\n{:<57} {:>12}", "GiB/s, at 10^9 instructions a second", "Ebb");
    }
    for rate in rates {
        let gib = rate.gib.map_or_else(|| "-".into(), |gib| format!("{gib:.1}"));
        let _ = writeln!(out, "{:<57} {gib:>12}", rate.name);
    }
    out + &exits(boots)
}

/// A table of the exits of each boot, a column for each.
fn exits(boots: &[LinuxBoot]) -> String {
    let mut out = String::new();
    let count = |boot: &LinuxBoot, reason| boot.exits.iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| *count);
    let total = |boot: &LinuxBoot| boot.exits.iter().map(|(_, count)| count).sum::<u64>();
    if boots.iter().all(|boot| boot.exits.is_empty()) {
        return out;
    }
    let mut line = |name: &str, cells: &dyn Fn(&LinuxBoot) -> String| {
        let _ = write!(out, "{name:<57}");
        for boot in boots {
            let _ = write!(out, " {:>12}", cells(boot));
        }
        out.push('\n');
    };
    line("\nexits of Linux from its start to power-off", &|boot| format!("{} vCPU", boot.vcpus));
    for reason in ExitReason::ALL {
        if boots.iter().any(|boot| count(boot, reason) > 0) {
            line(&format!("{reason:?}"), &|boot| count(boot, reason).to_string());
        }
    }
    line("all", &|boot| total(boot).to_string());
    out
}

/// The figures as JSON.
#[must_use]
pub fn json(figures: &[Figure], rates: &[Rate], boots: &[LinuxBoot]) -> Value {
    let figure = |f: &Figure| json!({"name": f.name, "xen_tcg": f.xen, "ebb": f.ebb, "aim": f.aim});
    let boot = |boot: &LinuxBoot| {
        let exits: serde_json::Map<_, _> =
            boot.exits.iter().map(|(reason, count)| (format!("{reason:?}"), json!(count))).collect();
        json!({"vcpus": boot.vcpus, "option": boot.option, "instructions": boot.instructions, "exits": exits})
    };
    json!({
        "figures": figures.iter().map(figure).collect::<Vec<_>>(),
        "gib_per_second": rates.iter().map(|rate| (rate.name.to_owned(), json!(rate.gib))).collect::<serde_json::Map<_, _>>(),
        "linux": boots.iter().map(boot).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use shared_abi::guest_event::BenchResult;
    use shared_abi::trace_stream::{Initialised, Start};

    use super::*;
    use crate::trace::model::Domain;

    fn creation(domid: u16, pages: u64, clean: u64, ns: u64) -> Creation {
        Creation { domid, pages, clean, ns, began_ns: 1_000_000 }
    }

    fn model(creations: Vec<Creation>) -> Model {
        let initialised = Some((500_000, Initialised { ticks: 9_000_000, waited: 1_000_000, tsc: 40_000_000 }));
        Model { initialised, creations, start: Some(Start::new(1, 2_000_000, 1 << 17)), ..Model::default() }
    }

    #[test]
    fn start_up_and_rates_come_from_the_trace() {
        let again = model(vec![creation(1, 32768, 0, 5_000_000), creation(2, 32768, 40000, 1_000_000)]);
        let figures = start_up(&again);
        assert_eq!(
            figures.iter().map(|f| f.ebb).collect::<Vec<_>>(),
            [Some(8_000_000), Some(1_000_000), Some(5_000_000)]
        );
        let result = BenchResult { id: BenchId::DECREASE_2M.0, unit: 0, samples: 1, min: 1, median: 2 << 10, max: 1 };
        let rows = crate::bench::rows(&[(1, result)]);
        let mut rates = extent_rates(&rows);
        rates.extend(clearing(&again));
        let near = |rate: Rate, wanted: f64| rate.gib.is_some_and(|rate| (rate / wanted - 1.0).abs() < 0.001);
        // 1 KiB per instruction; nothing; 128 MiB in four million.
        assert!(
            near(rates[0], 1e9 / f64::from(1 << 20)) && rates[1].gib.is_none() && near(rates[2], 31.25),
            "{rates:?}"
        );
        let text = text(&figures, &rates, &[]);
        assert!(text.contains("8000000") && text.contains("31.2") && !text.contains("above the aim"), "{text}");
        assert_eq!(start_up(&Model::default())[1].ebb, None);
        assert_eq!(clearing(&Model::default()), None);
    }

    #[test]
    fn linux_began_when_its_init_says() {
        let mut model = model(vec![creation(3, 65536, 0, 1)]);
        let mut exits = [0; ExitReason::COUNT];
        exits[ExitReason::Hypercall as usize] = 7;
        exits[ExitReason::Cpuid as usize] = 9;
        model.domains.insert(3, Domain { name: "linux".into(), exits: Some(exits), ..Domain::default() });
        // 4 million ticks after the end of the initialisation are 2 ms.
        let console = vec!["(d3) [    1.5] init: began at tick 44000000".to_owned()];
        let boot = LinuxBoot::read(&model, &console, "linux", 2, "");
        assert_eq!(boot.instructions, Some(1_500_000));
        assert_eq!(boot.exits, [(ExitReason::Cpuid, 9), (ExitReason::Hypercall, 7)]);
        assert_eq!(boot.figure().aim, Some(LINUX_BOOT.aim));
        assert_eq!(LinuxBoot::read(&model, &[], "linux", 2, "").instructions, None);
        assert_eq!(LinuxBoot::read(&model, &console, "other", 1, "").exits, []);
        let value = json(&[boot.figure()], &[], &[boot]);
        assert_eq!((&value["linux"][0]["exits"]["Cpuid"], &value["figures"][0]["ebb"]), (&json!(9), &json!(1_500_000)));
    }

    #[test]
    fn an_event_takes_what_init_says() {
        let console = vec!["(d2) [ 1.0] init: events went round 9 times in 900 ticks, median 80".to_owned()];
        let figure = event_round_trip(&model(Vec::new()), &console);
        assert_eq!(figure.ebb, Some(40));
        assert_eq!(event_round_trip(&model(Vec::new()), &[]).ebb, None);
        assert!(text(&[figure], &[], &[]).contains("event round trip between two Linux domains"));
    }
}
