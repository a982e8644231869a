//! `vm_assist`, and the calls that exist by name only for a domain without physical devices and security modules.
//!
//! Specification: Xen 4.17, which offers an HVM domain one assist, no `physdev_op` unless it has physical interrupts,
//! and no `xsm_op` when built without security modules.

use core::sync::atomic::Ordering;

use shared_abi::xen::Errno;
use shared_abi::xen::vm_assist as abi;

use crate::hypercall::{Call, CallResult, Next};
use crate::machine::Machine;

/// `vm_assist(cmd, type)`.
///
/// # Errors
/// `EINVAL` for an assist that is not for such domains, `ENOSYS` for an unknown command.
pub fn vm_assist<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let [command, kind, ..] = call.args.map(|argument| argument as u32);
    if kind != abi::TYPE_RUNSTATE_UPDATE_FLAG {
        return Err(Errno::EINVAL);
    }
    let enabled = match command {
        abi::ENABLE => true,
        abi::DISABLE => false,
        _ => return Err(Errno::ENOSYS),
    };
    let domain = call.current.domain();
    // Areas registered from now on read the flag; those that are there are told.
    domain.sched.runstate_update_flag.store(enabled, Ordering::SeqCst);
    for vcpu in &domain.vcpus {
        vcpu.runstate.set_marks(enabled);
    }
    Ok(Next::Return(0))
}

/// `physdev_op`: a PVH domain has no physical devices or interrupts.
///
/// # Errors
/// `ENOSYS`, as on Xen.
pub fn physdev_op<M: Machine>(_call: &mut Call<'_, M>) -> CallResult {
    Err(Errno::ENOSYS)
}

/// `xsm_op`: there are no security modules.
///
/// # Errors
/// `ENOSYS`, as on Xen.
pub fn xsm_op<M: Machine>(_call: &mut Call<'_, M>) -> CallResult {
    Err(Errno::ENOSYS)
}
