//! The memory image of a vCPU's extended state: x87, SSE and AVX in XSAVE's standard format, whose first part is
//! FXSAVE's format.
//!
//! Specification: AMD64 APM volume 2, "Extended State Management".

use core::ops::Range;

/// Bytes for the components x87, SSE and AVX.
const SIZE: usize = 832;
/// XSTATE_BV: which components the area holds; the others are in their initial state.
const XSTATE_BV: usize = 512;
const X87: u8 = 1 << 0;
const SSE: u8 = 1 << 1;
/// FCW, FSW, FTW, FOP, FIP, FDP.
const X87_CONTROL: Range<usize> = 0..24;
/// MXCSR stands between.
const MXCSR: Range<usize> = 24..28;
const X87_REGISTERS: Range<usize> = 32..160;

const X87_INITIAL_CONTROL: [u8; 24] = {
    let mut bytes = [0; 24];
    [bytes[0], bytes[1]] = 0x37fu16.to_le_bytes();
    bytes
};

/// What XSAVE or FXSAVE writes and XRSTOR or FXRSTOR reads.
#[repr(C, align(64))]
pub struct XsaveArea([u8; SIZE]);

impl XsaveArea {
    /// The state after reset, for both ways to restore it.
    #[must_use]
    pub fn after_reset() -> Self {
        let mut area = Self([0; SIZE]);
        area.0[X87_CONTROL].copy_from_slice(&X87_INITIAL_CONTROL);
        area.0[MXCSR].copy_from_slice(&0x1f80u32.to_le_bytes());
        area.0[XSTATE_BV] = SSE;
        area
    }

    /// For the restoring instruction.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    /// For the saving instruction.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    /// After XSAVE: says of x87 registers in their initial state that they are, as processors do by themselves.
    ///
    /// QEMU's emulation (7.2 at least) says it of none, and its XRSTOR of x87 registers from memory, on any CPU,
    /// writes the boot CPU's SVM flags back without a lock (`cpu_clear_ignne`). That CPU may then lose its global
    /// interrupt flag, or walk the host's page tables as a guest's. Guests hardly use x87: this keeps nearly all
    /// switches from it.
    pub fn mark_initial(&mut self) {
        if self.0[XSTATE_BV] & X87 != 0 && self.x87_is_initial() {
            self.0[XSTATE_BV] &= !X87;
        }
    }

    fn x87_is_initial(&self) -> bool {
        self.0[X87_CONTROL] == X87_INITIAL_CONTROL && self.0[X87_REGISTERS] == [0; 128]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> XsaveArea {
        let mut area = XsaveArea::after_reset();
        area.0[XSTATE_BV] = 0b111;
        area
    }

    #[test]
    fn initial_x87_registers_are_said_to_be() {
        let mut area = saved();
        area.mark_initial();
        assert_eq!(area.0[XSTATE_BV], 0b110);
    }

    #[test]
    fn every_byte_of_x87_counts_and_no_other_does() {
        for byte in (0..SIZE).filter(|byte| *byte != XSTATE_BV) {
            let mut area = saved();
            area.0[byte] ^= 0x20;
            area.mark_initial();
            let x87 = X87_CONTROL.contains(&byte) || X87_REGISTERS.contains(&byte);
            assert_eq!(area.0[XSTATE_BV], if x87 { 0b111 } else { 0b110 }, "byte {byte}");
        }
    }
}
