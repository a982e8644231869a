//! `vcpu_op`: starting and stopping vCPUs, runstates, timers, and the areas a guest registers for a vCPU.
//!
//! Specification: Xen's `public/vcpu.h` and `public/hvm/hvm_vcpu.h`, and what Xen 4.17 answers; the physical-address
//! forms of the areas (14, 15) are Xen 4.19's.

use shared_abi::hvm::hvm_vcpu::HvmContext;
use shared_abi::vcpu as abi;
use shared_abi::xen::{Errno, VcpuId};

use crate::hypercall::{Call, CallResult, Next, Width};
use crate::machine::Machine;
use crate::runstate::{self, GuestArea, Runstate};
use crate::sched::state::Word;
use crate::timer::{self, Kind};
use crate::vcpu::{Attention, VcpuRef};
use crate::{clock, evtchn, sched};

mod start;

/// Shortest period of a periodic timer, in nanoseconds.
const LEAST_PERIOD: u64 = 1_000_000;
/// Longest period of a periodic timer, in nanoseconds (Xen's limit for any timer).
const MOST_PERIOD: u64 = i64::MAX as u64 >> 2;

const DONE: CallResult = Ok(Next::Return(0));

/// Runs `vcpu_op(cmd, vcpuid, argument)`.
///
/// # Errors
/// `ENOENT` for a vCPU that does not exist, `ENOSYS` for an unknown operation, `EFAULT` for an argument the guest does
/// not map, and what each operation says.
pub fn vcpu_op<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let command = call.args[0] as u32;
    let argument = call.args[2];
    let id = VcpuId(call.args[1] as u32);
    let vcpu = VcpuRef::new(call.current.domain(), id).ok_or(Errno::ENOENT)?;
    match command {
        abi::INITIALISE => initialise(call, &vcpu, argument),
        abi::UP => up(call, &vcpu),
        abi::DOWN => down(call, &vcpu),
        abi::IS_UP => Ok(Next::Return(i64::from(!vcpu.sched.state().is_down()))),
        abi::GET_RUNSTATE_INFO => {
            let info = vcpu.runstate.info(call.hv.machine.now());
            let (bytes, length) = runstate::encode(&info, call.width);
            call.write_guest_bytes(argument, &bytes[..length])?;
            DONE
        }
        abi::REGISTER_RUNSTATE_MEMORY_AREA => {
            let address = read_address(call, argument)?;
            let area = GuestArea::pin_virtual(call, address, Runstate::area_bytes(call.width))?;
            register_runstate(call, &vcpu, area)
        }
        abi::REGISTER_RUNSTATE_PHYS_AREA => {
            let address = read_address(call, argument)?;
            let domain = vcpu.domain();
            if address == u64::MAX {
                vcpu.runstate.unregister(&call.hv.heap);
                return DONE;
            }
            let area = GuestArea::pin_physical(call.hv, domain, address, Runstate::area_bytes(call.width))?;
            register_runstate(call, &vcpu, area)
        }
        abi::REGISTER_VCPU_TIME_MEMORY_AREA => {
            let address = read_address(call, argument)?;
            clock::register_time_area(call, &vcpu, address)
        }
        abi::REGISTER_VCPU_TIME_PHYS_AREA => {
            let address = read_address(call, argument)?;
            clock::register_time_area_physical(call, &vcpu, address)
        }
        abi::SET_PERIODIC_TIMER => {
            let request: abi::SetPeriodicTimer = call.read_guest(argument)?;
            if !(LEAST_PERIOD..=MOST_PERIOD).contains(&request.period_ns) {
                return Err(Errno::EINVAL);
            }
            timer::set_periodic(call.hv, &vcpu, Some(request.period_ns));
            DONE
        }
        abi::STOP_PERIODIC_TIMER => {
            timer::set_periodic(call.hv, &vcpu, None);
            DONE
        }
        abi::SET_SINGLESHOT_TIMER => set_singleshot(call, &vcpu, argument),
        abi::STOP_SINGLESHOT_TIMER => {
            if vcpu.id != call.current.id {
                return Err(Errno::EINVAL);
            }
            timer::set(call.hv, &vcpu, Kind::Singleshot, None);
            DONE
        }
        abi::REGISTER_VCPU_INFO => {
            let request: abi::RegisterVcpuInfo = call.read_guest(argument)?;
            evtchn::register_vcpu_info(call, &vcpu, request.mfn, request.offset)
        }
        abi::SEND_NMI => {
            if argument != 0 {
                return Err(Errno::EINVAL);
            }
            vcpu.raise(Attention::NMI);
            call.hv.notify_vcpu(&vcpu);
            DONE
        }
        // For pinned vCPUs of the hardware domain, of which there is none.
        abi::GET_PHYSID => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}

