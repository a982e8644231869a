//! Conversion between two clocks by a multiplication and a shift, without division on the way.

/// `result = (ticks * mult) >> 32`, computed in 128 bits, so that it never overflows before the shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    mult: u64,
}

impl Scale {
    /// From a clock of `from_hz` to one of `to_hz`. The error is below one part in `2^32 * to_hz / from_hz`.
    ///
    /// # Panics
    /// When `from_hz` is 0 or the factor is 2^32 or more: neither happens with real clocks.
    pub const fn new(from_hz: u64, to_hz: u64) -> Self {
        let mult = ((to_hz as u128) << 32) / from_hz as u128;
        assert!(mult <= u64::MAX as u128, "clock factor out of range");
        Self { mult: mult as u64 }
    }

    /// Converts; a result beyond 64 bits is cut to the largest number.
    #[inline(always)]
    pub const fn apply(self, ticks: u64) -> u64 {
        let result = (ticks as u128 * self.mult as u128) >> 32;
        if result > u64::MAX as u128 { u64::MAX } else { result as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_clock_is_the_identity() {
        let scale = Scale::new(1_000_000_000, 1_000_000_000);
        for ticks in [0, 1, 12_345, u64::MAX] {
            assert_eq!(scale.apply(ticks), ticks);
        }
    }

    #[test]
    fn a_year_is_exact_to_the_microsecond_per_second() {
        let hz = 2_899_998_123;
        let scale = Scale::new(hz, 1_000_000_000);
        let seconds = 365 * 24 * 3600;
        let ns = scale.apply(hz * seconds);
        let exact = seconds * 1_000_000_000;
        assert!(exact.abs_diff(ns) < seconds * 1000, "{ns} against {exact}");
    }

    #[test]
    fn it_never_goes_back() {
        let scale = Scale::new(3_579_545, 1_000_000_000);
        let mut last = 0;
        for ticks in (0..u64::MAX / 2).step_by(1 << 58) {
            let ns = scale.apply(ticks);
            assert!(ns >= last);
            last = ns;
        }
        assert_eq!(scale.apply(u64::MAX), u64::MAX);
    }

    #[test]
    fn there_and_back_is_close() {
        let (there, back) = (Scale::new(2_400_000_000, 1_000_000_000), Scale::new(1_000_000_000, 2_400_000_000));
        for ns in [0u64, 1, 999, 1_000_000_007, 1 << 50] {
            let again = there.apply(back.apply(ns));
            assert!(ns.abs_diff(again) <= 1 + ns / 1_000_000_000, "{ns} became {again}");
        }
    }
}
