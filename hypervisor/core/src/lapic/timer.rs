//! The local APIC's timer: a count that goes down by one for each tick of a divided clock. One tick of the undivided
//! clock is a nanosecond, so the arithmetic is exact.
//!
//! What is kept is the time at which the count reaches zero; the count itself is computed when somebody asks.
//!
//! Specification: AMD64 manual volume 2, 16.4.1; Intel SDM volume 3, 11.5.4.

/// Interrupts of a periodic timer are at least this far apart (nanoseconds): each one ends a stay in some guest, and a
/// period of a few ticks would let one domain take the processors from the others. Xen has the same limit.
const LEAST_PERIOD: u64 = 100_000;

/// The timer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    initial: u32,
    divide: u32,
    /// When the count reaches zero (ns), if it runs.
    ends: Option<u64>,
}

impl Timer {
    /// The initial count.
    pub(super) fn initial(self) -> u32 {
        self.initial
    }

    /// The divide configuration.
    pub(super) fn divide(self) -> u32 {
        self.divide
    }

    /// log2 of the divisor.
    fn shift(self) -> u32 {
        // Bits 0, 1 and 3 count 2, 4, … 128; the last code is 1.
        ((self.divide & 3 | self.divide >> 1 & 4) + 1) & 7
    }

    /// Nanoseconds of a whole count: at most 2^39.
    fn period(self) -> u64 {
        u64::from(self.initial) << self.shift()
    }

    /// The count at `now`.
    pub(super) fn current(self, now: u64, periodic: bool) -> u32 {
        let Some(ends) = self.ends else { return 0 };
        let period = self.period();
        let left = if !periodic || period == 0 {
            ends.saturating_sub(now)
        } else if now < ends {
            // The end that is kept may be a later one than the next: see `LEAST_PERIOD`.
            (ends - now - 1) % period + 1
        } else {
            // Nobody has looked since it reached zero.
            period - (now - ends) % period
        };
        // A tick that has begun still counts. What is left is never more than a period, which fits.
        left.div_ceil(1 << self.shift()) as u32
    }

    /// Begins to count down from `initial`; 0 stops the timer.
    pub(super) fn start(&mut self, initial: u32, now: u64) {
        self.initial = initial;
        self.ends = (initial != 0).then(|| now.saturating_add(self.period()));
    }

    /// Changes the divisor. A count goes on from where it is, at the new speed.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        self.align(now);
        let left = self.current(now, false);
        self.divide = value & 0b1011;
        if self.ends.is_some() {
            self.ends = Some(now.saturating_add(u64::from(left) << self.shift()));
        }
    }

    /// After [`Timer::settle`]: makes the end that is kept the next one, where it was put off (see [`LEAST_PERIOD`]).
    pub(super) fn align(&mut self, now: u64) {
        let period = self.period();
        if let Some(ends) = self.ends
            && period != 0
        {
            self.ends = Some(now + (ends.saturating_sub(now).max(1) - 1) % period + 1);
        }
    }

    /// When the count reaches zero.
    pub(super) fn deadline(self) -> Option<u64> {
        self.ends
    }

    /// Notes that it is `now`. Whether the count has reached zero since the last time: it has then stopped, or begun
    /// again. Periods that were missed are lost, as when interrupts are off too long.
    pub(super) fn settle(&mut self, now: u64, periodic: bool) -> bool {
        let Some(ends) = self.ends.filter(|ends| *ends <= now) else { return false };
        let period = self.period();
        self.ends = (periodic && period != 0).then(|| {
            // The first end of a period that is still to come and far enough off.
            let step = LEAST_PERIOD.div_ceil(period).max(1) * period;
            now.saturating_add(step - (now - ends) % step)
        });
        true
    }
}
