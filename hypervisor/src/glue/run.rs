//! The loop each processor runs: choose a vCPU, load it, enter it, serve its exits, until something wants the
//! scheduler's attention.
//!
//! Interrupts are off here; physical interrupts are taken while a guest runs (they make it exit), in `cpu::idle`, and
//! in `instr::take_interrupts`. Their handlers only make a note on the CPU, which [`collect`] turns into the core's
//! attention bits.
#![allow(unsafe_code)] // The hypervisor's address travels to the other processors through a pointer.

use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use ebb_core::hypervisor::{CpuAttention, PerCpu};
use ebb_core::{Hypervisor, sched};
use shared_abi::trace;

use super::{Glue, GuestCpu, Vcpu, enable_this_cpu, trace_ring};
use crate::cpu::{self, CpuId, Doing};
use crate::exit::{self, msr::StoredMsrs};
use crate::virt::any::AnyVcpu;
use crate::virt::{VirtualCpu, VmExit, speculation};
use crate::{instr, nmi, power};

/// What the other processors run once there is a hypervisor: a function of no arguments, by its address.
static OTHERS: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// Set by the CPU that ends the machine.
static ENDED: AtomicBool = AtomicBool::new(false);
/// The hypervisor, of the type that the function knows.
static HYPERVISOR: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Lets the processors in [`wait_for_start`] go on.
pub fn release_others(hv: &'static Hypervisor<Glue>) {
    HYPERVISOR.store(core::ptr::from_ref(hv).cast_mut().cast(), Ordering::Release);
    crate::console::input::listen(|| hypervisor().cpu().raise(CpuAttention::TYPED));
    crate::panic::add_to_reports(|line| hypervisor().describe(line));
    crate::memory::heap::grow_by(|order| {
        let hv = hypervisor();
        hv.heap.take_for_ever(&hv.machine, order).map(|first| first.0 * 4096)
    });
    let entry: fn() -> ! = other_processor;
    OTHERS.store(entry as *mut (), Ordering::Release);
    for number in 1..cpu::cpu_count() {
        crate::apic::send_kick(CpuId(number as u16));
    }
}

/// Where every processor but the first waits until the domains' hypervisor exists.
pub fn wait_for_start() -> ! {
    loop {
        let entry = OTHERS.load(Ordering::Acquire);
        if !entry.is_null() {
            // SAFETY: `release_others` stored a `fn() -> !` there.
            let entry = unsafe { core::mem::transmute::<*mut (), fn() -> !>(entry) };
            entry();
        }
        cpu::this_cpu().take_kick();
        if OTHERS.load(Ordering::Acquire).is_null() {
            cpu::idle();
        }
    }
}

fn other_processor() -> ! {
    enable_this_cpu();
    processor(hypervisor())
}

/// The hypervisor, for functions that [`release_others`] of the same backend has made known.
fn hypervisor() -> &'static Hypervisor<Glue> {
    // SAFETY: `release_others` stored a leaked `Hypervisor<Glue>` there before it gave this function to anyone.
    unsafe { &*HYPERVISOR.load(Ordering::Acquire).cast::<Hypervisor<Glue>>() }
}

/// The loop of one processor.
pub fn processor(hv: &'static Hypervisor<Glue>) -> ! {
    let mut next = hv.schedule();
    loop {
        next = match next {
            Some(vcpu) => run(hv, &vcpu),
            None => idle(hv),
        };
        // Also on CPUs that are never idle, a little at each switch.
        hv.teardown_step();
    }
}

/// Turns what the interrupt handlers noted into attention, and serves the timer. Whether there was anything.
#[inline]
fn collect(hv: &Hypervisor<Glue>, per_cpu: &PerCpu<Glue>, this: &cpu::PerCpu) -> bool {
    if this.take_timer() {
        per_cpu.raise(CpuAttention::TIMER);
    }
    // An NMI leaves a kick.
    if this.take_kick() && nmi::any() {
        nmi::report();
    }
    let any = !per_cpu.attention().is_empty();
    if any {
        serve_attention(hv, per_cpu);
    }
    any
}

#[inline(never)]
fn serve_attention(hv: &Hypervisor<Glue>, per_cpu: &PerCpu<Glue>) {
    let attention = per_cpu.attention();
    per_cpu.withdraw(CpuAttention::KICK);
    if attention.contains(CpuAttention::TIMER) {
        hv.on_timer();
    }
    if attention.contains(CpuAttention::TYPED) {
        per_cpu.withdraw(CpuAttention::TYPED);
        ebb_core::console::typed(hv);
    }
    if attention.contains(CpuAttention::TRACE) {
        per_cpu.withdraw(CpuAttention::TRACE);
        hv.announce_trace();
    }
}

