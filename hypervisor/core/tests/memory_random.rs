//! Random memory operations from several domains. After every step: each frame has exactly one owner, the ledger adds
//! up, p2ms, records and charges agree (the audit); what a domain finds in new memory is zero; a translation that went
//! away or changed has changed its p2m's generation and its domain's flush generation; nothing is freed that is pinned.

#[path = "../src/testing.rs"]
mod testing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ebb_core::heap::PinnedFrame;
use ebb_core::{Domain, Hypervisor};
use proptest::prelude::*;
use shared_abi::hypercall as number;
use shared_abi::memory as op;
use shared_abi::memory::{AddToPhysmap, AddToPhysmapBatch, MemoryExchange, MemoryReservation, RemoveFromPhysmap};
use shared_abi::xen::{DomId, Gfn, GuestHandle, Mfn};
use testing::{FakeMachine, domain_config, domain_of, hypercall, hypervisor, machine_address, poke, vcpu};
use zerocopy::{Immutable, IntoBytes};

type Hv = Hypervisor<FakeMachine>;
type Dom = Arc<Domain<FakeMachine>>;

/// Frames of the machine: short for what the domains want.
const FRAMES: u64 = 6144;
/// Domains 0 (privileged), 1, 2.
const DOMAINS: u16 = 3;
/// The gfns the operations are about, mostly.
const GFNS: u64 = 2560;
/// Pages at the start of each domain hold arguments and lists.
const ARGUMENTS: u64 = 16;
const ARGUMENT: u64 = 0x100;
const LIST: u64 = 0x1000;
const SECOND_LIST: u64 = 0x3000;

#[derive(Clone, Debug)]
enum Step {
    Reservation { operation: u32, order: u32, gfns: Vec<u64>, target: u16 },
    Run { operation: u32, first: u64, count: u64 },
    Exchange { given: Vec<u64>, given_order: u32, wanted: Vec<u64>, wanted_order: u32 },
    WinBack { superpage: u64 },
    Move { from: u64, to: u64, size: u16 },
    Foreign { owner: u16, idx: u64, gpfn: u64 },
    Remove { gfn: u64 },
    SharedInfo { gfn: u64 },
    Pin { gfn: u64 },
    Unpin { which: usize },
    Claim { target: u16, pages: u64 },
    Maximum { pages: u64 },
    Scrub { budget: u64 },
    Restart,
    Interrupt(bool),
    Garbage { operation: u32, words: Vec<u64> },
}

fn gfn() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => ARGUMENTS..GFNS,
        4 => (1..GFNS / 512).prop_map(|superpage| superpage * 512),
        1 => Just(1 << 20),
        1 => Just((1 << 28) - 1),
        1 => Just(u64::MAX),
        1 => Just(1 << 28),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![
        4 => Just(op::DECREASE_RESERVATION),
        4 => Just(op::POPULATE_PHYSMAP),
        1 => Just(op::INCREASE_RESERVATION)
    ];
    let order = prop_oneof![6 => Just(0u32), 1 => 1..4u32, 3 => Just(9u32), 1 => Just(10u32)];
    let words = || prop::collection::vec(prop_oneof![any::<u64>(), 0..0x8000u64, gfn()], 9);
    prop_oneof![
        12 => (operation.clone(), order, prop::collection::vec(gfn(), 1..100), 0..DOMAINS + 1)
            .prop_map(|(operation, order, gfns, target)| Step::Reservation { operation, order, gfns, target }),
        6 => (operation, gfn(), 1..600u64)
            .prop_map(|(operation, first, count)| Step::Run { operation, first, count }),
        2 => (prop::collection::vec(gfn(), 1..20), 0..3u32, prop::collection::vec(gfn(), 1..20), 0..3u32).prop_map(
            |(given, given_order, wanted, wanted_order)| Step::Exchange { given, given_order, wanted, wanted_order }
        ),
        4 => (1..GFNS / 512).prop_map(|superpage| Step::WinBack { superpage }),
        4 => (gfn(), gfn(), 0..40u16).prop_map(|(from, to, size)| Step::Move { from, to, size }),
        4 => (0..DOMAINS, gfn(), gfn()).prop_map(|(owner, idx, gpfn)| Step::Foreign { owner, idx, gpfn }),
        2 => gfn().prop_map(|gfn| Step::Remove { gfn }),
        1 => gfn().prop_map(|gfn| Step::SharedInfo { gfn }),
        3 => gfn().prop_map(|gfn| Step::Pin { gfn }),
        3 => any::<usize>().prop_map(|which| Step::Unpin { which }),
        1 => (0..DOMAINS, 0..4000u64).prop_map(|(target, pages)| Step::Claim { target, pages }),
        1 => (0..4000u64).prop_map(|pages| Step::Maximum { pages }),
        3 => (1..2000u64).prop_map(|budget| Step::Scrub { budget }),
        1 => Just(Step::Restart),
        1 => any::<bool>().prop_map(Step::Interrupt),
        3 => (0..64u32, words()).prop_map(|(operation, words)| Step::Garbage { operation, words }),
    ]
}

