//! From exit codes to the neutral [`VmExit`]. Nothing is decided here.

use super::vmcb::{ControlArea, exit};
use crate::virt::{IoAccess, NestedFault, VmExit};

/// Translates the exit that the control area describes.
pub fn translate(control: &ControlArea) -> VmExit {
    let info = control.exit_info_1;
    match control.exit_code {
        exit::VMMCALL => VmExit::Hypercall,
        exit::INTR | exit::SMI | exit::INIT => VmExit::ExternalInterrupt,
        exit::NMI => VmExit::Nmi,
        exit::VINTR | exit::IRET => VmExit::Window,
        exit::WRITE_CR4 => VmExit::WriteCr4,
        exit::CPUID => VmExit::Cpuid,
        exit::HLT => VmExit::Halt,
        exit::PAUSE => VmExit::Pause,
        exit::MSR if info & 1 == 0 => VmExit::ReadMsr,
        exit::MSR => VmExit::WriteMsr,
        exit::NESTED_FAULT => VmExit::NestedFault(NestedFault {
            address: control.exit_info_2,
            present: info & 1 != 0,
            write: info & 2 != 0,
            fetch: info & 16 != 0,
            table_walk: info & (1 << 33) != 0,
        }),
        exit::IOIO => VmExit::Io(io_access(info)),
        exit::XSETBV => VmExit::SetXcr,
        exit::WBINVD | exit::INVD => VmExit::CacheControl,
        exit::RDPMC => VmExit::Forbidden,
        exit::VMRUN | exit::SVM_FIRST..=exit::SVM_LAST | exit::INVLPGA => VmExit::Undefined,
        exit::MONITOR..=exit::MWAIT_ARMED | exit::RDPRU => VmExit::Undefined,
        exit::SHUTDOWN => VmExit::TripleFault,
        exit::INVALID => VmExit::InvalidState,
        code @ exit::EXCEPTION_FIRST..=exit::EXCEPTION_LAST => exception((code - exit::EXCEPTION_FIRST) as u8, info),
        code => VmExit::Unknown(code),
    }
}

fn exception(vector: u8, info: u64) -> VmExit {
    /// Vectors that push an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX.
    const WITH_ERROR: u32 =
        1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;
    VmExit::Exception { vector, error: (WITH_ERROR >> vector & 1 != 0).then_some(info as u32) }
}

/// EXITINFO1 of an IOIO intercept.
fn io_access(info: u64) -> IoAccess {
    let size = match info >> 4 & 7 {
        1 => 1,
        2 => 2,
        _ => 4,
    };
    let address_size = match info >> 7 & 7 {
        1 => 2,
        2 => 4,
        _ => 8,
    };
    IoAccess {
        port: (info >> 16) as u16,
        size,
        input: info & 1 != 0,
        string: info & 4 != 0,
        repeated: info & 8 != 0,
        address_size,
        segment: (info >> 10 & 7) as u8,
    }
}
