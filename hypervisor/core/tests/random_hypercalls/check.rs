//! What must hold between any two steps.

use std::sync::atomic::Ordering;

use ebb_core::hypervisor::{CpuAttention, MAX_DOMAINS};
use ebb_core::machine::{CpuId, Machine};
use ebb_core::sched::{self, state::Placement};
use ebb_core::timer::Kind;
use ebb_core::vcpu::{Attention, Injection, VcpuRef};
use ebb_core::{evtchn, runstate};
use shared_abi::xen::{DomId, VcpuId};

use super::Dom;
use super::guest::{self, Known, LINKED, MASKED, PENDING};
use super::testing;
use super::world::{Place, Ref, World, name};

/// The hardware's timer is never set closer than this (nanoseconds).
const TIMER_SLACK: u64 = 1_000;

/// Checks everything.
pub fn check(world: &World) {
    memory(world);
    world.hv.audit_events().unwrap_or_else(|what| panic!("{what}"));
    let held = ebb_core::locks::HELD_RANKS.get().expect("set by the fake machine");
    assert_eq!(held().load(Ordering::SeqCst), 0, "a lock is still held");
    for cpu in 0..world.cpus.len() {
        check_cpu(world, cpu);
    }
    for known in &world.known {
        let domain = known.domain.upgrade().expect("a domain in the table");
        check_domain(world, known, &domain);
    }
}

/// Each frame has one owner, p2ms, records and charges agree (the core's audit), and the ledger is the sum of what all
/// domains there could be have been charged.
fn memory(world: &World) {
    let hv = &world.hv;
    hv.audit_memory().unwrap_or_else(|what| panic!("{what}"));
    let ledger = hv.heap.ledger();
    let charged: u64 = (0..MAX_DOMAINS as u16).map(|id| hv.heap.account(DomId(id)).current()).sum();
    assert_eq!(ledger.domains + ledger.tmem_persistent, charged, "the ledger against the domains' accounts");
    for known in &world.known {
        let claimed = hv.heap.claimed_by(known.id);
        assert!(claimed <= ledger.claimed, "a claim of {claimed} pages in {ledger:?}");
    }
}

fn check_cpu(world: &World, cpu: usize) {
    let hv = &world.hv;
    testing::set_cpu(cpu as u16);
    let current = hv.current();
    let rests = &world.cpus[cpu];
    assert!(current.as_ref() == rests.chosen(), "CPU {cpu} runs another vCPU than it has chosen");
    let attention = hv.cpus[cpu].attention();
    match rests.place {
        Place::Guest { interrupt_window, nmi_window, injected } => {
            let vcpu = rests.loaded.as_ref().expect("a guest to be in");
            assert!(attention.is_empty(), "CPU {cpu} is in a guest and was not kicked for {attention:?}");
            assert!(hv.cpus[cpu].runs_guest_of(vcpu.domain().id));
            assert!(vcpu.sched.state().is_runnable(), "{} runs: {:?}", name(vcpu), vcpu.sched.state());
            let generation = vcpu.domain().memory.translation_generation();
            assert!(!vcpu.translations_are_stale(generation), "{} runs on stale translations", name(vcpu));
            let taken = interrupt_window || matches!(injected, Some(Injection::External(_)));
            let tidy = world.known.iter().any(|known| known.tidy && known.is(vcpu.domain()));
            if tidy && !taken {
                assert!(
                    !evtchn::upcall_deliverable(hv, vcpu.domain(), vcpu),
                    "{} runs and was not told of an event",
                    name(vcpu)
                );
            }
            if !taken {
                assert_eq!(vcpu.lapic.lock().deliverable(), None, "{} was not told of an interrupt", name(vcpu));
            }
            assert!(nmi_window || !vcpu.attention().contains(Attention::NMI), "{} was not told of an NMI", name(vcpu));
        }
        Place::Halted => {
            assert!(attention.is_empty(), "CPU {cpu} is halted and was not kicked for {attention:?}");
            assert!(current.is_none() && hv.cpus[cpu].sched.is_idle());
        }
        Place::Awake => {}
    }
}

