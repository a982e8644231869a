//! The virtual machine control block (AMD64 Architecture Programmer's Manual, volume 2, appendix B).
//!
//! Plain memory with the manual's names. Reserved space must be zero.

use core::mem::offset_of;

/// A segment register as the VMCB holds it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VmcbSegment {
    /// Selector.
    pub selector: u16,
    /// Attributes, packed to 12 bits.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// The control area, 1 KiB.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct ControlArea {
    /// Reads of control registers to intercept, a bit each.
    pub intercept_cr_read: u16,
    /// Writes of control registers to intercept.
    pub intercept_cr_write: u16,
    /// Reads of debug registers to intercept.
    pub intercept_dr_read: u16,
    /// Writes of debug registers to intercept.
    pub intercept_dr_write: u16,
    /// Exceptions to intercept.
    pub intercept_exceptions: u32,
    /// See [`intercept`].
    pub intercept_misc1: u32,
    /// See [`intercept`].
    pub intercept_misc2: u32,
    reserved_14: [u8; 0x28],
    /// Cycles between two PAUSEs of one loop.
    pub pause_filter_threshold: u16,
    /// PAUSEs before an exit.
    pub pause_filter_count: u16,
    /// Physical address of the I/O permission map.
    pub iopm_base: u64,
    /// Physical address of the MSR permission map.
    pub msrpm_base: u64,
    /// Added to the TSC in the guest.
    pub tsc_offset: u64,
    /// Address-space identifier.
    pub asid: u32,
    /// See [`tlb_control`].
    pub tlb_control: u8,
    reserved_5d: [u8; 3],
    /// See [`vintr`].
    pub vintr: u64,
    /// Bit 0: the guest is in an interrupt shadow.
    pub interrupt_shadow: u64,
    /// Why the guest exited.
    pub exit_code: u64,
    /// Depends on the code.
    pub exit_info_1: u64,
    /// Depends on the code.
    pub exit_info_2: u64,
    /// An event whose delivery was cut short by the exit.
    pub exit_int_info: u64,
    /// Bit 0: nested paging.
    pub nested_control: u64,
    avic_apic_bar: u64,
    ghcb: u64,
    /// An event to inject at entry.
    pub event_injection: u64,
    /// Root of the nested page table.
    pub nested_cr3: u64,
    lbr_control: u64,
    /// Parts of the block unchanged since the last entry; see [`clean`].
    pub clean_bits: u64,
    /// Instruction pointer after the instruction that exited, where supported.
    pub next_rip: u64,
    /// Number of valid bytes in `instruction_bytes`, where supported.
    pub instruction_length: u8,
    /// Bytes of the instruction that caused a nested fault, where supported.
    pub instruction_bytes: [u8; 15],
    reserved_e0: [u8; 0x320],
}

/// The state-save area.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct SaveArea {
    /// Extra segment.
    pub es: VmcbSegment,
    /// Code segment.
    pub cs: VmcbSegment,
    /// Stack segment.
    pub ss: VmcbSegment,
    /// Data segment.
    pub ds: VmcbSegment,
    /// FS.
    pub fs: VmcbSegment,
    /// GS.
    pub gs: VmcbSegment,
    /// Global descriptor table.
    pub gdtr: VmcbSegment,
    /// Local descriptor table.
    pub ldtr: VmcbSegment,
    /// Interrupt descriptor table.
    pub idtr: VmcbSegment,
    /// Task register.
    pub tr: VmcbSegment,
    reserved_a0: [u8; 0x2b],
    /// Current privilege level.
    pub cpl: u8,
    reserved_cc: [u8; 4],
    /// Extended features, with SVME.
    pub efer: u64,
    reserved_d8: [u8; 0x70],
    /// Control register 4.
    pub cr4: u64,
    /// Control register 3.
    pub cr3: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Debug control.
    pub dr7: u64,
    /// Debug status.
    pub dr6: u64,
    /// Flags.
    pub rflags: u64,
    /// Instruction pointer.
    pub rip: u64,
    reserved_180: [u8; 0x58],
    /// Stack pointer.
    pub rsp: u64,
    reserved_1e0: [u8; 0x18],
    /// Accumulator.
    pub rax: u64,
    /// SYSCALL target selectors.
    pub star: u64,
    /// SYSCALL target, 64-bit.
    pub lstar: u64,
    /// SYSCALL target, compatibility mode.
    pub cstar: u64,
    /// SYSCALL flag mask.
    pub sfmask: u64,
    /// Swapped with GS base.
    pub kernel_gs_base: u64,
    /// SYSENTER code segment.
    pub sysenter_cs: u64,
    /// SYSENTER stack.
    pub sysenter_esp: u64,
    /// SYSENTER target.
    pub sysenter_eip: u64,
    /// Page-fault address.
    pub cr2: u64,
    reserved_248: [u8; 0x20],
    /// The guest's page attribute table.
    pub g_pat: u64,
    /// DebugCtl.
    pub debug_control: u64,
    reserved_278: [u8; 0x68],
    /// IA32_SPEC_CTRL, where supported; it holds beside the hypervisor's own.
    pub spec_ctrl: u64,
    reserved_2e8: [u8; 0x918],
}

