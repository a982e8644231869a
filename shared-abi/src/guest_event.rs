//! Ebb's guest events: what guests report to the host tool through Xen's own `HVMOP_xentrace`
//! ([`crate::hvm::Xentrace`]). On real Xen the same call lands in Xen's trace. Numbers fit Xen's 12 bits.

use crate::hvm::{XENTRACE_EXTRA_BYTES, Xentrace};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A guest event's payload, with the number it travels under.
pub trait GuestEvent: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// The event's number.
    const EVENT: u16;

    /// The argument of `HVMOP_xentrace` that reports it.
    fn to_xentrace(&self) -> Xentrace {
        let bytes = self.as_bytes();
        let mut extra = [0; XENTRACE_EXTRA_BYTES];
        // Each payload's size is asserted at the foot of this file.
        extra[..bytes.len()].copy_from_slice(bytes);
        Xentrace { event: Self::EVENT, extra_bytes: bytes.len() as u16, extra }
    }

    /// The payload of an event, when the number is this type's and enough bytes came.
    fn decode(event: u16, extra: &[u8]) -> Option<Self> {
        if event != Self::EVENT {
            return None;
        }
        Self::read_from_prefix(extra).ok().map(|(payload, _)| payload)
    }
}

/// Number of [`BalloonStatus`].
pub const BALLOON_STATUS: u16 = 0x001;
/// Number of [`Workload`].
pub const WORKLOAD: u16 = 0x002;
/// Number of [`SelfballoonStep`].
pub const SELFBALLOON_STEP: u16 = 0x003;
/// Number of [`ReclaimStatus`].
pub const RECLAIM_STATUS: u16 = 0x004;
/// Number of [`BenchResult`].
pub const BENCH_RESULT: u16 = 0x010;
/// Number of [`TestResult`].
pub const TEST_RESULT: u16 = 0x011;
/// Number of [`Contention`].
pub const CONTENTION: u16 = 0x020;
/// Number of [`KickTimes`].
pub const KICK_TIMES: u16 = 0x021;
/// Number of [`WaitTimes`].
pub const WAIT_TIMES: u16 = 0x022;
/// Numbers from this one on are not accepted.
pub const EVENT_LIMIT: u16 = 0x1000;

/// [`BalloonStatus::reason`]: not short.
pub const REASON_NONE: u16 = 0;
/// [`BalloonStatus::reason`]: the host has no memory to give.
pub const REASON_HOST_SHORT: u16 = 1;
/// [`BalloonStatus::reason`]: the domain is at its maximum.
pub const REASON_AT_MAXIMUM: u16 = 2;
/// [`BalloonStatus::reason`]: the guest has no free memory to give.
pub const REASON_NO_FREE_GUEST_MEMORY: u16 = 3;
/// [`BalloonStatus::reason`]: the hypervisor refused.
pub const REASON_REFUSED: u16 = 4;

/// What a balloon driver stands at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BalloonStatus {
    /// Pages the guest has.
    pub current: u32,
    /// Pages it shall have.
    pub target: u32,
    /// Pages of low memory in the balloon.
    pub low: u32,
    /// Pages of high memory in the balloon.
    pub high: u32,
    /// Attempts since the target was set that did not reach it.
    pub retries: u32,
    /// Pages still wanted.
    pub shortfall: u32,
    /// `REASON_*`: why they are not there.
    pub reason: u16,
    /// 2 MiB extents won back so far (saturating).
    pub superpages_won: u16,
}

/// What a workload does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Workload {
    /// Counts the workload's phases.
    pub phase: u32,
    /// Pages it would like.
    pub wish_pages: u32,
    /// Pages it holds.
    pub held_pages: u32,
    /// Pages whose contents it has found right.
    pub verified_pages: u32,
}

/// A step of a selfballoon, with what it came from. Pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SelfballoonStep {
    /// What the guest should have.
    pub goal: u32,
    /// What it has.
    pub current: u32,
    /// What its balloon is to aim at now.
    pub target: u32,
    /// What it has promised its programs.
    pub committed: u32,
    /// The least that it can live with.
    pub floor: u32,
    /// Pages that frontswap has in transcendent memory.
    pub frontswap: u32,
    /// Why: 0 off, 1 at goal, 2 down, 3 up, 4 floor, 5 most, 6 relief.
    pub why: u16,
    /// Intervals until frontswap shrinks.
    pub waiting: u16,
}

/// What a guest's reclaim and its workload have done, ever. Pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ReclaimStatus {
    /// Accesses of the workload that are done.
    pub accesses: u32,
    /// Pages of files read from the disk.
    pub file_reads: u32,
    /// Swapped pages read from the disk.
    pub swap_reads: u32,
    /// Pages written to the disk, of files and swapped.
    pub writes: u32,
    /// Pages of files that cleancache gave back.
    pub cleancache_gets: u32,
    /// Swapped pages that frontswap gave back.
    pub frontswap_loads: u32,
    /// Pages whose contents were found right.
    pub verified: u32,
}

/// [`BenchResult::unit`]: instructions or TSC cycles.
pub const UNIT_CYCLES: u16 = 0;
/// [`BenchResult::unit`]: a count.
pub const UNIT_COUNT: u16 = 1;

/// A bench's figures.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BenchResult {
    /// [`crate::bench::BenchId`].
    pub id: u16,
    /// `UNIT_*`.
    pub unit: u16,
    /// How many samples.
    pub samples: u32,
    /// The least.
    pub min: u32,
    /// The median.
    pub median: u32,
    /// The greatest.
    pub max: u32,
}

