//! AMD's secure virtual machine (SVM) with nested paging.
//!
//! Needs: SVM, nested paging. Uses when present: next-RIP save, decode assists, flush by ASID, clean bits, pause
//! filter, virtual SPEC_CTRL. Specification: AMD64 Architecture Programmer's Manual, volume 2, chapter 15.
#![allow(unsafe_code)] // MSR writes and the host save area, argued at each block.

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ebb_core::p2m::npt::Npt;

use crate::cpu::{MAX_CPUS, this_cpu};
use crate::options::options;
use crate::virt::page::Page;
use crate::virt::{Backend, asid};
use crate::{instr, memory};

mod event;
mod exit;
mod permissions;
mod run;
mod vcpu;
mod vmcb;

const MSR_EFER: u32 = 0xc000_0080;
const MSR_VM_CR: u32 = 0xc001_0114;
const MSR_VM_HSAVE_PA: u32 = 0xc001_0117;
const EFER_SVME: u64 = 1 << 12;
const VM_CR_SVMDIS: u64 = 1 << 4;

/// Optional features, as bits of CPUID 8000_000A EDX.
mod feature {
    pub const NESTED_PAGING: u32 = 1 << 0;
    pub const NEXT_RIP: u32 = 1 << 3;
    pub const CLEAN_BITS: u32 = 1 << 5;
    pub const FLUSH_BY_ASID: u32 = 1 << 6;
    pub const DECODE_ASSISTS: u32 = 1 << 7;
    pub const PAUSE_FILTER: u32 = 1 << 10;
    pub const PAUSE_THRESHOLD: u32 = 1 << 12;
    pub const VIRTUAL_SPEC_CTRL: u32 = 1 << 20;
}

static FEATURES: AtomicU32 = AtomicU32::new(0);
/// Physical addresses of each CPU's host block for VMSAVE and VMLOAD.
static HOST_BLOCKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// QEMU's own emulation is the processor; see [`vcpu::SvmVcpu`] for what of it is worked around.
static EMULATED_BY_QEMU: AtomicBool = AtomicBool::new(false);

fn is_emulated_by_qemu() -> bool {
    EMULATED_BY_QEMU.load(Ordering::Relaxed)
}

fn has(bit: u32) -> bool {
    FEATURES.load(Ordering::Relaxed) & bit != 0
}

fn host_block() -> u64 {
    HOST_BLOCKS[usize::from(this_cpu().id().0)].load(Ordering::Relaxed)
}

/// The backend.
pub struct Svm;

impl Svm {
    /// Whether `rip` is in the world switch, where an NMI that ended a guest is taken.
    pub fn is_world_switch(rip: u64) -> bool {
        (run::svm_run as *const () as u64..run::svm_run_end as *const () as u64).contains(&rip)
    }
}

impl Backend for Svm {
    const NAME: &'static str = "AMD SVM";
    /// VMMCALL.
    const HYPERCALL_INSTRUCTION: [u8; 3] = [0x0f, 0x01, 0xd9];
    const NMI_STAYS_PENDING: bool = true;
    const MISC_ENABLE: Option<u64> = None;
    type Format = Npt;
    type Vcpu = vcpu::SvmVcpu;

    fn probe() -> Result<(), &'static str> {
        let extended = raw_cpuid::cpuid!(0x8000_0000).eax;
        if extended < 0x8000_000a || raw_cpuid::cpuid!(0x8000_0001).ecx & (1 << 2) == 0 {
            return Err("this processor has no SVM");
        }
        let svm = raw_cpuid::cpuid!(0x8000_000a);
        if svm.edx & feature::NESTED_PAGING == 0 {
            return Err("this processor has SVM without nested paging");
        }
        if instr::rdmsr_safe(MSR_VM_CR).is_some_and(|value| value & VM_CR_SVMDIS != 0) {
            return Err("SVM is switched off by the firmware");
        }
        let unwanted = if options().no_pause_exits { feature::PAUSE_FILTER } else { 0 };
        FEATURES.store(svm.edx & !unwanted, Ordering::Relaxed);
        let below = raw_cpuid::CpuId::new().get_hypervisor_info();
        let qemu = below.is_some_and(|below| below.identify() == raw_cpuid::Hypervisor::QEMU);
        EMULATED_BY_QEMU.store(qemu, Ordering::Relaxed);
        asid::set_count(svm.ebx);
        permissions::prepare();
        Ok(())
    }

    fn enable_this_cpu() -> Result<(), &'static str> {
        let save = Box::leak(Page::zeroed());
        let host = Box::leak(Page::zeroed());
        let host_address = memory::virt_to_phys(host.0.as_ptr());
        // SAFETY: `probe` found SVM; the save area is a page of our own that is never freed; VMSAVE writes the host's
        // FS, GS, TR, LDTR and SYSCALL state into another such page.
        unsafe {
            instr::wrmsr(MSR_EFER, instr::rdmsr(MSR_EFER) | EFER_SVME);
            instr::wrmsr(MSR_VM_HSAVE_PA, memory::virt_to_phys(save.0.as_ptr()));
            asm!("vmsave rax", in("rax") host_address, options(nostack));
        }
        HOST_BLOCKS[usize::from(this_cpu().id().0)].store(host_address, Ordering::Relaxed);
        Ok(())
    }

    fn new_vcpu() -> Option<Self::Vcpu> {
        Some(vcpu::SvmVcpu::new())
    }
}
