//! Interprocessor interrupts: destinations, and starting processors.

use super::*;
use crate::lifecycle::State;
use crate::sched::state::Word;
use crate::vcpu::{Attention, StartState};
use shared_abi::hypercall as number;
use shared_abi::sched::SHUTDOWN_POWEROFF;
use shared_abi::vcpu as vcpu_abi;
use shared_abi::xen::Errno;

const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
const ITSELF: u32 = 1 << 18;
const ALL: u32 = 2 << 18;
const OTHERS: u32 = 3 << 18;
const LOWEST: u32 = 1 << 8;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;

fn send(hv: &Hv, from: &VcpuRef<FakeMachine>, destination: u32, low: u32) {
    if from.lapic.lock().is_x2apic() {
        hv.apic_msr_write(from, 0x830, u64::from(destination) << 32 | u64::from(low)).unwrap();
    } else {
        hv.apic_mmio_write(from, register::ICR_HIGH << 4, destination << 24);
        hv.apic_mmio_write(from, register::ICR << 4, low);
    }
}

/// Sends from vCPU 1, and says which vCPUs got it.
fn reached(hv: &Hv, domain: &Arc<Domain<FakeMachine>>, destination: u32, low: u32) -> std::vec::Vec<u32> {
    let vector = 0x40;
    send(hv, &vcpu(domain, 1), destination, low | u32::from(vector));
    let mut reached = std::vec::Vec::new();
    for target in sched::each_vcpu(domain) {
        if waiting(&target) == [vector] {
            assert!(target.attention().contains(Attention::LAPIC));
            reached.push(target.id.0);
        }
        target.withdraw(Attention::LAPIC);
        target.lapic.lock().irr = Vectors::default();
    }
    reached
}

#[test]
fn xapic_destinations() {
    let (hv, domain) = with_domain(6);
    let reached = |destination, low| reached(&hv, &domain, destination, low);
    assert_eq!(reached(4, 0), [2], "physical: by APIC id, which is twice the number");
    assert_eq!(reached(3, 0), [0; 0]);
    assert_eq!(reached(0xff, 0), [0, 1, 2, 3, 4, 5]);
    assert_eq!(reached(0, ITSELF), [1]);
    assert_eq!(reached(0, ALL), [0, 1, 2, 3, 4, 5]);
    assert_eq!(reached(0, OTHERS), [0, 2, 3, 4, 5]);
    assert_eq!(reached(1, LOGICAL), [0; 0], "no logical ids yet");
    for target in sched::each_vcpu(&domain) {
        hv.apic_mmio_write(&target, register::LDR << 4, 1 << (24 + target.id.0));
    }
    assert_eq!(reached(0b1_0101, LOGICAL), [0, 2, 4]);
    assert_eq!(reached(0xff, LOGICAL), [0, 1, 2, 3, 4, 5]);
    for target in sched::each_vcpu(&domain) {
        hv.apic_mmio_write(&target, register::DFR << 4, 0x0fff_ffff);
        let (cluster, member) = (target.id.0 / 4, target.id.0 % 4);
        hv.apic_mmio_write(&target, register::LDR << 4, (cluster << 4 | 1 << member) << 24);
    }
    assert_eq!(reached(0x0f, LOGICAL), [0, 1, 2, 3]);
    assert_eq!(reached(0x13, LOGICAL), [4, 5]);
    assert_eq!(reached(0x23, LOGICAL), [0; 0]);
    release(&hv, &domain);
}