/// The whole block: one page.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What the hypervisor says.
    pub control: ControlArea,
    /// What the guest is.
    pub save: SaveArea,
}

/// Bits of the intercept words.
pub mod intercept {
    /// In the word for writes of control registers: CR4.
    pub const CR4: u16 = 1 << 4;
    /// Physical interrupt.
    pub const INTR: u32 = 1 << 0;
    /// Physical NMI.
    pub const NMI: u32 = 1 << 1;
    /// System management interrupt.
    pub const SMI: u32 = 1 << 2;
    /// INIT.
    pub const INIT: u32 = 1 << 3;
    /// Virtual interrupt about to be taken.
    pub const VINTR: u32 = 1 << 4;
    /// RDPMC.
    pub const RDPMC: u32 = 1 << 15;
    /// CPUID.
    pub const CPUID: u32 = 1 << 18;
    /// IRET.
    pub const IRET: u32 = 1 << 20;
    /// INVD.
    pub const INVD: u32 = 1 << 22;
    /// PAUSE.
    pub const PAUSE: u32 = 1 << 23;
    /// HLT.
    pub const HLT: u32 = 1 << 24;
    /// INVLPGA.
    pub const INVLPGA: u32 = 1 << 26;
    /// IN and OUT by the permission map.
    pub const IOIO: u32 = 1 << 27;
    /// RDMSR and WRMSR by the permission map.
    pub const MSR: u32 = 1 << 28;
    /// FERR freeze.
    pub const FERR_FREEZE: u32 = 1 << 30;
    /// Shutdown.
    pub const SHUTDOWN: u32 = 1 << 31;
    /// Second word: VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
    pub const SVM_INSTRUCTIONS: u32 = 0x7f;
    /// Second word: WBINVD.
    pub const WBINVD: u32 = 1 << 9;
    /// Second word: MONITOR, MWAIT, armed MWAIT.
    pub const MONITOR: u32 = 7 << 10;
    /// Second word: XSETBV.
    pub const XSETBV: u32 = 1 << 13;
    /// Second word: RDPRU.
    pub const RDPRU: u32 = 1 << 14;
}

/// Values of `tlb_control`.
pub mod tlb_control {
    /// Keep translations.
    pub const NONE: u8 = 0;
    /// Drop all translations of every guest and the host.
    pub const FLUSH_ALL: u8 = 1;
    /// Drop this ASID's translations (where supported).
    pub const FLUSH_ASID: u8 = 3;
}

/// Bits of `vintr`.
pub mod vintr {
    /// Virtual task priority (CR8).
    pub const TPR_MASK: u64 = 0xf;
    /// A virtual interrupt waits.
    pub const IRQ: u64 = 1 << 8;
    /// ... whatever the task priority.
    pub const IGNORE_TPR: u64 = 1 << 20;
    /// RFLAGS.IF of the guest does not govern physical interrupts.
    pub const MASKING: u64 = 1 << 24;
}

/// Bits of `clean_bits`: what has not changed since the block was last entered on this CPU.
pub mod clean {
    /// Intercepts, TSC offset, pause filter.
    pub const INTERCEPTS: u64 = 1 << 0;
    /// Address-space identifier.
    pub const ASID: u64 = 1 << 2;
    /// Virtual interrupt and TPR.
    pub const TPR: u64 = 1 << 3;
    /// Nested paging.
    pub const NESTED: u64 = 1 << 4;
    /// CR0, CR3, CR4, EFER.
    pub const CRX: u64 = 1 << 5;
    /// CR2.
    pub const CR2: u64 = 1 << 9;
    /// Everything that exists.
    pub const ALL: u64 = 0x3ff;
}

