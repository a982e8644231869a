//! Timers: each vCPU's, and each CPU's queue of them.
//!
//! A vCPU has a few timers of fixed kinds ([`Kind`]); its earliest deadline stands in the queue of one CPU, the one that
//! changed it last, which for a running vCPU is its own. It stays there if the vCPU moves on: an expiry is an event or a
//! wake-up, and those may come from anywhere. A queue's entries are found by their index, so that setting, moving and
//! stopping a timer cost a few steps and allocate nothing (room is made when a domain is admitted).
//!
//! The hardware's timer is only brought forward at once; when the earliest deadline moves back it is left to fire, and
//! set again then.
//!
//! Locking: a vCPU's deadlines are under its `VCPU` lock, which is held while its queue entry changes; a queue, and the
//! two words that say where in which queue a vCPU stands, under the CPU's `TIMER` lock. An expired entry is taken out
//! of its queue first and its vCPU's lock is taken then: whoever changes the timers between finds no entry and makes a
//! new one.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use shared_abi::sched::{SHUTDOWN_WATCHDOG, WATCHDOG_COUNT};
use shared_abi::xen::{VcpuId, Virq};

use crate::domain::Domain;
use crate::evtchn;
use crate::hypercall::{Call, CallResult, Next, Width};
use crate::hypervisor::{CpuAttention, Hypervisor, PerCpu};
use crate::lifecycle;
use crate::locks::{Mutex, rank};
use crate::machine::{CpuId, Level, Machine};
use crate::sched::heap::{IndexedHeap, Ranked};
use crate::sched::{cap, sleep};
use crate::vcpu::VcpuRef;

/// No deadline.
const NEVER: u64 = u64::MAX;
/// The hardware's timer is never set closer than this (nanoseconds), so that expiries cannot keep a CPU from its guests.
const LEAST_DISTANCE: u64 = 1_000;
/// Guests that ask `set_timer_op` for a time further off than this (nanoseconds) mean something else.
const HUGE_TIMEOUT: u64 = 1 << 50;
/// What they get: a timer event after this time (nanoseconds).
const HUGE_TIMEOUT_DELAY: u64 = 100_000_000;

/// A vCPU's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `VCPUOP_set_singleshot_timer` and `set_timer_op`: raises `VIRQ_TIMER` once.
    Singleshot,
    /// `VCPUOP_set_periodic_timer`: raises `VIRQ_TIMER` at each period.
    Periodic,
    /// The timeout of `SCHEDOP_poll`.
    Poll,
    /// The local APIC's.
    Lapic,
    /// The domain's cap gives run time to its parked vCPUs again; at vCPU 0.
    Budget,
    /// The domain's first watchdog, at vCPU 0.
    Watchdog0,
    /// The domain's second watchdog, at vCPU 0.
    Watchdog1,
}

impl Kind {
    const ALL: [Kind; KINDS] =
        [Kind::Singleshot, Kind::Periodic, Kind::Poll, Kind::Lapic, Kind::Budget, Kind::Watchdog0, Kind::Watchdog1];
}

/// Number of kinds.
const KINDS: usize = 5 + WATCHDOG_COUNT as usize;

/// When each of a vCPU's timers expires (nanoseconds), [`NEVER`] for one that is not set.
#[derive(Debug)]
struct Deadlines {
    at: [u64; KINDS],
    /// Period of the periodic timer in nanoseconds; 0: stopped.
    period: u64,
}

impl Deadlines {
    fn earliest(&self) -> u64 {
        self.at.iter().copied().fold(NEVER, u64::min)
    }

    /// Takes out the timers that have expired by `now`. The periodic one is set again, for the first multiple of its
    /// period that is still to come.
    fn expire(&mut self, now: u64) -> [bool; KINDS] {
        let mut expired = [false; KINDS];
        for (at, expired) in self.at.iter_mut().zip(&mut expired) {
            if *at <= now {
                *expired = true;
                *at = NEVER;
            }
        }
        if expired[Kind::Periodic as usize] && self.period != 0 {
            self.at[Kind::Periodic as usize] = now + self.period;
        }
        expired
    }
}

