//! What a trace stream adds up to: the host's ledger, each domain as it stands, the history that
//! is drawn, and what guests reported of their tests and measurements.

use std::collections::BTreeMap;

use crate::contention::Reports;
use shared_abi::guest_event::{
    self, BalloonStatus, BenchResult, Contention, KickTimes, ReclaimStatus, SelfballoonStep, TestResult, WaitTimes,
    Workload,
};
use shared_abi::sched;
use shared_abi::trace_stream::{
    self, DomainBuild, DomainSample, DomainSpins, ExitReason, GuestEvent, Header, HostSample, Initialised, Record,
    Start, VcpuStart,
};

/// Everything known from the stream so far.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The stream's first record.
    pub start: Option<Start>,
    /// Its time, ns since the machine's start.
    pub started_ns: u64,
    /// Time of the newest record, ns since the machine's start.
    pub now_ns: u64,
    /// The newest ledger.
    pub host: Option<HostSample>,
    /// Domains by id.
    pub domains: BTreeMap<u16, Domain>,
    /// One entry per domain sample.
    pub history: Vec<Point>,
    /// One entry per host sample.
    pub host_history: Vec<(u64, HostSample)>,
    /// Ledgers that did not add up, with their times.
    pub broken_ledgers: Vec<(u64, HostSample)>,
    /// Tests' results, with the domain that reported them.
    pub tests: Vec<(u16, TestResult)>,
    /// Measurements, with the domain that reported them.
    pub benches: Vec<(u16, BenchResult)>,
    /// Selfballoons' steps, with their times and the domain that made them.
    pub selfballoon: Vec<(u64, u16, SelfballoonStep)>,
    /// What guests' reclaim had done, with times and the domain.
    pub reclaim: Vec<(u64, u16, ReclaimStatus)>,
    /// What was reported of contended locks.
    pub contention: Reports,
    /// The end of the hypervisor's own initialisation, and its time, ns.
    pub initialised: Option<(u64, Initialised)>,
    /// Domains that were built and began to run, in that order.
    pub creations: Vec<Creation>,
    /// Domains that are being built, by id: since when, and with what.
    pub building: BTreeMap<u16, (u64, DomainBuild)>,
    /// Records the machine had to drop.
    pub lost: u64,
    /// Records of kinds this tool does not know.
    pub unknown: u64,
    /// The status in the stream's last record.
    pub end: Option<u64>,
}

/// What it took to make a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Its id.
    pub domid: u16,
    /// Pages it began with.
    pub pages: u64,
    /// Pages that were free and clear when it was built.
    pub clean: u64,
    /// From the beginning of its building to its first instruction, ns.
    pub ns: u64,
    /// The time of that, ns.
    pub began_ns: u64,
}

impl Creation {
    /// Whether all of its memory could come from what was clear already.
    #[must_use]
    pub fn from_scrubbed(&self) -> bool {
        self.clean >= self.pages
    }
}

/// A domain as it stands.
#[derive(Clone, Debug, Default)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its newest sample.
    pub sample: DomainSample,
    /// What its balloon driver last said.
    pub balloon: Option<BalloonStatus>,
    /// What its workload last said.
    pub workload: Option<Workload>,
    /// When it started, ns, if the trace has it.
    pub started_ns: Option<u64>,
    /// Its exits by [`ExitReason`](trace_stream::ExitReason), known when it has ended.
    pub exits: Option<[u64; ExitReason::COUNT]>,
    /// What its pause exits led to, known when it has ended.
    pub spins: Option<DomainSpins>,
    /// When and why it ended.
    pub ended: Option<(u64, u16)>,
    /// Fewest pages it had in a sample.
    pub least: Option<u64>,
    /// Most pages it had in a sample.
    pub most: u64,
    /// Times when it had less than it wanted.
    pub spells: Vec<Spell>,
    /// Its sleeps in `SCHEDOP_poll`, if the trace has them.
    pub polls: Polls,
}

/// Sleeps in `SCHEDOP_poll`: what a PV spinlock's waiters do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polls {
    /// Sleeps begun.
    pub slept: u64,
    /// Sleeps that a send to a polled port ended.
    pub sent: u64,
}

