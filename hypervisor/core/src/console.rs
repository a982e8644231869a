//! `console_io`: the emergency console.
//!
//! A guest writes any number of bytes; they are taken in bounded pieces, and between two of them the call gives way to
//! whatever waits (a continuation with what is left). Control characters other than newline and tab are dropped, as are
//! bytes beyond ASCII: what a guest prints cannot drive the reader's terminal. The machine puts pieces together to lines
//! and marks whose they are. A privileged domain's bytes go out as they are: it has the console, and speaks for others.
//!
//! What is typed waits in the machine. [`typed`] tells the privileged domain that has bound `VIRQ_CONSOLE`, which then
//! reads until nothing is left. It is not told again of what came before it bound the line: it reads once after that.
//!
//! Specification: Xen 4.17's `console_io`. Unlike a Xen built for production, any domain may write.

use arrayvec::ArrayVec;
use shared_abi::xen::{Errno, Virq, console_io as abi};

use crate::domain::Domain;
use crate::evtchn;
use crate::hypercall::{Call, CallResult, Next};
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, Speaker};

/// Bytes taken between two looks at whether to give way.
pub const PIECE: usize = 256;

/// The hypercall: arg 0 is the operation, arg 1 the number of bytes, arg 2 the buffer's address.
///
/// # Errors
/// `EFAULT` when the buffer cannot be read (written), `EPERM` when one without privilege wants to read, `E2BIG` for a
/// read whose result could not be told from an error, `ENOSYS` for an operation that is not offered.
pub fn console_io<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    match call.args[0] as u32 {
        abi::WRITE => write(call),
        abi::READ => read(call),
        _ => Err(Errno::ENOSYS),
    }
}

fn write<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let mut left = call.args[1] as u32;
    let mut address = call.args[2];
    let mut first = true;
    while left > 0 {
        if !first && call.should_preempt() {
            let mut args = call.args;
            (args[1], args[2]) = (u64::from(left), address);
            return Ok(Next::Again(args));
        }
        first = false;
        let mut count = (left as usize).min(PIECE);
        let mut bytes = [0; PIECE];
        call.read_guest_bytes(address, &mut bytes[..count])?;
        // A line that can be whole is, so that nobody's text comes into it.
        if left as usize > count
            && let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n')
        {
            count = end + 1;
        }
        print(call.hv, call.current.domain(), &bytes[..count]);
        left -= count as u32;
        address = address.wrapping_add(count as u64);
    }
    Ok(Next::Return(0))
}

/// Prints what a domain wrote, by this call or to its debug port: at most [`PIECE`] bytes.
pub fn print<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, bytes: &[u8]) {
    if domain.is_privileged() {
        hv.machine.console_write(Speaker::Privileged(domain.id), bytes);
        return;
    }
    let printable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    let text: ArrayVec<u8, PIECE> = bytes.iter().copied().filter(printable).take(PIECE).collect();
    if text.is_empty() {
        return;
    }
    hv.machine.console_write(Speaker::Domain(domain.id), &text);
}

/// Something was typed: tells who wants to know.
pub fn typed<M: Machine>(hv: &Hypervisor<M>) {
    evtchn::raise_global_virq(hv, Virq::CONSOLE);
}

