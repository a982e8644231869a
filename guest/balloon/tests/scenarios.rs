//! The stories the balloon is for, each told once and step by step.

mod common;

use common::{Machine, Player, SECOND, run_until_idle};
use ebb_balloon::{Balloon, Next, Presence, Region, SetupError, Shortage, Tuning};
use shared_abi::xen::Gfn;

const R: u64 = 512;

fn superpages_off() -> Tuning {
    Tuning { superpages: false, ..Tuning::DEFAULT }
}

#[test]
fn short_keeps_its_part_and_completes_when_another_lets_go() {
    let mut machine = Machine::new(10, 0);
    let mut a = Player::new(&mut machine, 4, 4, Tuning::DEFAULT);
    let mut b = Player::new(&mut machine, 4, 4, Tuning::DEFAULT);
    assert_eq!(machine.free_frames(), 2 * R);

    // A wants four regions more; there are two.
    assert_eq!(a.set_target(8 * R), 8 * R);
    assert_eq!(a.step(&mut machine, 0), Next::At(0), "two regions came, more is tried at once");
    assert_eq!(a.balloon.current(), 6 * R);
    let mut now = 0;
    for wait in [1, 2, 4, 8, 16, 32, 32, 32] {
        assert_eq!(a.step(&mut machine, now), Next::At(now + wait * SECOND));
        assert_eq!(a.balloon.current(), 6 * R, "what came is kept");
        now += wait * SECOND;
    }
    let stats = a.balloon.stats();
    assert_eq!((stats.shortage, stats.shortfall, stats.retries), (Shortage::HostShort, 2 * R, 8));
    assert_eq!(stats.shortage.code(), 1);

    // B lets go of one region and a bit.
    b.set_target(3 * R - 7);
    run_until_idle(&mut b, &mut machine, now);
    assert_eq!(a.step(&mut machine, now), Next::At(now));
    assert_eq!(a.balloon.current(), 7 * R);
    assert_eq!(a.step(&mut machine, now), Next::At(now + SECOND), "seven pages more, then a first wait again");
    assert_eq!(a.balloon.current(), 7 * R + 7);

    // And of the rest.
    b.set_target(2 * R);
    now = run_until_idle(&mut b, &mut machine, now);
    run_until_idle(&mut a, &mut machine, now);
    let stats = a.balloon.stats();
    assert_eq!((stats.current, stats.shortage, stats.retries), (8 * R, Shortage::None, 0));
    assert_eq!(stats.retries_total, 9);
    machine.check_ledger();
}

#[test]
fn calling_early_does_nothing() {
    let mut machine = Machine::new(2, 0);
    let mut a = Player::new(&mut machine, 2, 1, Tuning::DEFAULT);
    a.set_target(3 * R);
    assert_eq!(a.step(&mut machine, 5), Next::At(5 + SECOND));
    let calls = machine.calls.len();
    assert_eq!(a.step(&mut machine, 6), Next::At(5 + SECOND));
    assert_eq!(a.step(&mut machine, 4 + SECOND), Next::At(5 + SECOND));
    assert_eq!(machine.calls.len(), calls);
    assert_eq!(a.balloon.stats().retries, 1);
    // Unless the caller knows better; the schedule goes on all the same.
    a.balloon.retry_now();
    assert_eq!(a.step(&mut machine, 7), Next::At(7 + 2 * SECOND));
}

#[test]
fn only_a_new_target_starts_the_schedule_anew() {
    let mut machine = Machine::new(2, 0);
    let mut a = Player::new(&mut machine, 2, 2, Tuning::DEFAULT);
    a.set_target(3 * R);
    assert_eq!(a.step(&mut machine, 0), Next::At(SECOND));
    a.set_target(3 * R);
    assert_eq!(a.step(&mut machine, SECOND / 2), Next::At(SECOND), "the same target is no reason to hurry");
    assert_eq!(a.step(&mut machine, SECOND), Next::At(3 * SECOND));
    a.set_target(4 * R);
    assert_eq!(a.balloon.stats().retries, 0);
    assert_eq!(a.step(&mut machine, SECOND + 1), Next::At(2 * SECOND + 1));
}

