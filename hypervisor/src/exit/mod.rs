//! Exits: what a neutral [`VmExit`] leads to. Vendor code has translated, the core decides what is policy; here are
//! the instructions that are emulated: CPUID, MSRs, CR4, ports, accesses to memory that is not there.
//!
//! Everything a guest can reach ends in its own registers, in an exception for it, or in its own end.

use ebb_core::hypercall::{Next, Width};
use ebb_core::lapic::Fault;
use ebb_core::{Hypervisor, VcpuRef, lifecycle, sched};

use crate::glue::Glue;
use crate::virt::{IoAccess, NestedFault, VirtualCpu, VmExit, register, vector};

mod control;
mod cpuid;
mod instruction;
mod io;
mod mmio;
pub mod msr;

pub use instruction::prepare;

const RFLAGS_IF: u64 = 1 << 9;

/// A vCPU's state, claimed by this CPU.
pub struct Guest<'a> {
    /// Registers and control block.
    pub hw: &'a mut dyn VirtualCpu,
    /// MSRs that are only remembered.
    pub msrs: &'a mut msr::StoredMsrs,
}

/// An exit in progress: the hypervisor, the vCPU, and its state on this CPU.
pub struct Context<'a> {
    /// The hypervisor.
    pub hv: &'a Hypervisor<Glue>,
    /// The vCPU that exited.
    pub vcpu: &'a VcpuRef<Glue>,
    /// Its state.
    pub guest: Guest<'a>,
}

/// Serves one exit. The hypercall of 64-bit code is the path that everything is measured by: it is inline in the loop of
/// the CPU, and compiled for each vendor; all else is a call away, and compiled once.
#[inline]
pub fn handle<C: VirtualCpu>(
    hv: &Hypervisor<Glue>,
    vcpu: &VcpuRef<Glue>,
    hw: &mut C,
    msrs: &mut msr::StoredMsrs,
    exit: VmExit,
) {
    match exit {
        VmExit::Hypercall if hw.width() == Width::Bits64 => {
            let registers = [register::RDI, register::RSI, register::RDX, register::R10, register::R8];
            hypercall(hv, vcpu, hw, Width::Bits64, registers);
        }
        VmExit::Hypercall => narrow_hypercall(hv, vcpu, hw),
        VmExit::Cpuid => cpuid::answer(hv, vcpu, hw),
        VmExit::Halt => {
            let enabled = hw.rflags() & RFLAGS_IF != 0;
            hw.advance(1);
            hv.halt(vcpu, enabled);
        }
        // Served by the way back into the loop.
        VmExit::ExternalInterrupt | VmExit::Window => {}
        other => Context { hv, vcpu, guest: Guest { hw, msrs } }.other(other),
    }
}

#[inline(never)]
fn narrow_hypercall<C: VirtualCpu>(hv: &Hypervisor<Glue>, vcpu: &VcpuRef<Glue>, hw: &mut C) {
    let registers = [register::RBX, register::RCX, register::RDX, register::RSI, register::RDI];
    hypercall(hv, vcpu, hw, Width::Bits32, registers);
}

/// A hypercall whose arguments are in `registers`.
#[inline(always)]
fn hypercall<C: VirtualCpu>(
    hv: &Hypervisor<Glue>,
    vcpu: &VcpuRef<Glue>,
    hw: &mut C,
    width: Width,
    registers: [usize; 5],
) {
    let args = registers.map(|number| hw.general(number));
    match hv.hypercall(vcpu, hw.general(register::RAX), args, width, hw.paging()) {
        Next::Return(value) => {
            let value = if width == Width::Bits64 { value as u64 } else { value as u64 & 0xffff_ffff };
            hw.set_general(register::RAX, value);
            hw.advance(3);
        }
        Next::Again(args) => {
            for (number, value) in registers.into_iter().zip(args) {
                hw.set_general(number, value);
            }
        }
    }
}

impl Context<'_> {
    /// Serves one exit that is no hypercall.
    #[inline(never)]
    fn other(&mut self, exit: VmExit) {
        match exit {
            // `handle` has served these.
            VmExit::Hypercall | VmExit::Cpuid | VmExit::Halt | VmExit::ExternalInterrupt | VmExit::Window => {}
            VmExit::Nmi if crate::virt::any::nmi_is_pending() => {}
            VmExit::Nmi => crate::nmi::taken(None),
            VmExit::Pause => {
                self.guest.hw.advance(2);
                let window = sched::pause::pause_exit(self.hv, self.vcpu);
                self.guest.hw.set_pause_window(window);
            }
            VmExit::ReadMsr => self.read_msr(),
            VmExit::WriteMsr => self.write_msr(),
            VmExit::SetXcr => self.set_xcr(),
            VmExit::WriteCr4 => control::write_cr4(self),
            VmExit::CacheControl => self.guest.hw.advance(2),
            VmExit::Undefined => self.guest.hw.inject_exception(vector::UNDEFINED_OPCODE, None),
            VmExit::Forbidden => self.fault(Fault::GeneralProtection(0)),
            VmExit::Io(access) => self.io(access),
            VmExit::NestedFault(fault) => self.nested_fault(fault),
            VmExit::Exception { vector: vector::MACHINE_CHECK, .. } => crate::machine_check::exception(None),
            VmExit::Exception { vector, error } => self.guest.hw.inject_exception(vector, error),
            VmExit::TripleFault => self.triple_fault(),
            VmExit::InvalidState | VmExit::Unknown(_) => self.unexpected(exit),
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::GeneralProtection(code) => {
                self.guest.hw.inject_exception(vector::GENERAL_PROTECTION, Some(code));
            }
            Fault::UndefinedOpcode => self.guest.hw.inject_exception(vector::UNDEFINED_OPCODE, None),
        }
    }

    fn set_xcr(&mut self) {
        let hw = &mut self.guest.hw;
        let value = hw.general(register::RDX) << 32 | hw.general(register::RAX) & 0xffff_ffff;
        let index = hw.general(register::RCX) as u32;
        if hw.paging().cpl != 0 || index != 0 || !self.hv.machine.policy.xcr0_is_valid(value) {
            return self.fault(Fault::GeneralProtection(0));
        }
        hw.set_xcr0(value);
        hw.advance(3);
    }

    /// The vCPU's registers, in lines of text.
    fn report(&self) -> alloc::string::String {
        let mut report = alloc::string::String::new();
        // Formatting into a string cannot fail.
        let _ = self.guest.hw.describe(&mut report);
        report
    }

    /// The domain ends; whoever looks for the reason in its kernel needs the registers.
    #[cold]
    fn triple_fault(&mut self) {
        crate::info!("d{}v{}: {}", self.vcpu.domain().id.0, self.vcpu.id.0, self.report());
        lifecycle::triple_fault(self.hv, self.vcpu);
    }

    /// An exit nobody should see: the domain ends, the report says what was there.
    #[cold]
    fn unexpected(&mut self, exit: VmExit) {
        let domain = self.vcpu.domain();
        crate::error!("d{}v{}: {:?}\n{}", domain.id.0, self.vcpu.id.0, exit, self.report());
        lifecycle::crash(self.hv, domain, format_args!("an exit that cannot be served"));
    }

    fn io(&mut self, access: IoAccess) {
        io::access(self, access);
    }

    fn nested_fault(&mut self, fault: NestedFault) {
        mmio::nested_fault(self, fault);
    }
}
