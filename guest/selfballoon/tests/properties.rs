//! Selfballooning and selfshrinking under any inputs, and through years of a guest's time.

use ebb_selfballoon::{Inputs, SelfShrink, Tunables, Why, relief, step};
use proptest::prelude::*;

fn tunables() -> impl Strategy<Value = Tunables> {
    let divisor = prop_oneof![Just(1), 1..64_u64, any::<u64>()];
    (divisor.clone(), divisor.clone(), divisor.clone(), divisor, 0..64_u64, 0..64_u64).prop_map(
        |(down_hysteresis, up_hysteresis, frontswap_hysteresis, frontswap_inertia, min_usable_mib, reserved_mib)| {
            Tunables {
                down_hysteresis,
                up_hysteresis,
                frontswap_hysteresis,
                frontswap_inertia,
                min_usable_mib,
                reserved_mib,
                ..Tunables::DEFAULT
            }
        },
    )
}

fn anything() -> impl Strategy<Value = u64> {
    prop_oneof![0..100_000_u64, any::<u64>(), Just(0), Just(u64::MAX)]
}

prop_compose! {
    fn wild()(v in prop::array::uniform7(anything())) -> Inputs {
        Inputs {
            committed: v[0], current: v[1], total: v[2], unreclaimable: v[3], reserve: v[4], swap: v[5], most: v[6],
        }
    }
}

