//! `multicall`.
#![allow(unsafe_code)] // The entries' calls are harmless ones.

use super::{Outcome, Test, wrong_call};
use crate::check_eq;
use alloc::vec::Vec;
use ebb_guest_hypercall::{Errno, multicall, version};
use shared_abi::hypercall::{MULTICALL, SCHED_OP, XEN_VERSION};
use shared_abi::version::{PAGESIZE, VERSION};
use shared_abi::xen::MulticallEntry;

/// This group's tests.
pub const TESTS: &[Test] = &[("multicall-batch", batch), ("multicall-errors", errors)];

fn entry(op: u32, first: u64) -> MulticallEntry {
    MulticallEntry { op: op.into(), result: 0xDEAD, args: [first, 0, 0, 0, 0, 0] }
}

fn run(entries: &mut [MulticallEntry]) -> Result<(), Errno> {
    // SAFETY: the tests' entries have no effect on memory.
    unsafe { multicall::multicall(entries) }
}

fn batch() -> Outcome {
    let expected = u64::from(version::version()?);
    let mut entries =
        [entry(XEN_VERSION, VERSION.into()), entry(99, 0), entry(XEN_VERSION, PAGESIZE.into()), entry(SCHED_OP, 0)];
    run(&mut entries)?;
    let results: Vec<i64> = entries.iter().map(|entry| entry.result as i64).collect();
    check_eq!(results[..], [expected as i64, -38, 4096, 0], "results of a batch");
    let mut long: Vec<_> = (0..600).map(|_| entry(XEN_VERSION, VERSION.into())).collect();
    run(&mut long)?;
    let right = long.iter().filter(|entry| entry.result == expected).count();
    check_eq!(right, 600, "right results of a long batch");
    Ok(())
}

fn errors() -> Outcome {
    check_eq!(wrong_call(MULTICALL, [0, 0, 0, 0, 0]), Ok(0), "an empty batch");
    check_eq!(wrong_call(MULTICALL, [0x8000_0000_0000, 1, 0, 0, 0]), Err(Errno::EFAULT), "a batch that is not mapped");
    let mut inner = [entry(XEN_VERSION, 0)];
    let mut outer = [entry(MULTICALL, inner.as_mut_ptr().expose_provenance() as u64)];
    outer[0].args[1] = 1;
    run(&mut outer)?;
    check_eq!(outer[0].result as i64, -22, "a batch in a batch");
    Ok(())
}
