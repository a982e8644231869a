//! Events arrive: by both ABIs, whatever the guest masks, moves and reprioritises, and through every change of the pages
//! they travel through.

use std::vec::Vec;

use proptest::prelude::*;
use shared_abi::hypercall as number;
use shared_abi::trace_stream::Kind;
use shared_abi::vcpu as vcpu_abi;
use shared_abi::xen::{DomId, Errno, Gfn, Port, VcpuInfo, Virq};
use zerocopy::{FromBytes, IntoBytes};

use super::guest::{Arrivals, CALLBACK, Guest};
use crate::evtchn;
use crate::hypercall::Width;
use crate::machine::Machine;
use crate::testing;

fn drained(guest: &Guest<'_>, vcpu: u32) -> Vec<Port> {
    let mut seen = Vec::new();
    guest.drain(vcpu, |port| seen.push(port));
    seen
}

#[test]
fn a_send_sets_bits_once_and_an_upcall() {
    for fifo in [false, true] {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 2);
        if fifo {
            guest.use_fifo();
        }
        let port = guest.bind_ipi(1).unwrap();
        guest.unmask(port);
        assert!(!guest.upcall(1));
        guest.send(port).unwrap();
        assert!(guest.upcall(1) && !guest.upcall(0), "only the vCPU it is for");
        assert!(evtchn::port_pending(&hv, &guest.domain, port));
        guest.send(port).unwrap();
        assert_eq!(drained(&guest, 1), [port]);
        assert!(!guest.upcall(1) && !evtchn::port_pending(&hv, &guest.domain, port));
        assert_eq!(hv.machine.traced_of(Kind::EVENT_SEND.0).len(), 2);
    }
}

#[test]
fn a_masked_event_waits_and_a_poll_sees_it() {
    for fifo in [false, true] {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 1);
        if fifo {
            guest.use_fifo();
        }
        let port = guest.bind_ipi(0).unwrap();
        guest.mask(port);
        guest.send(port).unwrap();
        assert!(!guest.upcall(0));
        assert!(evtchn::port_pending(&hv, &guest.domain, port));
        guest.unmask(port);
        assert!(guest.upcall(0));
        assert_eq!(drained(&guest, 0), [port]);
    }
}

#[test]
fn fifo_events_come_by_priority_and_then_in_order() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    guest.use_fifo();
    let ports: Vec<_> = (0..6).map(|_| guest.bind_ipi(0).unwrap()).collect();
    for port in &ports {
        guest.unmask(*port);
    }
    guest.set_priority(ports[4], 0).unwrap();
    guest.set_priority(ports[5], 15).unwrap();
    for index in [5, 2, 0, 4, 1, 3] {
        guest.send(ports[index]).unwrap();
    }
    let order = [4, 2, 0, 1, 3, 5].map(|index: usize| ports[index]);
    assert_eq!(drained(&guest, 0), order);
}

#[test]
fn an_event_moved_between_queues_leaves_both_whole() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 2);
    guest.use_fifo();
    let offers: Vec<_> = (0..3).map(|_| guest.alloc_unbound(guest.id()).unwrap()).collect();
    let sources: Vec<_> = offers.iter().map(|offer| guest.bind_interdomain(guest.id(), *offer).unwrap()).collect();
    for port in &offers {
        guest.unmask(*port);
    }
    // The first is its queue's tail, taken off; then it goes to another queue, and a second follows on the old one.
    guest.send(sources[0]).unwrap();
    assert_eq!(drained(&guest, 0), [offers[0]]);
    guest.bind_vcpu(offers[0], 1).unwrap();
    guest.set_priority(offers[0], 2).unwrap();
    guest.send(sources[0]).unwrap();
    guest.send(sources[1]).unwrap();
    guest.send(sources[2]).unwrap();
    assert_eq!(drained(&guest, 0), [offers[1], offers[2]]);
    assert_eq!(drained(&guest, 1), [offers[0]]);
}

