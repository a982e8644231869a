//! The trap into the hypervisor.
//!
//! Either the hypercall page, which the hypervisor fills with the right instruction for the processor (Xen's documented
//! way), or VMCALL and VMMCALL themselves. Registers: number in `rax`, arguments in `rdi rsi rdx r10 r8`, result in
//! `rax`. Xen's debug builds destroy the argument registers, so all are given up.
#![allow(unsafe_code)] // A hypercall is an instruction that Rust does not have.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU8, Ordering};
use shared_abi::xen::Errno;
use zerocopy::{FromBytes, IntoBytes};

/// How hypercalls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Gate {
    /// Through the page that the hypervisor filled.
    Page = 1,
    /// By the Intel instruction.
    Vmcall = 2,
    /// By the AMD instruction.
    Vmmcall = 3,
}

/// 0 until hypercalls are possible, then a [`Gate`].
static GATE: AtomicU8 = AtomicU8::new(0);

// The hypercall page: 4 KiB of code that the hypervisor writes. Until then it answers with `ret`.
global_asm!(
    ".pushsection .hypercall_page, \"ax\", @progbits",
    ".balign 4096",
    ".hidden ebb_guest_hypercall_page",
    ".global ebb_guest_hypercall_page",
    "ebb_guest_hypercall_page:",
    ".fill 4096, 1, 0xc3",
    ".popsection",
);

unsafe extern "C" {
    static ebb_guest_hypercall_page: u8;
}

/// Bytes of one call's stub in the hypercall page.
const STUB: u64 = 32;

/// The address of the hypercall page in the kernel's address space.
pub fn page_address() -> u64 {
    (&raw const ebb_guest_hypercall_page).addr() as u64
}

/// Has the kernel opened a gate?
pub fn is_open() -> bool {
    GATE.load(Ordering::Relaxed) != 0
}

/// The gate in use.
pub fn gate() -> Option<Gate> {
    match GATE.load(Ordering::Relaxed) {
        1 => Some(Gate::Page),
        2 => Some(Gate::Vmcall),
        3 => Some(Gate::Vmmcall),
        _ => None,
    }
}

/// Makes hypercalls by an instruction.
///
/// # Safety
/// The processor runs under a hypervisor with Xen's ABI which takes this instruction as a hypercall.
pub unsafe fn open(gate: Gate) {
    GATE.store(gate as u8, Ordering::Release);
}

/// Has the hypervisor fill the hypercall page and makes hypercalls through it.
///
/// # Safety
/// `msr` is the one that the hypervisor's CPUID leaf 2 names, the caller runs at ring 0, `physical` is where the page at
/// [`page_address`] lies, and that page is executable.
pub unsafe fn open_page(msr: u32, physical: u64) {
    // SAFETY: per the contract this MSR write only fills the hypercall page.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") physical as u32, in("edx") (physical >> 32) as u32,
             options(nostack));
    }
    GATE.store(Gate::Page as u8, Ordering::Release);
}

/// Makes a hypercall with up to five arguments.
///
/// # Safety
/// The call with these arguments must not change memory or mappings that the kernel relies on in another way than
/// it expects: addresses in arguments, and in structures they point to, are valid for what the call does with them.
pub unsafe fn call(number: u32, args: [u64; 5]) -> Result<i64, Errno> {
    // SAFETY: the caller's contract.
    Errno::from_return(unsafe { raw(number, args) })
}

/// As [`call`], with the bare result register.
///
/// # Safety
/// As for [`call`].
pub unsafe fn raw(number: u32, args: [u64; 5]) -> i64 {
    let result: u64;
    let gate = GATE.load(Ordering::Relaxed);
    macro_rules! trap {
        ($($instruction:tt)*) => {
            asm!($($instruction)*,
                inlateout("rax") u64::from(number) => result,
                inlateout("rdi") args[0] => _, inlateout("rsi") args[1] => _, inlateout("rdx") args[2] => _,
                inlateout("r10") args[3] => _, inlateout("r8") args[4] => _, lateout("r9") _,
                lateout("rcx") _, lateout("r11") _)
        };
    }
    if gate == Gate::Page as u8 {
        let stub = page_address() + u64::from(number) * STUB;
        if number >= 4096 / STUB as u32 {
            return Errno::ENOSYS.to_return();
        }
        // SAFETY: the hypervisor filled the page; the stub traps and returns. The memory effects are the caller's
        // contract; the compiler takes all memory as changed.
        unsafe {
            asm!("call {stub}", stub = in(reg) stub,
                inlateout("rax") u64::from(number) => result,
                inlateout("rdi") args[0] => _, inlateout("rsi") args[1] => _, inlateout("rdx") args[2] => _,
                inlateout("r10") args[3] => _, inlateout("r8") args[4] => _, out("r9") _,
                out("rcx") _, out("r11") _);
        }
    } else if gate == Gate::Vmmcall as u8 {
        // SAFETY: `open` was told that this is how the hypervisor is called; effects as above.
        unsafe { trap!("vmmcall") };
    } else if gate == Gate::Vmcall as u8 {
        // SAFETY: as above.
        unsafe { trap!("vmcall") };
    } else {
        return Errno::ENOSYS.to_return();
    }
    result as i64
}

/// A call with a command and one structure, which holds no handle: only the structure itself is read and written.
pub(crate) fn command<T: IntoBytes + FromBytes>(number: u32, command: u64, argument: &mut T) -> Result<i64, Errno> {
    let address = core::ptr::from_mut(argument).addr() as u64;
    // The address is exposed so that the hypervisor's writes are ones the compiler knows of.
    let _ = core::ptr::from_mut(argument).expose_provenance();
    // SAFETY: the calls this crate makes through here read and write `argument` only, which is exclusively borrowed,
    // and any bit pattern is a value of it.
    unsafe { call(number, [command, address, 0, 0, 0]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_answers_enosys() {
        assert!(!is_open());
        // SAFETY: no gate is open, so nothing is called.
        assert_eq!(unsafe { call(17, [0; 5]) }, Err(Errno::ENOSYS));
    }
}
