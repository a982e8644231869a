//! `arch-x86/cpuid.h`: the CPUID leaves by which guests find Xen. Leaves are given as offsets from the base, which is
//! [`FIRST_LEAF`] or a later multiple of [`LEAF_STEP`].

use bitflags::bitflags;

/// `XEN_CPUID_FIRST_LEAF`: where guests start to look.
pub const FIRST_LEAF: u32 = 0x4000_0000;
/// The step in which they look.
pub const LEAF_STEP: u32 = 0x100;
/// The last base at which they look.
pub const LAST_BASE: u32 = 0x4000_ff00;

/// Offset: EAX the greatest leaf, EBX, ECX, EDX the signature.
pub const LEAF_SIGNATURE: u32 = 0;
/// Offset: EAX the version, major in bits 16 up.
pub const LEAF_VERSION: u32 = 1;
/// Offset: EAX number of hypercall pages, EBX the MSR that sets them up, ECX features.
pub const LEAF_HYPERCALL: u32 = 2;
/// Offset: time; subleaf 0 TSC mode and frequency, 1 offset and scale, 2 host frequency.
pub const LEAF_TIME: u32 = 3;
/// Offset: EAX [`HvmFeatures`], EBX vCPU id, ECX domain id.
pub const LEAF_HVM: u32 = 4;
/// Offset: for paravirtual guests.
pub const LEAF_PV: u32 = 5;
/// `XEN_CPUID_MAX_NUM_LEAVES`: the greatest offset.
pub const MAX_NUM_LEAVES: u32 = 5;

/// `XEN_CPUID_SIGNATURE_EBX`: "XenV".
pub const SIGNATURE_EBX: u32 = u32::from_le_bytes(*b"XenV");
/// `XEN_CPUID_SIGNATURE_ECX`: "MMXe".
pub const SIGNATURE_ECX: u32 = u32::from_le_bytes(*b"MMXe");
/// `XEN_CPUID_SIGNATURE_EDX`: "nVMM".
pub const SIGNATURE_EDX: u32 = u32::from_le_bytes(*b"nVMM");

/// `XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD`: in ECX of [`LEAF_HYPERCALL`] (paravirtual guests).
pub const FEAT1_MMU_PT_UPDATE_PRESERVE_AD: u32 = 1 << 0;

/// In EAX of [`LEAF_TIME`], subleaf 0: the TSC is emulated.
pub const TIME_TSC_EMULATED: u32 = 1 << 0;
/// In EAX of [`LEAF_TIME`], subleaf 0: the host's TSC is reliable.
pub const TIME_HOST_TSC_RELIABLE: u32 = 1 << 1;
/// In EAX of [`LEAF_TIME`], subleaf 0: RDTSCP is available.
pub const TIME_RDTSCP: u32 = 1 << 2;

bitflags! {
    /// `XEN_HVM_CPUID_*`: EAX of [`LEAF_HVM`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct HvmFeatures: u32 {
        /// `XEN_HVM_CPUID_APIC_ACCESS_VIRT`: xAPIC registers are virtualised by hardware.
        const APIC_ACCESS_VIRT = 1 << 0;
        /// `XEN_HVM_CPUID_X2APIC_VIRT`: x2APIC registers are virtualised by hardware.
        const X2APIC_VIRT = 1 << 1;
        /// `XEN_HVM_CPUID_IOMMU_MAPPINGS`: foreign and granted pages can be used by devices.
        const IOMMU_MAPPINGS = 1 << 2;
        /// `XEN_HVM_CPUID_VCPU_ID_PRESENT`: EBX is the vCPU id.
        const VCPU_ID_PRESENT = 1 << 3;
        /// `XEN_HVM_CPUID_DOMID_PRESENT`: ECX is the domain id.
        const DOMID_PRESENT = 1 << 4;
        /// `XEN_HVM_CPUID_EXT_DEST_ID`: 15-bit interrupt destinations.
        const EXT_DEST_ID = 1 << 5;
        /// `XEN_HVM_CPUID_UPCALL_VECTOR`: per-vCPU upcall vectors are reliable.
        const UPCALL_VECTOR = 1 << 6;
    }
}