#[test]
fn what_is_pending_survives_the_switch_to_fifo() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    let ports: Vec<_> = (0..3).map(|_| guest.bind_ipi(0).unwrap()).collect();
    guest.send(ports[1]).unwrap();
    guest.init_control(0).unwrap();
    guest.send(ports[2]).unwrap();
    assert!(!evtchn::port_pending(&hv, &guest.domain, ports[1]), "no page to hold it yet");
    guest.expand_array(0).unwrap();
    let mut seen = drained(&guest, 0);
    seen.sort();
    assert_eq!(seen, [ports[1], ports[2]]);
}

#[test]
fn a_reset_goes_back_to_two_level() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    let before = guest.bind_ipi(0).unwrap();
    guest.send(before).unwrap();
    guest.use_fifo();
    // Takes the upcall while nothing of the 2-level ABI is looked at.
    guest.unmask(before);
    assert_eq!(drained(&guest, 0), [before]);
    guest.reset().unwrap();
    let port = guest.bind_ipi(0).unwrap();
    guest.send(port).unwrap();
    assert_eq!(drained(&guest, 0), [port]);
    guest.use_fifo();
    guest.forget_queues();
    guest.unmask(port);
    guest.send(port).unwrap();
    assert_eq!(drained(&guest, 0), [port]);
}

#[test]
fn a_closed_port_starts_clean() {
    for fifo in [false, true] {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 1);
        if fifo {
            guest.use_fifo();
        }
        let port = guest.bind_ipi(0).unwrap();
        guest.unmask(port);
        guest.send(port).unwrap();
        guest.close(port).unwrap();
        let again = guest.bind_ipi(0).unwrap();
        assert_eq!(again == port, !fifo, "a FIFO port on a queue is not given out");
        assert!(!evtchn::port_pending(&hv, &guest.domain, port));
        assert_eq!(drained(&guest, 0), []);
        if fifo {
            assert_eq!(guest.bind_ipi(0), Ok(port), "now that the guest has taken it off");
        }
    }
}

fn register(guest: &Guest<'_>, vcpu: u64, gfn: u64, offset: u32) -> i64 {
    let mut request = vcpu_abi::RegisterVcpuInfo { mfn: Gfn(gfn), offset, rsvd: 0 };
    testing::poke(guest.hv, &guest.domain, 0, request.as_mut_bytes());
    let current = testing::vcpu(&guest.domain, 0);
    let args = [vcpu_abi::REGISTER_VCPU_INFO.into(), vcpu, 0, 0, 0];
    testing::hypercall(guest.hv, &current, number::VCPU_OP, args)
}

#[test]
fn vcpu_info_moves_once_and_loses_nothing() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 2);
    let port = guest.bind_ipi(1).unwrap();
    guest.send(port).unwrap();
    assert_eq!(register(&guest, 1, 40, 4096 - 63), Errno::ENXIO.to_return());
    assert_eq!(register(&guest, 1, 40, 12), Errno::ENXIO.to_return());
    assert_eq!(register(&guest, 1, 40_000, 64), Errno::EINVAL.to_return());
    assert_eq!(register(&guest, 1, 40, 64), 0);
    assert_eq!(register(&guest, 1, 41, 64), Errno::EBUSY.to_return());
    let bytes = testing::peek::<64>(&hv, &guest.domain, 40 * 4096 + 64);
    let info = VcpuInfo::read_from_bytes(&bytes).unwrap();
    assert_eq!((info.evtchn_upcall_pending, info.evtchn_pending_sel), (1, u64::MAX));
    assert_eq!(info.time.tsc_to_system_mul, hv.machine.tsc_scale().mul);
    assert!(info.time.version != 0 && info.time.version.is_multiple_of(2));
    assert_eq!(drained(&guest, 1), [port]);
    guest.send(port).unwrap();
    let bytes = testing::peek::<64>(&hv, &guest.domain, 40 * 4096 + 64);
    assert_eq!(VcpuInfo::read_from_bytes(&bytes).unwrap().evtchn_pending_sel, 1);
    assert_eq!(drained(&guest, 1), [port]);
}

