//! A trace stream in other forms: lines of text, comma-separated values, and the JSON that
//! Perfetto and Chrome's tracing page draw.

use std::io::{self, Write};

use serde_json::{Value, json};
use shared_abi::guest_event::{BalloonStatus, BenchResult, ReclaimStatus, SelfballoonStep, TestResult, Workload};
use shared_abi::trace_stream::{self, ExitReason, GuestEvent, Header, Record};
use shared_abi::xen::DomId;

use crate::trace::model::{end_reason, short_reason};
use crate::trace::stream::Stream;

/// A form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line per record, for people.
    #[default]
    Text,
    /// time_ns, cpu, kind, details.
    Csv,
    /// JSON for ui.perfetto.dev: memory as counters, vCPUs on CPUs as slices.
    Perfetto,
}

/// Writes the stream in `bytes` to `out` in `format`; gives the number of bytes that were not part of it.
///
/// # Errors
/// What `out` answers.
pub fn export(bytes: &[u8], format: Format, out: &mut impl Write) -> io::Result<u64> {
    let mut stream = Stream::default();
    let mut result = Ok(());
    let mut perfetto = Perfetto::default();
    if format == Format::Csv {
        writeln!(out, "time_ns,cpu,kind,details")?;
    }
    stream.push(bytes, |header, record| {
        if result.is_err() {
            return;
        }
        let (kind, details) = describe(header, record);
        result = match format {
            Format::Text => {
                let (s, ns) = (header.time_ns / 1_000_000_000, header.time_ns % 1_000_000_000);
                writeln!(out, "{s:5}.{ns:09} cpu{} {kind:13} {details}", header.cpu)
            }
            Format::Csv => {
                writeln!(out, "{},{},{kind},\"{}\"", header.time_ns, header.cpu, details.replace('"', "\"\""))
            }
            Format::Perfetto => {
                perfetto.apply(header, record);
                Ok(())
            }
        };
    });
    result?;
    if format == Format::Perfetto {
        serde_json::to_writer(&mut *out, &json!({"displayTimeUnit": "ns", "traceEvents": perfetto.events}))?;
        writeln!(out)?;
    }
    Ok(stream.skipped() + stream.unfinished() as u64)
}

fn vcpu(domid: DomId, vcpu: u16) -> String {
    if domid == DomId::IDLE { "idle".into() } else { format!("d{}v{vcpu}", domid.0) }
}

/// A record's kind and contents in words.
fn describe(header: &Header, record: &Record<'_>) -> (&'static str, String) {
    match record {
        Record::Start(s) => (
            "start",
            format!("version {} cpus {} tsc {} kHz memory {} pages", s.version, s.cpus, s.tsc_khz, s.total_pages),
        ),
        Record::HostSample(s) => (
            "host",
            format!(
                "free {} scrubbing {} domains {} hypervisor {} claimed {} tmem {}+{} total {}",
                s.free, s.scrubbing, s.domains, s.hypervisor, s.claimed, s.tmem_ephemeral, s.tmem_persistent, s.total
            ),
        ),
        Record::DomainSample(s) => (
            "domain",
            format!(
                "d{} {} state {} vcpus {} current {} maximum {} ran {} ns waited {} ns events {} hypercalls {} exits {}",
                s.domid.0,
                trace_stream::name_text(&s.name),
                s.state,
                s.vcpus,
                s.current,
                s.maximum,
                s.runtime_ns,
                s.runnable_ns,
                s.events,
                s.hypercalls,
                s.exits
            ),
        ),
        Record::GuestEvent(e) => ("guest", describe_guest(e)),
        Record::DomainStart(s) => ("domain-start", format!("d{} {}", s.domid.0, trace_stream::name_text(&s.name))),
        Record::Initialised(i) => ("initialised", format!("{} ticks, {} of them waiting", i.ticks, i.waited)),
        Record::DomainBuild(b) => ("build", format!("d{} {} pages, {} clean ones free", b.domid.0, b.pages, b.clean)),
        Record::VcpuStart(s) => ("vcpu-start", vcpu(s.domid, s.vcpu)),
        Record::DomainExits(e) => ("exits", format!("d{} {}", e.domid.0, exits_text(&e.counts))),
        Record::DomainSpins(s) => (
            "spins",
            format!(
                "d{} {} to a sibling, {} to nobody, {} left alone",
                s.domid.0, s.directed, s.undirected, s.left_alone
            ),
        ),
        Record::DomainEnd(e) => ("domain-end", format!("d{} {}", e.domid.0, end_reason(e.reason))),
        Record::Lost(l) => ("lost", format!("{} records", l.count)),
        Record::End(e) => ("end", format!("status {:#x}", e.status)),
        Record::VmExit(e) => {
            ("exit", format!("{} reason {:#x} rip {:#x} info {:#x}", vcpu(e.domid, e.vcpu), e.reason, e.rip, e.info))
        }
        Record::VcpuSwitch(s) => {
            ("switch", format!("{} -> {}", vcpu(s.prev_domid, s.prev_vcpu), vcpu(s.next_domid, s.next_vcpu)))
        }
        Record::EventSend(e) => ("event", format!("d{} port {}", e.domid.0, e.port.0)),
        Record::Poll(p) => ("poll", format!("{} {} port {}", vcpu(p.domid, p.vcpu), poll_text(p.what), p.port.0)),
        Record::Unknown(bytes) => ("unknown", format!("kind {} of {} bytes", header.kind.0, bytes.len())),
    }
}

