//! What entries are planned, and that no interrupt is lost on its way to one.

use std::sync::atomic::{AtomicU64, Ordering};

use shared_abi::xen::vcpu_info_offset::EVTCHN_UPCALL_PENDING;

use super::*;
use crate::evtchn;
use crate::testing::{call, hypercall, poke, set_cpu};
use crate::vcpu::{Attention, EntryPlan, Injection, Interruptibility, StartState};

const FREE: Interruptibility = Interruptibility { interrupts: true, nmi: true, occupied: false };
const CALLBACK: u8 = 0xf3;
const CALLBACK_VIA: u64 = 2 << 56 | CALLBACK as u64;
const HVM_OP: u64 = 34;
const CALLBACK_IRQ: u64 = 0;

/// A vCPU whose vcpu_info is at guest-physical 0x1000, with a domain-wide callback vector.
fn with_callback() -> (Hv, Arc<Domain<FakeMachine>>) {
    let (hv, domain) = with_domain(2);
    let first = vcpu(&domain, 0);
    // struct xen_hvm_param {domid, pad, index, value} at 0x2000.
    let mut parameter = std::vec::Vec::new();
    parameter.extend_from_slice(&0x7ff0_u32.to_le_bytes());
    parameter.extend_from_slice(&(CALLBACK_IRQ as u32).to_le_bytes());
    parameter.extend_from_slice(&CALLBACK_VIA.to_le_bytes());
    poke(&hv, &domain, 0x2000, &parameter);
    assert_eq!(hypercall(&hv, &first, HVM_OP, [0, 0x2000, 0, 0, 0]), 0);
    let call = call(&hv, &first, [0; 5]);
    evtchn::register_vcpu_info(&call, &first, shared_abi::xen::Gfn(1), 0).unwrap();
    poke(&hv, &domain, 0x1000, &[0; 64]);
    first.withdraw(Attention::all());
    (hv, domain)
}

/// Plans the next entry.
fn enter(hv: &Hv, vcpu: &VcpuRef<FakeMachine>, can: Interruptibility) -> EntryPlan {
    let only_upcall = hv.only_upcall(vcpu.domain(), vcpu);
    let plan = hv.prepare_entry(vcpu, can);
    if let Some(vector) = only_upcall {
        // What the machine does by itself then must be what the plan says.
        let now = can.interrupts && !can.occupied;
        let inject = now.then_some(Injection::External(vector));
        assert_eq!(plan, EntryPlan { inject, interrupt_window: !now, ..Default::default() });
    }
    plan
}

fn set_upcall(hv: &Hv, domain: &Domain<FakeMachine>, pending: u8) {
    poke(hv, domain, 0x1000 + EVTCHN_UPCALL_PENDING as u64, &[pending]);
}

fn finish(hv: &Hv, domain: &Domain<FakeMachine>) {
    evtchn::close_all(hv, domain);
    release(hv, domain);
}

#[test]
fn nothing_waits_nothing_is_planned() {
    let (hv, domain) = with_callback();
    assert_eq!(enter(&hv, &vcpu(&domain, 0), FREE), EntryPlan::default());
    finish(&hv, &domain);
}