#[test]
fn a_vcpu_beyond_shared_info_hears_when_it_registers() {
    let hv = testing::hypervisor(1, 1024);
    let guest = Guest::new(&hv, 1, 34);
    let port = guest.bind_ipi(33).unwrap();
    guest.send(port).unwrap();
    assert!(!guest.upcall(33));
    assert_eq!(register(&guest, 33, 40, 0), 0);
    assert!(guest.upcall(33));
    assert_eq!(drained(&guest, 33), [port]);
}

#[test]
fn a_32_bit_guest_has_its_own_layout() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    let vcpu = testing::vcpu(&guest.domain, 0);
    let param = shared_abi::hvm::Param { domid: DomId::SELF, index: 0, value: CALLBACK, ..Default::default() };
    testing::poke(&hv, &guest.domain, 0, param.as_bytes());
    let next = hv.hypercall(&vcpu, number::HVM_OP.into(), [0; 5], Width::Bits32, testing::UNPAGED);
    assert_eq!(next, crate::hypercall::Next::Return(0));
    for _ in 1..1024 {
        guest.bind_ipi(0).unwrap();
    }
    assert_eq!(guest.bind_ipi(0), Err(Errno::ENOSPC), "1024 ports");
    let shared = guest.domain.events.shared_info_frame().unwrap();
    let word = |offset| {
        let at = crate::machine::MachineAddress::in_frame(shared, offset);
        hv.machine.word32(at).load(core::sync::atomic::Ordering::SeqCst)
    };
    guest.send(Port(100)).unwrap();
    assert_eq!((word(0) & 1, word(4)), (1, 1 << 3), "upcall and selector of 32-bit words");
    assert_eq!(word(2048 + 12), 1 << 4, "the pending bit is where a 64-bit guest has it");
    // Its mask begins after 128 bytes: where a 64-bit guest has pending bits of ports from 1024 on.
    assert_eq!(word(2048 + 256 + 4), (testing::WALL_CLOCK_BASE / 1_000_000_000) as u32, "wc_sec");
}

#[test]
fn virqs_reach_the_vcpu_that_bound_them() {
    let hv = testing::hypervisor(1, 1024);
    let governor = Guest::privileged(&hv, 1);
    let guest = Guest::new(&hv, 2, 2);
    let target = testing::vcpu(&guest.domain, 1);
    evtchn::raise_virq(&hv, &target, Virq::TIMER);
    assert!(!guest.upcall(1), "not bound: nothing");
    let port = guest.bind_virq(Virq::TIMER, 1).unwrap();
    evtchn::raise_virq(&hv, &target, Virq::TIMER);
    assert_eq!(drained(&guest, 1), [port]);
    evtchn::raise_virq(&hv, &target, Virq(24));
    let global = governor.bind_virq(Virq::DOM_EXC, 0).unwrap();
    evtchn::raise_global_virq(&hv, Virq::DOM_EXC);
    assert_eq!(drained(&governor, 0), [global]);
    guest.close(port).unwrap();
    evtchn::raise_virq(&hv, &target, Virq::TIMER);
    assert!(!guest.upcall(1));
}

#[test]
fn pins_end_with_the_domain() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 2);
    guest.use_fifo();
    guest.expand_array(1).unwrap();
    assert_eq!(register(&guest, 1, 40, 64), 0);
    let port = guest.bind_ipi(1).unwrap();
    while !guest.domain.memory.release_all(&hv, 1024) {}
    assert_eq!(guest.domain.memory.current(), 5, "two control blocks, two arrays, one vcpu_info");
    guest.domain.events.ports.get(port).unwrap();
    evtchn::close_all(&hv, &guest.domain);
    assert_eq!(guest.domain.memory.current(), 0);
    // A straggler's event goes nowhere, and writes nowhere.
    let target = testing::vcpu(&guest.domain, 1);
    evtchn::raise_virq(&hv, &target, Virq::TIMER);
    assert_eq!(evtchn::send(&hv, &guest.domain, port), Err(Errno::EINVAL));
    assert!(hv.heap.ledger().adds_up());
}