#[test]
fn the_maximum_is_no_hard_limit_either() {
    let mut machine = Machine::new(8, 0);
    let mut a = Player::new(&mut machine, 2, 4, Tuning::DEFAULT);
    machine.domains[a.domain].maximum = 3 * R + 100;
    a.set_target(5 * R);
    let mut now = 0;
    while let Next::At(at) = a.step(&mut machine, now) {
        if at > now {
            break;
        }
        now = at;
    }
    assert_eq!(a.balloon.current(), 3 * R + 100, "a region whole and a hundred pages of the next");
    assert_eq!(a.balloon.stats().shortage, Shortage::AtMaximum);
    machine.domains[a.domain].maximum = 5 * R;
    run_until_idle(&mut a, &mut machine, now);
    assert_eq!(a.balloon.current(), 5 * R);
}

#[test]
fn waits_for_the_guest_to_free_memory() {
    let mut machine = Machine::new(4, 0);
    let mut a = Player::new(&mut machine, 4, 0, Tuning::DEFAULT);
    let mut random = common::Random::new(1);
    a.guest.allocate(4 * R - 10, &mut random);
    a.set_target(R);
    assert_eq!(a.step(&mut machine, 0), Next::At(SECOND));
    assert_eq!((a.balloon.current(), a.balloon.stats().shortage), (4 * R - 10, Shortage::NoFreeGuestMemory));
    assert_eq!(a.step(&mut machine, SECOND), Next::At(3 * SECOND));
    assert_eq!(a.step(&mut machine, 3 * SECOND), Next::At(7 * SECOND));
    a.guest.release_all();
    run_until_idle(&mut a, &mut machine, 7 * SECOND);
    assert_eq!(a.balloon.current(), R);
}

#[test]
fn large_extents_go_and_come_first() {
    let mut machine = Machine::new(8, 0);
    let mut a = Player::new(&mut machine, 8, 0, Tuning::DEFAULT);
    a.set_target(4 * R - 5);
    run_until_idle(&mut a, &mut machine, 0);
    assert_eq!(machine.calls, [("decrease", 9, 4, 4), ("decrease", 0, 5, 5)]);
    machine.calls.clear();
    a.set_target(8 * R);
    run_until_idle(&mut a, &mut machine, 0);
    assert_eq!(machine.calls, [("populate", 9, 4, 4), ("populate", 0, 5, 5)]);
    let stats = a.balloon.stats();
    assert_eq!((stats.superpages_kept, stats.superpages_lost, stats.superpages_won), (4, 1, 0));
    assert_eq!((stats.superpages_given, stats.superpages_got), (4, 4));
    assert_eq!((stats.pages_given, stats.pages_got), (4 * R + 5, 4 * R + 5));
    assert_eq!(stats.regions_scattered, 1);
}

#[test]
fn a_begun_region_is_completed_before_another_is_broken() {
    let mut machine = Machine::new(4, 0);
    let mut a = Player::new(&mut machine, 4, 0, superpages_off());
    a.set_target(2 * R - 100);
    run_until_idle(&mut a, &mut machine, 0);
    assert_eq!(a.balloon.stats().regions_absent, 2);
    a.set_target(2 * R);
    run_until_idle(&mut a, &mut machine, 0);
    assert_eq!((a.balloon.stats().regions_absent, a.balloon.stats().regions_scattered), (2, 1));
}

#[test]
fn scattered_regions_are_won_back() {
    let mut machine = Machine::new(8, 0);
    let mut a = Player::new(&mut machine, 4, 0, Tuning::DEFAULT);
    machine.faults.no_superpages = true;
    a.set_target(R);
    run_until_idle(&mut a, &mut machine, 0);
    a.set_target(4 * R);
    run_until_idle(&mut a, &mut machine, 0);
    assert_eq!((a.balloon.stats().superpages_lost, a.balloon.stats().regions_scattered), (3, 3));

    // No extent to be had, then there is; but a page of one region is in use.
    assert_eq!(a.heal(&mut machine, 0), Next::At(SECOND));
    machine.faults.no_superpages = false;
    a.guest.allocate_at(R + 3);
    let mut now = SECOND;
    for _ in 0..6 {
        match a.heal(&mut machine, now) {
            Next::At(at) => now = now.max(at),
            Next::Idle => break,
        }
    }
    assert_eq!((a.balloon.stats().superpages_won, a.balloon.stats().regions_scattered), (2, 1));
    a.guest.release_all();
    assert_eq!(a.heal(&mut machine, now), Next::Idle);
    assert_eq!((a.balloon.stats().superpages_won, a.balloon.stats().regions_scattered), (3, 0));
    machine.check_ledger();
}

