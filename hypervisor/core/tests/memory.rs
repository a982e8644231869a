//! Memory, case by case: superpages that split and heal, what frees what and when, claims, pins, limits, errors of
//! memory_op. What random sequences find is in `memory_random.rs`.

#[path = "memory/exchange.rs"]
mod exchange;
#[path = "memory/physmap.rs"]
mod physmap;
#[path = "../src/testing.rs"]
mod testing;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ebb_core::heap::Owner;
use ebb_core::hypercall::{Next, Width};
use ebb_core::memory::DomainMemory;
use ebb_core::p2m::FrameKind;
use ebb_core::{Domain, Hypervisor};
use shared_abi::hypercall as number;
use shared_abi::memory as op;
use shared_abi::memory::{
    AddToPhysmap, AddToPhysmapBatch, E820Entry, MemAcquireResource, MemoryDomain, MemoryExchange, MemoryMap,
    MemoryReservation, RemoveFromPhysmap,
};
use shared_abi::xen::{DomId, Errno, Gfn, GuestHandle};
use testing::{
    FakeMachine, UNPAGED, domain, domain_config, domain_of, hypercall, hypervisor, hypervisor_of, peek, poke, vcpu,
};
use zerocopy::{Immutable, IntoBytes};

type Hv = Hypervisor<FakeMachine>;
type Dom = Arc<Domain<FakeMachine>>;

/// Where the tests put arguments and lists: the first pages of each domain.
const ARGUMENT: u64 = 0x100;
const LIST: u64 = 0x1000;

fn memory_op<T: IntoBytes + Immutable>(hv: &Hv, caller: &Dom, operation: u32, argument: &T) -> i64 {
    poke(hv, caller, ARGUMENT, argument.as_bytes());
    hypercall(hv, &vcpu(caller, 0), number::MEMORY_OP, [u64::from(operation), ARGUMENT, 0, 0, 0])
}

fn put_list(hv: &Hv, caller: &Dom, at: u64, gfns: &[u64]) {
    for (index, gfn) in gfns.iter().enumerate() {
        poke(hv, caller, at + 8 * index as u64, &gfn.to_le_bytes());
    }
}

fn reservation(gfns: &[u64], order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: gfns.len() as u64,
        extent_order: order,
        mem_flags: 0,
        domid: DomId::SELF,
        pad: [0; 3],
    }
}

fn adjust(hv: &Hv, caller: &Dom, operation: u32, gfns: &[u64], order: u32) -> i64 {
    put_list(hv, caller, LIST, gfns);
    memory_op(hv, caller, operation, &reservation(gfns, order))
}

fn audit(hv: &Hv) {
    if let Err(error) = hv.audit_memory() {
        panic!("{error}");
    }
}

fn order_at(hv: &Hv, domain: &Dom, gfn: u64) -> Option<u32> {
    domain.memory.lookup(&hv.machine, Gfn(gfn)).map(|found| found.order)
}

fn error(errno: Errno) -> i64 {
    errno.to_return()
}

/// A privileged domain of 2 MiB.
fn governor(hv: &Hv, id: u16) -> Dom {
    let mut config = domain_config("governor", 512, 1024, 1);
    config.privileged = true;
    domain_of(hv, id, config)
}

#[test]
fn a_superpage_splits_and_heals() {
    let hv = hypervisor_of(1, 8192, true);
    let d = domain(&hv, 1, 1024, 1);
    let (mfn, _) = d.memory.translate(&hv.machine, Gfn(700)).unwrap();
    let tables = d.memory.p2m.read().tables();
    let generation = d.memory.p2m.read().generation();
    assert_eq!(order_at(&hv, &d, 1023), Some(9));
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[700, 512, 1023], 0), 3);
    assert_eq!(order_at(&hv, &d, 700), None);
    assert_eq!(order_at(&hv, &d, 701), Some(0));
    assert_eq!(order_at(&hv, &d, 0), Some(9), "only the superpage concerned is split");
    assert_ne!(d.memory.p2m.read().generation(), generation);
    assert_eq!(d.memory.p2m.read().tables(), tables + 1);
    audit(&hv);
    // Dirty frames are not waited for, cleared ones that fit are preferred.
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[700], 0), 1);
    assert_ne!(d.memory.translate(&hv.machine, Gfn(700)).unwrap().0, mfn);
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[700], 0), 1);
    while hv.heap.scrub_some(&hv.machine, 512) {}
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[700, 1023, 512], 0), 3);
    assert_eq!(d.memory.translate(&hv.machine, Gfn(700)).unwrap().0, mfn);
    assert_eq!(order_at(&hv, &d, 700), Some(9));
    assert_eq!(d.memory.p2m.read().tables(), tables);
    audit(&hv);
}

