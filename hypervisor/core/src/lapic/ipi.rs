//! Interprocessor interrupts: whom an interrupt command names, and what it does to them.

use alloc::sync::Arc;

use super::{FIRST_VECTOR, Lapic};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::sched;
use crate::vcpu::{Attention, StartState, VcpuRef};

/// An interrupt command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icr {
    low: u32,
    destination: u32,
    x2apic: bool,
}

/// How an interrupt command is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Fixed,
    LowestPriority,
    Nmi,
    Init,
    StartUp,
    Other,
}

impl Icr {
    /// The delivery-status bit, which always reads as idle.
    pub const PENDING: u32 = 1 << 12;
    const LOGICAL: u32 = 1 << 11;
    const LEVEL_ASSERT: u32 = 1 << 14;
    const TRIGGER_LEVEL: u32 = 1 << 15;

    /// From the register.
    pub fn new(value: u64, x2apic: bool) -> Self {
        let high = (value >> 32) as u32;
        Self { low: value as u32, destination: if x2apic { high } else { high >> 24 }, x2apic }
    }

    fn vector(self) -> u8 {
        self.low as u8
    }

    fn delivery(self) -> Delivery {
        match self.low >> 8 & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            6 => Delivery::StartUp,
            _ => Delivery::Other,
        }
    }

    /// Whether it would send a vector that no APIC accepts.
    pub fn has_illegal_vector(self) -> bool {
        matches!(self.delivery(), Delivery::Fixed | Delivery::LowestPriority) && self.vector() < FIRST_VECTOR
    }

    /// INIT with level de-assert only synchronised arbitration ids, long ago.
    fn is_init_deassert(self) -> bool {
        self.delivery() == Delivery::Init && self.low & Self::LEVEL_ASSERT == 0 && self.low & Self::TRIGGER_LEVEL != 0
    }

    /// Whether it names the vCPU with this APIC.
    fn names(self, sender: bool, lapic: &Lapic) -> bool {
        match self.low >> 18 & 3 {
            1 => return sender,
            2 => return true,
            3 => return !sender,
            _ => {}
        }
        let broadcast = if self.x2apic { u32::MAX } else { 0xff };
        if self.destination == broadcast {
            return true;
        }
        if self.low & Self::LOGICAL == 0 {
            return lapic.id == self.destination;
        }
        if self.x2apic {
            return self.destination >> 16 == lapic.ldr >> 16 && self.destination & lapic.ldr & 0xffff != 0;
        }
        let ldr = lapic.ldr >> 24;
        match lapic.dfr >> 28 {
            0xf => self.destination & ldr != 0,
            _ => self.destination >> 4 == ldr >> 4 && self.destination & ldr & 0xf != 0,
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Carries out an interrupt command of `from`'s. At most one pass over the domain's vCPUs.
    pub(super) fn send_ipi(&self, from: &VcpuRef<M>, icr: Icr) {
        if icr.is_init_deassert() {
            return;
        }
        for target in sched::each_vcpu(from.domain()) {
            let sender = target.id == from.id;
            if !icr.names(sender, &target.lapic.lock()) {
                continue;
            }
            self.deliver(&target, icr);
            if icr.delivery() == Delivery::LowestPriority {
                // Without priorities between processors any of those named will do.
                break;
            }
        }
    }

    fn deliver(&self, target: &VcpuRef<M>, icr: Icr) {
        match icr.delivery() {
            Delivery::Fixed | Delivery::LowestPriority => self.lapic_set_irr(target, icr.vector()),
            Delivery::Nmi => self.send_nmi(target),
            Delivery::Init => self.init_vcpu(target),
            Delivery::StartUp => self.start_up(target.domain(), target, icr.vector()),
            Delivery::Other => {}
        }
    }

    /// Puts a non-maskable interrupt before a vCPU.
    pub fn send_nmi(&self, target: &VcpuRef<M>) {
        target.raise(Attention::NMI);
        self.notify_vcpu(target);
    }

    /// INIT: the vCPU stops and waits for a start-up IPI.
    fn init_vcpu(&self, target: &VcpuRef<M>) {
        sched::set_down(self, target);
        let mut lapic = target.lapic.lock();
        lapic.reset();
        lapic.waits_for_sipi = true;
        drop(lapic);
        target.withdraw(Attention::NMI | Attention::LAPIC);
        crate::timer::set_lapic_timer(self, target, None);
    }

    /// A start-up IPI: a vCPU that waits for one begins in real mode; any other ignores it.
    fn start_up(&self, domain: &Arc<Domain<M>>, target: &VcpuRef<M>, vector: u8) {
        if !core::mem::replace(&mut target.lapic.lock().waits_for_sipi, false) || !domain.lifecycle.is_running() {
            return;
        }
        *target.start.lock() = Some(StartState::real_mode(vector));
        target.raise(Attention::START);
        sched::set_up(self, target);
    }
}
