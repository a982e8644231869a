//! Bindings stay symmetric whatever guests do with them.

use std::vec::Vec;

use proptest::prelude::*;
use shared_abi::event_channel as abi;
use shared_abi::xen::{Port, VcpuId, Virq};

use super::guest::Guest;
use crate::evtchn;
use crate::evtchn::port::Binding;
use crate::machine::Machine;
use crate::testing;

/// What one guest does; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Alloc { guest: usize, remote: usize },
    Bind { guest: usize, remote: usize, port: u32 },
    Virq { guest: usize, virq: u32, vcpu: u32 },
    Ipi { guest: usize, vcpu: u32 },
    Close { guest: usize, port: u32 },
    Move { guest: usize, port: u32, vcpu: u32 },
    Send { guest: usize, port: u32 },
    Fifo { guest: usize },
    Reset { guest: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let (guest, port, vcpu) = (0..3usize, 0..12u32, 0..3u32);
    prop_oneof![
        4 => (guest.clone(), 0..3usize).prop_map(|(guest, remote)| Step::Alloc { guest, remote }),
        6 => (guest.clone(), 0..3usize, port.clone())
            .prop_map(|(guest, remote, port)| Step::Bind { guest, remote, port }),
        2 => (guest.clone(), 0..25u32, vcpu.clone())
            .prop_map(|(guest, virq, vcpu)| Step::Virq { guest, virq, vcpu }),
        2 => (guest.clone(), vcpu.clone()).prop_map(|(guest, vcpu)| Step::Ipi { guest, vcpu }),
        6 => (guest.clone(), port.clone()).prop_map(|(guest, port)| Step::Close { guest, port }),
        2 => (guest.clone(), port.clone(), vcpu)
            .prop_map(|(guest, port, vcpu)| Step::Move { guest, port, vcpu }),
        3 => (guest.clone(), port).prop_map(|(guest, port)| Step::Send { guest, port }),
        1 => guest.clone().prop_map(|guest| Step::Fifo { guest }),
        1 => guest.prop_map(|guest| Step::Reset { guest }),
    ]
}

