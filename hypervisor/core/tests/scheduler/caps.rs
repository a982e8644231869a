//! Caps: what a domain gets at most, and what can happen to a vCPU that waits for its domain's run time.

use std::sync::Arc;

use ebb_core::domain::Domain;
use ebb_core::machine::Machine;
use ebb_core::sched::{self, cap::PERIOD};
use ebb_core::timer::Kind;
use proptest::prelude::*;
use shared_abi::vcpu::{RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE};
use shared_abi::xen::DomId;

use crate::sim::{Behaviour, MS, Sim, assert_share, name};
use crate::testing::{self, FakeMachine};

type Dom = Arc<Domain<FakeMachine>>;

/// A domain with a cap, its vCPUs up.
fn capped(sim: &mut Sim, id: u16, cap: u16, behaviours: &[Behaviour]) -> Dom {
    let domain = sim.add(id, 256, behaviours);
    sched::set_cap(&sim.hv, &domain, cap);
    domain
}

fn parked(domain: &Dom) -> usize {
    sched::each_vcpu(domain).filter(|vcpu| vcpu.sched.state().is_parked()).count()
}

/// Runs until all vCPUs of the domain are parked.
#[track_caller]
fn run_until_parked(sim: &mut Sim, domain: &Dom) {
    for _ in 0..200 {
        if parked(domain) == domain.vcpus.len() {
            return;
        }
        sim.run(MS);
    }
    panic!("it is not parked");
}

#[test]
fn a_capped_domain_leaves_an_idle_machine_idle() {
    for (cap, percent) in [(25, 25), (1, 1), (75, 75), (100, 100), (300, 100)] {
        let mut sim = Sim::new(1);
        let domain = capped(&mut sim, 1, cap, &[Behaviour::Hog]);
        sim.run(4_000 * MS);
        assert_share(sim.ran(&domain), 4_000 * MS, percent, 1);
    }
}

#[test]
fn a_cap_is_the_whole_domains() {
    for (cap, behaviours) in [(30, 4), (150, 2), (150, 4), (350, 4)] {
        let mut sim = Sim::new(4);
        let domain = capped(&mut sim, 1, cap, &vec![Behaviour::Hog; behaviours]);
        sim.run(4_000 * MS);
        assert_share(sim.ran(&domain), 4_000 * MS, u64::from(cap), 2);
        // Nobody has it all: within a period they are served in turns, over many they have about the same.
        let fair = sim.ran(&domain) / behaviours as u64;
        for vcpu in sched::each_vcpu(&domain) {
            let ran = sim.guests[&name(&vcpu)].ran;
            assert!(ran > fair / 3, "vCPU {} of {behaviours}: {ran} of {fair}", vcpu.id.0);
        }
    }
}

#[test]
fn what_a_capped_domain_leaves_goes_to_others() {
    let mut sim = Sim::new(1);
    let small = capped(&mut sim, 1, 20, &[Behaviour::Hog]);
    let large = sim.add(2, 64, &[Behaviour::Hog]);
    sim.run(4_000 * MS);
    assert_share(sim.ran(&small), 4_000 * MS, 20, 1);
    assert_share(sim.ran(&large), 4_000 * MS, 80, 1);
}

#[test]
fn a_cap_that_does_not_bind_changes_nothing() {
    let mut sim = Sim::new(1);
    let light = capped(&mut sim, 1, 50, &[Behaviour::Sleeper(MS, 9 * MS)]);
    let others = [2, 3].map(|id| capped(&mut sim, id, 60, &[Behaviour::Hog]));
    sim.run(4_000 * MS);
    assert_share(sim.ran(&light), 4_000 * MS, 10, 2);
    for domain in &others {
        assert_share(sim.ran(domain), 4_000 * MS, 45, 2);
    }
}

/// Where a period is not enough for all, they take turns.
#[test]
fn a_small_cap_starves_nobody() {
    let mut sim = Sim::new(1);
    let domain = capped(&mut sim, 1, 1, &[Behaviour::Hog; 6]);
    sim.run(6_000 * MS);
    for vcpu in sched::each_vcpu(&domain) {
        let ran = sim.guests[&name(&vcpu)].ran;
        assert_share(ran, sim.ran(&domain), 17, 5);
    }
}

