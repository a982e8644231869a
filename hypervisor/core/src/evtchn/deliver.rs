//! Sending: from a port to a pending bit, an upcall, and whoever must wake up for it. Takes no lock, except that the
//! FIFO ABI locks one queue when an event has to be put on it.
//!
//! **Send against close, bind and move.** A sender reads its own port's binding, then the other end's, and believes the
//! other end only if it points back. Between that and setting the pending bit, the other end may be closed, and even be
//! bound to something else. The sender then sets the pending bit of a port that no longer listens to it: the new owner
//! sees one event too many, which the ABI allows at any time (`bind_interdomain` and `register_vcpu_info` raise
//! unasked-for events too). Nothing else is touched: entries never move, the pages written are kept by the
//! [`super::gate::Gate`], and the vCPU is one that the domain has for ever. An event cannot be lost by this: a send that
//! begins after a binding was made sees it (all words are sequentially consistent), and one that began before it has no
//! claim to it. `bind_interdomain` makes the remote end first, then the local one, then raises the local port, so that a
//! send by the remote which saw only half is made good.
//!
//! **Upcalls.** The port's bit is set first, the summary (selector word or ready bit) next, `evtchn_upcall_pending` last,
//! and the vCPU is told only when that byte was clear; the guest clears in the opposite order. The address of the
//! `vcpu_info` is read after the port's bit was set, and moving it marks everything pending afterwards: whoever still
//! wrote to the old place is covered by that.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use shared_abi::trace_stream::{EventSend, Kind};
use shared_abi::xen::{Errno, Port, VcpuId, Virq, vcpu_info_offset as offset};
use zerocopy::IntoBytes;

use super::port::{Binding, Packed, PortEntry};
use super::{fifo, two_level};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, MachineAddress};
use crate::sched;
use crate::vcpu::{Vcpu, VcpuRef};

/// What setting a port pending did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The port was not pending before: a poll for it ends.
    pub fresh: bool,
    /// The vCPU's upcall became pending: the vCPU must hear of it.
    pub upcall: bool,
}

/// Signals the other end of `port`, as `EVTCHNOP_send` does.
///
/// # Errors
/// `EINVAL` for a port that does not exist or cannot be sent on.
#[inline]
pub fn send<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, port: Port) -> Result<(), Errno> {
    let entry = domain.events.ports.get(port).ok_or(Errno::EINVAL)?;
    let here = entry.load();
    match here.binding() {
        Binding::Ipi => raise(hv, domain, port, entry, here.vcpu()),
        Binding::Interdomain(remote, remote_port) if remote == domain.id => {
            raise_remote(hv, domain, port, domain, remote_port);
        }
        Binding::Interdomain(remote, remote_port) => {
            if let Some(remote) = hv.find_domain(remote) {
                raise_remote(hv, domain, port, &remote, remote_port);
            }
        }
        Binding::Unbound(_) => {}
        Binding::Free | Binding::Virq(_) => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// Raises the other end of an inter-domain binding, if it still points back.
fn raise_remote<M: Machine>(
    hv: &Hypervisor<M>,
    from: &Arc<Domain<M>>,
    from_port: Port,
    to: &Arc<Domain<M>>,
    to_port: Port,
) {
    let Some(entry) = to.events.ports.get(to_port) else {
        return;
    };
    let there = entry.load();
    // Compared as it is packed, which takes less than to unpack it.
    if there == Packed::new(Binding::Interdomain(from.id, from_port), there.vcpu()) {
        raise(hv, to, to_port, entry, there.vcpu());
    }
}

/// Raises a virtual interrupt of `vcpu`, if the guest has bound it. For lines that are not per vCPU, `vcpu` is vCPU 0 and
/// the event goes where the guest moved it.
pub fn raise_virq<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>, virq: Virq) {
    let Some(slot) = vcpu.events.virqs.get(virq.index()) else {
        return;
    };
    let port = Port(slot.load(Ordering::SeqCst));
    if port.0 == 0 {
        return;
    }
    let domain = vcpu.domain();
    let Some(entry) = domain.events.ports.get(port) else {
        return;
    };
    let bound = entry.load();
    if bound.binding() == Binding::Virq(virq) {
        raise(hv, domain, port, entry, bound.vcpu());
    }
}

/// Raises a virtual interrupt that belongs to the machine, in the first privileged domain that has bound it.
pub fn raise_global_virq<M: Machine>(hv: &Hypervisor<M>, virq: Virq) {
    let has_bound =
        |vcpu: &VcpuRef<M>| vcpu.events.virqs.get(virq.index()).is_some_and(|slot| slot.load(Ordering::SeqCst) != 0);
    let governors = hv.each_domain().filter(|domain| domain.is_privileged());
    let vcpu = governors.filter_map(|domain| VcpuRef::new(&domain, VcpuId(0))).find(has_bound);
    if let Some(vcpu) = vcpu {
        raise_virq(hv, &vcpu, virq);
    }
}

/// Makes `port` pending for `vcpu` and tells whoever should know.
pub(super) fn raise<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Arc<Domain<M>>,
    port: Port,
    entry: &PortEntry,
    vcpu: VcpuId,
) {
    let events = &domain.events;
    let Some(vcpu) = domain.vcpus.get(vcpu.index()) else { return };
    events.sent.fetch_add(1, Ordering::Relaxed);
    let Some(pass) = events.gate.enter(&hv.machine) else {
        return;
    };
    let outcome = if events.uses_fifo() {
        fifo::set_pending(hv, domain, port, entry, vcpu)
    } else {
        two_level::set_pending(hv, domain, port, vcpu)
    };
    drop(pass);
    settle(hv, domain, port, vcpu, outcome);
    if hv.machine.trace_enabled(Kind::EVENT_SEND.0) {
        let record = EventSend { domid: domain.id, pad: 0, port };
        hv.machine.trace(Kind::EVENT_SEND.0, record.as_bytes());
    }
}

