//! The scheduler, timers and runstates on a fake machine: several CPUs, taken in turn, run the machine's loop as the
//! scheduler's contract describes it, over vCPUs that compute, sleep and yield. Time passes only when all CPUs are busy
//! with guests or halted.

#[path = "../src/testing.rs"]
mod testing;

use std::collections::HashMap;
use std::sync::Arc;

use ebb_core::domain::Domain;
use ebb_core::hypervisor::{CpuAttention, Hypervisor};
use ebb_core::machine::{CpuId, Machine};
use ebb_core::sched::{self, state::Placement};
use ebb_core::timer::{self, Kind};
use ebb_core::vcpu::VcpuRef;
use proptest::prelude::*;
use shared_abi::sched as abi;
use shared_abi::xen::{DomId, hypercall};
use testing::FakeMachine;
use zerocopy::IntoBytes;

type Hv = Hypervisor<FakeMachine>;
type Ref = VcpuRef<FakeMachine>;
type Name = (DomId, u32);

/// Where a guest keeps its hypercall arguments.
const ARGUMENTS: u64 = 0x1000;
const MS: u64 = 1_000_000;

/// What a vCPU does while it has a CPU.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Computes for ever.
    Hog,
    /// Computes for the first time, then sleeps for the second (ns).
    Sleeper(u64, u64),
    /// Computes for the time, then yields.
    Yielder(u64),
}

/// A vCPU's part of the simulation.
struct Guest {
    behaviour: Behaviour,
    /// Run time until it acts.
    left: u64,
    /// When it should have woken up.
    wakes_at: Option<u64>,
    /// The longest it waited for a CPU after a wake-up.
    worst_latency: u64,
    ran: u64,
}

struct Sim {
    hv: Hv,
    loaded: Vec<Option<Ref>>,
    guests: HashMap<Name, Guest>,
    started: u64,
}

fn name(vcpu: &Ref) -> Name {
    (vcpu.domain().id, vcpu.id.0)
}

impl Sim {
    fn new(cpus: u16) -> Self {
        let hv = testing::hypervisor(cpus, 4096);
        let started = hv.machine.now();
        Self { hv, loaded: (0..cpus).map(|_| None).collect(), guests: HashMap::new(), started }
    }

    /// A domain of this weight with a vCPU for each behaviour, all up.
    fn add(&mut self, id: u16, weight: u16, behaviours: &[Behaviour]) -> Arc<Domain<FakeMachine>> {
        let mut config = testing::domain_config(&format!("test{id}"), 4, 8, behaviours.len() as u32);
        config.weight = weight;
        let domain = testing::domain_of(&self.hv, id, config);
        assert!(sched::admit(&self.hv, &domain));
        for (index, behaviour) in behaviours.iter().enumerate() {
            let vcpu = testing::vcpu(&domain, index as u32);
            let guest =
                Guest { behaviour: *behaviour, left: first_run(*behaviour), wakes_at: None, worst_latency: 0, ran: 0 };
            self.guests.insert(name(&vcpu), guest);
            sched::set_up(&self.hv, &vcpu);
        }
        domain
    }

    /// Runs CPU `cpu`'s loop until it would enter a guest or halt. Whether it had anything to do.
    fn settle(&mut self, cpu: u16) -> bool {
        testing::set_cpu(cpu);
        let per_cpu = self.hv.cpu();
        let mut worked = false;
        if self.hv.machine.armed(CpuId(cpu)).is_some_and(|at| at <= self.hv.machine.now()) {
            self.hv.machine.arm_timer(None);
            per_cpu.raise(CpuAttention::TIMER);
        }
        per_cpu.withdraw(CpuAttention::KICK);
        if per_cpu.attention().contains(CpuAttention::TIMER) {
            self.hv.on_timer();
            worked = true;
        }
        let slot = usize::from(cpu);
        let must = match &self.loaded[slot] {
            Some(vcpu) => self.hv.must_schedule(vcpu),
            None => per_cpu.attention().contains(CpuAttention::RESCHEDULE),
        };
        if must {
            worked = true;
            let next = self.hv.schedule();
            if next != self.loaded[slot] {
                if let Some(old) = self.loaded[slot].take() {
                    self.hv.context_saved(&old);
                }
                if let Some(next) = &next {
                    self.load(next);
                }
                self.loaded[slot] = next;
            }
        }
        worked
    }

    /// A CPU takes a vCPU: no other may have it.
    fn load(&mut self, vcpu: &Ref) {
        let holders = self.loaded.iter().flatten().filter(|other| *other == vcpu).count();
        assert_eq!(holders, 0, "{:?} is on another CPU", name(vcpu));
        let guest = self.guests.get_mut(&name(vcpu)).expect("a guest");
        if let Some(at) = guest.wakes_at.take() {
            let latency = self.hv.machine.now().saturating_sub(at);
            guest.worst_latency = guest.worst_latency.max(latency);
        }
    }

