//! System time in nanoseconds since the domain's start, from the calling vCPU's PV clock.

use crate::{cpu, events, percpu, xen};
use ebb_guest_hypercall::pvclock;

/// System time, ns.
pub fn now() -> u64 {
    pvclock::now(&events::vcpu_info(percpu::id()).time, cpu::rdtsc)
}

/// The TSC's frequency as the clock implies it, kHz.
pub fn tsc_khz() -> u64 {
    pvclock::tsc_khz(&events::vcpu_info(percpu::id()).time)
}

/// Wall-clock time: seconds since 1970, and nanoseconds.
pub fn wall() -> (u64, u32) {
    let (seconds, nanoseconds) = pvclock::wall_clock(xen::shared_info());
    let total = u64::from(nanoseconds) + now();
    (seconds + total / 1_000_000_000, (total % 1_000_000_000) as u32)
}

/// Spins for `ns`, without sleeping.
pub fn spin(ns: u64) {
    let end = now().saturating_add(ns);
    while now() < end {
        core::hint::spin_loop();
    }
}