#[test]
fn a_page_given_and_taken_again_does_not_split_each_time() {
    let hv = hypervisor_of(1, 8192, true);
    let d = domain(&hv, 1, 2048, 1);
    // Two superpages lose a page and get it back, scrubbed, again and again.
    let mut accesses = 0;
    for round in 0..600 {
        for gfn in [700, 1200] {
            let before = hv.machine.accesses.load(Ordering::Relaxed);
            assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[gfn], 0), 1);
            while hv.heap.scrub_some(&hv.machine, 512) {}
            assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[gfn], 0), 1);
            if round > 0 {
                accesses += hv.machine.accesses.load(Ordering::Relaxed) - before;
            }
        }
    }
    assert!(accesses < 1198 * 100, "{accesses} memory accesses for 1198 pages");
    // Both are whole in the end: the last additions pay for them.
    for page in 0..1100 {
        assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[4096 + 2 * page], 0), 1);
    }
    assert_eq!((order_at(&hv, &d, 700), order_at(&hv, &d, 1200)), (Some(9), Some(9)));
    audit(&hv);
}

#[test]
fn pages_in_a_row_that_are_not_aligned_are_no_superpage() {
    let hv = hypervisor_of(1, 4096, true);
    let memory = DomainMemory::new(&hv, DomId(9), 1024).unwrap();
    // The first makes the tables, and is replaced.
    for gfn in std::iter::once(512).chain(512..1024) {
        memory.populate(&hv, Gfn(gfn), 0).unwrap();
    }
    let mfn = |gfn| memory.translate(&hv.machine, Gfn(gfn)).unwrap().0.0;
    assert_eq!(mfn(1023) - mfn(512), 511, "the test needs a row");
    assert_ne!(mfn(512) % 512, 0);
    assert_eq!(memory.lookup(&hv.machine, Gfn(700)).unwrap().order, 0);
    while !memory.release_all(&hv, 100) {}
    audit(&hv);
}

#[test]
fn a_gibibyte_is_one_leaf_and_splits_by_levels() {
    let hv = hypervisor_of(1, 3 << 18, true);
    let memory = DomainMemory::new(&hv, DomId(9), 2 << 18).unwrap();
    let generation = memory.p2m.read().generation();
    memory.populate(&hv, Gfn(1 << 18), 18).unwrap();
    assert_eq!(memory.p2m.read().generation(), generation, "an addition invalidates nothing");
    let found = memory.lookup(&hv.machine, Gfn((1 << 18) + 12345)).unwrap();
    assert_eq!((found.order, found.kind), (18, FrameKind::Ram));
    assert_eq!(memory.current(), 1 << 18);
    memory.unmap_page(&hv, Gfn((1 << 18) + 12345)).unwrap();
    assert_eq!(memory.lookup(&hv.machine, Gfn((1 << 18) + 12346)).unwrap().order, 0);
    assert_eq!(memory.lookup(&hv.machine, Gfn(1 << 18)).unwrap().order, 9);
    assert_eq!(memory.current(), 1 << 18, "an unmapped page stays the domain's");
    while !memory.release_all(&hv, 100) {}
    assert_eq!(hv.heap.account(DomId(9)).current(), 0);
    audit(&hv);
}