    /// All CPUs, until none has anything to do.
    fn settle_all(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "the CPUs do not come to rest");
            let mut worked = false;
            for cpu in 0..self.loaded.len() as u16 {
                worked |= self.settle(cpu);
            }
            if !worked {
                break;
            }
        }
        self.check();
    }

    /// What must hold whenever all CPUs are in a guest or halted.
    fn check(&self) {
        let now = self.hv.machine.now();
        let mut waiting = 0;
        for domain in self.hv.each_domain() {
            let mut wanting = 0;
            for vcpu in sched::each_vcpu(&domain) {
                let word = vcpu.sched.state();
                let here = self.loaded.iter().flatten().filter(|loaded| **loaded == vcpu).count();
                assert_eq!(here, usize::from(word.placement() == Placement::Running), "{:?} {word:?}", name(&vcpu));
                if word.is_runnable() {
                    assert_ne!(word.placement(), Placement::Off, "{:?} is forgotten", name(&vcpu));
                    waiting += usize::from(word.placement() == Placement::Queued);
                }
                wanting += u32::from(word.placement() != Placement::Off);
                let info = vcpu.runstate.info(now);
                assert_eq!(info.time.iter().sum::<u64>(), now - self.started, "runstates of {:?}", name(&vcpu));
                assert_eq!(info.state, ebb_core::runstate::of(word));
            }
            assert_eq!(domain.sched.wanting(), wanting);
        }
        let idle = self.loaded.iter().filter(|loaded| loaded.is_none()).count();
        assert!(idle == 0 || waiting == 0 || self.restricted(), "{waiting} vCPUs wait and {idle} CPUs idle");
    }

    /// Whether affinities may keep a vCPU waiting although a CPU is idle.
    fn restricted(&self) -> bool {
        let cpus = self.loaded.len() as u16;
        let all = |vcpu: Ref| (0..cpus).all(|cpu| vcpu.sched.may_run_on(CpuId(cpu)));
        !self.hv.each_domain().all(|domain| sched::each_vcpu(&domain).all(all))
    }

    /// When something happens next: a timer, or a guest's act.
    fn next_event(&self) -> u64 {
        let now = self.hv.machine.now();
        let timers = (0..self.loaded.len() as u16).filter_map(|cpu| self.hv.machine.armed(CpuId(cpu)));
        let acts = self.loaded.iter().flatten().map(|vcpu| now.saturating_add(self.guests[&name(vcpu)].left));
        timers.chain(acts).min().unwrap_or(u64::MAX).max(now + 1)
    }

    /// Runs until the clock shows `end`.
    fn run_until(&mut self, end: u64) {
        self.settle_all();
        while self.hv.machine.now() < end {
            let now = self.hv.machine.now();
            let next = self.next_event().min(end);
            self.hv.machine.set_now(next);
            for slot in 0..self.loaded.len() {
                let Some(vcpu) = self.loaded[slot].clone() else { continue };
                let guest = self.guests.get_mut(&name(&vcpu)).expect("a guest");
                guest.ran += next - now;
                guest.left = guest.left.saturating_sub(next - now);
                if guest.left == 0 {
                    testing::set_cpu(slot as u16);
                    self.act(&vcpu);
                }
            }
            self.settle_all();
        }
    }

    fn run(&mut self, time: u64) {
        self.run_until(self.hv.machine.now() + time);
    }

    /// The guest on this CPU does what it does when its time is up.
    fn act(&mut self, vcpu: &Ref) {
        let guest = self.guests.get_mut(&name(vcpu)).expect("a guest");
        guest.left = first_run(guest.behaviour);
        match guest.behaviour {
            Behaviour::Hog => {}
            Behaviour::Sleeper(_, time) => {
                let timeout = self.hv.machine.now() + time;
                guest.wakes_at = Some(timeout);
                let poll = abi::Poll { timeout, ..abi::Poll::default() };
                testing::poke(&self.hv, vcpu.domain(), ARGUMENTS, poll.as_bytes());
                assert_eq!(sched_op(&self.hv, vcpu, abi::POLL), 0);
            }
            Behaviour::Yielder(_) => assert_eq!(sched_op(&self.hv, vcpu, abi::YIELD), 0),
        }
    }

    /// A domain's run time.
    fn ran(&self, domain: &Arc<Domain<FakeMachine>>) -> u64 {
        self.guests.iter().filter(|((id, _), _)| *id == domain.id).map(|(_, guest)| guest.ran).sum()
    }
}

