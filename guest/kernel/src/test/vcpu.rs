//! `vcpu_op` and `set_timer_op`: life, timers, areas.
#![allow(unsafe_code)] // Areas that the hypervisor writes to.

use super::{Outcome, Stop, Test, on_vcpu, wrong_call};
use crate::{check, check_eq, clock, events, percpu, smp, thread};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebb_guest_hypercall::shared::TimeInfo;
use ebb_guest_hypercall::{Errno, Gfn, VcpuId, pvclock, timer, vcpu};
use shared_abi::hypercall::VCPU_OP;
use shared_abi::vcpu as abi;
use zerocopy::FromZeros;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("vcpu-is-up", is_up),
    ("vcpu-runstate", runstate),
    ("vcpu-runstate-area", runstate_area),
    ("vcpu-time-area", time_area),
    ("vcpu-singleshot", singleshot),
    ("vcpu-set-timer-op", set_timer_op),
    ("vcpu-periodic", periodic),
    ("vcpu-nmi", nmi),
    ("vcpu-info-once", info_once),
    ("vcpu-down-and-up", down_and_up),
    ("vcpu-errors", errors),
];

const MS: u64 = 1_000_000;
const NO_VCPU: VcpuId = VcpuId(9999);

fn own() -> VcpuId {
    VcpuId(percpu::id() as u32)
}

fn is_up() -> Outcome {
    for cpu in 0..smp::online() {
        check_eq!(vcpu::is_up(VcpuId(cpu as u32)), Ok(true), "a vCPU that runs");
    }
    check_eq!(vcpu::is_up(NO_VCPU), Err(Errno::ENOENT), "a vCPU that does not exist");
    Ok(())
}

fn runstate() -> Outcome {
    let info = vcpu::runstate(own())?;
    check_eq!(info.state, abi::RUNSTATE_RUNNING, "the own state");
    // The clock is read on both sides of each call: the vCPU may lose its processor anywhere between.
    let read = || Ok::<_, Stop>((clock::now(), vcpu::runstate(VcpuId(0))?, clock::now()));
    let (before_first, first, after_first) = read()?;
    thread::sleep(20 * MS);
    let (before_second, second, after_second) = read()?;
    let sum = |info: &abi::RunstateInfo| info.time.iter().sum::<u64>();
    let counted = sum(&second) - sum(&first);
    let (least, most) = (before_second - after_first, after_second - before_first);
    check!(counted + MS >= least && counted <= most + MS, "run states account for {counted} of {least} to {most} ns");
    check!(
        (0..4).all(|state| second.time[state] >= first.time[state]),
        "time in a run state went back: {first:?}, {second:?}"
    );
    check_eq!(vcpu::runstate(NO_VCPU).map(drop), Err(Errno::ENOENT), "the state of a vCPU that does not exist");
    Ok(())
}

/// The area's words: state (and padding), entry time, four times.
static AREA: [AtomicU64; 6] = [const { AtomicU64::new(u64::MAX) }; 6];

fn runstate_area() -> Outcome {
    // The area of vCPU 0, looked at on vCPU 0.
    on_vcpu(0, use_area)
}

fn use_area() -> Outcome {
    let address = AREA.as_ptr().expose_provenance() as u64;
    // SAFETY: a static of atomics, mapped alike in all tables.
    unsafe { vcpu::register_runstate_area(VcpuId(0), address)? };
    let read = |index: usize| AREA[index].load(Ordering::SeqCst);
    check_eq!(read(0) as u32, abi::RUNSTATE_RUNNING as u32, "the state in the area");
    let blocked = read(4);
    // On a slow host a short sleep can be over before the vCPU gets to block.
    for attempt in 0..8 {
        thread::sleep((10 * MS) << attempt);
        check_eq!(read(0) as u32, abi::RUNSTATE_RUNNING as u32, "the state after a sleep");
        if read(4) > blocked {
            break;
        }
    }
    check!(read(4) > blocked, "the area's blocked time did not grow over sleeps");
    let call = vcpu::runstate(VcpuId(0))?;
    check!(call.time[2].abs_diff(read(4)) < 5 * MS, "the area says {} ns blocked, the call {}", read(4), call.time[2]);
    Ok(())
}

