//! What the core asks of the machine: the only border between policy and hardware.
//!
//! An implementation exists for the real machine (`hypervisor/src/glue`) and one for host tests (`testing`). Methods
//! are called with interrupts off on the CPU concerned, and must not call back into the core.
//!
//! Memory: all RAM is mapped for the life of the machine, so a reference to an aligned word of RAM is always valid.
//! Guests write their memory at any time; that is why words are atomics and bytes are copied, never borrowed.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use shared_abi::memory::E820Entry;
use shared_abi::xen::{DomId, Mfn};

use crate::p2m::EntryFormat;

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// An address in machine (host-physical) memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineAddress(pub u64);

impl MachineAddress {
    /// The address `offset` bytes into frame `mfn`.
    pub fn in_frame(mfn: Mfn, offset: usize) -> Self {
        debug_assert!(offset < PAGE_SIZE);
        Self((mfn.0 << PAGE_SHIFT) | offset as u64)
    }

    /// The frame that holds this address.
    pub fn frame(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }
}

/// A physical CPU, numbered from 0 without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u16);

impl CpuId {
    /// As an index into per-CPU tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How important a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed that should not have.
    Error,
    /// Something a user should look at.
    Warn,
    /// Milestones.
    Info,
    /// For developers.
    Debug,
}

/// Whose console output it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A domain's: printable text, which the machine marks with whose it is.
    Domain(DomId),
    /// A privileged domain's: any bytes, to be shown as they are.
    Privileged(DomId),
}

/// Bits of control registers that guests may set: those whose features they are offered.
#[derive(Clone, Copy, Debug)]
pub struct ControlMasks {
    /// Of CR4.
    pub cr4: u64,
    /// Of EFER, without LMA.
    pub efer: u64,
}

/// How the TSC turns into nanoseconds, in the form of Xen's `vcpu_time_info`:
/// `ns = ((tsc - tsc_base) << shift) * mul >> 32` (negative `shift` shifts right), plus `ns_base`.
#[derive(Clone, Copy, Debug)]
pub struct TscScale {
    /// Multiplier, 32.32 fixed point.
    pub mul: u32,
    /// Power of two applied to the TSC difference first.
    pub shift: i8,
    /// TSC at the base point.
    pub tsc_base: u64,
    /// System time in nanoseconds at the base point.
    pub ns_base: u64,
    /// TSC frequency in kHz.
    pub khz: u64,
}

/// The machine, as the core sees it.
pub trait Machine: Sized + Send + Sync + 'static {
    /// What the machine keeps for each vCPU (control block, FPU area, …). Only the CPU running the vCPU touches it.
    type VcpuState: Send + Sync;
    /// The vendor's nested page-table entry format.
    type Format: EntryFormat;

    /// A fresh state for a vCPU that will be started by [`crate::vcpu::StartState`] later. May allocate; `None` when
    /// memory is short.
    fn new_vcpu_state(&self) -> Option<Self::VcpuState>;

    /// What guests may set in their control registers.
    fn control_masks(&self) -> ControlMasks;

    /// The 64-bit word at `address` (8-byte aligned, in RAM).
    fn word64(&self, address: MachineAddress) -> &AtomicU64;
    /// The 32-bit word at `address` (4-byte aligned, in RAM).
    fn word32(&self, address: MachineAddress) -> &AtomicU32;
    /// The 16-bit word at `address` (2-byte aligned, in RAM).
    fn word16(&self, address: MachineAddress) -> &AtomicU16;
    /// The byte at `address` (in RAM).
    fn byte(&self, address: MachineAddress) -> &AtomicU8;
    /// Copies out of RAM; the range may cross frames only where they are contiguous.
    fn read(&self, address: MachineAddress, bytes: &mut [u8]);
    /// Copies into RAM; the range may cross frames only where they are contiguous.
    fn write(&self, address: MachineAddress, bytes: &[u8]);
    /// The machine's memory map, as its firmware gave it.
    fn memory_map(&self) -> &[E820Entry];

    /// Copies a frame's contents to another.
    fn copy_frame(&self, from: Mfn, to: Mfn);
    /// Clears `1 << order` frames.
    fn zero(&self, first: Mfn, order: u32);

    /// Nanoseconds since boot: the same on every CPU, never going back.
    fn now(&self) -> u64;
    /// The TSC now.
    fn tsc(&self) -> u64;
    /// How guests turn the TSC into [`Machine::now`].
    fn tsc_scale(&self) -> TscScale;
    /// Nanoseconds since 1970 at [`Machine::now`] = 0.
    fn wall_clock_base(&self) -> u64;
    /// Makes this CPU leave the guest (or its halt) at the absolute time `deadline` (ns), or never.
    fn arm_timer(&self, deadline: Option<u64>);

    /// The CPU this runs on.
    fn this_cpu(&self) -> CpuId;
    /// Physical CPUs in use.
    fn cpu_count(&self) -> usize;
    /// Makes another CPU leave the guest or its halt soon, and look at its work.
    fn kick(&self, cpu: CpuId);
    /// A pause in a spin loop.
    fn relax(&self);
    /// Lets interrupts that wait on this CPU be taken (their handlers only make a note) and says whether anything has
    /// been noted that the CPU's main loop should see. Long calls ask this between two pieces of work.
    fn interrupt_waiting(&self) -> bool {
        false
    }

    /// Console output. Bounded by the caller.
    fn console_write(&self, speaker: Speaker, bytes: &[u8]);
    /// Takes what has been typed on the hypervisor's console, as much as there is and fits; how many bytes. A machine
    /// without an input has none.
    fn console_read(&self, bytes: &mut [u8]) -> usize {
        let _ = bytes;
        0
    }
    /// A line for the hypervisor's log.
    fn log(&self, level: Level, line: fmt::Arguments<'_>);
    /// A record for the trace stream of this CPU; dropped, and counted as lost, when the ring is full.
    fn trace(&self, kind: u16, payload: &[u8]);
    /// Whether records of this kind are wanted, so that callers can skip building them.
    fn trace_enabled(&self, kind: u16) -> bool;
}
