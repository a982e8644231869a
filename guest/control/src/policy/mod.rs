//! Memory policies: who is to have how much.
//!
//! A [`Policy`] looks at the figures of the host and of all domains it may change, and names goals. [`steer`] then
//! moves targets towards goals: never below a domain's floor or above its ceiling, by bounded steps, not at all for
//! little, and never by more than the host has or than the guest can spare. So no policy, however wrong, takes a guest's
//! last page or makes targets swing.
//!
//! All figures are KiB.

mod pressure;
mod share;
mod steering;

pub use pressure::Pressure;
pub use share::ProportionalShare;
pub use steering::{Change, steer};

use alloc::vec::Vec;
use shared_abi::xen::DomId;

/// What a guest reports of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Memory its programs were promised (Linux: `Committed_AS`).
    pub committed: Option<u64>,
    /// Memory nobody needs right now (Linux: `MemAvailable`).
    pub free: Option<u64>,
    /// What it would like to have in all.
    pub wish: Option<u64>,
}

impl Report {
    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        *self == Report::default()
    }
}

/// A domain's figures.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Which domain.
    pub id: DomId,
    /// What it was booted with.
    pub boot: u64,
    /// What it must always have.
    pub floor: u64,
    /// What it can have at most.
    pub ceiling: u64,
    /// What it is to have now.
    pub target: u64,
    /// What it has now.
    pub current: u64,
    /// Its scheduling weight.
    pub weight: u16,
    /// Its part of the processor time that all domains used in the last interval, in thousandths.
    pub activity: u32,
    /// What it reports.
    pub report: Report,
}

/// The host's figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// Memory that no domain has.
    pub free: u64,
    /// Memory that must stay so.
    pub reserve: u64,
}

/// What a domain should have, in a policy's opinion.
pub type Goal = (DomId, u64);

/// Divides memory among domains.
pub trait Policy {
    /// Its name, as `policy=` gives it.
    fn name(&self) -> &'static str;

    /// The goals of those domains whose target should change at all.
    fn goals(&mut self, host: &Host, domains: &[Figures]) -> Vec<Goal>;
}

/// Leaves every target as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fixed;

impl Policy for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }

    fn goals(&mut self, _: &Host, _: &[Figures]) -> Vec<Goal> {
        Vec::new()
    }
}

/// The least that a guest of `boot` KiB must have so that its kernel does not run out of memory: much of a small one,
/// little of a large one. The same line as the classic Xen balloon driver draws.
pub fn floor_of(boot: u64) -> u64 {
    const MIB: u64 = 1024;
    let floor = match boot / MIB {
        0..128 => 8 * MIB + boot / 2,
        128..512 => 40 * MIB + boot / 4,
        512..2048 => 104 * MIB + boot / 8,
        _ => 296 * MIB + boot / 32,
    };
    floor.min(boot)
}

/// Divides `pool` among shares with lower and upper limits: each gets its lower limit, and the rest by weight, up to its
/// upper one. What nobody can take is left over. When the lower limits alone exceed the pool, each gets its lower limit.
fn divide(pool: u64, shares: &[Share]) -> Vec<u64> {
    let mut given: Vec<u64> = shares.iter().map(|share| share.low).collect();
    let mut rest = pool.saturating_sub(given.iter().sum());
    // Each round fills somebody up, or gives all.
    for _ in 0..shares.len() {
        let open = |(share, given): &(&Share, &u64)| **given < share.high && share.weight > 0;
        let weights: u64 = shares.iter().zip(&given).filter(open).map(|(share, _)| share.weight).sum();
        if weights == 0 || rest == 0 {
            break;
        }
        let round = rest;
        for (share, given) in shares.iter().zip(&mut given) {
            if *given < share.high {
                let part = (u128::from(round) * u128::from(share.weight) / u128::from(weights)) as u64;
                let part = part.min(share.high - *given);
                *given += part;
                rest -= part;
            }
        }
    }
    given
}

/// A party to [`divide`].
#[derive(Clone, Copy, Debug)]
struct Share {
    low: u64,
    high: u64,
    weight: u64,
}

/// The memory that there is to divide: the domains' own and what the host can spare.
fn pool(host: &Host, domains: &[Figures]) -> u64 {
    let own: u64 = domains.iter().map(|domain| domain.current).sum();
    (own + host.free).saturating_sub(host.reserve)
}

#[cfg(test)]
pub(crate) mod simulation;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(low: u64, high: u64, weight: u64) -> Share {
        Share { low, high, weight }
    }

    #[test]
    fn the_rest_goes_by_weight_up_to_the_limits() {
        assert_eq!(divide(100, &[share(0, 1000, 1), share(0, 1000, 3)]), [25, 75]);
        assert_eq!(divide(100, &[share(10, 20, 1), share(0, 1000, 1)]), [20, 80]);
        assert_eq!(divide(5, &[share(10, 20, 1), share(7, 9, 1)]), [10, 7]);
        assert_eq!(divide(1000, &[share(10, 20, 1), share(7, 9, 1)]), [20, 9]);
        assert!(divide(7, &[]).is_empty());
    }

    #[test]
    fn floors_rise_with_the_size_and_stay_below_it() {
        let sizes: Vec<u64> = (1..64).map(|step| step * 128 * 1024).collect();
        assert!(sizes.windows(2).all(|two| floor_of(two[0]) <= floor_of(two[1])));
        assert_eq!(floor_of(256 << 10), (40 + 64) << 10);
        assert_eq!(floor_of(4 << 10), 4 << 10);
    }

    proptest! {
        #[test]
        fn nobody_leaves_the_limits_and_nothing_is_invented(
            pool in 0u64..1 << 32,
            shares in prop::collection::vec((0u64..1 << 24, 0u64..1 << 24, 0u64..70_000), 0..12),
        ) {
            let shares: Vec<Share> =
                shares.into_iter().map(|(low, more, weight)| share(low, low + more, weight)).collect();
            let given = divide(pool, &shares);
            for (share, given) in shares.iter().zip(&given) {
                prop_assert!((share.low..=share.high).contains(given));
            }
            let low: u64 = shares.iter().map(|share| share.low).sum();
            prop_assert!(given.iter().sum::<u64>() <= pool.max(low));
        }
    }
}