#[test]
fn x2apic_destinations() {
    let (hv, domain) = with_domain(20);
    to_x2apic(&hv, &domain);
    let reached = |destination, low| reached(&hv, &domain, destination, low);
    assert_eq!(reached(38, 0), [19]);
    assert_eq!(reached(0xff, 0), [0; 0], "no broadcast in this mode");
    assert_eq!(reached(u32::MAX, 0).len(), 20);
    assert_eq!(reached(u32::MAX, LOGICAL).len(), 20);
    // Cluster 1 holds the ids 16 to 31: vCPUs 8 to 15; id 18 is bit 2.
    assert_eq!(reached(1 << 16 | 1 << 2 | 1 << 14, LOGICAL), [9, 15]);
    assert_eq!(reached(1 << 16 | 0xaaaa, LOGICAL), [0; 0], "odd ids are nobody's");
    // One that is still in the older mode is reached by its id, but has no logical one here.
    let last = vcpu(&domain, 19);
    hv.set_apic_base(&last, APIC_DEFAULT_BASE).unwrap();
    hv.set_apic_base(&last, APIC_DEFAULT_BASE | BASE_ENABLED).unwrap();
    hv.apic_mmio_write(&last, register::SVR << 4, ON);
    hv.apic_mmio_write(&last, register::LDR << 4, 0xff00_0000);
    assert_eq!(reached(38, 0), [19]);
    assert_eq!(reached(2 << 16 | 0xffff, LOGICAL), [16, 17, 18]);
    release(&hv, &domain);
}

#[test]
fn lowest_priority_goes_to_one_that_is_on() {
    let (hv, domain) = with_domain(4);
    hv.apic_mmio_write(&vcpu(&domain, 0), register::SVR << 4, 0xff);
    hv.set_tpr(&vcpu(&domain, 1), 0x50);
    hv.set_tpr(&vcpu(&domain, 2), 0x20);
    hv.set_tpr(&vcpu(&domain, 3), 0x2f);
    assert_eq!(reached(&hv, &domain, 0xff, LOWEST), [2]);
    hv.set_tpr(&vcpu(&domain, 2), 0x60);
    assert_eq!(reached(&hv, &domain, 0xff, LOWEST), [3]);
    assert_eq!(reached(&hv, &domain, 0, LOWEST), [0; 0], "the one it names is off");
    release(&hv, &domain);
}

#[test]
fn self_ipis() {
    let (hv, domain) = with_domain(2);
    to_x2apic(&hv, &domain);
    let second = vcpu(&domain, 1);
    hv.apic_msr_write(&second, 0x83f, 0xfd).unwrap();
    assert_eq!(waiting(&second), [0xfd]);
    assert!(second.attention().contains(Attention::LAPIC));
    hv.apic_msr_write(&second, 0x83f, 0x0f).unwrap();
    hv.apic_msr_write(&second, 0x828, 0).unwrap();
    assert_eq!(hv.apic_msr_read(&second, 0x828), Ok(u64::from(ESR_SEND_ILLEGAL_VECTOR)));
    assert_eq!(waiting(&second), [0xfd]);
    release(&hv, &domain);
}

#[test]
fn illegal_vectors_are_not_sent() {
    let (hv, domain) = with_domain(2);
    let (first, second) = (vcpu(&domain, 0), vcpu(&domain, 1));
    send(&hv, &first, 2, 0x0f);
    assert_eq!(waiting(&second), [0; 0]);
    hv.apic_mmio_write(&first, register::ESR << 4, 0);
    assert_eq!(hv.apic_mmio_read(&first, register::ESR << 4), ESR_SEND_ILLEGAL_VECTOR);
    release(&hv, &domain);
}

/// A domain whose vCPU 0 is up and chosen to run on CPU 0.
fn started(vcpus: u32) -> (Hv, Arc<Domain<FakeMachine>>) {
    let (hv, domain) = with_domain(vcpus);
    sched::set_up(&hv, &vcpu(&domain, 0));
    assert!(hv.schedule() == Some(vcpu(&domain, 0)));
    (hv, domain)
}