/// A vCPU that sleeps often leaves what it did not use to one that does not.
#[test]
fn what_a_sleeper_leaves_goes_to_its_siblings() {
    let mut sim = Sim::new(2);
    let domain = capped(&mut sim, 1, 40, &[Behaviour::Hog, Behaviour::Sleeper(MS / 5, 2 * MS)]);
    sim.run(4_000 * MS);
    assert_share(sim.ran(&domain), 4_000 * MS, 40, 2);
}

#[test]
fn no_stretch_of_time_has_more_than_its_part() {
    let mut sim = Sim::new(2);
    let domain = capped(&mut sim, 1, 60, &[Behaviour::Hog; 3]);
    let full = PERIOD * 60 / 100;
    let mut ran = vec![0];
    for _ in 0..100 {
        sim.run(13 * MS);
        ran.push(sim.ran(&domain));
    }
    for from in 0..ran.len() {
        for to in from..ran.len() {
            let passed = (to - from) as u64 * 13 * MS;
            // One pool more than its part, and the microsecond by which the timer comes late, once a grant.
            let most = passed * 60 / 100 + full + 1_000 * (passed / MS + 32);
            assert!(ran[to] - ran[from] <= most, "{} in {passed}", ran[to] - ran[from]);
        }
    }
}

#[test]
fn a_parked_vcpu_waits_on_an_idle_machine_and_its_runstate_says_so() {
    let mut sim = Sim::new(2);
    let domain = capped(&mut sim, 1, 10, &[Behaviour::Hog]);
    run_until_parked(&mut sim, &domain);
    let vcpu = testing::vcpu(&domain, 0);
    assert!(sim.loaded.iter().all(Option::is_none), "all CPUs are idle");
    assert!(sim.hv.cpus.iter().all(|cpu| cpu.sched.load() == 0 && cpu.sched.is_idle()));
    let before = vcpu.runstate.info(sim.hv.machine.now());
    assert_eq!(before.state, RUNSTATE_RUNNABLE);
    sim.run(5 * MS);
    let after = vcpu.runstate.info(sim.hv.machine.now());
    assert_eq!((after.time[0], after.time[1]), (before.time[0], before.time[1] + 5 * MS), "stolen time");
    // A timer, not a look now and then, ends that: there is one, at the period's end.
    let due = vcpu.timers.deadline(Kind::Budget).expect("a timer");
    assert!(due.is_multiple_of(PERIOD) && due > sim.hv.machine.now());
    sim.run_until(due + 1_000);
    assert!(sim.loaded.iter().flatten().any(|loaded| *loaded == vcpu));
}

#[test]
fn a_cap_can_be_set_lowered_and_lifted_at_any_time() {
    let mut sim = Sim::new(1);
    let domain = sim.add(1, 256, &[Behaviour::Hog]);
    let share = |sim: &mut Sim, domain: &Dom, percent| {
        let before = sim.ran(domain);
        sim.run(2_000 * MS);
        assert_share(sim.ran(domain) - before, 2_000 * MS, percent, 3);
    };
    share(&mut sim, &domain, 100);
    // While it runs, with nothing else that would make the CPU look.
    sched::set_cap(&sim.hv, &domain, 50);
    share(&mut sim, &domain, 50);
    run_until_parked(&mut sim, &domain);
    sched::set_cap(&sim.hv, &domain, 10);
    share(&mut sim, &domain, 10);
    run_until_parked(&mut sim, &domain);
    sched::set_cap(&sim.hv, &domain, 0);
    assert_eq!(parked(&domain), 0, "nobody is parked without a cap");
    share(&mut sim, &domain, 100);
    assert_eq!(domain.sched.cap(), 0);
}

#[test]
fn a_wake_up_while_parked_is_kept() {
    let mut sim = Sim::new(1);
    let domain = capped(&mut sim, 1, 10, &[Behaviour::Hog, Behaviour::Sleeper(MS, 3 * MS)]);
    run_until_parked(&mut sim, &domain);
    let sleeper = testing::vcpu(&domain, 1);
    let ran = sim.guests[&(DomId(1), 1)].ran;
    sched::wake(&sim.hv, &sleeper);
    sim.settle_all();
    assert_eq!(sim.guests[&(DomId(1), 1)].ran, ran);
    sim.run(2 * PERIOD);
    assert!(sim.guests[&(DomId(1), 1)].ran > ran);
}

