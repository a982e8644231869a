//! Finding the hypervisor by CPUID (`arch-x86/cpuid.h`).

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

/// Leaves are looked for from here, a step at a time: another interface may come first.
const FIRST: u32 = 0x4000_0000;
const STEP: u32 = 0x100;
const LAST: u32 = 0x4001_0000;

/// `XEN_CPUID_SIGNATURE_*`: "XenVMMXenVMM".
pub const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];

/// `XEN_HVM_CPUID_X2APIC_VIRT`.
pub const FEATURE_X2APIC_VIRT: u32 = 1 << 1;
/// `XEN_HVM_CPUID_VCPU_ID_PRESENT`.
pub const FEATURE_VCPU_ID: u32 = 1 << 3;
/// `XEN_HVM_CPUID_DOMID_PRESENT`.
pub const FEATURE_DOMID: u32 = 1 << 4;
/// `XEN_HVM_CPUID_UPCALL_VECTOR`.
pub const FEATURE_UPCALL_VECTOR: u32 = 1 << 6;

/// What the leaves say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hypervisor {
    /// First leaf.
    pub base: u32,
    /// Last leaf.
    pub last: u32,
    /// Major version in bits 16 up, minor below.
    pub version: u32,
    /// Pages of the hypercall page.
    pub pages: u32,
    /// MSR that fills it.
    pub msr: u32,
    /// `XEN_HVM_CPUID_*`.
    pub features: u32,
    /// The vCPU on which this was read, when the feature says so.
    pub vcpu: Option<u32>,
    /// The domain's id, when the feature says so.
    pub domid: Option<u32>,
}

/// Looks for the hypervisor with the processor's CPUID.
pub fn find() -> Option<Hypervisor> {
    find_with(__cpuid_count)
}

/// Is the processor AMD's (or Hygon's), whose hypercall instruction is VMMCALL?
pub fn is_amd() -> bool {
    let vendor = __cpuid(0);
    // "AuthenticAMD", "HygonGenuine".
    matches!(vendor.ebx, 0x6874_7541 | 0x6f67_7948)
}

/// Looks for the hypervisor with a given CPUID.
pub fn find_with(read: impl Fn(u32, u32) -> CpuidResult) -> Option<Hypervisor> {
    let base = (FIRST..LAST).step_by(STEP as usize).find(|base| {
        let leaf = read(*base, 0);
        [leaf.ebx, leaf.ecx, leaf.edx] == SIGNATURE && leaf.eax >= base + 2
    })?;
    let last = read(base, 0).eax;
    let page = read(base + 2, 0);
    let mut found = Hypervisor {
        base,
        last,
        version: read(base + 1, 0).eax,
        pages: page.eax,
        msr: page.ebx,
        features: 0,
        vcpu: None,
        domid: None,
    };
    if last >= base + 4 {
        let leaf = read(base + 4, 0);
        found.features = leaf.eax;
        found.vcpu = (leaf.eax & FEATURE_VCPU_ID != 0).then_some(leaf.ebx);
        found.domid = (leaf.eax & FEATURE_DOMID != 0).then_some(leaf.ecx);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidResult {
        CpuidResult { eax, ebx, ecx, edx }
    }

    #[test]
    fn found_behind_another_interface() {
        let found = find_with(|leaf, _| match leaf {
            0x4000_0000 => result(0x4000_0001, 1, 2, 3),
            0x4000_0100 => result(0x4000_0104, SIGNATURE[0], SIGNATURE[1], SIGNATURE[2]),
            0x4000_0101 => result(4 << 16 | 17, 0, 0, 0),
            0x4000_0102 => result(1, 0x4000_0200, 0, 0),
            0x4000_0104 => result(FEATURE_VCPU_ID | FEATURE_UPCALL_VECTOR, 3, 9, 0),
            _ => result(0, 0, 0, 0),
        })
        .unwrap();
        assert_eq!((found.base, found.msr, found.version), (0x4000_0100, 0x4000_0200, 0x4_0011));
        assert_eq!((found.vcpu, found.domid), (Some(3), None));
    }

    #[test]
    fn absent_without_the_signature() {
        assert_eq!(find_with(|_, _| result(u32::MAX, 0, 0, 0)), None);
    }
}
