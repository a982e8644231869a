//! Hypervisors that refuse, page sources that lie, tunables of zero.

mod common;

use common::{Machine, Player, SECOND, run_until_idle};
use ebb_balloon::{
    Backing, Balloon, Batch, Extent, Host, Next, Outcome, PageSource, Presence, Region, Shortage, Tuning,
};
use shared_abi::xen::{Errno, Gfn};

const R: u64 = 512;

fn superpages_off() -> Tuning {
    Tuning { superpages: false, ..Tuning::DEFAULT }
}

/// Refuses certain pages, whatever is offered beside them.
struct Stubborn {
    refused: Vec<u64>,
    given: Vec<u64>,
    calls: usize,
}

impl Host for Stubborn {
    fn decrease_reservation(&mut self, extents: &[Gfn], order: u32) -> Outcome {
        self.calls += 1;
        assert_eq!(order, 0);
        let done = extents.iter().take_while(|gfn| !self.refused.contains(&gfn.0)).count();
        self.given.extend(extents[..done].iter().map(|gfn| gfn.0));
        Outcome::done(done)
    }

    fn populate_physmap(&mut self, _: &[Gfn], _: u32) -> Outcome {
        Outcome::refused(Errno::EPERM)
    }

    fn exchange(&mut self, _: &[Gfn], _: u32, _: &[Gfn], _: u32) -> Outcome {
        Outcome::refused(Errno::ENOSYS)
    }

    fn current_reservation(&mut self) -> Result<u64, Errno> {
        Err(Errno::EPERM)
    }

    fn maximum_reservation(&mut self) -> Result<u64, Errno> {
        Err(Errno::EPERM)
    }
}

#[test]
fn a_refused_page_does_not_hold_up_the_others() {
    let mut regions = [Region::EMPTY; 1];
    let mut balloon = Balloon::new(&mut regions, superpages_off());
    balloon.add_ram(Gfn(0), R, Presence::Present).unwrap();
    let mut guest = common::Guest::new(R, R);
    let mut host = Stubborn { refused: vec![0, 7, 8], given: vec![], calls: 0 };
    balloon.set_target(R - 20);
    assert_eq!(balloon.step(0, &mut guest, &mut host), Next::At(SECOND));
    assert_eq!(host.given.len(), 17);
    assert_eq!(host.calls, 4);
    assert_eq!(balloon.stats().shortage, Shortage::Refused(None));
    assert!([0, 7, 8].iter().all(|&page| guest.is_free(page, 1)), "what was refused is the guest's again");
    // Upwards: an errno is told as it is.
    balloon.set_target(R);
    balloon.step(0, &mut guest, &mut host);
    assert_eq!(balloon.stats().shortage, Shortage::Refused(Some(Errno::EPERM)));
    assert_eq!(balloon.stats().shortage.code(), 4);
}

#[test]
fn refusals_are_bounded() {
    let mut regions = [Region::EMPTY; 1];
    let mut balloon = Balloon::new(&mut regions, superpages_off());
    balloon.add_ram(Gfn(0), R, Presence::Present).unwrap();
    let mut guest = common::Guest::new(R, R);
    let mut host = Stubborn { refused: (0..R).collect(), given: vec![], calls: 0 };
    balloon.set_target(0);
    assert_eq!(balloon.step(0, &mut guest, &mut host), Next::At(SECOND));
    assert_eq!((host.calls, guest.count_free()), (8, R));
}

#[test]
fn zeros_are_no_trouble() {
    let tuning = Tuning {
        first_delay_ns: 0,
        longest_delay_ns: 0,
        pace_ns: 0,
        pages_per_step: 0,
        superpages_per_step: 0,
        small_run_pages: 0,
        heal_probes: 0,
        ..Tuning::DEFAULT
    };
    let mut none: [Region; 0] = [];
    let mut balloon = Balloon::new(&mut none, tuning);
    let mut host = Stubborn { refused: vec![], given: vec![], calls: 0 };
    assert_eq!(balloon.set_target(u64::MAX), 0);
    assert_eq!(balloon.step(u64::MAX, &mut common::Guest::new(0, 0), &mut host), Next::Idle);
    assert_eq!(balloon.heal(0, &mut common::Guest::new(0, 0), &mut host), Next::Idle);

    let mut machine = Machine::new(3, 0);
    let mut a =
        Player::new(&mut machine, 2, 1, Tuning { first_delay_ns: 1_000_000, longest_delay_ns: 1_000_000, ..tuning });
    a.set_target(R - 3);
    run_until_idle(&mut a, &mut machine, 0);
    a.set_target(3 * R);
    run_until_idle(&mut a, &mut machine, 0);
    assert_eq!(a.balloon.current(), 3 * R);
}

/// A source that hands out what it does not have.
struct Liar(Vec<u64>);

impl PageSource for Liar {
    fn take(&mut self, _: u32, out: &mut Batch) {
        for &gfn in &self.0 {
            let _ = out.push(Gfn(gfn));
        }
    }

    fn give_back(&mut self, extent: Extent, backing: Backing) {
        assert_eq!((extent.first.0 < R, backing), (true, Backing::Unchanged), "{extent:?} is not its own");
    }
}

#[test]
fn a_lying_source_is_rejected() {
    let mut regions = [Region::EMPTY; 2];
    let mut balloon = Balloon::new(&mut regions, superpages_off());
    balloon.add_ram(Gfn(0), R, Presence::Present).unwrap();
    balloon.add_ram(Gfn(R), 1, Presence::Absent).unwrap();
    balloon.set_target(R - 10);
    // Not backed, not RAM, out of range, twice.
    let mut liar = Liar(vec![R, R + 1, 2 * R, u64::MAX, 5, 5, 6]);
    let mut host = Stubborn { refused: vec![], given: vec![], calls: 0 };
    balloon.step(0, &mut liar, &mut host);
    assert_eq!(host.given, [5, 5, 6]);
    let stats = balloon.stats();
    assert_eq!((stats.rejected, stats.current, stats.low), (4, R - 2, 3), "the page given twice counts once");
}
