//! Scheduling policy: how run time becomes virtual time, and who goes first.
//!
//! The mechanism (`cpu.rs`) keeps each CPU's waiting vCPUs in order of virtual time and runs the first. A [`Policy`] says
//! how fast a vCPU's virtual time advances while it runs, where one that comes back from sleep is put, and when a
//! newcomer may take the CPU from the one that runs. All of it is arithmetic on plain numbers.

/// A point in virtual time of one CPU's queue, in weighted nanoseconds. Wraps; only differences mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualTime(pub u64);

impl VirtualTime {
    /// How far `self` is ahead of `other` (negative: behind).
    pub fn since(self, other: Self) -> i64 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// Whether `self` comes before `other`.
    pub fn precedes(self, other: Self) -> bool {
        self.since(other) < 0
    }

    /// This point moved by `lag`.
    pub fn offset(self, lag: i64) -> Self {
        Self(self.0.wrapping_add_signed(lag))
    }

    /// The later of two.
    pub fn later(self, other: Self) -> Self {
        if self.precedes(other) { other } else { self }
    }
}

/// The scheduler's parameters, chosen at boot.
#[derive(Clone, Copy)]
pub struct SchedConfig {
    /// Longest time a vCPU runs while another waits, in nanoseconds.
    pub timeslice_ns: u64,
    /// Time a vCPU runs before a newcomer may take its CPU, in nanoseconds. Bounds the rate of switches, and by the
    /// same token the time an urgent wake-up waits.
    pub ratelimit_ns: u64,
    /// How long a spinner may spin on after its first pause exit, in nanoseconds, to show whether its lock sleeps: some
    /// ten thousand rounds of a lock's loop, with a PAUSE of over a hundred cycles in each. See [`crate::sched::pause`].
    pub hearing_ns: u64,
    /// The policy.
    pub policy: &'static dyn Policy,
}

impl Default for SchedConfig {
    /// A slice of 5 ms: vCPUs that wait for each other by spinning, as a kernel's do while it starts its processors, burn
    /// the rest of their slices, so a boot of Linux with 2 vCPUs on one CPU takes a third less than with 30 ms; and a
    /// switch (some 3,000 instructions) is still nothing beside a slice.
    fn default() -> Self {
        Self { timeslice_ns: 5_000_000, ratelimit_ns: 1_000_000, hearing_ns: 2_000_000, policy: &Credit }
    }
}

impl SchedConfig {
    /// The parameters with every value brought into a range in which the arithmetic holds.
    pub fn checked(self) -> Self {
        let timeslice_ns = self.timeslice_ns.clamp(100_000, 1_000_000_000);
        Self { timeslice_ns, ratelimit_ns: self.ratelimit_ns.min(timeslice_ns), ..self }
    }
}

/// What a policy decides.
pub trait Policy: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Virtual time for `ran_ns` of run time by one vCPU of a domain of this weight, of whose vCPUs `active` want a CPU.
    fn charge(&self, ran_ns: u64, weight: u16, active: u32) -> u64;

    /// Where a vCPU that left `lag` ahead of the queue's floor and then stayed away for `away_ns` comes back, relative
    /// to the floor.
    fn entry_lag(&self, config: &SchedConfig, lag: i64, away_ns: u64) -> i64;

    /// Where a vCPU that comes from another CPU's queue is put, relative to the floor of this one: it is `ahead` of that
    /// by the two queues' clocks, and left its own queue `lag` ahead of its floor, `away_ns` ago.
    fn migration_lag(&self, config: &SchedConfig, ahead: i64, lag: i64, away_ns: u64) -> i64;

    /// Whether a newcomer at `newcomer` may take the CPU from the one that runs, at `running`, before its slice ends.
    fn preempts(&self, config: &SchedConfig, newcomer: VirtualTime, running: VirtualTime) -> bool;
}

/// The default policy: weighted fair shares by domain.
///
/// A domain's weight is shared among its vCPUs that want a CPU at the time, so that a domain's share of a busy machine
/// goes by its weight and not by how many vCPUs it has. Sleep earns credit up to half a slice, enough for a vCPU that
/// sleeps much to run soon after a wake-up, and no more, so that it cannot hoard time; debt is forgiven at the rate of
/// one.
#[derive(Clone, Copy, Debug)]
pub struct Credit;

/// The weight at which virtual time and run time advance alike.
const NOMINAL_WEIGHT: u64 = 256;
/// Most virtual time charged or owed at once, so that differences never come near half the range.
const LIMIT: u64 = 1 << 42;