fn apply(guests: &[Guest<'_>], step: &Step) {
    // Results do not matter here: what fails must leave everything as it was, which is what is checked.
    match *step {
        Step::Alloc { guest, remote } => {
            let _ = guests[guest].alloc_unbound(guests[remote].id());
        }
        Step::Bind { guest, remote, port } => {
            let _ = guests[guest].bind_interdomain(guests[remote].id(), Port(port));
        }
        Step::Virq { guest, virq, vcpu } => {
            let _ = guests[guest].bind_virq(Virq(virq), vcpu);
        }
        Step::Ipi { guest, vcpu } => {
            let _ = guests[guest].bind_ipi(vcpu);
        }
        Step::Close { guest, port } => {
            let _ = guests[guest].close(Port(port));
        }
        Step::Move { guest, port, vcpu } => {
            let _ = guests[guest].bind_vcpu(Port(port), vcpu);
        }
        Step::Send { guest, port } => {
            let _ = guests[guest].send(Port(port));
        }
        Step::Fifo { guest } => {
            if !guests[guest].domain.events.uses_fifo() {
                guests[guest].use_fifo();
            }
        }
        Step::Reset { guest } => guests[guest].reset().expect("nobody binds meanwhile"),
    }
}

fn binding(guest: &Guest<'_>, port: Port) -> Option<Binding> {
    Some(guest.domain.events.ports.get(port)?.load().binding())
}

/// Everything that must hold between any two calls.
fn check(guests: &[Guest<'_>]) {
    for guest in guests {
        let mut active = 0;
        let mut virqs = Vec::new();
        for number in 0..256 {
            let port = Port(number);
            let Some(entry) = guest.domain.events.ports.get(port) else {
                break;
            };
            let now = entry.load();
            assert!(now.vcpu().index() < guest.domain.vcpus.len());
            assert!(number != 0 || now.binding() == Binding::Free, "port 0 is never bound");
            match now.binding() {
                Binding::Free => continue,
                Binding::Interdomain(remote, remote_port) => {
                    let remote = guests.iter().find(|other| other.id() == remote).expect("known");
                    let back = Some(Binding::Interdomain(guest.id(), port));
                    assert_eq!(binding(remote, remote_port), back);
                }
                Binding::Virq(virq) => {
                    let holder = if virq.is_per_vcpu() { now.vcpu() } else { VcpuId(0) };
                    virqs.push((holder, virq, number));
                }
                Binding::Unbound(_) | Binding::Ipi => {}
            }
            active += 1;
        }
        assert_eq!(guest.domain.events.book.lock().active, active);
        for (index, vcpu) in guest.domain.vcpus.iter().enumerate() {
            for (virq, slot) in vcpu.events.virqs.iter().enumerate() {
                let port = slot.load(core::sync::atomic::Ordering::SeqCst);
                let known = virqs.contains(&(VcpuId(index as u32), Virq(virq as u32), port));
                assert_eq!(known, port != 0, "virq {virq} of vCPU {index}");
                virqs.retain(|entry| entry.2 != port);
            }
        }
        assert!(virqs.is_empty(), "bound, but nobody would find it: {virqs:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..Default::default() })]

    #[test]
    fn bindings_stay_symmetric(steps in prop::collection::vec(step(), 1..80)) {
        let hv = testing::hypervisor(1, 2048);
        let guests: Vec<_> = (1..4).map(|id| Guest::new(&hv, id, 2)).collect();
        for step in &steps {
            apply(&guests, step);
            check(&guests);
        }
        // The end of one of them leaves the others' ports waiting for it.
        evtchn::close_all(&hv, &guests[0].domain);
        check(&guests);
        prop_assert_eq!(guests[0].domain.events.book.lock().active, 0);
        for guest in &guests[1..] {
            for number in 0..256 {
                let bound = binding(guest, Port(number));
                prop_assert!(!matches!(bound, Some(Binding::Interdomain(remote, _)) if remote == guests[0].id()));
            }
        }
        prop_assert_eq!(guests[0].bind_ipi(0), Err(shared_abi::xen::Errno::EINVAL));
    }
}

#[test]
fn loopback_binds_both_ends_of_one_domain() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    let first = guest.alloc_unbound(guest.id()).unwrap();
    let second = guest.bind_interdomain(guest.id(), first).unwrap();
    check(core::slice::from_ref(&guest));
    guest.drain(0, |_| {});
    guest.send(first).unwrap();
    let mut seen = Vec::new();
    guest.drain(0, |port| seen.push(port));
    assert_eq!(seen, [second]);
    guest.close(second).unwrap();
    assert_eq!(guest.status(first).unwrap().status, abi::STATUS_UNBOUND);
    check(core::slice::from_ref(&guest));
}

#[test]
fn a_long_reset_goes_in_steps() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    guest.use_fifo();
    for _ in 0..300 {
        guest.bind_ipi(0).unwrap();
    }
    hv.machine.interrupt.store(true, core::sync::atomic::Ordering::SeqCst);
    let vcpu = testing::vcpu(&guest.domain, 0);
    testing::poke(&hv, &guest.domain, 0, &shared_abi::xen::DomId::SELF.0.to_le_bytes());
    let mut args = [u64::from(abi::RESET), 0, 0, 0, 0];
    let mut steps = 0;
    loop {
        let call = &mut testing::call(&hv, &vcpu, args);
        match evtchn::event_channel_op(call).unwrap() {
            crate::hypercall::Next::Return(value) => break assert_eq!(value, 0),
            crate::hypercall::Next::Again(next) => args = next,
        }
        assert_eq!(guest.reset(), Err(shared_abi::xen::Errno::EBUSY), "one is under way");
        steps += 1;
    }
    assert!(steps >= 4, "{steps} steps for 300 ports");
    assert!(!guest.domain.events.uses_fifo(), "back to the 2-level ABI");
    assert_eq!(guest.bind_ipi(0), Ok(Port(1)));
    assert_eq!(hv.machine.this_cpu().0, 0);
}
