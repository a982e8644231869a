//! The machine that the tests run: several CPUs, taken in turn, that follow the scheduler's contract, over vCPUs that
//! compute, sleep and yield. Time passes only when all CPUs are busy with guests or halted.

use std::collections::HashMap;
use std::sync::Arc;

use ebb_core::domain::Domain;
use ebb_core::hypervisor::{CpuAttention, Hypervisor};
use ebb_core::machine::{CpuId, Machine};
use ebb_core::sched::{self, state::Placement};
use ebb_core::timer::Kind;
use ebb_core::vcpu::VcpuRef;
use shared_abi::sched as abi;
use shared_abi::xen::{DomId, hypercall};
use zerocopy::IntoBytes;

use crate::testing::{self, FakeMachine};

pub type Hv = Hypervisor<FakeMachine>;
pub type Ref = VcpuRef<FakeMachine>;
pub type Name = (DomId, u32);

/// Where a guest keeps its hypercall arguments.
pub const ARGUMENTS: u64 = 0x1000;
pub const MS: u64 = 1_000_000;

/// What a vCPU does while it has a CPU.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Computes for ever.
    Hog,
    /// Computes for the first time, then sleeps for the second (ns).
    Sleeper(u64, u64),
    /// Computes for the time, then yields.
    Yielder(u64),
    /// Computes for the time, then has a pause exit.
    Spinner(u64),
}

/// A vCPU's part of the simulation.
pub struct Guest {
    pub behaviour: Behaviour,
    /// Run time until it acts.
    pub left: u64,
    /// When it should have woken up.
    pub wakes_at: Option<u64>,
    /// The longest it waited for a CPU after a wake-up.
    pub worst_latency: u64,
    pub ran: u64,
    /// When it was admitted.
    pub born: u64,
}

pub struct Sim {
    pub hv: Hv,
    pub loaded: Vec<Option<Ref>>,
    pub guests: HashMap<Name, Guest>,
}

pub fn name(vcpu: &Ref) -> Name {
    (vcpu.domain().id, vcpu.id.0)
}

impl Sim {
    pub fn new(cpus: u16) -> Self {
        let mut hv = testing::hypervisor(cpus, 4096);
        // Spinners are judged at once, but where a test is about that.
        hv.sched_config.hearing_ns = 0;
        Self { hv, loaded: (0..cpus).map(|_| None).collect(), guests: HashMap::new() }
    }

    /// A domain of this weight with a vCPU for each behaviour, all up.
    pub fn add(&mut self, id: u16, weight: u16, behaviours: &[Behaviour]) -> Arc<Domain<FakeMachine>> {
        let mut config = testing::domain_config(&format!("test{id}"), 4, 8, behaviours.len() as u32);
        config.weight = weight;
        let domain = testing::domain_of(&self.hv, id, config);
        assert!(sched::admit(&self.hv, &domain));
        for (index, behaviour) in behaviours.iter().enumerate() {
            let vcpu = testing::vcpu(&domain, index as u32);
            let guest = Guest {
                behaviour: *behaviour,
                left: first_run(*behaviour),
                wakes_at: None,
                worst_latency: 0,
                ran: 0,
                born: self.hv.machine.now(),
            };
            self.guests.insert(name(&vcpu), guest);
            sched::set_up(&self.hv, &vcpu);
        }
        domain
    }

