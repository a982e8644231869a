//! PV ticketlocks on real vCPUs: whom a lock goes to, and what must not upset its sleepers. `ebb_locks`' own tests go
//! through the interleavings; here are the hypervisor's poll, kick and offlining under them.
//!
//! The first vCPU has the lock and says what happens; others wait for it, and are known to sleep when the hypervisor says
//! that they are blocked. Waiters are threads tied to their vCPUs, so that nothing else runs there.

use super::{Outcome, Stop, Test, on_vcpu};
use crate::events::{self, EventPort};
use crate::pv::{self, Pv};
use crate::thread::{self, JoinHandle};
use crate::{check, check_eq, clock, cpu, percpu, smp};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebb_guest_hypercall::{Port, VcpuId, event_channel, sched, vcpu};
use ebb_locks::{Platform, RawTicketLock, Small, WaitKey};
use shared_abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE};
use spin::Mutex;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("locks-order", || with_sleepers(order)),
    ("locks-spurious-kick", || with_sleepers(spurious_kicks)),
    ("locks-early-kick", || with_sleepers(early_kick)),
    ("locks-nested", || with_sleepers(nested)),
    ("locks-nested-late", || with_sleepers(nested_late)),
    ("locks-down-waiting", || with_sleepers(down_waiting)),
    ("locks-down-meanwhile", || with_sleepers(down_meanwhile)),
];

const MS: u64 = 1_000_000;
/// What must happen, happens by then.
const PATIENCE: u64 = 20_000 * MS;
/// Looks before a waiter sleeps: few, so that all do.
const LOOKS: u32 = 32;

type Lock = RawTicketLock<Small>;

/// Runs a test on the first vCPU, with locks whose waiters sleep soon.
fn with_sleepers(test: fn() -> Outcome) -> Outcome {
    if smp::online() < 2 {
        return Err(Stop::Skip("it takes two vCPUs".into()));
    }
    if !Pv.can_block() {
        return Err(Stop::Skip("locks do not sleep here".into()));
    }
    let before = pv::threshold();
    pv::set_threshold(LOOKS);
    let outcome = on_vcpu(0, test);
    pv::set_threshold(before);
    outcome
}

/// Waits for `condition`; the other vCPUs may need this one's processor meanwhile.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Outcome {
    let end = clock::now() + PATIENCE;
    while !condition() {
        check!(clock::now() < end, "{what}: not within {} ms", PATIENCE / MS);
        let _ = sched::yield_now();
    }
    Ok(())
}

/// How often a vCPU has slept for a lock.
fn sleeps(cpu: usize) -> u64 {
    pv::counters(cpu).blocks.load(Ordering::SeqCst)
}

/// Waits until a vCPU has gone to sleep more than `before` times, and sleeps.
fn asleep(cpu: usize, before: u64) -> Outcome {
    let blocked = || vcpu::runstate(VcpuId(cpu as u32)).is_ok_and(|info| info.state == RUNSTATE_BLOCKED);
    eventually("a waiter sleeps", || sleeps(cpu) > before && blocked())
}

/// Kicks a vCPU that waits for nothing that has happened, or that was lost: it looks at its lock.
fn kick(cpu: usize) -> Outcome {
    let port = percpu::of(cpu).map_or(0, |other| other.lock_port.load(Ordering::SeqCst));
    Ok(event_channel::send(Port(port))?)
}

/// A lock, and who had it in what order.
struct Contest {
    lock: Lock,
    had: Mutex<Vec<usize>>,
}

impl Contest {
    fn new() -> Arc<Self> {
        Arc::new(Self { lock: Lock::new(Small::new(0)), had: Mutex::new(Vec::new()) })
    }

    /// Takes the lock once, on the calling vCPU.
    fn take(&self, platform: &impl Platform) {
        let ticket = self.lock.lock(platform);
        self.had.lock().push(percpu::id());
        self.lock.unlock(platform, ticket);
    }

    /// A waiter on `cpu`, once it sleeps.
    fn waiter(self: &Arc<Self>, cpu: usize, interrupts: bool) -> Result<JoinHandle, Stop> {
        let before = sleeps(cpu);
        let contest = self.clone();
        let waiter = thread::spawn("waiter", Some(cpu), move || {
            let enabled = !interrupts && cpu::interrupts_off();
            contest.take(&Pv);
            if enabled {
                cpu::interrupts_on();
            }
        })?;
        asleep(cpu, before)?;
        Ok(waiter)
    }

