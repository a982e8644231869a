//! The CPUID instruction: the policy's answer for this vCPU as it is now.

use ebb_core::cpuid::VcpuView;

use super::Context;
use crate::virt::{Backend, VirtualCpu, register};

impl<B: Backend> Context<'_, B> {
    pub(super) fn cpuid(&mut self) {
        let hw = &self.guest.hw;
        let (leaf, subleaf) = (hw.general(register::RAX) as u32, hw.general(register::RCX) as u32);
        let view = VcpuView {
            domain: self.vcpu.domain().id,
            vcpu: self.vcpu.id,
            vcpus: self.vcpu.domain().vcpus.len() as u32,
            cr4: hw.paging().cr4,
            xcr0: if leaf == 0xd { hw.xcr0() } else { 0 },
            // Shown in two leaves only, and behind a lock.
            apic_enabled: leaf & 0x7fff_ffff != 1 || self.hv.apic_enabled(self.vcpu),
        };
        let [eax, ebx, ecx, edx] = self.hv.machine.policy.lookup(leaf, subleaf, &view);
        let hw = &mut self.guest.hw;
        hw.set_general(register::RAX, u64::from(eax));
        hw.set_general(register::RBX, u64::from(ebx));
        hw.set_general(register::RCX, u64::from(ecx));
        hw.set_general(register::RDX, u64::from(edx));
        hw.advance(2);
    }
}
