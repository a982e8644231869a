//! Proportional share: all memory, by weight, whatever it is used for.

use super::{Figures, Goal, Host, Policy, Share, divide, pool};
use alloc::vec::Vec;

/// Divides all memory that there is by the domains' weights, between their floors and ceilings.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProportionalShare;

impl Policy for ProportionalShare {
    fn name(&self) -> &'static str {
        "share"
    }

    fn goals(&mut self, host: &Host, domains: &[Figures]) -> Vec<Goal> {
        let share = |domain: &Figures| Share {
            low: domain.floor,
            high: domain.ceiling.max(domain.floor),
            weight: domain.weight.into(),
        };
        let shares: Vec<Share> = domains.iter().map(share).collect();
        let given = divide(pool(host, domains), &shares);
        domains.iter().map(|domain| domain.id).zip(given).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::simulation::{Guest, MIB, World};

    use super::ProportionalShare;

    #[test]
    fn memory_comes_to_lie_by_weight() {
        let guest = |weight| Guest { weight, ceiling: 1024 * MIB, ..Guest::of(256 * MIB) };
        let mut world = World::new(ProportionalShare, 256 * MIB, [guest(256), guest(512)]);
        world.run(60);
        let [small, large] = [world.guests[0].current, world.guests[1].current];
        // 768 MiB less the reserve, floors first, the rest as 1 to 2.
        let floor = super::super::floor_of(256 * MIB);
        let (low, high) = (small - floor, large - floor);
        assert!((high as f64 / low as f64 - 2.0).abs() < 0.1, "{small} {large}");
        world.assert_still(30);
    }

    #[test]
    fn a_domain_that_ends_leaves_its_memory_to_others() {
        let guest = || Guest { ceiling: 1024 * MIB, ..Guest::of(256 * MIB) };
        let mut world = World::new(ProportionalShare, 0, [guest(), guest(), guest()]);
        world.run(30);
        world.remove(1);
        world.run(60);
        let [a, b] = [world.guests[0].current, world.guests[1].current];
        assert!(a.abs_diff(b) <= 4 * MIB, "{a} {b}");
        assert!(a > 340 * MIB, "{a}");
        world.assert_still(30);
    }
}
