//! Sleeping and waking: block, poll, halt, wake and notify.
//!
//! The rule that no wake-up is lost: a sleeper changes its word, then a full fence, then it looks for anything that
//! should wake it and, if there is something, wakes itself. A waker makes its event visible, then a full fence, then it
//! changes the sleeper's word. In any order of these, one of the two sees what the other did. Every caller of [`wake`],
//! [`poll_wake`] and [`Hypervisor::notify_vcpu`] therefore makes its event visible first; the fence is in here.

use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use shared_abi::sched::SHUTDOWN_POWEROFF;
use shared_abi::trace;
use shared_abi::trace_stream::{self, Kind, POLL_SENT, POLL_SLEEPS, POLL_TIMED_OUT};
use shared_abi::xen::{Port, VcpuId};
use zerocopy::IntoBytes;

use super::state::{Placement, Sleep, Word};
use crate::domain::Domain;
use crate::hypervisor::{CpuAttention, Hypervisor};
use crate::machine::Machine;
use crate::vcpu::{Attention, Vcpu, VcpuRef};
use crate::{evtchn, lifecycle, timer};

/// Whether something waits that `vcpu` should be awake for. With interrupts off only an NMI or a fresh start is.
fn has_reason_to_wake<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, deaf: bool) -> bool {
    let state: &Vcpu<M> = vcpu;
    let attention = state.attention();
    if attention.intersects(Attention::NMI | Attention::START) {
        return true;
    }
    if deaf {
        return false;
    }
    evtchn::upcall_deliverable(hv, vcpu.domain(), state)
        || (attention.contains(Attention::LAPIC) && state.lapic.lock().deliverable().is_some())
}

/// Ends a sleep, unless it is one with interrupts off. What it is woken for must be visible already.
pub fn wake<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    fence(Ordering::SeqCst);
    hv.step(vcpu, Word::wake);
}

/// Puts the current vCPU to sleep until an event or interrupt it could take; not at all if there is one.
pub fn block<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    fall_asleep(hv, vcpu, Sleep::Event, false, nothing);
}

/// What a sleep that is no poll waits for besides events.
fn nothing() -> bool {
    false
}

/// Lets other vCPUs that wait on this CPU go first.
pub fn yield_cpu<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    hv.yield_here(vcpu);
}

/// Changes the current vCPU's word to sleep, then looks again. The runstate follows when its CPU chooses again.
/// `deaf`: with interrupts off, so that an interrupt or an upcall that waits already is no reason to stay awake.
fn fall_asleep<M: Machine>(
    hv: &Hypervisor<M>,
    vcpu: &VcpuRef<M>,
    sleep: Sleep,
    deaf: bool,
    ready: impl Fn() -> bool,
) -> bool {
    let state: &Vcpu<M> = vcpu;
    // A poll that ended before its CPU chose again has left its traces.
    end_poll(hv, vcpu);
    if sleep == Sleep::Poll {
        vcpu.domain().sched.pollers.fetch_or(bit(state.id), Ordering::SeqCst);
    }
    state.sched.word.update(|word| word.sleep(sleep));
    fence(Ordering::SeqCst);
    if ready() || has_reason_to_wake(hv, vcpu, deaf) {
        // It still has its CPU, so there is nothing to queue.
        let change = state.sched.word.update(|word| if sleep == Sleep::Deaf { word.wake_deaf() } else { word.wake() });
        debug_assert!(!change.must_enqueue());
        end_poll(hv, vcpu);
        return false;
    }
    hv.record_vcpu(trace::SCHED_BLOCK, vcpu);
    true
}

/// The current vCPU's bit in masks of vCPUs.
fn bit(id: VcpuId) -> u64 {
    1 << (id.0 % u64::BITS)
}

/// Puts the current vCPU to sleep until `ready`, an event it could take, or the time `timeout` (nanoseconds, 0: none).
/// `port` is the only port `ready` looks at, if there is just one. With interrupts off (a spinlock's waiter) an upcall that
/// waits already does not count, as on Xen: it could not be taken, and the waiter would spin through the hypervisor.
pub(super) fn poll<M: Machine>(
    hv: &Hypervisor<M>,
    vcpu: &VcpuRef<M>,
    port: Option<Port>,
    timeout: u64,
    interrupts: bool,
    ready: impl Fn() -> bool,
) {
    if ready() {
        return;
    }
    vcpu.sched.poll_port.store(port.map_or(0, |port| port.0), Ordering::Relaxed);
    if fall_asleep(hv, vcpu, Sleep::Poll, !interrupts, ready) {
        let pauses = &vcpu.domain().sched.pauses;
        if port.is_some() && timeout == 0 && pauses.matter() {
            // What waits so for one port and for nothing else is the waiter of a lock.
            pauses.waiter_sleeps(hv.machine.now());
        }
        trace_poll(hv, vcpu, POLL_SLEEPS, port.unwrap_or(Port(0)));
        if timeout != 0 {
            timer::set_poll_timeout(hv, vcpu, Some(timeout));
        }
    }
}