fn check_domain(world: &World, known: &Known, domain: &Dom) {
    let mut wanting = 0;
    let mut pollers = 0;
    for vcpu in sched::each_vcpu(domain) {
        let word = vcpu.sched.state();
        wanting += u32::from(word.placement() != Placement::Off);
        pollers += u32::from(word.is_poller());
        check_placement(world, &vcpu);
        check_cap(domain, &vcpu);
        check_sleep(world, known, &vcpu);
        check_times(world, known, &vcpu);
    }
    assert_eq!(domain.sched.wanting(), wanting, "{}: vCPUs that want a CPU", known.id);
    assert_eq!(domain.sched.has_pollers(), pollers != 0, "{}: pollers", known.id);
    if known.tidy && !world.meddled && domain.lifecycle.is_running() {
        if domain.events.uses_fifo() {
            no_fifo_event_is_lost(world, known, domain);
        } else {
            no_event_is_lost(world, domain);
        }
    }
}

/// Where a vCPU is said to be, there it is, and nowhere else.
fn check_placement(world: &World, vcpu: &Ref) {
    let hv = &world.hv;
    let word = vcpu.sched.state();
    let runs = world.cpus.iter().filter(|cpu| cpu.chosen() == Some(vcpu)).count();
    let unsaved = world.cpus.iter().filter(|cpu| cpu.unsaved.as_ref().is_some_and(|(old, _)| old == vcpu)).count();
    let context = format!("{}: {word:?}, runs {runs}, unsaved {unsaved}", name(vcpu));
    match word.placement() {
        Placement::Off => assert!(runs == 0 && unsaved == 0 && !word.is_runnable(), "{context}"),
        Placement::Running => assert!(runs == 1 && unsaved == 0, "{context}"),
        Placement::Saving => assert!(runs == 0 && unsaved == 1, "{context}"),
        Placement::Queued => {
            assert!(runs == 0 && unsaved == 0, "{context}");
            let cpu = vcpu.sched.cpu();
            let per_cpu = &hv.cpus[cpu.index()];
            let called = !per_cpu.attention().is_empty() || world.cpus[cpu.index()].place == Place::Awake;
            let comes = !per_cpu.sched.is_idle() && hv.machine.armed(cpu).is_some();
            // One that may no longer run waits for nothing.
            assert!(called || comes || !word.is_runnable(), "{context}: its CPU will never look");
        }
    }
}

/// Who is parked will be released.
fn check_cap(domain: &Dom, vcpu: &Ref) {
    if vcpu.sched.state().is_parked() && domain.lifecycle.is_running() {
        let first = VcpuRef::new(domain, VcpuId(0)).expect("vCPU 0");
        assert!(first.timers.deadline(Kind::Budget).is_some(), "{}: nobody will release it", name(vcpu));
    }
}

/// Nobody sleeps through what should wake it.
fn check_sleep(world: &World, known: &Known, vcpu: &Ref) {
    let word = vcpu.sched.state();
    if !word.is_blocked() {
        return;
    }
    let hv = &world.hv;
    let attention = vcpu.attention();
    assert!(!attention.contains(Attention::NMI), "{} sleeps through an NMI", name(vcpu));
    assert!(word.is_down() || !attention.contains(Attention::START), "{} sleeps through its start", name(vcpu));
    if word.is_deaf() {
        return;
    }
    // What waited before a poll with interrupts off does not end it.
    let poll = known.polls[vcpu.id.0 as usize].as_ref().filter(|_| word.is_poller());
    let takes_interrupts = !word.is_poller() || poll.is_some_and(|poll| poll.interrupts);
    let interrupt = vcpu.lapic.lock().deliverable();
    assert!(!takes_interrupts || interrupt.is_none(), "{} sleeps through an interrupt", name(vcpu));
    if !known.tidy {
        return;
    }
    let event = evtchn::upcall_deliverable(hv, vcpu.domain(), vcpu);
    assert!(!takes_interrupts || !event, "{} sleeps through an event", name(vcpu));
    if let Some(poll) = poll {
        for port in &poll.ports {
            assert!(!evtchn::port_pending(hv, vcpu.domain(), *port), "{} polls pending port {}", name(vcpu), port.0);
        }
        let bounded = !poll.has_timeout || vcpu.timers.deadline(Kind::Poll).is_some() || word.is_down();
        assert!(bounded, "{} polls without its timeout", name(vcpu));
    }
}

