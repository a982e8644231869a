//! Selfballooning: a goal from what the guest has promised its programs, and a step towards it.

use crate::tunables::Tunables;

/// Pages of 4 KiB in a MiB.
const MIB: u64 = 256;

/// A guest's figures at one instant, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// What programs were promised: Linux's `vm_committed_as`. In memory, in swap, or not touched yet.
    pub committed: u64,
    /// What the balloon says the guest has.
    pub current: u64,
    /// What of that the page allocator manages: Linux's `totalram_pages`. The rest is the kernel's image, its tables and
    /// holes, and is needed in any case.
    pub total: u64,
    /// Managed pages that can neither be reclaimed nor swapped: the kernel's own, and what is locked.
    pub unreclaimable: u64,
    /// Pages that must stay free for the guest to be able to reclaim at all: its lowest watermark.
    pub reserve: u64,
    /// Pages that the swap device can hold. Frontswap does not count: it may refuse.
    pub swap: u64,
    /// The most that the guest can have.
    pub most: u64,
}

impl Inputs {
    /// Pages of the guest's that the allocator does not manage.
    const fn unmanaged(&self) -> u64 {
        self.current.saturating_sub(self.total)
    }

    /// The fewest pages with which the guest lives: its kernel, the reserve, and what is committed and would not fit on
    /// the swap device.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.unmanaged()
            .saturating_add(self.unreclaimable)
            .saturating_add(self.reserve)
            .saturating_add(self.committed.saturating_sub(self.swap))
    }

    /// Whether `pages` more may be committed with the memory there is now. A guest that promises no more than this can
    /// keep its promises whatever the host does; when it is refused, it asks its balloon for more first.
    #[must_use]
    pub const fn may_commit(&self, pages: u64) -> bool {
        let then = Self { committed: self.committed.saturating_add(pages), ..*self };
        then.floor() <= self.current
    }
}

/// Why a target is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `selfballooning` is 0: the target is not touched.
    Off,
    /// Current is the goal, or so near that the hysteresis makes no step.
    AtGoal,
    /// Above the goal: down, by part of the way.
    Down,
    /// Below the goal: up, by part of the way.
    Up,
    /// The step would have gone below the floor.
    Floor,
    /// The step would have gone above what the guest can have.
    Most,
    /// An allocation found too little: up at once.
    Relief,
}

impl Why {
    /// Its number in traces, 0 to 6 in the order above.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        ["off", "at goal", "down", "up", "floor", "most", "relief"][self as usize]
    }
}

/// What a step came to, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the guest should have.
    pub goal: u64,
    /// What it has.
    pub current: u64,
    /// What its balloon is to aim at now.
    pub target: u64,
    /// Why.
    pub why: Why,
}

impl Step {
    /// Pages up or down.
    #[must_use]
    pub const fn pages(&self) -> i64 {
        self.target.wrapping_sub(self.current) as i64
    }
}

/// One step: goal = committed + current - total, plus what `selfballoon_reserved_mb` adds; the target is
/// (current - goal) / downhysteresis below current, or (goal - current) / uphysteresis above, between floor and most.
#[must_use]
pub fn step(tunables: &Tunables, inputs: &Inputs) -> Step {
    let current = inputs.current;
    let goal = goal(tunables, inputs);
    if !tunables.selfballooning {
        return Step { goal, current, target: current, why: Why::Off };
    }
    let (wanted, why) = if current > goal {
        (current - (current - goal) / tunables.down_hysteresis.max(1), Why::Down)
    } else {
        // Both are below `most` or cut to it right below.
        (current.saturating_add((goal - current) / tunables.up_hysteresis.max(1)), Why::Up)
    };
    let why = if wanted == current { Why::AtGoal } else { why };
    bounded(tunables, inputs, goal, wanted, why)
}