/// What has been typed, to a privileged domain: as much as there is, at once.
fn read<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    if !call.current.domain().is_privileged() {
        return Err(Errno::EPERM);
    }
    let wanted = i32::try_from(call.args[1] as u32).map_err(|_| Errno::E2BIG)? as usize;
    let mut done = 0;
    while done < wanted {
        let mut bytes = [0; PIECE];
        let room = (wanted - done).min(PIECE);
        let count = call.hv.machine.console_read(&mut bytes[..room]).min(room);
        if count == 0 {
            break;
        }
        call.write_guest_bytes(call.args[2].wrapping_add(done as u64), &bytes[..count])?;
        done += count;
    }
    Ok(Next::Return(done as i64))
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;
    use std::vec::Vec;

    use shared_abi::hypercall as number;

    use super::*;
    use crate::evtchn::tests::guest::Guest;
    use crate::testing;

    #[test]
    fn text_of_any_length_is_written_in_pieces() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 7, 1);
        let text: Vec<u8> = (0..1000).map(|index| b'a' + index as u8 % 26).collect();
        testing::poke(&hv, &guest.domain, 0x1000, &text);
        let vcpu = testing::vcpu(&guest.domain, 0);
        // Something always waits: each piece is a call of its own.
        hv.machine.interrupt.store(true, Ordering::SeqCst);
        let mut args = [abi::WRITE.into(), 1000, 0x1000, 0, 0];
        let mut pieces = 0;
        while let Next::Again(next) = console_io(&mut testing::call(&hv, &vcpu, args)).unwrap() {
            assert_eq!((next[1] + 256, next[2]), (args[1], args[2] + 256));
            args = next;
            pieces += 1;
        }
        assert_eq!(pieces, 3);
        assert_eq!(hv.machine.console_of(Speaker::Domain(guest.id())), text);
    }

    #[test]
    fn lines_are_not_cut_where_they_fit() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 7, 1);
        let text = [[b'a'; 99].as_slice(), b"\n", &[b'b'; 99], b"\n", &[b'c'; 99], b"\n"].concat();
        testing::poke(&hv, &guest.domain, 0x1000, &text);
        let vcpu = testing::vcpu(&guest.domain, 0);
        let args = [abi::WRITE.into(), text.len() as u64, 0x1000, 0, 0];
        assert_eq!(testing::hypercall(&hv, &vcpu, number::CONSOLE_IO, args), 0);
        let pieces: Vec<usize> = hv.machine.console.lock().unwrap().iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(pieces, [200, 100]);
    }

    #[test]
    fn the_privileged_say_and_hear_everything() {
        let hv = testing::hypervisor(1, 512);
        let (governor, other) = (Guest::privileged(&hv, 1), Guest::privileged(&hv, 2));
        let vcpu = testing::vcpu(&other.domain, 0);
        testing::poke(&hv, &other.domain, 0, b"\x1b[2J\xff");
        let ask = |args| testing::hypercall(&hv, &vcpu, number::CONSOLE_IO, args);
        assert_eq!(ask([abi::WRITE.into(), 5, 0, 0, 0]), 0);
        assert_eq!(hv.machine.console_of(Speaker::Privileged(other.id())), b"\x1b[2J\xff");

        // Who has bound the line is told, whoever else could have.
        let port = other.bind_virq(Virq::CONSOLE, 0).unwrap();
        hv.machine.typed.lock().unwrap().extend((0..600).map(|index| index as u8));
        typed(&hv);
        assert!(!governor.upcall(0));
        let mut told = Vec::new();
        other.drain(0, |port| told.push(port));
        assert_eq!(told, [port]);
        assert_eq!(ask([abi::READ.into(), 300, 0x2000, 0, 0]), 300);
        assert_eq!(ask([abi::READ.into(), 400, 0x2000 + 300, 0, 0]), 300, "what is left");
        assert_eq!(ask([abi::READ.into(), 400, 0x2000, 0, 0]), 0);
        let read: [u8; 600] = testing::peek(&hv, &other.domain, 0x2000);
        assert!(read.iter().enumerate().all(|(index, byte)| *byte == index as u8));
    }

    #[test]
    fn control_characters_do_not_get_out() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 7, 1);
        let dirty = b"\x1b[2J\ta\x00b\r\n\xc3\xa4\x7f~";
        testing::poke(&hv, &guest.domain, 0, dirty);
        let vcpu = testing::vcpu(&guest.domain, 0);
        let args = [abi::WRITE.into(), dirty.len() as u64, 0, 0, 0];
        assert_eq!(testing::hypercall(&hv, &vcpu, number::CONSOLE_IO, args), 0);
        assert_eq!(hv.machine.console_of(Speaker::Domain(guest.id())), b"[2J\tab\n~");
    }

    #[test]
    fn bad_buffers_and_readers_are_refused() {
        let hv = testing::hypervisor(1, 512);
        let (guest, governor) = (Guest::new(&hv, 1, 1), Guest::privileged(&hv, 2));
        let ask = |guest: &Guest<'_>, operation: u64, count: u64, address: u64| {
            let vcpu = testing::vcpu(&guest.domain, 0);
            let args = [operation, count, address, 0, 0];
            testing::hypercall(&hv, &vcpu, number::CONSOLE_IO, args)
        };
        assert_eq!(ask(&guest, 0, 10, 0xffff_0000), Errno::EFAULT.to_return());
        assert_eq!(ask(&guest, 0, u32::MAX.into(), 48 * 4096 - 4), Errno::EFAULT.to_return());
        assert_eq!(ask(&guest, 0, 0, u64::MAX), 0, "nothing to read, nothing wrong");
        assert_eq!(ask(&guest, 1, 10, 0), Errno::EPERM.to_return());
        assert_eq!(ask(&governor, 1, 10, 0), 0);
        assert_eq!(ask(&governor, 1, 1 << 31, 0), Errno::E2BIG.to_return());
        assert_eq!(ask(&guest, 2, 0, 0), Errno::ENOSYS.to_return());
    }
}
