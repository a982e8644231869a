//! The calls of the kernel's event channel device (`include/uapi/xen/evtchn.h`), which the standard library cannot make.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use shared_abi::xen::{DomId, Port};

use crate::job::Failed;

/// A call: its number, and the 32-bit words that the kernel reads.
struct Call<const NUMBER: u8, const WORDS: usize>([u32; WORDS]);

/// `IOCTL_EVTCHN_BIND_INTERDOMAIN`: the remote domain and its port.
type BindInterdomain = Call<1, 2>;
/// `IOCTL_EVTCHN_BIND_UNBOUND_PORT`: the remote domain.
type BindUnboundPort = Call<2, 1>;
/// `IOCTL_EVTCHN_NOTIFY`: the local port.
type Notify = Call<4, 1>;

// SAFETY: the device takes a pointer to as many words as its opcode says, only reads them, and returns a number.
unsafe impl<const NUMBER: u8, const WORDS: usize> Ioctl for Call<NUMBER, WORDS> {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    /// `_IOC(_IOC_NONE, 'E', NUMBER, size)`.
    fn opcode(&self) -> Opcode {
        ((size_of::<Self>() as Opcode) << 16) | (Opcode::from(b'E') << 8) | Opcode::from(NUMBER)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(output)
    }
}

/// Makes a port that `remote` may bind to.
///
/// # Errors
/// The kernel or the hypervisor refuses, as for all here.
pub fn offer(device: &File, remote: DomId) -> Result<Port, Failed> {
    port(call(device, BindUnboundPort::new([remote.0.into()]))?)
}

/// Makes a port that is bound to `port` of `remote`.
///
/// # Errors
/// As [`offer`].
pub fn bind(device: &File, remote: DomId, remote_port: Port) -> Result<Port, Failed> {
    port(call(device, BindInterdomain::new([remote.0.into(), remote_port.0]))?)
}

/// Sends an event.
///
/// # Errors
/// As [`offer`].
pub fn notify(device: &File, local: Port) -> Result<(), Failed> {
    call(device, Notify::new([local.0])).map(drop)
}

impl<const NUMBER: u8, const WORDS: usize> Call<NUMBER, WORDS> {
    const fn new(words: [u32; WORDS]) -> Self {
        Self(words)
    }
}

fn call<const NUMBER: u8, const WORDS: usize>(device: &File, call: Call<NUMBER, WORDS>) -> Result<IoctlOutput, Failed> {
    // SAFETY: a `Call` is only made above, with the number and the words that belong together; another file than the
    // device has no call of the letter `E` with these sizes and refuses.
    Ok(unsafe { ioctl(device, call) }?)
}

fn port(answer: IoctlOutput) -> Result<Port, Failed> {
    u32::try_from(answer).map(Port).map_err(|_| Failed(format!("{answer} is no port")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opcodes_are_linuxs() {
        assert_eq!(BindInterdomain::new([0; 2]).opcode(), 0x0008_4501);
        assert_eq!(BindUnboundPort::new([0]).opcode(), 0x0004_4502);
        assert_eq!(Notify::new([0]).opcode(), 0x0004_4504);
    }
}
