//! A guest with its balloon in a machine, and what must hold of every step.

use ebb_balloon::{Balloon, Next, PAGES_PER_SUPERPAGE, Presence, Region, Stats, Tuning};
use shared_abi::xen::Gfn;

use super::guest::Page;
use super::machine::Domain;
use super::{Guest, Machine};

const REGION: u64 = PAGES_PER_SUPERPAGE;

pub struct Player {
    pub domain: usize,
    pub balloon: Balloon<'static>,
    pub guest: Guest,
    pub total: u64,
    tuning: Tuning,
    /// Waits in a row since the last progress.
    waits: u32,
}

impl Player {
    /// A guest of `backed` regions present and `absent` regions of static maximum above them.
    pub fn new(machine: &mut Machine, backed: u64, absent: u64, tuning: Tuning) -> Self {
        let regions = backed + absent;
        let total = regions * REGION;
        let domain = machine.add_domain(backed, regions);
        let storage = Box::leak(vec![Region::EMPTY; regions as usize].into_boxed_slice());
        let mut balloon = Balloon::new(storage, tuning);
        balloon.add_ram(Gfn(0), backed * REGION, Presence::Present).unwrap();
        balloon.add_ram(Gfn(backed * REGION), absent * REGION, Presence::Absent).unwrap();
        Self { domain, balloon, guest: Guest::new(backed * REGION, total), total, tuning, waits: 0 }
    }

    /// Sets a target; answers what was accepted.
    pub fn set_target(&mut self, pages: u64) -> u64 {
        let before = self.balloon.target();
        let target = self.balloon.set_target(pages);
        assert_eq!(target, self.balloon.target());
        assert_eq!(target, pages.max(self.balloon.stats().floor).min(self.total));
        self.note_target(before);
        target
    }

    pub fn set_floor(&mut self, pages: u64) {
        let before = self.balloon.target();
        self.balloon.set_floor(pages);
        assert!(self.balloon.target() >= pages.min(self.total));
        self.note_target(before);
    }

    /// A step, and everything that must hold of it.
    pub fn step(&mut self, machine: &mut Machine, now_ns: u64) -> Next {
        let before = self.balloon.stats();
        let p2m_before = machine.domains[self.domain].p2m.clone();
        let calls_before = machine.calls.len();
        let next = self.balloon.step(now_ns, &mut self.guest, &mut machine.host(self.domain));
        let after = self.balloon.stats();
        let calls = machine.calls.len() - calls_before;

        assert_eq!(after.target, before.target, "a step does not change the target");
        assert!(after.shortfall <= before.shortfall, "a step led away from the target");
        let passed = (before.current < before.target) != (after.current < after.target);
        assert!(!passed || after.shortfall == 0, "a step went past the target");
        assert_eq!(next == Next::Idle, after.current == after.target, "idle if and only if at target");
        assert!(calls <= 16, "a step made {calls} hypercalls");
        let given = after.pages_given - before.pages_given;
        let got = after.pages_got - before.pages_got;
        let most =
            (self.tuning.superpages_per_step.max(1) as u64 * REGION).max(self.tuning.pages_per_step.max(1) as u64);
        assert!(given + got <= most, "a step moved more than it may");
        assert_eq!(before.current + got, after.current + given, "pages moved were not counted");
        self.check_schedule(now_ns, next, &before, &after);
        self.check_taken(machine, &p2m_before);
        self.check(machine);
        next
    }

    /// A healing step, and everything that must hold of it.
    pub fn heal(&mut self, machine: &mut Machine, now_ns: u64) -> Next {
        let before = self.balloon.stats();
        let p2m_before = machine.domains[self.domain].p2m.clone();
        let next = self.balloon.heal(now_ns, &mut self.guest, &mut machine.host(self.domain));
        let after = self.balloon.stats();
        assert!(after.current <= before.current);
        assert_eq!(after.superpages_lost, before.superpages_lost);
        if after.superpages_won > before.superpages_won {
            assert_eq!(after.regions_scattered, before.regions_scattered - 1);
            assert_eq!(after.current, before.current);
        }
        self.check_taken(machine, &p2m_before);
        self.check(machine);
        next
    }