/// The timers of a vCPU.
#[derive(Debug)]
pub struct VcpuTimers {
    deadlines: Mutex<Deadlines, { rank::VCPU }>,
    /// The CPU whose queue has this vCPU's entry, plus one; 0: none has.
    home: AtomicU32,
    /// The entry's index there.
    index: AtomicU32,
    /// The poll timeout is set: spares the lock where it is not.
    polls: AtomicBool,
}

impl VcpuTimers {
    /// No timer is set.
    pub const fn new() -> Self {
        Self {
            deadlines: Mutex::new(Deadlines { at: [NEVER; KINDS], period: 0 }),
            home: AtomicU32::new(0),
            index: AtomicU32::new(0),
            polls: AtomicBool::new(false),
        }
    }

    /// When a timer expires, if it is set.
    pub fn deadline(&self, kind: Kind) -> Option<u64> {
        let at = self.deadlines.lock().at[kind as usize];
        (at != NEVER).then_some(at)
    }

    fn home(&self) -> Option<CpuId> {
        self.home.load(Ordering::Relaxed).checked_sub(1).map(|cpu| CpuId(cpu as u16))
    }

    fn set_home(&self, cpu: Option<CpuId>) {
        self.home.store(cpu.map_or(0, |cpu| u32::from(cpu.0) + 1), Ordering::Relaxed);
    }
}

impl Default for VcpuTimers {
    fn default() -> Self {
        Self::new()
    }
}

/// A vCPU's entry in a queue.
struct Entry<M: Machine> {
    deadline: u64,
    vcpu: VcpuRef<M>,
}

impl<M: Machine> Ranked for Entry<M> {
    fn precedes(&self, other: &Self) -> bool {
        self.deadline < other.deadline
    }

    fn moved_to(&self, index: usize) {
        self.vcpu.timers.index.store(index as u32, Ordering::Relaxed);
    }
}

/// The timers of a physical CPU.
pub struct CpuTimers<M: Machine> {
    queue: Mutex<IndexedHeap<Entry<M>>, { rank::TIMER }>,
    /// What the hardware's timer is set to. Written by this CPU.
    armed: AtomicU64,
    /// When the next sample is due. Only CPU 0 takes samples.
    next_sample: AtomicU64,
}

impl<M: Machine> CpuTimers<M> {
    /// Nothing is queued or armed.
    pub fn new() -> Self {
        Self { queue: Mutex::new(IndexedHeap::new()), armed: AtomicU64::new(NEVER), next_sample: AtomicU64::new(0) }
    }

    /// Makes room for `total` vCPUs. False when memory is short.
    pub(crate) fn reserve(&self, total: usize) -> bool {
        self.queue.lock().reserve(total)
    }

    /// The earliest deadline in the queue.
    fn earliest(&self) -> u64 {
        self.queue.lock().peek().map_or(NEVER, |entry| entry.deadline)
    }

    /// Takes the first entry out if it has expired.
    fn pop_expired(&self, now: u64) -> Option<VcpuRef<M>> {
        let mut queue = self.queue.lock();
        if queue.peek()?.deadline > now {
            return None;
        }
        let entry = queue.pop()?;
        entry.vcpu.timers.set_home(None);
        Some(entry.vcpu)
    }

    /// Takes `vcpu`'s entry out, if it is here.
    fn remove(&self, vcpu: &VcpuRef<M>, here: CpuId) {
        let mut queue = self.queue.lock();
        if vcpu.timers.home() == Some(here) {
            queue.remove(vcpu.timers.index.load(Ordering::Relaxed) as usize);
            vcpu.timers.set_home(None);
        }
    }

