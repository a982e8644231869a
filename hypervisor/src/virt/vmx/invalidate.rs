//! INVEPT and INVVPID.
#![allow(unsafe_code)] // One instruction each.

use core::arch::asm;

use super::{capability, has};

const SINGLE_CONTEXT: u64 = 1;
const ALL_CONTEXTS: u64 = 2;

/// What both instructions take: an EPT pointer or a VPID, and a word that is not used here.
#[repr(C, align(16))]
struct Descriptor([u64; 2]);

/// Drops what this CPU remembers of the guest-physical translations of an EPT pointer.
pub fn translations_of(ept_pointer: u64) {
    let kind = if has(capability::INVEPT_SINGLE) { SINGLE_CONTEXT } else { ALL_CONTEXTS };
    invept(kind, ept_pointer);
}

/// Drops all translations that this CPU remembers for guests.
pub fn everything() {
    let kind = if has(capability::INVEPT_ALL) { ALL_CONTEXTS } else { SINGLE_CONTEXT };
    invept(kind, 0);
    let descriptor = Descriptor([0; 2]);
    // SAFETY: forgetting translations is always allowed; the type was found to be supported.
    unsafe {
        asm!("invvpid {kind}, [{at}]", kind = in(reg) ALL_CONTEXTS, at = in(reg) &raw const descriptor, options(nostack))
    };
}

fn invept(kind: u64, ept_pointer: u64) {
    let descriptor = Descriptor([ept_pointer, 0]);
    // SAFETY: forgetting translations is always allowed; the type was found to be supported.
    unsafe { asm!("invept {kind}, [{at}]", kind = in(reg) kind, at = in(reg) &raw const descriptor, options(nostack)) };
}
