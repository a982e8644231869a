//! `sysctl`: looking at the machine, and at what it does. Privileged. The structure is the only argument, as for `domctl`.

use crate::call::command;
use shared_abi::domctl::GetDomainInfo;
use shared_abi::hypercall::SYSCTL;
use shared_abi::sysctl as abi;
use shared_abi::xen::{DomId, Errno, GuestHandle};

fn op(argument: &mut abi::Sysctl) -> Result<(), Errno> {
    let address = core::ptr::from_mut(argument).expose_provenance() as u64;
    command(SYSCTL, address, argument).map(drop)
}

/// The machine's figures.
pub fn physical_info() -> Result<abi::PhysInfo, Errno> {
    let mut argument = abi::Sysctl::new(abi::PHYSINFO);
    op(&mut argument).map(|()| argument.payload())
}

/// The figures of the domains from number `first` on, as many as there is room for; how many.
pub fn domain_list(first: DomId, buffer: &mut [GetDomainInfo]) -> Result<usize, Errno> {
    let address = buffer.as_mut_ptr().expose_provenance() as u64;
    let mut argument = abi::Sysctl::new(abi::GETDOMAININFOLIST);
    argument.set_payload(&abi::GetDomainInfoList {
        first_domain: first,
        max_domains: buffer.len() as u32,
        buffer: GuestHandle::new(address),
        ..Default::default()
    });
    op(&mut argument)?;
    let answer: abi::GetDomainInfoList = argument.payload();
    Ok((answer.num_domains as usize).min(buffer.len()))
}

/// One operation on the trace buffers (`XEN_SYSCTL_TBUFOP_*`); what is known of them then.
pub fn trace_buffers(request: &abi::TbufOp) -> Result<abi::TbufOp, Errno> {
    let mut argument = abi::Sysctl::new(abi::TBUF_OP);
    argument.set_payload(request);
    op(&mut argument).map(|()| argument.payload())
}
