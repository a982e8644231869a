//! `set_timer_op`.
#![allow(unsafe_code)] // The argument is a number, not a structure.

use crate::call::call;
use shared_abi::hypercall::SET_TIMER_OP;
use shared_abi::xen::Errno;

/// Fires `VIRQ_TIMER` on the calling vCPU at `timeout` (system time, ns); 0 stops the timer.
pub fn set_timer(timeout: u64) -> Result<(), Errno> {
    // SAFETY: the call takes a number and writes to no memory.
    unsafe { call(SET_TIMER_OP, [timeout, 0, 0, 0, 0]) }.map(drop)
}
