//! The processor's time-stamp counter, which under an emulator that counts instructions is their number.
#![allow(unsafe_code)] // The instruction itself.

/// The counter now.
pub fn now() -> u64 {
    // SAFETY: every 64-bit processor has RDTSC, and Linux lets user programs use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
