//! A guest that writes whatever it likes into its event pages harms itself only.

use std::vec::Vec;

use core::sync::atomic::Ordering;
use proptest::prelude::*;
use shared_abi::xen::Port;

use super::guest::Guest;
use crate::evtchn;
use crate::machine::{Machine, MachineAddress};
use crate::testing;

#[derive(Clone, Debug)]
enum Step {
    /// Writes an event word: a flag pattern and a link.
    Word {
        port: u32,
        flags: u32,
        link: u32,
    },
    /// Writes a word of a control block.
    Control {
        vcpu: u32,
        index: u64,
        value: u32,
    },
    /// Writes a word of shared_info.
    Shared {
        index: usize,
        value: u32,
    },
    Send(u32),
    Unmask(u32),
    Move {
        port: u32,
        vcpu: u32,
    },
    Priority {
        port: u32,
        priority: u32,
    },
    Close(u32),
    Bind,
    /// The well-behaved guest sends to itself and to the hostile one.
    Other,
}

const PORTS: u32 = 8;

fn step() -> impl Strategy<Value = Step> {
    let port = 0..PORTS + 2;
    let link = prop_oneof![0..PORTS + 2, 1000..1100u32, Just(131_071u32)];
    prop_oneof![
        6 => (port.clone(), 0..16u32, link)
            .prop_map(|(port, flags, link)| Step::Word { port, flags: flags << 28, link }),
        3 => (0..2u32, 0..18u64, any::<u32>())
            .prop_map(|(vcpu, index, value)| Step::Control { vcpu, index, value }),
        2 => (0..1024usize, any::<u32>()).prop_map(|(index, value)| Step::Shared { index, value }),
        8 => port.clone().prop_map(Step::Send),
        3 => port.clone().prop_map(Step::Unmask),
        2 => (port.clone(), 0..3u32).prop_map(|(port, vcpu)| Step::Move { port, vcpu }),
        2 => (port.clone(), 0..17u32).prop_map(|(port, priority)| Step::Priority { port, priority }),
        1 => port.prop_map(Step::Close),
        1 => Just(Step::Bind),
        2 => Just(Step::Other),
    ]
}

fn pages(hv: &crate::Hypervisor<testing::FakeMachine>, guest: &Guest<'_>) -> Vec<u8> {
    let mut bytes = std::vec![0; 48 * 4096];
    for (gfn, page) in bytes.chunks_mut(4096).enumerate() {
        let at = testing::machine_address(hv, &guest.domain, gfn as u64 * 4096);
        hv.machine.read(at, page);
    }
    bytes
}

fn play(steps: &[Step], fifo: bool) -> Result<(), TestCaseError> {
    let hv = testing::hypervisor(1, 2048);
    let (bad, good) = (Guest::new(&hv, 1, 2), Guest::new(&hv, 2, 1));
    if fifo {
        bad.use_fifo();
    }
    for port in 0..PORTS {
        bad.bind_ipi(port % 2).unwrap();
    }
    let mine = good.bind_ipi(0).unwrap();
    let offer = bad.alloc_unbound(good.id()).unwrap();
    let to_bad = good.bind_interdomain(bad.id(), offer).unwrap();
    good.drain(0, |_| {});
    let bystander = Guest::new(&hv, 3, 1);
    let before = pages(&hv, &bystander);
    for step in steps {
        match *step {
            Step::Word { port, flags, link } => {
                bad.word(Port(port)).store(flags | link, Ordering::SeqCst);
            }
            Step::Control { vcpu, index, value } => {
                bad.control(vcpu, index).store(value, Ordering::SeqCst);
            }
            Step::Shared { index, value } => {
                let frame = bad.domain.events.shared_info_frame().unwrap();
                let at = MachineAddress::in_frame(frame, index * 4);
                hv.machine.word32(at).store(value, Ordering::SeqCst);
            }
            Step::Send(port) => {
                let _ = bad.send(Port(port));
            }
            Step::Unmask(port) => bad.unmask(Port(port)),
            Step::Move { port, vcpu } => {
                let _ = bad.bind_vcpu(Port(port), vcpu);
            }
            Step::Priority { port, priority } => {
                let _ = bad.set_priority(Port(port), priority);
            }
            Step::Close(port) => {
                let _ = bad.close(Port(port));
            }
            Step::Bind => {
                let _ = bad.bind_ipi(1);
            }
            Step::Other => {
                good.send(to_bad).unwrap();
                good.send(mine).unwrap();
                let mut seen = Vec::new();
                good.drain(0, |port| seen.push(port));
                // Besides its own, only what the hostile one may send it.
                seen.retain(|port| *port != to_bad);
                prop_assert_eq!(seen, std::vec![mine], "the other guest's events work");
            }
        }
    }
    prop_assert!(pages(&hv, &bystander) == before, "somebody else's memory was written");
    // The hostile guest starts over: with clean pages everything works again.
    bad.reset().unwrap();
    evtchn::close_all(&hv, &bad.domain);
    prop_assert!(hv.heap.ledger().adds_up());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..Default::default() })]

    #[test]
    fn garbage_in_fifo_pages(steps in prop::collection::vec(step(), 1..150)) {
        play(&steps, true)?;
    }

    #[test]
    fn garbage_in_shared_info(steps in prop::collection::vec(step(), 1..150)) {
        play(&steps, false)?;
    }
}

#[test]
fn a_reset_heals_spoilt_queues() {
    let hv = testing::hypervisor(1, 512);
    let guest = Guest::new(&hv, 1, 1);
    guest.use_fifo();
    let port = guest.bind_ipi(0).unwrap();
    guest.unmask(port);
    guest.send(port).unwrap();
    // Cuts the queue: the event stays LINKED and is in nobody's reach.
    guest.control(0, 2 + 7).store(0, Ordering::SeqCst);
    guest.send(port).unwrap();
    guest.reset().unwrap();
    guest.word(port).store(0, Ordering::SeqCst);
    for index in 0..18 {
        guest.control(0, index).store(0, Ordering::SeqCst);
    }
    guest.drain(0, |_| {});
    guest.use_fifo();
    let port = guest.bind_ipi(0).unwrap();
    guest.unmask(port);
    guest.send(port).unwrap();
    let mut seen = Vec::new();
    guest.drain(0, |port| seen.push(port));
    assert_eq!(seen, [port]);
}