/// Unmasks `port` and delivers what was pending.
pub(super) fn unmask<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, port: Port) -> Result<(), Errno> {
    let entry = domain.events.ports.get(port).ok_or(Errno::EINVAL)?;
    let vcpu = domain.vcpus.get(entry.load().vcpu().index()).ok_or(Errno::EINVAL)?;
    let Some(pass) = domain.events.gate.enter(&hv.machine) else {
        return Ok(());
    };
    let outcome = if domain.events.uses_fifo() {
        fifo::unmask(hv, domain, port, entry, vcpu)
    } else {
        two_level::unmask(hv, domain, port, vcpu)
    };
    drop(pass);
    settle(hv, domain, port, vcpu, outcome);
    Ok(())
}

/// Whether the domain has ever had `port`: what a call that names a port checks first.
pub fn port_is_valid<M: Machine>(domain: &Domain<M>, port: Port) -> bool {
    domain.events.ports.get(port).is_some()
}

/// Whether `port` is pending, masked or not, by either ABI.
pub fn port_pending<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port) -> bool {
    let Some(_pass) = domain.events.gate.enter(&hv.machine) else {
        return false;
    };
    if domain.events.uses_fifo() { fifo::is_pending(hv, domain, port) } else { two_level::is_pending(hv, domain, port) }
}

#[inline]
fn settle<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, port: Port, vcpu: &Vcpu<M>, outcome: Outcome) {
    if outcome.upcall {
        notify(hv, domain, vcpu);
    }
    if outcome.fresh && domain.sched.has_pollers() {
        sched::poll_wake(hv, domain, port);
    }
}

/// Tells a vCPU of the domain that its upcall is pending.
#[inline]
fn notify<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, vcpu: &Vcpu<M>) {
    // The one that runs here sees the byte before its next entry. That is the whole of what `announce` would find.
    if vcpu.events.upcall_vector().is_some() || !hv.runs_here(vcpu) {
        notify_elsewhere(hv, domain, vcpu.id);
    }
}

#[inline(never)]
fn notify_elsewhere<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, vcpu: VcpuId) {
    if let Some(vcpu) = VcpuRef::new(domain, vcpu) {
        announce(hv, &vcpu);
    }
}

/// Tells a vCPU that its upcall is pending: by its own vector if it has one, else by waking or kicking it, so that it
/// looks at its `vcpu_info` before its next entry.
pub fn announce<M: Machine>(hv: &Hypervisor<M>, vcpu: &VcpuRef<M>) {
    match vcpu.events.upcall_vector() {
        Some(vector) => hv.lapic_set_irr(vcpu, vector),
        None => hv.notify_vcpu(vcpu),
    }
}

/// Sets `evtchn_upcall_pending`; true if it was clear, so that the vCPU must be told. A vCPU without a `vcpu_info` has
/// everything marked when it registers one.
#[inline]
pub(super) fn mark_upcall<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu<M>) -> bool {
    match vcpu.events.info() {
        Some(info) => upcall_byte(hv, info).swap(1, Ordering::SeqCst) == 0,
        None => false,
    }
}

/// Whether the domain's callback vector is to be injected into `vcpu` as soon as it takes interrupts: it has no vector of
/// its own (else its local APIC decides), the domain has a callback, and the upcall is pending. Called where the domain
/// still has its memory: for a vCPU that runs, is about to, or is about to block. `evtchn_upcall_mask` does not count:
/// it belongs to paravirtual guests, and Xen ignores it for the others, which leave whatever value it has.
#[inline]
pub fn upcall_deliverable<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, vcpu: &Vcpu<M>) -> bool {
    upcall_pending(hv, vcpu) && vcpu.events.upcall_vector().is_none() && domain.hvm.callback_vector().is_some()
}

/// Whether `evtchn_upcall_pending` is set.
#[inline]
pub fn upcall_pending<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu<M>) -> bool {
    match vcpu.events.info() {
        Some(info) => upcall_byte(hv, info).load(Ordering::SeqCst) != 0,
        None => false,
    }
}

fn upcall_byte<M: Machine>(hv: &Hypervisor<M>, info: MachineAddress) -> &core::sync::atomic::AtomicU8 {
    hv.machine.byte(MachineAddress(info.0 + offset::EVTCHN_UPCALL_PENDING as u64))
}
