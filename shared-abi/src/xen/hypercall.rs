//! `__HYPERVISOR_*`: the numbers of the hypercalls (`xen.h`).

/// `__HYPERVISOR_set_trap_table`: for paravirtual guests.
pub const SET_TRAP_TABLE: u32 = 0;
/// `__HYPERVISOR_mmu_update`: for paravirtual guests.
pub const MMU_UPDATE: u32 = 1;
/// `__HYPERVISOR_set_gdt`: for paravirtual guests.
pub const SET_GDT: u32 = 2;
/// `__HYPERVISOR_stack_switch`: for paravirtual guests.
pub const STACK_SWITCH: u32 = 3;
/// `__HYPERVISOR_set_callbacks`: for paravirtual guests.
pub const SET_CALLBACKS: u32 = 4;
/// `__HYPERVISOR_fpu_taskswitch`: for paravirtual guests.
pub const FPU_TASKSWITCH: u32 = 5;
/// `__HYPERVISOR_sched_op_compat`: old form of `sched_op`.
pub const SCHED_OP_COMPAT: u32 = 6;
/// `__HYPERVISOR_platform_op`: platform control.
pub const PLATFORM_OP: u32 = 7;
/// `__HYPERVISOR_set_debugreg`: for paravirtual guests.
pub const SET_DEBUGREG: u32 = 8;
/// `__HYPERVISOR_get_debugreg`: for paravirtual guests.
pub const GET_DEBUGREG: u32 = 9;
/// `__HYPERVISOR_update_descriptor`: for paravirtual guests.
pub const UPDATE_DESCRIPTOR: u32 = 10;
/// `__HYPERVISOR_memory_op`: change and inspect reservations and physical maps.
pub const MEMORY_OP: u32 = 12;
/// `__HYPERVISOR_multicall`: a batch of calls.
pub const MULTICALL: u32 = 13;
/// `__HYPERVISOR_update_va_mapping`: for paravirtual guests.
pub const UPDATE_VA_MAPPING: u32 = 14;
/// `__HYPERVISOR_set_timer_op`: the single-shot timer of the calling vCPU.
pub const SET_TIMER_OP: u32 = 15;
/// `__HYPERVISOR_event_channel_op_compat`: old form of `event_channel_op`.
pub const EVENT_CHANNEL_OP_COMPAT: u32 = 16;
/// `__HYPERVISOR_xen_version`: version and features.
pub const XEN_VERSION: u32 = 17;
/// `__HYPERVISOR_console_io`: the emergency console.
pub const CONSOLE_IO: u32 = 18;
/// `__HYPERVISOR_physdev_op_compat`: old form of `physdev_op`.
pub const PHYSDEV_OP_COMPAT: u32 = 19;
/// `__HYPERVISOR_grant_table_op`: grant tables.
pub const GRANT_TABLE_OP: u32 = 20;
/// `__HYPERVISOR_vm_assist`: per-domain assists.
pub const VM_ASSIST: u32 = 21;
/// `__HYPERVISOR_update_va_mapping_otherdomain`: for paravirtual guests.
pub const UPDATE_VA_MAPPING_OTHERDOMAIN: u32 = 22;
/// `__HYPERVISOR_iret`: return from an exception (paravirtual guests).
pub const IRET: u32 = 23;
/// `__HYPERVISOR_vcpu_op`: vCPU life, timers, areas.
pub const VCPU_OP: u32 = 24;
/// `__HYPERVISOR_set_segment_base`: for paravirtual guests.
pub const SET_SEGMENT_BASE: u32 = 25;
/// `__HYPERVISOR_mmuext_op`: for paravirtual guests.
pub const MMUEXT_OP: u32 = 26;
/// `__HYPERVISOR_xsm_op`: security modules.
pub const XSM_OP: u32 = 27;
/// `__HYPERVISOR_nmi_op`: NMI callbacks.
pub const NMI_OP: u32 = 28;
/// `__HYPERVISOR_sched_op`: yield, block, poll, shutdown.
pub const SCHED_OP: u32 = 29;
/// `__HYPERVISOR_callback_op`: callbacks of paravirtual guests.
pub const CALLBACK_OP: u32 = 30;
/// `__HYPERVISOR_xenoprof_op`: profiling.
pub const XENOPROF_OP: u32 = 31;
/// `__HYPERVISOR_event_channel_op`: event channels.
pub const EVENT_CHANNEL_OP: u32 = 32;
/// `__HYPERVISOR_physdev_op`: physical devices and interrupts.
pub const PHYSDEV_OP: u32 = 33;
/// `__HYPERVISOR_hvm_op`: parameters and services of hardware-virtualised guests.
pub const HVM_OP: u32 = 34;
/// `__HYPERVISOR_sysctl`: control of the machine.
pub const SYSCTL: u32 = 35;
/// `__HYPERVISOR_domctl`: control of domains.
pub const DOMCTL: u32 = 36;
/// `__HYPERVISOR_kexec_op`: crash kernels.
pub const KEXEC_OP: u32 = 37;
/// `__HYPERVISOR_tmem_op`: transcendent memory.
pub const TMEM_OP: u32 = 38;
/// `__HYPERVISOR_argo_op`: inter-domain messages.
pub const ARGO_OP: u32 = 39;
/// `__HYPERVISOR_xenpmu_op`: performance counters.
pub const XENPMU_OP: u32 = 40;
/// `__HYPERVISOR_dm_op`: device models.
pub const DM_OP: u32 = 41;
/// `__HYPERVISOR_hypfs_op`: the hypervisor's file system.
pub const HYPFS_OP: u32 = 42;
/// `__HYPERVISOR_arch_0`: reserved for the architecture.
pub const ARCH_0: u32 = 48;
/// `__HYPERVISOR_arch_1`: reserved for the architecture.
pub const ARCH_1: u32 = 49;
/// `__HYPERVISOR_arch_2`: reserved for the architecture.
pub const ARCH_2: u32 = 50;
/// `__HYPERVISOR_arch_3`: reserved for the architecture.
pub const ARCH_3: u32 = 51;
/// `__HYPERVISOR_arch_4`: reserved for the architecture.
pub const ARCH_4: u32 = 52;
/// `__HYPERVISOR_arch_5`: reserved for the architecture.
pub const ARCH_5: u32 = 53;
/// `__HYPERVISOR_arch_6`: reserved for the architecture.
pub const ARCH_6: u32 = 54;
/// `__HYPERVISOR_arch_7`: reserved for the architecture.
pub const ARCH_7: u32 = 55;

/// Numbers from this one on do not exist.
pub const COUNT: u32 = 56;