/// The translations of a domain's that a test looks at.
type View = BTreeMap<u64, Mfn>;

struct World {
    hv: Hv,
    domains: Vec<Dom>,
    pins: Vec<PinnedFrame>,
}

impl World {
    fn new() -> Self {
        let hv = hypervisor(1, FRAMES);
        let domains = (0..DOMAINS).map(|id| build(&hv, id)).collect();
        Self { hv, domains, pins: Vec::new() }
    }

    fn call<T: IntoBytes + Immutable>(&self, caller: usize, operation: u32, argument: &T) -> i64 {
        let caller = &self.domains[caller];
        poke(&self.hv, caller, ARGUMENT, argument.as_bytes());
        hypercall(&self.hv, &vcpu(caller, 0), number::MEMORY_OP, [u64::from(operation), ARGUMENT, 0, 0, 0])
    }

    fn list(&self, caller: usize, at: u64, gfns: &[u64]) {
        for (index, gfn) in gfns.iter().enumerate() {
            poke(&self.hv, &self.domains[caller], at + 8 * index as u64, &gfn.to_le_bytes());
        }
    }

    fn reservation(&self, list: u64, gfns: &[u64], order: u32, target: u16) -> MemoryReservation {
        MemoryReservation {
            extent_start: GuestHandle::new(list),
            nr_extents: gfns.len() as u64,
            extent_order: order,
            mem_flags: 0,
            domid: if target == DOMAINS { DomId::SELF } else { DomId(target) },
            pad: [0; 3],
        }
    }

    fn exchange(&self, caller: usize, given: (&[u64], u32), wanted: (&[u64], u32)) {
        self.list(caller, LIST, given.0);
        self.list(caller, SECOND_LIST, wanted.0);
        let argument = MemoryExchange {
            in_: self.reservation(LIST, given.0, given.1, DOMAINS),
            out: self.reservation(SECOND_LIST, wanted.0, wanted.1, DOMAINS),
            nr_exchanged: 0,
        };
        self.call(caller, op::EXCHANGE, &argument);
    }

    fn apply(&mut self, caller: usize, step: &Step) {
        match step {
            Step::Reservation { operation, order, gfns, target } => {
                self.list(caller, LIST, gfns);
                let done = self.call(caller, *operation, &self.reservation(LIST, gfns, *order, *target));
                assert!((0..=gfns.len() as i64).contains(&done), "{done}");
            }
            Step::Run { operation, first, count } => {
                let gfns: Vec<u64> = (*first..first.saturating_add(*count)).collect();
                self.list(caller, LIST, &gfns);
                self.call(caller, *operation, &self.reservation(LIST, &gfns, 0, DOMAINS));
            }
            Step::Exchange { given, given_order, wanted, wanted_order } => {
                self.exchange(caller, (given, *given_order), (wanted, *wanted_order));
            }
            Step::WinBack { superpage } => self.win_back(caller, *superpage),
            Step::Move { from, to, size } => {
                let space = if *size == 0 { op::MAPSPACE_GMFN } else { op::MAPSPACE_GMFN_RANGE };
                let argument = AddToPhysmap { domid: DomId::SELF, size: *size, space, idx: *from, gpfn: Gfn(*to) };
                self.call(caller, op::ADD_TO_PHYSMAP, &argument);
            }
            Step::Foreign { owner, idx, gpfn } => self.foreign(caller, *owner, *idx, *gpfn),
            Step::Remove { gfn } => {
                let argument = RemoveFromPhysmap { domid: DomId::SELF, pad: [0; 3], gpfn: Gfn(*gfn) };
                self.call(caller, op::REMOVE_FROM_PHYSMAP, &argument);
            }
            Step::SharedInfo { gfn } => {
                let argument = AddToPhysmap { domid: DomId::SELF, size: 0, space: 0, idx: 0, gpfn: Gfn(*gfn) };
                self.call(caller, op::ADD_TO_PHYSMAP, &argument);
            }
            Step::Pin { gfn } => {
                if let Ok(pin) = self.domains[caller].memory.pin(&self.hv, Gfn(*gfn)) {
                    mark(&self.hv, pin.mfn(), caller);
                    self.pins.push(pin);
                }
            }
            Step::Unpin { which } => {
                if !self.pins.is_empty() {
                    let which = which % self.pins.len();
                    self.pins.swap_remove(which).release(&self.hv.heap);
                }
            }
            Step::Claim { target, pages } => {
                let argument = MemoryReservation { nr_extents: *pages, domid: DomId(*target), ..Default::default() };
                self.call(0, op::CLAIM_PAGES, &argument);
            }
            Step::Maximum { pages } => self.domains[caller].memory.set_maximum(*pages),
            Step::Scrub { budget } => {
                self.hv.heap.scrub_some(&self.hv.machine, *budget);
            }
            Step::Restart => self.restart(caller),
            Step::Interrupt(on) => self.hv.machine.interrupt.store(*on, Ordering::SeqCst),
            Step::Garbage { operation, words } => {
                let words: [u64; 9] = words.as_slice().try_into().expect("nine words");
                self.call(caller, *operation, &words);
            }
        }
    }

