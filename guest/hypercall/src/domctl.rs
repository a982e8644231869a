//! `domctl`: governing other domains. Privileged.
//!
//! Nothing here touches the caller's own memory: a domain cannot pause or destroy itself, and the hypervisor refuses
//! others than privileged domains.

use crate::call::command;
use shared_abi::domctl as abi;
use shared_abi::hypercall::DOMCTL;
use shared_abi::xen::{DomId, Errno};

fn op(argument: &mut abi::Domctl) -> Result<(), Errno> {
    command_at(argument).map(drop)
}

/// The structure's address is the call's first argument: there is no command before it.
fn command_at(argument: &mut abi::Domctl) -> Result<i64, Errno> {
    let address = core::ptr::from_mut(argument).expose_provenance() as u64;
    command(DOMCTL, address, argument)
}

/// Pauses a domain once more.
pub fn pause(domain: DomId) -> Result<(), Errno> {
    op(&mut abi::Domctl::new(abi::PAUSEDOMAIN, domain))
}

/// Undoes one pause; EINVAL when there is none.
pub fn unpause(domain: DomId) -> Result<(), Errno> {
    op(&mut abi::Domctl::new(abi::UNPAUSEDOMAIN, domain))
}

/// Destroys a domain.
pub fn destroy(domain: DomId) -> Result<(), Errno> {
    op(&mut abi::Domctl::new(abi::DESTROYDOMAIN, domain))
}

/// Sets how much memory a domain may have, KiB.
pub fn max_mem(domain: DomId, kib: u64) -> Result<(), Errno> {
    let mut argument = abi::Domctl::new(abi::MAX_MEM, domain);
    argument.set_payload(&abi::MaxMem { max_memkb: kib });
    op(&mut argument)
}

/// The figures of a domain, or of the next one there is; ESRCH when there is none.
pub fn domain_info(first: DomId) -> Result<abi::GetDomainInfo, Errno> {
    let mut argument = abi::Domctl::new(abi::GETDOMAININFO, first);
    op(&mut argument).map(|()| argument.payload())
}

/// A domain's scheduling weight and cap.
pub fn scheduler_info(domain: DomId) -> Result<abi::SchedCredit, Errno> {
    let mut argument = abi::Domctl::new(abi::SCHEDULER_OP, domain);
    argument.set_payload(&abi::SchedulerOp {
        sched_id: abi::SCHEDULER_CREDIT,
        cmd: abi::SCHEDOP_GETINFO,
        ..Default::default()
    });
    op(&mut argument)?;
    Ok(argument.payload::<abi::SchedulerOp>().credit())
}

/// Sets a domain's scheduling weight (0: stays) and cap (65535: stays).
pub fn set_scheduler_info(domain: DomId, credit: abi::SchedCredit) -> Result<(), Errno> {
    let mut argument = abi::Domctl::new(abi::SCHEDULER_OP, domain);
    let mut operation =
        abi::SchedulerOp { sched_id: abi::SCHEDULER_CREDIT, cmd: abi::SCHEDOP_PUTINFO, ..Default::default() };
    operation.set_credit(credit);
    argument.set_payload(&operation);
    op(&mut argument)
}
