//! Judges what a run left behind: a pure function from expectations and results to an outcome.

use ebb_tools::qemu::{MachineEnd, Status};
use ebb_tools::session::{Session, SessionEnd};
use ebb_tools::trace::model::{Domain, Spell, end_reason};
use shared_abi::guest_event;
use shared_abi::trace_stream::ExitReason;

use crate::suite::{Test, Typist};

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As expected.
    Pass,
    /// It cannot be run here; why.
    Skip(String),
    /// The test is broken; why.
    Error(String),
    /// Ebb is broken; every expectation that was not met.
    Failure(Vec<String>),
    /// Ebb panicked or hung; how.
    Crash(String),
}

impl Outcome {
    /// Its word in the report.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip(_) => "skip",
            Self::Error(_) => "ERROR",
            Self::Failure(_) => "FAILURE",
            Self::Crash(_) => "CRASH",
        }
    }

    /// Whether it stops a change from landing.
    pub fn is_bad(&self) -> bool {
        !matches!(self, Self::Pass | Self::Skip(_))
    }

    /// Why.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            Self::Pass => Vec::new(),
            Self::Skip(why) | Self::Error(why) | Self::Crash(why) => vec![why.clone()],
            Self::Failure(whys) => whys.clone(),
        }
    }
}

/// Judges a run of `test`.
pub fn judge(test: &Test, session: &Session) -> Outcome {
    let expected = Status(test.spec.expect.status);
    match session.end {
        SessionEnd::TimedOut => {
            return Outcome::Crash(format!("no end within {} s", test.spec.timeout));
        }
        // The only one who interrupts is the runner, when it has seen what it waited for.
        SessionEnd::Interrupted if test.stop.is_some() => {}
        SessionEnd::Interrupted => return Outcome::Error("interrupted".into()),
        SessionEnd::Machine(end @ MachineEnd::Failed(_)) => {
            return Outcome::Error(format!("{end}; see qemu.log"));
        }
        SessionEnd::Machine(MachineEnd::Off) => {
            return Outcome::Crash("the machine powered off without a status".into());
        }
        SessionEnd::Machine(MachineEnd::Reset) => {
            return Outcome::Crash("the machine was reset".into());
        }
        SessionEnd::Machine(MachineEnd::Status(Status::PANIC)) if expected != Status::PANIC => {
            return Outcome::Crash("the hypervisor panicked".into());
        }
        SessionEnd::Machine(MachineEnd::Status(_)) => {}
    }
    if test.stop.is_some() && session.end != SessionEnd::Interrupted {
        return Outcome::Failure(vec!["the machine ended before what was waited for".into()]);
    }
    if let Some(why) = broken_guest_tests(session) {
        return Outcome::Error(why);
    }
    let mut problems = Vec::new();
    check_status(expected, session, &mut problems);
    check_console(test, session, &mut problems);
    check_guest_tests(test, session, &mut problems);
    check_domains(test, session, &mut problems);
    check_memory(test, session, &mut problems);
    if problems.is_empty() { Outcome::Pass } else { Outcome::Failure(problems) }
}

/// A guest that says its own test is broken is not evidence against Ebb.
fn broken_guest_tests(session: &Session) -> Option<String> {
    let (domid, result) = session.model.tests.iter().find(|(_, t)| t.outcome == guest_event::OUTCOME_ERROR)?;
    Some(format!("d{domid} reports that its test {} is broken", result.id))
}

fn check_status(expected: Status, session: &Session, problems: &mut Vec<String>) {
    if let SessionEnd::Machine(MachineEnd::Status(status)) = session.end
        && status != expected
    {
        problems.push(format!("ended with {:#x} ({status}), expected {:#x} ({expected})", status.0, expected.0));
    }
    if let (Some(end), SessionEnd::Machine(MachineEnd::Status(status))) = (session.model.end, session.end)
        && end != u64::from(status.0)
    {
        problems.push(format!("the trace ends with status {end:#x}, the machine with {:#x}", status.0));
    }
}