/// A time in which a domain had less memory than it wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spell {
    /// When it began, ns.
    pub from_ns: u64,
    /// When it ended, ns, and how.
    pub end: Option<(u64, SpellEnd)>,
    /// The greatest shortfall, pages.
    pub worst: u32,
    /// What it had at that time, pages.
    pub kept: u32,
    /// Why, `guest_event::REASON_*`.
    pub reason: u16,
    /// Attempts that did not reach the target.
    pub retries: u32,
}

/// How a short spell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpellEnd {
    /// It has all that it wants: since the worst time it got so many pages, and wants less by the
    /// rest of what it was short of.
    Whole {
        /// Pages it got.
        gained: u32,
    },
    /// It ended.
    DomainEnded,
}

impl Spell {
    /// Whether it ended because memory came, and not because the wish went: at least half of the
    /// worst shortfall was made good.
    #[must_use]
    pub fn made_good(&self) -> bool {
        matches!(self.end, Some((_, SpellEnd::Whole { gained })) if gained > 0 && gained >= self.worst / 2)
    }
}

/// A domain's memory at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// When, ns.
    pub time_ns: u64,
    /// Which domain.
    pub domid: u16,
    /// `trace_stream::STATE_*`.
    pub state: u16,
    /// vCPUs online.
    pub vcpus: u32,
    /// Pages it had.
    pub current: u64,
    /// Pages its balloon driver aimed at, once it has said so.
    pub target: Option<u32>,
    /// Pages it might have.
    pub maximum: u64,
    /// Frames of its pages in transcendent memory, ephemeral and persistent.
    pub tmem: [u64; 2],
    /// Tables of its second-stage translation.
    pub tables: u64,
    /// Pages wanted and not there.
    pub shortfall: u32,
    /// Why, `guest_event::REASON_*`.
    pub reason: u16,
}

impl Model {
    /// Takes a record into account.
    pub fn apply(&mut self, header: &Header, record: &Record<'_>) {
        // CPUs write their records in batches, so time may step back a little between records.
        self.now_ns = self.now_ns.max(header.time_ns);
        match record {
            Record::Start(start) => {
                self.start = Some(*start);
                self.started_ns = header.time_ns;
            }
            Record::HostSample(sample) => self.host_sample(header.time_ns, sample),
            Record::DomainSample(sample) => self.domain_sample(header.time_ns, sample),
            Record::GuestEvent(event) => self.guest_event(header.time_ns, event),
            Record::DomainStart(start) => {
                let name = trace_stream::name_text(&start.name).to_owned();
                let started_ns = Some(header.time_ns);
                self.domains.insert(start.domid.0, Domain { name, started_ns, ..Domain::default() });
            }
            Record::Initialised(initialised) => self.initialised = Some((header.time_ns, *initialised)),
            Record::DomainBuild(build) => {
                self.building.insert(build.domid.0, (header.time_ns, *build));
            }
            Record::VcpuStart(start) => self.vcpu_start(header.time_ns, start),
            Record::DomainExits(exits) => self.domains.entry(exits.domid.0).or_default().exits = Some(exits.counts),
            Record::DomainEnd(end) => {
                let domain = self.domains.entry(end.domid.0).or_default();
                domain.ended = Some((header.time_ns, end.reason));
                domain.sample.current = 0;
                domain.end_spell(header.time_ns, SpellEnd::DomainEnded);
            }
            Record::Lost(lost) => self.lost = self.lost.saturating_add(lost.count),
            Record::End(end) => self.end = Some(end.status),
            Record::VmExit(_) | Record::VcpuSwitch(_) | Record::EventSend(_) => {}
            Record::DomainSpins(spins) => self.domains.entry(spins.domid.0).or_default().spins = Some(*spins),
            Record::Poll(poll) => {
                let polls = &mut self.domains.entry(poll.domid.0).or_default().polls;
                match poll.what {
                    trace_stream::POLL_SLEEPS => polls.slept += 1,
                    trace_stream::POLL_SENT => polls.sent += 1,
                    _ => {}
                }
            }
            Record::Unknown(_) => self.unknown += 1,
        }
    }

