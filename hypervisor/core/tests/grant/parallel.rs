//! Races: between a granter that revokes and a mapper, between two vCPUs that unmap, and with the end of a granter.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ebb_core::lifecycle;
use ebb_core::machine::Machine;
use shared_abi::grant_table::{GrantStatus, MapFlags};
use shared_abi::memory::{DECREASE_RESERVATION, POPULATE_PHYSMAP};

use crate::testing;
use crate::world::*;

const HOST: MapFlags = MapFlags::HOST_MAP;
const ROUNDS: u32 = 400;

/// The first word of an entry, for the compare-and-exchange that ends access.
fn entry_word<'a>(guest: &Guest<'a>, gref: u32) -> &'a AtomicU32 {
    let at = testing::machine_address(guest.hv, &guest.domain, (TABLE << 12) + 8 * u64::from(gref));
    guest.hv.machine.word32(at)
}

#[test]
fn a_page_is_still_once_access_has_ended() {
    let hv = testing::hypervisor(2, 1024);
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            testing::set_cpu(1);
            let mut value = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let Ok(handle) = mapper.map(granter.id(), 9, EMPTY, HOST) else { continue };
                value += 1;
                mapper.write(EMPTY << 12, &value.to_le_bytes()).expect("mapped");
                writes.fetch_add(1, Ordering::Relaxed);
                assert_eq!(mapper.unmap(handle, EMPTY), GrantStatus::OKAY);
            }
        });
        testing::set_cpu(0);
        let word = entry_word(&granter, 9);
        let permission = u32::from(PERMIT) | u32::from(mapper.id().0) << 16;
        let mut ended = 0;
        while ended < ROUNDS || writes.load(Ordering::Relaxed) < u64::from(ROUNDS) {
            granter.grant(9, PERMIT, mapper.id(), 5);
            std::thread::yield_now();
            // Only an entry that is not marked can be taken back.
            while word.compare_exchange(permission, 0, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                std::hint::spin_loop();
            }
            let seen = granter.read::<8>(5 << 12);
            std::thread::yield_now();
            assert_eq!(granter.read::<8>(5 << 12), seen, "written after access had ended");
            ended += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(granter.domain.grants.in_use(), 0);
    audit(&hv);
}

#[test]
fn of_two_that_unmap_one_does() {
    let hv = testing::hypervisor(2, 1024);
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    granter.grant(9, PERMIT, mapper.id(), 5);
    let barrier = Barrier::new(2);
    let handle = AtomicU32::new(0);
    let other = mapper.on(1);
    let outcomes = std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            testing::set_cpu(1);
            (0..ROUNDS)
                .map(|_| {
                    barrier.wait();
                    let status =
                        other.unmap(shared_abi::grant_table::GrantHandle(handle.load(Ordering::SeqCst)), EMPTY);
                    barrier.wait();
                    status
                })
                .collect::<Vec<_>>()
        });
        testing::set_cpu(0);
        let first: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let mapped = mapper.map(granter.id(), 9, EMPTY, HOST).expect("permitted");
                handle.store(mapped.0, Ordering::SeqCst);
                barrier.wait();
                let status = mapper.unmap(mapped, EMPTY);
                barrier.wait();
                assert_eq!(granter.flags(9), PERMIT);
                status
            })
            .collect();
        first.into_iter().zip(second.join().expect("no panic")).collect::<Vec<_>>()
    });
    for (one, two) in outcomes {
        assert_ne!(one == GrantStatus::OKAY, two == GrantStatus::OKAY, "{one:?} {two:?}");
    }
    audit(&hv);
}

#[test]
fn a_granter_may_change_everything_meanwhile() {
    let hv = testing::hypervisor(3, 2048);
    let (granter, mapper) = (Guest::new(&hv, 1), Guest::new(&hv, 2));
    let (one, two) = (mapper.on(0), mapper.on(1));
    let (stop, started) = (AtomicBool::new(false), Barrier::new(3));
    let id = granter.id();
    std::thread::scope(|scope| {
        for (cpu, guest) in [(1, &one), (2, &two)] {
            let (stop, started) = (&stop, &started);
            scope.spawn(move || {
                testing::set_cpu(cpu);
                let at = EMPTY + u64::from(cpu);
                started.wait();
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(handle) = guest.map(id, 9, at, HOST) {
                        guest.write(at << 12, &[1; 64]).expect("mapped");
                        assert_eq!(guest.unmap(handle, at), GrantStatus::OKAY);
                    }
                }
            });
        }
        testing::set_cpu(0);
        started.wait();
        for round in 0..ROUNDS {
            let flags = [PERMIT, PERMIT | READONLY, 0, u16::MAX][round as usize % 4];
            granter.grant(9, flags, mapper.id(), 5 + u64::from(round % 3));
            let gfn = 5 + u64::from(round % 2);
            // The page may be charged until the mapper lets go; then it cannot be had back at once.
            if granter.reservation(DECREASE_RESERVATION, gfn) == 1 {
                granter.reservation(POPULATE_PHYSMAP, gfn);
            }
            granter.grant(9, PERMIT, mapper.id(), 7);
            std::thread::yield_now();
        }
        // And it may end.
        lifecycle::destroy(&hv, &granter.domain);
        while hv.find_domain(id).is_some() {
            hv.teardown_step();
        }
        stop.store(true, Ordering::Relaxed);
    });
    testing::set_cpu(0);
    assert_eq!((granter.domain.grants.in_use(), mapper.domain.grants.mapped()), (0, 0));
    assert_eq!(hv.heap.account(id).current(), 0);
    audit(&hv);
}