fn trace_poll<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, what: u16, port: Port) {
    if hv.machine.trace_enabled(Kind::POLL.0) {
        let (domid, vcpu) = (vcpu.domain().id, vcpu.id.0 as u16);
        let record = trace_stream::Poll { domid, vcpu, what, port, ..Default::default() };
        hv.machine.trace(Kind::POLL.0, record.as_bytes());
    }
}

/// Ends the sleep of a vCPU that polls, if it still sleeps; `what` is why.
fn wake_poller<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, what: u16, port: Port) {
    let change = hv.step(vcpu, Word::wake_poller);
    if change.before.is_blocked() && !change.after.is_blocked() {
        trace_poll(hv, vcpu, what, port);
    }
}

/// Removes what a poll left: the bit in the domain's mask, the timeout. Called where the vCPU is in this CPU's hands.
#[inline]
pub(crate) fn end_poll<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    if vcpu.sched.word.load().is_poller() {
        clear_poll(hv, vcpu);
    }
}

fn clear_poll<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    vcpu.domain().sched.pollers.fetch_and(!bit(vcpu.id), Ordering::SeqCst);
    vcpu.sched.word.update(Word::poll_ended);
    timer::set_poll_timeout(hv, vcpu, None);
}

/// The time of a poll is up.
pub(crate) fn poll_timed_out<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    fence(Ordering::SeqCst);
    wake_poller(hv, vcpu, POLL_TIMED_OUT, Port(0));
}

/// Wakes the vCPUs of `domain` that poll `port`, which has just become pending, masked or not. Without pollers this is
/// one load. The pending bit must have been set before.
pub fn poll_wake<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, port: Port) {
    fence(Ordering::SeqCst);
    if domain.sched.has_pollers() {
        wake_pollers(hv, domain, port);
    }
}

#[cold]
fn wake_pollers<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, port: Port) {
    let mut pollers = domain.sched.pollers.load(Ordering::SeqCst);
    while pollers != 0 {
        let id = pollers.trailing_zeros();
        pollers &= pollers - 1;
        let Some(vcpu) = VcpuRef::new(domain, VcpuId(id)) else { continue };
        let wanted = vcpu.sched.poll_port.load(Ordering::Relaxed);
        if wanted == 0 || wanted == port.0 {
            wake_poller(hv, &vcpu, POLL_SENT, port);
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Something for `vcpu` has just become visible (an event, an interrupt, an NMI): wakes it if it sleeps and could
    /// take it, and makes its CPU leave the guest if it runs on another.
    pub fn notify_vcpu(&self, vcpu: &VcpuRef<M>) {
        fence(Ordering::SeqCst);
        let state: &Vcpu<M> = vcpu;
        let word = state.sched.word.load();
        if word.is_blocked() {
            if !word.is_deaf() {
                self.step(vcpu, Word::wake);
            } else if state.attention().intersects(Attention::NMI | Attention::START) {
                self.step(vcpu, Word::wake_deaf);
            }
        }
        // Read again: it may have been chosen since, and has then perhaps looked for events before ours.
        if state.sched.word.load().placement() == Placement::Running {
            let cpu = state.sched.cpu();
            if cpu != self.machine.this_cpu()
                && let Some(cpu) = self.cpus.get(cpu.index())
            {
                cpu.raise(CpuAttention::KICK);
                if cpu.runs_guest_of(vcpu.domain().id) {
                    self.machine.kick(cpu.id);
                }
            }
        }
    }

    /// Whether this CPU runs `state`, which is awake: then something that has just become visible for it needs no more
    /// than the look this CPU takes before it enters the guest.
    #[inline]
    pub fn runs_here(&self, state: &Vcpu<M>) -> bool {
        fence(Ordering::SeqCst);
        let word = state.sched.word.load();
        // Only this CPU takes a vCPU off this CPU. Should it have come onto this CPU's queue between the two loads, then
        // it left its old CPU after the fence and looks before its next entry all the same.
        word.placement() == Placement::Running && !word.is_blocked() && state.sched.cpu() == self.machine.this_cpu()
    }

    /// The current vCPU executed HLT.
    ///
    /// With interrupts on it sleeps as by `SCHEDOP_block`. With interrupts off only an NMI or a fresh start ends the
    /// halt, and a domain all of whose vCPUs are halted so or down has powered itself off.
    #[inline(never)]
    pub fn halt(&self, vcpu: &VcpuRef<M>, interrupts_enabled: bool) {
        if interrupts_enabled {
            block(self, vcpu);
        } else if fall_asleep(self, vcpu, Sleep::Deaf, true, nothing) {
            shut_down_if_stopped(self, vcpu.domain());
        }
    }
}

/// Powers a domain off when none of its vCPUs can ever run again: each is down, or halted with interrupts off.
pub fn shut_down_if_stopped<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>) {
    // Of several vCPUs that stop at once, each changes its word before it looks, so the last one sees all.
    fence(Ordering::SeqCst);
    let stopped = domain.vcpus.iter().all(|vcpu| {
        let word = vcpu.sched.state();
        word.is_down() || word.is_deaf()
    });
    if stopped {
        lifecycle::shutdown(hv, domain, SHUTDOWN_POWEROFF);
    }
}
