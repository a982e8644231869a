//! A CPU's turn: what its guest does, and the loop of the contract in `sched`, until it rests.

use std::sync::atomic::Ordering;

use ebb_core::hypercall::Width;
use ebb_core::hypervisor::CpuAttention;
use ebb_core::machine::Machine;
use ebb_core::vcpu::Interruptibility;
use ebb_core::{lifecycle, sched};

use super::super::calls::{GuestCall, Sched, When};
use super::super::guest;
use super::super::layout::BUFFERS;
use super::super::steps::{Caller, Exit, Paging};
use super::super::testing;
use super::{Place, Ref, World, name, scribble};

impl World {
    /// The hardware's timer, if its time has come.
    pub(super) fn fire_timer(&mut self, cpu: usize) {
        let mut timer = self.hv.machine.timers[cpu].lock().unwrap();
        if timer.is_some_and(|at| at <= self.hv.machine.now()) {
            *timer = None;
            self.hv.cpus[cpu].raise(CpuAttention::TIMER);
            if self.cpus[cpu].place != Place::Awake {
                self.hv.cpus[cpu].leave_guest();
                self.cpus[cpu].place = Place::Awake;
            }
        }
    }

    /// One CPU's turn: its guest does something that exits, or it has been woken up; then its loop, until it rests.
    pub(super) fn turn(&mut self, cpu: usize, exit: &Exit, can: u8, stall: bool) {
        let was_in_guest = matches!(self.cpus[cpu].place, Place::Guest { .. });
        let was_halted = self.cpus[cpu].place == Place::Halted;
        self.arrive(cpu);
        if was_in_guest && let Some(vcpu) = self.cpus[cpu].loaded.clone() {
            self.exit(cpu, &vcpu, exit);
        } else if was_halted {
            self.hv.background_work();
        }
        self.observe();
        self.run_loop(cpu, can, stall);
    }

    /// The loop of the contract in `sched`, until the CPU rests. With `stall`, that is where it has chosen another vCPU
    /// and not yet saved the context of the one before.
    pub(super) fn run_loop(&mut self, cpu: usize, can: u8, stall: bool) {
        testing::set_cpu(cpu as u16);
        let hv = self.hv.clone();
        let per_cpu = &hv.cpus[cpu];
        self.save(cpu);
        for _ in 0..100 {
            self.fire_timer(cpu);
            per_cpu.withdraw(CpuAttention::KICK);
            self.kicked[cpu].store(false, Ordering::SeqCst);
            if per_cpu.attention().contains(CpuAttention::TIMER) {
                hv.on_timer();
            }
            let loaded = self.cpus[cpu].loaded.clone();
            if loaded.as_ref().is_none_or(|vcpu| hv.must_schedule(vcpu)) {
                let next = hv.schedule();
                if next != loaded {
                    match self.cpus[cpu].loaded.take() {
                        Some(old) => self.cpus[cpu].unsaved = Some((old, next)),
                        None => self.load(cpu, next),
                    }
                    if stall && self.cpus[cpu].unsaved.is_some() {
                        return;
                    }
                    self.save(cpu);
                }
                if self.cpus[cpu].loaded.is_none() && per_cpu.attention().is_empty() {
                    self.cpus[cpu].place = Place::Halted;
                    return;
                }
                continue;
            }
            if let Some(vcpu) = loaded
                && self.enter(cpu, &vcpu, can)
            {
                return;
            }
        }
        panic!("CPU {cpu} does not come to rest");
    }

    /// Saves the context that is still held, and loads what was chosen.
    fn save(&mut self, cpu: usize) {
        if let Some((old, chosen)) = self.cpus[cpu].unsaved.take() {
            self.hv.context_saved(&old);
            self.load(cpu, chosen);
        }
    }

    fn load(&mut self, cpu: usize, vcpu: Option<Ref>) {
        if let Some(vcpu) = &vcpu {
            for (other, holder) in self.cpus.iter().enumerate() {
                let held =
                    holder.loaded.as_ref() == Some(vcpu) || holder.unsaved.as_ref().is_some_and(|(old, _)| old == vcpu);
                assert!(!held, "{}: CPU {cpu} loads what CPU {other} holds", name(vcpu));
            }
        }
        self.cpus[cpu].loaded = vcpu;
    }

    /// Enters the guest; false when something wants the CPU's attention first.
    fn enter(&mut self, cpu: usize, vcpu: &Ref, can: u8) -> bool {
        let hv = &self.hv;
        let per_cpu = &hv.cpus[cpu];
        per_cpu.enter_guest(vcpu.domain().id);
        if !per_cpu.attention().is_empty() {
            per_cpu.leave_guest();
            return false;
        }
        let can = Interruptibility { interrupts: can & 1 != 0, nmi: can & 2 != 0, occupied: can & 4 == 0 };
        let plan = hv.prepare_entry(vcpu, can);
        // True just once after each change: the machine would drop its translations now.
        vcpu.translations_are_stale(vcpu.domain().memory.translation_generation());
        self.cpus[cpu].place = Place::Guest {
            // A fresh start is followed by an exit before anything waits for long.
            interrupt_window: plan.interrupt_window || plan.start.is_some(),
            nmi_window: plan.nmi_window || plan.start.is_some(),
            injected: plan.inject,
        };
        true
    }

    /// What the guest did.
    fn exit(&mut self, cpu: usize, vcpu: &Ref, exit: &Exit) {
        let domain = vcpu.domain().clone();
        let index = vcpu.id.0 as usize;
        let hv = self.hv.clone();
        let tidy = self.know(&domain).tidy;
        // An orderly guest repeats an unfinished call; a wild one may do something else instead.
        let unfinished = self.know(&domain).unfinished[index].take();
        if let Some(call) = unfinished.filter(|_| tidy || !matches!(exit, Exit::Call { .. })) {
            return self.hypercall(vcpu, call);
        }
        match exit {
            Exit::Call { call, caller } => self.call(vcpu, call, *caller),
            Exit::Halt { interrupts } => hv.halt(vcpu, *interrupts),
            Exit::Pause => sched::yield_cpu(&hv, vcpu),
            Exit::Drain => self.know(&domain).drain(&hv, &domain, index),
            Exit::Mask { port } => guest::mask(&hv, &domain, *port),
            Exit::Wait { port, interrupts } => {
                guest::mask(&hv, &domain, *port);
                let poll = Sched::Poll { ports: vec![*port], count: None, timeout: When::At(0) };
                let wide = self.know(&domain).width == Width::Bits64;
                let caller = Caller { wide, at: BUFFERS, paging: Paging::Off, interrupts: *interrupts };
                self.call(vcpu, &GuestCall::Sched(poll), caller);
            }
            Exit::Apic { offset, value } => {
                hv.apic_mmio_read(vcpu, *offset);
                hv.apic_mmio_write(vcpu, *offset, *value);
            }
            Exit::ApicMsr { msr, value } => {
                // A fault is the guest's.
                let _ = (hv.apic_msr_read(vcpu, *msr), hv.apic_msr_write(vcpu, *msr, *value));
            }
            Exit::Tpr { value } => hv.set_tpr(vcpu, *value),
            Exit::ApicBase { value } => {
                let _ = hv.set_apic_base(vcpu, *value);
            }
            Exit::TripleFault => lifecycle::triple_fault(&hv, vcpu),
            Exit::Scribble { spot, index, value, how } => {
                if !tidy {
                    scribble(&hv, &domain, *spot, *index, *value, *how);
                }
            }
            Exit::External => {}
        }
        debug_assert!(self.cpus[cpu].place == Place::Awake);
    }
}