/// `VCPUOP_initialise`: once per vCPU.
///
/// # Errors
/// `EEXIST` for one that has a state already, `EINVAL` for a state no processor could be in.
fn initialise<M: Machine>(call: &mut Call<'_, M>, vcpu: &VcpuRef<M>, argument: u64) -> CallResult {
    let context: HvmContext = call.read_guest(argument)?;
    // As on Xen this comes before a look at the state; it is asked again below, where it counts.
    if vcpu.sched.state().is_initialised() {
        return Err(Errno::EEXIST);
    }
    let state = start::state_from(&context, call.hv.machine.control_masks())?;
    {
        // All under the lock: of two callers one comes first, and who sees it initialised finds the state.
        let mut start = vcpu.start.lock();
        if vcpu.sched.state().is_initialised() {
            return Err(Errno::EEXIST);
        }
        *start = Some(state);
        vcpu.raise(Attention::START);
        vcpu.sched.word.update(Word::initialised);
    }
    call.hv.forget_start_up(vcpu);
    DONE
}

/// `VCPUOP_up`.
///
/// # Errors
/// `EINVAL` for a vCPU that was never initialised.
fn up<M: Machine>(call: &mut Call<'_, M>, vcpu: &VcpuRef<M>) -> CallResult {
    if !vcpu.sched.state().is_initialised() {
        return Err(Errno::EINVAL);
    }
    sched::set_up(call.hv, vcpu);
    DONE
}

/// `VCPUOP_down`. The last vCPU of a domain that goes down powers the domain off.
fn down<M: Machine>(call: &mut Call<'_, M>, vcpu: &VcpuRef<M>) -> CallResult {
    sched::set_down(call.hv, vcpu);
    sched::sleep::shut_down_if_stopped(call.hv, vcpu.domain());
    DONE
}

/// `VCPUOP_set_singleshot_timer`. A time in the past fires at once.
///
/// # Errors
/// `EINVAL` for a vCPU other than the caller; `ETIME` for a time in the past if the caller asked for that.
fn set_singleshot<M: Machine>(call: &mut Call<'_, M>, vcpu: &VcpuRef<M>, argument: u64) -> CallResult {
    if vcpu.id != call.current.id {
        return Err(Errno::EINVAL);
    }
    let (at, flags) = match call.width {
        Width::Bits64 => {
            let request: abi::SetSingleshotTimer = call.read_guest(argument)?;
            (request.timeout_abs_ns, request.flags)
        }
        Width::Bits32 => {
            // 12 bytes there: 64-bit fields have an alignment of 4.
            let [low, high, flags]: [u32; 3] = call.read_guest(argument)?;
            (u64::from(high) << 32 | u64::from(low), flags)
        }
    };
    if flags & abi::SINGLESHOT_FUTURE != 0 && at < call.hv.machine.now() {
        return Err(Errno::ETIME);
    }
    timer::set(call.hv, vcpu, Kind::Singleshot, Some(at));
    DONE
}

fn register_runstate<M: Machine>(call: &Call<'_, M>, vcpu: &VcpuRef<M>, area: GuestArea) -> CallResult {
    let domain = vcpu.domain();
    vcpu.runstate.register(call.hv, area, call.width, &domain.sched.runstate_update_flag);
    DONE
}

/// Reads the union of addresses that the operations on areas take.
fn read_address<M: Machine>(call: &mut Call<'_, M>, argument: u64) -> Result<u64, Errno> {
    match call.width {
        Width::Bits64 => call.read_guest(argument),
        // The virtual form is 4 bytes there, the physical one 8; the upper half of a virtual address counts for nothing.
        Width::Bits32 => {
            let wide: u64 = call.read_guest(argument)?;
            let physical =
                matches!(call.args[0] as u32, abi::REGISTER_RUNSTATE_PHYS_AREA | abi::REGISTER_VCPU_TIME_PHYS_AREA);
            Ok(if physical { wide } else { wide & 0xffff_ffff })
        }
    }
}