    fn had(&self) -> Vec<usize> {
        self.had.lock().clone()
    }
}

/// The thread ends: whatever it waited for has come.
fn ends(waiter: JoinHandle) -> Outcome {
    eventually("a waiter gets the lock", || waiter.is_finished())?;
    waiter.join();
    Ok(())
}

/// Those who came first are served first.
fn order() -> Outcome {
    for interrupts in [true, false] {
        let contest = Contest::new();
        let ticket = contest.lock.lock(&Pv);
        let cpus: Vec<_> = (1..smp::online()).rev().collect();
        let waiters: Result<Vec<_>, _> = cpus.iter().map(|cpu| contest.waiter(*cpu, interrupts)).collect();
        let early = contest.had();
        contest.lock.unlock(&Pv, ticket);
        waiters?.into_iter().try_for_each(ends)?;
        check_eq!(early, [], "vCPUs that had the lock while it was held");
        check_eq!(contest.had(), cpus, "vCPUs in the order in which they had the lock");
    }
    Ok(())
}

/// A kick without a reason wakes a waiter, which goes back to sleep.
fn spurious_kicks() -> Outcome {
    for interrupts in [true, false] {
        let contest = Contest::new();
        let ticket = contest.lock.lock(&Pv);
        let waiter = contest.waiter(1, interrupts)?;
        let disturb = || {
            let before = sleeps(1);
            kick(1)?;
            asleep(1, before)
        };
        let outcome = (0..100).try_for_each(|_| disturb());
        let early = contest.had();
        contest.lock.unlock(&Pv, ticket);
        ends(waiter)?;
        outcome?;
        check_eq!(early, [], "vCPUs that had the lock while it was held");
        check_eq!(contest.had(), [1], "vCPUs that had the lock");
    }
    Ok(())
}

/// A waiter that does something more right after it has said what it waits for, and right before it blocks.
struct Hooked<P: Fn(), B: Fn(&bool)> {
    published: P,
    before_block: B,
}

impl<P: Fn(), B: Fn(&bool)> Platform for Hooked<P, B> {
    type Interrupts = bool;

    fn spin_threshold(&self) -> u32 {
        Pv.spin_threshold()
    }

    fn relax(&self) {
        Pv.relax();
    }

    fn can_block(&self) -> bool {
        Pv.can_block()
    }

    fn interrupts_off(&self) -> bool {
        Pv.interrupts_off()
    }

    fn interrupts_restore(&self, before: bool) {
        Pv.interrupts_restore(before);
    }

    fn publish(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        let before = Pv.publish(key);
        (self.published)();
        before
    }

    fn waiter(&self, key: WaitKey) -> Option<usize> {
        Pv.waiter(key)
    }

    fn clear_kick(&self) {
        Pv.clear_kick();
    }

    fn block(&self, before: &bool) {
        (self.before_block)(before);
        Pv.block(before);
    }

    fn kick(&self, cpu: usize) {
        Pv.kick(cpu);
    }

    fn kick_self(&self) {
        Pv.kick_self();
    }
}

/// Steps that two vCPUs agree on.
#[derive(Default)]
struct Steps {
    about_to_block: AtomicBool,
    may_block: AtomicBool,
}

impl Steps {
    /// A waiter on the second vCPU that says when it is about to block, and waits for leave.
    fn waiter(self: &Arc<Self>, contest: &Arc<Contest>) -> Result<JoinHandle, Stop> {
        let (steps, contest) = (self.clone(), contest.clone());
        let waiter = thread::spawn("waiter", Some(1), move || {
            let hold = |interrupts: &bool| {
                if *interrupts {
                    cpu::interrupts_on();
                }
                steps.about_to_block.store(true, Ordering::SeqCst);
                while !steps.may_block.load(Ordering::SeqCst) {
                    spin_loop();
                }
            };
            contest.take(&Hooked { published: || {}, before_block: hold });
        })?;
        eventually("a waiter is about to block", || self.about_to_block.load(Ordering::SeqCst))?;
        Ok(waiter)
    }

    fn let_block(&self) {
        self.may_block.store(true, Ordering::SeqCst);
    }
}

