//! Ends of every kind on the fake machine, by the loop that a real one runs.

use std::string::ToString;
use std::vec::Vec;

use shared_abi::trace_stream::{DomainEnd, Kind};
use shared_abi::xen::{DomId, Gfn, Port};
use shared_abi::{event_channel as evtchn_abi, hypercall as number, vcpu as vcpu_abi};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::build::image::elf64;
use crate::domain::DomainConfig;
use crate::heap::Ledger;
use crate::machine::CpuId;
use crate::testing::{self, FakeMachine, hypercall, poke, set_cpu, vcpu};
use crate::vcpu::Interruptibility;

type Hv = Hypervisor<FakeMachine>;
type Ref = VcpuRef<FakeMachine>;

const MIB: u64 = 1 << 20;
const FREE: Interruptibility = Interruptibility { interrupts: true, nmi: true, occupied: false };

/// A machine's CPUs, each with the vCPU whose context it holds.
struct Cpus {
    hv: Hv,
    loaded: Vec<Option<Ref>>,
    /// The books before there was any domain.
    before: (u64, Ledger),
}

fn books(hv: &Hv) -> (u64, Ledger) {
    let ledger = hv.heap.ledger();
    assert!(ledger.adds_up());
    (ledger.free + ledger.scrubbing, Ledger { free: 0, scrubbing: 0, ..ledger })
}

fn config(name: &str, mib: u64, vcpus: u32) -> DomainConfig {
    DomainConfig {
        name: name.to_string(),
        memory: mib * MIB,
        max_memory: 2 * mib * MIB,
        vcpus,
        weight: 256,
        cap: 0,
        tmem: Default::default(),
        privileged: false,
        on_reboot: OnReboot::Destroy,
        arguments: "".to_string(),
        kernel: elf64(0x10_0000, b"code", 0x1000, 0x10_0000).leak(),
        ramdisk: None,
    }
}

impl Cpus {
    fn new(cpus: u16, mib: u64) -> Self {
        let hv = testing::hypervisor(cpus, mib << 8);
        let before = books(&hv);
        Self { hv, loaded: (0..cpus).map(|_| None).collect(), before }
    }

    /// Builds and starts a domain.
    fn start(&self, config: DomainConfig) -> Arc<Domain<FakeMachine>> {
        let domain = self.hv.build_domain(config).unwrap();
        self.hv.start_domain(&domain).unwrap();
        domain
    }

    /// One turn of CPU `cpu`'s loop, up to where it would enter a guest or halt. Whether it would halt.
    fn turn(&mut self, cpu: u16) -> bool {
        set_cpu(cpu);
        let (hv, slot) = (&self.hv, usize::from(cpu));
        let per_cpu = hv.cpu();
        if hv.machine.armed(CpuId(cpu)).is_some_and(|at| at <= hv.machine.now()) {
            hv.machine.arm_timer(None);
            per_cpu.raise(CpuAttention::TIMER);
        }
        per_cpu.withdraw(CpuAttention::KICK);
        if per_cpu.attention().contains(CpuAttention::TIMER) {
            hv.on_timer();
        }
        if self.loaded[slot].as_ref().is_none_or(|vcpu| hv.must_schedule(vcpu)) {
            let next = hv.schedule();
            if next != self.loaded[slot] {
                if let Some(old) = self.loaded[slot].take() {
                    hv.context_saved(&old);
                }
                self.loaded[slot] = next;
            }
        }
        if let Some(vcpu) = &self.loaded[slot] {
            // It would enter now: a fresh state is taken up.
            hv.prepare_entry(vcpu, FREE);
        }
        let idle = self.loaded[slot].is_none() && !hv.background_work() && per_cpu.attention().is_empty();
        set_cpu(0);
        idle
    }

