//! What came of a contention: per vCPU, and how long the waits were.

use crate::percpu::MAX_CPUS;
use crate::pv::Counters;
use crate::{clock, println, smp, trace};
use core::sync::atomic::{AtomicU64, Ordering};
use ebb_guest_hypercall::{VcpuId, vcpu};
use shared_abi::guest_event::{Contention, KickTimes, WAIT_BUCKETS, WaitTimes};
use shared_abi::vcpu::{RUNSTATE_RUNNABLE, RUNSTATE_RUNNING};

/// A vCPU's runstate as the hypervisor keeps it up to date: state, entry time, four times.
#[repr(C, align(64))]
pub struct Runstate([AtomicU64; 6]);

static RUNSTATES: [Runstate; MAX_CPUS] = [const { Runstate([const { AtomicU64::new(0) }; 6]) }; MAX_CPUS];

/// Has the hypervisor keep the runstates.
#[allow(unsafe_code)] // Registering an area.
pub fn start() -> Result<(), &'static str> {
    for (id, area) in RUNSTATES.iter().enumerate().take(smp::online()) {
        let address = area.0.as_ptr().expose_provenance() as u64;
        // SAFETY: a static of atomics, mapped alike on all vCPUs.
        unsafe { vcpu::register_runstate_area(VcpuId(id as u32), address) }.map_err(|_| "no runstate area")?;
    }
    Ok(())
}

impl Runstate {
    /// A vCPU's.
    pub fn of(cpu: usize) -> &'static Self {
        &RUNSTATES[cpu]
    }

    /// How long it has waited for a processor: if this grew, it was preempted.
    pub fn waited(&self) -> u64 {
        self.0[2 + RUNSTATE_RUNNABLE as usize].load(Ordering::Relaxed)
    }

    /// How long it ran, up to when it was last given a processor or up to now, ns.
    pub fn ran(&self) -> u64 {
        let since = clock::now().saturating_sub(self.0[1].load(Ordering::Relaxed));
        self.0[2 + RUNSTATE_RUNNING as usize].load(Ordering::Relaxed) + since
    }
}

/// How long all vCPUs ran in all, ns.
pub fn ran_by_all() -> u64 {
    // A vCPU that exists has a runstate.
    (0..smp::online()).filter_map(|id| vcpu::runstate(VcpuId(id as u32)).ok()).map(|info| info.time[0]).sum()
}

/// What one vCPU had of a lock.
#[derive(Debug)]
pub struct Share {
    /// Which.
    pub vcpu: usize,
    /// How often it had the lock.
    pub operations: u64,
    waited: u64,
    worst: u64,
    holder_preempted: u32,
    waiter_preempted: u32,
    /// By the logarithm of the wait in ns.
    waits: [u32; WAIT_BUCKETS],
    ticks_per_us: u64,
    spins: u64,
    blocks: u64,
    kicks: u64,
    woken: u64,
    latency: u64,
    worst_latency: u64,
    ran_ns: u64,
}

impl Share {
    /// Nothing so far.
    pub fn new(vcpu: usize) -> Self {
        Self {
            vcpu,
            operations: 0,
            waited: 0,
            worst: 0,
            holder_preempted: 0,
            waiter_preempted: 0,
            waits: [0; WAIT_BUCKETS],
            ticks_per_us: (clock::tsc_khz() / 1000).max(1),
            spins: 0,
            blocks: 0,
            kicks: 0,
            woken: 0,
            latency: 0,
            worst_latency: 0,
            ran_ns: 0,
        }
    }

    /// One turn with the lock, after a wait of so many ticks.
    pub fn turn(&mut self, wait: u64, waiter_preempted: bool, holder_preempted: bool) {
        self.operations += 1;
        self.waited += wait;
        self.worst = self.worst.max(wait);
        self.waiter_preempted += u32::from(waiter_preempted);
        self.holder_preempted += u32::from(holder_preempted);
        let nanoseconds = self.nanoseconds(wait);
        self.waits[(nanoseconds.max(1).ilog2() as usize).min(WAIT_BUCKETS - 1)] += 1;
    }

    /// Takes the counters over.
    pub fn finish(&mut self, counters: &Counters, ran_ns: u64) {
        let take = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (self.spins, self.blocks, self.kicks) = (take(&counters.spins), take(&counters.blocks), take(&counters.kicks));
        (self.woken, self.latency) = (take(&counters.woken), take(&counters.latency));
        self.worst_latency = take(&counters.worst_latency);
        self.ran_ns = ran_ns;
    }

    /// Sets the processor time that was used.
    pub fn ran(&mut self, ns: u64) {
        self.ran_ns = ns;
    }

    fn nanoseconds(&self, ticks: u64) -> u64 {
        ticks.saturating_mul(1000) / self.ticks_per_us
    }

    fn send(&self, lock: u8) {
        let limit = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let microseconds = |ticks: u64| limit(ticks / self.ticks_per_us);
        trace::report(&Contention {
            lock,
            pad: 0,
            vcpu: self.vcpu as u16,
            operations: limit(self.operations),
            wait_us: microseconds(self.waited),
            worst_us: microseconds(self.worst),
            spins: limit(self.spins / 1000),
            blocks: limit(self.blocks),
            kicks: limit(self.kicks),
        });
        trace::report(&KickTimes {
            lock,
            pad: 0,
            vcpu: self.vcpu as u16,
            woken: limit(self.woken),
            mean_ns: limit(self.nanoseconds(self.latency) / self.woken.max(1)),
            worst_ns: limit(self.nanoseconds(self.worst_latency)),
            holder_preempted: self.holder_preempted,
            waiter_preempted: self.waiter_preempted,
            ran_us: limit(self.ran_ns / 1000),
        });
    }
}

/// Jain's index of fairness in thousandths: 1000 when all had the same, 1000 / n when one had all.
pub fn fairness(shares: &[Share]) -> u64 {
    let sum: u128 = shares.iter().map(|share| u128::from(share.operations)).sum();
    let squares: u128 = shares.iter().map(|share| u128::from(share.operations).pow(2)).sum();
    (sum * sum * 1000 / (squares * shares.len() as u128).max(1)) as u64
}

/// Reports a lock's trial to the host tool and on the console.
pub fn tell(lock: u8, name: &str, shares: &[Share]) {
    let mut waits = [0u32; WAIT_BUCKETS];
    for share in shares {
        share.send(lock);
        waits.iter_mut().zip(share.waits).for_each(|(sum, more)| *sum = sum.saturating_add(more));
    }
    for (part, counts) in waits.chunks_exact(WaitTimes::COUNTS).enumerate() {
        let mut event = WaitTimes { lock, part: part as u8, ..Default::default() };
        event.counts.copy_from_slice(counts);
        trace::report(&event);
    }
    let sum = |pick: fn(&Share) -> u64| shares.iter().map(pick).sum::<u64>();
    println!(
        "contend: {name}: {} operations by {} vCPUs, fairness {} of 1000, worst wait {} us, {} sleeps, {} kicks; alone each time",
        sum(|share| share.operations),
        shares.len(),
        fairness(shares),
        shares.iter().map(|share| share.worst / share.ticks_per_us).max().unwrap_or(0),
        sum(|share| share.blocks),
        sum(|share| share.kicks),
    );
}