/// A kick that comes after the last look and before the poll ends the poll.
fn early_kick() -> Outcome {
    for _ in 0..20 {
        let (contest, steps) = (Contest::new(), Arc::new(Steps::default()));
        let ticket = contest.lock.lock(&Pv);
        let waiter = steps.waiter(&contest)?;
        let before = sleeps(1);
        contest.lock.unlock(&Pv, ticket);
        steps.let_block();
        let outcome = eventually("a vCPU that was kicked before it slept has the lock", || waiter.is_finished());
        if outcome.is_err() {
            kick(1)?;
        }
        ends(waiter)?;
        outcome?;
        check!(sleeps(1) > before, "the waiter did not poll");
    }
    Ok(())
}

/// The lock that the interrupt handler takes.
static INNER: Lock = Lock::new(Small::new(0));
static HANDLER_BEGAN: AtomicBool = AtomicBool::new(false);
static HANDLER_ENDED: AtomicBool = AtomicBool::new(false);
/// The handler has said that it waits for the inner lock, and has not looked again.
static HANDLER_PUBLISHED: AtomicBool = AtomicBool::new(false);
static HANDLER_MAY_LOOK: AtomicBool = AtomicBool::new(false);

fn handler() {
    HANDLER_BEGAN.store(true, Ordering::SeqCst);
    let hold = || {
        HANDLER_PUBLISHED.store(true, Ordering::SeqCst);
        while !HANDLER_MAY_LOOK.load(Ordering::SeqCst) {
            spin_loop();
        }
    };
    let ticket = INNER.lock(&Hooked { published: hold, before_block: |_| {} });
    INNER.unlock(&Pv, ticket);
    HANDLER_ENDED.store(true, Ordering::SeqCst);
}

/// Interrupts the second vCPU: its handler waits for the inner lock, which the caller has. It sleeps, if it may.
fn interrupt_second(may_look: bool) -> Result<EventPort, Stop> {
    for flag in [&HANDLER_BEGAN, &HANDLER_ENDED, &HANDLER_PUBLISHED] {
        flag.store(false, Ordering::SeqCst);
    }
    HANDLER_MAY_LOOK.store(may_look, Ordering::SeqCst);
    let port = EventPort::new(event_channel::bind_ipi(VcpuId(1))?)?;
    events::call_at(&port, handler);
    event_channel::send(port.port())?;
    // Having begun, the handler does what comes next on that vCPU.
    eventually("the handler begins", || HANDLER_BEGAN.load(Ordering::SeqCst))?;
    Ok(port)
}

/// An interrupt handler waits for a lock, sleeping, while the code under it sleeps for another; the handler's comes first.
fn nested() -> Outcome {
    for _ in 0..20 {
        let contest = Contest::new();
        let (outer, inner) = (contest.lock.lock(&Pv), INNER.lock(&Pv));
        let waiter = contest.waiter(1, true)?;
        let before = sleeps(1);
        let outcome = interrupt_second(true).and_then(|port| {
            asleep(1, before)?;
            Ok(port)
        });
        let early = HANDLER_ENDED.load(Ordering::SeqCst);
        let before = sleeps(1);
        INNER.unlock(&Pv, inner);
        let handled = eventually("the handler has its lock", || HANDLER_ENDED.load(Ordering::SeqCst));
        // The code under it has been kicked for nothing: it looks, and sleeps again.
        let again = handled.and_then(|()| asleep(1, before));
        let had = contest.had();
        contest.lock.unlock(&Pv, outer);
        ends(waiter)?;
        let _port = outcome?;
        again?;
        check!(!early, "the handler had the lock while it was held");
        check_eq!(had, [], "vCPUs that had the outer lock while it was held");
        check_eq!(contest.had(), [1], "vCPUs that had the outer lock");
    }
    Ok(())
}

