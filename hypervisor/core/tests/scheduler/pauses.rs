//! Pause-loop exits: to whom a spinner yields, who pays, and when a domain is left alone.

use std::sync::Arc;

use ebb_core::domain::Domain;
use ebb_core::machine::Machine;
use ebb_core::sched::pause::{self, Outcome, QUIET, Window};
use ebb_core::sched::{self, state::Placement};
use shared_abi::event_channel::{self as evtchn, BindIpi};
use shared_abi::sched as abi;
use shared_abi::xen::{GuestHandle, Port, VcpuId, hypercall};
use zerocopy::IntoBytes;

use crate::sim::{ARGUMENTS, Behaviour, MS, Ref, Sim, assert_share};
use crate::testing::{self, FakeMachine};

type Dom = Arc<Domain<FakeMachine>>;

/// Runs until `vcpu` is where `wanted` says.
#[track_caller]
fn run_until_it(sim: &mut Sim, wanted: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if wanted() {
            return;
        }
        sim.run(MS / 4);
    }
    panic!("it never comes to that");
}

fn runs(vcpu: &Ref) -> bool {
    vcpu.sched.state().placement() == Placement::Running
}

/// `vcpu`, which runs, has a pause exit.
fn spin(sim: &mut Sim, vcpu: &Ref) -> Window {
    testing::set_cpu(vcpu.sched.cpu().0);
    let window = pause::pause_exit(&sim.hv, vcpu);
    sim.settle_all();
    window
}

fn count(domain: &Dom, outcome: Outcome) -> u64 {
    domain.sched.pauses.count(outcome)
}

#[test]
fn a_spinner_yields_to_its_siblings_in_turns() {
    let mut sim = Sim::new(1);
    let domain = sim.add(1, 256, &[Behaviour::Hog; 4]);
    let others = sim.add(2, 256, &[Behaviour::Hog; 3]);
    let vcpus: Vec<Ref> = sched::each_vcpu(&domain).collect();
    let mut helped = Vec::new();
    for _ in 0..6 {
        run_until_it(&mut sim, || runs(&vcpus[0]));
        let window = spin(&mut sim, &vcpus[0]);
        assert!(matches!(window, Window::Step(step) if step < 0));
        helped.extend(vcpus.iter().position(runs));
    }
    assert_eq!(helped, [1, 2, 3, 1, 2, 3], "never a vCPU of another domain, and never one twice before the others");
    assert_eq!((count(&domain, Outcome::Directed), count(&others, Outcome::Directed)), (6, 0));
}

#[test]
fn a_spinner_alone_spins_longer_and_longer() {
    let mut sim = Sim::new(1);
    let domain = sim.add(1, 256, &[Behaviour::Hog]);
    let other = sim.add(2, 256, &[Behaviour::Hog]);
    let vcpu = testing::vcpu(&domain, 0);
    assert_eq!(pause::window(&sim.hv, &vcpu), Window::USUAL);
    for expected in [1, 2, 3, 4, 4] {
        run_until_it(&mut sim, || runs(&vcpu));
        assert_eq!(spin(&mut sim, &vcpu), Window::Step(expected));
        assert!(runs(&testing::vcpu(&other, 0)), "whoever waits here goes first");
    }
    assert_eq!(count(&domain, Outcome::Undirected), 5);
    assert_eq!(pause::window(&sim.hv, &vcpu), Window::Step(Window::COARSEST));
}

#[test]
fn a_sibling_that_waits_elsewhere_is_fetched() {
    let mut sim = Sim::new(2);
    let domain = sim.add(1, 256, &[Behaviour::Hog; 2]);
    let other = sim.add(2, 256, &[Behaviour::Hog]);
    let (spinner, holder) = (testing::vcpu(&domain, 0), testing::vcpu(&domain, 1));
    let pin = |vcpu: &Ref, mask| assert!(sched::set_affinity(&sim.hv, vcpu, [mask, 0, 0, 0]));
    pin(&spinner, 1);
    pin(&holder, 2);
    pin(&testing::vcpu(&other, 0), 2);
    sim.run(MS);
    run_until_it(&mut sim, || holder.sched.cpu().0 == 1 && holder.sched.state().placement() == Placement::Queued);
    assert!(runs(&spinner));
    // Where it may not run it is not fetched to.
    spin(&mut sim, &spinner);
    assert!(!runs(&holder) && runs(&spinner));
    // Both CPUs are busy, so the wider mask alone moves it nowhere.
    assert!(sched::set_affinity(&sim.hv, &holder, [3, 0, 0, 0]));
    sim.settle_all();
    assert!(!runs(&holder));
    spin(&mut sim, &spinner);
    assert!(runs(&holder) && holder.sched.cpu().0 == 0);
    assert_eq!((count(&domain, Outcome::Undirected), count(&domain, Outcome::Directed)), (1, 1));
}