    /// Exchanges whatever is left of a superpage for a whole one.
    fn win_back(&self, caller: usize, superpage: u64) {
        let memory = &self.domains[caller].memory;
        let mut given: Vec<u64> = (ARGUMENTS..GFNS)
            .filter(|gfn| memory.lookup(&self.hv.machine, Gfn(*gfn)).is_some_and(|found| found.order == 0))
            .collect();
        given.truncate(512);
        if given.len() == 512 {
            self.exchange(caller, (&given, 0), (&[superpage * 512], 9));
        }
    }

    fn foreign(&self, caller: usize, owner: u16, idx: u64, gpfn: u64) {
        self.list(caller, LIST, &[idx, gpfn]);
        let argument = AddToPhysmapBatch {
            domid: DomId::SELF,
            space: op::MAPSPACE_GMFN_FOREIGN as u16,
            size: 1,
            foreign_domid: DomId(owner),
            idxs: GuestHandle::new(LIST),
            gpfns: GuestHandle::new(LIST + 8),
            errs: GuestHandle::new(LIST + 16),
        };
        self.call(caller, op::ADD_TO_PHYSMAP_BATCH, &argument);
    }

    /// Ends a domain and builds it again, if there is memory for it.
    fn restart(&mut self, which: usize) {
        let id = DomId(which as u16);
        let old = &self.domains[which];
        while !old.memory.release_all(&self.hv, 33) {}
        assert!(old.memory.p2m.read().lookup(&self.hv.machine, Gfn(0)).is_none());
        let shared_info = old.events.shared_info_frame();
        self.hv.set_domain(id, None);
        drop(self.domains.remove(which));
        if let Some(frame) = shared_info {
            self.hv.heap.free(SHARED.with_borrow_mut(|frames| frames.remove(&frame.0)).expect("allocated by build"));
        }
        // Everyone lets go of enough for the next one, pins apart.
        for other in &self.domains {
            other.memory.set_maximum(other.memory.current());
        }
        let domain = build(&self.hv, which as u16);
        self.domains.insert(which, domain);
    }

    fn views(&self) -> Vec<(View, u64, u64)> {
        let view = |domain: &Dom| {
            let p2m = domain.memory.p2m.read();
            let translations = (0..GFNS)
                .chain([1 << 20, (1 << 28) - 1])
                .filter_map(|gfn| Some((gfn, p2m.lookup(&self.hv.machine, Gfn(gfn))?.mfn)))
                .collect();
            (translations, p2m.generation(), domain.memory.translation_generation())
        };
        self.domains.iter().map(view).collect()
    }