    /// A vCPU begins; a domain does when its first one does for the first time.
    fn vcpu_start(&mut self, time_ns: u64, start: &VcpuStart) {
        let domid = start.domid.0;
        if start.vcpu == 0
            && let Some((from_ns, build)) = self.building.remove(&domid)
        {
            let ns = time_ns.saturating_sub(from_ns);
            self.creations.push(Creation { domid, pages: build.pages, clean: build.clean, ns, began_ns: time_ns });
        }
    }

    fn host_sample(&mut self, time_ns: u64, sample: &HostSample) {
        if !adds_up(sample) {
            self.broken_ledgers.push((time_ns, *sample));
        }
        self.host = Some(*sample);
        self.host_history.push((time_ns, *sample));
    }

    fn domain_sample(&mut self, time_ns: u64, sample: &DomainSample) {
        let domain = self.domains.entry(sample.domid.0).or_default();
        domain.name = trace_stream::name_text(&sample.name).to_owned();
        // One that is being taken apart has no vCPUs any more; what it had is what is worth showing.
        let vcpus = domain.sample.vcpus.max(sample.vcpus);
        domain.sample = DomainSample { vcpus, ..*sample };
        if sample.state != trace_stream::STATE_BUILDING && sample.state != trace_stream::STATE_DYING {
            domain.least = Some(domain.least.map_or(sample.current, |least| least.min(sample.current)));
        }
        domain.most = domain.most.max(sample.current);
        let balloon = domain.balloon;
        self.history.push(Point {
            time_ns,
            domid: sample.domid.0,
            state: sample.state,
            vcpus: sample.vcpus,
            current: sample.current,
            target: balloon.map(|b| b.target),
            maximum: sample.maximum,
            tmem: [sample.tmem_ephemeral, sample.tmem_persistent],
            tables: sample.tables,
            shortfall: balloon.map_or(0, |b| b.shortfall),
            reason: balloon.map_or(guest_event::REASON_NONE, |b| b.reason),
        });
    }

    fn guest_event(&mut self, time_ns: u64, event: &GuestEvent) {
        let domid = event.domid.0;
        if let Some(status) = event.decode::<BalloonStatus>() {
            self.domains.entry(domid).or_default().balloon_status(time_ns, &status);
        } else if let Some(workload) = event.decode::<Workload>() {
            self.domains.entry(domid).or_default().workload = Some(workload);
        } else if let Some(step) = event.decode::<SelfballoonStep>() {
            self.selfballoon.push((time_ns, domid, step));
        } else if let Some(status) = event.decode::<ReclaimStatus>() {
            self.reclaim.push((time_ns, domid, status));
        } else if let Some(result) = event.decode::<TestResult>() {
            self.tests.push((domid, result));
        } else if let Some(result) = event.decode::<BenchResult>() {
            self.benches.push((domid, result));
        } else if let Some(share) = event.decode::<Contention>() {
            self.contention.shares.push((domid, share));
        } else if let Some(kicks) = event.decode::<KickTimes>() {
            self.contention.kicks.push((domid, kicks));
        } else if let Some(waits) = event.decode::<WaitTimes>() {
            self.contention.waits.push((domid, waits));
        }
    }

    /// The domains to show: all but those of which a later one of the same name exists.
    pub fn shown(&self) -> impl Iterator<Item = (u16, &Domain)> {
        self.domains.iter().filter_map(|(id, domain)| {
            let later = self.domains.range(id + 1..).any(|(_, other)| other.name == domain.name);
            (!(later && domain.ended.is_some())).then_some((*id, domain))
        })
    }
}

impl Domain {
    fn balloon_status(&mut self, time_ns: u64, status: &BalloonStatus) {
        self.balloon = Some(*status);
        let open = self.spells.last_mut().filter(|spell| spell.end.is_none());
        match (open, status.shortfall) {
            (None, 0) => {}
            (Some(spell), 0) => {
                let gained = status.current.saturating_sub(spell.kept).min(spell.worst);
                spell.end = Some((time_ns, SpellEnd::Whole { gained }));
            }
            (Some(spell), shortfall) => {
                if shortfall >= spell.worst {
                    spell.worst = shortfall;
                    spell.kept = status.current;
                }
                spell.retries = spell.retries.max(status.retries);
                if status.reason != guest_event::REASON_NONE {
                    spell.reason = status.reason;
                }
            }
            // A wish that has only just risen is no shortage: the driver has not been refused yet.
            (None, _) if status.reason == guest_event::REASON_NONE => {}
            (None, shortfall) => self.spells.push(Spell {
                from_ns: time_ns,
                end: None,
                worst: shortfall,
                kept: status.current,
                reason: status.reason,
                retries: status.retries,
            }),
        }
    }

