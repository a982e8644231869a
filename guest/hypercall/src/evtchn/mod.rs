//! Event channels from the guest's side: the two ABIs over the shared pages, and what is bound to which port.
//!
//! [`two_level::TwoLevel`] and [`fifo::Fifo`] hold no hypercall and no unsafe code: they work on borrowed atomics, so
//! tests drive them against a model of the hypervisor. [`Channels`] is whichever of the two the domain uses.
//! [`bindings::Bindings`] maps ports to what the kernel wants done.
//!
//! A vCPU's upcall is: clear `upcall_pending`, then [`Channels::drain`] with a handler. In this order no event is lost:
//! one that arrives while draining sets `upcall_pending` again.

pub mod bindings;
pub mod fifo;
pub mod two_level;

use crate::event_channel;
use crate::shared::VcpuInfo;
use core::sync::atomic::Ordering;
use shared_abi::xen::{Errno, Port};

/// The ABI in use, chosen once at start.
#[derive(Debug)]
pub enum Channels<'a> {
    /// Bitmaps in the `shared_info` page.
    TwoLevel(two_level::TwoLevel<'a>),
    /// Queues by priority.
    Fifo(&'a fifo::Fifo),
}

impl Channels<'_> {
    /// Ports that can be used now.
    pub fn capacity(&self) -> u32 {
        match self {
            Self::TwoLevel(_) => shared_abi::event_channel::TWO_LEVEL_NR_CHANNELS,
            Self::Fifo(fifo) => fifo.capacity(),
        }
    }

    /// Is an event pending on the port?
    pub fn is_pending(&self, port: Port) -> bool {
        match self {
            Self::TwoLevel(abi) => abi.is_pending(port),
            Self::Fifo(abi) => abi.is_pending(port),
        }
    }

    /// Is the port masked?
    pub fn is_masked(&self, port: Port) -> bool {
        match self {
            Self::TwoLevel(abi) => abi.is_masked(port),
            Self::Fifo(abi) => abi.is_masked(port),
        }
    }

    /// Takes a pending event without handling it; was there one?
    pub fn clear_pending(&self, port: Port) -> bool {
        match self {
            Self::TwoLevel(abi) => abi.clear_pending(port),
            Self::Fifo(abi) => abi.clear_pending(port),
        }
    }

    /// Keeps the port from causing upcalls.
    pub fn mask(&self, port: Port) {
        match self {
            Self::TwoLevel(abi) => abi.mask(port),
            Self::Fifo(abi) => abi.mask(port),
        }
    }

    /// Lets the port cause upcalls again; an event that waits is delivered.
    pub fn unmask(&self, port: Port) -> Result<(), Errno> {
        match self {
            // The selector word belongs to the bound vCPU; only the hypervisor knows which that is.
            Self::TwoLevel(_) => event_channel::unmask(port),
            Self::Fifo(abi) if abi.unmask(port) => Ok(()),
            Self::Fifo(_) => event_channel::unmask(port),
        }
    }

    /// Hands every pending, unmasked event of the calling vCPU to `handle`, having cleared it first.
    pub fn drain(&self, vcpu: usize, info: &VcpuInfo, handle: impl FnMut(Port)) {
        info.upcall_pending.store(0, Ordering::SeqCst);
        match self {
            Self::TwoLevel(abi) => abi.drain(&info.pending_sel, handle),
            Self::Fifo(abi) => abi.drain(vcpu, handle),
        }
    }
}
