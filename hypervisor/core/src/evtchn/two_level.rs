//! The 2-level ABI: a pending and a mask bit per port in shared_info, and in each `vcpu_info` a selector that says which
//! words of pending bits to look at.
//!
//! 64-bit guests have 64 words of 64 bits, 32-bit guests 32 words of 32. Both pending bitmaps begin at the same place, and
//! bit `n` of either is bit `n % 32` of 32-bit word `n / 32`. Guests may write anything into these words; a bit is all
//! that is ever taken from them. Callers hold a pass of the domain's gate (or its EVENT lock).

use core::sync::atomic::{AtomicU32, Ordering};

use shared_abi::event_channel::{TWO_LEVEL_NR_CHANNELS, TWO_LEVEL_NR_CHANNELS_32};
use shared_abi::xen::{Mfn, Port, shared_info_offset, vcpu_info_offset};

use super::DomainEvents;
use super::deliver::{Outcome, mark_upcall};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, MachineAddress};
use crate::vcpu::Vcpu;

/// Where `evtchn_mask` begins in a 32-bit guest's shared_info.
const EVTCHN_MASK_32: usize = shared_info_offset::EVTCHN_PENDING + 32 * 4;
/// Where `evtchn_pending_sel` lies in a 32-bit guest's `vcpu_info`.
const EVTCHN_PENDING_SEL_32: usize = 4;

/// Ports this ABI has for the domain: from this number on there are none.
pub fn limit(events: &DomainEvents) -> u32 {
    if events.is_narrow() { TWO_LEVEL_NR_CHANNELS_32 } else { TWO_LEVEL_NR_CHANNELS }
}

/// A bit of a bitmap in shared_info: its word, and the bit in it.
fn bit<M: Machine>(hv: &Hypervisor<M>, shared_info: Mfn, base: usize, port: Port) -> (&AtomicU32, u32) {
    let address = MachineAddress::in_frame(shared_info, base + port.index() / 32 * 4);
    (hv.machine.word32(address), 1 << (port.0 % 32))
}

fn pending_bit<'a, M: Machine>(
    hv: &'a Hypervisor<M>,
    events: &DomainEvents,
    port: Port,
) -> Option<(&'a AtomicU32, u32)> {
    let frame = events.shared_info_frame()?;
    (port.0 < limit(events)).then(|| bit(hv, frame, shared_info_offset::EVTCHN_PENDING, port))
}

fn mask_bit<'a, M: Machine>(hv: &'a Hypervisor<M>, events: &DomainEvents, port: Port) -> Option<(&'a AtomicU32, u32)> {
    let frame = events.shared_info_frame()?;
    let base = if events.is_narrow() { EVTCHN_MASK_32 } else { shared_info_offset::EVTCHN_MASK };
    (port.0 < limit(events)).then(|| bit(hv, frame, base, port))
}

/// Makes `port` pending; see [`super::deliver`] for the order of the steps.
#[inline]
pub fn set_pending<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port, vcpu: &Vcpu<M>) -> Outcome {
    let events = &domain.events;
    let Some((pending, flag)) = pending_bit(hv, events, port) else {
        return Outcome::default();
    };
    if pending.fetch_or(flag, Ordering::SeqCst) & flag != 0 {
        return Outcome::default();
    }
    let Some((mask, flag)) = mask_bit(hv, events, port) else {
        return Outcome::default();
    };
    let masked = mask.load(Ordering::SeqCst) & flag != 0;
    Outcome { fresh: true, upcall: !masked && select(hv, domain, port, vcpu) }
}

/// Clears the mask bit of `port`, and delivers if that unmasked a pending event.
pub fn unmask<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port, vcpu: &Vcpu<M>) -> Outcome {
    let events = &domain.events;
    let Some((mask, flag)) = mask_bit(hv, events, port) else {
        return Outcome::default();
    };
    let was_masked = mask.fetch_and(!flag, Ordering::SeqCst) & flag != 0;
    let upcall = was_masked && is_pending(hv, domain, port) && select(hv, domain, port, vcpu);
    Outcome { fresh: false, upcall }
}

/// Whether `port` is pending.
pub fn is_pending<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port) -> bool {
    pending_bit(hv, &domain.events, port).is_some_and(|(word, flag)| word.load(Ordering::SeqCst) & flag != 0)
}

/// Withdraws a pending event.
pub fn clear_pending<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port) {
    if let Some((word, flag)) = pending_bit(hv, &domain.events, port) {
        word.fetch_and(!flag, Ordering::SeqCst);
    }
}

/// Notes the port's word in the vCPU's selector. True if the upcall became pending by it.
fn select<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port, vcpu: &Vcpu<M>) -> bool {
    let Some(info) = vcpu.events.info() else {
        return false;
    };
    let already = if domain.events.is_narrow() {
        let selector = hv.machine.word32(MachineAddress(info.0 + EVTCHN_PENDING_SEL_32 as u64));
        let flag = 1 << (port.0 / 32 % 32);
        selector.fetch_or(flag, Ordering::SeqCst) & flag != 0
    } else {
        let offset = vcpu_info_offset::EVTCHN_PENDING_SEL as u64;
        let flag = 1 << (port.0 / 64 % 64);
        hv.machine.word64(MachineAddress(info.0 + offset)).fetch_or(flag, Ordering::SeqCst) & flag != 0
    };
    !already && mark_upcall(hv, vcpu)
}

/// Clears all pending bits and selectors, for a domain that comes back to this ABI with all ports closed: a bit left
/// from before would be found set, and the next event not announced. The caller has shut the gate.
pub fn forget<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>) {
    for number in (0..limit(&domain.events)).step_by(32) {
        if let Some((word, _)) = pending_bit(hv, &domain.events, Port(number)) {
            word.store(0, Ordering::SeqCst);
        }
    }
    for info in domain.vcpus.iter().filter_map(|vcpu| vcpu.events.info()) {
        write_selector(hv, domain.events.is_narrow(), info, 0);
    }
}

/// Marks every word selected, for a `vcpu_info` that has just been put in place.
pub fn select_all<M: Machine>(hv: &Hypervisor<M>, narrow: bool, info: MachineAddress) {
    write_selector(hv, narrow, info, u64::MAX);
}

fn write_selector<M: Machine>(hv: &Hypervisor<M>, narrow: bool, info: MachineAddress, value: u64) {
    if narrow {
        let selector = MachineAddress(info.0 + EVTCHN_PENDING_SEL_32 as u64);
        hv.machine.word32(selector).store(value as u32, Ordering::SeqCst);
    } else {
        let selector = MachineAddress(info.0 + vcpu_info_offset::EVTCHN_PENDING_SEL as u64);
        hv.machine.word64(selector).store(value, Ordering::SeqCst);
    }
}
