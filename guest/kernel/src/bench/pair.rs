//! Rows with two vCPUs: one kicks, the other wakes.
//!
//! The partner is a thread tied to vCPU 1; the measuring side runs in a thread tied to vCPU 0. Ports used with poll are
//! masked, so that no upcall gets in between; those used with HLT are not.

use super::{Outcome, SAMPLES, WARM_UP, time};
use crate::event_loop::Loop;
use crate::events::EventPort;
use crate::{cpu, events, smp, thread};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebb_guest_hypercall::{Port, VcpuId, event_channel, sched};
use spin::Mutex;

const ROUNDS: usize = WARM_UP + SAMPLES;

/// Runs `work` in a thread tied to vCPU 0 and brings its result.
fn on_first(work: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    if smp::online() < 2 {
        return Err("it takes two vCPUs".into());
    }
    let result = Arc::new(Mutex::new(Err(String::from("no result"))));
    let place = result.clone();
    thread::spawn("bench", Some(0), move || *place.lock() = work())?.join();
    core::mem::replace(&mut *result.lock(), Err(String::new()))
}

/// Sleeps in poll until `port` is pending, and takes the event.
fn poll_for(port: Port) {
    while !events::channels().clear_pending(port) {
        // Any event ends a poll: look again.
        let _ = sched::poll(&[port], 0);
    }
}

/// Sends there and back by poll; the figure is what `sample` makes of start, the partner's stamp, and end.
fn by_poll(sample: fn(u64, u64, u64) -> u64) -> Outcome {
    let there = Loop::new(1)?;
    let back = Loop::new(0)?;
    let stamp = Arc::new(AtomicU64::new(0));
    let partner = {
        let (port, answer, stamp) = (there.far, back.near, stamp.clone());
        thread::spawn("partner", Some(1), move || {
            for _ in 0..ROUNDS {
                poll_for(port);
                stamp.store(cpu::rdtsc(), Ordering::SeqCst);
                let _ = event_channel::send(answer);
            }
        })?
    };
    // Let the partner go to sleep.
    thread::sleep(10_000_000);
    let mut samples = Vec::with_capacity(SAMPLES);
    for round in 0..ROUNDS {
        let start = cpu::rdtsc();
        event_channel::send(there.near).map_err(|errno| format!("{errno}"))?;
        poll_for(back.far);
        let end = cpu::rdtsc();
        if round >= WARM_UP {
            samples.push(sample(start, stamp.load(Ordering::SeqCst), end));
        }
        // The partner goes back to its poll.
        let _ = sched::yield_now();
    }
    partner.join();
    Ok(samples)
}

/// From the send to the partner's return from poll.
pub fn kick_to_wake() -> Outcome {
    on_first(|| by_poll(|start, woken, _| woken.saturating_sub(start)))
}

/// There and back.
pub fn ping_pong_poll() -> Outcome {
    on_first(|| by_poll(|start, _, end| end - start))
}

/// From a poll that sleeps to the other vCPU, which was waiting for the CPU: it has yielded.
pub fn block() -> Outcome {
    on_first(|| {
        let back = Loop::new(0)?;
        let stamp = Arc::new(AtomicU64::new(0));
        let partner = {
            let (answer, stamp) = (back.near, stamp.clone());
            thread::spawn("partner", Some(1), move || {
                for _ in 0..ROUNDS {
                    let _ = sched::yield_now();
                    stamp.store(cpu::rdtsc(), Ordering::SeqCst);
                    let _ = event_channel::send(answer);
                }
            })?
        };
        let mut samples = Vec::with_capacity(SAMPLES);
        for round in 0..ROUNDS {
            // The partner is in its yield; after its send it goes there again.
            let start = cpu::rdtsc();
            poll_for(back.far);
            if round >= WARM_UP {
                samples.push(stamp.load(Ordering::SeqCst).saturating_sub(start));
            }
        }
        partner.join();
        Ok(samples)
    })
}

/// A send that wakes the partner, until the call returns.
pub fn kick() -> Outcome {
    on_first(|| {
        let there = Loop::new(1)?;
        let back = Loop::new(0)?;
        let partner = {
            let (port, answer) = (there.far, back.near);
            thread::spawn("partner", Some(1), move || {
                for _ in 0..ROUNDS {
                    poll_for(port);
                    let _ = event_channel::send(answer);
                }
            })?
        };
        thread::sleep(10_000_000);
        let mut samples = Vec::with_capacity(SAMPLES);
        for round in 0..ROUNDS {
            let (ticks, result) = time(|| event_channel::send(there.near));
            result.map_err(|errno| format!("{errno}"))?;
            poll_for(back.far);
            if round >= WARM_UP {
                samples.push(ticks);
            }
            // The partner goes back to its poll.
            let _ = sched::yield_now();
        }
        partner.join();
        Ok(samples)
    })
}

/// Halts until `port` has counted `count` events.
fn halt_for(port: &EventPort, count: u64) {
    loop {
        cpu::interrupts_off();
        if port.count() >= count {
            cpu::interrupts_on();
            return;
        }
        cpu::wait_for_interrupt();
    }
}

/// There and back, both sides halted while they wait.
pub fn ping_pong_halt() -> Outcome {
    on_first(|| {
        let ipi = |vcpu| event_channel::bind_ipi(VcpuId(vcpu)).map_err(|errno| format!("{errno}"));
        let there = Arc::new(EventPort::new(ipi(1)?)?);
        let back = Arc::new(EventPort::new(ipi(0)?)?);
        let over = Arc::new(AtomicBool::new(false));
        let partner = {
            let (port, answer, over) = (there.clone(), back.port(), over.clone());
            thread::spawn("partner", Some(1), move || {
                let mut count = 0;
                while !over.load(Ordering::SeqCst) {
                    count += 1;
                    halt_for(&port, count);
                    let _ = event_channel::send(answer);
                }
            })?
        };
        thread::sleep(10_000_000);
        let mut samples = Vec::with_capacity(SAMPLES);
        for round in 0..ROUNDS {
            over.store(round + 1 == ROUNDS, Ordering::SeqCst);
            let start = cpu::rdtsc();
            event_channel::send(there.port()).map_err(|errno| format!("{errno}"))?;
            halt_for(&back, round as u64 + 1);
            if round >= WARM_UP {
                samples.push(cpu::rdtsc() - start);
            }
        }
        partner.join();
        Ok(samples)
    })
}
