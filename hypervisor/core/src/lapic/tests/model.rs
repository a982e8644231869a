//! Priorities: what is delivered when, and that nothing is lost or comes twice.

use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

#[test]
fn ppr_is_the_greater_of_task_and_service() {
    let mut lapic = on(0);
    lapic.set_tpr(0x25);
    assert_eq!(lapic.ppr(), 0x25);
    assert!(lapic.set_irr(0x31));
    lapic.accept(0x31);
    assert_eq!(lapic.read(register::PPR, 0), 0x30, "the class in service, no sub-class");
    lapic.set_tpr(0x37);
    assert_eq!(lapic.ppr(), 0x37, "equal classes: the task's");
    lapic.set_tpr(0x4f);
    assert_eq!(lapic.ppr(), 0x4f);
}

#[test]
fn a_vector_needs_a_higher_class_than_the_priority() {
    let mut lapic = on(0);
    assert!(lapic.set_irr(0x35));
    lapic.set_tpr(0x30);
    assert_eq!(lapic.deliverable(), None);
    lapic.set_tpr(0x2f);
    assert_eq!(lapic.deliverable(), Some(0x35));
    lapic.accept(0x35);
    assert!(lapic.set_irr(0x3f));
    assert_eq!(lapic.deliverable(), None, "same class as what is in service");
    assert!(lapic.set_irr(0x40));
    assert_eq!(lapic.deliverable(), Some(0x40));
    lapic.accept(0x40);
    lapic.write(register::EOI, 0, 0);
    assert_eq!(lapic.ppr(), 0x30, "the highest one ends first");
    lapic.write(register::EOI, 0, 0);
    assert_eq!(lapic.deliverable(), Some(0x3f));
    lapic.write(register::EOI, 0, 0);
    assert_eq!(lapic.deliverable(), Some(0x3f), "an EOI with nothing in service does nothing");
}

#[test]
fn nothing_is_accepted_while_the_apic_is_off() {
    let mut lapic = Lapic::new(0);
    assert!(!lapic.set_irr(0x40), "off by software after reset");
    let mut lapic = on(0);
    assert!(lapic.set_irr(0x40));
    lapic.write(register::SVR, 0xff, 0);
    assert_eq!(lapic.deliverable(), None);
    assert!(!lapic.set_irr(0x41));
    lapic.write(register::SVR, ON, 0);
    assert_eq!(lapic.deliverable(), Some(0x40), "what waited still waits");
    lapic.set_base(APIC_DEFAULT_BASE).unwrap();
    assert!(!lapic.set_irr(0x42));
    lapic.set_base(APIC_DEFAULT_BASE | BASE_ENABLED).unwrap();
    lapic.write(register::SVR, ON, 0);
    assert_eq!(lapic.deliverable(), None, "turning it off has reset it");
}

/// What happens to an APIC.
#[derive(Clone, Debug)]
enum Step {
    Raise(u8),
    Deliver,
    End,
    Tpr(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Raise),
        3 => Just(Step::Deliver),
        2 => Just(Step::End),
        1 => any::<u8>().prop_map(Step::Tpr),
    ]
}

/// The rules of chapter 16 once more, on sets.
#[derive(Default)]
struct Reference {
    requested: BTreeSet<u8>,
    in_service: BTreeSet<u8>,
    tpr: u8,
}

impl Reference {
    fn deliverable(&self) -> Option<u8> {
        let class = (self.tpr >> 4).max(self.in_service.last().map_or(0, |vector| vector >> 4));
        self.requested.last().copied().filter(|vector| vector >> 4 > class)
    }
}

proptest! {
    #[test]
    fn priorities_follow_the_manual(steps in proptest::collection::vec(step(), 1..200)) {
        let mut lapic = on(0);
        let mut reference = Reference::default();
        let (mut noted, mut delivered) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Raise(vector) => {
                    let legal = vector >= FIRST_VECTOR;
                    prop_assert_eq!(lapic.set_irr(vector), legal);
                    if legal && reference.requested.insert(vector) {
                        noted.push(vector);
                    }
                }
                Step::Deliver => if let Some(vector) = lapic.deliverable() {
                    lapic.accept(vector);
                    prop_assert!(reference.requested.remove(&vector));
                    reference.in_service.insert(vector);
                    delivered.push(vector);
                },
                Step::End => {
                    lapic.write(register::EOI, 0, 0);
                    reference.in_service.pop_last();
                }
                Step::Tpr(tpr) => {
                    lapic.set_tpr(tpr);
                    reference.tpr = tpr;
                }
            }
            prop_assert_eq!(lapic.deliverable(), reference.deliverable());
        }
        // A guest that ends everything and lowers its priority gets the rest: all that was noted, each once.
        lapic.set_tpr(0);
        loop {
            while reference.in_service.pop_last().is_some() {
                lapic.write(register::EOI, 0, 0);
            }
            let Some(vector) = lapic.deliverable() else { break };
            lapic.accept(vector);
            reference.in_service.insert(vector);
            delivered.push(vector);
        }
        noted.sort_unstable();
        delivered.sort_unstable();
        prop_assert_eq!(noted, delivered);
    }
}
