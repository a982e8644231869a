//! `sysctl`: a privileged domain looks at the machine.
//!
//! Who is not privileged gets -EPERM before anything is looked at. An operation that is not offered answers -ENOSYS.
//!
//! Locking: none of its own.
//!
//! Specification: Xen 4.17's `sysctl.h` and what its hypervisor answers.

use shared_abi::domctl::SCHEDULER_CREDIT;
use shared_abi::sysctl::{
    self as abi, AvailHeap, GetDomainInfoList, PhysCapabilities, PhysInfo, SchedId, Sysctl, TbufOp, TmemControl,
};
use shared_abi::xen::Errno;

use crate::domctl::info;
use crate::hypercall::{Call, CallResult, Next};
use crate::machine::{Machine, PAGE_SIZE};
use crate::{tmem, trace_buffers};

/// `sysctl(u_sysctl)`.
///
/// # Errors
/// `EFAULT` for an argument that cannot be read or written, `EACCES` for another version of the interface, `ENOSYS` for
/// an operation that is not offered, and what the operation says.
pub fn sysctl<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let address = call.args[0];
    let mut request: Sysctl = call.read_guest(address)?;
    if request.interface_version != abi::INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    match request.cmd {
        abi::PHYSINFO => request.set_payload(&physical_info(call)),
        abi::SCHED_ID => request.set_payload(&SchedId { sched_id: SCHEDULER_CREDIT }),
        abi::AVAILHEAP => {
            let asked: AvailHeap = request.payload();
            request.set_payload(&available(call, asked)?);
        }
        abi::GETDOMAININFOLIST => {
            let asked: GetDomainInfoList = request.payload();
            request.set_payload(&list_domains(call, asked)?);
        }
        abi::TBUF_OP => {
            let asked: TbufOp = request.payload();
            request.set_payload(&trace_buffers::control(call, &asked)?);
        }
        // Its results are in buffers of their own.
        abi::TMEM_OP => return tmem::control(call, &request.payload::<TmemControl>()),
        _ => return Err(Errno::ENOSYS),
    }
    call.write_guest(address, &request)?;
    Ok(Next::Return(0))
}

fn physical_info<M: Machine>(call: &Call<'_, M>) -> PhysInfo {
    let hv = call.hv;
    let ledger = hv.heap.ledger();
    let cpus = hv.cpus.len() as u32;
    let capabilities = PhysCapabilities::HVM | PhysCapabilities::HAP | PhysCapabilities::GNTTAB_V1;
    PhysInfo {
        // No CPU is known to share anything with another.
        threads_per_core: 1,
        cores_per_socket: cpus,
        nr_cpus: cpus,
        max_cpu_id: cpus.saturating_sub(1),
        nr_nodes: 1,
        max_node_id: 0,
        cpu_khz: hv.machine.tsc_scale().khz as u32,
        capabilities: capabilities.bits(),
        total_pages: ledger.total,
        // As in Xen: pages that still wait to be cleared are free too.
        free_pages: ledger.free + ledger.scrubbing,
        scrub_pages: ledger.scrubbing,
        outstanding_pages: ledger.claimed,
        max_mfn: hv.heap.frame_count().saturating_sub(1),
        ..PhysInfo::default()
    }
}

/// Free memory, on the one node there is. A heap by widths of addresses is not kept, so only "any" can be answered.
fn available<M: Machine>(call: &Call<'_, M>, asked: AvailHeap) -> Result<AvailHeap, Errno> {
    if asked.node > 0 || asked.min_bitwidth != 0 || asked.max_bitwidth != 0 {
        return Err(Errno::EINVAL);
    }
    let ledger = call.hv.heap.ledger();
    Ok(AvailHeap { avail_bytes: (ledger.free + ledger.scrubbing) * PAGE_SIZE as u64, ..asked })
}

/// The figures of all domains from a number on, as many as there is room for.
fn list_domains<M: Machine>(call: &Call<'_, M>, asked: GetDomainInfoList) -> Result<GetDomainInfoList, Errno> {
    let mut found = 0;
    let domains = call.hv.each_domain().filter(|domain| domain.id >= asked.first_domain);
    for domain in domains.take(asked.max_domains as usize) {
        call.write_element(asked.buffer, u64::from(found), &info::of(call.hv, &domain))?;
        found += 1;
    }
    Ok(GetDomainInfoList { num_domains: found, ..asked })
}
