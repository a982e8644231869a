//! How fast memory goes from one domain to another, and what it does to superpages: read from the samples of a machine
//! whose time counts instructions.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::trace::model::{Model, Point};

/// The pairs of the scenario: who gives while who takes, seconds after the first one's start, and how pages move.
const PAIRS: [(&str, &str, u64, &str); 2] = [
    ("linux-gives", "linux-grows", 5, "Linux, 4 KiB pages"),
    ("ebb-gives", "ebb-grows", 6, "Ebb's guest, 2 MiB extents"),
];
/// After this, in seconds, a pair turns around.
const BACK: u64 = 2;
/// What init writes, before the number of requests and that of ticks.
const ASKED: &str = "init: asked the store ";
const SECOND: u64 = 1_000_000_000;

/// What one domain did when its target changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Pages that came or went.
    pub pages: u64,
    /// From the last sample before the first of them to the first sample with all, ns.
    pub ns: u64,
    /// Tables of the domain's second-stage translation before, one for each 2 MiB that are not one mapping.
    pub tables_before: u64,
    /// And after.
    pub tables_after: u64,
}

impl Move {
    /// Pages per second, 10^9 instructions.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.pages.saturating_mul(SECOND).checked_div(self.ns).unwrap_or(0)
    }
}

/// A trade between two domains, and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trade {
    /// By what and in what sizes.
    pub name: &'static str,
    /// What the giving one gave, and took back later.
    pub giver: Option<(Move, Move)>,
    /// What the other one took at the same time.
    pub taker: Option<Move>,
}

/// Both trades.
#[must_use]
pub fn trades(model: &Model) -> Vec<Trade> {
    let start = model.domains.values().filter_map(|domain| domain.started_ns).min().unwrap_or(0);
    PAIRS
        .into_iter()
        .map(|(giver, taker, second, name)| {
            let at = |name: &str, second: u64| {
                // The script counts from when the domain was unpaused, a little after the first one's start.
                let from = start + second * SECOND - SECOND / 10;
                moved(model, name, from, from + SECOND)
            };
            Trade { name, giver: at(giver, second).zip(at(giver, second + BACK)), taker: at(taker, second) }
        })
        .collect()
}

/// What the domain `name` gained or lost between two times; `None` when it stayed as it was.
fn moved(model: &Model, name: &str, from_ns: u64, to_ns: u64) -> Option<Move> {
    let domid = *model.domains.iter().find(|(_, domain)| domain.name == name)?.0;
    let during = |point: &&Point| point.domid == domid && (from_ns..to_ns).contains(&point.time_ns);
    let points: Vec<_> = model.history.iter().filter(during).collect();
    let (first, last) = (points.first()?, points.last()?);
    let before = points.iter().take_while(|point| point.current == first.current).last()?;
    let after = points.iter().rev().take_while(|point| point.current == last.current).last()?;
    let pages = first.current.abs_diff(last.current);
    let ns = after.time_ns.checked_sub(before.time_ns)?;
    (pages > 0).then_some(Move { pages, ns, tables_before: before.tables, tables_after: last.tables })
}

/// XenStore requests a second of a Linux program, answered by the control domain.
#[must_use]
pub fn store_rate(model: &Model, console: &[String]) -> Option<u64> {
    let (_, rest) = console.iter().find_map(|line| line.split_once(ASKED))?;
    let mut numbers = rest.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let (requests, ticks) = (numbers.next()?, numbers.next()?);
    // Ticks are of the TSC, kHz.
    let khz = model.start?.tsc_khz;
    requests.checked_mul(khz)?.checked_mul(1000)?.checked_div(ticks)
}

