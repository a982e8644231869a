//! `event_channel.h`: `event_channel_op`, the 2-level and the FIFO ABI.

use crate::xen::{DomId, Gfn, VcpuId};
pub use crate::xen::{Port, Virq};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `EVTCHNOP_bind_interdomain`: connect to a port that another domain allocated.
pub const BIND_INTERDOMAIN: u32 = 0;
/// `EVTCHNOP_bind_virq`: receive a virtual interrupt.
pub const BIND_VIRQ: u32 = 1;
/// `EVTCHNOP_bind_pirq`: receive a physical interrupt.
pub const BIND_PIRQ: u32 = 2;
/// `EVTCHNOP_close`: close a port.
pub const CLOSE: u32 = 3;
/// `EVTCHNOP_send`: signal the other end.
pub const SEND: u32 = 4;
/// `EVTCHNOP_status`: what a port is bound to.
pub const STATUS: u32 = 5;
/// `EVTCHNOP_alloc_unbound`: allocate a port for another domain to bind.
pub const ALLOC_UNBOUND: u32 = 6;
/// `EVTCHNOP_bind_ipi`: a port for signals between the domain's vCPUs.
pub const BIND_IPI: u32 = 7;
/// `EVTCHNOP_bind_vcpu`: choose which vCPU a port signals.
pub const BIND_VCPU: u32 = 8;
/// `EVTCHNOP_unmask`: unmask, and deliver what is pending.
pub const UNMASK: u32 = 9;
/// `EVTCHNOP_reset`: close all ports.
pub const RESET: u32 = 10;
/// `EVTCHNOP_init_control`: a vCPU's control block; switches the domain to the FIFO ABI.
pub const INIT_CONTROL: u32 = 11;
/// `EVTCHNOP_expand_array`: one more page of event words.
pub const EXPAND_ARRAY: u32 = 12;
/// `EVTCHNOP_set_priority`: a port's queue.
pub const SET_PRIORITY: u32 = 13;

/// `EVTCHN_2L_NR_CHANNELS` of a 64-bit guest.
pub const TWO_LEVEL_NR_CHANNELS: u32 = 4096;
/// Ports of a 32-bit guest with the 2-level ABI.
pub const TWO_LEVEL_NR_CHANNELS_32: u32 = 1024;

/// `EVTCHN_FIFO_PRIORITY_MAX`: the most urgent queue.
pub const FIFO_PRIORITY_MAX: u32 = 0;
/// `EVTCHN_FIFO_PRIORITY_DEFAULT`: a new port's queue.
pub const FIFO_PRIORITY_DEFAULT: u32 = 7;
/// `EVTCHN_FIFO_PRIORITY_MIN`: the least urgent queue.
pub const FIFO_PRIORITY_MIN: u32 = 15;
/// `EVTCHN_FIFO_MAX_QUEUES`: queues of a vCPU.
pub const FIFO_MAX_QUEUES: usize = 16;
/// `EVTCHN_FIFO_PENDING`: bit number in an event word: pending.
pub const FIFO_PENDING: u32 = 31;
/// `EVTCHN_FIFO_MASKED`: bit number in an event word: masked.
pub const FIFO_MASKED: u32 = 30;
/// `EVTCHN_FIFO_LINKED`: bit number in an event word: on a queue.
pub const FIFO_LINKED: u32 = 29;
/// `EVTCHN_FIFO_BUSY`: bit number in an event word: being moved.
pub const FIFO_BUSY: u32 = 28;
/// `EVTCHN_FIFO_LINK_BITS`: width of the link field.
pub const FIFO_LINK_BITS: u32 = 17;
/// `EVTCHN_FIFO_LINK_MASK`: the link field: the next port on the queue.
pub const FIFO_LINK_MASK: u32 = (1 << FIFO_LINK_BITS) - 1;
/// `EVTCHN_FIFO_NR_CHANNELS`: ports of a domain.
pub const FIFO_NR_CHANNELS: u32 = 1 << FIFO_LINK_BITS;
/// Event words in one page.
pub const FIFO_EVENT_WORDS_PER_PAGE: u32 = 1024;
/// Pages of event words a domain can have.
pub const FIFO_MAX_EVENT_ARRAY_PAGES: u32 = FIFO_NR_CHANNELS / FIFO_EVENT_WORDS_PER_PAGE;

/// `struct evtchn_fifo_control_block`: one of each vCPU, accessed in place by both sides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct FifoControlBlock {
    /// A bit per queue that is not empty.
    pub ready: u32,
    /// Reserved.
    pub _rsvd: u32,
    /// First port of each queue.
    pub head: [u32; FIFO_MAX_QUEUES],
}

