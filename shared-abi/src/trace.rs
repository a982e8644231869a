//! Xen's trace buffers: events, and how they lie in memory that the hypervisor shares with a privileged domain.
//!
//! `XEN_SYSCTL_tbuf_op` ([`crate::sysctl::TbufOp`]) makes them and says where their list is: a `struct t_info` of 16-bit
//! fields, the size of a buffer in pages and then for each CPU where its frame numbers begin in the same memory, counted
//! in 32-bit words. A buffer begins with [`TraceBuffer`]; records follow. A record is one word of event, number of extra
//! words (from bit [`EXTRA_SHIFT`]) and [`CYCLES_INCLUDED`], then the TSC as two words, then the extra words.
//!
//! Ebb's own stream of records is [`crate::trace_stream`].
//!
//! Specification: Xen 4.17's `trace.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `TRACE_EXTRA_MAX`: most extra words of a record.
pub const EXTRA_MAX: usize = 7;
/// `TRACE_EXTRA_SHIFT`: where their number stands in a record's first word.
pub const EXTRA_SHIFT: u32 = 28;
/// The record has a time: bit 31 of its first word, a bit-field in C.
pub const CYCLES_INCLUDED: u32 = 1 << 31;
/// The event's bits of a record's first word.
pub const EVENT_MASK: u32 = (1 << EXTRA_SHIFT) - 1;
/// `TRC_CLS_SHIFT`: where an event's class stands.
pub const CLASS_SHIFT: u32 = 16;
/// `TRC_SUBCLS_SHIFT`: where its subclass stands, 4 bits.
pub const SUBCLASS_SHIFT: u32 = 12;

/// `TRC_ALL`: every event.
pub const ALL: u32 = 0x0fff_f000;
/// `TRC_GEN`: the trace itself.
pub const GENERAL: u32 = 0x0001_f000;
/// `TRC_SCHED`: the scheduler.
pub const SCHED: u32 = 0x0002_f000;
/// `TRC_HVM`: guests in hardware's virtual machines.
pub const HVM: u32 = 0x0008_f000;
/// `TRC_MEM`: memory.
pub const MEM: u32 = 0x0010_f000;
/// `TRC_GUEST`: what guests report by `HVMOP_xentrace`.
pub const GUEST: u32 = 0x0800_f000;

/// `TRC_LOST_RECORDS`: records lost, the vCPU then (domain in the low half), the TSC of the first (two words).
pub const LOST_RECORDS: u32 = GENERAL + 1;
/// `TRC_TRACE_WRAP_BUFFER`: fills a buffer's end.
pub const WRAP_BUFFER: u32 = GENERAL + 2;

/// `TRC_SCHED_RUNSTATE_CHANGE`: vCPU and domain (high half) in a word; the old state is added from bit 8, the new one
/// from bit 4.
pub const SCHED_RUNSTATE_CHANGE: u32 = 0x0002_1001;
/// `TRC_SCHED_DOM_ADD`: a domain.
pub const SCHED_DOM_ADD: u32 = 0x0002_8001;
/// `TRC_SCHED_DOM_REM`: a domain.
pub const SCHED_DOM_REM: u32 = 0x0002_8002;
/// `TRC_SCHED_WAKE`: domain, vCPU.
pub const SCHED_WAKE: u32 = 0x0002_8004;
/// `TRC_SCHED_YIELD`: domain, vCPU.
pub const SCHED_YIELD: u32 = 0x0002_8005;
/// `TRC_SCHED_BLOCK`: domain, vCPU.
pub const SCHED_BLOCK: u32 = 0x0002_8006;
/// `TRC_SCHED_SHUTDOWN`: domain, vCPU, reason.
pub const SCHED_SHUTDOWN: u32 = 0x0002_8007;
/// `TRC_SCHED_SWITCH`: domain and vCPU that ran, domain and vCPU that run now.
pub const SCHED_SWITCH: u32 = 0x0002_800a;

/// `TRC_HVM_VMENTRY`: into a guest.
pub const HVM_VMENTRY: u32 = 0x0008_1001;
/// `TRC_HVM_VMEXIT64`: the processor's code of the exit, the instruction pointer (two words).
pub const HVM_VMEXIT64: u32 = 0x0008_1102;
/// `TRC_MEM_DECREASE_RESERVATION`: gfn (two words), domain and order (high half), a word of padding.
pub const MEM_DECREASE_RESERVATION: u32 = 0x0010_f005;

/// `struct t_buf`: the head of a buffer. The counters are in bytes, from 0 to twice what the buffer holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TraceBuffer {
    /// Where the reader is.
    pub cons: u32,
    /// Where the hypervisor is.
    pub prod: u32,
}

const _: () = {
    assert!(size_of::<TraceBuffer>() == 8);
    assert!(core::mem::offset_of!(TraceBuffer, prod) == 4);
};