#[test]
fn a_pin_keeps_one_page_of_a_gibibyte() {
    let hv = hypervisor_of(1, 3 << 18, true);
    let memory = DomainMemory::new(&hv, DomId(9), 1 << 18).unwrap();
    memory.populate(&hv, Gfn(0), 18).unwrap();
    let pin = memory.pin(&hv, Gfn(100_000)).unwrap();
    assert_eq!(memory.lookup(&hv.machine, Gfn(0)).unwrap().order, 18);
    while !memory.release_all(&hv, 100) {}
    assert_eq!(hv.heap.account(DomId(9)).current(), 1);
    audit(&hv);
    pin.release(&hv.heap);
    assert_eq!(hv.heap.account(DomId(9)).current(), 0);
    let ledger = hv.heap.ledger();
    assert_eq!((ledger.domains, ledger.hypervisor), (0, testing::HYPERVISOR_FRAMES));
    audit(&hv);
}

#[test]
fn superpages_go_and_come_whole() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 2048, 1);
    while hv.heap.scrub_some(&hv.machine, 512) {}
    let accesses = hv.machine.accesses.load(Ordering::Relaxed);
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[512, 1024], 9), 2);
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[1024], 9), 1);
    let accesses = hv.machine.accesses.load(Ordering::Relaxed) - accesses;
    assert!(accesses < 400, "{accesses} memory accesses for three superpages");
    assert_eq!(order_at(&hv, &d, 1024), Some(9));
    assert_eq!(order_at(&hv, &d, 512), None);
    assert_eq!(d.memory.current(), 1536);
    audit(&hv);
}

#[test]
fn decrease_stops_at_the_first_page_that_is_not_there() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[600, 601, 602], 0), 3);
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[700, 601, 702], 0), 1);
    assert!(order_at(&hv, &d, 702).is_some());
    assert_eq!(d.memory.current(), 1020);
    // An extent with a hole fails, and what came before the hole is gone, as in Xen.
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[512], 9), 0);
    assert_eq!(order_at(&hv, &d, 599), None);
    assert!(order_at(&hv, &d, 603).is_some());
    audit(&hv);
}

#[test]
fn populate_says_how_much_it_got() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 512, 1);
    d.memory.set_maximum(515);
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[1000, 1001, 1002, 1003, 1004], 0), 3);
    assert_eq!(d.memory.current(), 515);
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[512], 9), 0);
    d.memory.set_maximum(100);
    assert_eq!(d.memory.maximum(), 100);
    assert_eq!(d.memory.current(), 515, "a lower maximum takes nothing away");
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[1100], 0), 0);
    audit(&hv);
}

#[test]
fn populate_replaces_what_is_there_with_cleared_memory() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    poke(&hv, &d, 600 << 12, b"secret");
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[600], 0), 1);
    assert_eq!(peek::<6>(&hv, &d, 600 << 12), [0; 6]);
    assert_eq!(d.memory.current(), 1024);
    // A superpage over a table of pages.
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[512], 9), 1);
    assert_eq!(order_at(&hv, &d, 600), Some(9));
    assert_eq!(d.memory.current(), 1024);
    audit(&hv);
}

#[test]
fn nothing_of_another_domain_is_seen() {
    let hv = hypervisor(1, 2048);
    let a = domain(&hv, 1, 600, 1);
    for gfn in 0..600u64 {
        poke(&hv, &a, gfn << 12, b"mine");
    }
    while !a.memory.release_all(&hv, 64) {}
    hv.set_domain(DomId(1), None);
    audit(&hv);
    let b = domain(&hv, 2, 1900, 1);
    for gfn in 0..1900u64 {
        assert_eq!(peek::<4>(&hv, &b, gfn << 12), [0; 4]);
    }
}