#[test]
fn events_come_in_their_order() {
    let (hv, domain) = with_callback();
    let first = vcpu(&domain, 0);
    hv.lapic_set_irr(&first, 0x50);
    hv.lapic_set_irr(&first, 0x60);
    set_upcall(&hv, &domain, 1);
    hv.send_nmi(&first);
    *first.start.lock() = Some(StartState::real_mode(1));
    first.raise(Attention::START);

    let plan = enter(&hv, &first, FREE);
    assert_eq!((plan.start, plan.inject), (Some(StartState::real_mode(1)), None));
    let plan = enter(&hv, &first, FREE);
    assert_eq!(plan, EntryPlan { inject: Some(Injection::Nmi), interrupt_window: true, ..Default::default() });
    let plan = enter(&hv, &first, FREE);
    let upcall = Some(Injection::External(CALLBACK));
    assert_eq!(plan, EntryPlan { inject: upcall, interrupt_window: true, ..Default::default() });
    assert_eq!(enter(&hv, &first, FREE).inject, upcall, "a level: until the guest clears the byte");
    set_upcall(&hv, &domain, 0);
    let plan = enter(&hv, &first, FREE);
    assert_eq!(plan, EntryPlan { inject: Some(Injection::External(0x60)), ..Default::default() }, "0x50 is too low");
    assert_eq!(enter(&hv, &first, FREE), EntryPlan::default());
    hv.apic_mmio_write(&first, register::EOI << 4, 0);
    assert_eq!(enter(&hv, &first, FREE).inject, Some(Injection::External(0x50)));
    enter(&hv, &first, FREE);
    assert_eq!(first.attention(), Attention::empty());
    finish(&hv, &domain);
}

#[test]
fn what_cannot_be_injected_asks_for_its_window() {
    let (hv, domain) = with_callback();
    let first = vcpu(&domain, 0);
    let plan = |can| enter(&hv, &first, can);
    let window = EntryPlan { interrupt_window: true, ..Default::default() };
    let blocked = Interruptibility { interrupts: false, ..FREE };
    let occupied = Interruptibility { occupied: true, ..FREE };

    hv.lapic_set_irr(&first, 0x50);
    assert_eq!((plan(blocked), plan(occupied)), (window, window));
    assert_eq!(waiting(&first), [0x50], "it still waits");
    first.lapic.lock().irr = Vectors::default();
    plan(FREE);

    set_upcall(&hv, &domain, 1);
    assert_eq!((plan(blocked), plan(occupied)), (window, window));
    set_upcall(&hv, &domain, 0);

    hv.send_nmi(&first);
    let nmi = EntryPlan { nmi_window: true, ..Default::default() };
    assert_eq!((plan(Interruptibility { nmi: false, ..FREE }), plan(occupied)), (nmi, nmi));
    assert_eq!(plan(blocked).inject, Some(Injection::Nmi), "interrupts may be off for an NMI");
    assert_eq!(plan(FREE), EntryPlan::default());
    finish(&hv, &domain);
}

#[test]
fn a_vcpu_with_its_own_vector_gets_upcalls_from_its_apic() {
    let (hv, domain) = with_callback();
    let first = vcpu(&domain, 0);
    // struct xen_hvm_evtchn_upcall_vector {vcpu, vector}
    poke(&hv, &domain, 0x2000, &[0, 0, 0, 0, 0x90]);
    assert_eq!(hypercall(&hv, &first, HVM_OP, [23, 0x2000, 0, 0, 0]), 0);
    assert_eq!(enter(&hv, &first, FREE).inject, Some(Injection::External(0x90)), "once when it is set, as on Xen");
    hv.apic_mmio_write(&first, register::EOI << 4, 0);
    set_upcall(&hv, &domain, 1);
    assert_eq!(enter(&hv, &first, FREE), EntryPlan::default(), "the byte alone is not enough");
    evtchn::announce(&hv, &first);
    assert_eq!(enter(&hv, &first, FREE).inject, Some(Injection::External(0x90)));
    assert_eq!(enter(&hv, &first, FREE).inject, None, "an edge");
    finish(&hv, &domain);
}

