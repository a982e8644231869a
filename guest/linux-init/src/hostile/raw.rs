//! The few things the standard library and rustix's safe half cannot do: a page of physical memory, and a hypercall by
//! the kernel's `privcmd` device (`include/uapi/xen/privcmd.h`).
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use shared_abi::io::{console, xs_wire};
use shared_abi::xen::{DomId, Gfn, GuestHandle};
use shared_abi::{memory, xen};
use zerocopy::FromZeros;

use crate::job::Failed;

const PAGE: usize = 4096;
/// Where the control domain puts a domain's rings, as Xen's tools do (docs/linux.md).
const CONSOLE_GFN: u64 = 0xfefff;
const XENSTORE_GFN: u64 = 0xfeffc;

/// The pages of both rings, mapped for ever.
pub struct Rings([*mut u8; 2]);

impl Rings {
    /// Indexes that [`Rings::set`] knows.
    pub const INDEXES: usize = 8;

    /// Maps them; they are outside RAM, so Linux lets `/dev/mem` have them.
    ///
    /// # Errors
    /// It does not.
    pub fn map() -> Result<Self, Failed> {
        let memory = File::options().read(true).write(true).open("/dev/mem")?;
        let page = |gfn: u64| {
            let flags = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping where the kernel chooses, so no Rust object is in it; it is never unmapped.
            unsafe { mmap(null_mut(), PAGE, flags, MapFlags::SHARED, &memory, gfn << 12) }
        };
        Ok(Self([page(CONSOLE_GFN)?.cast(), page(XENSTORE_GFN)?.cast()]))
    }

    /// Sets one of the indexes.
    pub fn set(&self, index: usize, value: u32) {
        let (page, offset) = match index {
            0 => (0, console::IN_CONS),
            1 => (0, console::IN_PROD),
            2 => (0, console::OUT_CONS),
            3 => (0, console::OUT_PROD),
            4 => (1, xs_wire::REQ_CONS),
            5 => (1, xs_wire::REQ_PROD),
            6 => (1, xs_wire::RSP_CONS),
            _ => (1, xs_wire::RSP_PROD),
        };
        // SAFETY: the offsets are those of aligned 32-bit words within a page, which stays mapped; others change it too,
        // which is why it is only touched atomically.
        let word = unsafe { AtomicU32::from_ptr(self.0[page].add(offset).cast()) };
        word.store(value, Ordering::SeqCst);
    }
}

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Hypercall {
    op: u64,
    arg: [u64; 5],
}

/// `IOCTL_PRIVCMD_HYPERCALL`: `_IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))`.
const HYPERCALL: Opcode = ((size_of::<Hypercall>() as Opcode) << 16) | ((b'P' as Opcode) << 8);

// SAFETY: the opcode takes a pointer to a `Hypercall`, only reads it, and returns the hypercall's result. What the
// hypercall itself does is its caller's affair.
unsafe impl Ioctl for Hypercall {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        HYPERCALL
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(output)
    }
}

/// Gives `pages` guest frames from `first` on back to the hypervisor, whatever they are used for.
///
/// # Errors
/// The kernel or the hypervisor refuses.
pub fn decrease_reservation(first: u64, pages: u64) -> Result<IoctlOutput, Failed> {
    let frames: Vec<Gfn> = (first..first + pages).map(Gfn).collect();
    let mut reservation = memory::MemoryReservation::new_zeroed();
    reservation.extent_start = GuestHandle::new(frames.as_ptr() as u64);
    reservation.nr_extents = pages;
    reservation.domid = DomId::SELF;
    let command = u64::from(memory::DECREASE_RESERVATION);
    let argument = std::ptr::from_ref(&reservation) as u64;
    let call = Hypercall { op: u64::from(xen::hypercall::MEMORY_OP), arg: [command, argument, 0, 0, 0] };
    let privcmd = File::options().read(true).write(true).open("/dev/xen/privcmd")?;
    // SAFETY: the call reads the reservation and the frames, both alive. It takes memory away from the kernel below this
    // program: meant, and outside what the language knows of.
    Ok(unsafe { ioctl(&privcmd, call) }?)
}