/// Bits of `event_injection` and `exit_int_info`.
pub mod event {
    /// Type field.
    pub const TYPE_MASK: u64 = 7 << 8;
    /// External interrupt.
    pub const TYPE_EXTERNAL: u64 = 0 << 8;
    /// NMI.
    pub const TYPE_NMI: u64 = 2 << 8;
    /// Exception.
    pub const TYPE_EXCEPTION: u64 = 3 << 8;
    /// INT n.
    pub const TYPE_SOFTWARE: u64 = 4 << 8;
    /// An error code is to be pushed.
    pub const ERROR_VALID: u64 = 1 << 11;
    /// There is an event.
    pub const VALID: u64 = 1 << 31;
    /// Its vector.
    pub const VECTOR_MASK: u64 = 0xff;
}

/// Exit codes.
pub mod exit {
    /// A write to CR4.
    pub const WRITE_CR4: u64 = 0x14;
    /// First exception (vector 0).
    pub const EXCEPTION_FIRST: u64 = 0x40;
    /// Last exception.
    pub const EXCEPTION_LAST: u64 = 0x5f;
    /// Physical interrupt.
    pub const INTR: u64 = 0x60;
    /// Physical NMI.
    pub const NMI: u64 = 0x61;
    /// System management interrupt.
    pub const SMI: u64 = 0x62;
    /// INIT.
    pub const INIT: u64 = 0x63;
    /// Virtual interrupt.
    pub const VINTR: u64 = 0x64;
    /// RDPMC.
    pub const RDPMC: u64 = 0x6f;
    /// CPUID.
    pub const CPUID: u64 = 0x72;
    /// IRET.
    pub const IRET: u64 = 0x74;
    /// INVD.
    pub const INVD: u64 = 0x76;
    /// PAUSE.
    pub const PAUSE: u64 = 0x77;
    /// HLT.
    pub const HLT: u64 = 0x78;
    /// INVLPGA.
    pub const INVLPGA: u64 = 0x7a;
    /// IN or OUT.
    pub const IOIO: u64 = 0x7b;
    /// RDMSR or WRMSR.
    pub const MSR: u64 = 0x7c;
    /// Shutdown.
    pub const SHUTDOWN: u64 = 0x7f;
    /// VMRUN.
    pub const VMRUN: u64 = 0x80;
    /// VMMCALL.
    pub const VMMCALL: u64 = 0x81;
    /// VMLOAD to SKINIT.
    pub const SVM_FIRST: u64 = 0x82;
    /// The last of them.
    pub const SVM_LAST: u64 = 0x86;
    /// WBINVD.
    pub const WBINVD: u64 = 0x89;
    /// MONITOR, MWAIT and armed MWAIT.
    pub const MONITOR: u64 = 0x8a;
    /// The last of them.
    pub const MWAIT_ARMED: u64 = 0x8c;
    /// XSETBV.
    pub const XSETBV: u64 = 0x8d;
    /// RDPRU.
    pub const RDPRU: u64 = 0x8e;
    /// Nested page fault.
    pub const NESTED_FAULT: u64 = 0x400;
    /// The state was not acceptable.
    pub const INVALID: u64 = u64::MAX;
}

const _: () = {
    assert!(size_of::<Vmcb>() == 4096);
    assert!(size_of::<ControlArea>() == 0x400);
    assert!(offset_of!(ControlArea, pause_filter_threshold) == 0x3c);
    assert!(offset_of!(ControlArea, iopm_base) == 0x40);
    assert!(offset_of!(ControlArea, asid) == 0x58);
    assert!(offset_of!(ControlArea, vintr) == 0x60);
    assert!(offset_of!(ControlArea, exit_code) == 0x70);
    assert!(offset_of!(ControlArea, exit_int_info) == 0x88);
    assert!(offset_of!(ControlArea, event_injection) == 0xa8);
    assert!(offset_of!(ControlArea, nested_cr3) == 0xb0);
    assert!(offset_of!(ControlArea, clean_bits) == 0xc0);
    assert!(offset_of!(ControlArea, next_rip) == 0xc8);
    assert!(offset_of!(ControlArea, instruction_length) == 0xd0);
    assert!(offset_of!(SaveArea, tr) == 0x90);
    assert!(offset_of!(SaveArea, cpl) == 0xcb);
    assert!(offset_of!(SaveArea, efer) == 0xd0);
    assert!(offset_of!(SaveArea, cr4) == 0x148);
    assert!(offset_of!(SaveArea, rip) == 0x178);
    assert!(offset_of!(SaveArea, rsp) == 0x1d8);
    assert!(offset_of!(SaveArea, rax) == 0x1f8);
    assert!(offset_of!(SaveArea, cr2) == 0x240);
    assert!(offset_of!(SaveArea, g_pat) == 0x268);
    assert!(offset_of!(SaveArea, spec_ctrl) == 0x2e0);
};
