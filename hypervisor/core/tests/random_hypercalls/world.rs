//! The machine of the test: CPUs that run the loop of the scheduler's contract, domains, and what may happen to them.
//!
//! One thread plays all CPUs in turn. Between two steps each CPU rests somewhere: in a guest, halted, kicked but not yet
//! back in its loop, or with a context still to be saved. A step gives one CPU a turn, so everything that other CPUs do
//! meanwhile happens while it rests there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use ebb_core::hypercall::{GuestPaging, Next, Width};
use ebb_core::machine::{CpuId, Machine, MachineAddress};
use ebb_core::vcpu::Injection;
use ebb_core::{Domain, VcpuRef, evtchn, lifecycle, sched};
use shared_abi::event_channel as evt;
use shared_abi::xen::{DomId, VcpuId, Virq};

use super::calls::{Event, GuestCall, Scene};
use super::encode::Encoded;
use super::guest::{self, Known, Polled, Unfinished};
use super::layout::{
    ARRAY_GFN, BUFFERS, CONTROL_GFN, FIVE_LEVEL_TABLE, INFO_GFN, LEGACY_TABLE, PAE_TABLE, RUNSTATE_GFN, TABLES,
};
use super::newcomer;
use super::steps::{Caller, Exit, Newcomer, Paging, Place as Spot, Step};
use super::testing::{self, FakeMachine, UNPAGED};
use super::{Dom, Hv};

mod turns;

pub type Ref = VcpuRef<FakeMachine>;

/// Frames of the machine: short for what the domains want.
const FRAMES: u64 = 4096;
/// Most domains the test keeps alive.
const MOST_DOMAINS: usize = 5;
const PAGE: u64 = 4096;
/// The longest a CPU takes to look at an interrupt, in nanoseconds.
const LATENCY: u64 = 1_000_000;

/// Where a CPU rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In guest code.
    Guest {
        /// It will exit as soon as the guest takes interrupts.
        interrupt_window: bool,
        /// It will exit as soon as the guest takes NMIs.
        nmi_window: bool,
        injected: Option<Injection>,
    },
    /// Nothing to run: halted.
    Halted,
    /// On its way to its loop.
    Awake,
}

/// A CPU.
pub struct Cpu {
    pub place: Place,
    /// The vCPU whose context it holds.
    pub loaded: Option<Ref>,
    /// It has chosen anew, and still holds the context of what ran before: that, and the choice.
    pub unsaved: Option<(Ref, Option<Ref>)>,
}

impl Cpu {
    /// What it has chosen to run.
    pub fn chosen(&self) -> Option<&Ref> {
        match &self.unsaved {
            Some((_, chosen)) => chosen.as_ref(),
            None => self.loaded.as_ref(),
        }
    }
}

pub struct World {
    pub hv: Arc<Hv>,
    pub cpus: Vec<Cpu>,
    pub known: Vec<Known>,
    /// Domains that have left the table.
    pub gone: Vec<Weak<Domain<FakeMachine>>>,
    /// A wild domain that governs has made a call that is not tidy: it may have moved pages of the others, with which
    /// they then miss events by no fault of the hypervisor's.
    pub meddled: bool,
    kicked: Arc<Vec<AtomicBool>>,
    free_at_start: u64,
}

impl World {
    /// A machine with `cpus` CPUs and the first domains: one that governs, and an orderly and a wild one.
    pub fn new(cpus: u8, wild_governor: bool) -> Self {
        let hv = Arc::new(testing::hypervisor(cpus.into(), FRAMES));
        let kicked: Arc<Vec<AtomicBool>> = Arc::new((0..cpus).map(|_| AtomicBool::new(false)).collect());
        let (weak, flags) = (Arc::downgrade(&hv), kicked.clone());
        *hv.machine.on_kick.lock().unwrap() = Some(Box::new(move |cpu| {
            flags[cpu.index()].store(true, Ordering::SeqCst);
            // The interrupt ends the guest's stay at once; what follows waits for the CPU's turn.
            if let Some(hv) = weak.upgrade() {
                hv.cpus[cpu.index()].leave_guest();
            }
        }));
        let ledger = hv.heap.ledger();
        let cpu = || Cpu { place: Place::Awake, loaded: None, unsaved: None };
        let mut world = Self {
            free_at_start: ledger.free + ledger.scrubbing,
            hv,
            cpus: (0..cpus).map(|_| cpu()).collect(),
            known: Vec::new(),
            gone: Vec::new(),
            meddled: false,
            kicked,
        };
        let newcomer = Newcomer {
            tidy: true,
            wide: true,
            privileged: false,
            pages: 640,
            more: 400,
            vcpus: 2,
            restarts: false,
            weight: 256,
            cap: 0,
            fifo: false,
        };
        world.build(Newcomer { privileged: true, tidy: !wild_governor, ..newcomer });
        world.build(Newcomer { wide: false, restarts: true, fifo: true, ..newcomer });
        world.build(Newcomer { tidy: false, vcpus: 3, pages: 800, ..newcomer });
        world.hv.open();
        world
    }