#[test]
fn pauses_and_parks_add_up() {
    let mut sim = Sim::new(1);
    let domain = capped(&mut sim, 1, 20, &[Behaviour::Hog]);
    let vcpu = testing::vcpu(&domain, 0);
    run_until_parked(&mut sim, &domain);
    let ran = sim.ran(&domain);
    sched::pause(&sim.hv, &vcpu);
    assert_eq!(vcpu.runstate.info(sim.hv.machine.now()).state, RUNSTATE_OFFLINE);
    sim.run(4 * PERIOD);
    assert_eq!((sim.ran(&domain), parked(&domain)), (ran, 0), "released, and paused");
    sched::unpause(&sim.hv, &vcpu);
    sim.run(MS);
    assert_eq!(sim.ran(&domain), ran + MS);
    run_until_parked(&mut sim, &domain);
    let ran = sim.ran(&domain);
    sched::pause(&sim.hv, &vcpu);
    sched::unpause(&sim.hv, &vcpu);
    sim.run(MS);
    assert_eq!(sim.ran(&domain), ran, "still parked");
}

#[test]
fn a_parked_vcpu_comes_back_where_it_may_run() {
    let mut sim = Sim::new(2);
    let domain = capped(&mut sim, 1, 20, &[Behaviour::Hog]);
    let vcpu = testing::vcpu(&domain, 0);
    run_until_parked(&mut sim, &domain);
    let other = 1 - vcpu.sched.cpu().0;
    assert!(sched::set_affinity(&sim.hv, &vcpu, [1 << other, 0, 0, 0]));
    sim.run(2 * PERIOD);
    assert_eq!(vcpu.sched.cpu().0, other);
    assert!(sim.ran(&domain) > PERIOD / 5);
}

#[test]
fn a_domain_that_ends_while_parked_leaves_nothing_behind() {
    let mut sim = Sim::new(2);
    let domain = capped(&mut sim, 1, 10, &[Behaviour::Hog; 3]);
    run_until_parked(&mut sim, &domain);
    sched::retire(&sim.hv, &domain);
    sim.settle_all();
    assert!(sched::is_off_cpus(&domain));
    sim.run(3 * PERIOD);
    assert!(sim.loaded.iter().all(Option::is_none));
    assert_eq!(testing::vcpu(&domain, 0).timers.deadline(Kind::Budget), None);
    assert_eq!(Arc::strong_count(&domain), 2, "the table's and the test's");
}

#[test]
fn a_domain_without_a_cap_has_no_timer_for_it() {
    let mut sim = Sim::new(1);
    let domain = sim.add(1, 256, &[Behaviour::Hog; 2]);
    sim.run(1_000 * MS);
    assert_eq!((domain.sched.cap(), testing::vcpu(&domain, 0).timers.deadline(Kind::Budget)), (0, None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the caps and whoever else there is: nobody gets more than its cap, and a hog alone gets all of it.
    #[test]
    fn caps_hold_among_others(
        cpus in 1u16..=4,
        domains in proptest::collection::vec((0u16..250, 1usize..=4, 1u64..20), 1..4),
    ) {
        let mut sim = Sim::new(cpus);
        let made: Vec<(Dom, u16)> = domains.iter().enumerate().map(|(index, (cap, hogs, sleep))| {
            let mut behaviours = vec![Behaviour::Hog; *hogs];
            behaviours.push(Behaviour::Sleeper(MS, sleep * MS));
            (capped(&mut sim, index as u16 + 1, *cap, &behaviours), *cap)
        }).collect();
        let time = 1_500 * MS;
        sim.run(time);
        for (domain, cap) in made.iter().filter(|(_, cap)| *cap != 0) {
            let part = time * u64::from(*cap) / 100;
            let most = part + PERIOD * u64::from(*cap) / 100 + MS;
            prop_assert!(sim.ran(domain) <= most, "{} of {part}", sim.ran(domain));
            let all = (domain.vcpus.len() - 1).min(usize::from(cpus)) as u64 * time;
            if made.len() == 1 {
                prop_assert!(sim.ran(domain) * 100 >= part.min(all) * 95, "{} of {part}", sim.ran(domain));
            }
        }
    }
}