#[test]
fn a_hypervisor_without_exchange_is_asked_once() {
    let mut machine = Machine::new(4, 0);
    let mut a = Player::new(&mut machine, 4, 0, superpages_off());
    a.set_target(3 * R);
    run_until_idle(&mut a, &mut machine, 0);
    a.set_target(4 * R);
    run_until_idle(&mut a, &mut machine, 0);
    machine.faults.no_exchange = true;
    machine.calls.clear();
    for now in 0..5 {
        assert_eq!(a.heal(&mut machine, now * 100 * SECOND), Next::Idle);
    }
    assert_eq!(machine.calls, [("exchange", 9, 512, 0)]);
    assert!(a.balloon.stats().exchange_unsupported);
}

#[test]
fn a_torn_exchange_is_mended_by_the_next_steps() {
    let mut machine = Machine::new(4, 3);
    let mut a = Player::new(&mut machine, 4, 0, superpages_off());
    a.set_target(3 * R);
    run_until_idle(&mut a, &mut machine, 0);
    a.set_target(4 * R);
    run_until_idle(&mut a, &mut machine, 0);
    machine.faults.tear_exchange = 100;
    assert_eq!(a.heal(&mut machine, 0), Next::At(0), "call step at once");
    assert!(a.balloon.current() < 4 * R);
    run_until_idle(&mut a, &mut machine, 0);
    assert_eq!(a.balloon.current(), 4 * R);
    assert_eq!(a.heal(&mut machine, 0), Next::At(SECOND), "and do not tear again at once");
    machine.check_ledger();
}

#[test]
fn a_region_that_leaves_scattered_and_comes_back_whole_is_won() {
    let mut machine = Machine::new(6, 0);
    let mut a = Player::new(&mut machine, 4, 0, Tuning::DEFAULT);
    machine.faults.no_superpages = true;
    a.set_target(3 * R);
    run_until_idle(&mut a, &mut machine, 0);
    a.set_target(4 * R);
    run_until_idle(&mut a, &mut machine, 0);
    machine.faults.no_superpages = false;
    a.set_target(0);
    run_until_idle(&mut a, &mut machine, 0);
    a.set_target(4 * R);
    run_until_idle(&mut a, &mut machine, 0);
    let stats = a.balloon.stats();
    assert_eq!((stats.superpages_won, stats.superpages_kept, stats.superpages_lost), (1, 3, 1));
    assert_eq!(stats.regions_scattered, 0);
}

#[test]
fn after_a_failed_large_extent_pages_go_one_by_one_for_a_while() {
    let tuning = Tuning { small_run_pages: 1000, ..Tuning::DEFAULT };
    let mut machine = Machine::new(8, 0);
    let mut a = Player::new(&mut machine, 8, 0, tuning);
    machine.faults.no_superpages = true;
    a.set_target(2 * R);
    run_until_idle(&mut a, &mut machine, 0);
    // 3072 pages: after a large try two batches are 1024 pages, and enough to try again. A decrease that is refused
    // without an error is tried extent by extent, so a try is several calls.
    let mut orders: Vec<u32> = machine.calls.iter().map(|call| call.1).collect();
    orders.dedup_by(|next, last| *next == 9 && *last == 9);
    assert_eq!(orders, [9, 0, 0, 9, 0, 0, 9, 0, 0]);
}

#[test]
fn a_region_that_leaves_page_by_page_and_comes_back_whole_is_lost_and_won() {
    let mut machine = Machine::new(4, 0);
    let mut a = Player::new(&mut machine, 4, 0, Tuning::DEFAULT);
    machine.faults.no_superpages = true;
    a.set_target(2 * R);
    run_until_idle(&mut a, &mut machine, 0);
    machine.faults.no_superpages = false;
    a.set_target(4 * R);
    run_until_idle(&mut a, &mut machine, 0);
    let stats = a.balloon.stats();
    let fates = (stats.superpages_lost, stats.superpages_won, stats.superpages_kept);
    assert_eq!((fates, stats.regions_scattered), ((2, 2, 0), 0));
}

