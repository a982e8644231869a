//! Shares, latency, pauses, affinity, the end of a domain.

use std::sync::Arc;

use ebb_core::machine::{CpuId, Machine};
use ebb_core::sched;
use ebb_core::timer::{self, Kind};
use shared_abi::xen::DomId;

use crate::sim::{Behaviour, MS, Sim, assert_share};
use crate::testing;

#[test]
fn weights_decide_the_shares() {
    let mut sim = Sim::new(1);
    let domains = [256, 512, 1280].map(|weight| sim.add(weight / 256, weight, &[Behaviour::Hog]));
    sim.run(8_000 * MS);
    for (domain, percent) in domains.iter().zip([12, 25, 62]) {
        assert_share(sim.ran(domain), 8_000 * MS, percent, 2);
    }
}

#[test]
fn in_turns_every_vcpu_has_the_same() {
    let mut sim = Sim::new(1);
    sim.hv.sched_config.policy = sched::policy::by_name("rr").expect("it is there");
    let heavy = sim.add(1, 512, &[Behaviour::Hog]);
    let light = sim.add(2, 256, &[Behaviour::Hog, Behaviour::Hog]);
    let short = sim.add(3, 256, &[Behaviour::Sleeper(MS, 20 * MS)]);
    sim.run(6_000 * MS);
    let all = 6_000 * MS - sim.ran(&short);
    assert_share(sim.ran(&heavy), all, 33, 1);
    assert_share(sim.ran(&light), all, 67, 1);
    // Who sleeps waits for its turn: no longer than a slice for each of the others, and no less than another's rest.
    let worst = sim.guests[&(DomId(3), 0)].worst_latency;
    let slice = sim.hv.sched_config.timeslice_ns;
    assert!(worst > sim.hv.sched_config.ratelimit_ns && worst <= 3 * slice + 10_000, "{worst}");
}

#[test]
fn more_vcpus_are_not_a_larger_share() {
    let mut sim = Sim::new(1);
    let small = sim.add(1, 256, &[Behaviour::Hog]);
    let large = sim.add(2, 256, &[Behaviour::Hog; 4]);
    sim.run(6_000 * MS);
    assert_share(sim.ran(&small), 6_000 * MS, 50, 3);
    assert_share(sim.ran(&large), 6_000 * MS, 50, 3);
}

#[test]
fn three_hogs_take_turns_on_two_cpus() {
    let mut sim = Sim::new(2);
    let domains = [1, 2, 3].map(|id| sim.add(id, 256, &[Behaviour::Hog]));
    sim.run(6_000 * MS);
    for domain in &domains {
        assert_share(sim.ran(domain), 12_000 * MS, 33, 3);
    }
}

#[test]
fn weights_count_on_several_cpus() {
    let mut sim = Sim::new(2);
    let light = [1, 2].map(|id| sim.add(id, 256, &[Behaviour::Hog]));
    let heavy = sim.add(3, 512, &[Behaviour::Hog]);
    sim.run(6_000 * MS);
    // Half of all time for the heavy one: it keeps a CPU nearly to itself.
    for domain in &light {
        assert_share(sim.ran(domain), 12_000 * MS, 25, 3);
    }
    assert_share(sim.ran(&heavy), 12_000 * MS, 50, 3);
}

#[test]
fn nobody_is_interrupted_while_nobody_waits() {
    let mut sim = Sim::new(2);
    sim.add(1, 256, &[Behaviour::Hog; 2]);
    sim.run(1_000 * MS);
    assert!((0..2).all(|cpu| sim.hv.machine.armed(CpuId(cpu)).is_none_or(|at| at <= sim.hv.machine.now())));
    assert!(sim.loaded.iter().all(Option::is_some));
}

#[test]
fn a_sleeper_runs_soon_after_it_wakes() {
    let mut sim = Sim::new(1);
    sim.add(1, 256, &[Behaviour::Hog; 3]);
    let sleeper = sim.add(2, 256, &[Behaviour::Sleeper(MS / 10, 20 * MS)]);
    sim.run(3_000 * MS);
    let guest = &sim.guests[&(sleeper.id, 0)];
    assert!(guest.ran > 10 * MS, "it ran {} ns", guest.ran);
    let bound = sim.hv.sched_config.ratelimit_ns + 10_000;
    assert!(guest.worst_latency <= bound, "it waited {} ns", guest.worst_latency);
}

