//! The memory image of a vCPU's extended state: x87, SSE and AVX in XSAVE's standard format, whose first part is
//! FXSAVE's format.
//!
//! Specification: AMD64 APM volume 2, "Extended State Management".

use core::ops::Range;

/// 64-bit words for the components x87, SSE and AVX.
const WORDS: usize = 832 / 8;
/// XSTATE_BV: which components the area holds; the others are in their initial state.
const XSTATE_BV: usize = 512 / 8;
const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
/// FCW, FSW, FTW, FOP, FIP, FDP; the initial FCW is all that is not zero.
const X87_CONTROL: Range<usize> = 0..3;
const INITIAL_FCW: u64 = 0x37f;
/// With its mask.
const MXCSR: usize = 3;
const INITIAL_MXCSR: u64 = 0x1f80;
const X87_REGISTERS: Range<usize> = 4..20;

/// What XSAVE or FXSAVE writes and XRSTOR or FXRSTOR reads.
#[repr(C, align(64))]
pub struct XsaveArea([u64; WORDS]);

impl XsaveArea {
    /// The state after reset, for both ways to restore it.
    #[must_use]
    pub fn after_reset() -> Self {
        let mut area = Self([0; WORDS]);
        area.0[X87_CONTROL.start] = INITIAL_FCW;
        area.0[MXCSR] = INITIAL_MXCSR;
        area.0[XSTATE_BV] = SSE;
        area
    }

    /// For the restoring instruction.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    /// For the saving instruction.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
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

    /// Folded and not compared range by range: it is at each switch, and a comparison would be a call.
    fn x87_is_initial(&self) -> bool {
        let any_bit = |words: &[u64]| words.iter().fold(0, |bits, word| bits | word);
        let control = &self.0[X87_CONTROL];
        (control[0] ^ INITIAL_FCW) | any_bit(&control[1..]) | any_bit(&self.0[X87_REGISTERS]) == 0
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
    fn every_word_of_x87_counts_and_no_other_does() {
        for word in (0..WORDS).filter(|word| *word != XSTATE_BV) {
            for bit in [0, 7, 21, 63] {
                let mut area = saved();
                area.0[word] ^= 1 << bit;
                area.mark_initial();
                let x87 = X87_CONTROL.contains(&word) || X87_REGISTERS.contains(&word);
                assert_eq!(area.0[XSTATE_BV], if x87 { 0b111 } else { 0b110 }, "word {word} bit {bit}");
            }
        }
    }
}
