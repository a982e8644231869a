//! `domctl`: a privileged domain governs others.
//!
//! Who is not privileged gets -EPERM before anything is looked at (the table of hypercalls says so). An operation that
//! is not offered answers -ENOSYS. Everything here has effect at once, with two exceptions that Xen does not have: a
//! paused vCPU that runs on another CPU may go on until that CPU has been kicked, a few microseconds; and a destroyed
//! domain comes apart in the background, visible as dying until it is gone.
//!
//! Locking: none of its own.
//!
//! Specification: Xen 4.17's `domctl.h` and what its hypervisor answers; [`info`] for the figures of a domain.

pub(crate) mod affinity;
pub(crate) mod info;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use shared_abi::domctl::{self as abi, Domctl, MaxMem, SchedulerOp};
use shared_abi::xen::{DomId, Errno};

use crate::domain::Domain;
use crate::hypercall::{Call, CallResult, Next};
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, PAGE_SHIFT};
use crate::{lifecycle, sched};

/// Most pauses of one domain at a time, as in Xen.
const MAX_PAUSES: u32 = 255;
/// In a scheduling request: the cap stays what it is.
const CAP_UNCHANGED: u16 = u16::MAX;

/// What governors have done to a domain.
#[derive(Debug, Default)]
pub struct Control {
    pauses: AtomicU32,
}

impl Control {
    /// Nothing.
    pub const fn new() -> Self {
        Self { pauses: AtomicU32::new(0) }
    }

    /// Pauses a domain that nobody else knows of yet.
    pub(crate) fn pause_new<M: Machine>(&self, hv: &Hypervisor<M>, domain: &Arc<Domain<M>>) {
        self.pauses.store(1, Ordering::SeqCst);
        for vcpu in sched::each_vcpu(domain) {
            sched::pause(hv, &vcpu);
        }
    }

    /// Whether a governor has paused the domain.
    pub fn is_paused(&self) -> bool {
        self.pauses.load(Ordering::SeqCst) != 0
    }
}

/// `domctl(u_domctl)`.
///
/// # Errors
/// `EFAULT` for an argument that cannot be read (or, after the operation, written), `EACCES` for another version of the
/// interface, `ESRCH` when there is no such domain, `ENOSYS` for an operation that is not offered, and what the
/// operation says.
pub fn domctl<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let address = call.args[0];
    let mut request: Domctl = call.read_guest(address)?;
    if request.interface_version != abi::INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    match request.cmd {
        // Names no domain yet. Domains are made from the boot configuration.
        abi::CREATEDOMAIN => return Err(Errno::ENOSYS),
        abi::GETDOMAININFO => {
            get_info(call, &mut request)?;
            call.write_guest(address, &request)?;
            return Ok(Next::Return(0));
        }
        _ => {}
    }
    let domain = call.hv.find_domain(request.domain).ok_or(Errno::ESRCH)?;
    match request.cmd {
        abi::PAUSEDOMAIN => pause(call, &domain)?,
        abi::UNPAUSEDOMAIN => unpause(call, &domain)?,
        abi::DESTROYDOMAIN => destroy(call, &domain)?,
        abi::MAX_MEM => {
            let MaxMem { max_memkb } = request.payload();
            domain.memory.set_maximum(max_memkb >> (PAGE_SHIFT - 10));
        }
        abi::SCHEDULER_OP => {
            let mut operation: SchedulerOp = request.payload();
            scheduler_op(call.hv, &domain, &mut operation)?;
            request.set_payload(&operation);
            call.write_guest(address, &request)?;
        }
        abi::SETVCPUAFFINITY => affinity::set(call, &domain, &request.payload())?,
        abi::GETVCPUAFFINITY => affinity::get(call, &domain, &request.payload())?,
        _ => return Err(Errno::ENOSYS),
    }
    Ok(Next::Return(0))
}

/// The figures of a domain, or of the next one there is.
fn get_info<M: Machine>(call: &Call<'_, M>, request: &mut Domctl) -> Result<(), Errno> {
    if request.domain >= DomId::FIRST_RESERVED {
        return Err(Errno::EINVAL);
    }
    let domain = call.hv.each_domain().find(|domain| domain.id >= request.domain).ok_or(Errno::ESRCH)?;
    request.domain = domain.id;
    request.set_payload(&info::of(call.hv, &domain));
    Ok(())
}

/// Pauses are counted, so that governors do not undo each other's. A domain cannot pause itself: who would go on?
fn pause<M: Machine>(call: &Call<'_, M>, domain: &Arc<Domain<M>>) -> Result<(), Errno> {
    if domain.id == call.current.domain().id {
        return Err(Errno::EINVAL);
    }
    let more = |pauses: u32| (pauses < MAX_PAUSES).then_some(pauses + 1);
    domain.control.pauses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).map_err(|_| Errno::E2BIG)?;
    for vcpu in sched::each_vcpu(domain) {
        sched::pause(call.hv, &vcpu);
    }
    Ok(())
}

fn unpause<M: Machine>(call: &Call<'_, M>, domain: &Arc<Domain<M>>) -> Result<(), Errno> {
    let less = |pauses: u32| pauses.checked_sub(1);
    domain.control.pauses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).map_err(|_| Errno::EINVAL)?;
    for vcpu in sched::each_vcpu(domain) {
        sched::unpause(call.hv, &vcpu);
    }
    Ok(())
}

fn destroy<M: Machine>(call: &Call<'_, M>, domain: &Arc<Domain<M>>) -> Result<(), Errno> {
    if domain.id == call.current.domain().id {
        return Err(Errno::EINVAL);
    }
    lifecycle::destroy(call.hv, domain);
    Ok(())
}

/// Weights and caps, in the form of Xen's credit schedulers, which this one answers as. As in Xen any number is a cap:
/// one beyond what the domain's vCPUs could use has no effect.
fn scheduler_op<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Arc<Domain<M>>,
    operation: &mut SchedulerOp,
) -> Result<(), Errno> {
    if operation.sched_id != abi::SCHEDULER_CREDIT {
        return Err(Errno::EINVAL);
    }
    match operation.cmd {
        abi::SCHEDOP_GETINFO => {
            operation.set_credit(abi::SchedCredit { weight: domain.sched.weight(), cap: domain.sched.cap() });
            Ok(())
        }
        abi::SCHEDOP_PUTINFO => {
            let credit = operation.credit();
            if credit.weight != 0 {
                domain.sched.set_weight(credit.weight);
            }
            if credit.cap != CAP_UNCHANGED && credit.cap != domain.sched.cap() {
                sched::set_cap(hv, domain, credit.cap);
            }
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}
