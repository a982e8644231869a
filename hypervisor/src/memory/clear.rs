//! Clearing frames, by the widest stores the processor has.
//!
//! The hypervisor is built without floating point and leaves a guest's extended state in the registers, so the one
//! register used here is saved and put back. AVX needs its bit in XCR0, which holds what the guest that ran last has
//! chosen; SSE needs nothing but what [`crate::virt::fpu::enable_this_cpu`] has set. A single page is about to be used and
//! is cleared through the caches; more than one goes past them, so that clearing ahead of need does not throw out what
//! guests work with.
#![allow(unsafe_code)] // Stores by assembly, argued at each block.

use core::arch::asm;

use super::phys_to_virt;
use crate::virt::fpu;

/// Bytes stored by one turn of the loops: 32 stores of AVX, 16 of SSE.
const TURN_AVX: usize = 1024;
const TURN_SSE: usize = 256;
const PAGE: usize = 4096;

/// Clears `1 << order` frames from the physical address `first` on.
///
/// # Safety
/// The frames are RAM in the direct map, and nobody relies on what is in them.
pub unsafe fn frames(first: u64, order: u32) {
    let to = phys_to_virt(first);
    let length = PAGE << order;
    // SAFETY: the range is writable by the caller's promise, and a multiple of either turn; the processor allows the
    // instructions, as asked for here.
    unsafe {
        match (fpu::avx_is_on(), order) {
            (true, 0) => avx(to, length),
            (true, _) => avx_past_caches(to, length),
            (false, 0) => sse(to, length),
            (false, _) => sse_past_caches(to, length),
        }
    }
}

/// Declares a function that stores zeros by `$store` from `$register`, which `$move` saves and puts back.
macro_rules! clear_by {
    ($(#[$doc:meta])* $name:ident, $turn:expr, $register:literal, $move:literal, $clear:literal, $store:literal, $after:literal,
     $($offset:literal)*) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `length` bytes at `to`, a positive multiple of the turn, are writable and aligned to a page; the processor has
        /// the instructions, and they are enabled.
        unsafe fn $name(to: *mut u8, length: usize) {
            let mut saved = [0_u128; 2];
            // SAFETY: the caller's promise about `to`; `saved` has room for the register, which is what it was at the end;
            // no other register of its kind is touched.
            unsafe {
                asm!(
                    concat!($move, " [{saved}], ", $register),
                    $clear,
                    "2:",
                    concat!($($store, " [{to} + ", $offset, "], ", $register, "\n"),*),
                    "add {to}, {turn}",
                    "cmp {to}, {end}",
                    "jne 2b",
                    $after,
                    concat!($move, " ", $register, ", [{saved}]"),
                    to = inout(reg) to => _,
                    end = in(reg) to.wrapping_add(length),
                    saved = in(reg) saved.as_mut_ptr(),
                    turn = const $turn,
                    options(nostack),
                );
            }
        }
    };
}

/// The offsets of a turn's stores.
macro_rules! clear_by_avx {
    ($(#[$doc:meta])* $name:ident, $store:literal, $after:literal) => {
        clear_by!($(#[$doc])* $name, TURN_AVX, "ymm0", "vmovdqu", "vpxor xmm0, xmm0, xmm0", $store, $after,
            0 32 64 96 128 160 192 224 256 288 320 352 384 416 448 480 512 544 576 608 640 672 704 736 768 800 832 864 896 928 960 992);
    };
}

/// As above.
macro_rules! clear_by_sse {
    ($(#[$doc:meta])* $name:ident, $store:literal, $after:literal) => {
        clear_by!($(#[$doc])* $name, TURN_SSE, "xmm0", "movups", "xorps xmm0, xmm0", $store, $after,
            0 16 32 48 64 80 96 112 128 144 160 176 192 208 224 240);
    };
}

clear_by_avx!(
    /// Through the caches, 32 bytes at a time.
    avx, "vmovdqa", ""
);
clear_by_avx!(
    /// Past the caches, 32 bytes at a time.
    avx_past_caches, "vmovntdq", "sfence"
);
clear_by_sse!(
    /// Through the caches, 16 bytes at a time.
    sse, "movaps", ""
);
clear_by_sse!(
    /// Past the caches, 16 bytes at a time.
    sse_past_caches, "movntps", "sfence"
);

const _: () = assert!(PAGE.is_multiple_of(TURN_AVX) && PAGE.is_multiple_of(TURN_SSE));
