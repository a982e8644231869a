//! The timer's arithmetic.

use proptest::prelude::*;

use super::*;

const DIVIDE_BY_1: u32 = 0b1011;

fn one_shot(lapic: &mut Lapic, vector: u8, count: u32, now: u64) -> Effect {
    lapic.write(register::LVT_TIMER, u32::from(vector), now);
    lapic.write(register::INITIAL_COUNT, count, now)
}

fn count(lapic: &mut Lapic, now: u64) -> u32 {
    lapic.read(register::CURRENT_COUNT, now)
}

#[test]
fn divisors_are_those_of_the_manual() {
    let codes = [0b0000, 0b0001, 0b0010, 0b0011, 0b1000, 0b1001, 0b1010, 0b1011];
    for (code, divisor) in codes.into_iter().zip([2_u64, 4, 8, 16, 32, 64, 128, 1]) {
        let mut lapic = on(0);
        lapic.write(register::DIVIDE, code, 0);
        assert_eq!(one_shot(&mut lapic, 0x30, 1000, 0), Effect::Timer(Some(1000 * divisor)), "code {code:#b}");
        assert_eq!(count(&mut lapic, 10 * divisor), 990);
    }
    let mut lapic = on(0);
    lapic.write(register::DIVIDE, u32::MAX, 0);
    assert_eq!(lapic.read(register::DIVIDE, 0), 0b1011, "bit 2 and the rest are not there");
}

#[test]
fn a_one_shot_timer_fires_once() {
    let mut lapic = on(0);
    lapic.write(register::DIVIDE, DIVIDE_BY_1, 0);
    assert_eq!(one_shot(&mut lapic, 0x30, 500, 1000), Effect::Timer(Some(1500)));
    assert_eq!((count(&mut lapic, 1000), count(&mut lapic, 1499), count(&mut lapic, 1500)), (500, 1, 0));
    assert_eq!(lapic.timer_expired(1499), (false, Some(1500)), "too early");
    assert_eq!(lapic.timer_expired(1600), (true, None));
    assert_eq!(lapic.timer_expired(1700), (false, None));
    assert_eq!(count(&mut lapic, 1800), 0);
    assert_eq!(lapic.read(register::INITIAL_COUNT, 1800), 500);
}

#[test]
fn writing_zero_stops_the_timer() {
    let mut lapic = on(0);
    one_shot(&mut lapic, 0x30, 500, 0);
    assert_eq!(lapic.write(register::INITIAL_COUNT, 0, 10), Effect::Timer(None));
    assert_eq!((count(&mut lapic, 10), lapic.timer_expired(10_000)), (0, (false, None)));
}

#[test]
fn a_periodic_timer_keeps_its_grid() {
    let mut lapic = on(0);
    lapic.write(register::DIVIDE, DIVIDE_BY_1, 0);
    lapic.write(register::LVT_TIMER, LVT_PERIODIC | 0x30, 0);
    let period = 1_000_000;
    assert_eq!(lapic.write(register::INITIAL_COUNT, period, 100), Effect::Timer(Some(1_000_100)));
    assert_eq!(lapic.timer_expired(1_000_900), (true, Some(2_000_100)), "late by 800 ns, not the next one");
    assert_eq!(lapic.timer_expired(5_500_000), (true, Some(6_000_100)), "missed periods are one interrupt");
    assert_eq!(count(&mut lapic, 5_500_000), 500_100);
    assert_eq!(count(&mut lapic, 6_100_100), 900_000, "even when nobody has served the expiry yet");
}

#[test]
fn a_tiny_period_does_not_take_the_machine() {
    let mut lapic = on(0);
    lapic.write(register::DIVIDE, DIVIDE_BY_1, 0);
    lapic.write(register::LVT_TIMER, LVT_PERIODIC | 0x30, 0);
    lapic.write(register::INITIAL_COUNT, 3, 0);
    let (mut now, mut fired) = (0, 0);
    while let (delivered, Some(next)) = lapic.timer_expired(now) {
        fired += u32::from(delivered);
        assert!((1..=3).contains(&count(&mut lapic, now)), "the count itself runs as fast as asked");
        if now > 100_000_000 {
            break;
        }
        now = next;
    }
    assert!((900..=1_100).contains(&fired), "{fired} interrupts in 0.1 s");
}

#[test]
fn a_masked_timer_counts_and_disturbs_nobody() {
    let mut lapic = on(0);
    lapic.write(register::DIVIDE, DIVIDE_BY_1, 0);
    lapic.write(register::LVT_TIMER, LVT_MASKED | 0x30, 0);
    assert_eq!(lapic.write(register::INITIAL_COUNT, 1000, 0), Effect::Timer(None));
    assert_eq!(count(&mut lapic, 400), 600);
    assert_eq!(lapic.write(register::LVT_TIMER, 0x30, 500), Effect::Timer(Some(1000)));
    assert_eq!(lapic.write(register::LVT_TIMER, LVT_MASKED | 0x30, 600), Effect::Timer(None));
    assert_eq!(lapic.write(register::LVT_TIMER, 0x30, 2000), Effect::Timer(None), "it ended while masked");
    assert_eq!(lapic.deliverable(), None);
}

