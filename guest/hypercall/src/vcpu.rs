//! `vcpu_op`.
#![allow(unsafe_code)] // Commands without a structure; areas that the hypervisor writes to from then on.

use crate::call::call;
use shared_abi::hvm::hvm_vcpu::HvmContext;
use shared_abi::hypercall::VCPU_OP;
use shared_abi::vcpu as abi;
use shared_abi::xen::{Errno, Gfn, VcpuId};

fn simple(operation: u32, vcpu: VcpuId) -> Result<i64, Errno> {
    // SAFETY: none of the operations passed here has an argument or writes to the guest's memory.
    unsafe { call(VCPU_OP, [u64::from(operation), u64::from(vcpu.0), 0, 0, 0]) }
}

fn with<T>(operation: u32, vcpu: VcpuId, argument: &mut T) -> Result<i64, Errno> {
    let address = core::ptr::from_mut(argument).expose_provenance() as u64;
    // SAFETY: the operations passed here read or fill `argument`, which is exclusively borrowed, and the structures
    // admit any bit pattern. What an area registered by it is used for is the caller's contract.
    unsafe { call(VCPU_OP, [u64::from(operation), u64::from(vcpu.0), address, 0, 0]) }
}

/// Sets the registers with which a vCPU will start.
///
/// # Safety
/// Code at the entry is ready to run on that vCPU with those registers, with a stack of its own.
pub unsafe fn initialise(vcpu: VcpuId, context: &HvmContext) -> Result<(), Errno> {
    with(abi::INITIALISE, vcpu, &mut { *context }).map(drop)
}

/// Brings an initialised vCPU online.
pub fn up(vcpu: VcpuId) -> Result<(), Errno> {
    simple(abi::UP, vcpu).map(drop)
}

/// Takes a vCPU offline. For the calling one this returns when another brings it up again.
pub fn down(vcpu: VcpuId) -> Result<(), Errno> {
    simple(abi::DOWN, vcpu).map(drop)
}

/// Is the vCPU online?
pub fn is_up(vcpu: VcpuId) -> Result<bool, Errno> {
    simple(abi::IS_UP, vcpu).map(|up| up == 1)
}

/// The vCPU's run state and times.
pub fn runstate(vcpu: VcpuId) -> Result<abi::RunstateInfo, Errno> {
    let mut info = abi::RunstateInfo::default();
    with(abi::GET_RUNSTATE_INFO, vcpu, &mut info).map(|_| info)
}

/// Has the hypervisor keep the run state at a virtual address.
///
/// # Safety
/// `address` is a `vcpu_runstate_info` that stays mapped in that vCPU's page tables, is accessed by volatile or atomic
/// reads only and is never freed.
pub unsafe fn register_runstate_area(vcpu: VcpuId, address: u64) -> Result<(), Errno> {
    let mut argument = abi::RegisterRunstateMemoryArea { addr: address };
    with(abi::REGISTER_RUNSTATE_MEMORY_AREA, vcpu, &mut argument).map(drop)
}

/// Has the hypervisor keep the clock at a virtual address.
///
/// # Safety
/// As for [`register_runstate_area`], with a `vcpu_time_info`.
pub unsafe fn register_time_area(vcpu: VcpuId, address: u64) -> Result<(), Errno> {
    let mut argument = abi::RegisterTimeMemoryArea { addr: address };
    with(abi::REGISTER_VCPU_TIME_MEMORY_AREA, vcpu, &mut argument).map(drop)
}

/// Moves the vCPU's `vcpu_info` to `offset` in page `gfn`. Once per vCPU.
///
/// # Safety
/// The place is a `vcpu_info` ([`crate::shared::VcpuInfo`]) that is never used for anything else again.
pub unsafe fn register_vcpu_info(vcpu: VcpuId, gfn: Gfn, offset: u32) -> Result<(), Errno> {
    let mut argument = abi::RegisterVcpuInfo { mfn: gfn, offset, rsvd: 0 };
    with(abi::REGISTER_VCPU_INFO, vcpu, &mut argument).map(drop)
}

/// A periodic timer with the given period, ns.
pub fn set_periodic_timer(vcpu: VcpuId, period_ns: u64) -> Result<(), Errno> {
    with(abi::SET_PERIODIC_TIMER, vcpu, &mut abi::SetPeriodicTimer { period_ns }).map(drop)
}

/// Stops the periodic timer.
pub fn stop_periodic_timer(vcpu: VcpuId) -> Result<(), Errno> {
    simple(abi::STOP_PERIODIC_TIMER, vcpu).map(drop)
}

/// Fires `VIRQ_TIMER` at `timeout` (system time, ns). With `future`, a time that is past is -ETIME.
pub fn set_singleshot_timer(vcpu: VcpuId, timeout: u64, future: bool) -> Result<(), Errno> {
    let mut argument = abi::SetSingleshotTimer {
        timeout_abs_ns: timeout,
        flags: if future { abi::SINGLESHOT_FUTURE } else { 0 },
        pad: 0,
    };
    with(abi::SET_SINGLESHOT_TIMER, vcpu, &mut argument).map(drop)
}

/// Stops the single-shot timer.
pub fn stop_singleshot_timer(vcpu: VcpuId) -> Result<(), Errno> {
    simple(abi::STOP_SINGLESHOT_TIMER, vcpu).map(drop)
}

/// Sends an NMI.
pub fn send_nmi(vcpu: VcpuId) -> Result<(), Errno> {
    simple(abi::SEND_NMI, vcpu).map(drop)
}
