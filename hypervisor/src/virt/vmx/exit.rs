//! From exit reasons to the neutral [`VmExit`]. Nothing is decided here.

use x86::vmx::vmcs::ro;

use super::vmcs;
use crate::virt::{IoAccess, NestedFault, VmExit, vector};

/// Basic exit reasons (Intel SDM, volume 3, appendix C).
pub mod reason {
    pub const EXCEPTION_OR_NMI: u32 = 0;
    pub const EXTERNAL_INTERRUPT: u32 = 1;
    pub const TRIPLE_FAULT: u32 = 2;
    pub const INIT: u32 = 3;
    pub const INTERRUPT_WINDOW: u32 = 7;
    pub const NMI_WINDOW: u32 = 8;
    pub const CPUID: u32 = 10;
    pub const GETSEC: u32 = 11;
    pub const HLT: u32 = 12;
    pub const INVD: u32 = 13;
    pub const RDPMC: u32 = 15;
    pub const VMCALL: u32 = 18;
    pub const VMX_FIRST: u32 = 19;
    pub const VMX_LAST: u32 = 27;
    pub const CONTROL_REGISTER: u32 = 28;
    pub const IO: u32 = 30;
    pub const RDMSR: u32 = 31;
    pub const WRMSR: u32 = 32;
    pub const MWAIT: u32 = 36;
    pub const MONITOR: u32 = 39;
    pub const PAUSE: u32 = 40;
    pub const EPT_VIOLATION: u32 = 48;
    pub const INVEPT: u32 = 50;
    pub const PREEMPTION_TIMER: u32 = 52;
    pub const INVVPID: u32 = 53;
    pub const WBINVD: u32 = 54;
    pub const XSETBV: u32 = 55;
    /// The entry met a machine check.
    pub const ENTRY_MACHINE_CHECK: u32 = ENTRY_FAILED | 41;
    /// Set when the entry itself failed.
    pub const ENTRY_FAILED: u32 = 1 << 31;
}

/// In interruption information: valid, has an error code, is an NMI by its type.
pub const INFO_VALID: u32 = 1 << 31;
pub const INFO_ERROR: u32 = 1 << 11;
pub const INFO_TYPE_MASK: u32 = 7 << 8;
pub const INFO_TYPE_NMI: u32 = 2 << 8;

/// Translates the exit that the current control structure describes. Control-register accesses are served before.
pub fn translate(reason: u32) -> VmExit {
    match reason {
        reason::VMCALL => VmExit::Hypercall,
        reason::EXTERNAL_INTERRUPT | reason::PREEMPTION_TIMER | reason::INIT => VmExit::ExternalInterrupt,
        reason::EXCEPTION_OR_NMI => exception(),
        reason::INTERRUPT_WINDOW | reason::NMI_WINDOW => VmExit::Window,
        reason::CPUID => VmExit::Cpuid,
        reason::HLT => VmExit::Halt,
        reason::PAUSE => VmExit::Pause,
        reason::RDMSR => VmExit::ReadMsr,
        reason::WRMSR => VmExit::WriteMsr,
        reason::EPT_VIOLATION => nested_fault(),
        reason::IO => VmExit::Io(io_access()),
        reason::XSETBV => VmExit::SetXcr,
        reason::WBINVD | reason::INVD => VmExit::CacheControl,
        // A write of CR4 exits only when it sets a bit that is not offered (see `setup::registers`).
        reason::RDPMC | reason::CONTROL_REGISTER => VmExit::Forbidden,
        reason::GETSEC
        | reason::VMX_FIRST..=reason::VMX_LAST
        | reason::INVEPT
        | reason::INVVPID
        | reason::MONITOR
        | reason::MWAIT => VmExit::Undefined,
        reason::TRIPLE_FAULT => VmExit::TripleFault,
        reason::ENTRY_MACHINE_CHECK => VmExit::Exception { vector: vector::MACHINE_CHECK, error: None },
        reason if reason & reason::ENTRY_FAILED != 0 => VmExit::InvalidState,
        reason => VmExit::Unknown(u64::from(reason)),
    }
}

fn exception() -> VmExit {
    let info = vmcs::read32(ro::VMEXIT_INTERRUPTION_INFO);
    if info & INFO_TYPE_MASK == INFO_TYPE_NMI {
        return VmExit::Nmi;
    }
    let error = (info & INFO_ERROR != 0).then(|| vmcs::read32(ro::VMEXIT_INTERRUPTION_ERR_CODE));
    VmExit::Exception { vector: info as u8, error }
}

fn nested_fault() -> VmExit {
    let qualification = vmcs::read(ro::EXIT_QUALIFICATION);
    VmExit::NestedFault(NestedFault {
        address: vmcs::read(ro::GUEST_PHYSICAL_ADDR_FULL),
        write: qualification & 1 << 1 != 0,
        fetch: qualification & 1 << 2 != 0,
        present: qualification & 7 << 3 != 0,
        // The linear address is known, and what was accessed is not its translation.
        table_walk: qualification & 1 << 7 != 0 && qualification & 1 << 8 == 0,
    })
}

fn io_access() -> IoAccess {
    let qualification = vmcs::read(ro::EXIT_QUALIFICATION);
    let string = qualification & 1 << 4 != 0;
    let information = if string { vmcs::read32(ro::VMEXIT_INSTRUCTION_INFO) } else { 0 };
    IoAccess {
        port: (qualification >> 16) as u16,
        size: (qualification & 7) as u8 + 1,
        input: qualification & 1 << 3 != 0,
        string,
        repeated: qualification & 1 << 5 != 0,
        address_size: 2 << (information >> 7 & 3).min(2),
        segment: (information >> 15 & 7) as u8,
    }
}
