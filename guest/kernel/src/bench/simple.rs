//! Rows that are one call, repeated.
#![allow(unsafe_code)] // Reading a device register.

use super::{Outcome, repeat, time};
use crate::{apic, clock, percpu};
use alloc::vec::Vec;
use ebb_guest_hypercall::{Errno, VcpuId, memory, sched, vcpu, version};

/// `xen_version`.
pub fn null_hypercall() -> Outcome {
    repeat(|| version::version().map(drop))
}

/// CPUID, which the hypervisor always answers itself.
pub fn cpuid() -> Outcome {
    repeat(|| {
        core::hint::black_box(core::arch::x86_64::__cpuid(0));
        Ok::<(), Errno>(())
    })
}

/// Yield with nobody else to run.
pub fn yield_alone() -> Outcome {
    repeat(sched::yield_now)
}

/// The single-shot timer, far off; afterwards it is set to what it was.
pub fn set_singleshot() -> Outcome {
    let own = VcpuId(percpu::id() as u32);
    let far = clock::now() + 3_600_000_000_000;
    let samples = repeat(|| vcpu::set_singleshot_timer(own, far, false));
    let armed = percpu::own().timer_armed.load(core::sync::atomic::Ordering::Relaxed);
    let restored = if armed == u64::MAX {
        vcpu::stop_singleshot_timer(own)
    } else {
        vcpu::set_singleshot_timer(own, armed, false)
    };
    restored.map_err(|errno| alloc::format!("restoring the timer: {errno}"))?;
    samples
}

/// `XENMEM_current_reservation`.
pub fn current_reservation() -> Outcome {
    repeat(|| memory::current_reservation().map(drop))
}

/// A register of the local APIC by MMIO, which the hypervisor decodes.
pub fn xapic_read() -> Outcome {
    if apic::is_x2apic() {
        return Err("the local APIC is in x2APIC mode: use apic=x".into());
    }
    let place = (apic::PAGE + u64::from(apic::register::LDR) * 16) as usize;
    let register = core::ptr::with_exposed_provenance::<u32>(place);
    let mut samples = Vec::with_capacity(super::SAMPLES);
    for _ in 0..super::SAMPLES {
        // SAFETY: the page is mapped as device memory; reading the register has no effect.
        samples.push(time(|| unsafe { register.read_volatile() }).0);
    }
    Ok(samples)
}
