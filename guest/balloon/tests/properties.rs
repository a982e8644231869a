//! Random machines, random guests, random order: what the balloon promises must hold after every step.
//!
//! The seeds are fixed, so a run repeats; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for more and for others.

mod common;

use common::{Faults, Machine, Player, Random, SECOND};
use ebb_balloon::{
    Backing, Balloon, Batch, Extent, Host, Next, Outcome, PageSource, Presence, Region, Shortage, Tuning,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use shared_abi::xen::{Errno, Gfn};

const R: u64 = 512;

fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    let seed = std::env::var("PROPTEST_RNG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0xebb);
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..ProptestConfig::default() }
}

#[derive(Clone, Debug)]
enum Op {
    Target(usize, u64),
    Step(usize),
    Heal(usize),
    RetryNow(usize),
    Advance(u64),
    Allocate(usize, u64),
    Release(usize, u64),
    Reserve(usize, u64),
    Maximum(usize, u64),
    Floor(usize, u64),
    Faults(Faults),
}

const PLAYERS: usize = 3;
const BACKED: u64 = 2;
const ABSENT: u64 = 2;
const TOTAL: u64 = (BACKED + ABSENT) * R;

fn faults() -> impl Strategy<Value = Faults> {
    (0..70u8, 0..40u8, any::<bool>(), 0..50u8, 0..30u8, prop::bool::weighted(0.1)).prop_map(
        |(partial, refuse, no_superpages, errno_beside_count, tear_exchange, no_exchange)| Faults {
            partial,
            refuse,
            no_superpages,
            errno_beside_count,
            tear_exchange,
            no_exchange,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..PLAYERS;
    prop_oneof![
        4 => (who.clone(), prop_oneof![0..=TOTAL, (0..=4u64).prop_map(|regions| regions * R), any::<u64>()])
            .prop_map(|(who, pages)| Op::Target(who, pages)),
        14 => who.clone().prop_map(Op::Step),
        4 => who.clone().prop_map(Op::Heal),
        1 => who.clone().prop_map(Op::RetryNow),
        5 => (0..40 * SECOND).prop_map(Op::Advance),
        2 => (who.clone(), 0..TOTAL).prop_map(|(who, pages)| Op::Allocate(who, pages)),
        3 => (who.clone(), 0..TOTAL).prop_map(|(who, pages)| Op::Release(who, pages)),
        1 => (who.clone(), 0..R).prop_map(|(who, pages)| Op::Reserve(who, pages)),
        1 => (who.clone(), 0..=TOTAL).prop_map(|(who, pages)| Op::Maximum(who, pages)),
        1 => (who, 0..=TOTAL).prop_map(|(who, pages)| Op::Floor(who, pages)),
        2 => faults().prop_map(Op::Faults),
    ]
}

fn tuning() -> impl Strategy<Value = Tuning> {
    (
        (1..=4u64, 0..=6u32, prop_oneof![Just(0), 0..SECOND]),
        (48..=512usize, 1..=16usize, any::<bool>(), 0..2000u64),
        (prop::option::of(0..=TOTAL), 1..40u32),
    )
        .prop_map(
            |((first, doublings, pace_ns), (pages_per_step, superpages_per_step, superpages, run), (high, probes))| {
                let first_delay_ns = first * SECOND / 4;
                Tuning {
                    first_delay_ns,
                    longest_delay_ns: first_delay_ns << doublings,
                    pace_ns,
                    pages_per_step,
                    superpages_per_step,
                    superpages,
                    small_run_pages: run,
                    floor_pages: 0,
                    high_start: high.map(Gfn),
                    heal: true,
                    heal_probes: probes,
                }
            },
        )
}

struct World {
    machine: Machine,
    players: Vec<Player>,
    random: Random,
    now_ns: u64,
}

impl World {
    /// `spare` regions of host memory beside what the players start with.
    fn new(spare: u64, seed: u64, tunings: &[Tuning]) -> Self {
        let mut machine = Machine::new(tunings.len() as u64 * BACKED + spare, seed);
        let players = tunings.iter().map(|&tuning| Player::new(&mut machine, BACKED, ABSENT, tuning)).collect();
        Self { machine, players, random: Random::new(seed.wrapping_add(1)), now_ns: 0 }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Target(who, pages) => {
                self.players[who].set_target(pages);
            }
            Op::Floor(who, pages) => self.players[who].set_floor(pages),
            Op::Step(who) => {
                self.players[who].step(&mut self.machine, self.now_ns);
            }
            Op::Heal(who) => {
                self.players[who].heal(&mut self.machine, self.now_ns);
            }
            Op::RetryNow(who) => self.players[who].balloon.retry_now(),
            Op::Advance(ns) => self.now_ns += ns,
            Op::Allocate(who, pages) => self.players[who].guest.allocate(pages, &mut self.random),
            Op::Release(who, pages) => self.players[who].guest.release(pages, &mut self.random),
            Op::Reserve(who, pages) => self.players[who].guest.reserve = pages,
            Op::Maximum(who, pages) => self.machine.domains[who].maximum = pages,
            Op::Faults(faults) => self.machine.faults = faults,
        }
        self.machine.check_ledger();
    }

    /// Lets everything go well, and steps everyone until all are at their targets; answers the rounds it took.
    fn converge(&mut self, rounds: u32) -> u32 {
        self.machine.faults = Faults::default();
        for domain in &mut self.machine.domains {
            domain.maximum = TOTAL;
        }
        for player in &mut self.players {
            player.guest.release_all();
            player.guest.reserve = 0;
        }
        for round in 0..rounds {
            let mut next = Next::Idle;
            for who in 0..self.players.len() {
                next = next.sooner(self.players[who].step(&mut self.machine, self.now_ns));
            }
            match next {
                Next::Idle => return round,
                Next::At(at) => self.now_ns = self.now_ns.max(at),
            }
        }
        let stats: Vec<_> = self.players.iter().map(|player| player.balloon.stats()).collect();
        panic!("not at target after {rounds} rounds: {stats:#?}");
    }
}

proptest! {
    #![proptest_config(config(96))]

    /// Several balloons compete for one host that runs short, refuses and stops half-way; guests come and go with their
    /// memory. Every step keeps every promise (`Player::step`), the ledger adds up, and once the host lets go and the
    /// wishes fit, all come to their targets.
    #[test]
    fn competing_balloons_keep_their_promises_and_converge(
        seed in any::<u64>(),
        spare in 0..4u64,
        tunings in prop::collection::vec(tuning(), PLAYERS),
        ops in prop::collection::vec(op(), 1..120),
        shares in prop::collection::vec(0..=TOTAL, PLAYERS),
    ) {
        let mut world = World::new(spare, seed, &tunings);
        for op in &ops {
            world.apply(op);
        }
        let mut left = (PLAYERS as u64 * BACKED + spare) * R;
        for (who, &share) in shares.iter().enumerate() {
            let target = share.min(left);
            left -= target;
            world.apply(&Op::Floor(who, 0));
            world.apply(&Op::Target(who, target));
        }
        world.converge(30_000);
        world.machine.check_ledger();

        // And settled regions heal while the host has an extent to give.
        if !world.players.iter().all(|player| player.balloon.stats().exchange_unsupported) {
            heal_all(&mut world);
        }
    }

    /// A host that never has a page, or a guest that never frees one: the balloon asks for ever, ever more rarely, and
    /// never more rarely than it says.
    #[test]
    fn never_gives_up(
        tuning in tuning(),
        upwards in any::<bool>(),
        held in 0..=BACKED * R,
        part in 0..R,
    ) {
        let tuning = Tuning { superpages_per_step: 16, pages_per_step: 512, ..tuning };
        let mut machine = Machine::new(BACKED + 1, 0);
        let mut player = Player::new(&mut machine, BACKED, ABSENT, tuning);
        let mut hog = Player::new(&mut machine, 0, 1, superpages_off());
        hog.set_target(R - part);
        common::run_until_idle(&mut hog, &mut machine, 0);
        player.guest.allocate(held, &mut Random::new(part));
        player.set_target(if upwards { TOTAL } else { 0 });
        let reached = if upwards { BACKED * R + part } else { held };
        let mut now = 0;
        let mut waited = 0;
        while waited < 40 {
            let before = player.balloon.stats();
            match player.step(&mut machine, now) {
                Next::Idle => { prop_assert_eq!(reached, player.balloon.target()); break }
                Next::At(at) => {
                    waited += u32::from(player.balloon.current() == before.current);
                    now = at;
                }
            }
        }
        let stats = player.balloon.stats();
        prop_assert_eq!(stats.current, reached, "what could be had was had, and kept");
        if stats.shortfall > 0 {
            let reason = if upwards { Shortage::HostShort } else { Shortage::NoFreeGuestMemory };
            prop_assert_eq!(stats.shortage, reason);
            prop_assert_eq!(stats.delay_ns, tuning.longest_delay_ns);
            prop_assert!(stats.retries >= 40);
        }
    }

    /// A hypervisor that answers anything at all: counts beyond what was asked, errors beside counts, reservations out
    /// of the blue. The balloon's own figures stay consistent, and it neither panics nor makes up pages.
    #[test]
    fn survives_any_answer(
        answers in prop::collection::vec((any::<u64>(), 0..4u8, any::<i32>()), 1..60),
        targets in prop::collection::vec(any::<u64>(), 1..10),
        times in prop::collection::vec(any::<u64>(), 1..10),
        tuning in any_tuning(),
    ) {
        let mut regions = vec![Region::EMPTY; 4];
        let mut balloon = Balloon::new(&mut regions, tuning);
        balloon.add_ram(Gfn(3), 2 * R, Presence::Present).unwrap();
        balloon.add_ram(Gfn(3 + 2 * R), R, Presence::Absent).unwrap();
        let mut host = Oracle { answers, at: 0 };
        let mut source = Believer { free: (3..3 + 2 * R).collect() };
        for turn in 0..200 {
            balloon.set_target(targets[turn % targets.len()]);
            let now = times[turn % times.len()];
            let next = balloon.step(now, &mut source, &mut host);
            let stats = balloon.stats();
            prop_assert_eq!(next == Next::Idle, stats.current == stats.target);
            balloon.heal(now, &mut source, &mut host);
            let stats = balloon.stats();
            prop_assert_eq!(stats.total, 3 * R);
            prop_assert_eq!(stats.current, stats.total - stats.low - stats.high);
            prop_assert_eq!(stats.current, source.free.len() as u64);
            prop_assert_eq!(stats.rejected, 0);
        }
    }

    /// A page source that offers anything: pages that are not there, not RAM, not aligned, twice. What reaches the
    /// hypervisor was backed before, as far as the balloon knows, and the figures stay consistent.
    #[test]
    fn survives_any_offer(
        offers in prop::collection::vec(prop_oneof![0..4 * R, any::<u64>(), (0..6u64).prop_map(|region| region * R)], 1..600),
        superpages in any::<bool>(),
        percent in 0..100u64,
    ) {
        let mut regions = vec![Region::EMPTY; 4];
        let mut balloon = Balloon::new(&mut regions, Tuning { superpages, ..Tuning::DEFAULT });
        balloon.add_ram(Gfn(0), 2 * R + 100, Presence::Present).unwrap();
        balloon.add_ram(Gfn(3 * R), R, Presence::Absent).unwrap();
        let mut source = Offers { offers, at: 0 };
        for turn in 0..20u64 {
            balloon.set_target(turn.wrapping_mul(percent) % (3 * R));
            balloon.step(turn * 64 * SECOND, &mut source, &mut Checked { most: percent });
            balloon.heal(turn * 64 * SECOND, &mut source, &mut Checked { most: percent });
            let stats = balloon.stats();
            prop_assert_eq!(stats.current, stats.total - stats.low - stats.high);
            prop_assert!(stats.current <= stats.total);
        }
    }
}

fn superpages_off() -> Tuning {
    Tuning { superpages: false, ..Tuning::DEFAULT }
}

fn heal_all(world: &mut World) {
    for who in 0..world.players.len() {
        for _ in 0..200 {
            match world.players[who].heal(&mut world.machine, world.now_ns) {
                Next::Idle => break,
                Next::At(at) => world.now_ns = world.now_ns.max(at),
            }
        }
        world.machine.check_ledger();
        let stats = world.players[who].balloon.stats();
        assert!(
            stats.regions_scattered == 0 || stats.exchange_unsupported || !world.machine.has_superpage(),
            "an extent is free and a region stays scattered: {stats:?}"
        );
    }
}

fn any_tuning() -> impl Strategy<Value = Tuning> {
    (any::<(u64, u64, u64, usize, usize, bool, u64)>(), any::<(u64, Option<u64>, bool, u32)>()).prop_map(|(a, b)| {
        Tuning {
            first_delay_ns: a.0,
            longest_delay_ns: a.1,
            pace_ns: a.2,
            pages_per_step: a.3,
            superpages_per_step: a.4,
            superpages: a.5,
            small_run_pages: a.6,
            floor_pages: b.0,
            high_start: b.1.map(Gfn),
            heal: b.2,
            heal_probes: b.3,
        }
    })
}

/// Answers what it is told to, whatever it is asked.
struct Oracle {
    answers: Vec<(u64, u8, i32)>,
    at: usize,
}

impl Oracle {
    fn next(&mut self) -> (u64, u8, i32) {
        self.at += 1;
        self.answers[self.at % self.answers.len()]
    }

    fn outcome(&mut self, asked: usize) -> Outcome {
        let (number, kind, errno) = self.next();
        let done = match kind {
            0 => number as usize,
            1 => asked,
            2 => number as usize % (asked + 1),
            _ => 0,
        };
        let errnos = [None, Some(Errno::ENOMEM), Some(Errno::EINVAL), Some(Errno::ENOSYS)];
        Outcome { done, refused: errnos[errno as usize % 4] }
    }
}

impl Host for Oracle {
    fn decrease_reservation(&mut self, extents: &[Gfn], _: u32) -> Outcome {
        self.outcome(extents.len())
    }

    fn populate_physmap(&mut self, extents: &[Gfn], _: u32) -> Outcome {
        self.outcome(extents.len())
    }

    fn exchange(&mut self, given: &[Gfn], _: u32, _: &[Gfn], _: u32) -> Outcome {
        self.outcome(given.len())
    }

    fn current_reservation(&mut self) -> Result<u64, Errno> {
        Ok(self.next().0)
    }

    fn maximum_reservation(&mut self) -> Result<u64, Errno> {
        let (number, kind, _) = self.next();
        if kind == 0 { Err(Errno::EPERM) } else { Ok(number) }
    }
}

/// An allocator that believes all that the balloon tells it.
struct Believer {
    free: std::collections::BTreeSet<u64>,
}

impl Believer {
    fn take_whole(&mut self, first: u64, pages: u64) -> bool {
        let free = first.is_multiple_of(pages) && self.free.range(first..first + pages).count() as u64 == pages;
        if free {
            self.free.retain(|page| !(first..first + pages).contains(page));
        }
        free
    }
}

impl PageSource for Believer {
    fn take(&mut self, order: u32, out: &mut Batch) {
        let candidates: Vec<u64> = self.free.iter().copied().collect();
        for first in candidates {
            if out.is_full() {
                break;
            }
            if self.take_whole(first, 1 << order) {
                assert!(out.push(Gfn(first)));
            }
        }
    }

    fn take_at(&mut self, extent: Extent) -> bool {
        self.take_whole(extent.first.0, extent.pages())
    }

    fn give_back(&mut self, extent: Extent, _: Backing) {
        for page in extent.first.0..extent.first.0 + extent.pages() {
            assert!(self.free.insert(page), "page {page:#x} was here already");
        }
    }
}

/// Offers what it is told to.
struct Offers {
    offers: Vec<u64>,
    at: usize,
}

impl PageSource for Offers {
    fn take(&mut self, _: u32, out: &mut Batch) {
        while out.push(Gfn(self.offers[self.at % self.offers.len()])) {
            self.at += 1;
        }
    }

    fn take_at(&mut self, _: Extent) -> bool {
        self.at += 1;
        self.at.is_multiple_of(2)
    }

    fn give_back(&mut self, extent: Extent, _: Backing) {
        assert!(extent.first.0 + extent.pages() <= 4 * R, "{extent:?} came from nowhere");
    }
}

/// Does a part of each call, and checks what it is asked.
struct Checked {
    most: u64,
}

impl Checked {
    fn check(&self, extents: &[Gfn], order: u32) -> Outcome {
        assert!(!extents.is_empty() && extents.len() <= 512);
        for gfn in extents {
            assert!(gfn.is_aligned(order));
            assert!(gfn.0 < 2 * R + 100 || (3 * R..4 * R).contains(&gfn.0), "{gfn:?} is not RAM");
        }
        Outcome::done(extents.len() * self.most as usize / 100)
    }
}

impl Host for Checked {
    fn decrease_reservation(&mut self, extents: &[Gfn], order: u32) -> Outcome {
        self.check(extents, order)
    }

    fn populate_physmap(&mut self, extents: &[Gfn], order: u32) -> Outcome {
        self.check(extents, order)
    }

    fn exchange(&mut self, given: &[Gfn], order: u32, _: &[Gfn], _: u32) -> Outcome {
        self.check(given, order)
    }

    fn current_reservation(&mut self) -> Result<u64, Errno> {
        Ok(1)
    }

    fn maximum_reservation(&mut self) -> Result<u64, Errno> {
        Ok(2)
    }
}