/// A vCPU's times add up to the time there has been, and its timers will fire.
fn check_times(world: &World, known: &Known, vcpu: &Ref) {
    let hv = &world.hv;
    let now = hv.machine.now();
    let info = vcpu.runstate.info(now);
    assert_eq!(info.time.iter().sum::<u64>(), now - known.admitted, "{}: {info:?}", name(vcpu));
    assert_eq!(info.state, runstate::of(vcpu.sched.state()), "{}: {:?}", name(vcpu), vcpu.sched.state());
    let kinds = [Kind::Singleshot, Kind::Periodic, Kind::Poll, Kind::Lapic, Kind::Watchdog0, Kind::Watchdog1];
    let Some((due, kind)) =
        kinds.into_iter().filter_map(|kind| Some((vcpu.timers.deadline(kind)?, kind))).min_by_key(|timer| timer.0)
    else {
        return;
    };
    let due = due.max(now).saturating_add(TIMER_SLACK);
    let fires = (0..world.cpus.len()).any(|cpu| {
        let armed = hv.machine.armed(CpuId(cpu as u16)).is_some_and(|at| at <= due);
        armed || hv.cpus[cpu].attention().contains(CpuAttention::TIMER)
    });
    assert!(fires, "{}: its {kind:?} timer (due at {due}, now {now}) will not fire", name(vcpu));
}

/// 2-level ABI: what is pending and not masked has been announced to some vCPU.
fn no_event_is_lost(world: &World, domain: &Dom) {
    let hv = &world.hv;
    for index in 0..128 {
        let Some((pending, mask, selector)) = guest::two_level(hv, domain, index) else { return };
        let waiting = pending.load(Ordering::SeqCst) & !mask.load(Ordering::SeqCst);
        let announced = |vcpu: &Ref| {
            vcpu.events
                .info()
                .is_some_and(|at| evtchn::upcall_pending(hv, vcpu) && guest::selected(hv, domain, at) & selector != 0)
        };
        let lost = waiting != 0 && !sched::each_vcpu(domain).any(|vcpu| announced(&vcpu));
        assert!(!lost, "{}: events {waiting:#x} of word {index} are lost", domain.id);
    }
}

/// FIFO ABI: what is pending and not masked is on a queue that some vCPU will look at.
fn no_fifo_event_is_lost(world: &World, known: &Known, domain: &Dom) {
    // Without all pages the guest may lose events by the protocol itself.
    if !known.array || known.controls.contains(&false) {
        return;
    }
    let hv = &world.hv;
    let mut queued = Vec::new();
    for port in 1..guest::PORTS {
        let Some(word) = guest::fifo_word(hv, domain, port) else { return };
        let word = word.load(Ordering::SeqCst);
        if word & (PENDING | MASKED) == PENDING {
            assert!(word & LINKED != 0, "{}: event {port} is on no queue: {word:#x}", domain.id);
        }
        if word & LINKED != 0 {
            queued.push((port, word));
        }
    }
    let vcpus = sched::each_vcpu(domain).map(|vcpu| {
        let control = guest::frame_of(hv, domain, super::layout::CONTROL_GFN + u64::from(vcpu.id.0));
        (control.map(|at| hv.machine.word32(at).load(Ordering::SeqCst)), evtchn::upcall_pending(hv, &vcpu))
    });
    let vcpus: Vec<(Option<u32>, bool)> = vcpus.collect();
    let known = vcpus.iter().any(|(ready, told)| ready.is_some_and(|ready| ready != 0) && *told);
    assert!(
        queued.is_empty() || known,
        "{}: events are queued and no vCPU knows: {queued:x?}; its vCPUs (ready, told): {vcpus:x?}",
        domain.id
    );
}
