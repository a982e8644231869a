//! `console_io`.
#![allow(unsafe_code)] // The argument order differs: operation, length, buffer.

use crate::call::call;
use shared_abi::hypercall::CONSOLE_IO;
use shared_abi::xen::{Errno, console_io};

/// Writes to the hypervisor's console.
pub fn write(bytes: &[u8]) -> Result<(), Errno> {
    let address = bytes.as_ptr().expose_provenance() as u64;
    // SAFETY: the hypervisor reads `bytes` during the call, nothing else.
    unsafe { call(CONSOLE_IO, [u64::from(console_io::WRITE), bytes.len() as u64, address, 0, 0]) }.map(drop)
}

/// Reads from the hypervisor's console; how many bytes came. Privileged.
pub fn read(buffer: &mut [u8]) -> Result<usize, Errno> {
    let address = buffer.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the hypervisor fills `buffer` during the call, nothing else.
    unsafe { call(CONSOLE_IO, [u64::from(console_io::READ), buffer.len() as u64, address, 0, 0]) }
        .map(|count| count as usize)
}