#[test]
fn a_processor_starts_by_init_and_start_up() {
    let (hv, domain) = started(2);
    let (first, second) = (vcpu(&domain, 0), vcpu(&domain, 1));
    hv.set_tpr(&second, 0x70);
    send(&hv, &first, 2, INIT | ASSERT | LEVEL);
    assert_eq!(hv.tpr(&second), 0, "INIT resets the APIC");
    assert_eq!(hv.apic_mmio_read(&second, register::SVR << 4), 0xff);
    send(&hv, &first, 2, INIT | LEVEL);
    send(&hv, &first, 2, NMI);
    assert!(second.sched.state().is_down());
    assert_eq!(second.attention(), Attention::empty(), "neither the de-assertion nor an NMI concerns it");
    send(&hv, &first, 2, START_UP | 0x9a);
    assert!(second.sched.state().is_up());
    assert_eq!(second.attention(), Attention::START);
    send(&hv, &first, 2, START_UP | 0x11);
    assert_eq!(*second.start.lock(), Some(StartState::real_mode(0x9a)), "the second one is ignored");
    send(&hv, &first, 2, NMI);
    assert!(second.attention().contains(Attention::NMI));
    release(&hv, &domain);
}

#[test]
fn start_up_is_ignored_by_a_processor_that_runs() {
    let (hv, domain) = started(2);
    let (first, second) = (vcpu(&domain, 0), vcpu(&domain, 1));
    send(&hv, &second, 0, START_UP | 0x10);
    assert_eq!(first.attention(), Attention::empty());
    // One that was started by a hypercall waits for nothing.
    hv.forget_start_up(&second);
    send(&hv, &first, 2, START_UP | 0x10);
    assert!(second.sched.state().is_down() && second.start.lock().is_none());
    // But INIT makes it wait again, and takes the state that it had.
    *second.start.lock() = Some(StartState::real_mode(1));
    second.raise(Attention::START);
    second.sched.word.update(Word::initialised);
    send(&hv, &first, 2, INIT | ASSERT);
    let up = [vcpu_abi::UP.into(), 1, 0, 0, 0];
    assert_eq!(testing::hypercall(&hv, &first, number::VCPU_OP, up), Errno::EINVAL.to_return());
    assert!(second.sched.state().is_down() && second.attention().is_empty());
    send(&hv, &first, 2, START_UP | 0x10);
    assert!(second.sched.state().is_up());
    release(&hv, &domain);
}

#[test]
fn init_stops_a_timer_and_what_waited() {
    let (hv, domain) = started(2);
    let (first, second) = (vcpu(&domain, 0), vcpu(&domain, 1));
    hv.apic_mmio_write(&second, register::LVT_TIMER << 4, 0x30);
    hv.apic_mmio_write(&second, register::INITIAL_COUNT << 4, 1_000_000);
    hv.lapic_set_irr(&second, 0x55);
    assert!(second.timers.deadline(crate::timer::Kind::Lapic).is_some());
    send(&hv, &first, 0, INIT | ASSERT | OTHERS);
    assert_eq!(second.timers.deadline(crate::timer::Kind::Lapic), None);
    assert_eq!((waiting(&second), second.attention()), (std::vec![], Attention::empty()));
    assert!(domain.lifecycle.is_running(), "its sender lives on");
    release(&hv, &domain);
}

#[test]
fn shorthands_do_not_reset_their_sender() {
    let (hv, domain) = started(2);
    let first = vcpu(&domain, 0);
    for shorthand in [ITSELF, ALL] {
        send(&hv, &first, 0, INIT | ASSERT | shorthand);
        assert!(first.sched.state().is_up());
        assert_eq!(hv.apic_mmio_read(&first, register::SVR << 4), ON);
    }
    send(&hv, &first, 0, NMI | ITSELF);
    assert!(first.attention().contains(Attention::NMI));
    release(&hv, &domain);
}

#[test]
fn a_domain_that_resets_its_last_processor_is_off() {
    let (hv, domain) = started(2);
    let (first, second) = (vcpu(&domain, 0), vcpu(&domain, 1));
    send(&hv, &first, 0, INIT | ASSERT);
    assert!(second.sched.state().is_down(), "the other one never ran");
    assert_eq!(domain.lifecycle.state(), State::Ending);
    assert_eq!(domain.lifecycle.reason(), SHUTDOWN_POWEROFF);
    release(&hv, &domain);
}
