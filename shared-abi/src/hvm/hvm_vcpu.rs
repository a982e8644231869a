//! `hvm/hvm_vcpu.h`: the registers with which `VCPUOP_initialise` starts a vCPU.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// `VCPU_HVM_MODE_32B`: the registers are an [`X86_32`].
pub const MODE_32B: u32 = 0;
/// `VCPU_HVM_MODE_64B`: the registers are an [`X86_64`].
pub const MODE_64B: u32 = 1;

/// `struct vcpu_hvm_x86_32`: registers of a vCPU that starts in 16- or 32-bit mode.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct X86_32 {
    /// Register.
    pub eax: u32,
    /// Register.
    pub ecx: u32,
    /// Register.
    pub edx: u32,
    /// Register.
    pub ebx: u32,
    /// Register.
    pub esp: u32,
    /// Register.
    pub ebp: u32,
    /// Register.
    pub esi: u32,
    /// Register.
    pub edi: u32,
    /// Register.
    pub eip: u32,
    /// Register.
    pub eflags: u32,
    /// Register.
    pub cr0: u32,
    /// Register.
    pub cr3: u32,
    /// Register.
    pub cr4: u32,
    /// Padding.
    pub pad1: u32,
    /// EFER.
    pub efer: u64,
    /// Segment base.
    pub cs_base: u32,
    /// Segment base.
    pub ds_base: u32,
    /// Segment base.
    pub ss_base: u32,
    /// Segment base.
    pub es_base: u32,
    /// Segment base.
    pub tr_base: u32,
    /// Segment limit.
    pub cs_limit: u32,
    /// Segment limit.
    pub ds_limit: u32,
    /// Segment limit.
    pub ss_limit: u32,
    /// Segment limit.
    pub es_limit: u32,
    /// Segment limit.
    pub tr_limit: u32,
    /// Segment attributes: bits 0-7 and 8-11 as in a descriptor's.
    pub cs_ar: u16,
    /// Segment attributes: bits 0-7 and 8-11 as in a descriptor's.
    pub ds_ar: u16,
    /// Segment attributes: bits 0-7 and 8-11 as in a descriptor's.
    pub ss_ar: u16,
    /// Segment attributes: bits 0-7 and 8-11 as in a descriptor's.
    pub es_ar: u16,
    /// Segment attributes: bits 0-7 and 8-11 as in a descriptor's.
    pub tr_ar: u16,
    /// Padding.
    pub pad2: [u16; 3],
}

/// `struct vcpu_hvm_x86_64`: registers of a vCPU that starts in 64-bit mode, with flat segments.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct X86_64 {
    /// Register.
    pub rax: u64,
    /// Register.
    pub rcx: u64,
    /// Register.
    pub rdx: u64,
    /// Register.
    pub rbx: u64,
    /// Register.
    pub rsp: u64,
    /// Register.
    pub rbp: u64,
    /// Register.
    pub rsi: u64,
    /// Register.
    pub rdi: u64,
    /// Register.
    pub rip: u64,
    /// Register.
    pub rflags: u64,
    /// Register.
    pub cr0: u64,
    /// Register.
    pub cr3: u64,
    /// Register.
    pub cr4: u64,
    /// Register.
    pub efer: u64,
}

/// `struct vcpu_hvm_context`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HvmContext {
    /// `VCPU_HVM_MODE_*`.
    pub mode: u32,
    /// Must be 0.
    pub pad: u32,
    /// The union: see the accessors.
    pub cpu_regs: [u64; 15],
}

impl HvmContext {
    /// A context that starts in 16- or 32-bit mode.
    pub fn new_32(registers: &X86_32) -> Self {
        let mut context = Self::new_zeroed();
        context.mode = MODE_32B;
        context.cpu_regs.as_mut_bytes().copy_from_slice(registers.as_bytes());
        context
    }

    /// A context that starts in 64-bit mode.
    pub fn new_64(registers: &X86_64) -> Self {
        let mut context = Self::new_zeroed();
        context.mode = MODE_64B;
        context.cpu_regs.as_mut_bytes()[..size_of::<X86_64>()].copy_from_slice(registers.as_bytes());
        context
    }

    /// The registers, when the mode is 32-bit.
    pub fn as_32(&self) -> Option<X86_32> {
        (self.mode == MODE_32B).then(|| zerocopy::transmute!(self.cpu_regs))
    }

    /// The registers, when the mode is 64-bit.
    pub fn as_64(&self) -> Option<X86_64> {
        if self.mode != MODE_64B {
            return None;
        }
        X86_64::read_from_prefix(self.cpu_regs.as_bytes()).ok().map(|(registers, _)| registers)
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<X86_32>() == 120);
    assert!(offset_of!(X86_32, efer) == 56);
    assert!(offset_of!(X86_32, cs_base) == 64);
    assert!(offset_of!(X86_32, cs_limit) == 84);
    assert!(offset_of!(X86_32, cs_ar) == 104);
    assert!(size_of::<X86_64>() == 112);
    assert!(size_of::<HvmContext>() == 128);
    assert!(offset_of!(HvmContext, cpu_regs) == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_round_trip_by_mode() {
        let narrow = X86_32 { eip: 0x1000, tr_ar: 0x8b, ..Default::default() };
        let wide = X86_64 { rip: 0xffff_8000_0000_1000, efer: 0x500, ..Default::default() };
        assert_eq!(HvmContext::new_32(&narrow).as_32(), Some(narrow));
        assert_eq!(HvmContext::new_32(&narrow).as_64(), None);
        assert_eq!(HvmContext::new_64(&wide).as_64(), Some(wide));
        assert_eq!(HvmContext::new_64(&wide).as_32(), None);
        assert_eq!(HvmContext { mode: 7, ..Default::default() }.as_64(), None);
    }
}
