//! Several vCPUs at once: started, told apart, and exchanging events.

use super::{Outcome, Stop, Test};
use crate::events::EventPort;
use crate::{acpi, apic, check, check_eq, percpu, smp, start_info, thread, xen};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb_guest_hypercall::{VcpuId, cpuid, event_channel};
use spin::Mutex;

/// This group's tests.
pub const TESTS: &[Test] =
    &[("smp-online", online), ("smp-identity", identity), ("smp-ring", ring), ("smp-threads", threads)];

fn online() -> Outcome {
    let args = start_info::args();
    if args.get("smp") == Some("off") || args.get("cpus").is_some() {
        return Err(Stop::Skip("the arguments keep vCPUs off".into()));
    }
    check_eq!(smp::online(), smp::possible(), "vCPUs online");
    Ok(())
}

/// A vCPU's number, its local APIC's, and what CPUID says its number is.
type Identity = (usize, u32, Option<u32>);

/// On every vCPU: its number by CPUID, its local APIC's number by MADT.
fn identity() -> Outcome {
    let processors = acpi::processors()?;
    let found: Arc<Mutex<Vec<Identity>>> = Arc::default();
    for cpu in 0..smp::online() {
        let found = found.clone();
        let own = move || {
            let leaf = __cpuid_count(xen::hypervisor().base + 4, 0);
            let told = (leaf.eax & cpuid::FEATURE_VCPU_ID != 0).then_some(leaf.ebx);
            found.lock().push((percpu::id(), apic::id(), told));
        };
        thread::spawn("identity", Some(cpu), own)?.join();
    }
    let found = core::mem::take(&mut *found.lock());
    for (cpu, (id, apic_id, told)) in found.into_iter().enumerate() {
        check_eq!(id, cpu, "the vCPU a pinned thread runs on");
        check!(told.is_none_or(|told| told as usize == cpu), "CPUID says {told:?} on vCPU {cpu}");
        let known = processors.iter().find(|processor| processor.acpi_id == cpu as u32);
        check!(
            known.is_some_and(|processor| processor.apic_id == apic_id),
            "vCPU {cpu} has local APIC {apic_id}, the MADT says {known:?}"
        );
    }
    Ok(())
}

/// A token goes round all vCPUs by events, many times; every hop is woken.
fn ring() -> Outcome {
    const ROUNDS: u64 = 200;
    let cpus = smp::online();
    if cpus < 2 {
        return Err(Stop::Skip("it takes two vCPUs".into()));
    }
    let ports = (0..cpus)
        .map(|cpu| {
            let port = event_channel::bind_ipi(VcpuId(cpu as u32))?;
            EventPort::new(port).map(Arc::new).map_err(Stop::from)
        })
        .collect::<Result<Vec<_>, Stop>>()?;
    let lost = Arc::new(AtomicU64::new(0));
    let mut handles = Vec::new();
    for cpu in 0..cpus {
        let (own, next) = (ports[cpu].clone(), ports[(cpu + 1) % cpus].port());
        let lost = lost.clone();
        handles.push(thread::spawn("ring", Some(cpu), move || {
            for round in 1..=ROUNDS {
                if !own.wait(round, 20_000_000_000) {
                    lost.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                // The last hop ends the game.
                if round < ROUNDS || cpu + 1 < cpus {
                    let _ = event_channel::send(next);
                }
            }
        })?);
    }
    event_channel::send(ports[0].port())?;
    handles.into_iter().for_each(thread::JoinHandle::join);
    check_eq!(lost.load(Ordering::SeqCst), 0, "vCPUs that waited in vain");
    for port in &ports {
        check_eq!(port.count(), ROUNDS, "events taken");
    }
    Ok(())
}

/// Threads that are tied to no vCPU, sleeping and yielding: all come to their end.
fn threads() -> Outcome {
    let done = Arc::new(AtomicU64::new(0));
    let seen = Arc::new(AtomicU64::new(0));
    let handles = (0..16u64)
        .map(|number| {
            let (done, seen) = (done.clone(), seen.clone());
            thread::spawn("worker", None, move || {
                for round in 0..20 {
                    seen.fetch_or(1 << percpu::id(), Ordering::SeqCst);
                    if (round + number) % 3 == 0 {
                        thread::sleep(100_000 * (number + 1));
                    } else {
                        thread::yield_now();
                    }
                }
                done.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    handles.into_iter().for_each(thread::JoinHandle::join);
    check_eq!(done.load(Ordering::SeqCst), 16, "threads that ended");
    // Where they ran is the hypervisor's affair: with one processor one vCPU may do it all.
    check!(seen.load(Ordering::SeqCst) != 0, "the threads ran nowhere");
    Ok(())
}
