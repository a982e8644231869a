//! How a domain ends: by its own shutdown, by a crash, by a triple fault, or by being destroyed; and how it comes back.
//!
//! The end is a state change and a note to the hypervisor; the work (stopping vCPUs, closing event channels, giving
//! memory back) is done in bounded steps by [`Hypervisor::background_work`] on whichever CPU has time, one CPU for each
//! domain at a time. Nothing waits for it. A domain keeps its id until all of that is done.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU8, Ordering};

use shared_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};
use shared_abi::trace_stream::{DomainEnd, Kind, REASON_DESTROYED, REASON_TRIPLE_FAULT};
use zerocopy::IntoBytes;

use crate::domain::{Domain, OnReboot};
use crate::heap::Extent;
use crate::hypervisor::Hypervisor;
use crate::locks::{Mutex, rank};
use crate::machine::{Level, Machine};
use crate::vcpu::VcpuRef;
use crate::{evtchn, sched};

/// Page-table entries given back in one step.
const RELEASE_BUDGET: usize = 64;
/// Frames cleared in one step of idle work.
const SCRUB_BUDGET: u64 = 64;
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
    Memory,
    Done,
}

/// A domain's life.
#[derive(Debug)]
pub struct Lifecycle {
    state: AtomicU8,
    reason: AtomicU32,
    teardown: Mutex<Teardown, { rank::LIFECYCLE }>,
}

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
            state: AtomicU8::new(State::Building as u8),
            reason: AtomicU32::new(0),
            teardown: Mutex::new(Teardown { stage: Stage::Stop, special: Vec::new() }),
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
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
        self.reason.load(Ordering::Acquire)
    }

    pub(crate) fn started(&self) {
        self.state.store(State::Running as u8, Ordering::Release);
    }

    /// Frames to be freed when the domain is gone.
    pub(crate) fn keep(&self, frames: Vec<Extent>) {
        self.teardown.lock().special.extend(frames);
    }

    /// The first one to end a domain gives the reason.
    fn begin_end(&self, reason: u32) -> bool {
        let from = State::Running as u8;
        let changed =
            self.state.compare_exchange(from, State::Ending as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if changed {
            self.reason.store(reason, Ordering::Release);
        }
        changed
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

/// Ends a domain for one of Xen's `SHUTDOWN_*` reasons. Its vCPUs stop; a running one leaves its CPU at the exit that
/// is being served, or when it is kicked.
pub fn shutdown<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, reason: u32) {
    let reason = domain.sched.shutdown_reason(reason);
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
    if !domain.lifecycle.begin_end(reason) {
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
    hv.endings.fetch_add(1, Ordering::SeqCst);
    // Some CPU must look: this one chooses again soon, since the caller's vCPU has stopped, and others may sleep.
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

    /// One step for each ended domain. Whether another should follow. A load when there is none.
    pub fn teardown_step(&self) -> bool {
        if self.endings.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let mut more = false;
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
                evtchn::close_all(self, domain);
                teardown.stage = Stage::Memory;
            }
            Stage::Memory => {
                if domain.memory.release_all(self, RELEASE_BUDGET) {
                    teardown.special.drain(..).for_each(|extent| self.heap.free(extent));
                    teardown.stage = Stage::Done;
                }
            }
            Stage::Done => {}
        }
        true
    }

    fn teardown(&self, domain: &Arc<Domain<M>>) -> bool {
        let Some(mut teardown) = domain.lifecycle.teardown.try_lock() else { return false };
        let again = self.step_of(domain, &mut teardown);
        let done = teardown.stage == Stage::Done;
        drop(teardown);
        if done && domain.lifecycle.state() == State::Ending {
            self.finish(domain);
        }
        again
    }

    /// Everything is given back: the domain leaves the table, or is built again.
    fn finish(&self, domain: &Arc<Domain<M>>) {
        let (from, to) = (State::Ending as u8, State::Gone as u8);
        if domain.lifecycle.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        let reason = domain.lifecycle.reason();
        let record = DomainEnd { domid: domain.id, reason: reason as u16, ..DomainEnd::default() };
        self.machine.trace(Kind::DOMAIN_END.0, record.as_bytes());
        if is_crash(reason) {
            self.crashed.fetch_add(1, Ordering::SeqCst);
        }
        let restart = reason == SHUTDOWN_REBOOT && domain.config.on_reboot == OnReboot::Restart;
        if restart {
            let built = self.build_domain(domain.config.clone()).and_then(|new| self.start_domain(&new));
            if let Err(why) = built {
                self.machine.log(Level::Error, format_args!("domain {}: not restarted: {why}", domain.config.name));
                self.crashed.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.release_id(domain.id);
        self.endings.fetch_sub(1, Ordering::SeqCst);
    }

    /// Says that the domains of the boot configuration have been built and started.
    pub fn open(&self) {
        self.opened.store(true, Ordering::SeqCst);
    }

    /// The status to end the machine with, once no domain is left and all their memory is back.
    pub fn all_ended(&self) -> Option<u8> {
        if !self.opened.load(Ordering::SeqCst) || self.endings.load(Ordering::SeqCst) != 0 || self.domain_table.lock().alive != 0 {
            return None;
        }
        if self.heap.ledger().domains != 0 {
            return None;
        }
        Some(if self.crashed.load(Ordering::SeqCst) == 0 { STATUS_OK } else { STATUS_CRASHED })
    }
}