    /// All CPUs in turn until all of them halt.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let idle = (0..self.loaded.len() as u16).map(|cpu| self.turn(cpu)).filter(|idle| *idle).count();
            if idle == self.loaded.len() {
                return;
            }
        }
        panic!("the machine does not come to rest");
    }

    /// All domains have ended with this status, and nothing is left of them.
    fn assert_over(&self, status: u8) {
        self.hv.open();
        assert_eq!(self.hv.all_ended(), Some(status));
        assert_eq!(books(&self.hv), self.before);
        assert_eq!(self.hv.each_domain().count(), 0);
        assert_eq!(self.hv.endings.load(Ordering::SeqCst), 0);
        let table = self.hv.domain_table.lock();
        assert_eq!((table.alive, table.taken), (0, 0));
        for id in (0..128).map(DomId) {
            let account = self.hv.heap.account(id);
            assert_eq!((account.current(), account.maximum(), self.hv.heap.claimed_by(id)), (0, 0, 0));
        }
    }

    /// Id and reason of each end so far.
    fn ends(&self) -> Vec<(u16, u16)> {
        let ends = self.hv.machine.traced_of(Kind::DOMAIN_END.0);
        ends.iter()
            .map(|record| DomainEnd::read_from_bytes(record).unwrap())
            .map(|end| (end.domid.0, end.reason))
            .collect()
    }
}

/// Runs one domain of two vCPUs on two CPUs, ends it by `end`, and expects this reason and status.
fn ends_by(end: impl Fn(&Hv, &Arc<Domain<FakeMachine>>), reason: u16, status: u8) {
    let mut cpus = Cpus::new(2, 32);
    let domain = cpus.start(config("one", 8, 2));
    sched::set_up(&cpus.hv, &vcpu(&domain, 1));
    cpus.turn(0);
    cpus.turn(1);
    assert!(cpus.loaded.iter().all(Option::is_some), "both run");
    end(&cpus.hv, &domain);
    assert_eq!(domain.lifecycle.state(), State::Ending);
    assert_eq!(domain.lifecycle.reason(), u32::from(reason));
    cpus.settle();
    assert_eq!(domain.lifecycle.state(), State::Gone);
    assert_eq!(cpus.ends(), [(1, reason)]);
    drop(domain);
    cpus.assert_over(status);
}

#[test]
fn each_way_to_end_has_its_reason_and_status() {
    let shut = |reason| move |hv: &Hv, domain: &Arc<Domain<FakeMachine>>| shutdown(hv, domain, reason);
    ends_by(shut(0), 0, STATUS_OK);
    ends_by(shut(1), 1, STATUS_OK);
    ends_by(shut(3), 3, STATUS_CRASHED);
    ends_by(shut(4), 4, STATUS_CRASHED);
    ends_by(shut(u32::MAX), 0xff, STATUS_CRASHED);
    ends_by(|hv, domain| triple_fault(hv, &vcpu(domain, 1)), REASON_TRIPLE_FAULT, STATUS_CRASHED);
    ends_by(|hv, domain| crash(hv, domain, format_args!("a test")), 3, STATUS_CRASHED);
    ends_by(destroy, REASON_DESTROYED, STATUS_OK);
    // A reason set beforehand is the one that counts, as on Xen.
    ends_by(
        |hv, domain| {
            domain.sched.shutdown_reason(3);
            shutdown(hv, domain, 0);
        },
        3,
        STATUS_CRASHED,
    );
}

#[test]
fn halting_all_processors_with_interrupts_off_is_a_power_off() {
    ends_by(
        |hv, domain| {
            for id in [1, 0] {
                let vcpu = vcpu(domain, id);
                set_cpu(vcpu.sched.cpu().0);
                hv.halt(&vcpu, false);
            }
            set_cpu(0);
        },
        0,
        STATUS_OK,
    );
}

#[test]
fn the_first_end_counts() {
    ends_by(
        |hv, domain| {
            shutdown(hv, domain, 0);
            shutdown(hv, domain, 3);
            destroy(hv, domain);
            triple_fault(hv, &vcpu(domain, 0));
            assert_eq!(hv.endings.load(Ordering::SeqCst), 1);
        },
        0,
        STATUS_OK,
    );
}

#[test]
fn the_machine_is_not_over_before_it_began() {
    let cpus = Cpus::new(1, 32);
    assert_eq!(cpus.hv.all_ended(), None, "nothing has been started yet");
    cpus.assert_over(STATUS_OK);
}

#[test]
fn an_end_is_not_over_before_the_memory_is_back() {
    let mut cpus = Cpus::new(1, 32);
    cpus.hv.open();
    let domain = cpus.start(config("one", 8, 1));
    cpus.turn(0);
    assert_eq!(cpus.hv.all_ended(), None);
    shutdown(&cpus.hv, &domain, 0);
    while domain.memory.current() != 0 {
        assert_eq!(cpus.hv.all_ended(), None);
        cpus.turn(0);
    }
    cpus.settle();
    cpus.assert_over(STATUS_OK);
}