impl Policy for Credit {
    fn name(&self) -> &'static str {
        "credit"
    }

    fn charge(&self, ran_ns: u64, weight: u16, active: u32) -> u64 {
        let scale = NOMINAL_WEIGHT * u64::from(active.max(1));
        (ran_ns.min(LIMIT).saturating_mul(scale) / u64::from(weight.max(1))).min(LIMIT)
    }

    fn entry_lag(&self, config: &SchedConfig, lag: i64, away_ns: u64) -> i64 {
        let most_credit = (config.timeslice_ns / 2).cast_signed();
        lag.saturating_sub_unsigned(away_ns).clamp(-most_credit, LIMIT.cast_signed())
    }

    /// The clock of a crowded queue is slower than that of one with few vCPUs, so one from there comes with credit, and
    /// the other way round with debt: that makes vCPUs which take turns on several CPUs share them all. The clocks have
    /// nothing more in common, so neither counts for more than a slice.
    fn migration_lag(&self, config: &SchedConfig, ahead: i64, lag: i64, away_ns: u64) -> i64 {
        let slice = config.timeslice_ns.cast_signed();
        let debt = lag.clamp(0, slice);
        self.entry_lag(config, ahead.clamp(-slice, slice).max(debt - slice), away_ns)
    }

    fn preempts(&self, config: &SchedConfig, newcomer: VirtualTime, running: VirtualTime) -> bool {
        running.since(newcomer) > config.ratelimit_ns.cast_signed()
    }
}

/// vCPUs take turns, a slice each, in the order in which they came: neither weights nor the number of a domain's vCPUs
/// count, and who wakes up waits for its turn. For comparison, and where every vCPU shall have the same.
#[derive(Clone, Copy, Debug)]
pub struct RoundRobin;

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        "rr"
    }

    fn charge(&self, ran_ns: u64, _weight: u16, _active: u32) -> u64 {
        ran_ns.min(LIMIT)
    }

    /// Behind those that have waited: no credit for what was not used, and what was used of a slice counts no longer
    /// than it would have taken another.
    fn entry_lag(&self, config: &SchedConfig, lag: i64, away_ns: u64) -> i64 {
        lag.saturating_sub_unsigned(away_ns).clamp(0, config.timeslice_ns.cast_signed())
    }

    /// The clocks of two queues say nothing about a turn.
    fn migration_lag(&self, config: &SchedConfig, _ahead: i64, lag: i64, away_ns: u64) -> i64 {
        self.entry_lag(config, lag, away_ns)
    }

    fn preempts(&self, _config: &SchedConfig, _newcomer: VirtualTime, _running: VirtualTime) -> bool {
        false
    }
}

/// The policy of this name.
pub fn by_name(name: &str) -> Option<&'static dyn Policy> {
    let all: [&'static dyn Policy; 2] = [&Credit, &RoundRobin];
    all.into_iter().find(|policy| policy.name() == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_advances_by_weight_and_by_number() {
        assert_eq!(Credit.charge(1_000_000, 256, 1), 1_000_000);
        assert_eq!(Credit.charge(1_000_000, 512, 1), 500_000);
        assert_eq!(Credit.charge(1_000_000, 256, 3), 3_000_000);
        // Nothing to divide by, and nobody counted yet.
        assert_eq!(Credit.charge(1_000_000, 0, 0), Credit.charge(1_000_000, 1, 1));
    }

    #[test]
    fn sleep_earns_no_more_than_half_a_slice() {
        let config = SchedConfig::default();
        let half = config.timeslice_ns as i64 / 2;
        assert_eq!(Credit.entry_lag(&config, 0, u64::MAX), -half);
        assert_eq!(Credit.entry_lag(&config, 5_000, 2_000), 3_000);
        assert_eq!(Credit.entry_lag(&config, -10 * half, 0), -half);
    }

    #[test]
    fn turns_know_neither_weight_nor_credit() {
        let config = SchedConfig { policy: &RoundRobin, ..SchedConfig::default() };
        assert_eq!(RoundRobin.charge(1_000_000, 512, 3), RoundRobin.charge(1_000_000, 1, 1));
        assert_eq!(RoundRobin.entry_lag(&config, -5_000, 1_000_000), 0);
        assert_eq!(RoundRobin.entry_lag(&config, i64::MAX, 0), config.timeslice_ns as i64);
        assert!(!RoundRobin.preempts(&config, VirtualTime(0), VirtualTime(1 << 40)));
    }

    #[test]
    fn virtual_time_wraps() {
        let early = VirtualTime(u64::MAX - 5);
        let late = early.offset(10);
        assert!(early.precedes(late) && !late.precedes(early));
        assert_eq!(late.since(early), 10);
        assert_eq!(early.later(late), late);
    }

    #[test]
    fn policies_have_names() {
        assert_eq!(by_name("credit").map(|policy| policy.name()), Some("credit"));
        assert_eq!(by_name("rr").map(|policy| policy.name()), Some("rr"));
        assert!(by_name("null").is_none());
    }

    proptest! {
        #[test]
        fn differences_stay_far_from_wrapping(
            ran in any::<u64>(), weight in any::<u16>(), active in any::<u32>(), lag in any::<i64>(), away in any::<u64>(),
        ) {
            let config = SchedConfig::default();
            let charge = Credit.charge(ran, weight, active);
            prop_assert!(charge <= LIMIT);
            let lag = Credit.entry_lag(&config, lag, away);
            prop_assert!(lag.unsigned_abs() <= LIMIT);
        }
    }
}