#[test]
fn task_priority_holds_interrupts_back_and_lets_them_go() {
    let (hv, domain) = with_callback();
    let first = vcpu(&domain, 0);
    hv.set_tpr(&first, 0x50);
    hv.lapic_set_irr(&first, 0x5f);
    assert_eq!(enter(&hv, &first, FREE), EntryPlan::default(), "no window: nothing could come by it");
    assert_eq!(first.attention(), Attention::empty());
    set_upcall(&hv, &domain, 1);
    assert_eq!(enter(&hv, &first, FREE).inject, Some(Injection::External(CALLBACK)), "not by its priority");
    set_upcall(&hv, &domain, 0);
    hv.set_tpr(&first, 0x4f);
    assert_eq!(first.attention(), Attention::LAPIC);
    assert_eq!(enter(&hv, &first, FREE).inject, Some(Injection::External(0x5f)));
    hv.lapic_set_irr(&first, 0x51);
    assert_eq!(enter(&hv, &first, FREE), EntryPlan::default());
    hv.apic_mmio_write(&first, register::EOI << 4, 0);
    assert_eq!(first.attention(), Attention::LAPIC, "raised again by the end of the other");
    finish(&hv, &domain);
}

#[test]
fn the_timer_interrupts() {
    let (hv, domain) = with_callback();
    let first = vcpu(&domain, 0);
    let start = crate::Machine::now(&hv.machine);
    hv.apic_mmio_write(&first, register::DIVIDE << 4, 0b1011);
    hv.apic_mmio_write(&first, register::LVT_TIMER << 4, LVT_PERIODIC | 0x31);
    hv.apic_mmio_write(&first, register::INITIAL_COUNT << 4, 500_000);
    let deadline = || first.timers.deadline(crate::timer::Kind::Lapic);
    assert_eq!(deadline(), Some(start + 500_000));
    for round in 1..=3 {
        hv.machine.set_now(start + round * 500_000);
        hv.on_timer();
        assert_eq!(enter(&hv, &first, FREE).inject, Some(Injection::External(0x31)));
        hv.apic_mmio_write(&first, register::EOI << 4, 0);
        assert_eq!(deadline(), Some(start + (round + 1) * 500_000));
    }
    hv.apic_mmio_write(&first, register::LVT_TIMER << 4, LVT_MASKED | 0x31);
    assert_eq!(deadline(), None);
    finish(&hv, &domain);
}

/// One CPU sends vectors to a vCPU that another CPU enters. The sender sends each vector again only when the guest has
/// taken it, so a lost one stops it, and one that comes twice is counted.
#[test]
fn interrupts_between_cpus_are_neither_lost_nor_doubled() {
    const ROUNDS: u64 = 3_000;
    const VECTORS: [u8; 3] = [0x31, 0x32, 0x81];
    let (hv, domain) = with_domain(2);
    let taken: [AtomicU64; 3] = Default::default();
    std::thread::scope(|scope| {
        for (vector, taken) in VECTORS.into_iter().zip(&taken) {
            let (hv, domain) = (&hv, &domain);
            scope.spawn(move || {
                set_cpu(1);
                for round in 0..ROUNDS {
                    hv.lapic_set_irr(&vcpu(domain, 0), vector);
                    while taken.load(Ordering::SeqCst) == round {
                        std::thread::yield_now();
                    }
                }
            });
        }
        set_cpu(0);
        let guest = vcpu(&domain, 0);
        let mut idle = 0_u64;
        while taken.iter().any(|taken| taken.load(Ordering::SeqCst) < ROUNDS) {
            match enter(&hv, &guest, FREE).inject {
                Some(Injection::External(vector)) => {
                    let index = VECTORS.iter().position(|known| *known == vector).expect("a vector that was sent");
                    // The end first: the sender goes on at once.
                    hv.apic_mmio_write(&guest, register::EOI << 4, 0);
                    taken[index].fetch_add(1, Ordering::SeqCst);
                    idle = 0;
                }
                _ => {
                    idle += 1;
                    assert!(idle < 50_000_000, "an interrupt was lost");
                    std::thread::yield_now();
                }
            }
        }
        assert_eq!(enter(&hv, &guest, FREE).inject, None);
    });
    assert!(taken.iter().all(|taken| taken.load(Ordering::SeqCst) == ROUNDS));
    assert_eq!(waiting(&vcpu(&domain, 0)), [0; 0]);
    release(&hv, &domain);
}