    /// Compares translations before and after a step; marks what is new.
    fn check(&self, before: &[(View, u64, u64)], restarted: Option<usize>) -> Result<(), TestCaseError> {
        self.hv.audit_memory().map_err(TestCaseError::fail)?;
        for (which, (old, new)) in before.iter().zip(self.views()).enumerate() {
            if restarted == Some(which) {
                continue;
            }
            let lost = old.0.iter().any(|(gfn, mfn)| new.0.get(gfn) != Some(mfn));
            prop_assert!(!lost || (old.1 != new.1 && old.2 != new.2), "domain {which} lost a translation unnoticed");
        }
        for pin in &self.pins {
            let bytes = self.hv.machine_word(pin.mfn());
            prop_assert_ne!(bytes, CLEARED, "a pinned frame was given away");
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), TestCaseError> {
        for domain in &self.domains {
            while !domain.memory.release_all(&self.hv, 100) {}
        }
        for pin in self.pins.drain(..) {
            pin.release(&self.hv.heap);
        }
        for id in 0..DOMAINS {
            self.hv.set_domain(DomId(id), None);
        }
        SHARED.with_borrow_mut(|frames| {
            std::mem::take(frames).into_values().for_each(|extent| self.hv.heap.free(extent));
        });
        while self.hv.heap.scrub_some(&self.hv.machine, 512) {}
        let ledger = self.hv.heap.ledger();
        prop_assert_eq!(ledger.free + testing::HYPERVISOR_FRAMES, FRAMES);
        prop_assert_eq!((ledger.domains, ledger.claimed), (0, 0));
        self.hv.audit_memory().map_err(TestCaseError::fail)
    }
}

/// What the test's pinned frames must never hold: they are tagged when they are pinned.
const CLEARED: u64 = 0;

trait FirstWord {
    fn machine_word(&self, mfn: Mfn) -> u64;
}

impl FirstWord for Hv {
    fn machine_word(&self, mfn: Mfn) -> u64 {
        use ebb_core::machine::{Machine, MachineAddress};
        self.machine.word64(MachineAddress::in_frame(mfn, 0)).load(Ordering::Relaxed)
    }
}

std::thread_local! {
    static SHARED: std::cell::RefCell<BTreeMap<u64, ebb_core::heap::Extent>> = const { std::cell::RefCell::new(BTreeMap::new()) };
}

fn build(hv: &Hv, id: u16) -> Dom {
    let mut config = domain_config("random", 1024, 3000, 1);
    config.privileged = id == 0;
    // What is left when the machine is short: just enough for the arguments.
    let ledger = hv.heap.ledger();
    if ledger.free + ledger.scrubbing < 1024 + 128 + ledger.claimed {
        config.memory = 64 * 4096;
    }
    let domain = domain_of(hv, id, config);
    if let Some(frame) = hv.heap.allocate(&hv.machine, 0, ebb_core::heap::Owner::Hypervisor) {
        ebb_core::evtchn::attach_shared_info(hv, &domain, frame.first());
        SHARED.with_borrow_mut(|frames| frames.insert(frame.first().0, frame));
    }
    domain
}

fn tag_of(domain: usize) -> u64 {
    0x7a6_0000_0000 | domain as u64
}

/// Tags a frame as a domain's, and says what it held.
fn mark(hv: &Hv, mfn: Mfn, domain: usize) -> u64 {
    use ebb_core::machine::{Machine, MachineAddress};
    hv.machine.word64(MachineAddress::in_frame(mfn, 0)).swap(tag_of(domain), Ordering::Relaxed)
}

/// Tags every page a domain can see, and checks that pages not tagged yet are clear.
fn tag(world: &World) -> Result<(), TestCaseError> {
    for (which, domain) in world.domains.iter().enumerate() {
        for gfn in ARGUMENTS..GFNS {
            let Some(found) = domain.memory.lookup(&world.hv.machine, Gfn(gfn)) else { continue };
            if found.kind != ebb_core::p2m::FrameKind::Ram {
                continue;
            }
            let value = mark(&world.hv, machine_address(&world.hv, domain, gfn << 12).frame(), which);
            prop_assert!(value == 0 || value == tag_of(which), "domain {which} sees {value:#x} at gfn {gfn:#x}");
        }
    }
    Ok(())
}

fn run(steps: &[(usize, Step)]) -> Result<(), TestCaseError> {
    let mut world = World::new();
    if let Err(error) = run_in(&mut world, steps) {
        // Its pins must not be dropped.
        std::mem::forget(world);
        SHARED.with_borrow_mut(|frames| std::mem::forget(std::mem::take(frames)));
        return Err(error);
    }
    world.finish()
}

fn run_in(world: &mut World, steps: &[(usize, Step)]) -> Result<(), TestCaseError> {
    tag(world)?;
    for (caller, step) in steps {
        let before = world.views();
        world.apply(*caller, step);
        world.check(&before, matches!(step, Step::Restart).then_some(*caller))?;
        tag(world)?;
        // Without its argument pages a domain would test nothing from then on.
        let mapped = |domain: &Dom, gfn| domain.memory.translate(&world.hv.machine, Gfn(gfn)).is_some();
        if !world.domains.iter().all(|domain| (0..ARGUMENTS).all(|gfn| mapped(domain, gfn))) {
            break;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_stays_in_order(steps in prop::collection::vec((0..usize::from(DOMAINS), step()), 1..60)) {
        run(&steps)?;
    }
}