#[test]
fn lists_and_orders_that_are_refused() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    for operation in [op::DECREASE_RESERVATION, op::POPULATE_PHYSMAP, op::INCREASE_RESERVATION] {
        assert_eq!(adjust(&hv, &d, operation, &[0], 10), 0, "order above a domain's limit");
        let huge = MemoryReservation { nr_extents: 1 << 26, ..reservation(&[600], 0) };
        assert_eq!(memory_op(&hv, &d, operation, &huge), 0, "more extents than a continuation can say");
        let other = MemoryReservation { domid: DomId(5), ..reservation(&[600], 0) };
        assert_eq!(memory_op(&hv, &d, operation, &other), 0, "no such domain");
        let low = MemoryReservation { mem_flags: 20, ..reservation(&[600], 0) };
        assert_eq!(memory_op(&hv, &d, operation, &low), 0, "memory below 1 MiB only");
    }
    let lists = [u64::MAX - 7, 0xffff_f000, 1 << 40, (1024 << 12) - 4];
    for list in lists {
        let bad = MemoryReservation { extent_start: GuestHandle::new(list), ..reservation(&[600], 0) };
        assert_eq!(memory_op(&hv, &d, op::DECREASE_RESERVATION, &bad), 0, "a list at {list:#x}");
    }
    for gfn in [u64::MAX, 1 << 28, (1 << 52) - 1, 1 << 63] {
        assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[gfn], 0), 0);
        assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[gfn], 0), 0);
        assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[gfn], 9), 0);
    }
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[1025], 9), 0, "a misaligned superpage");
    // The argument itself.
    let v = vcpu(&d, 0);
    for address in [u64::MAX, 1 << 33, 1024 << 12] {
        assert_eq!(hypercall(&hv, &v, number::MEMORY_OP, [op::DECREASE_RESERVATION.into(), address, 0, 0, 0]), 0);
        let current = [op::CURRENT_RESERVATION.into(), address, 0, 0, 0];
        assert_eq!(hypercall(&hv, &v, number::MEMORY_OP, current), error(Errno::EFAULT));
    }
    assert_eq!(d.memory.current(), 1024);
    audit(&hv);
}

#[test]
fn a_list_that_ends_in_nowhere_is_done_up_to_there() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    // The last page of memory holds the list's first three entries.
    let list = (1024 << 12) - 24;
    put_list(&hv, &d, list, &[600, 601, 602]);
    let argument = MemoryReservation { extent_start: GuestHandle::new(list), nr_extents: 100, ..reservation(&[], 0) };
    assert_eq!(memory_op(&hv, &d, op::DECREASE_RESERVATION, &argument), 3);
    audit(&hv);
}

#[test]
fn long_lists_give_way_and_go_on() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    let gfns: Vec<u64> = (512..812).collect();
    put_list(&hv, &d, LIST, &gfns);
    poke(&hv, &d, ARGUMENT, reservation(&gfns, 0).as_bytes());
    hv.machine.interrupt.store(true, Ordering::SeqCst);
    let v = vcpu(&d, 0);
    let mut args = [u64::from(op::DECREASE_RESERVATION), ARGUMENT, 0, 0, 0];
    let mut calls = 0;
    let result = loop {
        calls += 1;
        match hv.hypercall(&v, number::MEMORY_OP.into(), args, Width::Bits64, UNPAGED) {
            Next::Return(value) => break value,
            Next::Again(next) => {
                assert!(next[0] >> 6 > args[0] >> 6, "progress");
                args = next;
                audit(&hv);
            }
        }
    };
    assert_eq!(result, 300);
    assert!(calls > 2);
    assert_eq!(d.memory.current(), 724);
}

#[test]
fn a_32_bit_caller_has_its_own_layouts() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    for (index, gfn) in [600u32, 601].iter().enumerate() {
        poke(&hv, &d, LIST + 4 * index as u64, &gfn.to_le_bytes());
    }
    let words = [LIST as u32, 2, 0, 0, 0x7ff0];
    poke(&hv, &d, ARGUMENT, words.as_bytes());
    // Garbage in the upper halves does not matter.
    let args = [0xdead_0000_0000_0000 | u64::from(op::DECREASE_RESERVATION), 0xbeef << 32 | ARGUMENT, 0, 0, 0];
    let number = 0xffff_ffff_0000_0000 | u64::from(number::MEMORY_OP);
    let result = hv.hypercall(&vcpu(&d, 0), number, args, Width::Bits32, UNPAGED);
    assert_eq!(result, Next::Return(2));
    assert_eq!(d.memory.current(), 1022);
}