fn check_console(test: &Test, session: &Session, problems: &mut Vec<String>) {
    let mut typist = Typist::new(&test.input);
    for line in &session.console {
        typist.after(line);
    }
    if let Some(pattern) = typist.waits_for() {
        problems.push(format!("not everything was done: no line matched /{pattern}/ in its turn"));
    }
    let domains = ids_by_name(test, session);
    for (patterns, wanted) in [(&test.lines, true), (&test.never, false)] {
        for pattern in patterns {
            let text = &pattern.text;
            let found = match pattern.regex(&domains) {
                Ok(regex) => session.console.iter().find(|line| regex.is_match(line)),
                Err(error) => {
                    problems.push(format!("{error:#}"));
                    continue;
                }
            };
            match found {
                None if wanted => problems.push(format!("no line matches /{text}/")),
                Some(line) if !wanted => problems.push(format!("a line matches /{text}/: {line}")),
                _ => {}
            }
        }
    }
}

/// The ids that the trace tells of for each domain of the test. A domain that never was has one that
/// no domain has.
fn ids_by_name<'t>(test: &'t Test, session: &Session) -> Vec<(&'t str, Vec<u16>)> {
    let ids_of = |name: &str| {
        let known = session.model.domains.iter().filter(|(_, d)| d.name == name);
        let ids: Vec<u16> = known.map(|(id, _)| *id).collect();
        if ids.is_empty() { vec![u16::MAX] } else { ids }
    };
    test.spec.domains.iter().map(|d| (d.name(), ids_of(d.name()))).collect()
}

fn check_guest_tests(test: &Test, session: &Session, problems: &mut Vec<String>) {
    let results = &session.model.tests;
    for (domid, result) in results {
        if result.outcome > guest_event::OUTCOME_ERROR {
            problems.push(format!("test {} in d{domid} failed (outcome {})", result.id, result.outcome));
        }
    }
    // The trace says that a test failed, the guest's own words say which and why.
    if !problems.is_empty() {
        let told = |line: &&String| line.starts_with("(d") && line.contains(" test ") && line.contains(": failure");
        problems.extend(session.console.iter().filter(told).cloned());
    }
    let passed = results.iter().filter(|(_, t)| t.outcome == guest_event::OUTCOME_SUCCESS).count();
    if passed < test.spec.expect.tests {
        problems.push(format!("{passed} guest tests passed, expected {} at least", test.spec.expect.tests));
    }
}

fn check_domains(test: &Test, session: &Session, problems: &mut Vec<String>) {
    let expect = &test.spec.expect;
    let by_name = |name: &str| session.model.domains.values().filter(|d| d.name == name).collect::<Vec<_>>();
    for (name, how) in &expect.ends {
        // A domain that is built again has several lives; the last one counts.
        match by_name(name).last().and_then(|d| d.ended) {
            Some((_, reason)) if end_reason(reason) == *how => {}
            Some((_, reason)) => problems.push(format!("{name} {}, expected: {how}", end_reason(reason))),
            None => problems.push(format!("{name} did not end, expected: {how}")),
        }
    }
    for (name, least) in &expect.polls {
        let (slept, sent) = by_name(name).iter().fold((0, 0), |(a, b), d| (a + d.polls.slept, b + d.polls.sent));
        if slept < *least || sent < *least {
            problems.push(format!("{name} slept {slept} times in polls and was sent out of {sent}, expected {least}"));
        }
    }
    for name in &expect.no_polls {
        let slept: u64 = by_name(name).iter().map(|domain| domain.polls.slept).sum();
        if slept > 0 {
            problems.push(format!("{name} slept {slept} times in polls, and should not"));
        }
    }
    for (name, least) in &expect.spins {
        problems.extend(by_name(name).last().and_then(|domain| wrong_spins(name, domain, *least)));
    }
    for name in &expect.short_then_complete {
        if !by_name(name).iter().any(|d| completed(d)) {
            problems.push(format!("{name} was never short of memory and then made whole"));
        }
    }
    let count = |what: fn(&Domain) -> bool| session.model.domains.values().filter(|d| what(d)).count();
    let (short, made_whole) = (count(|d| !d.spells.is_empty()), count(completed));
    if short < expect.short_domains {
        problems.push(format!("{short} domains were short of memory, expected {} at least", expect.short_domains));
    }
    if made_whole < expect.completed_domains {
        problems.push(format!("{made_whole} domains were made whole, expected {} at least", expect.completed_domains));
    }
}

