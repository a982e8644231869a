//! What belongs to a privileged domain, tried by one that is not: everything answers -EPERM, and nothing happens. Domain 0
//! is the other one; whether or not there is one, an unprivileged caller must not learn more of it than that.

use super::{Outcome, Stop, Test, is_privileged, wrong_call};
use crate::{check, check_eq};
use ebb_guest_hypercall::Errno;
use shared_abi::event_channel::{self as evtchn, AllocUnbound, Reset, Status};
use shared_abi::hvm::{self, Param, params};
use shared_abi::hypercall::{CONSOLE_IO, DOMCTL, EVENT_CHANNEL_OP, HVM_OP, MEMORY_OP, SCHED_OP, SYSCTL};
use shared_abi::memory::{self, MemAcquireResource, MemoryDomain, MemoryReservation, RemoveFromPhysmap};
use shared_abi::sched::{self, RemoteShutdown};
use shared_abi::xen::{DomId, Gfn, Port};
use shared_abi::{domctl, sysctl};

/// The tests here.
pub const TESTS: &[Test] = &[("privilege-control-calls", control_calls), ("privilege-other-domains", other_domains)];

fn unprivileged() -> Outcome {
    if is_privileged() {
        return Err(Stop::Skip("this domain is privileged".into()));
    }
    Ok(())
}

/// Makes a call with the address of `argument`.
fn with<T>(number: u32, operation: u32, argument: &mut T) -> Result<i64, Errno> {
    let address = core::ptr::from_mut(argument).expose_provenance() as u64;
    wrong_call(number, [operation.into(), address, 0, 0, 0])
}

/// Every number a control operation could have.
fn control_calls() -> Outcome {
    unprivileged()?;
    for operation in 0..=255 {
        for domain in [DomId(0), DomId(1), DomId(0x7000), DomId::SELF] {
            let mut request = domctl::Domctl::new(operation, domain);
            let address = (&raw mut request).expose_provenance() as u64;
            let answer = wrong_call(DOMCTL, [address, 0, 0, 0, 0]);
            check_eq!(answer, Err(Errno::EPERM), "domctl {operation} of {domain:?}");
        }
        let mut request = sysctl::Sysctl::new(operation);
        let address = (&raw mut request).expose_provenance() as u64;
        check_eq!(wrong_call(SYSCTL, [address, 0, 0, 0, 0]), Err(Errno::EPERM), "sysctl {operation}");
    }
    // The privilege comes before the argument.
    for call in [DOMCTL, SYSCTL] {
        check_eq!(
            wrong_call(call, [0x7000_0000_0000, 0, 0, 0, 0]),
            Err(Errno::EPERM),
            "an argument that is not mapped"
        );
    }
    Ok(())
}

/// -EPERM where the other domain exists; where it does not, that it does not.
fn refused(answer: Result<i64, Errno>) -> bool {
    matches!(answer, Err(Errno::EPERM | Errno::ESRCH))
}

fn other_domains() -> Outcome {
    unprivileged()?;
    let domid = DomId(0);
    for operation in [memory::CURRENT_RESERVATION, memory::MAXIMUM_RESERVATION, memory::MAXIMUM_GPFN] {
        let answer = with(MEMORY_OP, operation, &mut MemoryDomain { domid });
        check!(refused(answer), "memory_op {operation} of another: {answer:?}");
    }
    let mut reservation = MemoryReservation { nr_extents: 1, domid, ..Default::default() };
    for operation in [memory::INCREASE_RESERVATION, memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP] {
        let answer = with(MEMORY_OP, operation, &mut reservation);
        check!(refused(answer) || answer == Ok(0), "memory_op {operation} of another: {answer:?}");
    }
    let claim = with(MEMORY_OP, memory::CLAIM_PAGES, &mut reservation);
    // Xen answers -EINVAL here for a domain that does not exist.
    check!(refused(claim) || claim == Err(Errno::EINVAL), "a claim for another: {claim:?}");
    let remove =
        with(MEMORY_OP, memory::REMOVE_FROM_PHYSMAP, &mut RemoveFromPhysmap { domid, pad: [0; 3], gpfn: Gfn(5) });
    check!(refused(remove), "a page of another's removed: {remove:?}");
    let mut resource =
        MemAcquireResource { domid, type_: memory::RESOURCE_GRANT_TABLE, ..MemAcquireResource::default() };
    let acquired = with(MEMORY_OP, memory::ACQUIRE_RESOURCE, &mut resource);
    check!(refused(acquired), "another's grant table: {acquired:?}");
    let mut map = memory::MemoryMap::default();
    check_eq!(with(MEMORY_OP, memory::MACHINE_MEMORY_MAP, &mut map), Err(Errno::EPERM), "the machine's memory map");

    let mut offer = AllocUnbound { dom: domid, remote_dom: DomId::SELF, port: Port(0) };
    let offered = with(EVENT_CHANNEL_OP, evtchn::ALLOC_UNBOUND, &mut offer);
    check!(refused(offered), "a port in another domain: {offered:?}");
    let status =
        with(EVENT_CHANNEL_OP, evtchn::STATUS, &mut Status { dom: domid, port: Port(1), ..Default::default() });
    check!(refused(status), "the state of another's port: {status:?}");
    let reset = with(EVENT_CHANNEL_OP, evtchn::RESET, &mut Reset { dom: domid });
    check!(refused(reset), "another's ports reset: {reset:?}");
    for operation in [hvm::SET_PARAM, hvm::GET_PARAM] {
        let mut parameter = Param { domid, pad: 0, index: params::STORE_PFN, value: 0 };
        let answer = with(HVM_OP, operation, &mut parameter);
        check!(refused(answer), "another's parameter ({operation}): {answer:?}");
    }
    let mut shutdown = RemoteShutdown { domain_id: domid, pad: 0, reason: 0 };
    let answer = with(SCHED_OP, sched::REMOTE_SHUTDOWN, &mut shutdown);
    check!(refused(answer), "another shut down: {answer:?}");
    check_eq!(wrong_call(CONSOLE_IO, [1, 0, 0, 0, 0]), Err(Errno::EPERM), "what is typed");
    Ok(())
}
