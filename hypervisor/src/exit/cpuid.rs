//! The CPUID instruction: the policy's answer for this vCPU as it is now.

use ebb_core::cpuid::VcpuView;
use ebb_core::{Hypervisor, VcpuRef};

use crate::glue::Glue;
use crate::virt::{VirtualCpu, register};

/// Answers. Compiled for each vendor: half of it is registers.
#[inline(never)]
pub fn answer<C: VirtualCpu>(hv: &Hypervisor<Glue>, vcpu: &VcpuRef<Glue>, hw: &mut C) {
    let (leaf, subleaf) = (hw.general(register::RAX) as u32, hw.general(register::RCX) as u32);
    let view = VcpuView {
        domain: vcpu.domain().id,
        vcpu: vcpu.id,
        vcpus: vcpu.domain().vcpus.len() as u32,
        cr4: hw.paging().cr4,
        xcr0: if leaf == 0xd { hw.xcr0() } else { 0 },
        // Shown in two leaves only, and behind a lock.
        apic_enabled: leaf & 0x7fff_ffff != 1 || hv.apic_enabled(vcpu),
    };
    let [eax, ebx, ecx, edx] = hv.machine.policy.lookup(leaf, subleaf, &view);
    hw.set_general(register::RAX, u64::from(eax));
    hw.set_general(register::RBX, u64::from(ebx));
    hw.set_general(register::RCX, u64::from(ecx));
    hw.set_general(register::RDX, u64::from(edx));
    hw.advance(2);
}
