//! `multicall`: a list of hypercalls in one.
//!
//! Each entry goes through the same table as a call of its own. The result goes into the entry. Between two entries the
//! call gives way to whatever waits; an entry that is not done when it must give way itself gets its continued arguments
//! written back, so that it goes on from there when the guest repeats the rest of the list (as on Xen, a caller must not
//! rely on an entry's arguments afterwards).
//!
//! A multicall inside a multicall is refused with `EINVAL` in its entry, so the depth of calls is two.
//!
//! Specification: Xen 4.17's `xen.h`, `multicall_entry`; 32-bit callers have entries of 32-bit words.

use shared_abi::hypercall as number;
use shared_abi::xen::{Errno, MulticallEntry};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::hypercall::{Call, CallResult, Next, Width, dispatch};
use crate::machine::Machine;

/// An entry of a 32-bit caller.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
struct NarrowEntry {
    op: u32,
    result: u32,
    args: [u32; 6],
}

/// The hypercall: arg 0 is the list's address, arg 1 the number of entries.
///
/// # Errors
/// `EFAULT` when an entry cannot be read or written; entries before it have been carried out.
pub fn multicall<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let outer = call.args;
    let mut address = outer[0];
    let mut left = outer[1] as u32;
    let mut first = true;
    while left > 0 {
        if !first && call.should_preempt() {
            return Ok(again(outer, address, left));
        }
        first = false;
        let mut entry = read_entry(call, address)?;
        call.args = [
            entry.args[0],
            entry.args[1],
            entry.args[2],
            entry.args[3],
            entry.args[4],
        ];
        let next = if entry.op == u64::from(number::MULTICALL) {
            Err(Errno::EINVAL)
        } else {
            dispatch(call, entry.op)
        };
        call.args = outer;
        match next {
            Ok(Next::Again(args)) => {
                entry.args[..5].copy_from_slice(&args);
                write_entry(call, address, &entry)?;
                return Ok(again(outer, address, left));
            }
            Ok(Next::Return(value)) => entry.result = value as u64,
            Err(errno) => entry.result = errno.to_return() as u64,
        }
        write_entry(call, address, &entry)?;
        address = address.wrapping_add(entry_size(call.width));
        left -= 1;
    }
    Ok(Next::Return(0))
}

fn again(outer: [u64; 5], address: u64, left: u32) -> Next {
    let mut args = outer;
    (args[0], args[1]) = (address, u64::from(left));
    Next::Again(args)
}

fn entry_size(width: Width) -> u64 {
    match width {
        Width::Bits64 => size_of::<MulticallEntry>() as u64,
        Width::Bits32 => size_of::<NarrowEntry>() as u64,
    }
}

fn read_entry<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<MulticallEntry, Errno> {
    match call.width {
        Width::Bits64 => call.read_guest(address),
        Width::Bits32 => {
            let entry: NarrowEntry = call.read_guest(address)?;
            Ok(MulticallEntry {
                op: entry.op.into(),
                result: entry.result.into(),
                args: entry.args.map(u64::from),
            })
        }
    }
}

fn write_entry<M: Machine>(
    call: &mut Call<'_, M>,
    address: u64,
    entry: &MulticallEntry,
) -> Result<(), Errno> {
    match call.width {
        Width::Bits64 => call.write_guest(address, entry),
        Width::Bits32 => {
            let entry = NarrowEntry {
                op: entry.op as u32,
                result: entry.result as u32,
                args: entry.args.map(|arg| arg as u32),
            };
            call.write_guest(address, &entry)
        }
    }
}

const _: () = assert!(size_of::<NarrowEntry>() == 32);
