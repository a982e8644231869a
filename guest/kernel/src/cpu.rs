//! The processor's instructions that Rust lacks, each as the smallest function.
//!
//! Where an instruction can change what Rust relies on (control registers, MSRs), the function is unsafe and says what
//! the caller answers for.
#![allow(unsafe_code)] // Inline assembly.

use core::arch::asm;

/// Interrupt flag in RFLAGS.
pub const FLAG_IF: u64 = 1 << 9;

/// Switches interrupts off; were they on?
pub fn interrupts_off() -> bool {
    let flags: u64;
    // SAFETY: reading RFLAGS and CLI change no memory; masking interrupts is always allowed at ring 0.
    unsafe { asm!("pushfq", "pop {flags}", "cli", flags = out(reg) flags) };
    flags & FLAG_IF != 0
}

/// Switches interrupts on. Handlers only touch data whose locks switch interrupts off.
pub fn interrupts_on() {
    // SAFETY: the interrupt table is loaded before the first call (`interrupt::init_cpu`).
    unsafe { asm!("sti") };
}

/// Switches interrupts on and halts until one comes, without a gap between the two.
pub fn wait_for_interrupt() {
    // SAFETY: as for `interrupts_on`; HLT waits.
    unsafe { asm!("sti", "hlt") };
}

/// Halts; with interrupts off this is for ever.
pub fn halt() {
    // SAFETY: waits, nothing else.
    unsafe { asm!("hlt") };
}

/// The time-stamp counter, after all earlier loads.
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads a model-specific register.
///
/// # Safety
/// The register exists: otherwise this is a general protection fault. See `fixup::rdmsr` for one that may not.
pub unsafe fn rdmsr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: exists by the contract.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists, and the value leaves the processor in a state the kernel's code can run in.
pub unsafe fn wrmsr(number: u32, value: u64) {
    // SAFETY: by the contract.
    unsafe {
        asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reads a register.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack)) };
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The value leaves the processor in a state the kernel's code can run in.
        pub unsafe fn $write(value: u64) {
            // SAFETY: by the contract.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack)) };
        }
    };
}

control_register!(cr0, set_cr0, "cr0");
control_register!(cr3, set_cr3, "cr3");
control_register!(cr4, set_cr4, "cr4");

/// The address of the last page fault.
pub fn cr2() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack)) };
    value
}

/// Drops one page's translation from this processor's TLB.
pub fn invlpg(address: u64) {
    // SAFETY: forgetting a translation is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack)) };
}

/// Writes a byte to a port.
///
/// # Safety
/// What the device does with it harms nothing the kernel relies on.
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: by the contract.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// The frame pointer of the calling function.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) value, options(nomem, nostack)) };
    value
}
