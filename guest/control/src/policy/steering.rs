//! From goals to targets, in steps that no guest stumbles over.

use super::{Figures, Goal, Host, Share, divide};
use alloc::vec::Vec;
use shared_abi::xen::DomId;

const MIB: u64 = 1024;
/// Targets are multiples of this, so that superpages stay whole.
const GRAIN: u64 = 2 * MIB;

/// A new target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub id: DomId,
    /// The target, KiB.
    pub target: u64,
}

/// Moves targets towards goals: the targets to set now.
///
/// - A goal is first brought between the domain's floor and ceiling.
/// - A difference of less than 1/32 of the target (at least 2 MiB) is left alone.
/// - A target moves by at most 1/8 of itself (at least 8 MiB) in one interval.
/// - It does not move further while the guest has not come where it was sent: its balloon does what it can.
/// - It falls by at most half of the free memory that the guest reports.
/// - Targets rise by no more than what the host has free beyond its reserve and has not promised yet; domains share that
///   by weight.
pub fn steer(host: &Host, domains: &[Figures], goals: &[Goal]) -> Vec<Change> {
    let wanted: Vec<(&Figures, u64)> = goals
        .iter()
        .filter_map(|(id, goal)| Some((domains.iter().find(|domain| domain.id == *id)?, *goal)))
        .filter_map(|(domain, goal)| Some((domain, next_target(domain, goal)?)))
        .collect();
    let falls = wanted.iter().filter(|(domain, target)| *target < domain.target);
    let mut changes: Vec<Change> = falls.map(|(domain, target)| Change { id: domain.id, target: *target }).collect();
    let rises: Vec<&(&Figures, u64)> = wanted.iter().filter(|(domain, target)| *target > domain.target).collect();
    let promised: u64 = domains.iter().map(|domain| domain.target.saturating_sub(domain.current)).sum();
    let budget = host.free.saturating_sub(host.reserve).saturating_sub(promised);
    let share = |(domain, target): &&(&Figures, u64)| Share {
        low: 0,
        high: target - domain.target,
        weight: u64::from(domain.weight).max(1),
    };
    let shares: Vec<Share> = rises.iter().map(share).collect();
    for ((domain, target), part) in rises.into_iter().zip(divide(budget, &shares)) {
        let part = if part < target - domain.target { part / GRAIN * GRAIN } else { part };
        if part > 0 {
            changes.push(Change { id: domain.id, target: domain.target + part });
        }
    }
    changes
}

/// Where a domain's target goes in this interval, if anywhere.
fn next_target(domain: &Figures, goal: u64) -> Option<u64> {
    let target = domain.target;
    let goal = goal.max(domain.floor).min(domain.ceiling);
    let dead = (target / 32).max(GRAIN);
    let step = (target / 8).max(4 * GRAIN);
    if goal > target {
        if goal - target < dead || domain.current + GRAIN < target {
            return None;
        }
        let next = goal.min(target + step);
        // A target at its ceiling need not be a multiple.
        let next = if next == domain.ceiling { next } else { next / GRAIN * GRAIN };
        (next > target).then_some(next)
    } else {
        if target - goal < dead || domain.current > target + GRAIN {
            return None;
        }
        let spare = domain.report.free.map_or(u64::MAX, |free| free / 2);
        let next = target - (target - goal).min(step).min(spare);
        let next = next.next_multiple_of(GRAIN).max(domain.floor);
        (next < target).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Report;

    fn domain(target: u64) -> Figures {
        Figures {
            id: DomId(1),
            boot: 256 * MIB,
            floor: 64 * MIB,
            ceiling: 512 * MIB,
            target: target * MIB,
            current: target * MIB,
            weight: 256,
            activity: 0,
            report: Report::default(),
        }
    }

    const HOST: Host = Host { free: 1024 * MIB, reserve: 0 };

    fn target(host: Host, domain: Figures, goal: u64) -> Option<u64> {
        let changes = super::steer(&host, &[domain], &[(DomId(1), goal * MIB)]);
        assert!(changes.len() <= 1);
        changes.first().map(|change| change.target / MIB)
    }

    #[test]
    fn steps_are_bounded_both_ways() {
        assert_eq!(target(HOST, domain(256), 500), Some(288));
        assert_eq!(target(HOST, domain(256), 100), Some(224));
        assert_eq!(target(HOST, domain(256), 5000), Some(288));
        assert_eq!(target(HOST, domain(70), 0), Some(64));
        assert_eq!(target(HOST, domain(480), 9999), Some(512));
    }

    #[test]
    fn little_is_left_alone() {
        assert_eq!(target(HOST, domain(256), 260), None);
        assert_eq!(target(HOST, domain(256), 250), None);
        assert_eq!(target(HOST, domain(64), 10), None);
    }

    #[test]
    fn a_guest_on_its_way_is_not_hurried() {
        let late = Figures { current: 300 * MIB, ..domain(256) };
        assert_eq!(target(HOST, late, 100), None);
        assert_eq!(target(HOST, late, 400), Some(288));
        let short = Figures { current: 200 * MIB, ..domain(256) };
        assert_eq!(target(HOST, short, 400), None);
    }

    #[test]
    fn a_guest_keeps_half_of_what_it_has_free() {
        let tight = Figures { report: Report { free: Some(20 * MIB), ..Report::default() }, ..domain(256) };
        assert_eq!(target(HOST, tight, 100), Some(246));
        let none = Figures { report: Report { free: Some(0), ..Report::default() }, ..domain(256) };
        assert_eq!(target(HOST, none, 100), None);
    }

    #[test]
    fn the_host_does_not_promise_what_it_has_not() {
        let host = Host { free: 30 * MIB, reserve: 20 * MIB };
        assert_eq!(target(host, domain(256), 500), Some(266));
        assert_eq!(target(Host { free: 10 * MIB, reserve: 20 * MIB }, domain(256), 500), None);
        // Another domain is still to take what it was promised.
        let other = Figures { id: DomId(2), current: 250 * MIB, ..domain(256) };
        let host = Host { free: 10 * MIB, reserve: 0 };
        let changes = super::steer(&host, &[domain(256), other], &[(DomId(1), 500 * MIB)]);
        assert_eq!(changes, [Change { id: DomId(1), target: 260 * MIB }]);
    }
}
