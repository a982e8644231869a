//! The local APIC: the model by itself, then its connections to guests, other vCPUs and entries on the fake machine.

mod entries;
mod ipis;
mod model;
mod registers;
mod timers;

use std::sync::Arc;

use super::*;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::sched;
use crate::testing::{self, FakeMachine, vcpu};
use crate::vcpu::VcpuRef;

type Hv = Hypervisor<FakeMachine>;

/// SVR of an APIC that is on.
const ON: u32 = 0x1ff;

/// A model of an xAPIC that is on.
fn on(id: u32) -> Lapic {
    let mut lapic = Lapic::new(id);
    lapic.write(register::SVR, ON, 0);
    lapic
}

/// A hypervisor with one domain of `vcpus` vCPUs, whose APICs are on.
fn with_domain(vcpus: u32) -> (Hv, Arc<Domain<FakeMachine>>) {
    let hv = testing::hypervisor(2, 256);
    let domain = testing::domain(&hv, 1, 8, vcpus);
    assert!(sched::admit(&hv, &domain));
    domain.lifecycle.started();
    for vcpu in sched::each_vcpu(&domain) {
        hv.apic_mmio_write(&vcpu, register::SVR << 4, ON);
    }
    (hv, domain)
}

/// Gives a domain's memory back, so that nothing is dropped.
fn release(hv: &Hv, domain: &Domain<FakeMachine>) {
    while !domain.memory.release_all(hv, 512) {}
}

/// The vectors that wait in a vCPU's IRR.
fn waiting(vcpu: &VcpuRef<FakeMachine>) -> std::vec::Vec<u8> {
    let lapic = vcpu.lapic.lock();
    (0..=255).filter(|v| lapic.irr.0[usize::from(v / 32)] >> (v % 32) & 1 != 0).collect()
}

/// Switches all APICs of a domain to x2APIC mode.
fn to_x2apic(hv: &Hv, domain: &Arc<Domain<FakeMachine>>) {
    for vcpu in sched::each_vcpu(domain) {
        hv.set_apic_base(&vcpu, APIC_DEFAULT_BASE | BASE_ENABLED | BASE_X2APIC).unwrap();
    }
}