fn first_run(behaviour: Behaviour) -> u64 {
    match behaviour {
        Behaviour::Hog => u64::MAX,
        Behaviour::Sleeper(time, _) | Behaviour::Yielder(time) => time,
    }
}

fn sched_op(hv: &Hv, vcpu: &Ref, operation: u32) -> i64 {
    testing::hypercall(hv, vcpu, hypercall::SCHED_OP, [u64::from(operation), ARGUMENTS, 0, 0, 0])
}

/// Asserts that `part` of `whole` is `percent` within `slack` (percent points).
#[track_caller]
fn assert_share(part: u64, whole: u64, percent: u64, slack: u64) {
    let found = part * 1000 / whole;
    let (low, high) = ((percent * 10).saturating_sub(slack * 10), (percent + slack) * 10);
    assert!((low..=high).contains(&found), "{found} per mille instead of {percent} per cent");
}

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

/// What somebody does to the vCPUs from outside.
#[derive(Clone, Debug)]
enum Meddling {
    Pause(usize),
    Unpause(usize),
    Wake(usize),
    Weight(usize, u16),
    Affinity(usize, u64),
    Run(u64),
}

fn meddling() -> impl Strategy<Value = (u16, Meddling)> {
    let one = prop_oneof![
        any::<usize>().prop_map(Meddling::Pause),
        any::<usize>().prop_map(Meddling::Unpause),
        any::<usize>().prop_map(Meddling::Wake),
        (any::<usize>(), any::<u16>()).prop_map(|(which, weight)| Meddling::Weight(which, weight)),
        (any::<usize>(), 1u64..16).prop_map(|(which, mask)| Meddling::Affinity(which, mask)),
        (1u64..50 * MS).prop_map(Meddling::Run),
    ];
    (0u16..4, one)
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        Just(Behaviour::Hog),
        (50_000u64..20 * MS, 1u64..40 * MS).prop_map(|(run, sleep)| Behaviour::Sleeper(run, sleep)),
        (100_000u64..5 * MS).prop_map(Behaviour::Yielder),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random guests and random meddling, from random CPUs. `check` sees to the invariants all along; at the end
    /// everything that may run does, and nothing has starved.
    #[test]
    fn nothing_runs_twice_or_starves(
        cpus in 1u16..=4,
        domains in proptest::collection::vec((1u16..2000, proptest::collection::vec(behaviour(), 1..4)), 1..4),
        steps in proptest::collection::vec(meddling(), 0..40),
    ) {
        let mut sim = Sim::new(cpus);
        let mut vcpus = Vec::new();
        for (index, (weight, behaviours)) in domains.iter().enumerate() {
            let domain = sim.add(index as u16 + 1, *weight, behaviours);
            vcpus.extend(sched::each_vcpu(&domain));
        }
        let mut pauses = vec![0; vcpus.len()];
        for (cpu, step) in steps {
            testing::set_cpu(cpu % cpus);
            match step {
                Meddling::Pause(which) => {
                    let which = which % vcpus.len();
                    pauses[which] += 1;
                    sched::pause(&sim.hv, &vcpus[which]);
                }
                Meddling::Unpause(which) => {
                    let which = which % vcpus.len();
                    if pauses[which] > 0 {
                        pauses[which] -= 1;
                        sched::unpause(&sim.hv, &vcpus[which]);
                    }
                }
                Meddling::Wake(which) => sched::wake(&sim.hv, &vcpus[which % vcpus.len()]),
                Meddling::Weight(which, weight) => vcpus[which % vcpus.len()].domain().sched.set_weight(weight.max(100)),
                Meddling::Affinity(which, mask) => {
                    sched::set_affinity(&sim.hv, &vcpus[which % vcpus.len()], [mask, 0, 0, 0]);
                }
                Meddling::Run(time) => sim.run(time),
            }
        }
        for (vcpu, pauses) in vcpus.iter().zip(pauses) {
            (0..pauses).for_each(|_| sched::unpause(&sim.hv, vcpu));
            vcpu.domain().sched.set_weight(256);
            sched::set_affinity(&sim.hv, vcpu, [u64::MAX; 4]);
        }
        let before: Vec<u64> = vcpus.iter().map(|vcpu| sim.guests[&name(vcpu)].ran).collect();
        sim.run(5_000 * MS);
        for (vcpu, before) in vcpus.iter().zip(before) {
            let guest = &sim.guests[&name(vcpu)];
            prop_assert!(guest.ran > before, "{:?} ({:?}) starves", name(vcpu), guest.behaviour);
        }
    }

    /// Timers of several vCPUs, set and stopped from several CPUs: each that is due expires, none that is not does.
    #[test]
    fn timers_expire_when_they_are_due(
        steps in proptest::collection::vec((0u16..3, 0u32..5, 0usize..3, any::<bool>(), 0u64..5 * MS), 1..120),
    ) {
        const KINDS: [Kind; 3] = [Kind::Singleshot, Kind::Poll, Kind::Lapic];
        let hv = testing::hypervisor(3, 1024);
        let domain = testing::domain(&hv, 1, 4, 5);
        prop_assert!(sched::admit(&hv, &domain));
        let mut model: HashMap<(u32, usize), u64> = HashMap::new();
        for (cpu, vcpu, kind, sets, time) in steps {
            testing::set_cpu(cpu);
            let reference = testing::vcpu(&domain, vcpu);
            if sets {
                let deadline = (time % 7 != 0).then(|| hv.machine.now() + time);
                timer::set(&hv, &reference, KINDS[kind], deadline);
                match deadline {
                    Some(deadline) => model.insert((vcpu, kind), deadline),
                    None => model.remove(&(vcpu, kind)),
                };
            } else {
                hv.machine.advance(time);
                // Twice the least distance: what was due at once has fired, too.
                for _ in 0..2 {
                    fire(&hv, 3);
                    hv.machine.advance(1_000);
                }
                fire(&hv, 3);
                let now = hv.machine.now();
                model.retain(|_, deadline| *deadline > now);
            }
            for vcpu in 0..5 {
                for (kind, name) in KINDS.iter().enumerate() {
                    let found = testing::vcpu(&domain, vcpu).timers.deadline(*name);
                    prop_assert_eq!(found, model.get(&(vcpu, kind)).copied());
                }
            }
            // Somebody will look in time.
            let earliest = model.values().min().copied();
            let armed = (0..3).filter_map(|cpu| hv.machine.armed(CpuId(cpu))).min();
            if let Some(earliest) = earliest {
                let due = earliest.max(hv.machine.now() + 1_000);
                prop_assert!(armed.is_some_and(|armed| armed <= due), "{armed:?} for {earliest}");
            }
        }
    }
}

