//! `struct xen_domctl_getdomaininfo`: a domain in figures.

use shared_abi::arch_x86::{ArchDomainConfig, EmulationFlags};
use shared_abi::domctl::{GetDomainInfo, INFO_SHUTDOWN_MASK, INFO_SHUTDOWN_SHIFT, INVALID_MAX_VCPU_ID, InfoFlags};
use shared_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_MAX};
use shared_abi::trace_stream::REASON_DESTROYED;
use shared_abi::xen::DomainHandle;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::lifecycle::State;
use crate::machine::Machine;
use crate::p2m::GFN_LIMIT;
use crate::sched::domain_times;
use crate::sched::state::Placement;

/// Width of a guest-physical address.
const ADDRESS_BITS: u8 = (GFN_LIMIT.ilog2() + crate::machine::PAGE_SHIFT) as u8;

/// The figures of `domain` now.
pub(crate) fn of<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>) -> GetDomainInfo {
    let (flags, online) = vcpu_flags(domain);
    GetDomainInfo {
        domain: domain.id,
        flags: (flags | kind_flags(domain)).bits() | shutdown_code(domain) << INFO_SHUTDOWN_SHIFT,
        tot_pages: domain.memory.current(),
        max_pages: domain.memory.maximum(),
        outstanding_pages: hv.heap.claimed_by(domain.id),
        shared_info_frame: domain.memory.shared_info_gfn(&hv.machine).map_or(u64::MAX, |gfn| gfn.0),
        cpu_time: domain_times(domain, hv.machine.now()).0,
        nr_online_vcpus: online,
        handle: handle(&domain.config.name),
        max_vcpu_id: (domain.vcpus.len() as u32).checked_sub(1).unwrap_or(INVALID_MAX_VCPU_ID),
        gpaddr_bits: ADDRESS_BITS,
        arch_config: ArchDomainConfig { emulation_flags: EmulationFlags::LAPIC.bits(), ..Default::default() },
        ..GetDomainInfo::default()
    }
}

/// A domain's handle: the beginning of its name, padded with NULs. Ebb's convention.
fn handle(name: &str) -> DomainHandle {
    let mut handle = DomainHandle::default();
    let length = name.len().min(handle.len());
    handle[..length].copy_from_slice(&name.as_bytes()[..length]);
    handle
}

/// Blocked when all vCPUs that are online are; running when one is. And how many are online.
fn vcpu_flags<M: Machine>(domain: &Domain<M>) -> (InfoFlags, u32) {
    let mut flags = InfoFlags::BLOCKED;
    let mut online = 0;
    for vcpu in &domain.vcpus {
        let state = vcpu.sched.state();
        if state.is_down() {
            continue;
        }
        online += 1;
        flags.set(InfoFlags::BLOCKED, flags.contains(InfoFlags::BLOCKED) && state.is_blocked());
        if state.placement() == Placement::Running {
            flags |= InfoFlags::RUNNING;
        }
    }
    (if online == 0 { InfoFlags::empty() } else { flags }, online)
}

fn kind_flags<M: Machine>(domain: &Domain<M>) -> InfoFlags {
    let mut flags = InfoFlags::HVM_GUEST | InfoFlags::HAP;
    flags.set(InfoFlags::PAUSED, domain.control.is_paused());
    if matches!(domain.lifecycle.state(), State::Ending | State::Gone) {
        flags |= InfoFlags::DYING;
        flags.set(InfoFlags::SHUTDOWN, domain.lifecycle.reason() != u32::from(REASON_DESTROYED));
    }
    flags
}

/// Why the domain has shut down; all ones while it has not.
fn shutdown_code<M: Machine>(domain: &Domain<M>) -> u32 {
    match domain.lifecycle.state() {
        State::Building | State::Running => INFO_SHUTDOWN_MASK,
        State::Ending | State::Gone => match domain.lifecycle.reason() {
            reason if reason <= SHUTDOWN_MAX => reason,
            reason if reason == u32::from(REASON_DESTROYED) => INFO_SHUTDOWN_MASK,
            _ => SHUTDOWN_CRASH,
        },
    }
}
