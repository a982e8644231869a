//! The table of measurements: what a guest measured, beside Xen's figures and Ebb's aims.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Value, json};
use shared_abi::bench::{Bench, BenchId, TABLE};
use shared_abi::guest_event::BenchResult;

/// A row of the table and its result, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was measured, and what to compare it with.
    pub bench: &'static Bench,
    /// What came out.
    pub result: Option<BenchResult>,
}

impl Row {
    /// Whether the aim was reached.
    #[must_use]
    pub fn meets_aim(&self) -> Option<bool> {
        self.result.map(|r| u64::from(r.median) <= self.bench.aim)
    }
}

/// All rows, with the last result reported for each.
#[must_use]
pub fn rows(results: &[(u16, BenchResult)]) -> Vec<Row> {
    let last = |id: BenchId| results.iter().rev().map(|(_, r)| *r).find(|r| r.id == id.0);
    TABLE.iter().map(|bench| Row { bench, result: last(bench.id) }).collect()
}

/// Names of the rows without a result.
#[must_use]
pub fn missing(rows: &[Row]) -> Vec<&'static str> {
    rows.iter().filter(|row| row.result.is_none()).map(|row| row.bench.name).collect()
}

/// The table for people.
#[must_use]
pub fn text(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<46} {:>10} {:>10} {:>10} {:>8} {:>10} {:>8}\n",
        "instructions, medians", "Xen, TCG", "next-RIP", "Ebb", "aim", "least", "samples"
    );
    for row in rows {
        let bench = row.bench;
        // Writing to a string cannot fail.
        let xen = |figure: u64| if figure == 0 { "-".into() } else { figure.to_string() };
        let _ = write!(out, "{:<46} {:>10} {:>10} ", bench.name, xen(bench.xen_tcg), xen(bench.xen_next_rip));
        let _ = match row.result {
            Some(r) => {
                let mark = if row.meets_aim() == Some(true) { "" } else { "  above the aim" };
                writeln!(out, "{:>10} {:>8} {:>10} {:>8}{mark}", r.median, bench.aim, r.min, r.samples)
            }
            None => writeln!(out, "{:>10} {:>8}", "-", bench.aim),
        };
    }
    let met = rows.iter().filter(|row| row.meets_aim() == Some(true)).count();
    let _ = writeln!(out, "{met} of {} aims reached. Xen: 4.17 in the same emulated machine.", rows.len());
    out
}

/// The table as JSON.
#[must_use]
pub fn json(rows: &[Row], machine: Value) -> Value {
    let row = |row: &Row| {
        json!({
            "id": row.bench.id.0,
            "name": row.bench.name,
            "xen_tcg": row.bench.xen_tcg,
            "xen_next_rip": row.bench.xen_next_rip,
            "aim": row.bench.aim,
            "samples": row.result.map(|r| r.samples),
            "min": row.result.map(|r| r.min),
            "median": row.result.map(|r| r.median),
            "max": row.result.map(|r| r.max),
        })
    };
    json!({"unit": "instructions", "machine": machine, "rows": rows.iter().map(row).collect::<Vec<_>>()})
}

/// Writes the table as comma-separated values.
///
/// # Errors
/// What `out` answers.
pub fn csv(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "id,name,xen_tcg,xen_next_rip,aim,samples,min,median,max")?;
    for Row { bench, result } in rows {
        let text = |pick: fn(&BenchResult) -> u32| result.as_ref().map_or_else(String::new, |r| pick(r).to_string());
        writeln!(
            out,
            "{},\"{}\",{},{},{},{},{},{},{}",
            bench.id.0,
            bench.name,
            bench.xen_tcg,
            bench.xen_next_rip,
            bench.aim,
            text(|r| r.samples),
            text(|r| r.min),
            text(|r| r.median),
            text(|r| r.max)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(id: u16, median: u32) -> (u16, BenchResult) {
        (1, BenchResult { id, unit: 0, samples: 100, min: median - 1, median, max: median + 9 })
    }

    #[test]
    fn the_last_result_counts() {
        let rows = rows(&[result(1, 400), result(1, 300), result(2, 9999)]);
        assert_eq!(rows.len(), TABLE.len());
        assert_eq!(rows[0].result.map(|r| r.median), Some(300));
        assert_eq!((rows[0].meets_aim(), rows[1].meets_aim(), rows[2].meets_aim()), (Some(true), Some(false), None));
        assert_eq!(missing(&rows).len(), TABLE.len() - 2);
        let text = text(&rows);
        assert!(text.contains("1 of 30 aims reached"), "{text}");
        assert_eq!(text.matches("above the aim").count(), 1);
    }

    #[test]
    fn the_files_have_every_row() {
        let rows = rows(&[result(1, 300)]);
        let mut out = Vec::new();
        csv(&rows, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), TABLE.len() + 1);
        assert!(text.contains("1,\"null hypercall (xen_version)\",5474,707,350,100,299,300,309"), "{text}");
        let value = json(&rows, json!(5));
        assert_eq!(value["machine"], 5);
        assert_eq!(value["rows"].as_array().map(Vec::len), Some(TABLE.len()));
        assert_eq!(value["rows"][0]["median"], 300);
        assert!(value["rows"][1]["median"].is_null());
    }
}