/// An allocation found `wanted` pages too few: the target goes up by them at once, whatever the goal and the hysteresis,
/// also when selfballooning is off.
#[must_use]
pub fn relief(tunables: &Tunables, inputs: &Inputs, wanted: u64) -> Step {
    let goal = goal(tunables, inputs);
    bounded(tunables, inputs, goal, inputs.current.saturating_add(wanted), Why::Relief)
}

fn goal(tunables: &Tunables, inputs: &Inputs) -> u64 {
    let reserved = tunables.reserved_mib.saturating_mul(MIB);
    inputs.committed.saturating_add(inputs.unmanaged()).saturating_add(reserved)
}

/// Keeps a target between floor and most. The floor wins: a guest that cannot have it tries for all there is.
fn bounded(tunables: &Tunables, inputs: &Inputs, goal: u64, wanted: u64, why: Why) -> Step {
    let usable = tunables.min_usable_mib.saturating_mul(MIB);
    let floor = inputs.floor().max(inputs.unmanaged().saturating_add(inputs.unreclaimable).saturating_add(usable));
    // When the floor is above what there can be, what there is must at least not become less.
    let floor = floor.min(inputs.most).max(floor.min(inputs.current));
    let (target, why) = if wanted < floor {
        (floor, Why::Floor)
    } else if wanted > inputs.most {
        (inputs.most.max(inputs.current.min(wanted)).max(floor), Why::Most)
    } else {
        (wanted, why)
    };
    Step { goal, current: inputs.current, target, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 pages of kernel outside the allocator, 50 inside, 20 in reserve.
    fn inputs(committed: u64, current: u64) -> Inputs {
        Inputs { committed, current, total: current - 100, unreclaimable: 50, reserve: 20, swap: 10_000, most: 100_000 }
    }

    #[test]
    fn an_eighth_down_and_all_the_way_up() {
        let tunables = Tunables::DEFAULT;
        let down = step(&tunables, &inputs(4900, 13_000));
        assert_eq!((down.goal, down.target, down.why, down.pages()), (5000, 12_000, Why::Down, -1000));
        let up = step(&tunables, &inputs(4900, 3000));
        assert_eq!((up.goal, up.target, up.why, up.pages()), (5000, 5000, Why::Up, 2000));
        assert_eq!(step(&tunables, &inputs(4900, 5007)).why, Why::AtGoal);
    }

    #[test]
    fn the_floor_is_what_swap_does_not_hold() {
        let tunables = Tunables { down_hysteresis: 1, ..Tunables::DEFAULT };
        // Nothing committed: kernel and reserve.
        let step_down = step(&tunables, &inputs(0, 13_000));
        assert_eq!((step_down.target, step_down.why), (170, Why::Floor));
        let mut without_swap = inputs(4900, 13_000);
        without_swap.swap = 0;
        assert_eq!(step(&tunables, &without_swap).target, 5070);
        let usable = Tunables { min_usable_mib: 8, ..tunables };
        assert_eq!(step(&usable, &inputs(0, 13_000)).target, 150 + 2048);
    }

    #[test]
    fn off_changes_nothing_but_relief_comes_all_the_same() {
        let tunables = Tunables { selfballooning: false, ..Tunables::DEFAULT };
        let off = step(&tunables, &inputs(4900, 13_000));
        assert_eq!((off.target, off.why), (13_000, Why::Off));
        let relieved = relief(&tunables, &inputs(4900, 13_000), 64);
        assert_eq!((relieved.target, relieved.why), (13_064, Why::Relief));
        assert_eq!(relief(&tunables, &inputs(0, 99_990), 64).target, 100_000);
    }

    #[test]
    fn what_may_be_committed_fits_in_memory_and_swap() {
        let inputs = inputs(0, 1000);
        assert!(inputs.may_commit(10_000 + 1000 - 170));
        assert!(!inputs.may_commit(10_000 + 1000 - 169));
        assert!(!inputs.may_commit(u64::MAX));
    }
}