/// The reasons that occurred, with their counts.
fn exits_text(counts: &[u64; ExitReason::COUNT]) -> String {
    let seen = ExitReason::ALL.into_iter().zip(counts).filter(|(_, count)| **count > 0);
    seen.map(|(reason, count)| format!("{} {count}", reason.name())).collect::<Vec<_>>().join(" ")
}

fn poll_text(what: u16) -> &'static str {
    match what {
        trace_stream::POLL_SLEEPS => "sleeps",
        trace_stream::POLL_SENT => "woken",
        trace_stream::POLL_TIMED_OUT => "timed out",
        _ => "?",
    }
}

fn describe_guest(e: &GuestEvent) -> String {
    let who = vcpu(e.domid, e.vcpu);
    if let Some(b) = e.decode::<BalloonStatus>() {
        let why = if b.shortfall > 0 { short_reason(b.reason) } else { "complete" };
        format!(
            "{who} balloon current {} target {} short {} ({why}) retries {} low {} high {} superpages {}",
            b.current, b.target, b.shortfall, b.retries, b.low, b.high, b.superpages_won
        )
    } else if let Some(w) = e.decode::<Workload>() {
        format!(
            "{who} workload phase {} wish {} held {} verified {}",
            w.phase, w.wish_pages, w.held_pages, w.verified_pages
        )
    } else if let Some(s) = e.decode::<SelfballoonStep>() {
        format!(
            "{who} selfballoon goal {} current {} target {} why {} committed {} floor {} frontswap {} waiting {}",
            s.goal, s.current, s.target, s.why, s.committed, s.floor, s.frontswap, s.waiting
        )
    } else if let Some(r) = e.decode::<ReclaimStatus>() {
        format!(
            "{who} reclaim accesses {} file reads {} swap reads {} writes {} cleancache gets {} frontswap loads {} \
             verified {}",
            r.accesses, r.file_reads, r.swap_reads, r.writes, r.cleancache_gets, r.frontswap_loads, r.verified
        )
    } else if let Some(b) = e.decode::<BenchResult>() {
        format!("{who} bench {} median {} ({}..{}, {} samples)", b.id, b.median, b.min, b.max, b.samples)
    } else if let Some(t) = e.decode::<TestResult>() {
        format!("{who} test {} outcome {}", t.id, t.outcome)
    } else {
        format!("{who} event {:#x} {:02x?}", e.event, e.payload())
    }
}

/// Collects trace events: process 0 is the host with a thread per CPU, process n is domain n - 1.
#[derive(Default)]
struct Perfetto {
    events: Vec<Value>,
    /// Since when each CPU runs a vCPU, and which.
    running: std::collections::BTreeMap<u16, (u64, String)>,
}

impl Perfetto {
    fn apply(&mut self, header: &Header, record: &Record<'_>) {
        let us = header.time_ns as f64 / 1000.0;
        match record {
            Record::HostSample(s) => self.events.push(json!({
                "name": "host pages", "ph": "C", "ts": us, "pid": 0,
                "args": {"free": s.free, "scrubbing": s.scrubbing, "domains": s.domains, "hypervisor": s.hypervisor},
            })),
            Record::DomainSample(s) => self.events.push(json!({
                "name": "pages", "ph": "C", "ts": us, "pid": s.domid.0 + 1, "args": {"current": s.current},
            })),
            Record::DomainStart(s) => self.events.push(json!({
                "name": "process_name", "ph": "M", "pid": s.domid.0 + 1,
                "args": {"name": trace_stream::name_text(&s.name)},
            })),
            Record::GuestEvent(e) => {
                if let Some(b) = e.decode::<BalloonStatus>() {
                    self.events.push(json!({
                        "name": "balloon", "ph": "C", "ts": us, "pid": e.domid.0 + 1,
                        "args": {"target": b.target, "shortfall": b.shortfall},
                    }));
                }
            }
            Record::VcpuSwitch(s) => {
                if let Some((since, name)) = self.running.remove(&header.cpu) {
                    let from = since as f64 / 1000.0;
                    self.events.push(json!({
                        "name": name, "ph": "X", "ts": from, "dur": us - from, "pid": 0, "tid": header.cpu,
                    }));
                }
                if s.next_domid != DomId::IDLE {
                    self.running.insert(header.cpu, (header.time_ns, vcpu(s.next_domid, s.next_vcpu)));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::tests::made_up_run;

    fn exported(format: Format) -> String {
        let mut out = Vec::new();
        assert_eq!(export(&made_up_run(), format, &mut out).unwrap(), 0);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_has_a_line_per_record() {
        let text = exported(Format::Text);
        assert_eq!(text.lines().count(), 1 + 2 + 6 * 4 + 2 + 1 + 1);
        assert!(text.contains(
            "2.000000000 cpu0 guest         d2v0 balloon current 12000 target 20000 short 8000 (host short)"
        ));
        assert!(text.contains("domain-end    d2 crashed"));
    }

    #[test]
    fn csv_has_four_columns() {
        let text = exported(Format::Csv);
        assert!(text.lines().skip(1).all(|line| line.splitn(4, ',').count() == 4));
    }

    #[test]
    fn perfetto_is_json() {
        let value: Value = serde_json::from_str(&exported(Format::Perfetto)).unwrap();
        assert!(value["traceEvents"].as_array().is_some_and(|events| events.len() > 20));
    }
}
