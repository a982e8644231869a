//! `arch-x86/xen.h` and its neighbours: [`cpuid`], [`msr`], and what a domain's architecture configuration looks like.

pub mod cpuid;
pub mod msr;

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// `XEN_X86_EMU_*`: devices that a domain gets, in [`ArchDomainConfig::emulation_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct EmulationFlags: u32 {
        /// `XEN_X86_EMU_LAPIC`: local APICs.
        const LAPIC = 1 << 0;
        /// `XEN_X86_EMU_HPET`: an HPET.
        const HPET = 1 << 1;
        /// `XEN_X86_EMU_PM`: the power management timer.
        const PM = 1 << 2;
        /// `XEN_X86_EMU_RTC`: the real-time clock.
        const RTC = 1 << 3;
        /// `XEN_X86_EMU_IOAPIC`: an I/O APIC.
        const IOAPIC = 1 << 4;
        /// `XEN_X86_EMU_PIC`: the two PICs.
        const PIC = 1 << 5;
        /// `XEN_X86_EMU_VGA`: VGA memory.
        const VGA = 1 << 6;
        /// `XEN_X86_EMU_IOMMU`: an IOMMU.
        const IOMMU = 1 << 7;
        /// `XEN_X86_EMU_PIT`: the PIT.
        const PIT = 1 << 8;
        /// `XEN_X86_EMU_USE_PIRQ`: interrupts as events.
        const USE_PIRQ = 1 << 9;
        /// `XEN_X86_EMU_VPCI`: PCI configuration space.
        const VPCI = 1 << 10;
    }
}

/// `XEN_X86_MSR_RELAXED`: unknown MSRs read as 0. In [`ArchDomainConfig::misc_flags`].
pub const MSR_RELAXED: u32 = 1 << 0;

/// `struct xen_arch_domainconfig`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ArchDomainConfig {
    /// [`EmulationFlags`]; a PVH domain has `LAPIC` only.
    pub emulation_flags: u32,
    /// `XEN_X86_*` of the second kind.
    pub misc_flags: u32,
}

/// `struct xen_cpuid_leaf`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CpuidLeaf {
    /// Leaf.
    pub leaf: u32,
    /// Subleaf, or [`CpuidLeaf::NO_SUBLEAF`].
    pub subleaf: u32,
    /// EAX.
    pub a: u32,
    /// EBX.
    pub b: u32,
    /// ECX.
    pub c: u32,
    /// EDX.
    pub d: u32,
}

impl CpuidLeaf {
    /// `XEN_CPUID_NO_SUBLEAF`: the leaf has no subleaves.
    pub const NO_SUBLEAF: u32 = 0xffff_ffff;
}

/// `struct xen_msr_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MsrEntry {
    /// The MSR's number.
    pub idx: u32,
    /// Must be 0.
    pub flags: u32,
    /// Its value.
    pub val: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<ArchDomainConfig>() == 8);
    assert!(offset_of!(ArchDomainConfig, misc_flags) == 4);
    assert!(size_of::<CpuidLeaf>() == 24);
    assert!(size_of::<MsrEntry>() == 16);
    assert!(offset_of!(MsrEntry, val) == 8);
};
