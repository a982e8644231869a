//! The scheduler: which vCPU runs where, sleeping and waking, and `sched_op`.
//!
//! - [`state`]: a vCPU's state word and its steps; the argument why no wake-up is lost.
//! - [`cpu`]: run queues and [`Hypervisor::schedule`].
//! - [`policy`]: weights and virtual time.
//! - [`cap`]: upper limits of what domains get.
//! - [`pause`]: what a vCPU that spins leads to.
//! - [`sleep`]: block, poll, halt, wake, notify.
//! - [`op`]: the hypercall.
//!
//! # Contract with the machine
//!
//! Each physical CPU runs this loop, interrupts off except where it halts. `loaded` is the vCPU whose context the CPU
//! holds (in its registers or control block), if any.
//!
//! ```text
//! loop {
//!     cpu.withdraw(KICK)                                   // what it stood for is looked at below
//!     if cpu.attention() has TIMER: hv.on_timer()          // withdraws TIMER; may raise RESCHEDULE
//!     if loaded is None or hv.must_schedule(loaded):
//!         next = hv.schedule()                             // withdraws RESCHEDULE
//!         if next differs from loaded:
//!             if loaded is Some(old): save old; loaded = None; hv.context_saved(old)
//!             if next is Some(v): load v; loaded = v
//!         if next is None:
//!             do idle work (scrubbing, teardown) in small pieces while cpu.attention() is empty
//!             if still empty: sti; hlt; cli                // an interrupt between the check and hlt ends the hlt
//!             continue
//!     cpu.enter_guest(domain)
//!     if cpu.attention() is not empty: cpu.leave_guest(); continue
//!     plan = hv.prepare_entry(loaded); look whether its translations are stale; set both up
//!     run the guest until it exits                         // at once, if a kick came since enter_guest
//!     cpu.leave_guest(); handle the exit
//! }
//! ```
//!
//! - The timer interrupt's handler raises `TIMER` on its CPU; the kick's handler raises nothing (the sender has). A CPU
//!   whose `in_guest` word is up gets a kick as an interrupt, which ends its entry even if it has not begun.
//! - `context_saved(old)` may also come before `schedule`, at the price of saving a context that is then loaded again.
//!   Between the two calls nobody else runs `old`. After it the machine must not touch `old`'s state any more.
//! - A vCPU's events that arrive while it runs on another CPU raise `KICK` there before its `in_guest` word is looked
//!   at; that is why attention is checked after `enter_guest`, and `prepare_entry` comes after `KICK` is withdrawn.
//! - Handling an exit may block, yield, pause or stop the current vCPU: these change its word, and `must_schedule` sees
//!   that. No stack is parked.
//! - Timers: whatever a handler arms is armed on the CPU that calls; see `timer`.
//!
//! Locking: see [`cpu`]; the functions here may be called with locks up to `LAPIC` held, not `VCPU` or later.

pub mod cap;
pub mod cpu;
pub mod heap;
pub mod op;
pub mod pause;
pub mod policy;
pub mod sleep;
pub mod state;

#[cfg(test)]
mod model;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering};

use shared_abi::sched::WATCHDOG_COUNT;
use shared_abi::xen::VcpuId;

pub use cap::set_cap;
pub use cpu::CpuSched;
pub use op::sched_op;
pub use policy::SchedConfig;
pub(crate) use sleep::end_poll;
pub use sleep::{block, poll_wake, wake, yield_cpu};

use crate::domain::Domain;
use crate::hypervisor::{CpuAttention, Hypervisor};
use crate::locks::{Mutex, rank};
use crate::machine::{CpuId, Machine};
use crate::vcpu::{Attention, VcpuRef};
use cap::Cap;
use pause::{DomainPauses, VcpuPauses};
use policy::VirtualTime;
use state::{Placement, StateWord, Word};

/// Words in an affinity mask.
const AFFINITY_WORDS: usize = 4;
/// CPUs that an affinity mask can tell apart. A CPU with a greater number is in no mask and runs no vCPU.
pub const MAX_CPUS: usize = AFFINITY_WORDS * 64;

/// How a vCPU stood when it stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Departure {
    /// Its virtual time, by the clock of the queue it left.
    vtime: VirtualTime,
    /// How far that was ahead of the queue's floor.
    lag: i64,
    /// When it left, in nanoseconds.
    at: u64,
    /// It ran for a whole slice: it may move to a CPU that is not busier.
    rotates: bool,
}

/// The scheduler's part of a vCPU.
#[derive(Debug)]
pub struct VcpuSched {
    pub(crate) word: StateWord,
    /// The CPU it runs or waits on, or did last.
    cpu: AtomicU32,
    /// Its latest [`Departure`], field by field.
    vtime: AtomicU64,
    lag: AtomicI64,
    left_at: AtomicU64,
    rotates: AtomicBool,
    /// The port it polls; 0: any. Meaningful while the word says poller.
    poll_port: AtomicU32,
    affinity: [AtomicU64; AFFINITY_WORDS],
    /// How long it may spin.
    pauses: VcpuPauses,
}