/// [`TestResult::outcome`]: passed.
pub const OUTCOME_SUCCESS: u16 = 0;
/// [`TestResult::outcome`]: cannot be run here.
pub const OUTCOME_SKIP: u16 = 1;
/// [`TestResult::outcome`]: the test is broken.
pub const OUTCOME_ERROR: u16 = 2;
/// [`TestResult::outcome`]: Ebb is broken.
pub const OUTCOME_FAILURE: u16 = 3;

/// A test's outcome.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TestResult {
    /// The test's number in the guest's list.
    pub id: u16,
    /// `OUTCOME_*`.
    pub outcome: u16,
}

/// The locks that are compared, by their numbers in [`Contention`] and the others.
pub const LOCKS: [&str; 9] =
    ["tas", "ticket", "preemptable", "mcs", "pvticket", "pvmcs", "hybrid", "mutex", "semaphore"];
/// The mutex's number.
pub const LOCK_MUTEX: u8 = 7;
/// The semaphore's number.
pub const LOCK_SEMAPHORE: u8 = 8;
/// Buckets of waits: bucket `n` has those of `2^n` to `2^(n+1)` ns, the last all longer ones too.
pub const WAIT_BUCKETS: usize = 36;

/// What one vCPU (or thread) had of a contended lock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Contention {
    /// Which of [`LOCKS`].
    pub lock: u8,
    /// Padding.
    pub pad: u8,
    /// The vCPU or thread.
    pub vcpu: u16,
    /// How often it had the lock.
    pub operations: u32,
    /// How long it waited in all, µs.
    pub wait_us: u32,
    /// Its longest wait, µs.
    pub worst_us: u32,
    /// Looks in vain, thousands.
    pub spins: u32,
    /// Sleeps.
    pub blocks: u32,
    /// Kicks given.
    pub kicks: u32,
}

/// More of the same: kicks that ended sleeps, preemptions as the runstate tells them, processor time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct KickTimes {
    /// Which of [`LOCKS`].
    pub lock: u8,
    /// Padding.
    pub pad: u8,
    /// The vCPU or thread.
    pub vcpu: u16,
    /// Sleeps that a kick ended.
    pub woken: u32,
    /// From the kick to the end of the sleep, ns, the mean.
    pub mean_ns: u32,
    /// The longest.
    pub worst_ns: u32,
    /// Critical sections in which it lost its processor.
    pub holder_preempted: u32,
    /// Waits in which it did.
    pub waiter_preempted: u32,
    /// Processor time it used, µs.
    pub ran_us: u32,
}

/// How long waits for a lock were: a part of the [`WAIT_BUCKETS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct WaitTimes {
    /// Which of [`LOCKS`].
    pub lock: u8,
    /// Which part.
    pub part: u8,
    /// Padding.
    pub pad: u16,
    /// The part's buckets.
    pub counts: [u32; 6],
}

impl WaitTimes {
    /// Buckets in one part.
    pub const COUNTS: usize = 6;
}

impl GuestEvent for Contention {
    const EVENT: u16 = CONTENTION;
}

impl GuestEvent for KickTimes {
    const EVENT: u16 = KICK_TIMES;
}

impl GuestEvent for WaitTimes {
    const EVENT: u16 = WAIT_TIMES;
}

impl GuestEvent for BalloonStatus {
    const EVENT: u16 = BALLOON_STATUS;
}

impl GuestEvent for Workload {
    const EVENT: u16 = WORKLOAD;
}

impl GuestEvent for SelfballoonStep {
    const EVENT: u16 = SELFBALLOON_STEP;
}

impl GuestEvent for ReclaimStatus {
    const EVENT: u16 = RECLAIM_STATUS;
}

impl GuestEvent for BenchResult {
    const EVENT: u16 = BENCH_RESULT;
}

impl GuestEvent for TestResult {
    const EVENT: u16 = TEST_RESULT;
}

const _: () = {
    assert!(size_of::<BalloonStatus>() == XENTRACE_EXTRA_BYTES);
    assert!(size_of::<Workload>() == 16);
    assert!(size_of::<Contention>() == XENTRACE_EXTRA_BYTES);
    assert!(size_of::<KickTimes>() == XENTRACE_EXTRA_BYTES);
    assert!(size_of::<WaitTimes>() == XENTRACE_EXTRA_BYTES);
    assert!(WAIT_BUCKETS.is_multiple_of(WaitTimes::COUNTS));
    assert!(size_of::<SelfballoonStep>() == XENTRACE_EXTRA_BYTES);
    assert!(size_of::<ReclaimStatus>() == XENTRACE_EXTRA_BYTES);
    assert!(size_of::<BenchResult>() == 20);
    assert!(size_of::<TestResult>() == 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_round_trip() {
        let status = BalloonStatus {
            current: 100,
            target: 200,
            shortfall: 100,
            reason: REASON_HOST_SHORT,
            ..Default::default()
        };
        let call = status.to_xentrace();
        assert_eq!((call.event, call.extra_bytes), (BALLOON_STATUS, 28));
        assert_eq!(BalloonStatus::decode(call.event, &call.extra), Some(status));
        assert_eq!(Workload::decode(call.event, &call.extra), None);
        assert_eq!(BalloonStatus::decode(call.event, &call.extra[..27]), None);
    }
}
