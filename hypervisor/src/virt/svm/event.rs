//! Events a guest is made to take: external interrupts, and what an exit interrupted on its way.
//!
//! Mirrors what VMX has in its entry and IDT-vectoring fields. Specification: AMD64 Architecture Programmer's Manual,
//! volume 2, 15.20 and 15.7.2; docs/hardware.md for what QEMU's emulation does differently.

use super::is_emulated_by_qemu;
use super::vcpu::SvmVcpu;
use super::vmcb::event;
use crate::apic;

/// The first vector that is no exception's.
const FIRST_INTERRUPT: u64 = 32;

/// An interrupted event to inject again. QEMU's emulation calls one delivered twice an exception, and exceptions with
/// such vectors cannot be injected.
fn with_true_type(interrupted: u64) -> u64 {
    let exception = interrupted & event::TYPE_MASK == event::TYPE_EXCEPTION;
    if exception && interrupted & event::VECTOR_MASK >= FIRST_INTERRUPT {
        event::VALID | event::TYPE_EXTERNAL | interrupted & event::VECTOR_MASK
    } else {
        interrupted
    }
}

impl SvmVcpu {
    /// Has the guest take this interrupt at the next entry.
    ///
    /// QEMU's emulation (7.2 at least) keeps the vector of an injected external interrupt, and delivers it again, whatever
    /// RFLAGS.IF says, when it is interrupted before the next exit. What is injected as a software interrupt it delivers
    /// once. The two differ in the check of the gate's privilege only, which privilege level 0 always passes. In user
    /// mode an interrupt of our own ends the guest's run at once: an exit makes the emulation forget the vector.
    #[inline]
    pub(super) fn inject_external(&mut self, vector: u8) {
        let external = event::VALID | event::TYPE_EXTERNAL | u64::from(vector);
        self.vmcb.control.event_injection = if is_emulated_by_qemu() { self.disguise(external) } else { external };
    }

    fn disguise(&mut self, external: u64) -> u64 {
        if self.vmcb.save.cpl == 0 {
            self.as_software = external | event::TYPE_SOFTWARE;
            self.as_software
        } else {
            apic::interrupt_self();
            external
        }
    }

    /// What an exit leaves behind that must be kept for the next entry.
    #[inline]
    pub(super) fn after_exit(&mut self) {
        self.nmi_ending = false;
        self.vmcb.control.event_injection = 0;
        if self.vmcb.control.exit_int_info & event::VALID == 0 {
            self.as_software = 0;
        } else {
            self.inject_again();
        }
    }

    /// The exit came in the middle of an event's delivery.
    #[inline(never)]
    fn inject_again(&mut self) {
        let control = &mut self.vmcb.control;
        let interrupted = core::mem::take(&mut control.exit_int_info);
        // An INT n is executed again from its own address; everything else is injected again.
        if interrupted & event::TYPE_MASK != event::TYPE_SOFTWARE || interrupted == self.as_software {
            control.event_injection = with_true_type(interrupted);
        } else {
            self.as_software = 0;
        }
    }
}