impl VcpuSched {
    /// A vCPU that is down and may run anywhere.
    pub fn new() -> Self {
        Self {
            word: StateWord::new(),
            cpu: AtomicU32::new(0),
            vtime: AtomicU64::new(0),
            lag: AtomicI64::new(0),
            left_at: AtomicU64::new(0),
            rotates: AtomicBool::new(false),
            poll_port: AtomicU32::new(0),
            affinity: [const { AtomicU64::new(u64::MAX) }; AFFINITY_WORDS],
            pauses: VcpuPauses::new(),
        }
    }

    /// Its state now.
    pub fn state(&self) -> Word {
        self.word.load()
    }

    /// The CPU it runs or waits on, or did last.
    pub fn cpu(&self) -> CpuId {
        CpuId(self.cpu.load(Ordering::SeqCst) as u16)
    }

    fn set_cpu(&self, cpu: CpuId) {
        self.cpu.store(u32::from(cpu.0), Ordering::SeqCst);
    }

    /// Whether `cpu` is in its affinity mask.
    pub fn may_run_on(&self, cpu: CpuId) -> bool {
        self.affinity
            .get(cpu.index() / 64)
            .is_some_and(|word| word.load(Ordering::Relaxed) >> (cpu.index() % 64) & 1 != 0)
    }

    /// Notes how it stood when it stopped running. Only the CPU that has it in its hands does this.
    fn depart(&self, departure: Departure) {
        self.vtime.store(departure.vtime.0, Ordering::Relaxed);
        self.lag.store(departure.lag, Ordering::Relaxed);
        self.left_at.store(departure.at, Ordering::Relaxed);
        self.rotates.store(departure.rotates, Ordering::Relaxed);
    }

    fn departure(&self) -> Departure {
        Departure {
            vtime: VirtualTime(self.vtime.load(Ordering::Relaxed)),
            lag: self.lag.load(Ordering::Relaxed),
            at: self.left_at.load(Ordering::Relaxed),
            rotates: self.rotates.load(Ordering::Relaxed),
        }
    }

    fn take_rotates(&self) -> bool {
        self.rotates.load(Ordering::Relaxed) && self.rotates.swap(false, Ordering::Relaxed)
    }
}

impl Default for VcpuSched {
    fn default() -> Self {
        Self::new()
    }
}

/// The scheduler's part of a domain.
#[derive(Debug)]
pub struct DomainSched {
    weight: AtomicU16,
    /// What it gets at most.
    pub(crate) cap: Cap,
    /// What its spinning led to.
    pub pauses: DomainPauses,
    /// vCPUs that run or want to.
    wanting: AtomicU32,
    /// vCPUs that poll ports, a bit each. A bit may stay set a while after its vCPU was woken.
    pollers: AtomicU64,
    /// The domain goes: none of its vCPUs comes up and none of its timers is set any more.
    closed: AtomicBool,
    /// First reason given for a shutdown, plus one; 0: none.
    shutdown_code: AtomicU32,
    /// Guests may ask that runstate areas are marked while they change (`vm_assist`).
    pub runstate_update_flag: AtomicBool,
    /// Which watchdogs are in use. Their deadlines are timers of vCPU 0.
    watchdogs: Mutex<[bool; WATCHDOG_COUNT as usize], { rank::GRANT }>,
}

impl DomainSched {
    /// A domain with this share of CPU time relative to others, and at most `cap` per cent of one CPU (0: no limit).
    pub const fn new(weight: u16, cap: u16) -> Self {
        Self {
            weight: AtomicU16::new(if weight == 0 { 1 } else { weight }),
            cap: Cap::new(cap),
            pauses: DomainPauses::new(),
            wanting: AtomicU32::new(0),
            pollers: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            shutdown_code: AtomicU32::new(0),
            runstate_update_flag: AtomicBool::new(false),
            watchdogs: Mutex::new([false; WATCHDOG_COUNT as usize]),
        }
    }

    /// Its share of CPU time relative to others.
    pub fn weight(&self) -> u16 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Changes its share; 0 counts as 1.
    pub fn set_weight(&self, weight: u16) {
        self.weight.store(weight.max(1), Ordering::Relaxed);
    }

    /// At most so many per cent of one CPU; 0: no limit.
    pub fn cap(&self) -> u16 {
        self.cap.percent()
    }

    /// vCPUs that run or want to.
    pub fn wanting(&self) -> u32 {
        self.wanting.load(Ordering::Relaxed)
    }

    /// Whether the domain goes.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether any vCPU may be polling: one load, for the path of a send.
    pub fn has_pollers(&self) -> bool {
        self.pollers.load(Ordering::SeqCst) != 0
    }

