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
        call.args = [entry.args[0], entry.args[1], entry.args[2], entry.args[3], entry.args[4]];
        let next = if entry.op == u64::from(number::MULTICALL) { Err(Errno::EINVAL) } else { dispatch(call, entry.op) };
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
            Ok(MulticallEntry { op: entry.op.into(), result: entry.result.into(), args: entry.args.map(u64::from) })
        }
    }
}

fn write_entry<M: Machine>(call: &mut Call<'_, M>, address: u64, entry: &MulticallEntry) -> Result<(), Errno> {
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

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;
    use std::vec::Vec;

    use super::*;
    use crate::evtchn::tests::guest::Guest;
    use crate::testing;

    const LIST: u64 = 0x1000;

    fn entry(op: u32, args: [u64; 2]) -> MulticallEntry {
        MulticallEntry { op: op.into(), result: 99, args: [args[0], args[1], 0, 0, 0, 0] }
    }

    fn run(guest: &Guest<'_>, entries: &[MulticallEntry]) -> (i64, Vec<i64>) {
        testing::poke(guest.hv, &guest.domain, LIST, entries.as_bytes());
        let vcpu = testing::vcpu(&guest.domain, 0);
        let args = [LIST, entries.len() as u64, 0, 0, 0];
        let value = testing::hypercall(guest.hv, &vcpu, number::MULTICALL, args);
        let results = (0..entries.len() as u64).map(|index| {
            let at = LIST + index * 64 + 8;
            i64::from_le_bytes(testing::peek(guest.hv, &guest.domain, at))
        });
        (value, results.collect())
    }

    #[test]
    fn each_entry_has_its_result() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 1);
        let entries = [
            entry(number::XEN_VERSION, [0, 0]),
            entry(number::MULTICALL, [LIST, 1]),
            entry(63, [0, 0]),
            entry(number::EVENT_CHANNEL_OP, [4, 0xffff_0000]),
            entry(number::XEN_VERSION, [7, 0]),
        ];
        for waiting in [false, true] {
            hv.machine.interrupt.store(waiting, Ordering::SeqCst);
            let (value, results) = run(&guest, &entries);
            assert_eq!(value, 0);
            let expected =
                [4 << 16 | 17, Errno::EINVAL.to_return(), Errno::ENOSYS.to_return(), Errno::EFAULT.to_return(), 4096];
            assert_eq!(results, expected);
        }
    }

    #[test]
    fn an_entry_that_gives_way_is_continued_not_repeated() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 1);
        let text: Vec<u8> = (0..600).map(|index| b'a' + index as u8 % 26).collect();
        testing::poke(&hv, &guest.domain, 0x2000, &text);
        let mut write = entry(number::CONSOLE_IO, [0, 600]);
        write.args[2] = 0x2000;
        hv.machine.interrupt.store(true, Ordering::SeqCst);
        let (value, results) = run(&guest, &[write, entry(number::XEN_VERSION, [7, 0])]);
        assert_eq!((value, results), (0, std::vec![0, 4096]));
        assert_eq!(hv.machine.console_of(crate::machine::Speaker::Domain(guest.id())), text);
    }

    #[test]
    fn narrow_callers_have_narrow_entries() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 1);
        let list = [
            NarrowEntry { op: number::XEN_VERSION, result: 9, args: [0; 6] },
            NarrowEntry { op: 63, result: 9, args: [0; 6] },
        ];
        testing::poke(&hv, &guest.domain, LIST, list.as_bytes());
        let vcpu = testing::vcpu(&guest.domain, 0);
        let args = [LIST, 2, 0, 0, 0];
        let next = hv.hypercall(&vcpu, number::MULTICALL.into(), args, Width::Bits32, testing::UNPAGED);
        assert_eq!(next, Next::Return(0));
        let result = |at| i32::from_le_bytes(testing::peek(&hv, &guest.domain, at));
        assert_eq!(result(LIST + 4), 4 << 16 | 17);
        assert_eq!(i64::from(result(LIST + 36)), Errno::ENOSYS.to_return());
    }

    #[test]
    fn a_list_that_ends_in_nothing_faults_after_what_was_there() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 1);
        let vcpu = testing::vcpu(&guest.domain, 0);
        let at = 48 * 4096 - 64;
        testing::poke(&hv, &guest.domain, at, entry(number::XEN_VERSION, [7, 0]).as_bytes());
        let value = testing::hypercall(&hv, &vcpu, number::MULTICALL, [at, u64::MAX, 0, 0, 0]);
        assert_eq!(value, Errno::EFAULT.to_return());
        assert_eq!(testing::peek(&hv, &guest.domain, at + 8), 4096u64.to_le_bytes());
    }
}