#[test]
fn an_expiry_that_nobody_served_yet_is_not_lost() {
    for write in [register::INITIAL_COUNT, register::LVT_TIMER, register::SVR, register::DIVIDE] {
        let mut lapic = on(0);
        lapic.write(register::DIVIDE, DIVIDE_BY_1, 0);
        one_shot(&mut lapic, 0x30, 1000, 0);
        lapic.write(write, if write == register::SVR { ON } else { LVT_MASKED | 0x77 }, 1000);
        assert_eq!(lapic.deliverable(), Some(0x30), "register {write:#x}");
    }
}

#[test]
fn software_disable_masks_the_timer() {
    let mut lapic = on(0);
    one_shot(&mut lapic, 0x30, 1000, 0);
    assert_eq!(lapic.write(register::SVR, 0xff, 10), Effect::Timer(None));
    assert_eq!(lapic.read(register::LVT_TIMER, 10), LVT_MASKED | 0x30);
    lapic.write(register::LVT_TIMER, 0x30, 20);
    assert_eq!(lapic.read(register::LVT_TIMER, 20), LVT_MASKED | 0x30, "and cannot be unmasked");
}

#[test]
fn a_change_of_the_divisor_goes_on_from_the_count() {
    let mut lapic = on(0);
    lapic.write(register::DIVIDE, DIVIDE_BY_1, 0);
    one_shot(&mut lapic, 0x30, u32::MAX, 0);
    // Early in the machine's life, with a long count: nothing may saturate.
    let effect = lapic.write(register::DIVIDE, 0b1010, u64::from(u32::MAX) - 10);
    assert_eq!(effect, Effect::Timer(Some(u64::from(u32::MAX) - 10 + 10 * 128)));
    assert_eq!(count(&mut lapic, u64::from(u32::MAX) - 10), 10);
}

#[test]
fn a_change_of_mode_does_not_start_a_stopped_timer() {
    let mut lapic = on(0);
    one_shot(&mut lapic, 0x30, 100, 0);
    assert!(lapic.timer_expired(1000).0);
    assert_eq!(lapic.write(register::LVT_TIMER, LVT_PERIODIC | 0x30, 1000), Effect::Timer(None));
    // A running one changes what happens at its end.
    lapic.write(register::DIVIDE, DIVIDE_BY_1, 1000);
    lapic.write(register::INITIAL_COUNT, 200_000, 1000);
    lapic.write(register::LVT_TIMER, 0x30, 1100);
    assert_eq!(lapic.timer_expired(201_000), (true, None));
}

#[test]
fn a_timer_with_an_illegal_vector_is_an_error() {
    let mut lapic = on(0);
    one_shot(&mut lapic, 0x0f, 100, 0);
    assert_eq!(lapic.timer_expired(1000), (false, None));
    lapic.write(register::ESR, 0, 0);
    assert_eq!(lapic.read(register::ESR, 0), ESR_RECEIVE_ILLEGAL_VECTOR);
}

fn registers() -> impl Strategy<Value = (u32, u32)> {
    let number = prop_oneof![
        Just(register::LVT_TIMER),
        Just(register::INITIAL_COUNT),
        Just(register::DIVIDE),
        Just(register::SVR),
        Just(register::CURRENT_COUNT),
    ];
    let value = prop_oneof![any::<u32>(), 0..200_000_u32, Just(ON), Just(LVT_PERIODIC | 0x40), Just(0x40)];
    (number, value)
}

proptest! {
    /// Any register values at any time: no overflow, no count beyond the initial one, no deadline in the past that
    /// stays there, and interrupts that are not too frequent.
    #[test]
    fn arithmetic_holds_for_any_values(
        start in prop_oneof![0..1_000_000_000_u64, 0..u64::MAX - (1 << 50)],
        steps in proptest::collection::vec((registers(), 0..1_u64 << 41, any::<bool>()), 1..60),
    ) {
        let mut lapic = on(0);
        let mut now = start;
        for ((number, value), wait, serve) in steps {
            let effect = lapic.write(number, value, now);
            if let Effect::Timer(deadline) = effect {
                prop_assert_eq!(deadline, lapic.deadline());
                prop_assert!(deadline.is_none_or(|at| at > now));
            }
            let initial = lapic.read(register::INITIAL_COUNT, now);
            prop_assert!(count(&mut lapic, now) <= initial);
            let before = lapic.deadline();
            now = now.saturating_add(wait);
            prop_assert!(count(&mut lapic, now) <= initial);
            if serve {
                let (delivered, next) = lapic.timer_expired(now);
                prop_assert!(!delivered || before.is_some_and(|at| at <= now));
                prop_assert!(next.is_none_or(|at| at > now));
                prop_assert!(!lapic.timer_expired(now).0, "once for each expiry");
            }
        }
    }
}
