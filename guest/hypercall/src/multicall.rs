//! `multicall`: several calls in one trap.
#![allow(unsafe_code)] // The entries are calls of any kind.

use crate::call::call;
use shared_abi::hypercall::MULTICALL;
use shared_abi::xen::{Errno, MulticallEntry};

/// Makes the calls in order; each entry's `result` is filled in. An error of one does not stop the others.
///
/// # Safety
/// What [`crate::call::call`] asks holds for every entry.
pub unsafe fn multicall(entries: &mut [MulticallEntry]) -> Result<(), Errno> {
    let address = entries.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the entries are exclusively borrowed; the calls in them are the caller's contract.
    unsafe { call(MULTICALL, [address, entries.len() as u64, 0, 0, 0]) }.map(drop)
}
