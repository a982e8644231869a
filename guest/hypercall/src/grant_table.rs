//! `grant_table_op`: pages that other domains grant.
#![allow(unsafe_code)] // Mapping over the kernel's physical addresses.

use crate::call::call;
use core::fmt;
use shared_abi::grant_table as abi;
use shared_abi::hypercall::GRANT_TABLE_OP;
use shared_abi::xen::{DomId, Errno, Gfn};

pub use abi::{GrantHandle, GrantRef, GrantStatus};

/// Why nothing was mapped or unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The call itself failed.
    Call(Errno),
    /// The entry was not good.
    Entry(GrantStatus),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Call(errno) => write!(f, "{errno}"),
            Refused::Entry(status) => write!(f, "grant status {}", status.0),
        }
    }
}

fn op<T>(operation: u32, argument: &mut T) -> Result<(), Refused> {
    let address = core::ptr::from_mut(argument).expose_provenance() as u64;
    // SAFETY: the operations passed here read and write `argument` only, which admits any bit pattern; what else they
    // change is their callers' contract.
    unsafe { call(GRANT_TABLE_OP, [u64::from(operation), address, 1, 0, 0]) }.map(drop).map_err(Refused::Call)
}

fn checked(status: GrantStatus) -> Result<(), Refused> {
    if status == GrantStatus::OKAY { Ok(()) } else { Err(Refused::Entry(status)) }
}

/// Has the page that `domain` grants by `entry` appear at `gfn`, writable.
///
/// # Safety
/// Nothing of the kernel's lies at `gfn`. What appears there is shared with `domain`, which may write to it at any time.
pub unsafe fn map(domain: DomId, entry: GrantRef, gfn: Gfn) -> Result<GrantHandle, Refused> {
    let mut argument = abi::MapGrantRef {
        host_addr: gfn.address(),
        flags: abi::MapFlags::HOST_MAP.bits(),
        ref_: entry,
        dom: domain,
        ..Default::default()
    };
    op(abi::MAP_GRANT_REF, &mut argument)?;
    checked(argument.status).map(|()| argument.handle)
}

/// Undoes a [`map`].
///
/// # Safety
/// The kernel uses the page at `gfn` no more.
pub unsafe fn unmap(handle: GrantHandle, gfn: Gfn) -> Result<(), Refused> {
    let mut argument = abi::UnmapGrantRef { host_addr: gfn.address(), handle, ..Default::default() };
    op(abi::UNMAP_GRANT_REF, &mut argument)?;
    checked(argument.status)
}