/// A guest with a kernel of 400 pages, half of them outside the allocator.
fn sane(committed: u64, current: u64, swap: u64) -> Inputs {
    Inputs { committed, current, total: current - 200, unreclaimable: 200, reserve: 64, swap, most: 1 << 20 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Any figures and any tunables, zeros and the largest number among them: an answer, and not below the floor unless
    /// that is more than the guest can ever have.
    #[test]
    fn nothing_breaks_it(mut tunables in tunables(), inputs in wild(), zero in 0..5, wanted in anything()) {
        match zero {
            0 => tunables.down_hysteresis = 0,
            1 => tunables.up_hysteresis = 0,
            2 => tunables.frontswap_hysteresis = 0,
            3 => tunables.frontswap_inertia = 0,
            _ => {}
        }
        for step in [step(&tunables, &inputs), relief(&tunables, &inputs, wanted)] {
            prop_assert!(step.target >= inputs.floor().min(inputs.current).min(inputs.most));
            prop_assert!(step.target >= inputs.floor() || step.target >= inputs.most.min(inputs.floor()));
            prop_assert!(step.target <= inputs.most.max(inputs.current));
        }
        let mut shrink = SelfShrink::new();
        for pages in [inputs.committed, inputs.committed, inputs.total] {
            prop_assert!(shrink.step(&tunables, pages).is_none_or(|target| target <= pages));
        }
    }

    /// Constant inputs: the distance to the goal never grows, its sign never changes, and it ends within the hysteresis.
    #[test]
    fn it_converges_and_does_not_oscillate(
        down in 1..40_u64, up in 1..40_u64, committed in 0..200_000_u64, current in 600..300_000_u64,
    ) {
        let tunables = Tunables { down_hysteresis: down, up_hysteresis: up, ..Tunables::DEFAULT };
        let mut inputs = sane(committed, current, u64::MAX);
        let goal = (committed + 200).max(inputs.floor());
        let above = inputs.current > goal;
        let mut steps = 0;
        loop {
            let step = step(&tunables, &inputs);
            if step.target == inputs.current {
                break;
            }
            prop_assert!(step.target.abs_diff(goal) < inputs.current.abs_diff(goal), "towards the goal: {step:?}");
            prop_assert!(step.target == goal || (step.target > goal) == above, "and not past it: {step:?}");
            inputs = sane(committed, step.target, u64::MAX);
            steps += 1;
            prop_assert!(steps < 1000);
        }
        let left = if above { down } else { up };
        prop_assert!(inputs.current.abs_diff(goal) < left);
    }

    /// A guest that lives with the loop: it commits what it may, the host grants or refuses as it likes, tunables
    /// change, memory is plugged in. What was promised always has a place, and the reserve is there.
    #[test]
    fn no_setting_and_no_workload_takes_the_last_page(
        swap in 0..5000_u64,
        life in prop::collection::vec((tunables(), 0..20_000_u64, any::<bool>(), 0..=100_u64), 1..200),
    ) {
        let mut guest = sane(0, 8000, swap);
        for (tunables, wish, grow, granted) in life {
            let moved = if grow && !guest.may_commit(wish) {
                relief(&tunables, &guest, wish)
            } else {
                step(&tunables, &guest)
            };
            // Down is the guest's own doing; up is as much as the host gives.
            let current = match moved.target.checked_sub(guest.current) {
                Some(up) => guest.current + up * granted / 100,
                None => moved.target,
            };
            guest = sane(guest.committed, current, swap);
            if !grow {
                guest.committed -= guest.committed.min(wish);
            } else if guest.may_commit(wish) {
                guest.committed += wish;
            }
            let usable = guest.current - 200 - guest.unreclaimable;
            prop_assert!(usable >= guest.reserve, "{guest:?}");
            prop_assert!(guest.committed <= usable - guest.reserve + swap, "{guest:?}");
        }
    }

    /// Selfshrinking empties frontswap, by no more than its share at a time, and waits after every growth.
    #[test]
    fn shrinking_ends(start in 1..1_000_000_u64, hysteresis in 1..50_u64, inertia in 1..20_u64) {
        let tunables = Tunables { frontswap_hysteresis: hysteresis, frontswap_inertia: inertia, ..Tunables::DEFAULT };
        let (mut shrink, mut pages, mut waited, mut steps) = (SelfShrink::new(), start, 0, 0);
        while pages > 0 {
            match shrink.step(&tunables, pages) {
                None => waited += 1,
                Some(target) => {
                    prop_assert!(target < pages);
                    prop_assert!(pages <= hysteresis || pages - target <= pages / hysteresis);
                    pages = target;
                }
            }
            steps += 1;
            prop_assert!(steps < 2000);
        }
        prop_assert_eq!(waited, inertia, "one interval arms the wait, the others count it down");
    }
}

/// Ten years at the default interval: a working set that follows the day and the week, jobs at night, a host that is
/// short in the afternoon. The loop follows, reverses only when the need has, and never lets the guest run out.
#[test]
fn ten_years_of_days() {
    const INTERVAL_S: u64 = 5;
    let tunables = Tunables::DEFAULT;
    let swap = 30_000;
    let mut guest = sane(10_000, 60_000, swap);
    let (mut reversals, mut up_before, mut last_need) = (0_u64, false, 0);
    let steps = 10 * 365 * 86_400 / INTERVAL_S;
    let mut needs = 0_u64;
    for tick in 0..steps {
        let second = tick * INTERVAL_S;
        let (hour, day) = (second / 3600 % 24, second / 86_400);
        let weekday = if day % 7 < 5 { 30_000 } else { 8000 };
        let need = match hour {
            9..=17 => weekday,
            2 => 50_000 - day % 11 * 1000,
            _ => 6000,
        };
        needs += u64::from(need != last_need);
        last_need = need;
        // Promise as much of the need as can be kept.
        if need <= guest.committed || guest.may_commit(need - guest.committed) {
            guest.committed = need;
        }
        let moved = step(&tunables, &guest);
        let short = (13..16).contains(&hour);
        let current = if moved.target > guest.current && short {
            guest.current + (moved.target - guest.current) / 16
        } else {
            moved.target
        };
        if moved.why != Why::AtGoal && moved.target != guest.current {
            let up = moved.target > guest.current;
            reversals += u64::from(up != up_before);
            up_before = up;
        }
        guest = sane(guest.committed, current, swap);
        assert!(guest.floor() <= guest.current, "at {second} s: {guest:?}");
    }
    assert!(reversals <= needs, "{reversals} reversals for {needs} changes of the need");
    assert!(reversals >= steps / (86_400 / INTERVAL_S), "the loop does follow: {reversals}");
}