    /// The reason for a shutdown: the one the guest set beforehand, or else `reason`, which then stays.
    pub fn shutdown_reason(&self, reason: u32) -> u32 {
        match self.shutdown_code.compare_exchange(0, reason + 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => reason,
            Err(earlier) => earlier - 1,
        }
    }

    fn account(&self, change: i32) {
        if change > 0 {
            self.wanting.fetch_add(1, Ordering::Relaxed);
        } else if change < 0 {
            self.wanting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Prepares the scheduler for a new domain: room in the queues, a first CPU for each vCPU, runstates that count from
/// now. Call once, before any of its vCPUs is brought up. False when memory is short.
pub fn admit<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>) -> bool {
    let others: usize = hv.each_domain().filter(|other| other.id != domain.id).map(|other| other.vcpus.len()).sum();
    let total = others + domain.vcpus.len();
    if !hv.cpus.iter().all(|cpu| cpu.sched.reserve(total) && cpu.timers.reserve(total)) {
        return false;
    }
    let now = hv.machine.now();
    let cpus = hv.cpus.len().min(MAX_CPUS);
    for (index, vcpu) in domain.vcpus.iter().enumerate() {
        vcpu.sched.set_cpu(CpuId(((others + index) % cpus) as u16));
        vcpu.sched.depart(Departure { vtime: VirtualTime(0), lag: 0, at: now, rotates: false });
        vcpu.runstate.refresh(&hv.machine, &vcpu.sched, now);
    }
    true
}

/// Takes a dying domain out of the scheduler's hands: its vCPUs go down, its timers stop, its runstate areas are
/// unpinned, and none of that can be undone. Its vCPUs are gone from all CPUs once [`is_off_cpus`] says so.
pub fn retire<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>) {
    domain.sched.closed.store(true, Ordering::SeqCst);
    for vcpu in each_vcpu(domain) {
        set_down(hv, &vcpu);
        crate::timer::stop_all(hv, &vcpu);
        vcpu.runstate.close(&hv.heap);
    }
}

/// Whether no CPU runs a vCPU of `domain` or holds the context of one.
pub fn is_off_cpus<M: Machine>(domain: &Domain<M>) -> bool {
    domain.vcpus.iter().all(|vcpu| vcpu.sched.state().is_off_cpu())
}

/// All vCPUs of a domain.
pub fn each_vcpu<M: Machine>(domain: &Arc<Domain<M>>) -> impl Iterator<Item = VcpuRef<M>> + '_ {
    (0..domain.vcpus.len() as u32).filter_map(move |id| VcpuRef::new(domain, VcpuId(id)))
}

/// Time all vCPUs of a domain have run, and time they waited for a CPU, in nanoseconds.
pub fn domain_times<M: Machine>(domain: &Domain<M>, now: u64) -> (u64, u64) {
    domain.vcpus.iter().fold((0, 0), |(running, runnable), vcpu| {
        let info = vcpu.runstate.info(now);
        (running + info.time[0], runnable + info.time[1])
    })
}

/// Brings a vCPU online. One that has a fresh state to start from begins there, whatever it waited for.
pub fn set_up<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    if vcpu.attention().contains(Attention::START) {
        hv.step(vcpu, |word| word.initialised().wake_deaf().up());
    } else {
        hv.step(vcpu, Word::up);
    }
    // `retire` raises its flag before it takes vCPUs down, so either it takes this one down or we see the flag.
    if vcpu.domain().sched.is_closed() {
        set_down(hv, vcpu);
    }
}

/// Takes a vCPU offline. It may run on another CPU for a moment yet.
pub fn set_down<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    hv.step(vcpu, Word::down);
    expel(hv, vcpu);
}

/// Keeps a vCPU from running, however many times, until [`unpause`] was called as many times. It may run on another
/// CPU for a moment yet.
pub fn pause<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    hv.step(vcpu, Word::pause);
    expel(hv, vcpu);
}

/// Takes one [`pause`] back.
pub fn unpause<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    hv.step(vcpu, Word::unpause);
}

/// Limits a vCPU to the CPUs whose bits are set. One that runs where it then may not leaves that CPU soon. A mask
/// without any CPU of this machine is refused.
pub fn set_affinity<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, mask: [u64; AFFINITY_WORDS]) -> bool {
    let allows = |cpu: usize| mask.get(cpu / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0);
    if !(0..hv.cpus.len()).any(allows) {
        return false;
    }
    for (word, bits) in vcpu.sched.affinity.iter().zip(mask) {
        word.store(bits, Ordering::SeqCst);
    }
    expel(hv, vcpu);
    hv.relocate(vcpu);
    true
}

/// Makes the CPU that runs `vcpu`, if any, notice that it may no longer run.
fn expel<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    if vcpu.sched.state().placement() == Placement::Running
        && let Some(cpu) = hv.cpus.get(vcpu.sched.cpu().index())
    {
        hv.poke(cpu, CpuAttention::RESCHEDULE);
    }
}
