//! Waiting without work: HLT, or `SCHEDOP_block`.
//!
//! HLT directly after STI is free of the race between the last look for work and the sleep. A hypercall is not: an
//! interrupt in between would have its work done, and the vCPU would sleep on it. So the block sequence is restartable:
//! an interrupt that finds the vCPU between the STI and the hypercall moves it past the hypercall.
#![allow(unsafe_code)] // Inline assembly, and moving the interrupted context.

use crate::cpu;
use crate::interrupt::Frame;
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};
use shared_abi::hypercall::SCHED_OP;
use shared_abi::sched::BLOCK;

global_asm!(
    ".pushsection .text, \"ax\", @progbits",
    ".global idle_block_intel, idle_block_amd, idle_block_start_intel, idle_block_end_intel",
    ".global idle_block_start_amd, idle_block_end_amd",
    "idle_block_intel:",
    "mov eax, {number}",
    "mov edi, {block}",
    "sti",
    "idle_block_start_intel:",
    "nop",
    "vmcall",
    "idle_block_end_intel:",
    "ret",
    "idle_block_amd:",
    "mov eax, {number}",
    "mov edi, {block}",
    "sti",
    "idle_block_start_amd:",
    "nop",
    "vmmcall",
    "idle_block_end_amd:",
    "ret",
    ".popsection",
    number = const SCHED_OP,
    block = const BLOCK,
);

unsafe extern "C" {
    fn idle_block_intel();
    fn idle_block_amd();
    static idle_block_start_intel: u8;
    static idle_block_end_intel: u8;
    static idle_block_start_amd: u8;
    static idle_block_end_amd: u8;
}

static BY_BLOCK: AtomicBool = AtomicBool::new(false);

/// Chooses `SCHEDOP_block` (true) or HLT.
pub fn choose(by_block: bool) {
    BY_BLOCK.store(by_block, Ordering::Relaxed);
}

/// Is it `SCHEDOP_block`?
pub fn by_block() -> bool {
    BY_BLOCK.load(Ordering::Relaxed)
}

/// The name of the way.
pub fn way() -> &'static str {
    if by_block() { "SCHEDOP_block" } else { "HLT" }
}

/// Sleeps until an interrupt. Called with interrupts off; returns with interrupts on.
pub fn wait() {
    if !BY_BLOCK.load(Ordering::Relaxed) {
        cpu::wait_for_interrupt();
        return;
    }
    type Block = unsafe extern "C" fn();
    let block: Block = if ebb_guest_hypercall::cpuid::is_amd() { idle_block_amd } else { idle_block_intel };
    // SAFETY: the hypercall has no argument; all registers it may destroy are ones that a C call may destroy too.
    unsafe { block() };
}

/// If the interrupt came between the STI and the hypercall of [`wait`], the vCPU must not sleep any more.
pub fn leave(frame: &mut Frame) {
    let place = |symbol: *const u8| symbol.addr() as u64;
    for (start, end) in [
        (&raw const idle_block_start_intel, &raw const idle_block_end_intel),
        (&raw const idle_block_start_amd, &raw const idle_block_end_amd),
    ] {
        if (place(start)..place(end)).contains(&frame.rip) {
            frame.rip = place(end);
        }
    }
}