    /// Does one step.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Turn { cpu, exit, can, stall } => self.turn(self.busy_cpu(*cpu), exit, *can, *stall),
            Step::Advance { time } => self.advance(*time),
            Step::Build { cpu, newcomer } => {
                let newcomer = *newcomer;
                self.on(*cpu, |world| world.build(newcomer));
            }
            Step::Destroy { cpu, which } => {
                self.with_domain(*cpu, *which, |world, domain| lifecycle::destroy(&world.hv, &domain))
            }
            Step::Pause { cpu, which, vcpu } => self.with_domain(*cpu, *which, |world, domain| {
                let (index, vcpu) = some_vcpu(&domain, *vcpu);
                sched::pause(&world.hv, &vcpu);
                world.know(&domain).pauses[index] += 1;
            }),
            Step::Unpause { cpu, which, vcpu } => self.with_domain(*cpu, *which, |world, domain| {
                let (index, vcpu) = some_vcpu(&domain, *vcpu);
                if world.know(&domain).pauses[index] > 0 {
                    world.know(&domain).pauses[index] -= 1;
                    sched::unpause(&world.hv, &vcpu);
                }
            }),
            Step::Affinity { cpu, which, vcpu, mask } => self.with_domain(*cpu, *which, |world, domain| {
                sched::set_affinity(&world.hv, &some_vcpu(&domain, *vcpu).1, [u64::from(*mask), 0, 0, 0]);
            }),
            Step::Virq { cpu, which, vcpu, virq } => self.with_domain(*cpu, *which, |world, domain| {
                let virq = Virq(*virq);
                if virq.is_per_vcpu() {
                    evtchn::raise_virq(&world.hv, &some_vcpu(&domain, *vcpu).1, virq);
                } else {
                    evtchn::raise_global_virq(&world.hv, virq);
                }
            }),
            Step::Background { cpu, pieces } => self.on(*cpu, |world| {
                for _ in 0..*pieces {
                    world.hv.background_work();
                }
            }),
            Step::Interrupt(waits) => self.hv.machine.interrupt.store(*waits, Ordering::SeqCst),
        }
        self.observe();
        self.hv.machine.traced.lock().unwrap().clear();
        self.hv.machine.console.lock().unwrap().clear();
    }

    fn cpu(&self, cpu: u8) -> usize {
        usize::from(cpu) % self.cpus.len()
    }

    /// A CPU, in most cases one that has something to do.
    fn busy_cpu(&self, cpu: u8) -> usize {
        let busy: Vec<usize> = (0..self.cpus.len()).filter(|cpu| self.cpus[*cpu].place != Place::Halted).collect();
        if cpu < 4 || busy.is_empty() { self.cpu(cpu) } else { busy[usize::from(cpu) % busy.len()] }
    }

    /// Something that the hypervisor does on a CPU, which then goes back to its loop.
    fn on(&mut self, cpu: u8, work: impl FnOnce(&mut Self)) {
        let cpu = self.cpu(cpu);
        self.arrive(cpu);
        work(self);
        self.observe();
        self.run_loop(cpu, 7, false);
    }

    fn with_domain(&mut self, cpu: u8, which: u8, work: impl FnOnce(&mut Self, Dom)) {
        self.on(cpu, |world| {
            let domains: Vec<Dom> = world.hv.each_domain().collect();
            if !domains.is_empty() {
                let domain = domains[usize::from(which) % domains.len()].clone();
                work(world, domain);
            }
        });
    }

    /// The CPU enters the hypervisor, wherever it was.
    fn arrive(&mut self, cpu: usize) {
        testing::set_cpu(cpu as u16);
        if let Place::Guest { .. } = self.cpus[cpu].place {
            self.hv.cpus[cpu].leave_guest();
        }
        self.cpus[cpu].place = Place::Awake;
    }

    /// Takes note of domains that have come and gone, and of kicks.
    pub fn observe(&mut self) {
        let domains: Vec<Dom> = self.hv.each_domain().collect();
        let (stay, gone) = std::mem::take(&mut self.known)
            .into_iter()
            .partition(|known| domains.iter().any(|domain| known.is(domain)));
        self.known = stay;
        self.gone.extend(gone.into_iter().map(|known: Known| known.domain));
        for domain in &domains {
            if !self.known.iter().any(|known| known.is(domain)) {
                // What it does first may concern the CPU on which it is done.
                self.arrive(self.hv.machine.this_cpu().index());
                self.furnish(domain);
            }
            self.know(domain).follow_abi(domain);
        }
        // Last: new domains may have kicked too.
        for (cpu, kicked) in self.cpus.iter_mut().zip(self.kicked.iter()) {
            if kicked.swap(false, Ordering::SeqCst) {
                cpu.place = Place::Awake;
            }
        }
    }

    fn know(&mut self, domain: &Dom) -> &mut Known {
        self.known.iter_mut().find(|known| known.is(domain)).expect("a domain that was noted")
    }

    /// Time passes. A CPU takes an interrupt late, but not later than [`LATENCY`].
    fn advance(&mut self, time: u64) {
        let mut left = time;
        while left > LATENCY {
            let now = self.hv.machine.now();
            let due = (0..self.cpus.len()).filter_map(|cpu| self.hv.machine.armed(CpuId(cpu as u16))).min();
            let pass = due.map_or(left, |due| due.saturating_sub(now)).clamp(LATENCY / 2, left);
            self.hv.machine.advance(pass);
            left -= pass;
            for cpu in 0..self.cpus.len() {
                self.fire_timer(cpu);
                if self.cpus[cpu].place == Place::Awake {
                    self.arrive(cpu);
                    self.run_loop(cpu, 7, false);
                    self.observe();
                }
            }
        }
        self.hv.machine.advance(left);
        for cpu in 0..self.cpus.len() {
            self.fire_timer(cpu);
        }
    }

    fn call(&mut self, vcpu: &Ref, call: &GuestCall, caller: Caller) {
        let domain = vcpu.domain().clone();
        let index = vcpu.id.0 as usize;
        let known = self.know(&domain);
        let caller = if known.tidy {
            // No event is unmasked before there is a queue for it.
            let early = domain.events.uses_fifo() && known.controls.contains(&false) && call.unmasks();
            let again = matches!(call, GuestCall::Event(Event::ExpandArray { .. }) if known.array);
            let may = call.is_tidy() && !early && !again;
            if !may {
                return;
            }
            Caller { wide: known.width == Width::Bits64, at: BUFFERS, paging: caller.paging.orderly(), ..caller }
        } else {
            self.meddled |= domain.is_privileged() && !call.is_tidy();
            caller
        };
        let width = if caller.wide { Width::Bits64 } else { Width::Bits32 };
        self.clear_new_pages(&domain, call);
        let alive: Vec<DomId> = self.known.iter().map(|known| known.id).collect();
        let scene = Scene { now: self.hv.machine.now(), alive: &alive, width };
        let Encoded { number, args, writes } = call.encode(&scene, caller.at);
        for (at, bytes) in &writes {
            // Where there is no memory a guest's stores go nowhere.
            let _ = self.hv.write_physical(&domain, *at, bytes);
        }
        let polls = call.polls().map(|(ports, timeout)| Polled {
            ports: ports.iter().map(|port| evt::Port(*port)).collect(),
            has_timeout: scene.when(*timeout) != 0,
            interrupts: caller.interrupts,
        });
        self.know(&domain).polls[index] = polls;
        self.hypercall(
            vcpu,
            Unfinished {
                number,
                args,
                width,
                paging: GuestPaging { interrupts: caller.interrupts, ..paging(caller.paging) },
            },
        );
        self.note_pages(&domain, call);
    }

    fn hypercall(&mut self, vcpu: &Ref, call: Unfinished) {
        let next = self.hv.hypercall(vcpu, call.number, call.args, call.width, call.paging);
        if let Next::Again(args) = next {
            let domain = vcpu.domain().clone();
            self.know(&domain).unfinished[vcpu.id.0 as usize] = Some(Unfinished { args, ..call });
        }
    }

    /// An orderly guest clears a control block before it hands it over, and masks all events of new words.
    fn clear_new_pages(&mut self, domain: &Dom, call: &GuestCall) {
        let known = self.know(domain);
        let (gfn, word) = match call {
            GuestCall::Event(Event::InitControl { gfn, vcpu, .. })
                if known.controls.get(*vcpu as usize) == Some(&false) =>
            {
                (*gfn, 0)
            }
            GuestCall::Event(Event::ExpandArray { gfn }) if !known.array => (*gfn, guest::MASKED),
            _ => return,
        };
        if known.tidy {
            let page: Vec<u8> = (0..PAGE / 4).flat_map(|_| word.to_le_bytes()).collect();
            let _ = self.hv.write_physical(domain, gfn << 12, &page);
        }
    }

    /// Which pages a call has put in place.
    fn note_pages(&mut self, domain: &Dom, call: &GuestCall) {
        let fifo = domain.events.uses_fifo();
        match call {
            GuestCall::Event(Event::InitControl { gfn, vcpu, .. })
                if fifo && *gfn == CONTROL_GFN + u64::from(*vcpu) =>
            {
                if let Some(control) = self.know(domain).controls.get_mut(*vcpu as usize) {
                    *control = true;
                }
            }
            GuestCall::Event(Event::ExpandArray { gfn: ARRAY_GFN }) if fifo => self.know(domain).array = true,
            _ => {}
        }
    }

    fn build(&mut self, newcomer: Newcomer) {
        if self.known.len() >= MOST_DOMAINS {
            return;
        }
        // There may be no memory for it.
        if let Ok(domain) = self.hv.build_domain(newcomer::config_of(&newcomer)) {
            self.hv.start_domain(&domain).expect("room in the queues");
        }
        self.observe();
    }

    /// What a new domain's kernel would do first: page tables, a callback, its other vCPUs.
    fn furnish(&mut self, domain: &Dom) {
        let tidy = domain.config.arguments.starts_with("tidy");
        let width = if domain.config.arguments.ends_with("64") { Width::Bits64 } else { Width::Bits32 };
        self.known.push(Known::new(domain, self.hv.machine.now(), tidy, width));
        newcomer::write_tables(&self.hv, domain);
        let first = VcpuRef::new(domain, VcpuId(0)).expect("vCPU 0");
        let alive: Vec<DomId> = self.known.iter().map(|known| known.id).collect();
        let scene = Scene { now: self.hv.machine.now(), alive: &alive, width };
        let mut calls = newcomer::first_calls(domain.vcpus.len() as u32, alive.len() as u8);
        if domain.config.arguments.contains("fifo") {
            calls.extend(newcomer::fifo_calls(domain.vcpus.len() as u32));
        }
        for vcpu in sched::each_vcpu(domain) {
            // Its local APIC is on.
            self.hv.apic_mmio_write(&vcpu, 0xf0, 0x1ff);
        }
        for call in calls {
            self.clear_new_pages(domain, &call);
            let Encoded { number, args, writes } = call.encode(&scene, BUFFERS);
            for (at, bytes) in &writes {
                self.hv.write_physical(domain, *at, bytes).expect("a buffer");
            }
            let next = self.hv.hypercall(&first, number, args, width, UNPAGED);
            // Most ports of the others are not for it.
            let may_fail = matches!(call, GuestCall::Event(Event::BindInterdomain { .. }));
            assert!(may_fail || next == Next::Return(0), "{call:?}: {next:?}");
            self.note_pages(domain, &call);
        }
    }

    /// Whether every vCPU that can run does get a CPU, if nothing happens but time.
    pub fn check_progress(&mut self) {
        let runnable = |world: &Self| -> Vec<(Ref, u64)> {
            let now = world.hv.machine.now();
            let domains: Vec<Dom> = world.hv.each_domain().collect();
            let vcpus = domains.iter().flat_map(|domain| sched::each_vcpu(domain).collect::<Vec<_>>());
            let runnable = vcpus.filter(|vcpu| vcpu.sched.state().wants_cpu());
            runnable.map(|vcpu| (vcpu.clone(), vcpu.runstate.info(now).time[0])).collect()
        };
        let mut waiting = runnable(self);
        for _ in 0..5_000 {
            self.advance(5_000_000);
            for cpu in 0..self.cpus.len() {
                self.turn(cpu, &Exit::External, 7, false);
            }
            self.observe();
            let now = self.hv.machine.now();
            waiting.retain(|(vcpu, ran)| vcpu.sched.state().wants_cpu() && vcpu.runstate.info(now).time[0] == *ran);
            if waiting.is_empty() {
                return;
            }
        }
        let names: Vec<String> =
            waiting.iter().map(|(vcpu, _)| format!("{} {:?}", name(vcpu), vcpu.sched.state())).collect();
        panic!("these never ran: {names:?}");
    }

    /// Ends every domain; then all memory must be back and nothing be left of them.
    pub fn finish(&mut self, check: impl Fn(&Self)) {
        self.hv.machine.interrupt.store(false, Ordering::SeqCst);
        let mut status = None;
        for _ in 0..4_000 {
            let domains: Vec<Dom> = self.hv.each_domain().collect();
            for domain in &domains {
                self.on(0, |world| lifecycle::destroy(&world.hv, domain));
            }
            drop(domains);
            for cpu in 0..self.cpus.len() {
                self.turn(cpu, &Exit::External, 7, false);
                self.on(cpu as u8, |world| {
                    world.hv.background_work();
                });
            }
            self.observe();
            status = self.hv.all_ended();
            if status.is_some() {
                break;
            }
        }
        assert!(matches!(status, Some(lifecycle::STATUS_OK | lifecycle::STATUS_CRASHED)), "the end never comes");
        check(self);
        let ledger = self.hv.heap.ledger();
        assert_eq!(ledger.free + ledger.scrubbing, self.free_at_start, "{ledger:?}");
        assert_eq!((ledger.domains, ledger.claimed), (0, 0), "{ledger:?}");
        assert!(self.known.is_empty());
        for domain in &self.gone {
            assert_eq!(domain.strong_count(), 0, "something still refers to a domain that is gone");
        }
    }
}