/// The clock's area, as a structure of atomics.
static TIME: TimeInfo = {
    // SAFETY: all bits zero is a value of a structure of atomic integers.
    unsafe { core::mem::zeroed() }
};

fn time_area() -> Outcome {
    let address = (&raw const TIME).expose_provenance() as u64;
    let vcpu = own();
    // SAFETY: a static of atomics, mapped alike in all tables.
    match unsafe { vcpu::register_time_area(vcpu, address) } {
        Err(Errno::ENOSYS) => return Err(Stop::Skip("there is no such area".into())),
        other => other?,
    }
    check!(TIME.tsc_to_system_mul.load(Ordering::Relaxed) != 0, "the area was not filled");
    if own() == vcpu {
        let (one, other) = (clock::now(), pvclock::now(&TIME, crate::cpu::rdtsc));
        check!(one.abs_diff(other) < 5 * MS, "the clocks say {one} and {other}");
    }
    Ok(())
}

/// Waits, spinning, until this vCPU has had more upcalls than `before`.
fn upcall_within(before: u64, ns: u64) -> bool {
    let own = percpu::own();
    let end = clock::now() + ns;
    while own.upcalls.load(Ordering::SeqCst) == before {
        if clock::now() > end {
            return false;
        }
    }
    true
}

/// Sets the timer and sees that it fires, not before its time. The kernel's own timer is set anew afterwards by the
/// timer's handler.
fn fires(set: impl Fn(u64) -> Result<(), Errno>) -> Outcome {
    for delay in [0, MS, 5 * MS] {
        let own = percpu::own();
        let start = clock::now();
        let before = own.upcalls.load(Ordering::SeqCst);
        set(start + delay)?;
        let early = delay > 0 && own.upcalls.load(Ordering::SeqCst) != before;
        check!(early || upcall_within(before, 2_000 * MS), "no timer event");
        let passed = clock::now() - start;
        check!(passed >= delay, "a timer of {delay} ns fired after {passed}");
    }
    set(clock::now() - MS)?;
    Ok(())
}

fn singleshot() -> Outcome {
    fires(|at| vcpu::set_singleshot_timer(own(), at, false))?;
    // Xen's header leaves it to the hypervisor whether it obeys the flag; 4.17 does not.
    let late = vcpu::set_singleshot_timer(own(), clock::now() - MS, true);
    check!(matches!(late, Ok(()) | Err(Errno::ETIME)), "a timer in the past that must be in the future gave {late:?}");
    check_eq!(vcpu::stop_singleshot_timer(own()), Ok(()), "stopping the timer");
    if smp::online() > 1 {
        let other = VcpuId((percpu::id() as u32 + 1) % smp::online() as u32);
        let foreign = vcpu::set_singleshot_timer(other, clock::now() + MS, false);
        check_eq!(foreign, Err(Errno::EINVAL), "another vCPU's timer");
    }
    Ok(())
}

fn set_timer_op() -> Outcome {
    fires(timer::set_timer)?;
    check_eq!(timer::set_timer(0), Ok(()), "stopping the timer");
    Ok(())
}

fn periodic() -> Outcome {
    let own_data = percpu::own();
    let vcpu_id = own();
    check_eq!(vcpu::set_periodic_timer(vcpu_id, 1000), Err(Errno::EINVAL), "a period of 1 us");
    let start = clock::now();
    vcpu::set_periodic_timer(vcpu_id, 5 * MS)?;
    for tick in 1..=3 {
        let before = own_data.upcalls.load(Ordering::SeqCst);
        check!(upcall_within(before, 2_000 * MS), "tick {tick} of every 5 ms did not come");
    }
    let passed = clock::now() - start;
    vcpu::stop_periodic_timer(vcpu_id)?;
    // Two of them may come close together when the first is late, not three.
    check!(passed >= 5 * MS, "three ticks of every 5 ms came in {passed} ns");
    let before = own_data.upcalls.load(Ordering::SeqCst);
    clock::spin(30 * MS);
    let ticks = own_data.upcalls.load(Ordering::SeqCst) - before;
    check!(ticks <= 1, "{ticks} ticks after the timer was stopped");
    Ok(())
}