/// Being helped is paid for: a domain whose vCPUs yield to each other all the time gets its share and no more.
#[test]
fn who_runs_early_pays() {
    let mut sim = Sim::new(1);
    let spinners = sim.add(1, 256, &[Behaviour::Spinner(MS / 5), Behaviour::Spinner(MS / 5), Behaviour::Hog]);
    let other = sim.add(2, 256, &[Behaviour::Hog; 2]);
    sim.run(6_000 * MS);
    assert!(count(&spinners, Outcome::Directed) > 500);
    // Spinners that find no sibling give way to the other domain as well, so they may have less.
    assert!(sim.ran(&spinners) <= 6_000 * MS * 53 / 100, "{}", sim.ran(&spinners));
    assert!(sim.ran(&other) >= 6_000 * MS * 47 / 100);
    let hog = testing::vcpu(&spinners, 2).runstate.info(sim.hv.machine.now()).time[0];
    assert_share(hog, sim.ran(&spinners), 60, 40);
}

/// Whoever spins is let spin for a while first: it may have a lock that sleeps.
#[test]
fn a_spinner_is_heard_before_it_is_judged() {
    let mut sim = Sim::new(1);
    sim.hv.sched_config.hearing_ns = 2 * MS;
    let domain = sim.add(1, 256, &[Behaviour::Hog; 2]);
    let vcpus: Vec<Ref> = sched::each_vcpu(&domain).collect();
    run_until_it(&mut sim, || runs(&vcpus[0]));
    for _ in 0..3 {
        assert_eq!(spin(&mut sim, &vcpus[0]), Window::USUAL);
        assert!(runs(&vcpus[0]));
    }
    assert_eq!((count(&domain, Outcome::LeftAlone), count(&domain, Outcome::Directed)), (3, 0));
    sim.run(3 * MS);
    run_until_it(&mut sim, || runs(&vcpus[0]));
    spin(&mut sim, &vcpus[0]);
    assert!(runs(&vcpus[1]));
    assert_eq!(count(&domain, Outcome::Directed), 1);
}

#[test]
fn a_domain_whose_locks_sleep_is_left_alone() {
    let mut sim = Sim::new(1);
    let domain = sim.add(1, 256, &[Behaviour::Hog; 3]);
    let vcpus: Vec<Ref> = sched::each_vcpu(&domain).collect();
    run_until_it(&mut sim, || runs(&vcpus[0]));
    let port = ipi_port(&sim, &vcpus[0]);
    for sleeps in 1..=2 {
        run_until_it(&mut sim, || runs(&vcpus[0]));
        assert_ne!(pause::window(&sim.hv, &vcpus[0]), Window::Off, "before sleep {sleeps}");
        sleep_on(&mut sim, &vcpus[0], port);
        sched::wake(&sim.hv, &vcpus[0]);
    }
    run_until_it(&mut sim, || runs(&vcpus[1]));
    assert_eq!(pause::window(&sim.hv, &vcpus[1]), Window::Off, "all of its vCPUs");
    assert_eq!(spin(&mut sim, &vcpus[1]), Window::Off);
    assert!(runs(&vcpus[1]), "an exit that was on its way changes nothing");
    assert_eq!((count(&domain, Outcome::LeftAlone), count(&domain, Outcome::Directed)), (1, 0));
    sim.run(QUIET);
    run_until_it(&mut sim, || runs(&vcpus[1]));
    assert_eq!(pause::window(&sim.hv, &vcpus[1]), Window::USUAL, "it has stopped");
    spin(&mut sim, &vcpus[1]);
    assert_eq!(count(&domain, Outcome::Directed), 1);
}

fn ipi_port(sim: &Sim, vcpu: &Ref) -> Port {
    testing::set_cpu(vcpu.sched.cpu().0);
    let bind = BindIpi { vcpu: VcpuId(vcpu.id.0), port: Port(0) };
    testing::poke(&sim.hv, vcpu.domain(), ARGUMENTS, bind.as_bytes());
    let call = [u64::from(evtchn::BIND_IPI), ARGUMENTS, 0, 0, 0];
    assert_eq!(testing::hypercall(&sim.hv, vcpu, hypercall::EVENT_CHANNEL_OP, call), 0);
    Port(u32::from_le_bytes(testing::peek(&sim.hv, vcpu.domain(), ARGUMENTS + 4)))
}

/// `vcpu`, which runs, polls a port without a timeout, as a lock's waiter does.
fn sleep_on(sim: &mut Sim, vcpu: &Ref, port: Port) {
    const PORTS: u64 = ARGUMENTS + 64;
    testing::set_cpu(vcpu.sched.cpu().0);
    let poll = abi::Poll { ports: GuestHandle::new(PORTS), nr_ports: 1, pad: 0, timeout: 0 };
    testing::poke(&sim.hv, vcpu.domain(), PORTS, &port.0.to_le_bytes());
    testing::poke(&sim.hv, vcpu.domain(), ARGUMENTS, poll.as_bytes());
    let call = [u64::from(abi::POLL), ARGUMENTS, 0, 0, 0];
    assert_eq!(testing::hypercall(&sim.hv, vcpu, hypercall::SCHED_OP, call), 0);
    assert!(vcpu.sched.state().is_blocked());
    sim.settle_all();
}