/// A vCPU of a domain's, by any number.
fn some_vcpu(domain: &Dom, number: u8) -> (usize, Ref) {
    let index = usize::from(number) % domain.vcpus.len();
    (index, VcpuRef::new(domain, VcpuId(index as u32)).expect("a vCPU"))
}

pub fn name(vcpu: &Ref) -> String {
    format!("d{}v{}", vcpu.domain().id.0, vcpu.id.0)
}

fn paging(paging: Paging) -> GuestPaging {
    const PROTECTED: u64 = 0x8001_0011;
    match paging {
        Paging::Off => UNPAGED,
        Paging::Long => GuestPaging { cr0: PROTECTED, cr3: TABLES, cr4: 0x20, efer: 0x500, cpl: 0, interrupts: true },
        Paging::FiveLevel => {
            GuestPaging { cr0: PROTECTED, cr3: FIVE_LEVEL_TABLE, cr4: 0x1020, efer: 0x500, cpl: 0, interrupts: true }
        }
        Paging::Pae => GuestPaging { cr0: PROTECTED, cr3: PAE_TABLE, cr4: 0x20, efer: 0, cpl: 0, interrupts: true },
        Paging::Legacy => {
            GuestPaging { cr0: PROTECTED, cr3: LEGACY_TABLE, cr4: 0x10, efer: 0, cpl: 0, interrupts: true }
        }
        Paging::User => GuestPaging { cpl: 3, ..UNPAGED },
        Paging::Garbage { cr0, cr3, cr4, efer } => GuestPaging { cr0, cr3, cr4, efer, cpl: 0, interrupts: true },
    }
}