/// Lets the timers that are due fire.
fn fire(hv: &Hv, cpus: u16) {
    for cpu in 0..cpus {
        testing::set_cpu(cpu);
        if hv.machine.armed(CpuId(cpu)).is_some_and(|at| at <= hv.machine.now()) {
            hv.machine.arm_timer(None);
            hv.on_timer();
        }
    }
}

/// Two threads, one of which runs a vCPU that halts with interrupts off, the other of which ends each halt by an NMI.
/// A lost wake-up hangs the first.
#[test]
fn no_wake_up_is_lost_between_threads() {
    const ROUNDS: u64 = 20_000;
    use ebb_core::vcpu::Attention;
    use std::sync::atomic::{AtomicU64, Ordering};
    let hv = testing::hypervisor(2, 1024);
    let domain = testing::domain(&hv, 1, 4, 2);
    assert!(sched::admit(&hv, &domain));
    let vcpu = testing::vcpu(&domain, 0);
    assert!(sched::set_affinity(&hv, &vcpu, [1, 0, 0, 0]));
    // The other one stays runnable, so that the domain does not power itself off.
    let other = testing::vcpu(&domain, 1);
    assert!(sched::set_affinity(&hv, &other, [2, 0, 0, 0]));
    sched::set_up(&hv, &other);
    sched::set_up(&hv, &vcpu);
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            testing::set_cpu(0);
            let mut loaded: Option<Ref> = None;
            while taken.load(Ordering::SeqCst) < ROUNDS {
                if loaded.as_ref().is_none_or(|loaded| hv.must_schedule(loaded)) {
                    let next = hv.schedule();
                    if next != loaded {
                        if let Some(old) = loaded.take() {
                            hv.context_saved(&old);
                        }
                        loaded = next;
                    }
                }
                if let Some(current) = &loaded {
                    if current.attention().contains(Attention::NMI) {
                        current.withdraw(Attention::NMI);
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                    hv.halt(current, false);
                } else {
                    std::thread::yield_now();
                }
            }
        });
        testing::set_cpu(1);
        for round in 0..ROUNDS {
            vcpu.raise(Attention::NMI);
            hv.notify_vcpu(&vcpu);
            let started = std::time::Instant::now();
            while taken.load(Ordering::SeqCst) <= round {
                assert!(started.elapsed().as_secs() < 20, "wake-up {round} is lost: {:?}", vcpu.sched.state());
                std::thread::yield_now();
            }
        }
    });
}
