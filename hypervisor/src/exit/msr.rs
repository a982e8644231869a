//! RDMSR and WRMSR: what is not listed here does not exist, and faults; the first time it is said in the log.
//!
//! MTRRs are storage only: with nested paging and no devices every guest page is write-back, and the guest's PAT (in
//! the control block) decides the rest.

use core::sync::atomic::{AtomicU32, Ordering};

use ebb_core::evtchn;
use ebb_core::lapic::Fault;
use ebb_core::speculation::{GuestControls, msr as control};

use super::Context;
use crate::virt::{register, speculation};

/// Numbers, from the AMD and Intel manuals and Xen's public headers.
mod number {
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const PATCH_LEVEL: u32 = 0x8b;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const MTRR_VARIABLE: u32 = 0x200;
    pub const MTRR_VARIABLE_LAST: u32 = 0x20f;
    pub const MTRR_FIXED_64K: u32 = 0x250;
    pub const MTRR_FIXED_16K: u32 = 0x258;
    pub const MTRR_FIXED_16K_LAST: u32 = 0x259;
    pub const MTRR_FIXED_4K: u32 = 0x268;
    pub const MTRR_FIXED_4K_LAST: u32 = 0x26f;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEFAULT: u32 = 0x2ff;
    pub const X2APIC: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8ff;
    pub const HYPERCALL_PAGE: u32 = 0x4000_0000;
    pub const EFER: u32 = 0xc000_0080;
    pub const K7_PERFORMANCE: u32 = 0xc001_0000;
    pub const K7_PERFORMANCE_LAST: u32 = 0xc001_0007;
    pub const SYSTEM_CONFIGURATION: u32 = 0xc001_0010;
    pub const HARDWARE_CONFIGURATION: u32 = 0xc001_0015;
    pub const NORTHBRIDGE_CONFIGURATION: u32 = 0xc001_001f;
    pub const DECODE_CONFIGURATION: u32 = 0xc001_1029;
}

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CR0_PG: u64 = 1 << 31;
/// 8 variable ranges, fixed ranges, write-combining.
const MTRR_CAP_VALUE: u64 = 8 | 1 << 8 | 1 << 10;
/// LFENCE is serialising.
const DECODE_CONFIGURATION_VALUE: u64 = 1 << 1;

/// MSRs that are only remembered.
#[derive(Clone, Debug)]
pub struct StoredMsrs {
    variable: [u64; 16],
    fixed: [u64; 11],
    default_type: u64,
}

impl Default for StoredMsrs {
    fn default() -> Self {
        const WRITE_BACK: u64 = 0x0606_0606_0606_0606;
        Self { variable: [0; 16], fixed: [WRITE_BACK; 11], default_type: 0xc06 }
    }
}

impl StoredMsrs {
    fn slot(&mut self, msr: u32) -> Option<&mut u64> {
        Some(match msr {
            number::MTRR_VARIABLE..=number::MTRR_VARIABLE_LAST => {
                &mut self.variable[(msr - number::MTRR_VARIABLE) as usize]
            }
            number::MTRR_FIXED_64K => &mut self.fixed[0],
            number::MTRR_FIXED_16K..=number::MTRR_FIXED_16K_LAST => {
                &mut self.fixed[1 + (msr - number::MTRR_FIXED_16K) as usize]
            }
            number::MTRR_FIXED_4K..=number::MTRR_FIXED_4K_LAST => {
                &mut self.fixed[3 + (msr - number::MTRR_FIXED_4K) as usize]
            }
            number::MTRR_DEFAULT => &mut self.default_type,
            _ => return None,
        })
    }
}

/// Memory types a PAT or MTRR may name: UC, WC, WT, WP, WB, UC- (the last in a PAT only).
fn is_pat(value: u64) -> bool {
    value.to_le_bytes().into_iter().all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6 | 7))
}