/// `struct evtchn_alloc_unbound`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct AllocUnbound {
    /// Whose port.
    pub dom: DomId,
    /// Who may bind it.
    pub remote_dom: DomId,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_bind_interdomain`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BindInterdomain {
    /// The other domain.
    pub remote_dom: DomId,
    /// Padding.
    pub pad: u16,
    /// Its port.
    pub remote_port: Port,
    /// Out: ours.
    pub local_port: Port,
}

/// `struct evtchn_bind_virq`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BindVirq {
    /// `VIRQ_*`.
    pub virq: Virq,
    /// The vCPU to signal; 0 for a line that is not per vCPU.
    pub vcpu: VcpuId,
    /// Out: the port.
    pub port: Port,
}

/// `BIND_PIRQ__WILL_SHARE`: in [`BindPirq::flags`].
pub const BIND_PIRQ_WILL_SHARE: u32 = 1;

/// `struct evtchn_bind_pirq`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BindPirq {
    /// The interrupt.
    pub pirq: u32,
    /// `BIND_PIRQ_*`.
    pub flags: u32,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_bind_ipi`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BindIpi {
    /// The vCPU to signal.
    pub vcpu: VcpuId,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_close`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Close {
    /// The port.
    pub port: Port,
}

/// `struct evtchn_send`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Send {
    /// The port.
    pub port: Port,
}

/// `EVTCHNSTAT_closed`: not in use.
pub const STATUS_CLOSED: u32 = 0;
/// `EVTCHNSTAT_unbound`: waiting to be bound by another domain.
pub const STATUS_UNBOUND: u32 = 1;
/// `EVTCHNSTAT_interdomain`: connected to another domain.
pub const STATUS_INTERDOMAIN: u32 = 2;
/// `EVTCHNSTAT_pirq`: bound to a physical interrupt.
pub const STATUS_PIRQ: u32 = 3;
/// `EVTCHNSTAT_virq`: bound to a virtual interrupt.
pub const STATUS_VIRQ: u32 = 4;
/// `EVTCHNSTAT_ipi`: bound for signals between vCPUs.
pub const STATUS_IPI: u32 = 5;

/// `struct evtchn_status`. The union `u` means something according to `status`: see the accessors.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Status {
    /// In: whose port.
    pub dom: DomId,
    /// Padding.
    pub pad: u16,
    /// In: the port.
    pub port: Port,
    /// Out: `EVTCHNSTAT_*`.
    pub status: u32,
    /// Out: the vCPU it signals.
    pub vcpu: VcpuId,
    /// Out: the union.
    pub u: [u32; 2],
}

impl Status {
    /// `u.unbound.dom`: who may bind the port.
    pub const fn unbound_dom(&self) -> DomId {
        DomId(self.u[0] as u16)
    }

    /// Sets `u.unbound.dom`.
    pub const fn set_unbound(&mut self, dom: DomId) {
        self.u = [dom.0 as u32, 0];
    }

    /// `u.interdomain`: the other end.
    pub const fn interdomain(&self) -> (DomId, Port) {
        (DomId(self.u[0] as u16), Port(self.u[1]))
    }

    /// Sets `u.interdomain`.
    pub const fn set_interdomain(&mut self, dom: DomId, port: Port) {
        self.u = [dom.0 as u32, port.0];
    }

    /// `u.pirq`: the physical interrupt.
    pub const fn pirq(&self) -> u32 {
        self.u[0]
    }

    /// `u.virq`: the virtual interrupt.
    pub const fn virq(&self) -> Virq {
        Virq(self.u[0])
    }

    /// Sets `u.virq`.
    pub const fn set_virq(&mut self, virq: Virq) {
        self.u = [virq.0, 0];
    }
}

/// `struct evtchn_bind_vcpu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BindVcpu {
    /// The port.
    pub port: Port,
    /// The vCPU to signal.
    pub vcpu: VcpuId,
}

/// `struct evtchn_unmask`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Unmask {
    /// The port.
    pub port: Port,
}

/// `struct evtchn_reset`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Reset {
    /// Whose ports.
    pub dom: DomId,
}

/// `struct evtchn_init_control`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct InitControl {
    /// In: the page that holds the control block.
    pub control_gfn: Gfn,
    /// In: where in the page; a multiple of 8.
    pub offset: u32,
    /// In: whose control block.
    pub vcpu: VcpuId,
    /// Out: width of the link field.
    pub link_bits: u8,
    /// Padding.
    pub _pad: [u8; 7],
}

/// `struct evtchn_expand_array`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ExpandArray {
    /// The page to add.
    pub array_gfn: Gfn,
}

/// `struct evtchn_set_priority`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetPriority {
    /// The port.
    pub port: Port,
    /// 0 (most urgent) to 15.
    pub priority: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(FIFO_MAX_QUEUES == FIFO_PRIORITY_MIN as usize + 1);
    assert!(size_of::<FifoControlBlock>() == 72);
    assert!(offset_of!(FifoControlBlock, head) == 8);
    assert!(size_of::<AllocUnbound>() == 8);
    assert!(offset_of!(AllocUnbound, port) == 4);
    assert!(size_of::<BindInterdomain>() == 12);
    assert!(offset_of!(BindInterdomain, remote_port) == 4);
    assert!(offset_of!(BindInterdomain, local_port) == 8);
    assert!(size_of::<BindVirq>() == 12);
    assert!(size_of::<BindPirq>() == 12);
    assert!(size_of::<BindIpi>() == 8);
    assert!(size_of::<Close>() == 4 && size_of::<Send>() == 4 && size_of::<Unmask>() == 4);
    assert!(size_of::<Status>() == 24);
    assert!(offset_of!(Status, port) == 4);
    assert!(offset_of!(Status, status) == 8);
    assert!(offset_of!(Status, u) == 16);
    assert!(size_of::<BindVcpu>() == 8);
    assert!(size_of::<Reset>() == 2);
    assert!(size_of::<InitControl>() == 24);
    assert!(offset_of!(InitControl, offset) == 8);
    assert!(offset_of!(InitControl, link_bits) == 16);
    assert!(size_of::<ExpandArray>() == 8);
    assert!(size_of::<SetPriority>() == 8);
};
