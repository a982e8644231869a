//! Interprocessor interrupts: whom an interrupt command names, and what it does to them.

use super::{FIRST_VECTOR, Lapic};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::sched;
use crate::sched::state::Word;
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

/// Whom an interrupt command names without looking at its destination field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shorthand {
    None,
    Itself,
    All,
    Others,
}

impl Icr {
    /// Bits of the lower half that mean something: vector, delivery and destination mode, level, trigger mode,
    /// shorthand. Delivery status is not among them: it always reads as idle.
    pub const WRITABLE: u32 = 0x000c_cfff;
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

    fn shorthand(self) -> Shorthand {
        match self.low >> 18 & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Itself,
            2 => Shorthand::All,
            _ => Shorthand::Others,
        }
    }

    /// Whether it would send a vector that no APIC accepts.
    pub fn has_illegal_vector(self) -> bool {
        matches!(self.delivery(), Delivery::Fixed | Delivery::LowestPriority) && self.vector() < FIRST_VECTOR
    }

    /// What the manuals call invalid: INIT and start-up cannot name their sender by a shorthand.
    fn is_invalid(self) -> bool {
        matches!(self.delivery(), Delivery::Init | Delivery::StartUp)
            && matches!(self.shorthand(), Shorthand::Itself | Shorthand::All)
    }

    /// INIT with level de-assert only synchronised arbitration ids, long ago.
    fn is_init_deassert(self) -> bool {
        self.delivery() == Delivery::Init && self.low & Self::LEVEL_ASSERT == 0 && self.low & Self::TRIGGER_LEVEL != 0
    }

    /// Whether it names the vCPU with this APIC. The destination is read by the rules of the sender's mode.
    fn names(self, sender: bool, lapic: &Lapic) -> bool {
        match self.shorthand() {
            Shorthand::Itself => return sender,
            Shorthand::All => return true,
            Shorthand::Others => return !sender,
            Shorthand::None => {}
        }
        let broadcast = if self.x2apic { u32::MAX } else { 0xff };
        if self.destination == broadcast {
            return true;
        }
        if self.low & Self::LOGICAL == 0 {
            return lapic.id == self.destination;
        }
        if lapic.is_x2apic() != self.x2apic {
            // Logical ids of one mode mean nothing in the other.
            return false;
        }
        if self.x2apic {
            return self.destination >> 16 == lapic.ldr >> 16 && self.destination & lapic.ldr & 0xffff != 0;
        }
        let ldr = lapic.ldr >> 24;
        match lapic.dfr >> 28 {
            0xf => self.destination & ldr != 0,
            0 => self.destination >> 4 == ldr >> 4 && self.destination & ldr & 0xf != 0,
            _ => false,
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Carries out an interrupt command of `from`'s. At most one pass over the domain's vCPUs.
    pub(super) fn send_ipi(&self, from: &VcpuRef<M>, icr: Icr) {
        if icr.is_init_deassert() || icr.is_invalid() {
            return;
        }
        let domain = from.domain();
        let named = domain.vcpus.iter().filter(|target| icr.names(target.id == from.id, &target.lapic.lock()));
        if icr.delivery() == Delivery::LowestPriority {
            // Of those that are on, the one that does the least important work; the first of equals.
            let on = named.filter_map(|target| {
                let lapic = target.lapic.lock();
                lapic.software_enabled().then(|| (lapic.ppr() >> 4, target.id))
            });
            if let Some(target) = on.min_by_key(|(priority, _)| *priority).and_then(|(_, id)| VcpuRef::new(domain, id))
            {
                self.lapic_set_irr(&target, icr.vector());
            }
            return;
        }
        for target in named.filter_map(|target| VcpuRef::new(domain, target.id)) {
            self.deliver(&target, icr);
        }
    }

    fn deliver(&self, target: &VcpuRef<M>, icr: Icr) {
        match icr.delivery() {
            Delivery::Fixed | Delivery::LowestPriority => self.lapic_set_irr(target, icr.vector()),
            // A processor that waits for a start-up IPI takes nothing else.
            Delivery::Nmi if target.lapic.lock().waits_for_sipi => {}
            Delivery::Nmi => self.send_nmi(target),
            Delivery::Init => self.init_vcpu(target),
            Delivery::StartUp => self.start_up(target, icr.vector()),
            Delivery::Other => {}
        }
    }

    /// Puts a non-maskable interrupt before a vCPU.
    pub fn send_nmi(&self, target: &VcpuRef<M>) {
        target.raise(Attention::NMI);
        self.notify_vcpu(target);
    }

    /// INIT: the vCPU stops, loses its state and waits for a start-up IPI, or, as on Xen, for `VCPUOP_initialise`. One
    /// that waits already is reset once more.
    fn init_vcpu(&self, target: &VcpuRef<M>) {
        sched::set_down(self, target);
        let mut lapic = target.lapic.lock();
        lapic.reset();
        lapic.waits_for_sipi = true;
        target.withdraw(Attention::NMI | Attention::LAPIC | Attention::START);
        target.sched.word.update(Word::uninitialised);
        crate::timer::set_lapic_timer(self, target, None);
        drop(lapic);
        // A domain whose last vCPU resets itself has nobody left to start it.
        sched::sleep::shut_down_if_stopped(self, target.domain());
    }

    /// A start-up IPI: a vCPU that waits for one begins in real mode; any other ignores it.
    fn start_up(&self, target: &VcpuRef<M>, vector: u8) {
        if !core::mem::replace(&mut target.lapic.lock().waits_for_sipi, false) {
            return;
        }
        *target.start.lock() = Some(StartState::real_mode(vector));
        target.raise(Attention::START);
        sched::set_up(self, target);
    }
}