    /// Gives `vcpu`'s entry here a deadline, making one if there is none.
    fn set(&self, vcpu: &VcpuRef<M>, here: CpuId, deadline: u64) {
        let mut queue = self.queue.lock();
        let index = vcpu.timers.index.load(Ordering::Relaxed) as usize;
        if vcpu.timers.home() == Some(here) {
            queue.change(index, |entry| entry.deadline = deadline);
        } else {
            vcpu.timers.set_home(Some(here));
            queue.push(Entry { deadline, vcpu: vcpu.clone() });
        }
    }
}

impl<M: Machine> Default for CpuTimers<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// Brings `vcpu`'s queue entry in line with its deadlines. The caller holds the lock of the deadlines.
fn requeue<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, deadlines: &Deadlines) {
    let cpu = hv.cpu();
    let earliest = deadlines.earliest();
    if let Some(home) = vcpu.timers.home()
        && (home != cpu.id || earliest == NEVER)
    {
        hv.cpus[home.index()].timers.remove(vcpu, home);
    }
    if earliest != NEVER {
        cpu.timers.set(vcpu, cpu.id, earliest);
        if earliest < cpu.timers.armed.load(Ordering::Relaxed) {
            hv.arm(cpu, earliest, hv.machine.now());
        }
    }
}

/// Sets one timer of a vCPU to an absolute time in nanoseconds, or stops it.
pub fn set<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, kind: Kind, deadline: Option<u64>) {
    let mut deadlines = vcpu.timers.deadlines.lock();
    let deadline = deadline.filter(|_| !vcpu.domain().sched.is_closed());
    deadlines.at[kind as usize] = deadline.map_or(NEVER, |deadline| deadline.min(NEVER - 1));
    requeue(hv, vcpu, &deadlines);
}

/// Sets or stops the timer of a vCPU's local APIC: [`Hypervisor::lapic_timer_expired`] is called at that time
/// (nanoseconds).
pub fn set_lapic_timer<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, deadline: Option<u64>) {
    set(hv, vcpu, Kind::Lapic, deadline);
}

/// Sets or stops the periodic timer; `period` in nanoseconds.
pub(crate) fn set_periodic<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, period: Option<u64>) {
    let mut deadlines = vcpu.timers.deadlines.lock();
    let period = period.filter(|_| !vcpu.domain().sched.is_closed());
    deadlines.period = period.unwrap_or(0);
    deadlines.at[Kind::Periodic as usize] = period.map_or(NEVER, |period| hv.machine.now().saturating_add(period));
    requeue(hv, vcpu, &deadlines);
}

/// Sets or stops the timeout of a poll.
pub(crate) fn set_poll_timeout<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, deadline: Option<u64>) {
    // Only the CPU that has the vCPU in its hands calls this.
    if deadline.is_some() || vcpu.timers.polls.load(Ordering::Relaxed) {
        vcpu.timers.polls.store(deadline.is_some(), Ordering::Relaxed);
        set(hv, vcpu, Kind::Poll, deadline);
    }
}

/// Sets or stops one of a domain's watchdogs.
pub(crate) fn set_watchdog<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Arc<Domain<M>>,
    index: usize,
    deadline: Option<u64>,
) {
    let kind = if index == 0 { Kind::Watchdog0 } else { Kind::Watchdog1 };
    if let Some(vcpu) = VcpuRef::new(domain, VcpuId(0)) {
        set(hv, &vcpu, kind, deadline);
    }
}

/// Stops all timers of a vCPU.
pub fn stop_all<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    let mut deadlines = vcpu.timers.deadlines.lock();
    *deadlines = Deadlines { at: [NEVER; KINDS], period: 0 };
    requeue(hv, vcpu, &deadlines);
}

