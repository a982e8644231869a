//! The vCPUs' single-shot timers, which serve all sleeping threads.
//!
//! Invariant: when somebody sleeps, some vCPU's timer is set to the earliest deadline or before it. Who adds an earlier
//! one sets the own timer; who takes a timer's event wakes whoever is due and sets the own timer to what is next.

use crate::{percpu, thread};
use core::sync::atomic::Ordering;
use ebb_guest_hypercall::{VcpuId, vcpu};

/// Makes sure this vCPU's timer fires at `deadline` (ns) or before. Interrupts are off.
pub fn arm(deadline: u64) {
    let own = percpu::own();
    if deadline >= own.timer_armed.load(Ordering::Relaxed) {
        return;
    }
    own.timer_armed.store(deadline, Ordering::Relaxed);
    // A deadline that has passed fires at once.
    if let Err(errno) = vcpu::set_singleshot_timer(VcpuId(percpu::id() as u32), deadline, false) {
        panic!("the single-shot timer is refused: {errno}");
    }
}

/// The event of this vCPU's timer, or of another's, has come. Interrupts are off.
///
/// Should the other one set its timer at this moment, it may forget that: it then sets it once more than it had to.
pub fn expired(id: usize) {
    if let Some(vcpu) = percpu::of(id) {
        vcpu.timer_armed.store(u64::MAX, Ordering::Relaxed);
    }
    thread::wake_due();
}