    fn end_spell(&mut self, time_ns: u64, how: SpellEnd) {
        if let Some(spell) = self.spells.last_mut().filter(|spell| spell.end.is_none()) {
            spell.end = Some((time_ns, how));
        }
    }

    /// The state in a word.
    #[must_use]
    pub fn state_text(&self) -> String {
        match self.ended {
            Some((_, reason)) => end_reason(reason),
            None => match self.sample.state {
                trace_stream::STATE_BUILDING => "building".into(),
                trace_stream::STATE_RUNNING => "running".into(),
                trace_stream::STATE_BLOCKED => "blocked".into(),
                trace_stream::STATE_PAUSED => "paused".into(),
                trace_stream::STATE_DYING => "dying".into(),
                other => format!("state {other}"),
            },
        }
    }
}

/// Whether the ledger's parts make up its whole (`claimed` is a part of `free`).
#[must_use]
pub fn adds_up(s: &HostSample) -> bool {
    let parts = [s.free, s.scrubbing, s.domains, s.hypervisor, s.tmem_ephemeral, s.tmem_persistent];
    parts.iter().try_fold(0u64, |sum, part| sum.checked_add(*part)) == Some(s.total)
}

/// Why a domain ended, in words.
#[must_use]
pub fn end_reason(reason: u16) -> String {
    match (u32::from(reason), reason) {
        (sched::SHUTDOWN_POWEROFF, _) => "powered off".into(),
        (sched::SHUTDOWN_REBOOT, _) => "rebooted".into(),
        (sched::SHUTDOWN_SUSPEND, _) => "suspended".into(),
        (sched::SHUTDOWN_CRASH, _) => "crashed".into(),
        (sched::SHUTDOWN_WATCHDOG, _) => "watchdog".into(),
        (sched::SHUTDOWN_SOFT_RESET, _) => "soft reset".into(),
        (_, trace_stream::REASON_DESTROYED) => "destroyed".into(),
        (_, trace_stream::REASON_TRIPLE_FAULT) => "triple fault".into(),
        (other, _) => format!("ended ({other})"),
    }
}

