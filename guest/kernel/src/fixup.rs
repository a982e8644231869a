//! Instructions that may fault, and say so instead of ending the kernel.
//!
//! Each puts a pair into the section `.ex_table`: the address of the instruction and where to go on after a fault. The
//! exception handler looks there first.
#![allow(unsafe_code)] // Faulting instructions.

use crate::interrupt::Frame;
use core::arch::asm;

unsafe extern "C" {
    static __ex_table_start: [u64; 2];
    static __ex_table_end: [u64; 2];
}

/// Moves a faulting context to its landing place, if it has one. Reports the vector in `rax` and the error code in
/// `rdx` there.
pub fn apply(frame: &mut Frame) -> bool {
    let start = &raw const __ex_table_start;
    let count = ((&raw const __ex_table_end).addr() - start.addr()) / 16;
    // SAFETY: the linker script bounds the table, which is never written.
    let table = unsafe { core::slice::from_raw_parts(start, count) };
    match table.iter().find(|[at, _]| *at == frame.rip) {
        Some([_, landing]) => {
            frame.rip = *landing;
            frame.rax = frame.vector;
            frame.rdx = frame.error;
            true
        }
        None => false,
    }
}

/// A fault: the exception's vector and error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The vector.
    pub vector: u8,
    /// The error code, 0 where there is none.
    pub error: u64,
}

macro_rules! guarded {
    ($($instruction:literal),+ ; $($operands:tt)*) => {
        asm!(
            "2:", $($instruction,)+
            "xor {faulted:e}, {faulted:e}",
            "jmp 4f",
            "3:",
            "mov {faulted:e}, 1",
            "4:",
            ".pushsection .ex_table, \"a\", @progbits",
            ".balign 8",
            ".quad 2b, 3b",
            ".popsection",
            $($operands)*
        )
    };
}

fn outcome<T>(faulted: u32, value: T, vector: u64, error: u64) -> Result<T, Fault> {
    if faulted == 0 { Ok(value) } else { Err(Fault { vector: vector as u8, error }) }
}

/// Reads an MSR that may not exist.
pub fn rdmsr(number: u32) -> Result<u64, Fault> {
    let (faulted, low, high): (u32, u64, u64);
    // SAFETY: reading an MSR changes nothing; a fault lands behind the instruction.
    unsafe {
        guarded!("rdmsr"; faulted = out(reg) faulted, in("ecx") number, out("rax") low, out("rdx") high);
    }
    outcome(faulted, high << 32 | low & 0xFFFF_FFFF, low, high)
}

/// Writes an MSR that may not exist.
///
/// # Safety
/// If the write is accepted, the value leaves the processor in a state the kernel can run in.
pub unsafe fn wrmsr(number: u32, value: u64) -> Result<(), Fault> {
    let (faulted, vector, error): (u32, u64, u64);
    // SAFETY: by the contract; a fault lands behind the instruction.
    unsafe {
        guarded!("wrmsr"; faulted = out(reg) faulted, in("ecx") number,
            inlateout("rax") value & 0xFFFF_FFFF => vector, inlateout("rdx") value >> 32 => error);
    }
    outcome(faulted, (), vector, error)
}

/// Reads 8 bytes from an address that may not be mapped.
pub fn read(address: u64) -> Result<u64, Fault> {
    let (faulted, value, error): (u32, u64, u64);
    // SAFETY: a read; a fault lands behind the instruction. What is read is only a number.
    unsafe {
        guarded!("mov rax, [{address}]"; faulted = out(reg) faulted, address = in(reg) address,
            out("rax") value, out("rdx") error);
    }
    outcome(faulted, value, value, error)
}

/// Writes 8 bytes to an address that may not be mapped.
///
/// # Safety
/// If it is mapped, nobody minds the write.
pub unsafe fn write(address: u64, value: u64) -> Result<(), Fault> {
    let (faulted, vector, error): (u32, u64, u64);
    // SAFETY: by the contract; a fault lands behind the instruction.
    unsafe {
        guarded!("mov [{address}], rax"; faulted = out(reg) faulted, address = in(reg) address,
            inlateout("rax") value => vector, out("rdx") error);
    }
    outcome(faulted, (), vector, error)
}

/// Executes an undefined instruction.
pub fn undefined() -> Result<(), Fault> {
    let (faulted, vector, error): (u32, u64, u64);
    // SAFETY: the fault lands behind the instruction.
    unsafe {
        guarded!("ud2"; faulted = out(reg) faulted, out("rax") vector, out("rdx") error);
    }
    outcome(faulted, (), vector, error)
}

/// Writes XCR0.
///
/// # Safety
/// The kernel uses no extended state, so any value that is accepted will do; tests restore it.
pub unsafe fn xsetbv(value: u64) -> Result<(), Fault> {
    let (faulted, vector, error): (u32, u64, u64);
    // SAFETY: by the contract.
    unsafe {
        guarded!("xsetbv"; faulted = out(reg) faulted, in("ecx") 0u32,
            inlateout("rax") value & 0xFFFF_FFFF => vector, inlateout("rdx") value >> 32 => error);
    }
    outcome(faulted, (), vector, error)
}

/// Writes CR4.
///
/// # Safety
/// If the write is accepted, the value leaves the processor in a state the kernel can run in.
pub unsafe fn set_cr4(value: u64) -> Result<(), Fault> {
    let (faulted, vector, error): (u32, u64, u64);
    // SAFETY: by the contract.
    unsafe {
        guarded!("mov cr4, rax"; faulted = out(reg) faulted, inlateout("rax") value => vector, out("rdx") error);
    }
    outcome(faulted, (), vector, error)
}
