//! `contend`: every vCPU takes one lock again and again, and what came of it is reported.
//!
//! `lock=NAME[,NAME...]|all` chooses from the laboratory (each in turn), `section=` and `outside=` say how long the lock
//! is held and left alone (turns of an empty loop), `duration=` (ms) for how long each lock is tried, `spin=` how often a
//! waiter looks before it sleeps, `contenders=` on how many vCPUs. Under the lock each checks that it is alone there.
//!
//! `mutex` (below) does the same with threads and the locks that put them to sleep: `tasks=` threads, any vCPU.

mod report;
mod tasks;

pub use tasks::run as run_tasks;

use crate::pv::{self, Native, Pv};
use crate::{clock, cpu, smp, thread};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use ebb_guest_logic::args::Args;
use ebb_locks::lab::{Hybrid, PlainTicket, Preemptable, QueuePlatform, Queued, SpinLock, TestAndSet};
use ebb_locks::{Large, RawTicketLock};
use report::{Runstate, Share};
/// How a lock is tried.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    section: u64,
    outside: u64,
    /// TSC ticks.
    duration: u64,
    contenders: usize,
}

type Try = fn(Setting) -> Result<Vec<Share>, &'static str>;

/// The laboratory, in the order of `shared_abi::guest_event::LOCKS`.
const LOCKS: &[(&str, Try)] = &[
    ("tas", |setting| contend(Native, TestAndSet::new(), setting)),
    ("ticket", |setting| contend(Native, PlainTicket::new(), setting)),
    ("preemptable", |setting| contend(Native, Preemptable::new(), setting)),
    ("mcs", |setting| contend(Native, Queued::new(), setting)),
    ("pvticket", |setting| contend(Pv, RawTicketLock::<Large>::new(Large::new(0)), setting)),
    ("pvmcs", |setting| contend(Pv, Queued::new(), setting)),
    ("hybrid", |setting| contend(Pv, Hybrid::new(), setting)),
];

/// What all contenders share.
struct Arena<L> {
    lock: L,
    /// Who is in the section, + 1. Kept by loads and stores on purpose: two at once would be seen.
    inside: AtomicU64,
    count: AtomicU64,
    ready: AtomicU32,
    shares: spin::Mutex<Vec<Share>>,
}

/// A number among the arguments.
fn number(args: Args<'static>, key: &'static str, default: u64) -> Result<u64, String> {
    args.number(key, default).map_err(|bad| format!("{}={} is no number", bad.key, bad.value))
}

/// Tries the locks.
pub fn run(args: Args<'static>) -> Result<(), String> {
    report::start()?;
    pv::set_threshold(number(args, "spin", pv::threshold().into())?.max(1) as u32);
    let contenders = number(args, "contenders", smp::online() as u64)?.clamp(1, smp::online() as u64) as usize;
    let setting = Setting {
        section: number(args, "section", 200)?,
        outside: number(args, "outside", 400)?,
        duration: number(args, "duration", 300)? * clock::tsc_khz(),
        contenders,
    };
    let wanted = args.get("lock").unwrap_or("all");
    let is_wanted = |name: &str| wanted == "all" || wanted.split(',').any(|word| word == name);
    for (index, (name, try_it)) in LOCKS.iter().enumerate().filter(|(_, (name, _))| is_wanted(name)) {
        let shares = try_it(setting)?;
        report::tell(index as u8, name, &shares);
    }
    match wanted.split(',').find(|word| *word != "all" && LOCKS.iter().all(|(name, _)| name != word)) {
        Some(unknown) => Err(format!("there is no lock {unknown}")),
        None => Ok(()),
    }
}

/// Tries one on the first vCPUs.
fn contend<P, L>(platform: P, lock: L, setting: Setting) -> Result<Vec<Share>, &'static str>
where
    P: QueuePlatform + Copy + Send + 'static,
    L: SpinLock<P> + Send + Sync + 'static,
{
    let arena = Arc::new(Arena {
        lock,
        inside: AtomicU64::new(0),
        count: AtomicU64::new(0),
        ready: AtomicU32::new(0),
        shares: spin::Mutex::new(Vec::new()),
    });
    let threads: Vec<_> = (0..setting.contenders)
        .map(|cpu| {
            let arena = arena.clone();
            thread::spawn("contender", Some(cpu), move || {
                let share = take_turns(cpu, &arena, platform, setting);
                arena.shares.lock().push(share);
            })
        })
        .collect::<Result<_, _>>()?;
    threads.into_iter().for_each(thread::JoinHandle::join);
    let mut shares = core::mem::take(&mut *arena.shares.lock());
    shares.sort_by_key(|share| share.vcpu);
    let sum: u64 = shares.iter().map(|share| share.operations).sum();
    assert_eq!(sum, arena.count.load(Ordering::SeqCst), "two were in the section at once");
    Ok(shares)
}

/// One vCPU's turns. Everyone has at least one.
fn take_turns<P, L>(cpu: usize, arena: &Arena<L>, platform: P, setting: Setting) -> Share
where
    P: QueuePlatform,
    L: SpinLock<P>,
{
    let state = Runstate::of(cpu);
    pv::counters(cpu).clear();
    let mut share = Share::new(cpu);
    arena.ready.fetch_add(1, Ordering::SeqCst);
    while (arena.ready.load(Ordering::SeqCst) as usize) < setting.contenders {
        // The others may wait for this very processor.
        let _ = ebb_guest_hypercall::sched::yield_now();
    }
    let ran = state.ran();
    let end = cpu::rdtsc() + setting.duration;
    loop {
        let (before, asked) = (state.waited(), cpu::rdtsc());
        let token = arena.lock.lock(&platform);
        let got = cpu::rdtsc();
        let held = state.waited();
        hold(cpu, arena, setting.section);
        let left = state.waited();
        arena.lock.unlock(&platform, token);
        share.turn(got - asked, held != before, left != held);
        if got >= end {
            break;
        }
        busy(setting.outside);
    }
    share.finish(pv::counters(cpu), state.ran() - ran);
    share
}

/// The critical section.
fn hold<L>(cpu: usize, arena: &Arena<L>, turns: u64) {
    let me = cpu as u64 + 1;
    assert_eq!(arena.inside.load(Ordering::Relaxed), 0, "the lock let another in");
    arena.inside.store(me, Ordering::Relaxed);
    let count = arena.count.load(Ordering::Relaxed);
    busy(turns);
    arena.count.store(count + 1, Ordering::Relaxed);
    assert_eq!(arena.inside.load(Ordering::Relaxed), me, "the lock let another in");
    arena.inside.store(0, Ordering::Relaxed);
}

/// Work that nothing can leave out.
fn busy(turns: u64) {
    for turn in 0..turns {
        core::hint::black_box(turn);
    }
}
