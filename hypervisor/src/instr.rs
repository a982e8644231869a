//! Privileged instructions, thin and exact, where the crate `x86` has none or drops bits (`cr0()`, `cr4()`).
//!
//! Functions are safe when no value they return or effect they have can break memory safety; the others are unsafe
//! and say what the caller must ensure.
#![allow(unsafe_code, reason = "each function is one privileged instruction")]

use core::arch::asm;

/// Reads the time-stamp counter, after earlier loads.
#[inline(always)]
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter; CR4.TSD does not matter at CPL 0.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads a model-specific register that is known to exist.
///
/// # Safety
/// The register exists (else a general-protection fault stops the machine) and reading it has no side effect that
/// matters.
#[inline(always)]
pub unsafe fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register that is known to exist.
///
/// # Safety
/// The register takes the value, and its effect keeps every promise that Rust relies on (paging, GS base, …).
#[inline(always)]
pub unsafe fn wrmsr(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack, preserves_flags)) };
}

/// Reads a model-specific register, `None` when the processor refuses.
pub fn rdmsr_safe(register: u32) -> Option<u64> {
    let (low, high, refused): (u32, u32, u32);
    // SAFETY: a fault at label 2 continues at label 4 through the fixup table (interrupts.rs), with the registers as
    // they were; reading a register changes no memory.
    unsafe {
        asm!(
            "2: rdmsr",
            "xor {refused:e}, {refused:e}",
            "jmp 5f",
            "4: mov {refused:e}, 1",
            "xor eax, eax",
            "xor edx, edx",
            "5:",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 4b",
            ".popsection",
            refused = out(reg) refused,
            in("ecx") register,
            out("eax") low,
            out("edx") high,
            options(nostack),
        );
    }
    (refused == 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register; false when the processor refuses.
///
/// # Safety
/// As for [`wrmsr`], if the write succeeds.
pub unsafe fn wrmsr_safe(register: u32, value: u64) -> bool {
    let refused: u32;
    // SAFETY: a fault at label 2 continues at label 4 through the fixup table; the rest is the caller's promise.
    unsafe {
        asm!(
            "2: wrmsr",
            "xor {refused:e}, {refused:e}",
            "jmp 5f",
            "4: mov {refused:e}, 1",
            "5:",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 4b",
            ".popsection",
            refused = out(reg) refused,
            in("ecx") register,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
    refused == 0
}

macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ", all bits.")]
        #[inline(always)]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading a control register changes nothing.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes ", $name, ", all bits.")]
        ///
        /// # Safety
        /// The value is legal and keeps code, stack and data mapped as Rust relies on.
        #[inline(always)]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's promise.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}

control_register!(cr0, set_cr0, "cr0");
control_register!(cr2, set_cr2, "cr2");
control_register!(cr3, set_cr3, "cr3");
control_register!(cr4, set_cr4, "cr4");

macro_rules! debug_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[inline(always)]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading a debug register changes nothing (DR7.GD is never set by us).
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The value is legal and arms no breakpoint that the hypervisor itself could hit.
        #[inline(always)]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's promise.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) };
        }
    };
}

debug_register!(dr0, set_dr0, "dr0");
debug_register!(dr1, set_dr1, "dr1");
debug_register!(dr2, set_dr2, "dr2");
debug_register!(dr3, set_dr3, "dr3");
debug_register!(dr6, set_dr6, "dr6");
debug_register!(dr7, set_dr7, "dr7");

/// Base addresses of the global and the interrupt descriptor table.
pub fn descriptor_table_bases() -> (u64, u64) {
    #[repr(C, packed)]
    #[derive(Default)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let (mut global, mut interrupt) = (Pointer::default(), Pointer::default());
    // SAFETY: both instructions store ten bytes at the address given.
    unsafe {
        asm!("sgdt [{g}]", "sidt [{i}]", g = in(reg) &raw mut global, i = in(reg) &raw mut interrupt,
             options(nostack, preserves_flags));
    }
    (global.base, interrupt.base)
}