/// Why a balloon is short, in words.
#[must_use]
pub fn short_reason(reason: u16) -> &'static str {
    match reason {
        guest_event::REASON_NONE => "just asked",
        guest_event::REASON_HOST_SHORT => "host short",
        guest_event::REASON_AT_MAXIMUM => "at maximum",
        guest_event::REASON_NO_FREE_GUEST_MEMORY => "guest has none free",
        guest_event::REASON_REFUSED => "refused",
        _ => "unknown reason",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trace::stream::Stream;
    use crate::trace::stream::tests::record;
    use shared_abi::trace_stream::{DomainEnd, DomainStart, End, name_field};
    use shared_abi::xen::DomId;

    const SECOND: u64 = 1_000_000_000;

    fn guest<E: guest_event::GuestEvent>(domid: u16, event: &E) -> GuestEvent {
        let call = event.to_xentrace();
        let mut out = GuestEvent { domid: DomId(domid), event: E::EVENT, ..Default::default() };
        out.extra_bytes = call.extra_bytes;
        out.extra.copy_from_slice(&call.extra);
        out
    }

    fn balloon(current: u32, target: u32, retries: u32) -> BalloonStatus {
        let shortfall = target.saturating_sub(current);
        let reason = if shortfall > 0 { guest_event::REASON_HOST_SHORT } else { guest_event::REASON_NONE };
        BalloonStatus { current, target, retries, shortfall, reason, ..Default::default() }
    }

    /// A made-up run: two domains; `neap` is short from second 2 to 4, then complete.
    pub(crate) fn made_up_run() -> Vec<u8> {
        let total = 50_000;
        let mut out = record(&Start::new(2, 1_000_000, total), 0);
        for (id, name) in [(1, "spring"), (2, "neap")] {
            out.extend(record(&DomainStart { domid: DomId(id), pad: [0; 6], name: name_field(name) }, 1000));
        }
        for second in 1..=6u64 {
            let now = second * SECOND;
            let neap = match second {
                1 => balloon(10_000, 10_000, 0),
                2 => balloon(12_000, 20_000, 1),
                3 => balloon(14_000, 20_000, 2),
                _ => balloon(20_000, 20_000, 3),
            };
            out.extend(record(&guest(2, &neap), now));
            let spring = if second < 4 { 30_000 } else { 12_000 };
            let domains = u64::from(neap.current) + spring;
            let host =
                HostSample { free: total - domains - 1000, domains, hypervisor: 1000, total, ..Default::default() };
            out.extend(record(&host, now));
            for (id, name, current) in [(1, "spring", spring), (2, "neap", neap.current.into())] {
                let sample = DomainSample {
                    domid: DomId(id),
                    state: trace_stream::STATE_RUNNING,
                    vcpus: 1,
                    current,
                    maximum: 32_768,
                    name: name_field(name),
                    ..Default::default()
                };
                out.extend(record(&sample, now));
            }
        }
        out.extend(record(&DomainEnd { domid: DomId(1), reason: 0, pad: 0 }, 7 * SECOND));
        let crash = sched::SHUTDOWN_CRASH as u16;
        out.extend(record(&DomainEnd { domid: DomId(2), reason: crash, pad: 0 }, 7 * SECOND));
        let host = HostSample { free: total - 1000, hypervisor: 1000, total, ..Default::default() };
        out.extend(record(&host, 7 * SECOND));
        out.extend(record(&End { status: 0x11 }, 7 * SECOND));
        out
    }

    /// The model of a stream.
    pub(crate) fn model_of(bytes: &[u8]) -> Model {
        let mut model = Model::default();
        Stream::default().push(bytes, |header, record| model.apply(header, record));
        model
    }

    #[test]
    fn a_run_is_understood() {
        let model = model_of(&made_up_run());
        assert_eq!(model.start.map(|s| s.cpus), Some(2));
        assert_eq!((model.end, model.now_ns), (Some(0x11), 7 * SECOND));
        assert_eq!(model.history.len(), 12);
        assert!(model.broken_ledgers.is_empty());
        let neap = &model.domains[&2];
        assert_eq!(neap.name, "neap");
        assert_eq!((neap.least, neap.most), (Some(10_000), 20_000));
        assert_eq!(neap.state_text(), "crashed");
        let spell = Spell {
            from_ns: 2 * SECOND,
            end: Some((4 * SECOND, SpellEnd::Whole { gained: 8_000 })),
            worst: 8_000,
            kept: 12_000,
            reason: guest_event::REASON_HOST_SHORT,
            retries: 2,
        };
        assert_eq!(neap.spells, [spell]);
        assert!(spell.made_good());
        assert!(model.domains[&1].spells.is_empty());
    }

    #[test]
    fn a_wish_that_falls_is_not_made_good() {
        let mut domain = Domain::default();
        domain.balloon_status(1, &balloon(10, 30, 1));
        domain.balloon_status(2, &balloon(10, 10, 0));
        assert_eq!(domain.spells[0].end, Some((2, SpellEnd::Whole { gained: 0 })));
        assert!(!domain.spells[0].made_good());
    }

    #[test]
    fn a_ledger_that_does_not_add_up_is_kept() {
        let host = HostSample { free: 1, total: 3, claimed: 2, ..Default::default() };
        let model = model_of(&[record(&Start::new(1, 1, 3), 0), record(&host, 5)].concat());
        assert_eq!(model.broken_ledgers, [(5, host)]);
        assert!(!adds_up(&HostSample { free: u64::MAX, domains: 1, ..Default::default() }));
    }

    #[test]
    fn a_domain_built_again_is_shown_once() {
        let start = |id| record(&DomainStart { domid: DomId(id), pad: [0; 6], name: name_field("a") }, 1);
        let end = record(&DomainEnd { domid: DomId(1), reason: 1, pad: 0 }, 2);
        let model = model_of(&[record(&Start::new(1, 1, 3), 0), start(1), end, start(2)].concat());
        assert_eq!(model.shown().map(|(id, _)| id).collect::<Vec<_>>(), [2]);
    }
}
