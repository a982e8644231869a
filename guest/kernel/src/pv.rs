//! The kernel around its spinlocks: a port for each vCPU to be kicked through, and sleeping by `SCHEDOP_poll`.
//!
//! Each vCPU has an IPI port that stays masked, so that a kick ends a poll and makes no upcall. The argument `nopvspin`
//! leaves the ports unbound; then no lock sleeps, and the ticketlock is the native one. That is looked up only by a
//! waiter that has spun in vain.

use crate::percpu::{self, MAX_CPUS};
use crate::{cpu, events, start_info};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use ebb_guest_hypercall::{Port, VcpuId, event_channel, sched};
use ebb_locks::lab::{NODES_PER_CPU, Node, QueuePlatform};
use ebb_locks::{Platform, WaitKey, WaitTable};

/// How often a waiter looks before it sleeps: long for a critical section, short for a time slice.
const SPIN_THRESHOLD: u32 = 1 << 11;

static WAITS: WaitTable<MAX_CPUS> = WaitTable::new();
static NODES: [Node; MAX_CPUS * NODES_PER_CPU] = [const { Node::new() }; MAX_CPUS * NODES_PER_CPU];
static THRESHOLD: AtomicU32 = AtomicU32::new(SPIN_THRESHOLD);

/// What one vCPU did while it waited for locks. Written by itself, and by kickers where it says so.
#[derive(Debug)]
pub struct Counters {
    /// Looks at a lock in vain.
    pub spins: AtomicU64,
    /// Sleeps.
    pub blocks: AtomicU64,
    /// Kicks given.
    pub kicks: AtomicU64,
    /// TSC when somebody last kicked this vCPU, 0 when that was accounted. By kickers.
    kicked_at: AtomicU64,
    /// Kicks that ended a sleep, the sum of the times they took, and the longest.
    pub woken: AtomicU64,
    /// TSC ticks from kicks to the end of the sleeps.
    pub latency: AtomicU64,
    /// The longest of these.
    pub worst_latency: AtomicU64,
}

static COUNTERS: [Counters; MAX_CPUS] = [const {
    Counters {
        spins: AtomicU64::new(0),
        blocks: AtomicU64::new(0),
        kicks: AtomicU64::new(0),
        kicked_at: AtomicU64::new(0),
        woken: AtomicU64::new(0),
        latency: AtomicU64::new(0),
        worst_latency: AtomicU64::new(0),
    }
}; MAX_CPUS];

impl Counters {
    /// All zero.
    pub fn clear(&self) {
        for counter in [&self.spins, &self.blocks, &self.kicks, &self.woken, &self.latency, &self.worst_latency] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// A vCPU's counters.
pub fn counters(cpu: usize) -> &'static Counters {
    &COUNTERS[cpu]
}

/// Adds to a counter of the calling vCPU's own.
fn count(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// Binds a vCPU's port, before the vCPU runs.
pub fn prepare(id: usize) -> Result<(), &'static str> {
    if start_info::args().flag("nopvspin") {
        return Ok(());
    }
    let own = percpu::of(id).ok_or("too many vCPUs")?;
    let port = event_channel::bind_ipi(VcpuId(id as u32)).map_err(|_| "an IPI port cannot be bound")?;
    events::make_room(port)?;
    events::channels().mask(port);
    own.lock_port.store(port.0, Ordering::Release);
    Ok(())
}

/// Sets how often a waiter looks before it sleeps.
pub fn set_threshold(looks: u32) {
    THRESHOLD.store(looks, Ordering::Relaxed);
}

/// How often a waiter looks before it sleeps.
pub fn threshold() -> u32 {
    THRESHOLD.load(Ordering::Relaxed)
}

fn own_port() -> Port {
    Port(percpu::own().lock_port.load(Ordering::Relaxed))
}

/// Locks whose waiters sleep.
#[derive(Clone, Copy, Debug)]
pub struct Pv;

impl Platform for Pv {
    type Interrupts = bool;

    fn spin_threshold(&self) -> u32 {
        threshold()
    }

    fn relax(&self) {
        count(&COUNTERS[percpu::id()].spins, 1);
        core::hint::spin_loop();
    }

    fn can_block(&self) -> bool {
        percpu::own().lock_port.load(Ordering::Relaxed) != 0
    }

    fn interrupts_off(&self) -> bool {
        cpu::interrupts_off()
    }

    fn interrupts_restore(&self, before: bool) {
        if before {
            cpu::interrupts_on();
        }
    }

    fn publish(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        WAITS.publish(percpu::id(), key)
    }

    fn waiter(&self, key: WaitKey) -> Option<usize> {
        WAITS.waiter(key)
    }

    fn clear_kick(&self) {
        events::channels().clear_pending(own_port());
    }

    fn block(&self, before: &bool) {
        let own = &COUNTERS[percpu::id()];
        count(&own.blocks, 1);
        own.kicked_at.store(0, Ordering::Relaxed);
        if *before {
            cpu::interrupts_on();
        }
        // It may fail in no way that matters: the caller looks at its lock again.
        let _ = sched::poll(&[own_port()], 0);
        cpu::interrupts_off();
        let kicked = own.kicked_at.swap(0, Ordering::Relaxed);
        if kicked != 0 {
            let ticks = cpu::rdtsc().saturating_sub(kicked);
            count(&own.woken, 1);
            count(&own.latency, ticks);
            own.worst_latency.fetch_max(ticks, Ordering::Relaxed);
        }
    }

    fn kick(&self, cpu: usize) {
        count(&COUNTERS[percpu::id()].kicks, 1);
        COUNTERS[cpu].kicked_at.store(cpu::rdtsc(), Ordering::Relaxed);
        if let Some(other) = percpu::of(cpu) {
            // The port exists as long as the kernel.
            let _ = event_channel::send(Port(other.lock_port.load(Ordering::Relaxed)));
        }
    }

    fn kick_self(&self) {
        let _ = event_channel::send(own_port());
    }
}

impl QueuePlatform for Pv {
    fn cpu(&self) -> usize {
        percpu::id()
    }

    fn nodes(&self) -> &[Node] {
        &NODES
    }
}

/// The same locks, none of which sleeps: what they were on a machine of their own.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl Platform for Native {
    type Interrupts = ();

    fn spin_threshold(&self) -> u32 {
        threshold()
    }

    fn relax(&self) {
        Pv.relax();
    }

    fn can_block(&self) -> bool {
        false
    }

    fn interrupts_off(&self) {}

    fn interrupts_restore(&self, (): ()) {}

    fn publish(&self, _: Option<WaitKey>) -> Option<WaitKey> {
        None
    }

    fn waiter(&self, _: WaitKey) -> Option<usize> {
        None
    }

    fn clear_kick(&self) {}

    fn block(&self, (): &()) {}

    fn kick(&self, _: usize) {}

    fn kick_self(&self) {}
}

impl QueuePlatform for Native {
    fn cpu(&self) -> usize {
        percpu::id()
    }

    fn nodes(&self) -> &[Node] {
        &NODES
    }
}