#[test]
fn figures() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    let other = domain(&hv, 2, 512, 1);
    let own = MemoryDomain { domid: DomId::SELF };
    assert_eq!(memory_op(&hv, &d, op::CURRENT_RESERVATION, &own), 1024);
    assert_eq!(memory_op(&hv, &d, op::MAXIMUM_RESERVATION, &own), 2048);
    assert_eq!(memory_op(&hv, &d, op::MAXIMUM_GPFN, &own), 1023);
    assert_eq!(memory_op(&hv, &d, op::MAXIMUM_RAM_PAGE, &own), 8192);
    let theirs = MemoryDomain { domid: other.id };
    assert_eq!(memory_op(&hv, &d, op::CURRENT_RESERVATION, &theirs), error(Errno::EPERM));
    let nobody = MemoryDomain { domid: DomId(77) };
    assert_eq!(memory_op(&hv, &d, op::CURRENT_RESERVATION, &nobody), error(Errno::ESRCH));
    let start = op::continue_command(op::CURRENT_RESERVATION, 1) as u32;
    assert_eq!(memory_op(&hv, &d, start, &own), error(Errno::EINVAL));
    assert_eq!(memory_op(&hv, &d, 63, &own), error(Errno::ENOSYS));
    let g = governor(&hv, 3);
    assert_eq!(memory_op(&hv, &g, op::CURRENT_RESERVATION, &theirs), 512);
}

#[test]
fn memory_maps() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    let map = MemoryMap { nr_entries: 8, pad: 0, buffer: GuestHandle::new(LIST) };
    assert_eq!(memory_op(&hv, &d, op::MEMORY_MAP, &map), error(Errno::ENOSYS), "no map recorded");
    let entries =
        vec![E820Entry { addr: 0, size: 0xa0000, type_: 1 }, E820Entry { addr: 0x100000, size: 0x300000, type_: 1 }];
    d.memory.e820.call_once(|| entries.clone());
    assert_eq!(memory_op(&hv, &d, op::MEMORY_MAP, &map), 0);
    assert_eq!(peek::<4>(&hv, &d, ARGUMENT), 2u32.to_le_bytes());
    assert_eq!(peek::<40>(&hv, &d, LIST), entries.as_bytes());
    let short = MemoryMap { nr_entries: 1, ..map };
    assert_eq!(memory_op(&hv, &d, op::MEMORY_MAP, &short), 0);
    assert_eq!(peek::<4>(&hv, &d, ARGUMENT), 1u32.to_le_bytes());
    let nowhere = MemoryMap { buffer: GuestHandle::new(1 << 40), ..map };
    assert_eq!(memory_op(&hv, &d, op::MEMORY_MAP, &nowhere), error(Errno::EFAULT));
    assert_eq!(memory_op(&hv, &d, op::MACHINE_MEMORY_MAP, &map), error(Errno::EPERM));
}

