//! Pause-loop exits: the processor has noticed that a vCPU spins. How long it may before that, and to whom it yields.
//!
//! **The window** is how long a spin must be to be noticed. Each vCPU has its own, in steps of two: one finer after an
//! exit that found a vCPU to yield to (the spin was in vain, the next may be noticed sooner), one coarser after an exit
//! that found none (whoever is waited for runs: better to spin on). [`Window::FINEST`] and [`Window::COARSEST`] bound it.
//! Processors count differently, PAUSEs or cycles; the vendor's code turns a step into its own unit
//! ([`Window::scale`]).
//!
//! **The yield** is directed: to a vCPU of the same domain that waits for a CPU, since one of those has what the spinner
//! waits for. It runs next here, fetched from another CPU's queue if it waits there. Its virtual time stays what it is,
//! so it pays for what it uses; and one that is ahead of the first in the queue by more than a time slice has had enough
//! and is passed over, so that a domain gains no share by it. The siblings are tried in turns. Where none will do, the
//! spinner lets whoever waits on this CPU go first.
//!
//! **A domain whose locks sleep** by themselves needs none of this, and would be disturbed: its spinners give up in time
//! and say for whom they wait. A vCPU that sleeps in `SCHEDOP_poll` on a single port without a timeout is such a lock's
//! waiter. Two such sleeps within [`NEAR`] switch the domain's pause exits off, and they stay off until [`QUIET`] has
//! passed without one. Each vCPU follows when it next comes to a CPU or has a pause exit.
//!
//! So that such a lock can be told from others, a vCPU gets a **hearing**: its first exit, and those of
//! [`SchedConfig::hearing_ns`](crate::sched::SchedConfig) after it, change nothing, and it spins on to the point where a
//! lock that sleeps would. There is one hearing in each [`QUIET`].
//!
//! Locking: one queue's lock at a time; another CPU's is tried, not waited for. The words here are hints, written
//! without a lock.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::vcpu::VcpuRef;

/// Two sleeps of lock waiters within this time (nanoseconds) are a habit.
pub const NEAR: u64 = 100_000_000;
/// The habit is over after this time (nanoseconds) without one.
pub const QUIET: u64 = 500_000_000;

/// How long a vCPU may spin before it exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The vendor's usual value times two to this power, from [`Window::FINEST`] to [`Window::COARSEST`].
    Step(i8),
    /// For ever: no pause exits.
    Off,
}

impl Window {
    /// A quarter of the usual value.
    pub const FINEST: i8 = -2;
    /// Sixteen times the usual value.
    pub const COARSEST: i8 = 4;
    /// What a vCPU begins with.
    pub const USUAL: Window = Window::Step(0);

    /// The window in the vendor's unit, from its usual value; none: no exits.
    pub fn scale(self, usual: u32) -> Option<u32> {
        match self {
            Self::Step(step) if step < 0 => Some(usual >> step.unsigned_abs()),
            Self::Step(step) => Some(usual << step),
            Self::Off => None,
        }
    }

    /// The step after an exit at `step` that found a vCPU to yield to, or did not.
    fn next(step: i8, found: bool) -> i8 {
        if found { step.saturating_sub(1).max(Self::FINEST) } else { step.saturating_add(1).min(Self::COARSEST) }
    }
}

/// What a pause exit led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A sibling that waited runs next.
    Directed,
    /// None waited. Whoever waits on this CPU goes first.
    Undirected,
    /// The domain's locks sleep by themselves, or are about to show whether they do: nothing was done.
    LeftAlone,
}

/// How a domain's pause exits came out, and when its lock waiters slept.
#[derive(Debug, Default)]
pub struct DomainPauses {
    /// A window has been asked for: this machine has pause exits.
    matter: AtomicBool,
    /// When a lock's waiter last slept, in nanoseconds.
    slept_at: AtomicU64,
    /// Pause exits are off until then.
    off_until: AtomicU64,
    /// The vCPU to try first at the next directed yield.
    next: AtomicU32,
    /// Exits by [`Outcome`].
    outcomes: [AtomicU64; 3],
}

impl DomainPauses {
    /// Nothing has happened.
    pub const fn new() -> Self {
        Self {
            matter: AtomicBool::new(false),
            slept_at: AtomicU64::new(u64::MAX),
            off_until: AtomicU64::new(0),
            next: AtomicU32::new(0),
            outcomes: [const { AtomicU64::new(0) }; 3],
        }
    }

    /// Whether sleeps must be told at all: not on a machine without pause exits.
    #[inline]
    pub(super) fn matter(&self) -> bool {
        self.matter.load(Ordering::Relaxed)
    }

    /// A lock's waiter goes to sleep.
    pub(super) fn waiter_sleeps(&self, now: u64) {
        let before = self.slept_at.swap(now, Ordering::Relaxed);
        let off = now < self.off_until.load(Ordering::Relaxed);
        if off || now.checked_sub(before).is_some_and(|apart| apart <= NEAR) {
            self.off_until.store(now + QUIET, Ordering::Relaxed);
        }
    }

    /// Whether the domain's locks sleep by themselves.
    pub fn sleeps_by_itself(&self, now: u64) -> bool {
        now < self.off_until.load(Ordering::Relaxed)
    }

    /// Exits that came out so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }
}

/// A vCPU's window. Only the CPU that runs it changes it.
#[derive(Debug, Default)]
pub struct VcpuPauses {
    /// The step, above [`Window::FINEST`].
    step: AtomicU8,
    /// When its last hearing began, in nanoseconds.
    heard_at: AtomicU64,
}

