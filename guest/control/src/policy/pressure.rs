//! Pressure: each domain gets what it needs, by its own report; when not all can, the busy and the weighty come first.

use super::{Figures, Goal, Host, Policy, Share, divide, pool};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use shared_abi::xen::DomId;

/// A need that falls is believed slowly: by an eighth of the difference in an interval.
const DOWN: u64 = 8;
/// So is a change of how busy a domain is.
const ACTIVITY: u64 = 8;

/// What is remembered of a domain.
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// Its need, KiB, smoothed on its way down.
    need: u64,
    /// How busy it is, smoothed; in units of 1/256 thousandths.
    activity: u64,
}

/// Gives each domain that reports what it needs and a little more, and leaves the rest to the host. A domain that
/// reports nothing keeps its target.
///
/// A domain's need is its `wish`; without one, an eighth more than what its programs were promised; and in any case what
/// it uses now (what it has less what it reports free) and a sixteenth of that. When the needs exceed what there is,
/// each gets its floor, and the rest is divided by weight, counting up to double for those whose vCPUs run most. What a
/// domain uses is not taken from it for that ([`steer`](super::steer)): only what is free changes hands.
#[derive(Clone, Debug, Default)]
pub struct Pressure {
    known: BTreeMap<DomId, Memory>,
}

/// What a domain says it needs now; `None` when it says nothing.
fn need(domain: &Figures) -> Option<u64> {
    let report = &domain.report;
    if report.is_empty() {
        return None;
    }
    let asked = report.wish.or_else(|| report.committed.map(|committed| committed.saturating_add(committed / 8)));
    let used = report.free.map(|free| domain.current.saturating_sub(free));
    let used = used.map_or(0, |used| used + used / 16);
    // Neither a wish beyond the ceiling nor one below the floor counts.
    Some(asked.unwrap_or(0).max(used).max(domain.floor).min(domain.ceiling))
}

impl Pressure {
    fn remember(&mut self, domain: &Figures, need: u64) -> Memory {
        let now = u64::from(domain.activity) << 8;
        let memory = self.known.entry(domain.id).or_insert(Memory { need, activity: now });
        memory.need = if need >= memory.need { need } else { memory.need - (memory.need - need).div_ceil(DOWN) };
        memory.activity = (memory.activity * (ACTIVITY - 1) + now) / ACTIVITY;
        *memory
    }
}

impl Policy for Pressure {
    fn name(&self) -> &'static str {
        "pressure"
    }

    fn goals(&mut self, host: &Host, domains: &[Figures]) -> Vec<Goal> {
        self.known.retain(|id, _| domains.iter().any(|domain| domain.id == *id));
        let reporting: Vec<(Figures, u64)> =
            domains.iter().filter_map(|domain| Some((*domain, need(domain)?))).collect();
        let shares: Vec<Share> = reporting
            .iter()
            .map(|(domain, need)| {
                let memory = self.remember(domain, *need);
                let weight = u64::from(domain.weight) * (1000 + (memory.activity >> 8));
                Share { low: domain.floor, high: memory.need.max(domain.floor), weight }
            })
            .collect();
        let figures: Vec<Figures> = reporting.iter().map(|(domain, _)| *domain).collect();
        let given = divide(pool(host, &figures), &shares);
        figures.iter().map(|domain| domain.id).zip(given).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Report;
    use crate::policy::simulation::{Guest, MIB, World};

    fn guest(used: u64) -> Guest {
        Guest { used: used * MIB, reports: true, ceiling: 512 * MIB, ..Guest::of(256 * MIB) }
    }

    #[test]
    fn memory_goes_from_idle_to_needy() {
        let mut world = World::new(Pressure::default(), 0, [guest(110), guest(250)]);
        world.run(40);
        let before = world.guests[1].current;
        world.guests[1].used = 330 * MIB;
        world.run(60);
        assert!(world.guests[0].current < 190 * MIB, "{}", world.guests[0].current / MIB);
        let after = world.guests[1].current;
        assert!(after > before && after >= 330 * MIB, "{} {} {:?}", before / MIB, after / MIB, world.guests);
        world.assert_still(30);
        // And back.
        (world.guests[0].used, world.guests[1].used) = (300 * MIB, 120 * MIB);
        world.run(100);
        assert!(world.guests[0].current >= 300 * MIB, "{}", world.guests[0].current / MIB);
        world.assert_still(30);
    }

    #[test]
    fn too_little_for_all_is_divided_and_stays_divided() {
        let needy = Guest { boot: 128 * MIB, target: 128 * MIB, current: 128 * MIB, ..guest(400) };
        let busy = Guest { activity: 900, ..needy };
        let mut world = World::new(Pressure::default(), 256 * MIB, [needy, busy]);
        world.run(80);
        assert!(world.guests[1].current > world.guests[0].current + 16 * MIB);
        world.assert_still(30);
    }

    #[test]
    fn a_silent_guest_keeps_its_target() {
        let silent = Guest { reports: false, ..guest(400) };
        let mut world = World::new(Pressure::default(), 0, [silent, guest(400)]);
        world.run(50);
        assert_eq!(world.guests[0].target, 256 * MIB);
    }

    #[test]
    fn nonsense_in_a_report_stays_within_the_limits() {
        let figures = |report| Figures {
            id: DomId(1),
            boot: 256 * MIB,
            floor: 104 * MIB,
            ceiling: 512 * MIB,
            target: 256 * MIB,
            current: 256 * MIB,
            weight: 256,
            activity: 0,
            report,
        };
        let max = Report { committed: Some(u64::MAX), free: Some(u64::MAX), wish: None };
        assert_eq!(need(&figures(max)), Some(512 * MIB));
        let nothing = Report { wish: Some(0), ..Report::default() };
        assert_eq!(need(&figures(nothing)), Some(104 * MIB));
        assert_eq!(need(&figures(Report::default())), None);
    }

    #[test]
    fn a_need_that_flickers_does_not_move_targets() {
        let mut world = World::new(Pressure::default(), 64 * MIB, [guest(200), guest(200)]);
        world.run(40);
        let mut moves = 0;
        for tick in 0..200 {
            world.guests[0].used = if tick % 2 == 0 { 200 * MIB } else { 180 * MIB };
            moves += world.tick();
        }
        assert!(moves <= 4, "{moves}");
    }
}
