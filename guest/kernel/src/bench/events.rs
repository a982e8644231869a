//! Rows about event channels on one vCPU.

use super::{Outcome, SAMPLES, WARM_UP, repeat, time};
use crate::event_loop::Loop;
use crate::events::EventPort;
use crate::{cpu, events, percpu};
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use ebb_guest_hypercall::{VcpuId, event_channel, sched};

/// A send to a port that is pending and masked.
pub fn send_pending() -> Outcome {
    let ports = Loop::new(percpu::id())?;
    repeat(|| event_channel::send(ports.near))
}

/// A send to the own vCPU, until the first instruction of the upcall's handler.
pub fn send_self() -> Outcome {
    let port = event_channel::bind_ipi(VcpuId(percpu::id() as u32)).map_err(|errno| format!("{errno}"))?;
    let port = EventPort::new(port)?;
    let own = percpu::own();
    own.stamp_upcalls.store(true, Ordering::Relaxed);
    let mut samples = Vec::with_capacity(SAMPLES);
    for round in 0..WARM_UP + SAMPLES {
        let count = port.count();
        let start = cpu::rdtsc();
        event_channel::send(port.port()).map_err(|errno| format!("{errno}"))?;
        if !port.wait(count + 1, 1_000_000_000) {
            return Err("the upcall did not come".into());
        }
        if round >= WARM_UP {
            samples.push(own.upcall_stamp.load(Ordering::Relaxed).wrapping_sub(start));
        }
    }
    own.stamp_upcalls.store(false, Ordering::Relaxed);
    Ok(samples)
}

/// A send that makes another port of the domain pending; the upcall is kept out of the figure.
pub fn send_other() -> Outcome {
    let ports = Loop::new(percpu::id())?;
    events::channels().unmask(ports.far).map_err(|errno| format!("{errno}"))?;
    let mut samples = Vec::with_capacity(SAMPLES);
    for round in 0..WARM_UP + SAMPLES {
        let interrupts = cpu::interrupts_off();
        let (ticks, result) = time(|| event_channel::send(ports.near));
        if interrupts {
            // The upcall comes here and clears the event.
            cpu::interrupts_on();
        }
        result.map_err(|errno| format!("{errno}"))?;
        if round >= WARM_UP {
            samples.push(ticks);
        }
    }
    Ok(samples)
}

/// A poll on a port that is pending.
pub fn poll_pending() -> Outcome {
    let ports = Loop::new(percpu::id())?;
    event_channel::send(ports.near).map_err(|errno| format!("{errno}"))?;
    repeat(|| sched::poll(&[ports.far], 0))
}
