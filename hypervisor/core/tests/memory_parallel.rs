//! Four CPUs change two domains' memory at once, while their guests use it through translations that a processor would
//! have cached. A frame that changes hands before every CPU has dropped its translation, or without being cleared, shows
//! as one domain's mark in the other's memory.

#[path = "../src/testing.rs"]
mod testing;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ebb_core::heap::PinnedFrame;
use ebb_core::machine::{Machine, MachineAddress};
use ebb_core::p2m::FrameKind;
use ebb_core::{Domain, Hypervisor};
use shared_abi::hypercall as number;
use shared_abi::memory as op;
use shared_abi::memory::{MemoryExchange, MemoryReservation};
use shared_abi::xen::{DomId, Gfn, GuestHandle, Mfn};
use testing::{FakeMachine, domain, hypercall, hypervisor, poke, set_cpu, vcpu};
use zerocopy::IntoBytes;

type Hv = Hypervisor<FakeMachine>;
type Dom = Arc<Domain<FakeMachine>>;

const CPUS: u16 = 4;
const ROUNDS: usize = 1500;
const GFNS: u64 = 2048;
/// The first superpage holds the arguments, and stays.
const FIRST: u64 = 512;

/// A small generator: runs differ by their seeds, and each can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

struct World {
    hv: Hv,
    domains: Vec<Dom>,
    kicked: [AtomicBool; CPUS as usize],
    error: Mutex<Option<String>>,
}

impl World {
    fn fail(&self, error: String) {
        self.error.lock().unwrap().get_or_insert(error);
    }

    fn failed(&self) -> bool {
        self.error.lock().unwrap().is_some()
    }
}

fn reservation(list: u64, extents: u64, order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(list),
        nr_extents: extents,
        extent_order: order,
        mem_flags: 0,
        domid: DomId::SELF,
        pad: [0; 3],
    }
}

/// A stay in the guest: uses memory through its own idea of the translations, until it is kicked.
fn guest(world: &World, cpu: u16, d: &Dom, tlb: &mut (u64, HashMap<u64, Mfn>), random: &mut Random) {
    let per_cpu = &world.hv.cpus[usize::from(cpu)];
    per_cpu.enter_guest(d.id);
    let generation = d.memory.translation_generation();
    if tlb.0 != generation {
        *tlb = (generation, HashMap::new());
    }
    let mark = 0xebb0_0000 + u64::from(d.id.0);
    for _ in 0..random.below(60) {
        if world.kicked[usize::from(cpu)].swap(false, Ordering::SeqCst) {
            break;
        }
        let gfn = FIRST + random.below(GFNS - FIRST);
        let translation = match tlb.1.entry(gfn) {
            Entry::Occupied(cached) => *cached.get(),
            Entry::Vacant(place) => match d.memory.lookup(&world.hv.machine, Gfn(gfn)) {
                Some(found) if found.kind == FrameKind::Ram => *place.insert(found.mfn),
                _ => continue,
            },
        };
        let word = world.hv.machine.word64(MachineAddress::in_frame(translation, 8));
        if random.below(8) == 0 {
            // A processor may take its time between translation and access.
            std::thread::yield_now();
        }
        let seen = word.swap(mark, Ordering::SeqCst);
        if seen != 0 && seen != mark {
            world.fail(format!("{} saw {seen:#x} at gfn {gfn:#x}", d.id));
        }
    }
    per_cpu.leave_guest();
}

/// A random memory operation; its arguments are in pages of its CPU's own.
fn operation(world: &World, cpu: u16, d: &Dom, vcpu_id: u32, random: &mut Random) {
    let hv = &world.hv;
    let argument = 0x1_0000 * (1 + u64::from(cpu));
    let (list, second) = (argument + 0x1000, argument + 0x3000);
    let superpage = random.below(4) == 0;
    let count = if superpage { 1 } else { 1 + random.below(40) };
    let base = FIRST + random.below(GFNS - FIRST);
    for index in 0..count {
        let gfn = if superpage {
            base & !511
        } else if random.below(2) == 0 {
            FIRST + (base + index) % (GFNS - FIRST)
        } else {
            FIRST + random.below(GFNS - FIRST)
        };
        poke(hv, d, list + 8 * index, &gfn.to_le_bytes());
        poke(hv, d, second + 8 * index, &(FIRST + random.below(GFNS - FIRST)).to_le_bytes());
    }
    let one = reservation(list, count, if superpage { 9 } else { 0 });
    let operation = match random.below(9) {
        0..4 => op::DECREASE_RESERVATION,
        4..8 => op::POPULATE_PHYSMAP,
        _ => op::EXCHANGE,
    };
    if operation == op::EXCHANGE {
        let exchange =
            MemoryExchange { in_: reservation(list, count, 0), out: reservation(second, count, 0), nr_exchanged: 0 };
        poke(hv, d, argument, exchange.as_bytes());
    } else {
        poke(hv, d, argument, one.as_bytes());
    }
    hypercall(hv, &vcpu(d, vcpu_id), number::MEMORY_OP, [u64::from(operation), argument, 0, 0, 0]);
}

