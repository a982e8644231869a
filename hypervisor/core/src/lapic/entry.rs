//! What a vCPU's next entry must do: start, or take an NMI, an event upcall or an APIC interrupt, in this order.
//!
//! The upcall is level-triggered, as on Xen: it is injected whenever `evtchn_upcall_pending` is set and unmasked and the
//! guest can take an interrupt, until the guest has cleared the byte. It does not depend on the local APIC, whose task
//! priority and state do not hold it back.
//!
//! **No interrupt is lost** between the CPU that sets one ([`Hypervisor::lapic_set_irr`]) and the one that enters. The
//! first changes the IRR under the APIC's lock, then raises `LAPIC`, then notifies; the second withdraws `LAPIC` only
//! under that lock, and only when nothing can be delivered. So if an interrupt can be delivered, either `LAPIC` is up or
//! somebody who made it deliverable is still to raise it and will notify after that. An interrupt that is held back by
//! priorities is announced by the write that lowers them (TPR, EOI), which is the vCPU's own and precedes its entry.
//! **None is doubled:** [`Lapic::accept`](super::Lapic::accept) moves a vector out of the IRR under the lock, and what is
//! planned here is injected. And the notification reaches an entry under way: the entering CPU has stored `in_guest`
//! before it loads the attention here, and the notifier looks at `in_guest` after it has raised it.

use shared_abi::trace_stream::{Kind, VcpuStart};
use zerocopy::IntoBytes;

use crate::domain::Domain;
use crate::evtchn;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::vcpu::{Attention, EntryPlan, Injection, Interruptibility, Vcpu, VcpuRef};

impl<M: Machine> Hypervisor<M> {
    /// Whether nothing waits for the guest: then an entry needs no plan. A load of the attention word and a look at the
    /// upcall byte.
    #[inline(always)]
    pub fn nothing_waits(&self, state: &Vcpu<M>) -> bool {
        state.attention().is_empty() && !evtchn::upcall_pending(self, state)
    }

    /// When nothing but an upcall waits, which is what most entries with a plan are for: the vector to inject as soon as
    /// the guest takes interrupts, if the upcall comes by one. `None`: something else waits too, and
    /// [`Hypervisor::prepare_entry`] decides.
    #[inline]
    pub fn only_upcall(&self, domain: &Domain<M>, state: &Vcpu<M>) -> Option<u8> {
        if !state.attention().is_empty() || state.events.upcall_vector().is_some() {
            return None;
        }
        domain.hvm.callback_vector().filter(|_| evtchn::upcall_pending(self, state))
    }

    /// Decides about the next entry of `vcpu`, the current one of this CPU. When nothing waits this is a load of the
    /// attention word and a look at the upcall byte. What is returned as `inject` counts as delivered: the machine
    /// injects it at the entry that follows.
    pub fn prepare_entry(&self, vcpu: &VcpuRef<M>, can: Interruptibility) -> EntryPlan {
        let attention = vcpu.attention();
        self.prepare_busy_entry(vcpu, can, attention, evtchn::upcall_deliverable(self, vcpu.domain(), vcpu))
    }

    fn prepare_busy_entry(
        &self,
        vcpu: &VcpuRef<M>,
        can: Interruptibility,
        attention: Attention,
        upcall: bool,
    ) -> EntryPlan {
        let mut plan = EntryPlan::default();
        if attention.contains(Attention::START) {
            vcpu.withdraw(Attention::START);
            plan.start = vcpu.start.lock().take();
            if plan.start.is_some() {
                let record = VcpuStart { domid: vcpu.domain().id, vcpu: vcpu.id.0 as u16, pad: 0 };
                self.machine.trace(Kind::VCPU_START.0, record.as_bytes());
                return plan;
            }
        }
        let mut free = !can.occupied;
        if attention.contains(Attention::NMI) {
            if free && can.nmi {
                vcpu.withdraw(Attention::NMI);
                plan.inject = Some(Injection::Nmi);
                free = false;
            } else {
                plan.nmi_window = true;
            }
        }
        if let Some(vector) = self.callback_vector(vcpu, upcall) {
            if free && can.interrupts {
                plan.inject = Some(Injection::External(vector));
                free = false;
            } else {
                plan.interrupt_window = true;
            }
        }
        if attention.contains(Attention::LAPIC) {
            self.offer_apic_interrupt(vcpu, free && can.interrupts, &mut plan);
        }
        plan
    }

    /// The vector of the domain-wide callback, when an upcall waits that comes by it.
    fn callback_vector(&self, vcpu: &VcpuRef<M>, upcall: bool) -> Option<u8> {
        if !upcall || vcpu.events.upcall_vector().is_some() {
            return None;
        }
        vcpu.domain().hvm.callback_vector()
    }

    fn offer_apic_interrupt(&self, vcpu: &VcpuRef<M>, free: bool, plan: &mut EntryPlan) {
        let mut lapic = vcpu.lapic.lock();
        match lapic.deliverable() {
            // Raised again by whatever makes one deliverable, which needs the lock held here.
            None => vcpu.withdraw(Attention::LAPIC),
            Some(vector) if free => {
                lapic.accept(vector);
                plan.inject = Some(Injection::External(vector));
                plan.interrupt_window |= lapic.deliverable().is_some();
            }
            Some(_) => plan.interrupt_window = true,
        }
    }
}