/// A wild guest writes where it should not.
fn scribble(hv: &Hv, domain: &Dom, spot: Spot, index: u16, value: u32, how: u8) {
    let page = match spot {
        Spot::SharedInfo => domain.events.shared_info_frame().map(|frame| MachineAddress::in_frame(frame, 0)),
        Spot::Info => guest::frame_of(hv, domain, INFO_GFN + u64::from(index >> 10 & 3)),
        Spot::Control => guest::frame_of(hv, domain, CONTROL_GFN + u64::from(index >> 10 & 3)),
        Spot::Array => guest::frame_of(hv, domain, ARRAY_GFN),
        Spot::Runstate => guest::frame_of(hv, domain, RUNSTATE_GFN),
        Spot::Tables => guest::frame_of(hv, domain, (TABLES >> 12) + u64::from(index >> 10 & 7)),
        Spot::Buffers => guest::frame_of(hv, domain, BUFFERS >> 12),
    };
    let Some(page) = page else { return };
    // The first words matter most.
    let offset = if index & 0x8000 == 0 { index % 64 } else { index % 1024 };
    let word = hv.machine.word32(MachineAddress(page.0 + u64::from(offset) * 4));
    match how % 4 {
        0 => word.store(value, Ordering::SeqCst),
        1 => _ = word.fetch_or(value, Ordering::SeqCst),
        2 => _ = word.fetch_and(value, Ordering::SeqCst),
        _ => _ = word.fetch_xor(1 << (value % 32), Ordering::SeqCst),
    }
}
