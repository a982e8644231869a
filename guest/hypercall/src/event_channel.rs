//! `event_channel_op`.
//!
//! Ports are domain-wide names of the hypervisor's; using a wrong one is an errno, never unsafe.

use crate::call::command;
use shared_abi::event_channel as abi;
use shared_abi::hypercall::EVENT_CHANNEL_OP;
use shared_abi::xen::{DomId, Errno, Gfn, Port, VcpuId, Virq};

fn op<T: zerocopy::IntoBytes + zerocopy::FromBytes>(operation: u32, argument: &mut T) -> Result<(), Errno> {
    command(EVENT_CHANNEL_OP, u64::from(operation), argument).map(drop)
}

/// Allocates a port of ours for `remote` to bind.
pub fn alloc_unbound(remote: DomId) -> Result<Port, Errno> {
    let mut argument = abi::AllocUnbound { dom: DomId::SELF, remote_dom: remote, port: Port(0) };
    op(abi::ALLOC_UNBOUND, &mut argument).map(|()| argument.port)
}

/// Allocates a port of another domain's for `remote` to bind. Privileged.
pub fn alloc_unbound_of(domain: DomId, remote: DomId) -> Result<Port, Errno> {
    let mut argument = abi::AllocUnbound { dom: domain, remote_dom: remote, port: Port(0) };
    op(abi::ALLOC_UNBOUND, &mut argument).map(|()| argument.port)
}

/// Connects to `port` of `remote`; our end.
pub fn bind_interdomain(remote: DomId, port: Port) -> Result<Port, Errno> {
    let mut argument = abi::BindInterdomain { remote_dom: remote, remote_port: port, ..Default::default() };
    op(abi::BIND_INTERDOMAIN, &mut argument).map(|()| argument.local_port)
}

/// Binds a virtual interrupt line of `vcpu`.
pub fn bind_virq(virq: Virq, vcpu: VcpuId) -> Result<Port, Errno> {
    let mut argument = abi::BindVirq { virq, vcpu, port: Port(0) };
    op(abi::BIND_VIRQ, &mut argument).map(|()| argument.port)
}

/// A port that signals `vcpu`.
pub fn bind_ipi(vcpu: VcpuId) -> Result<Port, Errno> {
    let mut argument = abi::BindIpi { vcpu, port: Port(0) };
    op(abi::BIND_IPI, &mut argument).map(|()| argument.port)
}

/// Has `port` signal `vcpu`.
pub fn bind_vcpu(port: Port, vcpu: VcpuId) -> Result<(), Errno> {
    op(abi::BIND_VCPU, &mut abi::BindVcpu { port, vcpu })
}

/// Closes a port.
pub fn close(port: Port) -> Result<(), Errno> {
    op(abi::CLOSE, &mut abi::Close { port })
}

/// Signals the other end of a port.
pub fn send(port: Port) -> Result<(), Errno> {
    op(abi::SEND, &mut abi::Send { port })
}

/// Unmasks a port and delivers what is pending.
pub fn unmask(port: Port) -> Result<(), Errno> {
    op(abi::UNMASK, &mut abi::Unmask { port })
}

/// What a port of ours is bound to.
pub fn status(port: Port) -> Result<abi::Status, Errno> {
    let mut argument = abi::Status { dom: DomId::SELF, port, ..Default::default() };
    op(abi::STATUS, &mut argument).map(|()| argument)
}

/// Closes all ports of ours and leaves the FIFO ABI.
pub fn reset() -> Result<(), Errno> {
    op(abi::RESET, &mut abi::Reset { dom: DomId::SELF })
}

/// Gives a vCPU its control block, at `offset` in page `gfn`; the first one switches the domain to the FIFO ABI.
/// Returns the width of the link field. See [`crate::evtchn`] for the safe way: the page must stay for this.
pub fn init_control(gfn: Gfn, offset: u32, vcpu: VcpuId) -> Result<u8, Errno> {
    let mut argument = abi::InitControl { control_gfn: gfn, offset, vcpu, ..Default::default() };
    op(abi::INIT_CONTROL, &mut argument).map(|()| argument.link_bits)
}

/// Adds a page of event words.
pub fn expand_array(gfn: Gfn) -> Result<(), Errno> {
    op(abi::EXPAND_ARRAY, &mut abi::ExpandArray { array_gfn: gfn })
}

/// Puts a port on another queue (0 most urgent, 15 least).
pub fn set_priority(port: Port, priority: u32) -> Result<(), Errno> {
    op(abi::SET_PRIORITY, &mut abi::SetPriority { port, priority })
}