/// Applies the timers of `vcpu` that have expired.
fn expire<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, now: u64) {
    let expired = {
        let mut deadlines = vcpu.timers.deadlines.lock();
        let expired = deadlines.expire(now);
        requeue(hv, vcpu, &deadlines);
        expired
    };
    for kind in Kind::ALL.into_iter().filter(|kind| expired[*kind as usize]) {
        match kind {
            Kind::Singleshot | Kind::Periodic => evtchn::raise_virq(hv, vcpu, Virq::TIMER),
            Kind::Poll => sleep::poll_timed_out(hv, vcpu),
            Kind::Lapic => hv.lapic_timer_expired(vcpu),
            Kind::Budget => cap::release(hv, vcpu.domain(), now),
            Kind::Watchdog0 | Kind::Watchdog1 => {
                let domain = vcpu.domain();
                hv.machine.log(Level::Warn, format_args!("{}: watchdog expired", domain.id));
                lifecycle::shutdown(hv, domain, SHUTDOWN_WATCHDOG);
            }
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// The timer of this CPU has fired, or another CPU wants it set anew: applies what has expired and sets it for what
    /// comes next.
    pub fn on_timer(&self) {
        let cpu = self.cpu();
        cpu.withdraw(CpuAttention::TIMER);
        // Whatever it was set to is spent or will be set again below.
        cpu.timers.armed.store(NEVER, Ordering::Relaxed);
        let now = self.machine.now();
        // Each vCPU once: what it sets anew, however early, waits for the next time.
        let mut left = cpu.timers.queue.lock().len();
        while left > 0
            && let Some(vcpu) = cpu.timers.pop_expired(now)
        {
            left -= 1;
            expire(self, &vcpu, now);
        }
        self.check_slice(cpu, now);
        self.take_sample(cpu, now);
        self.teardown_step();
        self.rearm_timer(cpu);
    }

    /// Emits the periodic samples, on CPU 0.
    fn take_sample(&self, cpu: &PerCpu<M>, now: u64) {
        if self.sample_period == 0 || cpu.id.0 != 0 {
            return;
        }
        let due = cpu.timers.next_sample.load(Ordering::Relaxed);
        if now >= due {
            // On the grid of the period, so that a late one does not shift the rest.
            let next = (now / self.sample_period + 1) * self.sample_period;
            cpu.timers.next_sample.store(next, Ordering::Relaxed);
            self.emit_samples();
        }
    }

    /// Sets this CPU's timer for the earliest of its vCPUs' timers, its slice or grant, and its samples, unless it will
    /// fire before that anyway.
    pub(crate) fn rearm_timer(&self, cpu: &PerCpu<M>) {
        let mut earliest = cpu.timers.earliest().min(cpu.sched.choice_due());
        if self.sample_period != 0 && cpu.id.0 == 0 {
            earliest = earliest.min(cpu.timers.next_sample.load(Ordering::Relaxed));
        }
        if let Some(due) = self.teardown_due() {
            earliest = earliest.min(due);
        }
        if earliest < cpu.timers.armed.load(Ordering::Relaxed) {
            self.arm(cpu, earliest, self.machine.now());
        }
    }

    fn arm(&self, cpu: &PerCpu<M>, deadline: u64, now: u64) {
        let deadline = deadline.max(now + LEAST_DISTANCE);
        cpu.timers.armed.store(deadline, Ordering::Relaxed);
        self.machine.arm_timer(Some(deadline));
    }
}

/// Runs `set_timer_op(timeout)`: sets the single-shot timer to an absolute time in nanoseconds, or stops it (0).
///
/// # Errors
/// None. A time that overflowed, or one more than 2^50 ns ahead, gets an event after 100 ms as on Xen: such guests mean
/// either "now" or "never", and this serves both.
pub fn set_timer_op<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let timeout = match call.width {
        Width::Bits64 => call.args[0],
        Width::Bits32 => call.args[0] & 0xffff_ffff | call.args[1] << 32,
    };
    let deadline = if timeout == 0 {
        None
    } else {
        let now = call.hv.machine.now();
        let huge = timeout.cast_signed() < 0 || timeout.saturating_sub(now) >= HUGE_TIMEOUT;
        Some(if huge { now + HUGE_TIMEOUT_DELAY } else { timeout })
    };
    set(call.hv, call.current, Kind::Singleshot, deadline);
    Ok(Next::Return(0))
}