#[test]
fn claims_are_kept() {
    let hv = hypervisor(1, 4096);
    let g = governor(&hv, 1);
    let d = domain(&hv, 2, 512, 1);
    let rival = domain(&hv, 3, 100, 1);
    rival.memory.set_maximum(1 << 20);
    d.memory.set_maximum(3000);
    let claim = |caller: &Dom, pages| {
        let argument = MemoryReservation { nr_extents: pages, domid: d.id, ..Default::default() };
        memory_op(&hv, caller, op::CLAIM_PAGES, &argument)
    };
    assert_eq!(claim(&d, 1000), error(Errno::EPERM));
    assert_eq!(claim(&g, 3001), error(Errno::EINVAL), "above its maximum");
    assert_eq!(claim(&g, 100), error(Errno::EINVAL), "below what it has");
    assert_eq!(claim(&g, 2500), 0);
    assert_eq!(claim(&g, 2400), error(Errno::EINVAL), "it has a claim");
    assert_eq!(hv.heap.ledger().claimed, 1988);
    audit(&hv);
    let mut got = 0;
    while rival.memory.populate(&hv, Gfn(10_000 + got), 0).is_ok() {
        got += 1;
    }
    let ledger = hv.heap.ledger();
    assert!(ledger.free + ledger.scrubbing >= 1988, "{ledger:?}");
    for page in 0..1988 {
        d.memory.populate(&hv, Gfn(20_000 + page), 0).unwrap();
    }
    assert_eq!(hv.heap.ledger().claimed, 0);
    audit(&hv);
    assert_eq!(claim(&g, 3000), error(Errno::ENOMEM));
    // A claim ends with its domain.
    while !rival.memory.release_all(&hv, 1000) {}
    assert_eq!(claim(&g, 2550), 0);
    while !d.memory.release_all(&hv, 1000) {}
    assert_eq!(hv.heap.ledger().claimed, 0);
    audit(&hv);
}

#[test]
fn giving_back_works_when_the_machine_is_full() {
    let hv = hypervisor(1, 4096);
    let d = domain(&hv, 1, 2048, 1);
    let rival = domain(&hv, 2, 64, 1);
    rival.memory.set_maximum(1 << 20);
    let mut got = 0;
    while rival.memory.populate(&hv, Gfn(4096 + got), 0).is_ok() {
        got += 1;
    }
    // One page of each superpage: each needs a table first.
    let gfns: Vec<u64> = (0..4).map(|superpage| superpage * 512 + 77).collect();
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &gfns, 0), 4);
    audit(&hv);
}

#[test]
fn a_superpage_is_found_among_dirty_pieces() {
    let hv = hypervisor(1, 2048);
    let d = domain(&hv, 1, 1024, 1);
    while hv.heap.scrub_some(&hv.machine, 512) {}
    // Give back one superpage's pages in an order that leaves clean and dirty neighbours.
    let odd: Vec<u64> = (513..1024).step_by(2).collect();
    let even: Vec<u64> = (512..1024).step_by(2).collect();
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &odd, 0), 256);
    while hv.heap.scrub_some(&hv.machine, 7) {}
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &even, 0), 256);
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.extend(hv.heap.allocate(&hv.machine, 9, Owner::Hypervisor));
    }
    assert_eq!(kept.len(), 2, "mixed neighbours must merge on demand");
    kept.into_iter().for_each(|extent| hv.heap.free(extent));
    audit(&hv);
}

#[test]
fn removal_waits_until_every_cpu_has_left_the_guest() {
    let hv = Arc::new(hypervisor(2, 8192));
    let d = domain(&hv, 1, 1024, 1);
    let generation = d.memory.translation_generation();
    hv.cpus[1].enter_guest(d.id);
    let other = hv.clone();
    let left = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let observer = left.clone();
    *hv.machine.on_kick.lock().unwrap() = Some(Box::new(move |cpu| {
        assert_eq!(cpu.0, 1);
        let (other, left) = (other.clone(), left.clone());
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            left.store(true, Ordering::SeqCst);
            other.cpus[1].leave_guest();
            // It may go straight back in: the flush must not wait for that stay.
            other.cpus[1].enter_guest(DomId(1));
        });
    }));
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[600], 0), 1);
    assert!(observer.load(Ordering::SeqCst), "freed before the CPU had left");
    assert_eq!(hv.machine.kicked(ebb_core::machine::CpuId(1)), 1);
    assert_ne!(d.memory.translation_generation(), generation);
    // Additions need no flush.
    let generation = d.memory.translation_generation();
    assert_eq!(adjust(&hv, &d, op::POPULATE_PHYSMAP, &[3000], 0), 1);
    assert_eq!(d.memory.translation_generation(), generation);
    *hv.machine.on_kick.lock().unwrap() = None;
}
