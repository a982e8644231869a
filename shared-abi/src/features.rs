//! `features.h`: feature bits that `xen_version` reports ([`crate::version::GET_FEATURES`]).

use bitflags::bitflags;

bitflags! {
    /// `XENFEAT_*`, submap 0, as a bit set.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u32 {
        /// `XENFEAT_writable_page_tables`: page tables may be written (paravirtual guests).
        const WRITABLE_PAGE_TABLES = 1 << 0;
        /// `XENFEAT_writable_descriptor_tables`: descriptor tables may be written (paravirtual guests).
        const WRITABLE_DESCRIPTOR_TABLES = 1 << 1;
        /// `XENFEAT_auto_translated_physmap`: the hypervisor translates guest frames.
        const AUTO_TRANSLATED_PHYSMAP = 1 << 2;
        /// `XENFEAT_supervisor_mode_kernel`: the kernel runs in ring 0.
        const SUPERVISOR_MODE_KERNEL = 1 << 3;
        /// `XENFEAT_pae_pgdir_above_4gb`: PAE page directories may be anywhere.
        const PAE_PGDIR_ABOVE_4GB = 1 << 4;
        /// `XENFEAT_mmu_pt_update_preserve_ad`: updates can keep accessed and dirty bits.
        const MMU_PT_UPDATE_PRESERVE_AD = 1 << 5;
        /// `XENFEAT_highmem_assist`: clearing and copying pages by hypercall.
        const HIGHMEM_ASSIST = 1 << 6;
        /// `XENFEAT_gnttab_map_avail_bits`: grant mapping sets available bits.
        const GNTTAB_MAP_AVAIL_BITS = 1 << 7;
        /// `XENFEAT_hvm_callback_vector`: upcalls by vector.
        const HVM_CALLBACK_VECTOR = 1 << 8;
        /// `XENFEAT_hvm_safe_pvclock`: the PV clock may be used.
        const HVM_SAFE_PVCLOCK = 1 << 9;
        /// `XENFEAT_hvm_pirqs`: physical interrupts as events.
        const HVM_PIRQS = 1 << 10;
        /// `XENFEAT_dom0`: the caller is the hardware domain.
        const DOM0 = 1 << 11;
        /// `XENFEAT_memory_op_vnode_supported`: `memory_op` knows virtual nodes.
        const MEMORY_OP_VNODE_SUPPORTED = 1 << 13;
        /// `XENFEAT_ARM_SMCCC_supported`: Arm.
        const ARM_SMCCC_SUPPORTED = 1 << 14;
        /// `XENFEAT_linux_rsdp_unrestricted`: the RSDP may be anywhere.
        const LINUX_RSDP_UNRESTRICTED = 1 << 15;
        /// `XENFEAT_not_direct_mapped`: Arm.
        const NOT_DIRECT_MAPPED = 1 << 16;
        /// `XENFEAT_direct_mapped`: Arm.
        const DIRECT_MAPPED = 1 << 17;
        /// `XENFEAT_runstate_phys_area`: `VCPUOP_register_runstate_phys_area` is there. Newer than 4.17.
        const RUNSTATE_PHYS_AREA = 1 << 18;
        /// `XENFEAT_vcpu_time_phys_area`: `VCPUOP_register_vcpu_time_phys_area` is there. Newer than 4.17.
        const VCPU_TIME_PHYS_AREA = 1 << 19;
    }
}

/// `XENFEAT_NR_SUBMAPS`: how many words of features there are.
pub const NR_SUBMAPS: u32 = 1;