    fn note_target(&mut self, before: u64) {
        if self.balloon.target() != before {
            assert_eq!((self.balloon.stats().retries, self.balloon.stats().delay_ns), (0, 0));
            self.waits = 0;
        }
    }

    fn check_schedule(&mut self, now_ns: u64, next: Next, before: &Stats, after: &Stats) {
        let Next::At(at) = next else {
            self.waits = 0;
            assert_eq!((after.retries, after.delay_ns), (0, 0));
            return;
        };
        assert!(at <= now_ns + self.tuning.longest_delay_ns.max(self.tuning.pace_ns), "too long a wait");
        let waits = after.retries_total > before.retries_total;
        if after.shortfall < before.shortfall {
            self.waits = 0;
            assert!(waits || at == now_ns + self.tuning.pace_ns);
        } else if !waits {
            assert!(at > now_ns, "neither tried nor waited");
        }
        if waits {
            let doubled = self.tuning.first_delay_ns.saturating_mul(1 << self.waits.min(40));
            assert_eq!(at - now_ns, doubled.min(self.tuning.longest_delay_ns), "after {} waits", self.waits);
            self.waits += 1;
        }
    }

    /// What was taken was given away or given back, and what came back unchanged was left alone.
    fn check_taken(&mut self, machine: &Machine, p2m_before: &[Option<u64>]) {
        let p2m = &machine.domains[self.domain].p2m;
        for (gfn, page) in self.guest.pages.iter_mut().enumerate().filter(|(_, page)| **page == Page::Taken) {
            assert_eq!(p2m[gfn], None, "page {gfn:#x} was taken, neither given away nor given back");
            *page = Page::Away;
        }
        for gfn in std::mem::take(&mut self.guest.unchanged) {
            assert_eq!(p2m[gfn as usize], p2m_before[gfn as usize], "page {gfn:#x} was said to be unchanged");
        }
    }

    /// What holds between steps: the machine, the guest and the balloon agree.
    pub fn check(&self, machine: &Machine) {
        let domain = &machine.domains[self.domain];
        let stats = self.balloon.stats();
        for (gfn, (page, mfn)) in self.guest.pages.iter().zip(&domain.p2m).enumerate() {
            let has = matches!(page, Page::Free | Page::Used);
            assert_eq!(has, mfn.is_some(), "page {gfn:#x} is {page:?} to the guest, {mfn:?} to the machine");
        }
        assert_eq!(stats.total, self.total);
        assert_eq!(stats.current, domain.current);
        assert_eq!(stats.current, stats.total - stats.low - stats.high);
        let high_start = self.tuning.high_start.map_or(u64::MAX, |first| first.0).min(self.total);
        let high = domain.p2m[high_start as usize..].iter().filter(|mfn| mfn.is_none()).count();
        assert_eq!(stats.high, high as u64);
        assert_eq!(stats.shortfall, stats.current.abs_diff(stats.target));
        assert!(stats.target <= stats.total);
        assert_eq!(stats.rejected, 0);
        check_regions(domain, &stats);
    }
}

/// The balloon knows the absent regions exactly, and believes no broken superpage whole.
fn check_regions(domain: &Domain, stats: &Stats) {
    let (mut absent, mut broken) = (0, 0);
    for region in domain.p2m.chunks(REGION as usize) {
        match region.iter().flatten().count() as u64 {
            0 => absent += 1,
            REGION => {
                let first = region[0].unwrap();
                let one = first.is_multiple_of(REGION) && (first..).zip(region).all(|(mfn, page)| *page == Some(mfn));
                broken += u64::from(!one);
            }
            _ => {}
        }
    }
    assert_eq!(stats.regions_absent, absent);
    assert!(broken <= stats.regions_scattered, "a broken superpage is believed whole");
}

/// Steps, jumping to each time that is asked for, until idle; answers the time. Panics when it takes for ever.
pub fn run_until_idle(player: &mut Player, machine: &mut Machine, mut now_ns: u64) -> u64 {
    for _ in 0..10_000 {
        match player.step(machine, now_ns) {
            Next::Idle => return now_ns,
            Next::At(at) => now_ns = now_ns.max(at),
        }
    }
    panic!("did not converge: {:?}", player.balloon.stats());
}