#[test]
fn a_reboot_builds_the_domain_again() {
    let mut cpus = Cpus::new(2, 32);
    // Half of all memory: it must be back before there can be a new one.
    let domain = cpus.start(DomainConfig { on_reboot: OnReboot::Restart, ..config("phoenix", 20, 2) });
    for round in 1..=5_u16 {
        cpus.turn(0);
        cpus.turn(1);
        let domain = cpus.hv.find_domain(DomId(round)).expect("the domain of this round");
        assert_eq!((domain.config.name.as_str(), domain.memory.current()), ("phoenix", 20 << 8));
        poke(&cpus.hv, &domain, 0x40_0000, b"what the last one left");
        shutdown(&cpus.hv, &domain, SHUTDOWN_REBOOT);
        for _ in 0..2000 {
            cpus.turn(0);
            cpus.turn(1);
        }
        assert_eq!(cpus.ends().len(), usize::from(round));
        let reborn = cpus.hv.find_domain(DomId(round + 1)).expect("the next one");
        assert!(reborn.lifecycle.is_running());
        assert_eq!(testing::peek::<22>(&cpus.hv, &reborn, 0x40_0000), [0; 22]);
        assert!(cpus.loaded.iter().flatten().any(|vcpu| vcpu.domain().id == reborn.id), "it runs");
    }
    drop(domain);
    let last = cpus.hv.find_domain(DomId(6)).unwrap();
    shutdown(&cpus.hv, &last, 0);
    drop(last);
    cpus.settle();
    cpus.assert_over(STATUS_OK);
}