/// Nothing to run: work that nobody waits for, then sleep until an interrupt.
fn idle(hv: &Hypervisor<Glue>) -> Option<Vcpu> {
    let per_cpu = hv.cpu();
    let this = cpu::this_cpu();
    this.set_activity(Doing::Idle, 0, 0, 0);
    loop {
        instr::take_interrupts();
        collect(hv, per_cpu, this);
        if let Some(vcpu) = hv.schedule() {
            return Some(vcpu);
        }
        let more = hv.background_work() | trace_ring::drain_this_cpu();
        if let Some(status) = hv.all_ended() {
            end(hv, status);
        }
        if !more && !per_cpu.attention().contains(CpuAttention::RESCHEDULE) {
            cpu::idle();
        }
    }
}

/// The last domain is gone: the final samples, the end of the trace, and off. One CPU does it, the others stop.
fn end(hv: &Hypervisor<Glue>, status: u8) -> ! {
    if ENDED.swap(true, Ordering::AcqRel) {
        instr::halt_forever();
    }
    hv.emit_samples();
    trace_ring::finish(status);
    power::power_off(status)
}

/// Runs `vcpu` until the scheduler chooses something else, and returns that.
fn run(hv: &Hypervisor<Glue>, vcpu: &Vcpu) -> Option<Vcpu> {
    let mut claim = vcpu.arch.claim();
    let GuestCpu { hw, msrs } = &mut *claim;
    let next = match hw {
        AnyVcpu::Svm(hw) => run_on(hv, vcpu, hw, msrs),
        AnyVcpu::Vmx(hw) => run_on(hv, vcpu, hw, msrs),
    };
    drop(claim);
    hv.context_saved(vcpu);
    next
}

/// [`run`] for one vendor.
fn run_on<C: VirtualCpu>(hv: &Hypervisor<Glue>, vcpu: &Vcpu, hw: &mut C, msrs: &mut StoredMsrs) -> Option<Vcpu> {
    let per_cpu = hv.cpu();
    let this = cpu::this_cpu();
    let state: &ebb_core::Vcpu<Glue> = vcpu;
    speculation::arrive(vcpu.domain().birth);
    hw.load();
    if hw.has_pause_exits() {
        hw.set_pause_window(sched::pause::window(hv, vcpu));
    }
    let exiting = cpu::pack_activity(Doing::Exit, vcpu.domain().id.0, state.id.0 as u16, 0);
    let next = loop {
        let reschedule = collect(hv, per_cpu, this) && per_cpu.attention().contains(CpuAttention::RESCHEDULE);
        if reschedule || !state.sched.state().is_runnable() {
            let next = hv.schedule();
            if next.as_ref() != Some(vcpu) {
                break next;
            }
            continue;
        }
        // From here on a CPU that changes translations or wants this one's attention sends a kick, which ends the entry.
        per_cpu.enter_guest(vcpu.domain().id);
        if !per_cpu.attention().is_empty() {
            per_cpu.leave_guest();
            continue;
        }
        let exit = enter(hv, per_cpu, vcpu, state, hw);
        this.set_packed_activity(exiting);
        exit::handle(hv, vcpu, hw, msrs, exit);
    };
    hw.unload();
    next
}

/// One entry, until the exit that ends it.
#[inline]
fn enter<C: VirtualCpu>(
    hv: &Hypervisor<Glue>,
    per_cpu: &PerCpu<Glue>,
    vcpu: &Vcpu,
    state: &ebb_core::Vcpu<Glue>,
    hw: &mut C,
) -> VmExit {
    let domain = vcpu.domain();
    let stale = state.translations_are_stale(domain.memory.translation_generation());
    if hv.nothing_waits(state) {
        hw.prepare_quiet(stale);
    } else if let Some(vector) = hv.only_upcall(domain, state) {
        hw.prepare_interrupt(vector, stale);
    } else {
        plan_entry(hv, vcpu, hw, stale);
    }
    hv.record(trace::HVM_VMENTRY, &[]);
    let exit = hw.run();
    per_cpu.leave_guest();
    if hv.trace_buffers.are_on() {
        record_exit(hv, hw);
    }
    state.counters.count_exit(exit.reason());
    if matches!(exit, VmExit::ExternalInterrupt) {
        instr::take_interrupts();
    }
    if let Some(tpr) = hw.take_changed_tpr() {
        hv.set_tpr(vcpu, tpr);
    }
    exit
}

#[cold]
#[inline(never)]
fn record_exit(hv: &Hypervisor<Glue>, hw: &dyn VirtualCpu) {
    let rip = hw.rip();
    hv.record(trace::HVM_VMEXIT64, &[hw.exit_code(), rip as u32, (rip >> 32) as u32]);
}

/// The preparation of an entry for which something waits.
#[inline(never)]
fn plan_entry(hv: &Hypervisor<Glue>, vcpu: &Vcpu, hw: &mut dyn VirtualCpu, stale: bool) {
    let mut plan = hv.prepare_entry(vcpu, hw.interruptibility());
    plan.flush_tlb = stale;
    if let Some(start) = &plan.start {
        hw.start(start, vcpu.domain().memory.nested_root());
    }
    hw.prepare(&plan);
}
