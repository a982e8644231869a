//! `event_channel_op`: copies arguments in, checks who may, calls, copies results out.

use shared_abi::event_channel::{self as abi, Status};
use shared_abi::xen::{DomId, Errno};

use super::{bind, deliver, pages};
use crate::hypercall::{Call, CallResult, Next};
use crate::machine::Machine;

/// `EVTCHNOP_reset_cont`: a reset that continues.
const RESET_CONTINUED: u32 = 14;

/// The hypercall: arg 0 is the operation, arg 1 the address of its structure.
///
/// # Errors
/// `EFAULT` when the structure cannot be read or its results not be written (the operation has been done then, as on
/// Xen), `ENOSYS` for an operation that is not offered, and what the operation says.
pub fn event_channel_op<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let address = call.args[1];
    match call.args[0] as u32 {
        abi::SEND => {
            let request: abi::Send = call.read_guest(address)?;
            deliver::send(call.hv, call.current.domain(), request.port)?;
        }
        abi::UNMASK => {
            let request: abi::Unmask = call.read_guest(address)?;
            deliver::unmask(call.hv, call.current.domain(), request.port)?;
        }
        operation => return set_up(call, operation, address),
    }
    Ok(Next::Return(0))
}

/// Everything but sending, kept apart so that its size does not burden the fast path.
#[inline(never)]
fn set_up<M: Machine>(call: &mut Call<'_, M>, operation: u32, address: u64) -> CallResult {
    match operation {
        abi::ALLOC_UNBOUND => alloc_unbound(call, address)?,
        abi::BIND_INTERDOMAIN => bind_interdomain(call, address)?,
        abi::BIND_VIRQ => {
            let mut request: abi::BindVirq = call.read_guest(address)?;
            let domain = call.current.domain();
            request.port = bind::bind_virq(call.hv, domain, request.virq, request.vcpu)?;
            call.write_guest(address, &request)?;
        }
        abi::BIND_IPI => {
            let mut request: abi::BindIpi = call.read_guest(address)?;
            request.port = bind::bind_ipi(call.hv, call.current.domain(), request.vcpu)?;
            call.write_guest(address, &request)?;
        }
        abi::CLOSE => {
            let request: abi::Close = call.read_guest(address)?;
            bind::close(call.hv, call.current.domain(), request.port)?;
        }
        abi::STATUS => {
            let mut request: Status = call.read_guest(address)?;
            let domain = call.hv.target_domain(call.current.domain(), request.dom)?;
            bind::status(&domain, &mut request)?;
            call.write_guest(address, &request)?;
        }
        abi::BIND_VCPU => {
            let request: abi::BindVcpu = call.read_guest(address)?;
            bind::bind_vcpu(call.current.domain(), request.port, request.vcpu)?;
        }
        operation @ (abi::RESET | RESET_CONTINUED) => return reset(call, operation, address),
        abi::INIT_CONTROL => {
            let mut request: abi::InitControl = call.read_guest(address)?;
            pages::init_control(call, &mut request)?;
            call.write_guest(address, &request)?;
        }
        abi::EXPAND_ARRAY => {
            let request: abi::ExpandArray = call.read_guest(address)?;
            pages::expand_array(call, &request)?;
        }
        abi::SET_PRIORITY => {
            let request: abi::SetPriority = call.read_guest(address)?;
            bind::set_priority(call.current.domain(), request.port, request.priority)?;
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(Next::Return(0))
}

fn alloc_unbound<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    let mut request: abi::AllocUnbound = call.read_guest(address)?;
    let caller = call.current.domain();
    let domain = call.hv.target_domain(caller, request.dom)?;
    let remote = if request.remote_dom == DomId::SELF { caller.id } else { request.remote_dom };
    request.port = bind::alloc_unbound(call.hv, &domain, remote)?;
    call.write_guest(address, &request)
}

fn bind_interdomain<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    let mut request: abi::BindInterdomain = call.read_guest(address)?;
    let local = call.current.domain();
    // No privilege is needed: the other end has said whom it waits for.
    let remote = if request.remote_dom == DomId::SELF || request.remote_dom == local.id {
        local.clone()
    } else {
        call.hv.find_domain(request.remote_dom).ok_or(Errno::ESRCH)?
    };
    request.local_port = bind::bind_interdomain(call.hv, local, &remote, request.remote_port)?;
    call.write_guest(address, &request)
}

fn reset<M: Machine>(call: &mut Call<'_, M>, operation: u32, address: u64) -> CallResult {
    let request: abi::Reset = call.read_guest(address)?;
    let domain = call.hv.target_domain(call.current.domain(), request.dom)?;
    if domain.id != call.current.domain().id {
        // Xen wants the other domain paused by its controller, which no interface here can do.
        return Err(Errno::EINVAL);
    }
    if bind::reset(call, &domain, operation == RESET_CONTINUED)? {
        return Ok(Next::Return(0));
    }
    let mut args = call.args;
    args[0] = u64::from(RESET_CONTINUED);
    Ok(Next::Again(args))
}
