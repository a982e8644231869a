//! When to try again: exponential back-off that starts anew upon progress.

/// A wait that doubles, from a first to a longest.
#[derive(Debug)]
pub(crate) struct Retry {
    first_ns: u64,
    longest_ns: u64,
    /// The length of the last wait; 0 after progress.
    delay_ns: u64,
    /// The time before which nothing is tried, while waiting.
    not_before_ns: Option<u64>,
}

impl Retry {
    /// Not waiting. `first_ns` is not 0 and `longest_ns` not below it ([`Tuning::in_range`](crate::Tuning)).
    pub(crate) const fn new(first_ns: u64, longest_ns: u64) -> Self {
        Self { first_ns, longest_ns, delay_ns: 0, not_before_ns: None }
    }

    /// The time to wait for, if it is too early to try. A clock that was set back cannot make the wait longer than the
    /// longest there is.
    pub(crate) fn waiting(&self, now_ns: u64) -> Option<u64> {
        self.not_before_ns.filter(|&at| now_ns < at && at - now_ns <= self.longest_ns)
    }

    /// Begins the next wait, twice as long as the last up to the longest; answers when it ends.
    pub(crate) fn postpone(&mut self, now_ns: u64) -> u64 {
        self.delay_ns = match self.delay_ns {
            0 => self.first_ns,
            delay => delay.saturating_mul(2).min(self.longest_ns),
        };
        let at = now_ns.saturating_add(self.delay_ns);
        self.not_before_ns = Some(at);
        at
    }

    /// Ends the wait; the next is the first again.
    pub(crate) fn restart(&mut self) {
        self.delay_ns = 0;
        self.not_before_ns = None;
    }

    /// Ends this wait only; the next is longer still.
    pub(crate) fn cut_short(&mut self) {
        self.not_before_ns = None;
    }

    /// The length of the current or last wait, 0 after progress.
    pub(crate) const fn delay_ns(&self) -> u64 {
        self.delay_ns
    }
}

#[cfg(test)]
mod tests {
    use super::Retry;

    #[test]
    fn doubles_from_the_first_to_the_longest_and_starts_anew() {
        let mut retry = Retry::new(10, 75);
        let mut now = 0;
        for wait in [10, 20, 40, 75, 75] {
            let at = retry.postpone(now);
            assert_eq!(at, now + wait);
            assert_eq!(retry.waiting(at - 1), Some(at));
            assert_eq!(retry.waiting(at), None);
            now = at;
        }
        retry.restart();
        assert_eq!(retry.waiting(0), None);
        assert_eq!(retry.postpone(0), 10);
    }

    #[test]
    fn cutting_a_wait_short_does_not_forget_its_length() {
        let mut retry = Retry::new(10, 80);
        retry.postpone(0);
        retry.cut_short();
        assert_eq!(retry.waiting(1), None);
        assert_eq!(retry.postpone(1), 21);
    }

    #[test]
    fn survives_the_end_of_time_and_a_clock_set_back() {
        let mut retry = Retry::new(10, 80);
        assert_eq!(retry.postpone(u64::MAX - 1), u64::MAX);
        assert_eq!(retry.waiting(u64::MAX), None);
        assert_eq!(retry.waiting(0), None, "not longer than the longest wait");
        let mut retry = Retry::new(u64::MAX / 2 + 1, u64::MAX);
        retry.postpone(0);
        assert_eq!(retry.postpone(0), u64::MAX);
    }
}
