//! Intel's virtual-machine extensions (VMX) with extended page tables (EPT).
//!
//! Needs: EPT with write-back tables of four levels, unrestricted guest, VPID, virtual NMIs, the TPR shadow, and EFER
//! and PAT switched by the control structure: every processor with unrestricted guest has them. Uses when present:
//! 1 GiB pages, accessed and dirty bits, single-context INVEPT, pause-loop exits, RDTSCP.
//! Specification: Intel SDM, volume 3, chapters 23 to 30 and appendix A.
#![allow(unsafe_code)] // VMX instructions and MSR writes, argued at each block.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ebb_core::p2m::ept::Ept;

use crate::instr;
use crate::virt::Backend;
use crate::virt::page::Page;

mod controls;
mod exit;
mod invalidate;
mod permissions;
mod run;
mod setup;
mod vcpu;
mod vmcs;

const MSR_FEATURE_CONTROL: u32 = 0x3a;
const MSR_VMX_BASIC: u32 = 0x480;
const MSR_VMX_MISC: u32 = 0x485;
const MSR_VMX_CR0_FIXED0: u32 = 0x486;
const MSR_VMX_CR0_FIXED1: u32 = 0x487;
const MSR_VMX_CR4_FIXED0: u32 = 0x488;
const MSR_VMX_CR4_FIXED1: u32 = 0x489;
const MSR_VMX_EPT_VPID_CAP: u32 = 0x48c;

/// Exits keep the control "guest in IA-32e mode": on every processor with unrestricted guest.
const MISC_STORES_LMA: u64 = 1 << 5;

const FEATURE_CONTROL_LOCKED: u64 = 1 << 0;
const FEATURE_CONTROL_VMXON: u64 = 1 << 2;

/// Bits of the EPT and VPID capabilities.
mod capability {
    pub const WALK_OF_FOUR: u64 = 1 << 6;
    pub const WRITE_BACK: u64 = 1 << 14;
    pub const PAGES_2M: u64 = 1 << 16;
    pub const PAGES_1G: u64 = 1 << 17;
    pub const INVEPT: u64 = 1 << 20;
    pub const ACCESSED_DIRTY: u64 = 1 << 21;
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    pub const INVEPT_ALL: u64 = 1 << 26;
    pub const INVVPID: u64 = 1 << 32;
    pub const INVVPID_ALL: u64 = 1 << 42;
}

static CAPABILITIES: AtomicU64 = AtomicU64::new(0);
/// The revision that each control structure starts with.
static REVISION: AtomicU32 = AtomicU32::new(0);
/// Whether interrupts must be looked for by the preemption timer: an emulator loses their exits.
static POLLED_INTERRUPTS: AtomicBool = AtomicBool::new(false);

fn has(bit: u64) -> bool {
    CAPABILITIES.load(Ordering::Relaxed) & bit != 0
}

/// A page that starts with the revision, as the processor wants its regions.
fn region() -> Box<Page> {
    let mut page = Page::zeroed();
    page.0[..4].copy_from_slice(&REVISION.load(Ordering::Relaxed).to_le_bytes());
    page
}

/// The backend.
pub struct Vmx;

impl Vmx {
    /// Whether the processor says it has VMX.
    pub fn is_present() -> bool {
        raw_cpuid::cpuid!(1).ecx & (1 << 5) != 0
    }

    /// Makes each entry arm the preemption timer, and each exit look for interrupts. Bochs does not let an interrupt end
    /// a guest that was entered with interrupts off; no real processor pays for this.
    pub fn poll_interrupts() {
        POLLED_INTERRUPTS.store(true, Ordering::Relaxed);
    }
}

impl Backend for Vmx {
    const NAME: &'static str = "Intel VMX";
    /// VMCALL.
    const HYPERCALL_INSTRUCTION: [u8; 3] = [0x0f, 0x01, 0xc1];
    /// The exit has taken it.
    const NMI_STAYS_PENDING: bool = false;
    /// Fast string operations; neither branch trace nor precise sampling.
    const MISC_ENABLE: Option<u64> = Some(1 | 1 << 11 | 1 << 12);
    type Format = Ept;
    type Vcpu = vcpu::VmxVcpu;

    fn probe() -> Result<(), &'static str> {
        if !Self::is_present() {
            return Err("this processor has no VMX");
        }
        // SAFETY: a processor with VMX has this register.
        let control = unsafe { instr::rdmsr(MSR_FEATURE_CONTROL) };
        if control & FEATURE_CONTROL_LOCKED != 0 && control & FEATURE_CONTROL_VMXON == 0 {
            return Err("VMX is switched off by the firmware");
        }
        // SAFETY: as above.
        let basic = unsafe { instr::rdmsr(MSR_VMX_BASIC) };
        REVISION.store(basic as u32 & 0x7fff_ffff, Ordering::Relaxed);
        controls::probe(basic)?;
        // SAFETY: the secondary controls that `probe` found allow EPT, so the register is there.
        let capabilities = unsafe { instr::rdmsr(MSR_VMX_EPT_VPID_CAP) };
        CAPABILITIES.store(capabilities, Ordering::Relaxed);
        if !has(capability::WALK_OF_FOUR) || !has(capability::WRITE_BACK) || !has(capability::PAGES_2M) {
            return Err("this processor has EPT without 2 MiB pages or write-back tables");
        }
        if !has(capability::INVEPT) || !(has(capability::INVEPT_SINGLE) || has(capability::INVEPT_ALL)) {
            return Err("this processor has EPT without INVEPT");
        }
        if !has(capability::INVVPID) || !has(capability::INVVPID_ALL) {
            return Err("this processor has VPID without INVVPID");
        }
        // SAFETY: a processor with VMX has this register.
        if unsafe { instr::rdmsr(MSR_VMX_MISC) } & MISC_STORES_LMA == 0 {
            return Err("this processor's VMX does not keep a guest's mode");
        }
        Ept::set_up(has(capability::PAGES_1G));
        permissions::prepare();
        Ok(())
    }

    fn enable_this_cpu() -> Result<(), &'static str> {
        // SAFETY: `probe` found VMX, so these registers exist; an unlocked FEATURE_CONTROL takes the lock bit once.
        unsafe {
            let control = instr::rdmsr(MSR_FEATURE_CONTROL);
            if control & FEATURE_CONTROL_LOCKED == 0 {
                instr::wrmsr(MSR_FEATURE_CONTROL, control | FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMXON);
            } else if control & FEATURE_CONTROL_VMXON == 0 {
                return Err("VMX is switched off by the firmware, on this processor");
            }
            let cr0 = instr::cr0() & instr::rdmsr(MSR_VMX_CR0_FIXED1) | instr::rdmsr(MSR_VMX_CR0_FIXED0);
            let cr4 = instr::cr4() & instr::rdmsr(MSR_VMX_CR4_FIXED1) | instr::rdmsr(MSR_VMX_CR4_FIXED0);
            instr::set_cr0(cr0);
            instr::set_cr4(cr4 | setup::CR4_VMXE);
        }
        // The processor keeps the region until VMXOFF, which never comes.
        let region = Box::leak(region());
        if vmcs::vmxon(crate::memory::virt_to_phys(region)) {
            invalidate::everything();
            Ok(())
        } else {
            Err("VMXON failed")
        }
    }

    fn new_vcpu() -> Option<Self::Vcpu> {
        Some(vcpu::VmxVcpu::new())
    }
}
