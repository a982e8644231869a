//! How a domain ends: by its own shutdown, by a crash, by a triple fault, or by being destroyed; and how it comes back.
//!
//! The end is a state change and a note to the hypervisor; the work (stopping vCPUs, closing event channels, giving
//! memory back) is done in bounded steps by [`Hypervisor::background_work`] on whichever CPU has time, one CPU for each
//! domain at a time. Nothing waits for it; and so that it comes to an end on a machine where no CPU ever has time, each
//! CPU that uses its timer does a step every [`TICK`] while a domain ends. A domain keeps its id until all is done.
//!
//! Order: its vCPUs are stopped for good ([`crate::sched::retire`]), have left all CPUs, then its event channels are
//! closed and the grants it has mapped let go, then its memory goes, last the hypervisor's frames it used. So nothing
//! that a vCPU can reach is freed under it, and nothing that another domain's event could write to.
//!
//! A domain that reboots is built again in the same way, step by step ([`crate::build::construction`]); until it runs, it
//! counts as one that ends.
//!
//! Locking: the teardown's own state under the LIFECYCLE lock, tried, never waited for; the state word is one atomic.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use shared_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};
use shared_abi::trace::SCHED_DOM_REM;
use shared_abi::trace_stream::{
    DomainEnd, DomainExits, DomainSpins, ExitReason, Kind, REASON_DESTROYED, REASON_TRIPLE_FAULT,
};
use shared_abi::xen::Virq;
use zerocopy::IntoBytes;

use crate::build::BuildError;
use crate::domain::{Domain, OnReboot};
use crate::heap::{Extent, FrameHeap};
use crate::hypervisor::{CpuAttention, Hypervisor};
use crate::locks::{Mutex, rank};
use crate::machine::{Level, Machine};
use crate::sched::pause::Outcome;
use crate::vcpu::VcpuRef;
use crate::{evtchn, grant, sched, tmem};

/// Page-table entries given back in one step.
const RELEASE_BUDGET: usize = 64;
/// Event channels closed in one step.
const CLOSE_BUDGET: u32 = 128;
/// Frames cleared in one step of idle work.
const SCRUB_BUDGET: u64 = 64;
/// Nanoseconds between two steps on a CPU that has other things to do.
const TICK: u64 = 1_000_000;
/// Status of a machine whose domains all ended well.
pub const STATUS_OK: u8 = 0x10;
/// Status of a machine where a domain crashed.
pub const STATUS_CRASHED: u8 = 0x11;

/// Where a domain is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not in the table yet.
    Building = 0,
    /// Alive.
    Running = 1,
    /// It ends; a reason is recorded.
    Ending = 2,
    /// Nothing is left of it but the structure.
    Gone = 3,
}

/// How far the teardown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Stop,
    LeaveCpus,
    Close,
    Grants,
    Tmem,
    Memory,
    Done,
}

/// A domain's life.
#[derive(Debug)]
pub struct Lifecycle {
    /// The state, and the reason of the end above [`REASON_SHIFT`]: whoever sees a domain end sees why.
    word: AtomicU32,
    teardown: Mutex<Teardown, { rank::LIFECYCLE }>,
}

const REASON_SHIFT: u32 = 8;

#[derive(Debug)]
struct Teardown {
    stage: Stage,
    /// Frames of the hypervisor's that the domain uses: freed last.
    special: Vec<Extent>,
}

