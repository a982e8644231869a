//! A small world for policies: guests with a need, a balloon of bounded speed, a host with so much memory.

use super::{Figures, Host, Policy, Report, floor_of, steer};
use alloc::vec::Vec;
use shared_abi::xen::DomId;

/// KiB of a MiB.
pub const MIB: u64 = 1024;
/// What a guest's balloon moves in an interval.
const SPEED: u64 = 64 * MIB;

/// A guest.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    pub id: DomId,
    pub boot: u64,
    pub ceiling: u64,
    pub target: u64,
    pub current: u64,
    pub weight: u16,
    pub activity: u32,
    /// What its programs use.
    pub used: u64,
    pub reports: bool,
}

impl Guest {
    pub fn of(boot: u64) -> Guest {
        Guest {
            id: DomId(0),
            boot,
            ceiling: boot,
            target: boot,
            current: boot,
            weight: 256,
            activity: 100,
            used: boot / 2,
            reports: false,
        }
    }
}

/// The world.
pub struct World<P> {
    policy: P,
    free: u64,
    pub guests: Vec<Guest>,
}

const RESERVE: u64 = 8 * MIB;

impl<P: Policy> World<P> {
    pub fn new(policy: P, free: u64, guests: impl IntoIterator<Item = Guest>) -> Self {
        let number = |(index, guest): (usize, Guest)| Guest { id: DomId(index as u16 + 1), ..guest };
        let guests = guests.into_iter().enumerate().map(number).collect();
        World { policy, free: free + RESERVE, guests }
    }

    pub fn remove(&mut self, index: usize) {
        self.free += self.guests.remove(index).current;
    }

    /// One interval; how many targets changed.
    pub fn tick(&mut self) -> usize {
        let total = self.free + self.guests.iter().map(|guest| guest.current).sum::<u64>();
        let host = Host { free: self.free, reserve: RESERVE };
        let figures: Vec<Figures> = self.guests.iter().map(Self::figures).collect();
        let goals = self.policy.goals(&host, &figures);
        let changes = steer(&host, &figures, &goals);
        for change in &changes {
            let guest = self.guests.iter_mut().find(|guest| guest.id == change.id).unwrap();
            assert!((floor_of(guest.boot)..=guest.ceiling).contains(&change.target));
            guest.target = change.target;
        }
        for guest in &mut self.guests {
            let before = guest.current;
            if guest.current > guest.target {
                guest.current -= (guest.current - guest.target).min(SPEED);
                self.free += before - guest.current;
                // A guest that reports is never squeezed below what it uses.
                assert!(!guest.reports || guest.current >= guest.used.min(before), "{guest:?} runs out of memory");
            }
        }
        for guest in &mut self.guests {
            let more = guest.target.saturating_sub(guest.current).min(SPEED).min(self.free);
            guest.current += more;
            self.free -= more;
        }
        assert_eq!(total, self.free + self.guests.iter().map(|guest| guest.current).sum::<u64>());
        changes.len()
    }

    fn figures(guest: &Guest) -> Figures {
        let report =
            Report { committed: Some(guest.used), free: Some(guest.current.saturating_sub(guest.used)), wish: None };
        Figures {
            id: guest.id,
            boot: guest.boot,
            floor: floor_of(guest.boot),
            ceiling: guest.ceiling,
            target: guest.target,
            current: guest.current,
            weight: guest.weight,
            activity: guest.activity,
            report: if guest.reports { report } else { Report::default() },
        }
    }

    pub fn run(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.tick();
        }
    }

    /// Nothing moves any more.
    pub fn assert_still(&mut self, ticks: usize) {
        for tick in 0..ticks {
            assert_eq!(self.tick(), 0, "a target still moves after {tick} intervals: {:?}", self.guests);
        }
    }
}