#[test]
fn a_yield_lets_another_run() {
    let mut sim = Sim::new(1);
    let yielder = sim.add(1, 256, &[Behaviour::Yielder(MS / 10)]);
    let hog = sim.add(2, 256, &[Behaviour::Hog]);
    sim.run(2_000 * MS);
    // It gives up most of its share, and keeps running now and then.
    assert!(sim.ran(&yielder) > 5 * MS);
    assert!(sim.ran(&hog) > 1_000 * MS);
}

#[test]
fn a_yield_without_company_changes_nothing() {
    let mut sim = Sim::new(1);
    let only = sim.add(1, 256, &[Behaviour::Yielder(MS)]);
    sim.run(10 * MS);
    assert_eq!(sim.ran(&only), 10 * MS);
    assert!(sim.hv.machine.armed(CpuId(0)).is_none_or(|at| at <= sim.hv.machine.now()));
}

#[test]
fn a_paused_vcpu_leaves_its_cpu() {
    let mut sim = Sim::new(2);
    let domain = sim.add(1, 256, &[Behaviour::Hog]);
    sim.run(MS);
    let vcpu = testing::vcpu(&domain, 0);
    // From the other CPU, twice.
    let running = vcpu.sched.cpu();
    testing::set_cpu(1 - running.0);
    sched::pause(&sim.hv, &vcpu);
    sched::pause(&sim.hv, &vcpu);
    assert_eq!(sim.hv.machine.kicked(running), 2);
    assert!(!sched::is_off_cpus(&domain));
    sim.settle_all();
    assert!(sched::is_off_cpus(&domain));
    sched::unpause(&sim.hv, &vcpu);
    sim.run(5 * MS);
    assert_eq!(sim.ran(&domain), MS);
    sched::unpause(&sim.hv, &vcpu);
    sim.run(5 * MS);
    assert_eq!(sim.ran(&domain), 6 * MS);
}

#[test]
fn affinity_is_kept() {
    let mut sim = Sim::new(2);
    let domain = sim.add(1, 256, &[Behaviour::Hog; 2]);
    let vcpu = testing::vcpu(&domain, 1);
    assert!(!sched::set_affinity(&sim.hv, &vcpu, [1 << 2, 0, 0, 0]), "no such CPU");
    for other in sched::each_vcpu(&domain) {
        assert!(sched::set_affinity(&sim.hv, &other, [1 << 1, 0, 0, 0]));
    }
    sim.run(200 * MS);
    assert!(sim.loaded[0].is_none() && sim.loaded[1].is_some());
    let before = sim.ran(&domain);
    assert!(before <= 200 * MS);
    assert!(sched::set_affinity(&sim.hv, &vcpu, [1, 0, 0, 0]));
    sim.run(200 * MS);
    assert!(sim.loaded[0].as_ref() == Some(&vcpu));
}

#[test]
fn a_retired_domain_leaves_nothing_behind() {
    let mut sim = Sim::new(2);
    let domain = sim.add(1, 256, &[Behaviour::Sleeper(MS, MS), Behaviour::Hog, Behaviour::Hog]);
    sim.run(10 * MS);
    sched::retire(&sim.hv, &domain);
    sim.settle_all();
    assert!(sched::is_off_cpus(&domain));
    let vcpu = testing::vcpu(&domain, 1);
    sched::set_up(&sim.hv, &vcpu);
    timer::set(&sim.hv, &vcpu, Kind::Singleshot, Some(1));
    sim.settle_all();
    assert!(sim.loaded.iter().all(Option::is_none));
    assert_eq!(vcpu.timers.deadline(Kind::Singleshot), None);
    // Queues and timers hold the domain no more: what is left is the table, the test's and this vCPU's.
    assert_eq!(Arc::strong_count(&domain), 3);
}