impl Context<'_> {
    pub(super) fn read_msr(&mut self) {
        let msr = self.guest.hw.general(register::RCX) as u32;
        match self.msr_value(msr) {
            Ok(value) => {
                self.guest.hw.set_general(register::RAX, value & 0xffff_ffff);
                self.guest.hw.set_general(register::RDX, value >> 32);
                self.guest.hw.advance(2);
            }
            Err(fault) => {
                note_unknown("read", msr);
                self.fault(fault);
            }
        }
    }

    pub(super) fn write_msr(&mut self) {
        let hw = &self.guest.hw;
        let msr = hw.general(register::RCX) as u32;
        let value = hw.general(register::RDX) << 32 | hw.general(register::RAX) & 0xffff_ffff;
        match self.set_msr(msr, value) {
            Ok(()) => self.guest.hw.advance(2),
            Err(fault) => {
                note_unknown("write", msr);
                self.fault(fault);
            }
        }
    }

    fn msr_value(&mut self, msr: u32) -> Result<u64, Fault> {
        if let Some(slot) = self.guest.msrs.slot(msr) {
            return Ok(*slot);
        }
        Ok(match msr {
            number::X2APIC..=number::X2APIC_LAST => return self.hv.apic_msr_read(self.vcpu, msr),
            number::APIC_BASE => self.hv.apic_base(self.vcpu),
            number::EFER | number::PAT | number::DEBUGCTL => {
                self.guest.hw.read_msr(msr).ok_or(Fault::GeneralProtection(0))?
            }
            control::SPEC_CTRL if self.controls().has_spec_ctrl() => {
                self.guest.hw.read_msr(msr).ok_or(Fault::GeneralProtection(0))?
            }
            control::ARCH_CAPABILITIES => self.controls().capabilities().ok_or(Fault::GeneralProtection(0))?,
            number::TSC => crate::time::rdtsc(),
            number::MTRR_CAP => MTRR_CAP_VALUE,
            number::DECODE_CONFIGURATION => DECODE_CONFIGURATION_VALUE,
            number::MISC_ENABLE => crate::virt::any::misc_enable().ok_or(Fault::GeneralProtection(0))?,
            number::MCG_CAP
            | number::MCG_STATUS
            | number::PATCH_LEVEL
            | number::SYSTEM_CONFIGURATION
            | number::HARDWARE_CONFIGURATION
            | number::NORTHBRIDGE_CONFIGURATION
            | number::K7_PERFORMANCE..=number::K7_PERFORMANCE_LAST => 0,
            _ => return Err(Fault::GeneralProtection(0)),
        })
    }

    fn set_msr(&mut self, msr: u32, value: u64) -> Result<(), Fault> {
        if let Some(slot) = self.guest.msrs.slot(msr) {
            *slot = value;
            return Ok(());
        }
        match msr {
            number::X2APIC..=number::X2APIC_LAST => {
                self.hv.apic_msr_write(self.vcpu, msr, value)?;
                self.refresh_tpr();
            }
            number::APIC_BASE => self.hv.set_apic_base(self.vcpu, value)?,
            number::EFER => self.set_efer(value)?,
            number::PAT if is_pat(value) => {
                self.guest.hw.write_msr(msr, value);
            }
            control::SPEC_CTRL if self.controls().takes(msr, value) => {
                self.guest.hw.write_msr(msr, value);
            }
            // The barrier and the flush are the processor's, and done here and now.
            control::PRED_CMD | control::FLUSH_CMD if self.controls().takes(msr, value) => {
                speculation::command(msr, value);
            }
            number::HYPERCALL_PAGE => self.write_hypercall_page(value)?,
            // Dropped: there is nothing behind them in a guest. DEBUGCTL's features are not offered.
            number::PATCH_LEVEL
            | number::MCG_STATUS
            | number::DECODE_CONFIGURATION
            | number::HARDWARE_CONFIGURATION
            | number::NORTHBRIDGE_CONFIGURATION
            | number::K7_PERFORMANCE..=number::K7_PERFORMANCE_LAST => {}
            number::DEBUGCTL if value == 0 => {}
            number::MISC_ENABLE if crate::virt::any::misc_enable().is_some() => {}
            _ => return Err(Fault::GeneralProtection(0)),
        }
        Ok(())
    }

    /// The registers of the guest's own mitigations.
    fn controls(&self) -> &GuestControls {
        self.hv.machine.policy.speculation()
    }

    fn set_efer(&mut self, value: u64) -> Result<(), Fault> {
        let paging = self.guest.hw.paging();
        let changes_mode = (value ^ paging.efer) & EFER_LME != 0 && paging.cr0 & CR0_PG != 0;
        if value & !(self.hv.machine.policy.efer_mask() | EFER_LMA) != 0 || changes_mode {
            return Err(Fault::GeneralProtection(0));
        }
        let active = paging.efer & EFER_LMA;
        self.guest.hw.write_msr(number::EFER, value & !EFER_LMA | active);
        Ok(())
    }

    /// After the APIC's task priority may have changed: the hardware's copy follows.
    pub(super) fn refresh_tpr(&mut self) {
        let tpr = self.hv.tpr(self.vcpu);
        self.guest.hw.set_tpr(tpr);
    }

    /// Xen's hypercall page: 128 stubs of 32 bytes, each loading its number and entering the hypervisor.
    fn write_hypercall_page(&mut self, value: u64) -> Result<(), Fault> {
        /// The `iret` hypercall does not exist for these guests.
        const IRET: usize = 23;
        let mut page = [0xcc_u8; 4096];
        for (index, stub) in page.chunks_exact_mut(32).enumerate() {
            if index == IRET {
                stub[..2].copy_from_slice(&[0x0f, 0x0b]);
                continue;
            }
            stub[0] = 0xb8;
            stub[1..5].copy_from_slice(&(index as u32).to_le_bytes());
            stub[5..8].copy_from_slice(&crate::virt::any::hypercall_instruction());
            stub[8] = 0xc3;
        }
        let domain = self.vcpu.domain();
        self.hv.write_physical(domain, value & !0xfff, &page).map_err(|_| Fault::GeneralProtection(0))?;
        evtchn::latch_width(self.hv, domain, self.guest.hw.width());
        Ok(())
    }
}

/// Says once for each MSR that a guest met one that is not there.
fn note_unknown(what: &str, msr: u32) {
    const SEEN: usize = 64;
    static SEEN_MSRS: [AtomicU32; SEEN] = [const { AtomicU32::new(u32::MAX) }; SEEN];
    for slot in &SEEN_MSRS {
        match slot.compare_exchange(u32::MAX, msr, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return crate::info!("a guest's {what} of MSR {msr:#x} faults (said once)"),
            Err(present) if present == msr => return,
            Err(_) => {}
        }
    }
}
