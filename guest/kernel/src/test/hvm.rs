//! `hvm_op`.

use super::{Outcome, Stop, Test, is_ebb, is_privileged, wrong_call};
use crate::events::{self, EventPort};
use crate::{check, check_eq, smp, thread};
use alloc::sync::Arc;
use ebb_guest_hypercall::{Errno, VcpuId, event_channel, hvm};
use shared_abi::hvm as abi;
use shared_abi::hvm::params;
use shared_abi::hypercall::HVM_OP;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("hvm-params", parameters),
    ("hvm-flush-tlbs", flush),
    ("hvm-xentrace", xentrace),
    ("hvm-upcall-vector", upcall_vector),
    ("hvm-errors", errors),
];

fn parameters() -> Outcome {
    if !events::by_apic() {
        let via = hvm::get_param(params::CALLBACK_IRQ)?;
        check_eq!(via, 0x0200_0000_0000_00F3, "the callback that was set");
    }
    check_eq!(hvm::get_param(params::COUNT), Err(Errno::EINVAL), "a parameter that does not exist");
    check_eq!(hvm::set_param(params::COUNT, 1), Err(Errno::EINVAL), "setting a parameter that does not exist");
    check_eq!(hvm::get_param(u32::MAX), Err(Errno::EINVAL), "the last parameter number");
    if is_ebb() {
        for index in [params::STORE_PFN, params::STORE_EVTCHN, params::CONSOLE_PFN, params::CONSOLE_EVTCHN] {
            check!(hvm::get_param(index) != Ok(0), "the absent parameter {index} is 0 with success");
        }
    }
    if !is_privileged() {
        check_eq!(hvm::set_param(params::STORE_PFN, 5), Err(Errno::EPERM), "setting what the control domain sets");
    }
    Ok(())
}

fn flush() -> Outcome {
    match hvm::flush_tlbs() {
        Err(Errno::ENOSYS) => Err(Stop::Skip("this hypervisor does not offer it".into())),
        other => Ok(other?),
    }
}

fn xentrace() -> Outcome {
    hvm::xentrace(0xFFF, &[])?;
    hvm::xentrace(0x0FE, &[1; 28])?;
    let argument = abi::Xentrace { event: 0x0FE, extra_bytes: 29, ..Default::default() };
    let address = (&raw const argument).expose_provenance() as u64;
    let long = wrong_call(HVM_OP, [abi::XENTRACE.into(), address, 0, 0, 0]);
    check_eq!(long, Err(Errno::EINVAL), "a record of 29 bytes");
    Ok(())
}

/// Switches the last vCPU's upcalls to its local APIC; events still arrive.
fn upcall_vector() -> Outcome {
    let last = smp::online() - 1;
    let vcpu = VcpuId(last as u32);
    check_eq!(hvm::set_evtchn_upcall_vector(vcpu, 15), Err(Errno::EINVAL), "vector 15");
    check_eq!(hvm::set_evtchn_upcall_vector(VcpuId(9999), 0xF3), Err(Errno::ENOENT), "the vector of no vCPU");
    let result = Arc::new(spin::Mutex::new(Ok(())));
    let place = result.clone();
    thread::spawn("vector", Some(last), move || *place.lock() = events::use_apic())?.join();
    let switched = *result.lock();
    check_eq!(switched, Ok(()), "setting the vector");
    let port = EventPort::new(event_channel::bind_ipi(vcpu)?)?;
    for count in 1..=100 {
        event_channel::send(port.port())?;
        check!(port.wait(count, 2_000_000_000), "event {count} did not arrive");
        // With the 2-level ABI any vCPU that looks at the word may take it.
        check!(!events::is_fifo() || port.last_vcpu() == last, "vCPU {} took it", port.last_vcpu());
    }
    Ok(())
}

fn errors() -> Outcome {
    let op = |op: u32, address: u64| wrong_call(HVM_OP, [op.into(), address, 0, 0, 0]);
    check_eq!(op(99, 0), Err(Errno::ENOSYS), "an operation that does not exist");
    for operation in [abi::SET_PARAM, abi::GET_PARAM, abi::XENTRACE, abi::SET_EVTCHN_UPCALL_VECTOR] {
        let result = op(operation, 0x7000_0000_0000);
        check_eq!(result, Err(Errno::EFAULT), alloc::format!("operation {operation} without an argument"));
    }
    let argument = abi::PagetableDying::default();
    let address = (&raw const argument).expose_provenance() as u64;
    // Linux asks once at start, and must be told no: nested paging has no use for the hint.
    check!(op(abi::PAGETABLE_DYING, address).is_err(), "the hint for shadow paging is accepted");
    Ok(())
}