#[test]
fn a_region_the_guest_starts_with_a_part_of_is_no_superpage_to_lose() {
    let mut machine = Machine::new(1, 0);
    let mut regions = [Region::EMPTY; 1];
    let mut mixed = Balloon::new(&mut regions, Tuning::DEFAULT);
    mixed.add_ram(Gfn(0), 100, Presence::Present).unwrap();
    mixed.add_ram(Gfn(100), R - 100, Presence::Absent).unwrap();
    mixed.set_target(R);
    let mut guest = common::Guest::new(100, R);
    let domain = machine.add_domain(0, 1);
    assert_eq!(mixed.step(0, &mut guest, &mut machine.host(domain)), Next::Idle);
    assert_eq!((mixed.stats().superpages_lost, mixed.stats().regions_scattered), (0, 1));
}

#[test]
fn low_and_high_are_told_apart_at_any_boundary() {
    for boundary in [0, 1, 63, 64, 65, R - 1, R, R + 1, 2 * R + 130, 4 * R, u64::MAX] {
        let tuning = Tuning { high_start: Some(Gfn(boundary)), ..Tuning::DEFAULT };
        let mut machine = Machine::new(4, 0);
        let mut a = Player::new(&mut machine, 3, 1, tuning);
        for target in [R + 77, 3 * R - 1, 0, 4 * R] {
            a.set_target(target);
            run_until_idle(&mut a, &mut machine, 0);
        }
    }
}

#[test]
fn targets_are_clamped_and_wishes_remembered() {
    let mut regions = [Region::EMPTY; 8];
    let mut balloon = Balloon::new(&mut regions, Tuning { floor_pages: 100, ..Tuning::DEFAULT });
    assert_eq!(balloon.target(), 0, "without RAM even the floor is 0");
    balloon.add_ram(Gfn(0), 4 * R, Presence::Present).unwrap();
    assert_eq!(balloon.target(), 4 * R);
    assert_eq!(balloon.set_target(0), 100);
    assert_eq!(balloon.set_target(u64::MAX), 4 * R);
    assert_eq!(balloon.set_target(6 * R), 4 * R);
    balloon.add_ram(Gfn(4 * R), 4 * R, Presence::Absent).unwrap();
    assert_eq!(balloon.target(), 6 * R, "there is room for the whole wish now");
    balloon.set_floor(u64::MAX);
    assert_eq!(balloon.target(), 8 * R);
    assert_eq!(balloon.stats().floor, 8 * R);
}

#[test]
fn ram_is_added_once_and_within_the_regions() {
    let mut regions = [Region::EMPTY; 2];
    let mut balloon = Balloon::new(&mut regions, Tuning::DEFAULT);
    balloon.add_ram(Gfn(1), 700, Presence::Present).unwrap();
    for (first, pages, error) in [
        (0, 2, SetupError::Overlap),
        (700, 1, SetupError::Overlap),
        (0, 1024, SetupError::Overlap),
        (701, 324, SetupError::OutOfRange),
        (1024, 1, SetupError::OutOfRange),
        (u64::MAX, 1, SetupError::OutOfRange),
        (u64::MAX, u64::MAX, SetupError::OutOfRange),
        (2, u64::MAX, SetupError::OutOfRange),
    ] {
        assert_eq!(balloon.add_ram(Gfn(first), pages, Presence::Absent), Err(error), "{first:#x} {pages:#x}");
        assert_eq!(balloon.stats().total, 700);
    }
    balloon.add_ram(Gfn(0), 0, Presence::Absent).unwrap();
    balloon.add_ram(Gfn(0), 1, Presence::Absent).unwrap();
    balloon.add_ram(Gfn(701), 323, Presence::Absent).unwrap();
    assert_eq!((balloon.stats().total, balloon.current()), (1024, 700));
}

#[test]
fn next_sooner_is_the_earlier() {
    assert_eq!(Next::At(3).sooner(Next::At(2)), Next::At(2));
    assert_eq!(Next::Idle.sooner(Next::At(2)), Next::At(2));
    assert_eq!(Next::At(2).sooner(Next::Idle), Next::At(2));
    assert_eq!(Next::Idle.sooner(Next::Idle), Next::Idle);
}

#[test]
fn the_pace_spreads_a_move_over_time() {
    let tuning = Tuning { pace_ns: SECOND / 10, superpages_per_step: 1, ..Tuning::DEFAULT };
    let mut machine = Machine::new(8, 0);
    let mut a = Player::new(&mut machine, 8, 0, tuning);
    a.set_target(4 * R);
    assert_eq!(run_until_idle(&mut a, &mut machine, 0), 3 * SECOND / 10);
}
