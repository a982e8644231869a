//! `console_io`.

use super::{Outcome, Stop, Test, is_privileged, wrong_call};
use crate::{check_eq, thread};
use alloc::vec;
use ebb_guest_hypercall::{Errno, console};
use shared_abi::hypercall::CONSOLE_IO;

/// This group's tests.
pub const TESTS: &[Test] = &[("console-write", write), ("console-errors", errors)];

fn write() -> Outcome {
    if console::write(b"console-write: a line\n") == Err(Errno::EPERM) {
        return Err(Stop::Skip("this hypervisor keeps its console to itself".into()));
    }
    check_eq!(console::write(b""), Ok(()), "writing nothing");
    let mut long = vec![b'.'; 3000];
    long[..15].copy_from_slice(b"console-write: ");
    long[2999] = b'\n';
    check_eq!(console::write(&long), Ok(()), "a long line");
    check_eq!(console::write(b"\0\x01\xFF\n"), Ok(()), "bytes that are no text");
    Ok(())
}

fn errors() -> Outcome {
    let call = |op: u64, length: u64, address: u64| wrong_call(CONSOLE_IO, [op, length, address, 0, 0]);
    if call(0, 0, 0) == Err(Errno::EPERM) {
        return Err(Stop::Skip("this hypervisor keeps its console to itself".into()));
    }
    check_eq!(call(0, 10, 0), Err(Errno::EFAULT), "a null buffer");
    check_eq!(call(0, 10, 0x8000_0000_0000), Err(Errno::EFAULT), "a non-canonical buffer");
    check_eq!(call(0, 0x100, u64::MAX - 0x10), Err(Errno::EFAULT), "a buffer that wraps");
    // A stack ends where the guard page of the next one begins.
    let last = thread::cpu_stack_top(0) - 8;
    check_eq!(call(0, 64, last), Err(Errno::EFAULT), "a buffer that leaves what is mapped");
    let unknown = call(77, 0, 0);
    if is_privileged() {
        check_eq!(unknown, Err(Errno::ENOSYS), "an operation that does not exist");
    } else {
        check_eq!(call(1, 0, 0), Err(Errno::EPERM), "reading without the privilege");
        let refused = matches!(unknown, Err(Errno::ENOSYS | Errno::EPERM));
        check_eq!(refused, true, "an operation that does not exist is refused");
    }
    Ok(())
}
