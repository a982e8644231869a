//! `ebb bench --bochs`: the guest's table on Bochs' processors, beside QEMU's SVM. Both emulators count instructions, so
//! the figures compare; a VMX instruction is one, as VMRUN is.

use std::fmt::Write as _;

use serde_json::{Value, json};
use shared_abi::bench::BenchId;
use shared_abi::trace_stream::ExitReason;

use crate::bench::Row;
use crate::trace::model::{Domain, Model};

/// How much more a row of VMX may take than QEMU's SVM.
const AIM: f64 = 1.3;

/// What one machine measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its processor, for people.
    pub name: String,
    /// The table.
    pub rows: Vec<Row>,
    /// The guest's exits, most frequent first.
    pub exits: Vec<(ExitReason, u64)>,
}

impl Column {
    /// What the machine whose trace is `model` measured, in domain `domain`.
    #[must_use]
    pub fn read(name: &str, rows: Vec<Row>, model: &Model, domain: &str) -> Self {
        let found = model.domains.values().find(|found| found.name == domain);
        Self { name: name.to_owned(), rows, exits: found.map(exits).unwrap_or_default() }
    }

    /// How often a processor of 10^9 instructions a second could exit for nothing.
    fn null_hypercalls_a_second(&self) -> Option<u64> {
        let row = self.rows.iter().find(|row| row.bench.id == BenchId::NULL_HYPERCALL)?;
        1_000_000_000_u64.checked_div(u64::from(row.result?.median))
    }

    fn count(&self, reason: ExitReason) -> u64 {
        self.exits.iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| *count)
    }
}

fn exits(domain: &Domain) -> Vec<(ExitReason, u64)> {
    let counts = domain.exits.unwrap_or_default();
    let mut exits: Vec<_> = ExitReason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
    exits.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    exits
}

/// How a row of `column` compares with the same of `first`.
fn ratio(first: &Column, column: &Column, row: usize) -> Option<f64> {
    let median = |column: &Column| column.rows.get(row)?.result.map(|result| f64::from(result.median));
    let (base, figure) = (median(first)?, median(column)?);
    (base > 0.0).then_some(figure / base)
}

/// Rows of `column` that take more than the aim allows, of those that both have.
fn above(first: &Column, column: &Column) -> (usize, usize) {
    let ratios: Vec<_> = (0..first.rows.len()).filter_map(|row| ratio(first, column, row)).collect();
    (ratios.iter().filter(|ratio| **ratio > AIM).count(), ratios.len())
}

/// The table for people: the first column, and each other with its ratio to the first.
#[must_use]
pub fn text(columns: &[Column]) -> String {
    let Some((first, others)) = columns.split_first() else { return String::new() };
    let mut out = format!("{:<46} {:>10}", "instructions, medians", first.name);
    // Writing to a string cannot fail.
    for column in others {
        let _ = write!(out, " {:>12} {:>5}", column.name, "ratio");
    }
    out.push('\n');
    for (index, row) in first.rows.iter().enumerate() {
        let number = |row: Option<&Row>| row.and_then(|row| row.result).map_or("-".into(), |r| r.median.to_string());
        let _ = write!(out, "{:<46} {:>10}", row.bench.name, number(Some(row)));
        for column in others {
            let ratio = ratio(first, column, index).map_or("-".into(), |ratio| format!("{ratio:.2}"));
            let _ = write!(out, " {:>12} {ratio:>5}", number(column.rows.get(index)));
        }
        out.push('\n');
    }
    let mut line = |name: &str, cell: &dyn Fn(&Column) -> String| {
        let _ = write!(out, "{name:<46} {:>10}", cell(first));
        for column in others {
            let _ = write!(out, " {:>12} {:>5}", cell(column), "");
        }
        out.push('\n');
    };
    line("null hypercalls in 10^9 instructions", &|column| {
        column.null_hypercalls_a_second().map_or("-".into(), |n| n.to_string())
    });
    for reason in ExitReason::ALL {
        if columns.iter().any(|column| column.count(reason) > 0) {
            line(&format!("exits of the guest: {reason:?}"), &|column| column.count(reason).to_string());
        }
    }
    for column in others {
        let (above, all) = above(first, column);
        let _ = writeln!(out, "{}: {} of {all} rows within {AIM} of {}.", column.name, all - above, first.name);
    }
    out
}

/// The columns as JSON.
#[must_use]
pub fn json(columns: &[Column]) -> Value {
    let column = |column: &Column| {
        let medians = column.rows.iter().map(|row| (row.bench.name.to_owned(), json!(row.result.map(|r| r.median))));
        let exits = column.exits.iter().map(|(reason, count)| (format!("{reason:?}"), json!(count)));
        json!({
            "processor": column.name,
            "medians": medians.collect::<serde_json::Map<_, _>>(),
            "exits": exits.collect::<serde_json::Map<_, _>>(),
        })
    };
    columns.iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use shared_abi::guest_event::BenchResult;

    use super::*;
    use crate::bench::rows;

    fn column(name: &str, medians: &[u32]) -> Column {
        let result = |(index, median): (usize, &u32)| {
            (1, BenchResult { id: index as u16 + 1, unit: 0, samples: 9, min: 1, median: *median, max: u32::MAX })
        };
        let results: Vec<_> = medians.iter().enumerate().map(result).collect();
        let mut counts = [0; ExitReason::COUNT];
        counts[ExitReason::Hypercall as usize] = 300;
        counts[ExitReason::Cpuid as usize] = 100;
        let domain = Domain { name: "bench".into(), exits: Some(counts), ..Domain::default() };
        let mut model = Model::default();
        model.domains.insert(1, domain);
        Column::read(name, rows(&results), &model, "bench")
    }

    #[test]
    fn columns_are_compared_with_the_first() {
        let columns = [column("EPYC", &[200, 100, 0, 50]), column("skylake_x", &[260, 131, 7])];
        assert_eq!(above(&columns[0], &columns[1]), (1, 2));
        let text = text(&columns);
        let line = |start: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(start)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(line("null hypercall")[3..], ["200", "260", "1.30"]);
        assert_eq!(line("CPUID exit")[2..], ["100", "131", "1.31"]);
        // A row that costs nothing has no ratio, nor has one that the other machine did not measure.
        assert!(line("event send, already").ends_with(&["0".into(), "7".into(), "-".into()]), "{text}");
        assert!(line("event send to self").ends_with(&["50".into(), "-".into(), "-".into()]), "{text}");
        assert!(line("null hypercalls in").ends_with(&["5000000".into(), "3846153".into()]), "{text}");
        assert!(line("exits of the guest: Hypercall").ends_with(&["300".into(), "300".into()]), "{text}");
        assert!(text.ends_with("skylake_x: 1 of 2 rows within 1.3 of EPYC.\n"), "{text}");
    }

    #[test]
    fn a_machine_that_said_nothing_has_an_empty_column() {
        let empty = Column::read("none", Vec::new(), &Model::default(), "bench");
        assert_eq!((empty.exits.len(), empty.null_hypercalls_a_second()), (0, None));
        assert_eq!(above(&column("EPYC", &[1]), &empty), (0, 0));
        let value = json(&[column("EPYC", &[17]), empty]);
        assert_eq!((&value[0]["medians"]["CPUID exit"], &value[0]["exits"]["Cpuid"]), (&Value::Null, &json!(100)));
        assert_eq!(text(&[]), "");
    }
}