/// What is wrong with a domain's pause exits, if something is.
fn wrong_spins(name: &str, domain: &Domain, least: u64) -> Option<String> {
    let (Some(spins), Some(exits)) = (&domain.spins, &domain.exits) else {
        return Some(format!("the trace does not tell of {name}'s pause exits"));
    };
    let (exits, led) = (exits[ExitReason::Pause as usize], spins.directed + spins.undirected + spins.left_alone);
    if spins.directed < least {
        return Some(format!("{name} gave way to a vCPU of its own {} times, expected {least}", spins.directed));
    }
    (exits != led).then(|| format!("{name} had {exits} pause exits, and {led} led to something"))
}

fn completed(domain: &Domain) -> bool {
    domain.spells.iter().any(Spell::made_good)
}

fn check_memory(test: &Test, session: &Session, problems: &mut Vec<String>) {
    let (expect, model) = (&test.spec.expect, &session.model);
    if let Some((at, ledger)) = model.broken_ledgers.first() {
        problems.push(format!("the ledger does not add up at {at} ns: {ledger:?}"));
    }
    if model.lost > 0 && !expect.lost {
        problems.push(format!("{} trace records were lost", model.lost));
    }
    if session.trace_damage > 0 && model.start.is_some() && test.spec.boot == [crate::suite::Boot::Pvh] {
        problems.push(format!("{} bytes of the trace are damaged", session.trace_damage));
    }
    if !expect.ledger || test.stop.is_some() {
        return;
    }
    match &model.host {
        None => problems.push("no ledger was reported".into()),
        Some(last) if last.domains != 0 => {
            problems.push(format!("{} pages are still the domains' at the end", last.domains));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebb_tools::trace::model::{Model, SpellEnd};
    use shared_abi::guest_event::TestResult;
    use shared_abi::trace_stream::{DomainSpins, HostSample};
    use std::time::Duration;

    fn test(expect: &str) -> Test {
        let domain = "[[domain]]\nname='a'\nmemory='8M'\n";
        Test::parse("t", &format!("# page\nsummary='s'\n[expect]\n{expect}\n{domain}"), |_| unreachable!()).unwrap()
    }

    fn session(status: u8) -> Session {
        let mut model = Model { end: Some(status.into()), ..Model::default() };
        model.host = Some(HostSample { free: 9, hypervisor: 1, total: 10, ..Default::default() });
        let mut domain = Domain { name: "a".into(), ended: Some((5, 0)), ..Domain::default() };
        domain.spells.push(Spell {
            from_ns: 1,
            end: Some((2, SpellEnd::Whole { gained: 1 })),
            worst: 1,
            kept: 1,
            reason: 1,
            retries: 1,
        });
        model.domains.insert(1, domain);
        Session {
            end: SessionEnd::Machine(MachineEnd::Status(Status(status))),
            model,
            console: vec!["(ebb) 2 CPUs".into(), "(d1) hello".into()],
            trace_damage: 0,
            wall: Duration::ZERO,
        }
    }

    fn failure(expect: &str, change: impl FnOnce(&mut Session)) -> String {
        let mut session = session(0x10);
        change(&mut session);
        match judge(&test(expect), &session) {
            Outcome::Failure(why) => why.join("; "),
            other => panic!("not a failure: {other:?}"),
        }
    }

    #[test]
    fn what_is_as_expected_passes() {
        let all = "lines=['^\\(d{a}\\) hello', '^\\(d1\\) hello']\nnever=['goodbye']\nends={a='powered off'}\nshort-then-complete=['a']";
        assert_eq!(judge(&test(all), &session(0x10)), Outcome::Pass);
        assert_eq!(judge(&test("status=0x12"), &session(0x12)), Outcome::Pass);
    }

    #[test]
    fn pause_exits_are_counted() {
        let untold = |_: &mut Session| {};
        assert!(failure("spins={a=1}", untold).contains("does not tell of a's pause exits"));
        for (directed, exits, complaint) in [(4, 6, "4 times, expected 5"), (5, 7, "7 pause exits, and 6 led")] {
            let spins = move |s: &mut Session| {
                let domain = s.model.domains.get_mut(&1).unwrap();
                domain.spins = Some(DomainSpins { directed, undirected: 1, ..DomainSpins::default() });
                domain.exits = Some([0; ExitReason::COUNT]);
                domain.exits.as_mut().unwrap()[ExitReason::Pause as usize] = exits;
            };
            assert!(failure("spins={a=5}", spins).contains(complaint), "{complaint}");
        }
    }

    #[test]
    fn what_is_not_fails_with_its_reason() {
        let same = |_: &mut Session| {};
        assert!(failure("status=0x11", same).starts_with("ended with 0x10"));
        assert!(failure("lines=['goodbye']", same).contains("no line matches /goodbye/"));
        assert!(failure("never=['hello']", same).contains("a line matches /hello/: (d1) hello"));
        assert!(failure("tests=1", same).contains("0 guest tests passed, expected 1"));
        assert!(failure("polls={a=1}", same).contains("a slept 0 times in polls"));
        let slept = |s: &mut Session| s.model.domains.get_mut(&1).unwrap().polls.slept = 2;
        assert!(failure("no-polls=['a']", slept).contains("a slept 2 times in polls, and should not"));
        let unsent = |s: &mut Session| s.model.domains.get_mut(&1).unwrap().polls.slept = 9;
        assert!(failure("polls={a=9}", unsent).contains("a slept 9 times in polls and was sent out of 0, expected 9"));
        assert!(failure("ends={a='crashed'}", same).contains("a powered off, expected: crashed"));
        assert!(failure("ends={a='crashed'}", |s| s.model.domains.clear()).contains("a did not end"));
        let at_ease = |s: &mut Session| s.model.domains.get_mut(&1).unwrap().spells.clear();
        assert!(failure("short-then-complete=['a']", at_ease).contains("a was never short"));
        assert!(failure("short-domains=1", at_ease).contains("0 domains were short"));
        assert!(failure("completed-domains=2", same).contains("1 domains were made whole"));
        assert!(failure("", |s| s.model.host = None).contains("no ledger"));
        let kept = HostSample { domains: 3, ..Default::default() };
        assert!(failure("", |s| s.model.host = Some(kept)).contains("3 pages are still the domains'"));
        assert!(failure("", |s| s.model.broken_ledgers.push((7, kept))).contains("does not add up at 7 ns"));
        assert!(failure("", |s| s.model.lost = 1).contains("1 trace records were lost"));
        assert!(failure("", |s| s.model.end = Some(0x11)).contains("the trace ends with status 0x11"));
        let failed = TestResult { id: 4, outcome: guest_event::OUTCOME_FAILURE };
        assert!(failure("", |s| s.model.tests.push((1, failed))).contains("test 4 in d1 failed"));
    }

    #[test]
    fn everything_is_typed_in_its_turn() {
        let text = |input: &str| format!("# page\nsummary='s'\ninput=[{input}]\n[[domain]]\nname='a'\nmemory='8M'\n");
        let judge = |input: &str| judge(&Test::parse("t", &text(input), |_| unreachable!()).unwrap(), &session(0x10));
        assert_eq!(judge("{after='CPUs', text='x'}, {after='hello', text='y'}"), Outcome::Pass);
        let untyped = judge("{after='hello', text='x'}, {after='CPUs', text='y'}");
        assert!(untyped.reasons().join("").contains("no line matched /CPUs/ in its turn"), "{untyped:?}");
    }

    #[test]
    fn a_machine_may_be_stopped_when_enough_was_seen() {
        let test = test("stop={line='hello', count=2}");
        let mut session = session(0x10);
        assert!(matches!(judge(&test, &session), Outcome::Failure(_)));
        session.end = SessionEnd::Interrupted;
        assert_eq!(judge(&test, &session), Outcome::Pass);
    }

    #[test]
    fn crashes_and_broken_tests_are_told_apart() {
        let end = |end| {
            let mut session = session(0x10);
            session.end = end;
            judge(&test(""), &session)
        };
        assert!(matches!(end(SessionEnd::TimedOut), Outcome::Crash(_)));
        assert!(matches!(end(SessionEnd::Interrupted), Outcome::Error(_)));
        assert!(matches!(end(SessionEnd::Machine(MachineEnd::Off)), Outcome::Crash(_)));
        assert!(matches!(end(SessionEnd::Machine(MachineEnd::Status(Status::PANIC))), Outcome::Crash(_)));
        assert!(matches!(end(SessionEnd::Machine(MachineEnd::Failed(Some(1)))), Outcome::Error(_)));
        let mut session = session(0x10);
        session.model.tests.push((1, TestResult { id: 4, outcome: guest_event::OUTCOME_ERROR }));
        assert!(matches!(judge(&test(""), &session), Outcome::Error(_)));
    }
}
