//! `hvm_op`.
#![allow(unsafe_code)] // A command without a structure.

use crate::call::{call, command};
use shared_abi::hvm as abi;
use shared_abi::hypercall::HVM_OP;
use shared_abi::xen::{DomId, Errno, VcpuId};

/// Sets a parameter of our own (`HVM_PARAM_*`).
pub fn set_param(index: u32, value: u64) -> Result<(), Errno> {
    let mut argument = abi::Param { domid: DomId::SELF, pad: 0, index, value };
    command(HVM_OP, u64::from(abi::SET_PARAM), &mut argument).map(drop)
}

/// Sets a parameter of another domain's. Privileged.
pub fn set_param_of(domain: DomId, index: u32, value: u64) -> Result<(), Errno> {
    let mut argument = abi::Param { domid: domain, pad: 0, index, value };
    command(HVM_OP, u64::from(abi::SET_PARAM), &mut argument).map(drop)
}

/// Reads a parameter of our own.
pub fn get_param(index: u32) -> Result<u64, Errno> {
    let mut argument = abi::Param { domid: DomId::SELF, pad: 0, index, value: 0 };
    command(HVM_OP, u64::from(abi::GET_PARAM), &mut argument).map(|_| argument.value)
}

/// Delivers a vCPU's upcalls through its local APIC as `vector`, to be ended by an EOI.
pub fn set_evtchn_upcall_vector(vcpu: VcpuId, vector: u8) -> Result<(), Errno> {
    let mut argument = abi::EvtchnUpcallVector { vcpu, vector, pad: [0; 3] };
    command(HVM_OP, u64::from(abi::SET_EVTCHN_UPCALL_VECTOR), &mut argument).map(drop)
}

/// The domain's time, ns.
pub fn get_time() -> Result<u64, Errno> {
    let mut argument = abi::GetTime { now: 0 };
    command(HVM_OP, u64::from(abi::GET_TIME), &mut argument).map(|_| argument.now)
}

/// Flushes the TLBs of all our vCPUs.
pub fn flush_tlbs() -> Result<(), Errno> {
    // SAFETY: the argument must be null; forgetting translations is always allowed.
    unsafe { call(HVM_OP, [u64::from(abi::FLUSH_TLBS), 0, 0, 0, 0]) }.map(drop)
}

/// Puts a record into the hypervisor's trace: `event` of 12 bits and at most 28 bytes (the rest is cut off).
pub fn xentrace(event: u16, bytes: &[u8]) -> Result<(), Errno> {
    let length = bytes.len().min(abi::XENTRACE_EXTRA_BYTES);
    let mut argument = abi::Xentrace { event, extra_bytes: length as u16, ..Default::default() };
    argument.extra[..length].copy_from_slice(&bytes[..length]);
    command(HVM_OP, u64::from(abi::XENTRACE), &mut argument).map(drop)
}