/// Reads an extended control register; register 0 is XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set and the register exists.
#[inline(always)]
pub unsafe fn xgetbv(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("xgetbv", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an extended control register.
///
/// # Safety
/// CR4.OSXSAVE is set and the value is one the processor takes (XCR0: bit 0 set, known bits, AVX with SSE, …).
#[inline(always)]
pub unsafe fn xsetbv(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller's promise; the hypervisor itself uses no extended state.
    unsafe { asm!("xsetbv", in("ecx") register, in("eax") low, in("edx") high, options(nomem, nostack)) };
}

/// Saves the extended state of `mask` into `area`.
///
/// # Safety
/// `area` is 64-byte aligned and large enough for the state in `mask & XCR0`; CR4.OSXSAVE is set.
#[inline(always)]
pub unsafe fn xsave(area: *mut u8, mask: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xsave64 [{}]", in(reg) area, in("eax") mask as u32, in("edx") (mask >> 32) as u32, options(nostack))
    };
}

/// Loads the extended state of `mask` from `area`; false when the processor finds it malformed.
///
/// # Safety
/// `area` is 64-byte aligned and large enough for `mask & XCR0`; CR4.OSXSAVE is set. The hypervisor is soft-float, so
/// no Rust value lives in those registers.
pub unsafe fn xrstor_safe(area: *const u8, mask: u64) -> bool {
    let refused: u32;
    // SAFETY: the caller's promise; a fault at label 2 continues at label 4.
    unsafe {
        asm!(
            "2: xrstor64 [{area}]",
            "xor {refused:e}, {refused:e}",
            "jmp 5f",
            "4: mov {refused:e}, 1",
            "5:",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 4b",
            ".popsection",
            area = in(reg) area,
            refused = out(reg) refused,
            in("eax") mask as u32,
            in("edx") (mask >> 32) as u32,
            options(nostack),
        );
    }
    refused == 0
}

/// Writes back and invalidates all caches.
#[inline(always)]
pub fn wbinvd() {
    // SAFETY: no architectural state changes.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// Drops the translation of one page of the hypervisor's own address space.
#[inline(always)]
pub fn invlpg(address: u64) {
    // SAFETY: forgetting a cached translation is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Disables interrupts.
#[inline(always)]
pub fn cli() {
    // SAFETY: off is the hypervisor's normal state.
    unsafe { asm!("cli", options(nomem, nostack)) };
}

/// True when interrupts are enabled.
#[inline(always)]
pub fn interrupts_enabled() -> bool {
    rflags() & (1 << 9) != 0
}

/// Reads RFLAGS.
#[inline(always)]
pub fn rflags() -> u64 {
    let value: u64;
    // SAFETY: pushes and pops one word of this function's own stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) value, options(preserves_flags)) };
    value
}

/// Opens the interrupt window for one instruction, so that what is pending is taken now.
#[inline(always)]
pub fn take_interrupts() {
    // SAFETY: the handlers only note what happened (interrupts.rs) and return here.
    unsafe { asm!("sti", "nop", "cli") };
}

/// Waits for an interrupt: `sti; hlt; cli`, without a gap between enabling and halting.
#[inline(always)]
pub fn wait_for_interrupt() {
    // SAFETY: as for `take_interrupts`; STI's shadow covers HLT, so an interrupt cannot slip in between.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Executes so many instructions, and always the same few more.
#[inline(never)]
pub fn execute(instructions: u64) {
    // SAFETY: counts a register down. An odd number has the NOP, every two are a turn of the loop.
    unsafe {
        asm!("shr {n}, 1", "jnc 2f", "nop", "2:", "test {n}, {n}", "jz 4f", "3:", "dec {n}", "jnz 3b", "4:",
             n = inout(reg) instructions => _, options(nomem, nostack));
    }
}

/// Stops this processor for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: with interrupts off only an NMI or SMI resumes, and then the loop halts again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Reads a byte from an I/O port.
///
/// # Safety
/// Reading the port has no effect on memory or on devices in use by others.
#[inline(always)]
pub unsafe fn inb(port: u16) -> u8 {
    // SAFETY: the caller's promise.
    unsafe { x86::io::inb(port) }
}

/// Reads 16 bits from an I/O port.
///
/// # Safety
/// As for [`inb`].
#[inline(always)]
pub unsafe fn inw(port: u16) -> u16 {
    // SAFETY: the caller's promise.
    unsafe { x86::io::inw(port) }
}

/// Reads 32 bits from an I/O port.
///
/// # Safety
/// As for [`inb`].
#[inline(always)]
pub unsafe fn inl(port: u16) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { x86::io::inl(port) }
}

/// Writes a byte to an I/O port.
///
/// # Safety
/// The device behind the port does nothing that breaks memory safety.
#[inline(always)]
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { x86::io::outb(port, value) }
}

/// Writes 16 bits to an I/O port.
///
/// # Safety
/// As for [`outb`].
#[inline(always)]
pub unsafe fn outw(port: u16, value: u16) {
    // SAFETY: the caller's promise.
    unsafe { x86::io::outw(port, value) }
}

/// Writes 32 bits to an I/O port.
///
/// # Safety
/// As for [`outb`].
#[inline(always)]
pub unsafe fn outl(port: u16, value: u32) {
    // SAFETY: the caller's promise.
    unsafe { x86::io::outl(port, value) }
}