    /// Runs CPU `cpu`'s loop until it would enter a guest or halt. Whether it had anything to do.
    pub fn settle(&mut self, cpu: u16) -> bool {
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
    pub fn load(&mut self, vcpu: &Ref) {
        let holders = self.loaded.iter().flatten().filter(|other| *other == vcpu).count();
        assert_eq!(holders, 0, "{:?} is on another CPU", name(vcpu));
        let guest = self.guests.get_mut(&name(vcpu)).expect("a guest");
        if let Some(at) = guest.wakes_at.take() {
            let latency = self.hv.machine.now().saturating_sub(at);
            guest.worst_latency = guest.worst_latency.max(latency);
        }
    }

    /// All CPUs, until none has anything to do.
    pub fn settle_all(&mut self) {
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
    pub fn check(&self) {
        let now = self.hv.machine.now();
        let mut waiting = 0;
        for domain in self.hv.each_domain() {
            let mut wanting = 0;
            let funded = testing::vcpu(&domain, 0).timers.deadline(Kind::Budget).is_some();
            for vcpu in sched::each_vcpu(&domain) {
                let word = vcpu.sched.state();
                let here = self.loaded.iter().flatten().filter(|loaded| **loaded == vcpu).count();
                assert_eq!(here, usize::from(word.placement() == Placement::Running), "{:?} {word:?}", name(&vcpu));
                if word.is_runnable() {
                    assert_ne!(word.placement(), Placement::Off, "{:?} is forgotten", name(&vcpu));
                    waiting += usize::from(word.placement() == Placement::Queued);
                }
                assert!(!word.is_parked() || funded || domain.sched.is_closed(), "{:?} stays parked", name(&vcpu));
                wanting += u32::from(word.placement() != Placement::Off);
                let info = vcpu.runstate.info(now);
                let guest = &self.guests[&name(&vcpu)];
                assert_eq!(info.time.iter().sum::<u64>(), now - guest.born, "runstates of {:?}", name(&vcpu));
                assert_eq!(info.state, ebb_core::runstate::of(word));
                assert_eq!(info.time[0], guest.ran, "time that {:?} ran", name(&vcpu));
            }
            assert_eq!(domain.sched.wanting(), wanting);
        }
        let idle = self.loaded.iter().filter(|loaded| loaded.is_none()).count();
        assert!(idle == 0 || waiting == 0 || self.restricted(), "{waiting} vCPUs wait and {idle} CPUs idle");
    }

    /// Whether affinities may keep a vCPU waiting although a CPU is idle.
    pub fn restricted(&self) -> bool {
        let cpus = self.loaded.len() as u16;
        let all = |vcpu: Ref| (0..cpus).all(|cpu| vcpu.sched.may_run_on(CpuId(cpu)));
        !self.hv.each_domain().all(|domain| sched::each_vcpu(&domain).all(all))
    }

    /// When something happens next: a timer, or a guest's act.
    pub fn next_event(&self) -> u64 {
        let now = self.hv.machine.now();
        let timers = (0..self.loaded.len() as u16).filter_map(|cpu| self.hv.machine.armed(CpuId(cpu)));
        let acts = self.loaded.iter().flatten().map(|vcpu| now.saturating_add(self.guests[&name(vcpu)].left));
        timers.chain(acts).min().unwrap_or(u64::MAX).max(now + 1)
    }

    /// Runs until the clock shows `end`.
    pub fn run_until(&mut self, end: u64) {
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

    pub fn run(&mut self, time: u64) {
        self.run_until(self.hv.machine.now() + time);
    }

    /// The guest on this CPU does what it does when its time is up.
    pub fn act(&mut self, vcpu: &Ref) {
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
            Behaviour::Spinner(_) => {
                sched::pause::pause_exit(&self.hv, vcpu);
            }
            Behaviour::Yielder(_) => assert_eq!(sched_op(&self.hv, vcpu, abi::YIELD), 0),
        }
    }

    /// A domain's run time.
    pub fn ran(&self, domain: &Arc<Domain<FakeMachine>>) -> u64 {
        self.guests.iter().filter(|((id, _), _)| *id == domain.id).map(|(_, guest)| guest.ran).sum()
    }
}

pub fn first_run(behaviour: Behaviour) -> u64 {
    match behaviour {
        Behaviour::Hog => u64::MAX,
        Behaviour::Sleeper(time, _) | Behaviour::Yielder(time) | Behaviour::Spinner(time) => time,
    }
}

pub fn sched_op(hv: &Hv, vcpu: &Ref, operation: u32) -> i64 {
    testing::hypercall(hv, vcpu, hypercall::SCHED_OP, [u64::from(operation), ARGUMENTS, 0, 0, 0])
}

/// Asserts that `part` of `whole` is `percent` within `slack` (percent points).
#[track_caller]
pub fn assert_share(part: u64, whole: u64, percent: u64, slack: u64) {
    let found = part * 1000 / whole;
    let (low, high) = ((percent * 10).saturating_sub(slack * 10), (percent + slack) * 10);
    assert!((low..=high).contains(&found), "{found} per mille instead of {percent} per cent");
}