#[test]
fn a_rebuild_is_made_of_small_steps() {
    let mut cpus = Cpus::new(1, 64);
    let ramdisk = Some(std::vec![7_u8; 3 << 20].leak() as &'static [u8]);
    let phoenix = DomainConfig { on_reboot: OnReboot::Restart, ramdisk, ..config("phoenix", 48, 2) };
    let domain = cpus.start(phoenix);
    shutdown(&cpus.hv, &domain, SHUTDOWN_REBOOT);
    drop(domain);
    while cpus.hv.find_domain(DomId(1)).is_some() {
        cpus.hv.teardown_step();
    }
    // The old one is gone; nothing of the new one is there, but its memory is promised to it.
    assert_eq!((cpus.hv.heap.ledger().domains, cpus.hv.heap.ledger().claimed), (0, 48 << 8));
    assert_eq!(cpus.hv.all_ended(), None);
    let mut steps = 0;
    while cpus.hv.endings.load(Ordering::SeqCst) != 0 {
        let before = cpus.hv.heap.ledger();
        cpus.hv.teardown_step();
        let after = cpus.hv.heap.ledger();
        assert!(after.domains - before.domains <= 512, "{} pages at once", after.domains - before.domains);
        let cleared = before.scrubbing - after.scrubbing;
        assert!(cleared <= 512, "{cleared} pages cleared at once");
        steps += 1;
    }
    assert!(steps > 48 / 2 + 3 * 4, "{steps} steps");
    let reborn = cpus.hv.find_domain(DomId(2)).expect("the next one");
    assert!(reborn.lifecycle.is_running() && reborn.memory.current() == 48 << 8);
    shutdown(&cpus.hv, &reborn, 0);
    drop(reborn);
    cpus.settle();
    cpus.assert_over(STATUS_OK);
}

#[test]
fn a_reboot_without_memory_is_a_crash_that_is_reported() {
    let mut cpus = Cpus::new(1, 32);
    let domain = cpus.start(DomainConfig { on_reboot: OnReboot::Restart, ..config("unlucky", 20, 1) });
    cpus.turn(0);
    // In small pages, so that its end takes a while.
    for gfn in (5..20 << 8).step_by(512) {
        domain.memory.unmap_page(&cpus.hv, Gfn(gfn)).unwrap();
    }
    shutdown(&cpus.hv, &domain, SHUTDOWN_REBOOT);
    while domain.memory.current() > 1024 {
        cpus.turn(0);
    }
    assert_eq!(domain.lifecycle.state(), State::Ending);
    let other = cpus.start(config("quicker", 14, 1));
    drop(domain);
    for _ in 0..1000 {
        // The other one keeps the CPU busy.
        cpus.hv.machine.advance(TICK);
        cpus.turn(0);
    }
    let logged = cpus.hv.machine.logged.lock().unwrap().clone();
    assert!(
        logged.iter().any(|(level, line)| *level == Level::Error && line.contains("unlucky: not restarted: memory"))
    );
    assert!(other.lifecycle.is_running());
    shutdown(&cpus.hv, &other, 0);
    drop(other);
    cpus.settle();
    cpus.assert_over(STATUS_CRASHED);
}

#[test]
fn nothing_is_freed_while_another_cpu_runs_the_domain() {
    let mut cpus = Cpus::new(2, 32);
    let domain = cpus.start(config("one", 8, 2));
    sched::set_up(&cpus.hv, &vcpu(&domain, 1));
    cpus.turn(0);
    cpus.turn(1);
    // CPU 1 is in the guest; CPU 0 destroys the domain.
    cpus.hv.cpus[1].enter_guest(domain.id);
    let kicks = cpus.hv.machine.kicked(CpuId(1));
    destroy(&cpus.hv, &domain);
    assert!(cpus.hv.machine.kicked(CpuId(1)) > kicks, "it is called out");
    let pages = domain.memory.current();
    for _ in 0..50 {
        cpus.turn(0);
        cpus.hv.machine.advance(TICK);
    }
    assert_eq!(domain.memory.current(), pages);
    assert_eq!(cpus.ends(), []);
    // It leaves the guest, but still holds the vCPU's context.
    cpus.hv.cpus[1].leave_guest();
    cpus.turn(0);
    assert_eq!(domain.memory.current(), pages);
    set_cpu(1);
    assert!(cpus.hv.schedule().is_none());
    set_cpu(0);
    cpus.turn(0);
    assert_eq!(domain.memory.current(), pages, "not before it is saved");
    cpus.hv.context_saved(&cpus.loaded[1].take().unwrap());
    drop(domain);
    cpus.settle();
    cpus.assert_over(STATUS_OK);
}

/// A domain ends beside one that never stops: on one CPU, and on two.
#[test]
fn a_busy_machine_takes_domains_apart_too() {
    for count in [1, 2] {
        let mut cpus = Cpus::new(count, 64);
        let spinner = cpus.start(config("spinner", 8, u32::from(count)));
        for id in 0..u32::from(count) {
            sched::set_up(&cpus.hv, &vcpu(&spinner, id));
        }
        let victim = cpus.start(config("victim", 24, 2));
        for cpu in 0..count {
            cpus.turn(cpu);
        }
        destroy(&cpus.hv, &victim);
        let start = cpus.hv.machine.now();
        while victim.lifecycle.state() != State::Gone {
            assert!(cpus.hv.machine.now() - start < 1000 * TICK, "it takes for ever");
            // Nobody looks unless a timer fires.
            let next = (0..count).filter_map(|cpu| cpus.hv.machine.armed(CpuId(cpu))).min();
            let own = cpus.hv.cpus[0].attention().contains(CpuAttention::TIMER);
            assert!(next.is_some() || own, "nothing will ever come of it");
            cpus.hv.machine.set_now(next.unwrap_or(0).max(cpus.hv.machine.now()));
            for cpu in 0..count {
                assert!(!cpus.turn(cpu));
            }
        }
        let took = (cpus.hv.machine.now() - start) / TICK;
        assert!(took < 200, "{took} ms for 24 MiB");
        assert_eq!(cpus.ends(), [(victim.id.0, REASON_DESTROYED)]);
        drop(victim);
        shutdown(&cpus.hv, &spinner, 0);
        drop(spinner);
        cpus.settle();
        cpus.assert_over(STATUS_OK);
    }
}

/// The only CPU runs something else, with nothing queued and no timer set: the end itself must make it look.
#[test]
fn an_end_is_noticed_by_a_cpu_that_expects_nothing() {
    let mut cpus = Cpus::new(1, 64);
    let victim = cpus.start(config("victim", 8, 1));
    cpus.turn(0);
    sched::block(&cpus.hv, &vcpu(&victim, 0));
    let runner = cpus.start(config("runner", 8, 1));
    for _ in 0..10 {
        cpus.hv.machine.advance(1000 * TICK);
        cpus.turn(0);
    }
    assert_eq!(cpus.hv.machine.armed(CpuId(0)), None);
    assert!(cpus.loaded[0] == Some(vcpu(&runner, 0)));
    destroy(&cpus.hv, &victim);
    assert!(!cpus.hv.cpus[0].attention().is_empty());
    cpus.turn(0);
    assert!(cpus.hv.machine.armed(CpuId(0)).is_some_and(|at| at <= cpus.hv.machine.now() + TICK));
    drop(victim);
    shutdown(&cpus.hv, &runner, 0);
    drop(runner);
    cpus.settle();
    cpus.assert_over(STATUS_OK);
}

/// The CPU that learns of the end stays busy, the other one sleeps: it must be woken.
#[test]
fn sleeping_cpus_are_woken_for_the_work() {
    let mut cpus = Cpus::new(2, 64);
    let governor = cpus.start(config("governor", 8, 1));
    let victim = cpus.start(config("victim", 8, 1));
    while !(0..2).all(|cpu| {
        cpus.turn(cpu);
        cpus.loaded[usize::from(cpu)].is_some()
    }) {}
    let sleeper = cpus.loaded.iter().position(|loaded| loaded.as_ref().is_some_and(|v| v.domain().id == victim.id));
    let sleeper = sleeper.unwrap() as u16;
    set_cpu(sleeper);
    sched::block(&cpus.hv, &vcpu(&victim, 0));
    while !cpus.turn(sleeper) {}
    let kicks = cpus.hv.machine.kicked(CpuId(sleeper));
    set_cpu(1 - sleeper);
    destroy(&cpus.hv, &victim);
    assert!(cpus.hv.machine.kicked(CpuId(sleeper)) > kicks);
    drop(victim);
    while !cpus.turn(sleeper) {}
    assert_eq!(cpus.hv.each_domain().count(), 1);
    shutdown(&cpus.hv, &governor, 0);
    drop(governor);
    cpus.settle();
    cpus.assert_over(STATUS_OK);
}

#[test]
fn each_step_is_small() {
    let mut cpus = Cpus::new(1, 64);
    let domain = cpus.start(config("one", 32, 64));
    // In the smallest pieces there are: every other page goes.
    for gfn in (1..32 << 8).step_by(2) {
        domain.memory.unmap_page(&cpus.hv, Gfn(gfn)).unwrap();
    }
    for _ in 0..3000 {
        let port = evtchn_abi::AllocUnbound { dom: DomId::SELF, remote_dom: DomId::SELF, port: Port(0) };
        op(&cpus.hv, &domain, number::EVENT_CHANNEL_OP, evtchn_abi::ALLOC_UNBOUND.into(), None, port);
    }
    destroy(&cpus.hv, &domain);
    let work = || cpus.hv.machine.accesses.load(core::sync::atomic::Ordering::Relaxed);
    let (mut steps, mut most) = (0, 0);
    let mut pages = domain.memory.current();
    while cpus.hv.endings.load(Ordering::SeqCst) != 0 {
        let before = work();
        cpus.hv.teardown_step();
        steps += 1;
        most = most.max(work() - before);
        let left = domain.memory.current();
        assert!(pages - left <= 2 * RELEASE_BUDGET as u64, "{} pages at once", pages - left);
        pages = left;
    }
    // A look-up is four loads, a search for the next mapping at most five tables of 512.
    assert!(most < 5_000, "{most} accesses to memory in one step");
    assert!(steps >= (32 << 8) / 2 / RELEASE_BUDGET + 3000 / CLOSE_BUDGET as usize, "{steps} steps");
    drop(domain);
    cpus.settle();
    cpus.assert_over(STATUS_OK);
}

/// A hypercall of vCPU 0's with a structure, put at 0x4000.
fn op<T: IntoBytes + FromBytes + zerocopy::Immutable>(
    hv: &Hv,
    domain: &Arc<Domain<FakeMachine>>,
    call: u32,
    first: u64,
    second: Option<u64>,
    value: T,
) -> T {
    const AT: u64 = 0x4000;
    poke(hv, domain, AT, value.as_bytes());
    let args = match second {
        Some(second) => [first, second, AT, 0, 0],
        None => [first, AT, 0, 0, 0],
    };
    assert_eq!(hypercall(hv, &vcpu(domain, 0), call, args), 0, "call {call} operation {first}");
    T::read_from_bytes(&testing::peek::<64>(hv, domain, AT)[..size_of::<T>()]).unwrap()
}

/// Uses everything that holds on to something: ports to another domain, pinned pages for events, clocks and runstates,
/// timers, a poll.
fn entangle(hv: &Hv, domain: &Arc<Domain<FakeMachine>>, other: &Arc<Domain<FakeMachine>>) {
    let events = number::EVENT_CHANNEL_OP;
    let offer = evtchn_abi::AllocUnbound { dom: DomId::SELF, remote_dom: other.id, port: Port(0) };
    let offer = op(hv, domain, events, evtchn_abi::ALLOC_UNBOUND.into(), None, offer);
    let bind = evtchn_abi::BindInterdomain { remote_dom: domain.id, remote_port: offer.port, ..Default::default() };
    op(hv, other, events, evtchn_abi::BIND_INTERDOMAIN.into(), None, bind);
    let info = vcpu_abi::RegisterVcpuInfo { mfn: Gfn(0x20), ..Default::default() };
    op(hv, domain, number::VCPU_OP, vcpu_abi::REGISTER_VCPU_INFO.into(), Some(0), info);
    op(hv, domain, number::VCPU_OP, vcpu_abi::REGISTER_RUNSTATE_PHYS_AREA.into(), Some(0), 0x2_1000_u64);
    let control = evtchn_abi::InitControl { control_gfn: Gfn(0x22), ..Default::default() };
    op(hv, domain, events, evtchn_abi::INIT_CONTROL.into(), None, control);
    op(hv, domain, events, evtchn_abi::EXPAND_ARRAY.into(), None, evtchn_abi::ExpandArray { array_gfn: Gfn(0x23) });
    let period = vcpu_abi::SetPeriodicTimer { period_ns: 2_000_000 };
    op(hv, domain, number::VCPU_OP, vcpu_abi::SET_PERIODIC_TIMER.into(), Some(0), period);
    let first = vcpu(domain, 0);
    hv.apic_mmio_write(&first, 0xf0, 0x1ff);
    hv.apic_mmio_write(&first, 0x320, 0x2_0031);
    hv.apic_mmio_write(&first, 0x380, 1_000_000);
    // Removed by the guest, kept by the pins.
    for gfn in [0x20, 0x22] {
        domain.memory.unmap_page(hv, Gfn(gfn)).unwrap();
    }
}

#[test]
fn whatever_a_domain_holds_is_let_go() {
    let mut cpus = Cpus::new(2, 64);
    let pair = [cpus.start(config("a", 8, 1)), cpus.start(config("b", 8, 1))];
    cpus.turn(0);
    cpus.turn(1);
    entangle(&cpus.hv, &pair[0], &pair[1]);
    entangle(&cpus.hv, &pair[1], &pair[0]);
    let [a, b] = pair;
    destroy(&cpus.hv, &a);
    drop(a);
    for _ in 0..500 {
        cpus.hv.machine.advance(TICK);
        cpus.turn(0);
        cpus.turn(1);
    }
    assert_eq!(cpus.ends(), [(1, REASON_DESTROYED)]);
    assert!(cpus.hv.find_domain(DomId(1)).is_none() && b.lifecycle.is_running());
    shutdown(&cpus.hv, &b, 0);
    drop(b);
    cpus.settle();
    cpus.assert_over(STATUS_OK);
}

/// Several CPUs take many domains apart at once, some of which are built again meanwhile.
#[test]
fn cpus_share_the_work_of_many_ends() {
    let cpus = Cpus::new(2, 128);
    let hv = &cpus.hv;
    for index in 0..12 {
        let on_reboot = if index % 3 == 0 { OnReboot::Restart } else { OnReboot::Destroy };
        let domain = cpus.start(DomainConfig { on_reboot, ..config("many", 4, 2) });
        shutdown(hv, &domain, if index % 2 == 0 { SHUTDOWN_REBOOT } else { 0 });
    }
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            scope.spawn(move || {
                set_cpu(cpu);
                while hv.endings.load(Ordering::SeqCst) != 0 {
                    hv.background_work();
                }
            });
        }
    });
    // Of the six that asked for a reboot two were to be built again.
    let reborn: Vec<_> = hv.each_domain().collect();
    assert_eq!((cpus.ends().len(), reborn.len()), (12, 2));
    reborn.iter().for_each(|domain| destroy(hv, domain));
    drop(reborn);
    while hv.background_work() {}
    cpus.assert_over(STATUS_OK);
}