impl VcpuPauses {
    /// The usual window.
    pub const fn new() -> Self {
        Self { step: AtomicU8::new(Window::FINEST.unsigned_abs()), heard_at: AtomicU64::new(u64::MAX) }
    }

    /// Whether the vCPU, which has an exit, has a hearing of this length, or gets one now.
    fn is_heard(&self, now: u64, length: u64) -> bool {
        match now.checked_sub(self.heard_at.load(Ordering::Relaxed)) {
            Some(since) if since < QUIET => since < length,
            _ => {
                self.heard_at.store(now, Ordering::Relaxed);
                length != 0
            }
        }
    }

    fn step(&self) -> i8 {
        self.step.load(Ordering::Relaxed).cast_signed() + Window::FINEST
    }

    fn set(&self, step: i8) {
        self.step.store((step - Window::FINEST).cast_unsigned(), Ordering::Relaxed);
    }
}

/// The window with which `vcpu` is to run now. Asked when a vCPU comes to a CPU.
pub fn window<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) -> Window {
    let pauses = &vcpu.domain().sched.pauses;
    pauses.matter.store(true, Ordering::Relaxed);
    if pauses.sleeps_by_itself(hv.machine.now()) { Window::Off } else { Window::Step(vcpu.sched.pauses.step()) }
}

/// The current vCPU spins: another one gets its CPU, if it helps. The window for the next spin.
pub fn pause_exit<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) -> Window {
    let (pauses, own) = (&vcpu.domain().sched.pauses, &vcpu.sched.pauses);
    let now = hv.machine.now();
    let sleeps = pauses.sleeps_by_itself(now);
    let outcome = if sleeps || own.is_heard(now, hv.sched_config.hearing_ns) {
        Outcome::LeftAlone
    } else if yield_to_sibling(hv, vcpu) {
        Outcome::Directed
    } else {
        hv.yield_here(vcpu);
        Outcome::Undirected
    };
    pauses.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    if outcome == Outcome::LeftAlone {
        return if sleeps { Window::Off } else { Window::Step(own.step()) };
    }
    let step = Window::next(own.step(), outcome == Outcome::Directed);
    own.set(step);
    Window::Step(step)
}

/// Lets a sibling of the current vCPU that waits for a CPU run here next. False if none does.
fn yield_to_sibling<M: Machine>(hv: &Hypervisor<M>, current: &VcpuRef<M>) -> bool {
    let domain = current.domain();
    let count = domain.vcpus.len() as u32;
    let first = domain.sched.pauses.next.load(Ordering::Relaxed);
    for ahead in 0..count {
        let id = (first + ahead) % count;
        if let Some(sibling) = VcpuRef::new(domain, shared_abi::xen::VcpuId(id))
            && hv.favour(current, &sibling)
        {
            domain.sched.pauses.next.store((id + 1) % count, Ordering::Relaxed);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_stays_in_its_bounds() {
        let mut step = 0;
        for _ in 0..20 {
            step = Window::next(step, false);
        }
        assert_eq!(step, Window::COARSEST);
        assert_eq!(Window::next(step, true), Window::COARSEST - 1);
        for _ in 0..20 {
            step = Window::next(step, true);
        }
        assert_eq!(step, Window::FINEST);
        let pauses = VcpuPauses::new();
        assert_eq!(Window::Step(pauses.step()), Window::USUAL);
        for step in Window::FINEST..=Window::COARSEST {
            pauses.set(step);
            assert_eq!(pauses.step(), step);
        }
    }

    #[test]
    fn one_hearing_in_each_quiet_time() {
        let pauses = VcpuPauses::new();
        let heard = |now: u64| pauses.is_heard(now, 2_000);
        assert!(heard(500) && heard(2_499) && !heard(2_500) && !heard(500 + QUIET - 1));
        assert!(heard(500 + QUIET) && !heard(2_500 + QUIET));
        assert!(!VcpuPauses::new().is_heard(500, 0), "none of no length");
    }

    #[test]
    fn a_step_is_a_factor_of_two() {
        assert_eq!(Window::USUAL.scale(3000), Some(3000));
        assert_eq!(Window::Step(Window::FINEST).scale(3000), Some(750));
        // SVM counts in 16 bits.
        assert_eq!(Window::Step(Window::COARSEST).scale(3000), Some(48_000));
        assert_eq!(Window::Off.scale(3000), None);
    }

    #[test]
    fn a_habit_takes_two_sleeps_and_ends_in_silence() {
        let pauses = DomainPauses::new();
        pauses.waiter_sleeps(1_000);
        assert!(!pauses.sleeps_by_itself(1_001), "one is none");
        pauses.waiter_sleeps(1_000 + NEAR + 1);
        assert!(!pauses.sleeps_by_itself(2_000 + NEAR), "too far apart");
        let now = 1_000 + 2 * NEAR;
        pauses.waiter_sleeps(now);
        assert!(pauses.sleeps_by_itself(now + QUIET - 1) && !pauses.sleeps_by_itself(now + QUIET));
        // While it is off, any sleep keeps it so.
        pauses.waiter_sleeps(now + QUIET - 1);
        assert!(pauses.sleeps_by_itself(now + QUIET + NEAR));
        pauses.waiter_sleeps(now + 3 * QUIET);
        assert!(!pauses.sleeps_by_itself(now + 3 * QUIET), "it begins anew");
    }
}