/// For people.
#[must_use]
pub fn text(trades: &[Trade], store: Option<u64>) -> String {
    let mut out = String::new();
    let number = |figure: Option<u64>| figure.map_or_else(|| "-".into(), |n| n.to_string());
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\n{:<57} {:>12}", "each second, 10^9 instructions", "Ebb");
    let _ = writeln!(out, "{:<57} {:>12}", "XenStore requests, Linux to the control domain", number(store));
    for trade in trades {
        let rows = [
            ("given, while another domain takes them", trade.giver.map(|(gave, _)| gave.rate())),
            ("taken, while another domain gives them", trade.taker.map(|took| took.rate())),
        ];
        for (what, rate) in rows {
            let _ = writeln!(out, "{:<57} {:>12}", format!("pages {what} ({})", short(trade.name)), number(rate));
        }
    }
    let _ = writeln!(
        out,
        "\n{:<48} {:>8} {:>8} {:>8}",
        "2 MiB regions that are not one mapping", "before", "given", "back"
    );
    for trade in trades {
        if let Some((gave, took)) = trade.giver {
            let (before, given, back) = (gave.tables_before, gave.tables_after, took.tables_after);
            let what = format!("{}, {} MiB", trade.name, gave.pages >> 8);
            let _ = writeln!(out, "{what:<48} {before:>8} {given:>8} {back:>8}");
        }
    }
    out
}

fn short(name: &str) -> &str {
    name.split(',').next().unwrap_or(name)
}

/// As JSON.
#[must_use]
pub fn json(trades: &[Trade], store: Option<u64>) -> Value {
    let one = |m: Move| json!({"pages": m.pages, "ns": m.ns, "tables": [m.tables_before, m.tables_after]});
    let trade = |trade: &Trade| {
        json!({
            "name": trade.name,
            "gave": trade.giver.map(|(gave, _)| one(gave)),
            "took_back": trade.giver.map(|(_, took)| one(took)),
            "took": trade.taker.map(one),
        })
    };
    json!({"store_requests_per_second": store, "trades": trades.iter().map(trade).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use shared_abi::trace_stream::Start;

    use super::*;
    use crate::trace::model::Domain;

    fn model() -> Model {
        let mut model = Model { start: Some(Start::new(1, 1_000_000, 1 << 17)), ..Model::default() };
        for (id, name) in [(1, "linux-gives"), (2, "linux-grows")] {
            model.domains.insert(id, Domain { name: name.into(), started_ns: Some(SECOND), ..Domain::default() });
        }
        model
    }

    fn point(domid: u16, ms: u64, current: u64, tables: u64) -> Point {
        Point { time_ns: SECOND + ms * 1_000_000, domid, current, tables, ..Point::default() }
    }

    #[test]
    fn moves_are_read_from_samples() {
        let mut model = model();
        model.history = vec![
            point(1, 4000, 4001, 5),
            point(1, 4950, 4000, 5),
            point(2, 4950, 2000, 7),
            point(1, 5000, 4000, 5),
            point(1, 5010, 3500, 6),
            point(1, 5020, 3000, 9),
            point(1, 5500, 3000, 9),
            point(1, 6950, 3000, 9),
            point(1, 7010, 4000, 8),
        ];
        let trades = trades(&model);
        let gave = Move { pages: 1000, ns: 20_000_000, tables_before: 5, tables_after: 9 };
        let took = Move { pages: 1000, ns: 60_000_000, tables_before: 9, tables_after: 8 };
        assert_eq!(trades[0].giver, Some((gave, took)));
        assert_eq!((gave.rate(), trades[0].taker, trades[1].giver), (50_000, None, None));
        let text = text(&trades, Some(77));
        assert!(text.contains("50000") && text.contains("77") && text.contains("3 MiB"), "{text}");
        assert_eq!(json(&trades, None)["trades"][0]["gave"]["pages"], 1000);
    }

    #[test]
    fn the_store_is_as_fast_as_init_says() {
        let console = vec!["(d1) [ 1.0] init: asked the store 100 times in 2000000 ticks".to_owned()];
        assert_eq!(store_rate(&model(), &console), Some(50_000));
        assert_eq!(store_rate(&model(), &[]), None);
    }
}
