//! Events sent, moved and taken off by several CPUs at once: none is lost. Real threads on the fake machine's memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::vec::Vec;

use shared_abi::xen::Port;

use super::guest::{Guest, counters};
use crate::testing;

const PORTS: usize = 5;
const SENDS: u64 = if cfg!(miri) { 20 } else { 4000 };

/// Sends from one CPU to all ports in turn, noting each before it is sent.
fn send_all(guest: &Guest<'_>, sources: &[Port], sent: &[AtomicU64], seed: u64) {
    let mut random = seed;
    for _ in 0..SENDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let index = (random >> 33) as usize % PORTS;
        sent[index].fetch_add(1, Ordering::SeqCst);
        guest.send(sources[index]).unwrap();
        // Moves go on meanwhile: to another vCPU, to another queue.
        match random >> 60 {
            // A guest that masks for a while, as one does that moves an interrupt.
            2 if guest.domain.events.uses_fifo() => {
                guest.mask(Port(index as u32 + 1));
                guest.unmask_fifo(Port(index as u32 + 1));
            }
            0 => guest.bind_vcpu(Port(index as u32 + 1), (random >> 50) as u32 & 1).unwrap(),
            1 => {
                let _ = guest.set_priority(Port(index as u32 + 1), (random >> 50) as u32 & 15);
            }
            _ => {}
        }
    }
}

/// Takes events off a vCPU until told to stop, noting of each how far it was sent.
fn take_all(guest: &Guest<'_>, vcpu: u32, sent: &[AtomicU64], seen: &[AtomicU64], stop: &AtomicBool) {
    loop {
        let last = stop.load(Ordering::SeqCst);
        guest.drain(vcpu, |port| {
            // The sending ends were raised once, when they were bound.
            if let Some(seen) = seen.get(port.index() - 1) {
                let so_far = sent[port.index() - 1].load(Ordering::SeqCst);
                seen.fetch_max(so_far, Ordering::SeqCst);
            }
        });
        if last {
            break;
        }
        thread::yield_now();
    }
}

fn race(fifo: bool) {
    let hv = testing::hypervisor(4, 1024);
    let guest = Guest::new(&hv, 1, 2);
    if fifo {
        guest.use_fifo();
    }
    // The ends that receive are ports 1 to 5.
    let ends: Vec<_> = (0..PORTS).map(|_| guest.alloc_unbound(guest.id()).unwrap()).collect();
    let sources: Vec<_> = ends.iter().map(|end| guest.bind_interdomain(guest.id(), *end).unwrap()).collect();
    for end in &ends {
        if fifo { guest.unmask_fifo(*end) } else { guest.unmask(*end) }
    }
    let (sent, seen) = (counters(PORTS), counters(PORTS));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let receivers: Vec<_> = (0..2)
            .map(|vcpu| {
                let (guest, sent, seen, stop) = (&guest, &sent, &seen, &stop);
                scope.spawn(move || {
                    testing::set_cpu(2 + vcpu as u16);
                    take_all(guest, vcpu, sent, seen, stop);
                })
            })
            .collect();
        let senders: Vec<_> = (0..2)
            .map(|cpu| {
                let (guest, sources, sent) = (&guest, &sources, &sent);
                scope.spawn(move || {
                    testing::set_cpu(cpu);
                    send_all(guest, sources, sent, u64::from(cpu) + 1);
                })
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        stop.store(true, Ordering::SeqCst);
        receivers.into_iter().for_each(|receiver| receiver.join().unwrap());
    });
    testing::set_cpu(0);
    let values =
        |counts: &[AtomicU64]| -> Vec<u64> { counts.iter().map(|count| count.load(Ordering::SeqCst)).collect() };
    assert_eq!(values(&seen), values(&sent));
}

#[test]
#[cfg_attr(miri, ignore = "Ebb and its guests use words of different sizes in the bitmaps, which no Rust program may")]
fn no_event_is_lost_between_cpus_two_level() {
    race(false);
}

#[test]
fn no_event_is_lost_between_cpus_fifo() {
    race(true);
}

/// One CPU sends between two domains while the other closes and rebinds, and at last the receiver ends: the sender never
/// writes to a domain that is gone, and bindings that are there work.
#[test]
fn sends_race_with_close_and_the_end() {
    let hv = testing::hypervisor(2, 2048);
    let (a, b) = (Guest::new(&hv, 1, 1), Guest::new(&hv, 2, 1));
    let offer = a.alloc_unbound(b.id()).unwrap();
    b.bind_interdomain(a.id(), offer).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            testing::set_cpu(1);
            while !stop.load(Ordering::SeqCst) {
                a.send(offer).unwrap();
            }
        });
        testing::set_cpu(0);
        for round in 0..SENDS / 4 {
            b.close(Port(1)).unwrap();
            if round % 3 == 0 {
                b.use_fifo();
                b.reset().unwrap();
            }
            assert_eq!(b.bind_interdomain(a.id(), offer), Ok(Port(1)));
        }
        crate::evtchn::close_all(&hv, &b.domain);
        let frame = b.domain.events.shared_info_frame().unwrap();
        let word = hv_word(&hv, frame);
        word.store(0, Ordering::SeqCst);
        for _ in 0..SENDS {
            assert_eq!(word.load(Ordering::SeqCst), 0, "written after the end");
            thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(a.status(offer).unwrap().status, shared_abi::event_channel::STATUS_UNBOUND);
}

fn hv_word(hv: &crate::Hypervisor<testing::FakeMachine>, frame: shared_abi::xen::Mfn) -> &std::sync::atomic::AtomicU64 {
    use crate::machine::{Machine, MachineAddress};
    let at = MachineAddress::in_frame(frame, shared_abi::xen::shared_info_offset::EVTCHN_PENDING);
    hv.machine.word64(at)
}