/// What a guest does with its events.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Mask(usize),
    Unmask(usize),
    Move(usize, u32),
    Priority(usize, u32),
    Drain(u32),
    Register(u32),
}

const PORTS: usize = 6;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..PORTS).prop_map(Step::Send),
        2 => (0..PORTS).prop_map(Step::Mask),
        3 => (0..PORTS).prop_map(Step::Unmask),
        2 => (0..PORTS, 0..2u32).prop_map(|(port, vcpu)| Step::Move(port, vcpu)),
        2 => (0..PORTS, 0..16u32).prop_map(|(port, priority)| Step::Priority(port, priority)),
        4 => (0..2u32).prop_map(Step::Drain),
        1 => (0..2u32).prop_map(Step::Register),
    ]
}

/// Runs the steps; at the end everything is unmasked and every upcall taken. Each port must have been handled after its
/// last send, and never more often than it was sent.
fn nothing_is_lost(steps: &[Step], fifo: bool) -> Result<(), TestCaseError> {
    let hv = testing::hypervisor(1, 1024);
    let guest = Guest::new(&hv, 1, 2);
    if fifo {
        guest.use_fifo();
    }
    let ends: Vec<_> = (0..PORTS).map(|_| guest.alloc_unbound(guest.id()).unwrap()).collect();
    let sources: Vec<_> = ends.iter().map(|end| guest.bind_interdomain(guest.id(), *end).unwrap()).collect();
    let mut waiting = [false; PORTS];
    let mut sent = [0; PORTS];
    let mut arrivals = Arrivals::default();
    let drain = |vcpu, waiting: &mut [bool; PORTS], arrivals: &mut Arrivals| {
        guest.drain(vcpu, |port| {
            arrivals.note(port);
            if let Some(index) = ends.iter().position(|end| *end == port) {
                waiting[index] = false;
            }
        });
    };
    for step in steps {
        match *step {
            Step::Send(index) => {
                (waiting[index], sent[index]) = (true, sent[index] + 1);
                guest.send(sources[index]).unwrap();
            }
            Step::Mask(index) => guest.mask(ends[index]),
            Step::Unmask(index) => guest.unmask(ends[index]),
            Step::Move(index, vcpu) => guest.bind_vcpu(ends[index], vcpu).unwrap(),
            Step::Priority(index, priority) => {
                let expected = if fifo { Ok(()) } else { Err(Errno::ENOSYS) };
                prop_assert_eq!(guest.set_priority(ends[index], priority), expected);
            }
            Step::Drain(vcpu) => drain(vcpu, &mut waiting, &mut arrivals),
            Step::Register(vcpu) => {
                let result = register(&guest, vcpu.into(), 40 + u64::from(vcpu), 128);
                prop_assert!(result == 0 || result == Errno::EBUSY.to_return());
            }
        }
    }
    for end in &ends {
        guest.unmask(*end);
    }
    drain(0, &mut waiting, &mut arrivals);
    drain(1, &mut waiting, &mut arrivals);
    prop_assert_eq!(waiting, [false; PORTS]);
    for (end, sent) in ends.iter().zip(sent) {
        prop_assert!(arrivals.of(*end) <= sent);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..Default::default() })]

    #[test]
    fn no_event_is_lost_two_level(steps in prop::collection::vec(step(), 1..120)) {
        nothing_is_lost(&steps, false)?;
    }

    #[test]
    fn no_event_is_lost_fifo(steps in prop::collection::vec(step(), 1..120)) {
        nothing_is_lost(&steps, true)?;
    }
}
