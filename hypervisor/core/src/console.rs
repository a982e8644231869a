//! `console_io`: the emergency console.
//!
//! A guest writes any number of bytes; they are taken in bounded pieces, and between two of them the call gives way to
//! whatever waits (a continuation with what is left). Control characters other than newline and tab are dropped, as are
//! bytes beyond ASCII: what a guest prints cannot drive the reader's terminal. The machine puts pieces together to lines
//! and marks whose they are.
//!
//! Specification: Xen 4.17's `console_io`. Unlike a Xen built for production, any domain may write.

use arrayvec::ArrayVec;
use shared_abi::xen::{Errno, console_io as abi};

use crate::domain::Domain;
use crate::hypercall::{Call, CallResult, Next};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// Bytes taken between two looks at whether to give way.
pub const PIECE: usize = 128;

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
        let count = (left as usize).min(PIECE);
        let mut bytes = [0; PIECE];
        call.read_guest_bytes(address, &mut bytes[..count])?;
        print(call.hv, call.current.domain(), &bytes[..count]);
        left -= count as u32;
        address = address.wrapping_add(count as u64);
    }
    Ok(Next::Return(0))
}

/// Prints what a domain wrote, by this call or to its debug port: at most [`PIECE`] bytes.
pub fn print<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, bytes: &[u8]) {
    let printable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    let text: ArrayVec<u8, PIECE> = bytes.iter().copied().filter(printable).take(PIECE).collect();
    if text.is_empty() {
        return;
    }
    hv.machine.console_write(Some(domain.id), &text);
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
            assert_eq!((next[1] + 128, next[2]), (args[1], args[2] + 128));
            args = next;
            pieces += 1;
        }
        assert_eq!(pieces, 7);
        assert_eq!(hv.machine.console_of(Some(guest.id())), text);
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
        assert_eq!(hv.machine.console_of(Some(guest.id())), b"[2J\tab\n~");
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