fn nmi() -> Outcome {
    for cpu in 0..smp::online() {
        let other = percpu::of(cpu).ok_or("no such vCPU")?;
        let before = other.nmis.load(Ordering::SeqCst);
        vcpu::send_nmi(VcpuId(cpu as u32))?;
        let end = clock::now() + 1_000 * MS;
        while other.nmis.load(Ordering::SeqCst) == before {
            check!(clock::now() < end, "vCPU {cpu} took no NMI");
        }
    }
    check_eq!(vcpu::send_nmi(NO_VCPU), Err(Errno::ENOENT), "an NMI for no vCPU");
    Ok(())
}

fn info_once() -> Outcome {
    let info = events::vcpu_info(0);
    let address = core::ptr::from_ref(info).expose_provenance() as u64;
    let (gfn, offset) = (Gfn(address >> 12), (address & 0xFFF) as u32);
    // SAFETY: refused; and if not, the place is the same as before.
    let again = unsafe { vcpu::register_vcpu_info(VcpuId(0), gfn, offset) };
    // Xen up to 4.17 says -EINVAL, later ones -EBUSY.
    check!(matches!(again, Err(Errno::EBUSY | Errno::EINVAL)), "registering again gave {again:?}");
    // SAFETY: refused: the structure would leave its page.
    let crossing = unsafe { vcpu::register_vcpu_info(VcpuId(0), gfn, 4095) };
    check!(crossing.is_err(), "a place that crosses a page was accepted");
    // SAFETY: refused: there is no such vCPU.
    check_eq!(unsafe { vcpu::register_vcpu_info(NO_VCPU, gfn, 0) }, Err(Errno::ENOENT), "a place for no vCPU");
    Ok(())
}

fn down_and_up() -> Outcome {
    let last = smp::online() - 1;
    if last == 0 {
        return Err(Stop::Skip("it takes two vCPUs".into()));
    }
    let id = VcpuId(last as u32);
    let came_back = Arc::new(AtomicBool::new(false));
    let flag = came_back.clone();
    let other = thread::spawn("down", Some(last), move || {
        let _ = vcpu::down(id);
        flag.store(true, Ordering::SeqCst);
    })?;
    on_vcpu(0, move || bring_up(id, &came_back))?;
    other.join();
    Ok(())
}

fn bring_up(id: VcpuId, came_back: &AtomicBool) -> Outcome {
    let end = clock::now() + 2_000 * MS;
    while vcpu::is_up(id)? {
        check!(clock::now() < end, "the vCPU does not go down");
        let _ = ebb_guest_hypercall::sched::yield_now();
    }
    check!(!came_back.load(Ordering::SeqCst), "a vCPU that is down runs");
    // Its processor may still be on the way out.
    while vcpu::runstate(id)?.state != abi::RUNSTATE_OFFLINE {
        check!(clock::now() < end, "the vCPU's state does not become offline");
        let _ = ebb_guest_hypercall::sched::yield_now();
    }
    vcpu::up(id)?;
    check_eq!(vcpu::is_up(id), Ok(true), "the vCPU after bringing it up");
    while !came_back.load(Ordering::SeqCst) {
        check!(clock::now() < end, "the vCPU does not come back");
        let _ = ebb_guest_hypercall::sched::yield_now();
    }
    Ok(())
}

fn errors() -> Outcome {
    let context = shared_abi::hvm::hvm_vcpu::HvmContext::new_zeroed();
    // SAFETY: refused: the vCPU runs.
    check_eq!(unsafe { vcpu::initialise(VcpuId(0), &context) }, Err(Errno::EEXIST), "initialising a vCPU that runs");
    // SAFETY: refused: there is no such vCPU.
    check_eq!(unsafe { vcpu::initialise(NO_VCPU, &context) }, Err(Errno::ENOENT), "initialising no vCPU");
    check_eq!(vcpu::up(NO_VCPU), Err(Errno::ENOENT), "bringing no vCPU up");
    let op = |op: u32, address: u64| wrong_call(VCPU_OP, [op.into(), 0, address, 0, 0]);
    check_eq!(op(99, 0), Err(Errno::ENOSYS), "an operation that does not exist");
    for operation in [abi::INITIALISE, abi::SET_PERIODIC_TIMER, abi::REGISTER_VCPU_INFO, abi::GET_RUNSTATE_INFO] {
        check_eq!(
            op(operation, 0x7000_0000_0000),
            Err(Errno::EFAULT),
            alloc::format!("operation {operation} without an argument")
        );
    }
    Ok(())
}
