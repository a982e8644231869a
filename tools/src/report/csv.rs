//! `run.csv`: a row per domain and sample, with the host's figures of the same time.
//!
//! Memory is in pages of 4 KiB; times are seconds since the machine's start.

use std::io::{self, Write};

use shared_abi::trace_stream::HostSample;

use crate::trace::model::{Model, short_reason};

/// The columns, in order.
pub const COLUMNS: &str = "time_s,domid,domain,state,vcpus,current_pages,target_pages,maximum_pages,shortfall_pages,\
                           why,host_free_pages,host_scrubbing_pages,host_domains_pages,host_hypervisor_pages";

/// Writes the whole history.
///
/// # Errors
/// What `out` answers.
pub fn write(model: &Model, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    for point in &model.history {
        let host = host_at(model, point.time_ns);
        let name = model.domains.get(&point.domid).map_or("", |d| d.name.as_str());
        writeln!(
            out,
            "{:.6},{},{},{},{},{},{},{},{},{},{},{},{},{}",
            point.time_ns as f64 / 1e9,
            point.domid,
            quoted(name),
            point.state,
            point.vcpus,
            point.current,
            point.target.map_or_else(String::new, |t| t.to_string()),
            point.maximum,
            point.shortfall,
            if point.shortfall > 0 { short_reason(point.reason) } else { "" },
            host.free,
            host.scrubbing,
            host.domains,
            host.hypervisor,
        )?;
    }
    Ok(())
}

/// The newest ledger at `time_ns`, or the first.
fn host_at(model: &Model, time_ns: u64) -> HostSample {
    let after = model.host_history.partition_point(|(time, _)| *time <= time_ns);
    model.host_history.get(after.saturating_sub(1)).map_or_else(HostSample::default, |(_, sample)| *sample)
}

/// Quotes a value that a guest's configuration may have filled with anything.
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::tests::{made_up_run, model_of};

    #[test]
    fn every_sample_is_a_row() {
        let mut out = Vec::new();
        write(&model_of(&made_up_run()), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let columns = COLUMNS.split(',').count();
        assert_eq!(text.lines().count(), 13);
        assert!(text.lines().all(|line| line.split(',').count() == columns), "{text}");
        assert!(text.contains("2.000000,2,neap,1,1,12000,20000,32768,8000,host short,7000,0,42000,1000"), "{text}");
    }

    #[test]
    fn names_are_quoted_when_they_must() {
        assert_eq!(quoted("a-b"), "a-b");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
