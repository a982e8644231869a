//! The VMX instructions on control structures. Field numbers are those of the crate `x86`.
#![allow(unsafe_code)] // One instruction each.

use core::arch::asm;

/// Whether the instruction before succeeded: neither CF nor ZF.
macro_rules! vmx {
    ($instruction:literal, $address:expr) => {{
        let failed: u8;
        asm!($instruction, "setbe {failed}", failed = out(reg_byte) failed, address = in(reg) &raw const $address,
             options(nostack));
        failed == 0
    }};
}

/// Enters VMX operation with the region at physical `address`.
pub fn vmxon(address: u64) -> bool {
    // SAFETY: the region is a page with the revision that the processor keeps; CR4.VMXE is set (`enable_this_cpu`).
    unsafe { vmx!("vmxon qword ptr [{address}]", address) }
}

/// Writes what the processor holds of the structure at `address` to memory, and forgets it.
pub fn clear(address: u64) -> bool {
    // SAFETY: the structure is a page with the revision, owned by the vCPU that calls.
    unsafe { vmx!("vmclear qword ptr [{address}]", address) }
}

/// Makes the structure at `address` the current one of this CPU.
pub fn load(address: u64) -> bool {
    // SAFETY: as for `clear`; it is not active on another CPU, because `VmxVcpu::unload` cleared it there.
    unsafe { vmx!("vmptrld qword ptr [{address}]", address) }
}

/// A field of the current structure. It must be one that every processor has which `controls::probe` accepts: for another
/// the value is any.
#[inline(always)]
pub fn read(field: u32) -> u64 {
    let value: u64;
    // SAFETY: reads the current structure; for a field that does not exist the register stays as it was.
    unsafe {
        asm!("vmread {value}, {field}", value = lateout(reg) value, field = in(reg) u64::from(field), options(nostack));
    }
    value
}

/// A 32-bit field of the current structure.
#[inline(always)]
pub fn read32(field: u32) -> u32 {
    read(field) as u32
}

/// Changes a field of the current structure.
#[inline(always)]
pub fn write(field: u32, value: u64) {
    // SAFETY: the structure describes a guest, whose memory is its own, and this CPU's own state at exit, which
    // `setup::host` alone writes.
    unsafe {
        asm!("vmwrite {field}, {value}", field = in(reg) u64::from(field), value = in(reg) value, options(nostack))
    };
}

/// Changes a 32-bit field of the current structure.
#[inline(always)]
pub fn write32(field: u32, value: u32) {
    write(field, u64::from(value));
}