/// A pinned frame is the domain's for as long as the pin lasts, whatever happens to its gfn.
fn check_pinned(world: &World, cpu: u16, pin: PinnedFrame, random: &mut Random) {
    let mark = 0xaa00_0000 + u64::from(cpu);
    let word = world.hv.machine.word64(MachineAddress::in_frame(pin.mfn(), 16 + 8 * usize::from(cpu)));
    word.store(mark, Ordering::SeqCst);
    for _ in 0..random.below(30) {
        std::thread::yield_now();
    }
    let seen = word.swap(0, Ordering::SeqCst);
    if seen != mark {
        world.fail(format!("CPU {cpu}: a pinned frame holds {seen:#x}"));
    }
    pin.release(&world.hv.heap);
}

fn cpu(world: &World, cpu: u16) {
    set_cpu(cpu);
    let d = &world.domains[usize::from(cpu) % 2];
    let mut random = Random(0x9e37_79b9 * (u64::from(cpu) + 1));
    let mut tlb = (0, HashMap::new());
    for round in 0..ROUNDS {
        if world.failed() {
            return;
        }
        guest(world, cpu, d, &mut tlb, &mut random);
        operation(world, cpu, d, u32::from(cpu) / 2, &mut random);
        match round % 8 {
            0 => {
                world.hv.heap.scrub_some(&world.hv.machine, 4);
            }
            1 => {
                let pin = d.memory.pin(&world.hv, Gfn(FIRST + random.below(GFNS - FIRST)));
                guest(world, cpu, d, &mut tlb, &mut random);
                operation(world, cpu, d, u32::from(cpu) / 2, &mut random);
                if let Ok(pin) = pin {
                    check_pinned(world, cpu, pin, &mut random);
                }
            }
            _ => {}
        }
        let ledger = world.hv.heap.ledger();
        if !ledger.adds_up() {
            world.fail(format!("{ledger:?}"));
        }
    }
}

#[test]
fn no_frame_changes_hands_while_it_can_be_reached() {
    // The two domains together want more than there is.
    let hv = hypervisor(CPUS, 3456);
    let domains = vec![domain(&hv, 1, 1536, 2), domain(&hv, 2, 1536, 2)];
    let world = Arc::new(World {
        hv,
        domains,
        kicked: std::array::from_fn(|_| AtomicBool::new(false)),
        error: Mutex::new(None),
    });
    let kicks = Arc::downgrade(&world);
    *world.hv.machine.on_kick.lock().unwrap() = Some(Box::new(move |cpu| {
        if let Some(world) = kicks.upgrade() {
            world.kicked[cpu.index()].store(true, Ordering::SeqCst);
        }
    }));
    std::thread::scope(|scope| {
        for id in 0..CPUS {
            let world = &*world;
            scope.spawn(move || cpu(world, id));
        }
    });
    *world.hv.machine.on_kick.lock().unwrap() = None;
    set_cpu(0);
    if let Some(error) = world.error.lock().unwrap().take() {
        panic!("{error}");
    }
    let kicked: u64 = world.hv.machine.kicks.iter().map(|kicks| kicks.load(Ordering::SeqCst)).sum();
    assert!(kicked > 0, "no flush ever met a guest: the test tests nothing");
    world.hv.audit_memory().expect("the machine's memory in order");
    for d in &world.domains {
        while !d.memory.release_all(&world.hv, 64) {}
        world.hv.set_domain(d.id, None);
    }
    assert_eq!(world.hv.heap.ledger().domains, 0);
    world.hv.audit_memory().expect("the machine's memory in order");
}