/// The same, but both locks are let go after the handler has said what it waits for, and before it has looked again: it
/// goes on without a kick, and the outer lock's kick finds nobody. So the handler itself must make the code under it look,
/// which was about to block.
fn nested_late() -> Outcome {
    for _ in 0..20 {
        let (contest, steps) = (Contest::new(), Arc::new(Steps::default()));
        let (outer, inner) = (contest.lock.lock(&Pv), INNER.lock(&Pv));
        let waiter = steps.waiter(&contest)?;
        let outcome = interrupt_second(false).and_then(|port| {
            eventually("the handler waits", || HANDLER_PUBLISHED.load(Ordering::SeqCst))?;
            Ok(port)
        });
        // Handlers of this vCPU kick, too.
        let interrupts = cpu::interrupts_off();
        let kicks = pv::counters(0).kicks.load(Ordering::SeqCst);
        contest.lock.unlock(&Pv, outer);
        INNER.unlock(&Pv, inner);
        let kicked = pv::counters(0).kicks.load(Ordering::SeqCst) - kicks;
        if interrupts {
            cpu::interrupts_on();
        }
        HANDLER_MAY_LOOK.store(true, Ordering::SeqCst);
        steps.let_block();
        let got = eventually("a vCPU that was kicked by its own handler has the lock", || waiter.is_finished());
        if got.is_err() {
            kick(1)?;
        }
        ends(waiter)?;
        let _port = outcome?;
        got?;
        check_eq!(kicked, 0, "kicks for locks whose waiter had not asked for them");
        check!(HANDLER_ENDED.load(Ordering::SeqCst), "the handler did not end before the code under it");
    }
    Ok(())
}

/// Waits until a vCPU that was taken down is off its processor.
fn offline(cpu: usize) -> Outcome {
    let state = || vcpu::runstate(VcpuId(cpu as u32)).map_or(-1, |info| i64::from(info.state));
    eventually("a vCPU is offline", || state() == i64::from(RUNSTATE_OFFLINE))
}

/// A vCPU is taken down while it sleeps for a lock. The lock becomes its, and stays so: nobody passes it. Once it is up
/// again it goes on, and so do those behind it; the kick that it got while it was down is not lost.
fn down_waiting() -> Outcome {
    let last = smp::online() - 1;
    let contest = Contest::new();
    let ticket = contest.lock.lock(&Pv);
    // With interrupts off nothing but the kick wakes it, and it has no other lock.
    let mut waiters = Vec::from([contest.waiter(last, false)?]);
    let mut wanted = Vec::from([last]);
    if last > 1 {
        waiters.push(contest.waiter(1, false)?);
        wanted.push(1);
    }
    vcpu::down(VcpuId(last as u32))?;
    let outcome = offline(last);
    contest.lock.unlock(&Pv, ticket);
    let end = clock::now() + 30 * MS;
    while clock::now() < end {
        let _ = sched::yield_now();
    }
    let early = contest.had();
    vcpu::up(VcpuId(last as u32))?;
    waiters.into_iter().try_for_each(ends)?;
    outcome?;
    check_eq!(early, [], "vCPUs that had the lock while the next in line was down");
    check_eq!(contest.had(), wanted, "vCPUs in the order in which they had the lock");
    Ok(())
}

/// A number that a lock protects: it is read and written, not added to, so that turns at the same time would show.
struct Shared {
    lock: Lock,
    number: AtomicU64,
    rounds: [AtomicU64; percpu::MAX_CPUS],
}

impl Shared {
    fn add(&self, rounds: u64) {
        for _ in 0..rounds {
            let ticket = self.lock.lock(&Pv);
            self.number.store(self.number.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            self.lock.unlock(&Pv, ticket);
            self.rounds[percpu::id()].fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A vCPU goes down between two turns at a lock that the others want all the time; they go on without it, and it with them
/// when it is up again.
fn down_meanwhile() -> Outcome {
    const ROUNDS: u64 = 400;
    let last = smp::online() - 1;
    let shared = Arc::new(Shared {
        lock: Lock::new(Small::new(0)),
        number: AtomicU64::new(0),
        rounds: [const { AtomicU64::new(0) }; percpu::MAX_CPUS],
    });
    let mut threads = Vec::new();
    for cpu in 1..=last {
        let shared = shared.clone();
        threads.push(thread::spawn("contender", Some(cpu), move || {
            shared.add(ROUNDS / 2);
            if cpu == last {
                let _ = vcpu::down(VcpuId(last as u32));
            }
            shared.add(ROUNDS / 2);
        })?);
    }
    shared.add(ROUNDS);
    let outcome = offline(last);
    let done = |cpu: usize| shared.rounds[cpu].load(Ordering::SeqCst);
    let others = eventually("the others go on", || (1..last).all(|cpu| done(cpu) == ROUNDS));
    let at_rest = done(last);
    vcpu::up(VcpuId(last as u32))?;
    threads.into_iter().try_for_each(ends)?;
    outcome?;
    others?;
    check_eq!(at_rest, ROUNDS / 2, "turns of the vCPU that was down");
    check_eq!(shared.number.load(Ordering::SeqCst), ROUNDS * (last as u64 + 1), "what all turns added up to");
    Ok(())
}
