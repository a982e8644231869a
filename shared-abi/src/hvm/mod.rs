//! `hvm/hvm_op.h`: `hvm_op`; and its neighbours [`params`], [`start_info`] and [`hvm_vcpu`].

pub mod hvm_vcpu;
pub mod params;
pub mod start_info;

use crate::xen::{DomId, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `HVMOP_set_param`: set a parameter ([`params`]).
pub const SET_PARAM: u32 = 0;
/// `HVMOP_get_param`: read one.
pub const GET_PARAM: u32 = 1;
/// `HVMOP_set_pci_intx_level`: removed from the current interface.
pub const SET_PCI_INTX_LEVEL: u32 = 2;
/// `HVMOP_set_isa_irq_level`: removed from the current interface.
pub const SET_ISA_IRQ_LEVEL: u32 = 3;
/// `HVMOP_set_pci_link_route`: removed from the current interface.
pub const SET_PCI_LINK_ROUTE: u32 = 4;
/// `HVMOP_flush_tlbs`: flush the TLBs of all vCPUs.
pub const FLUSH_TLBS: u32 = 5;
/// `HVMOP_pagetable_dying`: a hint for shadow paging.
pub const PAGETABLE_DYING: u32 = 9;
/// `HVMOP_get_time`: the domain's time.
pub const GET_TIME: u32 = 10;
/// `HVMOP_xentrace`: put a record into the trace ([`crate::guest_event`]).
pub const XENTRACE: u32 = 11;
/// `HVMOP_set_mem_access`: superseded by `memory_op`.
pub const SET_MEM_ACCESS: u32 = 12;
/// `HVMOP_get_mem_access`: superseded by `memory_op`.
pub const GET_MEM_ACCESS: u32 = 13;
/// `HVMOP_get_mem_type`: the type of a gfn.
pub const GET_MEM_TYPE: u32 = 15;
/// `HVMOP_set_evtchn_upcall_vector`: a vCPU's vector for upcalls.
pub const SET_EVTCHN_UPCALL_VECTOR: u32 = 23;
/// `HVMOP_guest_request_vm_event`: raise an introspection event.
pub const GUEST_REQUEST_VM_EVENT: u32 = 24;
/// `HVMOP_altp2m`: alternate physical maps.
pub const ALTP2M: u32 = 25;

/// `HVMMEM_ram_rw`: memory.
pub const MEM_RAM_RW: u16 = 0;
/// `HVMMEM_ram_ro`: read-only memory.
pub const MEM_RAM_RO: u16 = 1;
/// `HVMMEM_mmio_dm`: emulated, or nothing there.
pub const MEM_MMIO_DM: u16 = 2;
/// `HVMMEM_ioreq_server`: sent to a device model.
pub const MEM_IOREQ_SERVER: u16 = 4;

/// `struct xen_hvm_param`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Param {
    /// Whose.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
    /// `HVM_PARAM_*` ([`params`]).
    pub index: u32,
    /// In or out.
    pub value: u64,
}

/// `struct xen_hvm_pagetable_dying`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PagetableDying {
    /// Whose.
    pub domid: DomId,
    /// Padding.
    pub pad: [u16; 3],
    /// Guest physical address of the page-table root.
    pub gpa: u64,
}

/// `struct xen_hvm_get_time`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GetTime {
    /// Out: the time, ns.
    pub now: u64,
}

/// `TRACE_EXTRA_MAX`: 32-bit words that a trace record can carry.
pub const TRACE_EXTRA_MAX: usize = 7;
/// Bytes that a trace record can carry.
pub const XENTRACE_EXTRA_BYTES: usize = TRACE_EXTRA_MAX * 4;

/// `struct xen_hvm_xentrace`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Xentrace {
    /// The event's number, 12 bits.
    pub event: u16,
    /// How many of `extra`'s bytes are used.
    pub extra_bytes: u16,
    /// What goes with it.
    pub extra: [u8; XENTRACE_EXTRA_BYTES],
}

/// `struct xen_hvm_get_mem_type`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GetMemType {
    /// Whose.
    pub domid: DomId,
    /// Out: `HVMMEM_*`.
    pub mem_type: u16,
    /// Padding.
    pub pad: [u16; 2],
    /// The gfn.
    pub pfn: u64,
}

/// `struct xen_hvm_evtchn_upcall_vector`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct EvtchnUpcallVector {
    /// Which vCPU.
    pub vcpu: VcpuId,
    /// Its vector, at least 16.
    pub vector: u8,
    /// Padding.
    pub pad: [u8; 3],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Param>() == 16);
    assert!(offset_of!(Param, index) == 4);
    assert!(offset_of!(Param, value) == 8);
    assert!(size_of::<PagetableDying>() == 16);
    assert!(size_of::<GetTime>() == 8);
    assert!(size_of::<Xentrace>() == 32);
    assert!(offset_of!(Xentrace, extra) == 4);
    assert!(size_of::<GetMemType>() == 16);
    assert!(offset_of!(GetMemType, pfn) == 8);
    assert!(size_of::<EvtchnUpcallVector>() == 8);
    assert!(offset_of!(EvtchnUpcallVector, vector) == 4);
};
