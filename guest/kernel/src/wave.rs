//! The shape of the `tide` workload: a wish for memory that rises and falls.
//!
//! A triangle with rounded turns: half a period up, half down, by the smooth step 3x²-2x³ in integers.

/// A wish between `low` and `high` pages with the given period and phase.
#[derive(Clone, Copy, Debug)]
pub struct Wave {
    /// The least wish, pages.
    pub low: u64,
    /// The greatest wish, pages.
    pub high: u64,
    /// Time from one low to the next, ms; at least 1.
    pub period_ms: u64,
    /// How far into the period the wave starts, ms.
    pub phase_ms: u64,
}

/// Fixed point one.
const ONE: u64 = 1 << 16;

impl Wave {
    /// The wish at `now_ms` after the start, pages.
    pub fn at(&self, now_ms: u64) -> u64 {
        let period = self.period_ms.max(1);
        let place = (now_ms + self.phase_ms) % period;
        let x = place * 2 * ONE / period;
        let x = if x <= ONE { x } else { 2 * ONE - x };
        let step = x * x / ONE * (3 * ONE - 2 * x) / ONE;
        let span = self.high.saturating_sub(self.low);
        self.low + (span * step + ONE / 2) / ONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_low_peaks_in_the_middle_and_stays_inside() {
        let wave = Wave { low: 1000, high: 9000, period_ms: 20_000, phase_ms: 0 };
        assert_eq!(wave.at(0), 1000);
        assert_eq!(wave.at(10_000), 9000);
        assert_eq!(wave.at(20_000), 1000);
        assert_eq!(wave.at(5_000), 5000);
        for t in 0..20_000 {
            assert!((1000..=9000).contains(&wave.at(t)));
            assert!(wave.at(t).abs_diff(wave.at(t + 1)) < 4, "no jumps");
        }
        let late = Wave { phase_ms: 10_000, ..wave };
        assert_eq!(late.at(0), 9000);
    }

    #[test]
    fn degenerate_values_do_not_divide_by_zero() {
        let wave = Wave { low: 5, high: 2, period_ms: 0, phase_ms: 3 };
        assert_eq!(wave.at(7), 5);
    }
}
