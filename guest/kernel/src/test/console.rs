//! `console_io`.

use super::{Outcome, Stop, Test, is_privileged, wrong_call};
use crate::events::EventPort;
use crate::{check, check_eq, println, start_info, thread};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use ebb_guest_hypercall::{Errno, VcpuId, Virq, console, event_channel};
use shared_abi::hypercall::CONSOLE_IO;

/// This group's tests.
pub const TESTS: &[Test] = &[("console-write", write), ("console-errors", errors), ("console-input", input)];

/// How long what is typed may take, ns.
const PATIENCE: u64 = 60_000_000_000;

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

/// Takes the lines that somebody outside types when asked to, and says them again; the outside compares.
fn input() -> Outcome {
    if !is_privileged() || !start_info::args().flag("keyboard") {
        return Err(Stop::Skip("it takes the privilege, and somebody who types (argument keyboard)".into()));
    }
    let line = EventPort::new(event_channel::bind_virq(Virq::CONSOLE, VcpuId(0))?)?;
    let mut buffer = [0; 64];
    check_eq!(console::read(&mut buffer), Ok(0), "bytes before anybody typed");
    for round in 1..=2 {
        println!("console-input: type line {round}");
        let mut text = Vec::new();
        while text.last() != Some(&b'\r') {
            let seen = line.count();
            let count = console::read(&mut buffer)?;
            text.extend_from_slice(&buffer[..count]);
            check!(count > 0 || line.wait(seen + 1, PATIENCE), "nobody was told of what was typed, or nobody typed");
        }
        text.pop();
        println!("console-input: line {round} is <{}>, {} bytes", String::from_utf8_lossy(&text), text.len());
    }
    check_eq!(console::read(&mut buffer), Ok(0), "bytes after everything was read");
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
