//! Xen's trace buffers: what the hypervisor does, as it does it, in memory that a privileged domain reads.
//!
//! A privileged domain makes them, once, by `XEN_SYSCTL_tbuf_op` ([`control`]), and maps them as foreign frames of
//! `DOMID_XEN`. Each CPU writes its own buffer ([`ring`]); a reader that is too slow loses records, and is told how many.
//! When a buffer gets half full, VIRQ_TBUF is raised.
//!
//! What an event costs while nobody traces is a load and a branch. Records are made of few places, in the terms of Xen's
//! tools: runstates, switches, sleeping and waking, domains, exits and entries, memory given back, and what guests report.
//!
//! Locking: a buffer belongs to its CPU, in the hypervisor with interrupts off; so does its [`Producer`]. Setting up holds
//! a lock. VIRQ_TBUF is not raised where the record is made, which may be under any lock, but by the CPU's main loop.
//!
//! Specification: Xen 4.17's `trace.h` and what its hypervisor answers.

mod control;
mod ring;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use shared_abi::trace::{self as abi, SUBCLASS_SHIFT};
use shared_abi::xen::{DomId, Mfn, Virq};

use crate::evtchn;
use crate::hypervisor::{CpuAttention, Hypervisor};
use crate::locks::{Mutex, rank};
use crate::machine::{CpuId, Level, Machine};
use crate::sched::MAX_CPUS;
use crate::vcpu::VcpuRef;
use ring::{Producer, Pushed, Ring};

pub(crate) use control::control;

/// The buffers, if there are any, and what goes into them.
pub struct TraceBuffers {
    /// What is wanted, now: 0 when tracing is off.
    live: AtomicU32,
    /// Which CPUs are traced.
    cpus: [AtomicU64; MAX_CPUS / 64],
    set_up: spin::Once<SetUp>,
    control: Mutex<Wishes, { rank::TRACE }>,
}

/// What has been asked for.
struct Wishes {
    enabled: bool,
    /// In the form of events; see [`selects`].
    events: u32,
}

/// Memory that the hypervisor shares for ever.
struct SetUp {
    /// Of the list.
    info: Mfn,
    /// Frames of the list.
    info_frames: u32,
    /// Frames of a buffer, a power of two.
    pages: u32,
    cpus: Box<[CpuBuffer]>,
}

/// One CPU's buffer.
struct CpuBuffer {
    /// Its first frame; the others follow.
    first: Mfn,
    producer: Producer,
}

impl Default for TraceBuffers {
    /// None, and every event on every CPU once there are some.
    fn default() -> Self {
        Self {
            live: AtomicU32::new(0),
            cpus: [const { AtomicU64::new(u64::MAX) }; _],
            set_up: spin::Once::new(),
            control: Mutex::new(Wishes { enabled: false, events: abi::ALL }),
        }
    }
}

impl TraceBuffers {
    /// Whether anything is traced. All that is looked at where nothing is.
    #[inline]
    pub fn are_on(&self) -> bool {
        self.live.load(Ordering::Relaxed) != 0
    }

    /// Whether this CPU is traced.
    fn wants_cpu(&self, cpu: CpuId) -> bool {
        let word = self.cpus.get(cpu.index() / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (cpu.index() % 64) & 1 != 0)
    }

    /// A shared frame by its number, and whether readers may write to it.
    fn shared(&self, mfn: Mfn) -> Option<bool> {
        let set_up = self.set_up.get()?;
        let within = |first: Mfn, frames: u32| (first.0..first.0 + u64::from(frames)).contains(&mfn.0);
        if within(set_up.info, set_up.info_frames) {
            return Some(false);
        }
        set_up.cpus.iter().any(|cpu| within(cpu.first, set_up.pages)).then_some(true)
    }
}

/// Whether a mask wants an event: by any bit at all, by class, and by subclass.
fn selects(mask: u32, event: u32) -> bool {
    let common = mask & event;
    common != 0 && common >> abi::CLASS_SHIFT != 0 && common >> SUBCLASS_SHIFT & 0xf != 0
}

/// The way to here is a branch not taken, and no more, when nothing is traced.
impl<M: Machine> Hypervisor<M> {
    /// Adds a record of `event` to this CPU's trace buffer, if it is wanted.
    #[inline]
    pub fn record(&self, event: u32, extra: &[u32]) {
        if self.trace_buffers.are_on() {
            self.record_wanted(event, extra);
        }
    }

    #[cold]
    #[inline(never)]
    fn record_wanted(&self, event: u32, extra: &[u32]) {
        let buffers = &self.trace_buffers;
        let cpu = self.machine.this_cpu();
        if !selects(buffers.live.load(Ordering::Relaxed), event) || !buffers.wants_cpu(cpu) {
            return;
        }
        let Some(set_up) = buffers.set_up.get() else { return };
        let Some(buffer) = set_up.cpus.get(cpu.index()) else { return };
        match Ring::new(&self.machine, buffer.first, set_up.pages).push(&buffer.producer, event, extra) {
            Pushed::HalfFull => self.cpu().raise(CpuAttention::TRACE),
            Pushed::Quiet => {}
            Pushed::Nonsense(cons) => {
                // The reader's mistake, and the only way to tell it.
                buffers.live.store(0, Ordering::Relaxed);
                let line = format_args!("trace buffer of CPU {}: cons is {cons:#x}; tracing stops", cpu.0);
                self.machine.log(Level::Warn, line);
            }
        }
    }

    /// A record about a vCPU: its domain and its number.
    #[inline]
    pub(crate) fn record_vcpu(&self, event: u32, vcpu: &VcpuRef<M>) {
        if self.trace_buffers.are_on() {
            self.record_name(event, vcpu);
        }
    }

    #[cold]
    #[inline(never)]
    fn record_name(&self, event: u32, vcpu: &VcpuRef<M>) {
        self.record_wanted(event, &[u32::from(vcpu.domain().id.0), vcpu.id.0]);
    }

    /// A vCPU's word has changed; its runstate follows, at the time `now`.
    #[cold]
    #[inline(never)]
    pub(crate) fn record_runstate(&self, vcpu: &VcpuRef<M>, now: u64) {
        let (old, new) = vcpu.runstate.refresh(&self.machine, &vcpu.sched, now);
        if old != new {
            let event = abi::SCHED_RUNSTATE_CHANGE | (old as u32 & 3) << 8 | (new as u32 & 3) << 4;
            self.record_wanted(event, &[vcpu.id.0 & 0xffff | u32::from(vcpu.domain().id.0) << 16]);
        }
    }

    /// This CPU has left one vCPU for another; none: the idle one.
    #[cold]
    #[inline(never)]
    pub(crate) fn record_switch(&self, previous: Option<&VcpuRef<M>>, next: Option<&VcpuRef<M>>) {
        let name = |vcpu: Option<&VcpuRef<M>>| match vcpu {
            Some(vcpu) => [u32::from(vcpu.domain().id.0), vcpu.id.0],
            None => [u32::from(DomId::IDLE.0), u32::from(self.machine.this_cpu().0)],
        };
        let ([from, from_vcpu], [to, to_vcpu]) = (name(previous), name(next));
        self.record_wanted(abi::SCHED_SWITCH, &[from, from_vcpu, to, to_vcpu]);
    }

    /// Tells the reader that a buffer is half full. Called with no lock held.
    pub fn announce_trace(&self) {
        evtchn::raise_global_virq(self, Virq::TBUF);
    }
}
