//! Extended state: what one vCPU has in its vector registers must not be seen, or destroyed, by another.
//!
//! The kernel is built without vector instructions, so the registers belong to the tests between their own accesses.
#![allow(unsafe_code)] // Vector instructions.

use super::{Outcome, Stop, Test};
use crate::{check, fixup, println, smp, thread};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use ebb_guest_hypercall::sched;
use spin::Mutex;

/// This group's tests.
pub const TESTS: &[Test] = &[("fpu-state-kept", state_kept)];

/// Eight registers of 32 bytes.
#[repr(C, align(32))]
#[derive(Clone, PartialEq, Eq)]
struct Registers([u64; 32]);

fn has_avx() -> bool {
    __cpuid(1).ecx & 3 << 27 == 3 << 27 && __cpuid_count(0xD, 0).eax & 4 != 0
}

/// Loads the first eight vector registers.
fn load(from: &Registers, avx: bool) {
    // SAFETY: the compiler has no use for these registers; reads `from` only. AVX and XCR0 were checked and set.
    unsafe {
        if avx {
            asm!(
                "vmovdqa ymm0, [{0}]", "vmovdqa ymm1, [{0} + 32]", "vmovdqa ymm2, [{0} + 64]",
                "vmovdqa ymm3, [{0} + 96]", "vmovdqa ymm4, [{0} + 128]", "vmovdqa ymm5, [{0} + 160]",
                "vmovdqa ymm6, [{0} + 192]", "vmovdqa ymm7, [{0} + 224]", in(reg) from);
        } else {
            asm!(
                "movdqa xmm0, [{0}]", "movdqa xmm1, [{0} + 32]", "movdqa xmm2, [{0} + 64]",
                "movdqa xmm3, [{0} + 96]", "movdqa xmm4, [{0} + 128]", "movdqa xmm5, [{0} + 160]",
                "movdqa xmm6, [{0} + 192]", "movdqa xmm7, [{0} + 224]", in(reg) from);
        }
    }
}

/// Stores them.
fn store(to: &mut Registers, avx: bool) {
    // SAFETY: writes `to` only.
    unsafe {
        if avx {
            asm!(
                "vmovdqa [{0}], ymm0", "vmovdqa [{0} + 32], ymm1", "vmovdqa [{0} + 64], ymm2",
                "vmovdqa [{0} + 96], ymm3", "vmovdqa [{0} + 128], ymm4", "vmovdqa [{0} + 160], ymm5",
                "vmovdqa [{0} + 192], ymm6", "vmovdqa [{0} + 224], ymm7", in(reg) to);
        } else {
            asm!(
                "movdqa [{0}], xmm0", "movdqa [{0} + 32], xmm1", "movdqa [{0} + 64], xmm2",
                "movdqa [{0} + 96], xmm3", "movdqa [{0} + 128], xmm4", "movdqa [{0} + 160], xmm5",
                "movdqa [{0} + 192], xmm6", "movdqa [{0} + 224], xmm7", in(reg) to);
        }
    }
}

/// Reads XCR0. CR4.OSXSAVE is set when there is AVX.
fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register that exists.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Keeps a pattern in the registers over many yields; the number of times that it was wrong.
fn keep(id: u64) -> Result<u64, String> {
    let avx = has_avx();
    if avx {
        // SAFETY: x87, SSE and AVX are offered.
        unsafe { fixup::xsetbv(7) }.map_err(|fault| format!("XCR0 cannot be set: {fault:?}"))?;
    }
    let mut wanted = Box::new(Registers([0; 32]));
    let mut found = Box::new(Registers([0; 32]));
    let mut wrong = 0;
    for round in 0..200u64 {
        for (index, word) in wanted.0.iter_mut().enumerate() {
            // Without AVX only the lower half of each 32 bytes travels.
            *word = if avx || index % 4 < 2 { (id << 48 | round << 16 | index as u64) * 0x1_0001 } else { 0 };
        }
        load(&wanted, avx);
        for _ in 0..5 {
            let _ = sched::yield_now();
        }
        if avx && xgetbv() != 7 {
            return Err(format!("XCR0 is {:#x} instead of 7 after a yield", xgetbv()));
        }
        store(&mut found, avx);
        wrong += u64::from(found != wanted);
    }
    Ok(wrong)
}

fn state_kept() -> Outcome {
    let cpus = smp::online();
    let results: Arc<Mutex<Vec<Result<u64, String>>>> = Arc::default();
    let threads = (0..cpus)
        .map(|cpu| {
            let results = results.clone();
            thread::spawn("fpu", Some(cpu), move || {
                let result = keep(cpu as u64 + 1);
                results.lock().push(result);
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    threads.into_iter().for_each(thread::JoinHandle::join);
    let results = core::mem::take(&mut *results.lock());
    check!(results.len() == cpus, "{} of {cpus} threads came back", results.len());
    for result in results {
        match result {
            Ok(0) => {}
            Ok(wrong) => return Err(Stop::Failure(format!("vector registers were wrong {wrong} times"))),
            Err(why) => return Err(Stop::Failure(why)),
        }
    }
    if cpus == 1 {
        println!("fpu-state-kept: with one vCPU there was nobody to destroy the state");
    }
    Ok(())
}