impl Lifecycle {
    /// A domain under construction.
    pub const fn new() -> Self {
        Self {
            word: AtomicU32::new(State::Building as u32),
            teardown: Mutex::new(Teardown { stage: Stage::Stop, special: Vec::new() }),
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        match self.word.load(Ordering::SeqCst) & ((1 << REASON_SHIFT) - 1) {
            0 => State::Building,
            1 => State::Running,
            2 => State::Ending,
            _ => State::Gone,
        }
    }

    /// Whether it runs, or could.
    pub fn is_running(&self) -> bool {
        self.state() == State::Running
    }

    /// Why it ends or ended.
    pub fn reason(&self) -> u32 {
        self.word.load(Ordering::SeqCst) >> REASON_SHIFT
    }

    pub(crate) fn started(&self) {
        self.word.store(State::Running as u32, Ordering::SeqCst);
    }

    /// Frames to be freed when the domain is gone.
    pub(crate) fn keep(&self, frames: Vec<Extent>) {
        self.teardown.lock().special.extend(frames);
    }

    /// Gives them back.
    pub(crate) fn free_kept(&self, heap: &FrameHeap) {
        self.teardown.lock().free_special(heap);
    }

    /// The first one to end a domain gives the reason.
    fn begin_end(&self, reason: u32) -> bool {
        let to = State::Ending as u32 | reason << REASON_SHIFT;
        self.word.compare_exchange(State::Running as u32, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The end of the end, for one caller.
    fn finish_end(&self) -> bool {
        let from = self.reason() << REASON_SHIFT | State::Ending as u32;
        let to = self.reason() << REASON_SHIFT | State::Gone as u32;
        self.word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Teardown {
    fn free_special(&mut self, heap: &FrameHeap) {
        self.special.drain(..).for_each(|extent| heap.free(extent));
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

/// Ends a domain for one of Xen's `SHUTDOWN_*` reasons. Its vCPUs stop; a running one leaves its CPU at the exit that
/// is being served, or when it is kicked. Of `reason` the lowest 8 bits count, as on Xen.
pub fn shutdown<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, reason: u32) {
    let reason = domain.sched.shutdown_reason(reason & 0xff);
    end(hv, domain, reason);
}

/// Ends a domain whatever it wants.
pub fn destroy<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>) {
    end(hv, domain, u32::from(REASON_DESTROYED));
}

/// A vCPU shut down in the hardware's sense: its domain ends, as a crash.
pub fn triple_fault<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    let domain = vcpu.domain();
    hv.machine.log(Level::Warn, format_args!("domain {} vCPU {}: triple fault", domain.id.0, vcpu.id.0));
    end(hv, domain, u32::from(REASON_TRIPLE_FAULT));
}

/// Ends a domain that cannot go on.
pub fn crash<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, why: core::fmt::Arguments<'_>) {
    hv.machine.log(Level::Error, format_args!("domain {} crashes: {why}", domain.id.0));
    end(hv, domain, SHUTDOWN_CRASH);
}

fn end<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, reason: u32) {
    // Counted first: a step that finds the domain must find it counted, or its end would be taken off twice.
    hv.endings.fetch_add(1, Ordering::SeqCst);
    if !domain.lifecycle.begin_end(reason) {
        hv.endings.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    let what = match reason {
        SHUTDOWN_POWEROFF => "powered off",
        SHUTDOWN_REBOOT => "reboots",
        SHUTDOWN_CRASH => "crashed",
        reason if reason == u32::from(REASON_DESTROYED) => "is destroyed",
        reason if reason == u32::from(REASON_TRIPLE_FAULT) => "crashed by a triple fault",
        _ => "ended",
    };
    hv.machine.log(Level::Info, format_args!("domain {} ({}) {what}", domain.id.0, domain.config.name));
    for vcpu in sched::each_vcpu(domain) {
        sched::set_down(hv, &vcpu);
    }
    // Some CPU must look: the idle ones may sleep, and this one may go on with another domain's vCPU.
    hv.cpu().raise(CpuAttention::TIMER);
    for cpu in &hv.cpus {
        if cpu.sched.is_idle() && cpu.id != hv.machine.this_cpu() {
            hv.machine.kick(cpu.id);
        }
    }
}

fn is_crash(reason: u32) -> bool {
    !matches!(reason, SHUTDOWN_POWEROFF | SHUTDOWN_REBOOT) && reason != u32::from(REASON_DESTROYED)
}

impl<M: Machine> Hypervisor<M> {
    /// A bounded piece of work that nobody waits for: taking ended domains apart, then clearing freed memory. Whether
    /// there is more.
    pub fn background_work(&self) -> bool {
        self.teardown_step() || self.heap.scrub_some(&self.machine, SCRUB_BUDGET)
    }

    /// When this CPU's timer should fire for the sake of domains that end (nanoseconds); a load when there are none.
    pub(crate) fn teardown_due(&self) -> Option<u64> {
        (self.endings.load(Ordering::Relaxed) != 0).then(|| self.machine.now() + TICK)
    }

    /// One step for each ended domain, and one for a domain that is built again. Whether another should follow. A load when there is none.
    #[inline]
    pub fn teardown_step(&self) -> bool {
        self.endings.load(Ordering::SeqCst) != 0 && self.step_endings()
    }

    fn step_endings(&self) -> bool {
        let mut more = self.construction_step();
        for domain in self.each_domain() {
            if domain.lifecycle.state() == State::Ending {
                more |= self.teardown(&domain);
            }
        }
        more
    }

    /// One step. False when there is nothing to do now, for this CPU.
    fn step_of(&self, domain: &Arc<Domain<M>>, teardown: &mut Teardown) -> bool {
        match teardown.stage {
            Stage::Stop => {
                sched::retire(self, domain);
                teardown.stage = Stage::LeaveCpus;
            }
            Stage::LeaveCpus => {
                if !sched::is_off_cpus(domain) {
                    return false;
                }
                teardown.stage = Stage::Close;
            }
            Stage::Close => {
                if evtchn::close_some(self, domain, CLOSE_BUDGET) {
                    teardown.stage = Stage::Grants;
                }
            }
            Stage::Grants => {
                if grant::release_mappings(self, domain, RELEASE_BUDGET) {
                    teardown.stage = Stage::Tmem;
                }
            }
            Stage::Tmem => {
                if tmem::end_some(self, domain, RELEASE_BUDGET) {
                    teardown.stage = Stage::Memory;
                }
            }
            Stage::Memory => {
                if domain.memory.release_all(self, RELEASE_BUDGET) {
                    grant::release_table(self, domain);
                    teardown.free_special(&self.heap);
                    teardown.stage = Stage::Done;
                }
            }
            Stage::Done => {}
        }
        true
    }

    fn teardown(&self, domain: &Arc<Domain<M>>) -> bool {
        let Some(mut teardown) = domain.lifecycle.teardown.try_lock() else { return false };
        let begins = teardown.stage == Stage::Stop;
        let again = self.step_of(domain, &mut teardown);
        let done = teardown.stage == Stage::Done;
        drop(teardown);
        if begins {
            evtchn::raise_global_virq(self, Virq::DOM_EXC);
        }
        if done && domain.lifecycle.state() == State::Ending {
            self.finish(domain);
        }
        again
    }

    /// Everything is given back: the domain leaves the table, or is built again.
    fn finish(&self, domain: &Arc<Domain<M>>) {
        if !domain.lifecycle.finish_end() {
            return;
        }
        let reason = domain.lifecycle.reason();
        let mut exits = DomainExits { domid: domain.id, ..DomainExits::default() };
        for (count, reason) in exits.counts.iter_mut().zip(ExitReason::ALL) {
            *count = domain.vcpus.iter().map(|vcpu| vcpu.counters.exits_for(reason)).sum();
        }
        self.machine.trace(Kind::DOMAIN_EXITS.0, exits.as_bytes());
        let pauses = &domain.sched.pauses;
        let spins = DomainSpins {
            domid: domain.id,
            directed: pauses.count(Outcome::Directed),
            undirected: pauses.count(Outcome::Undirected),
            left_alone: pauses.count(Outcome::LeftAlone),
            ..DomainSpins::default()
        };
        self.machine.trace(Kind::DOMAIN_SPINS.0, spins.as_bytes());
        let record = DomainEnd { domid: domain.id, reason: reason as u16, ..DomainEnd::default() };
        self.machine.trace(Kind::DOMAIN_END.0, record.as_bytes());
        self.record(SCHED_DOM_REM, &[u32::from(domain.id.0)]);
        if is_crash(reason) {
            self.crashed.fetch_add(1, Ordering::SeqCst);
        }
        let restart = reason == SHUTDOWN_REBOOT && domain.config.on_reboot == OnReboot::Restart;
        // The new one has its id before the old one gives its own back, so that there is no moment without a domain.
        let begun = restart.then(|| self.begin_domain(domain.config.clone(), true));
        self.release_id(domain.id);
        match begun {
            // Its end is over when the new one runs.
            Some(Ok(construction)) => self.constructions.lock().push_back(construction),
            Some(Err(why)) => self.restarted(&domain.config.name, Err(why)),
            None => {
                self.endings.fetch_sub(1, Ordering::SeqCst);
            }
        }
        evtchn::raise_global_virq(self, Virq::DOM_EXC);
    }

    /// A domain that rebooted runs again, or cannot.
    pub(crate) fn restarted(&self, name: &str, result: Result<(), BuildError>) {
        if let Err(why) = result {
            self.machine.log(Level::Error, format_args!("domain {name}: not restarted: {why}"));
            self.crashed.fetch_add(1, Ordering::SeqCst);
        }
        self.endings.fetch_sub(1, Ordering::SeqCst);
    }

    /// Says that the domains of the boot configuration have been built and started.
    pub fn open(&self) {
        self.opened.store(true, Ordering::SeqCst);
    }

    /// The status to end the machine with, once no domain is left and all their memory is back.
    pub fn all_ended(&self) -> Option<u8> {
        if !self.opened.load(Ordering::SeqCst)
            || self.endings.load(Ordering::SeqCst) != 0
            || self.domain_table.lock().alive != 0
        {
            return None;
        }
        if self.heap.ledger().domains != 0 {
            return None;
        }
        Some(if self.crashed.load(Ordering::SeqCst) == 0 { STATUS_OK } else { STATUS_CRASHED })
    }
}

#[cfg(test)]
mod tests;
