//! The guest's extended state (x87, SSE, AVX, …), debug address registers and TSC_AUX: switched when another vCPU
//! comes to a CPU, not at each exit. The hypervisor is built without floating point, so between two switches the
//! registers hold the guest's values, whatever runs.
#![allow(unsafe_code)] // XSAVE and debug-register instructions.

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::instr;
use crate::xsave_area::XsaveArea;

/// Every component Ebb saves. Guests are offered no other.
static SUPPORTED_XCR0: AtomicU64 = AtomicU64::new(1);
static HAS_XSAVE: AtomicBool = AtomicBool::new(false);
static HAS_TSC_AUX: AtomicBool = AtomicBool::new(false);

/// x87, SSE, AVX.
const WANTED_XCR0: u64 = 0b111;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXSAVE: u64 = 1 << 18;
const MSR_TSC_AUX: u32 = 0xc000_0103;

/// Reads what this machine has. On the boot CPU, before any vCPU exists.
pub fn probe() {
    let cpuid = raw_cpuid::CpuId::new();
    let xsave = cpuid.get_feature_info().is_some_and(|features| features.has_xsave());
    HAS_XSAVE.store(xsave, Ordering::Relaxed);
    if xsave {
        let leaf = raw_cpuid::cpuid!(0xd, 0);
        let offered = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
        SUPPORTED_XCR0.store(offered & WANTED_XCR0, Ordering::Relaxed);
    } else {
        SUPPORTED_XCR0.store(0b11, Ordering::Relaxed);
    }
    let extended = raw_cpuid::cpuid!(0x8000_0001);
    HAS_TSC_AUX.store(extended.edx & (1 << 27) != 0, Ordering::Relaxed);
}

/// Allows the instructions used here, on this CPU.
pub fn enable_this_cpu() {
    let extra = if HAS_XSAVE.load(Ordering::Relaxed) { CR4_OSFXSR | CR4_OSXSAVE } else { CR4_OSFXSR };
    // SAFETY: OSFXSR and OSXSAVE only allow instructions; the processor has XSAVE when OSXSAVE is asked for.
    unsafe { asm!("mov {t}, cr4; or {t}, {e}; mov cr4, {t}", t = out(reg) _, e = in(reg) extra) };
    // SAFETY: clearing CR0.TS and CR0.EM lets FXSAVE and FXRSTOR run without a fault; nothing else depends on them.
    unsafe { asm!("mov {t}, cr0; and {t}, {m}; mov cr0, {t}", t = out(reg) _, m = in(reg) !0b1100u64) };
    if HAS_XSAVE.load(Ordering::Relaxed) {
        write_xcr0(supported_xcr0());
    }
}

/// Whether AVX instructions may be executed here and now: XCR0 is what the vCPU that ran last has chosen.
pub fn avx_is_on() -> bool {
    const SSE_AND_AVX: u64 = 0b110;
    supported_xcr0() & SSE_AND_AVX == SSE_AND_AVX && read_xcr0() & SSE_AND_AVX == SSE_AND_AVX
}

/// The components guests may be offered in XCR0.
pub fn supported_xcr0() -> u64 {
    SUPPORTED_XCR0.load(Ordering::Relaxed)
}

/// One vCPU's saved state.
pub struct Fpu {
    area: Box<XsaveArea>,
    /// The guest's XCR0.
    pub xcr0: u64,
    debug: [u64; 4],
    tsc_aux: u64,
}

impl Default for Fpu {
    /// The state after reset.
    fn default() -> Self {
        Self { area: Box::new(XsaveArea::after_reset()), xcr0: 1, debug: [0; 4], tsc_aux: 0 }
    }
}

impl Fpu {
    /// Puts this vCPU's registers into the CPU.
    pub fn load(&self) {
        let pointer = self.area.as_ptr();
        if HAS_XSAVE.load(Ordering::Relaxed) {
            let mask = supported_xcr0();
            write_xcr0(mask);
            // SAFETY: the area is 64-byte aligned, large enough for the components of `mask`, and was initialised or
            // written by XSAVE with the same mask; the hypervisor itself holds nothing in these registers.
            unsafe {
                asm!("xrstor64 [{p}]", p = in(reg) pointer, in("eax") mask as u32, in("edx") (mask >> 32) as u32,
                     options(nostack, readonly));
            }
            write_xcr0(self.xcr0);
        } else {
            // SAFETY: as above, in the FXSAVE format, 16-byte aligned.
            unsafe { asm!("fxrstor64 [{p}]", p = in(reg) pointer, options(nostack, readonly)) };
        }
        // SAFETY: DR7 of the host is 0, so the address registers have no effect outside the guest.
        unsafe {
            asm!("mov dr0, {0}; mov dr1, {1}; mov dr2, {2}; mov dr3, {3}",
                 in(reg) self.debug[0], in(reg) self.debug[1], in(reg) self.debug[2], in(reg) self.debug[3]);
        }
        if HAS_TSC_AUX.load(Ordering::Relaxed) {
            // SAFETY: the processor has RDTSCP, so the MSR exists; the hypervisor does not use it. Values were
            // written by a guest through the same MSR and are legal.
            unsafe { instr::wrmsr(MSR_TSC_AUX, self.tsc_aux) };
        }
    }

    /// Takes the CPU's registers into this vCPU.
    pub fn save(&mut self) {
        let pointer = self.area.as_mut_ptr();
        if HAS_XSAVE.load(Ordering::Relaxed) {
            // What the guest runs with: QEMU's emulation lets XSETBV through although it is intercepted.
            self.xcr0 = read_xcr0();
            let mask = supported_xcr0();
            write_xcr0(mask);
            // SAFETY: the area is 64-byte aligned and large enough for the components of `mask`.
            unsafe {
                asm!("xsave64 [{p}]", p = in(reg) pointer, in("eax") mask as u32, in("edx") (mask >> 32) as u32,
                     options(nostack));
            }
            self.area.mark_initial();
        } else {
            // SAFETY: as above, in the FXSAVE format.
            unsafe { asm!("fxsave64 [{p}]", p = in(reg) pointer, options(nostack)) };
        }
        // SAFETY: reading debug address registers has no effect.
        unsafe {
            let [a, b, c, d] = &mut self.debug;
            asm!(
                "mov {0}, dr0; mov {1}, dr1; mov {2}, dr2; mov {3}, dr3",
                out(reg) * a,
                out(reg) * b,
                out(reg) * c,
                out(reg) * d
            );
        }
        if HAS_TSC_AUX.load(Ordering::Relaxed) {
            // SAFETY: the MSR exists, as above.
            self.tsc_aux = unsafe { instr::rdmsr(MSR_TSC_AUX) };
        }
    }

    /// XCR0 of the vCPU that is loaded here.
    pub fn current_xcr0(&self) -> u64 {
        if HAS_XSAVE.load(Ordering::Relaxed) { read_xcr0() } else { 1 }
    }

    /// Changes XCR0 of the vCPU that is loaded here. The value has been checked against [`supported_xcr0`].
    pub fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
        write_xcr0(value);
    }
}

fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE is set (enable_this_cpu); reading changes nothing.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nostack, nomem)) };
    u64::from(low) | u64::from(high) << 32
}

fn write_xcr0(value: u64) {
    // SAFETY: OSXSAVE is set (enable_this_cpu) and `value` is a subset of what the processor offers with x87 set.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, nomem));
    }
}
