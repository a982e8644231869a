//! Event channels: ports, their bindings, both delivery ABIs, virtual interrupts.
//!
//! | file | what |
//! |---|---|
//! | [`port`] | the table of ports: an atomic word each |
//! | [`gate`] | who may be writing to the domain's event pages now |
//! | [`deliver`] | sending, unmasking, upcalls; why no lock is needed |
//! | [`two_level`], [`fifo`] | the two ABIs |
//! | [`pages`] | shared_info, `vcpu_info`, FIFO pages: where they are, and how they come and go |
//! | [`bind`] | allocating, binding, closing, moving, reset |
//! | [`op`] | `event_channel_op`: arguments in, results out |
//!
//! Locking: bindings and pages change under the domain's EVENT lock (two domains: that of the lower id first, the other
//! with rank EVENT_SECOND); deliveries take no lock but a FIFO queue's (EVENT_QUEUE).
//!
//! Invariants: an inter-domain port's other end points back to it whenever neither lock is held; `virqs` of a vCPU names
//! a port bound to that line or 0; the vCPU a port signals exists.
//!
//! Specification: Xen's `event_channel.h`, 4.17; the FIFO event channel design.

mod audit;
pub mod bind;
pub mod deliver;
pub mod fifo;
pub mod gate;
pub mod op;
pub mod pages;
pub mod port;
#[cfg(test)]
pub(crate) mod tests;
pub mod two_level;

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use shared_abi::event_channel::FIFO_NR_CHANNELS;
use shared_abi::xen::{Mfn, Virq};

pub use bind::{close_all, close_some, reset};
pub use deliver::{
    announce, port_is_valid, port_pending, raise_global_virq, raise_virq, send, upcall_deliverable, upcall_pending,
};
pub use op::event_channel_op;
pub use pages::{attach_shared_info, latch_width, register_vcpu_info};

use crate::locks::{Mutex, rank};
use crate::machine::MachineAddress;

/// Ports an unprivileged domain may have, whatever the ABI: what a 64-bit guest has with the 2-level ABI. Ports cost the
/// hypervisor memory, so the FIFO ABI's whole range is for privileged domains (Xen's tools give guests 1023).
pub const MAX_PORTS: u32 = 4096;
/// Ports a privileged domain may have: the FIFO ABI's whole range.
pub const MAX_PORTS_PRIVILEGED: u32 = FIFO_NR_CHANNELS;

/// A vCPU's part of event delivery.
#[derive(Debug)]
pub struct VcpuEvents {
    /// Machine address of its `vcpu_info`; 0: none.
    info: AtomicU64,
    /// Vector by which its local APIC announces upcalls; 0: none.
    upcall_vector: AtomicU8,
    /// The port each virtual interrupt is bound to; 0: none. Lines that are not per vCPU: at vCPU 0.
    virqs: [AtomicU32; Virq::COUNT as usize],
    /// FIFO queues.
    fifo: fifo::VcpuQueues,
}

impl VcpuEvents {
    /// No `vcpu_info`, nothing bound.
    pub const fn new() -> Self {
        Self {
            info: AtomicU64::new(0),
            upcall_vector: AtomicU8::new(0),
            virqs: [const { AtomicU32::new(0) }; Virq::COUNT as usize],
            fifo: fifo::VcpuQueues::new(),
        }
    }

    /// Where its `vcpu_info` is.
    #[inline]
    pub fn info(&self) -> Option<MachineAddress> {
        match self.info.load(Ordering::SeqCst) {
            0 => None,
            address => Some(MachineAddress(address)),
        }
    }

    /// The vector by which its local APIC announces upcalls (`HVMOP_set_evtchn_upcall_vector`). With one, the domain-wide
    /// callback vector does not count for this vCPU.
    #[inline]
    pub fn upcall_vector(&self) -> Option<u8> {
        match self.upcall_vector.load(Ordering::SeqCst) {
            0 => None,
            vector => Some(vector),
        }
    }

    /// Sets that vector (16 to 255).
    pub(crate) fn set_upcall_vector(&self, vector: u8) {
        self.upcall_vector.store(vector, Ordering::SeqCst);
    }
}

impl Default for VcpuEvents {
    fn default() -> Self {
        Self::new()
    }
}

/// A domain's part of event delivery.
#[derive(Debug)]
pub struct DomainEvents {
    /// The frame of its shared_info: the hypervisor's own, set once while the domain is built
    /// ([`attach_shared_info`]).
    pub shared_info: spin::Once<Mfn>,
    /// Events raised in this domain, ever.
    pub sent: AtomicU64,
    gate: gate::Gate,
    ports: port::PortTable,
    array: fifo::EventArray,
    uses_fifo: AtomicBool,
    /// The guest runs 32-bit code: its shared_info and `vcpu_info` have 32-bit layout.
    narrow: AtomicBool,
    book: Mutex<bind::Book, { rank::EVENT }>,
}

impl DomainEvents {
    /// No ports, the 2-level ABI, 64-bit layout.
    pub const fn new() -> Self {
        Self {
            shared_info: spin::Once::new(),
            sent: AtomicU64::new(0),
            gate: gate::Gate::new(),
            ports: port::PortTable::new(),
            array: fifo::EventArray::new(),
            uses_fifo: AtomicBool::new(false),
            narrow: AtomicBool::new(false),
            book: Mutex::new(bind::Book::new()),
        }
    }

    /// The frame of its shared_info, once there is one.
    #[inline]
    pub fn shared_info_frame(&self) -> Option<Mfn> {
        self.shared_info.get().copied()
    }

    /// Whether it has switched to the FIFO ABI.
    #[inline]
    pub fn uses_fifo(&self) -> bool {
        self.uses_fifo.load(Ordering::SeqCst)
    }

    /// Whether shared_info and `vcpu_info` have the 32-bit layout.
    #[inline]
    pub fn is_narrow(&self) -> bool {
        self.narrow.load(Ordering::SeqCst)
    }
}

impl Default for DomainEvents {
    fn default() -> Self {
        Self::new()
    }
}
