//! Any contents of a table, any requests, any order of deaths: the hypervisor's books stay right.

use proptest::prelude::*;
use shared_abi::grant_table::{self as abi, GrantCopy, GrantCopyPtr, GrantHandle, MapFlags};
use shared_abi::memory::{DECREASE_RESERVATION, MAPSPACE_GRANT_TABLE, POPULATE_PHYSMAP};
use shared_abi::xen::DomId;

use crate::testing;
use crate::world::*;

#[derive(Clone, Debug)]
enum Step {
    Entry { who: usize, gref: u32, flags: u16, to: u16, frame: u32 },
    Map { who: usize, from: u16, gref: u32, gfn: u64, flags: u32 },
    Unmap { who: usize, handle: u32, gfn: u64 },
    Copy { who: usize, source: (u16, u64, u16), dest: (u16, u64, u16), len: u16, flags: u16 },
    Decrease { who: usize, gfn: u64 },
    Populate { who: usize, gfn: u64 },
    Remove { who: usize, gfn: u64 },
    Table { who: usize, index: u64, gfn: u64 },
    Die { who: usize },
}

fn domain_id() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 1u16..4, 1 => Just(DomId::SELF.0), 1 => any::<u16>()]
}

fn gref() -> impl Strategy<Value = u32> {
    prop_oneof![12 => 0u32..6, 1 => 510u32..514, 1 => any::<u32>()]
}

fn gfn() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..12, 6 => EMPTY..EMPTY + 6, 1 => TABLE..TABLE + 2, 1 => any::<u64>()]
}

fn entry_flags() -> impl Strategy<Value = u16> {
    prop_oneof![6 => Just(PERMIT), 2 => Just(PERMIT | READONLY), 1 => Just(0), 1 => any::<u16>()]
}

fn map_flags() -> impl Strategy<Value = u32> {
    prop_oneof![6 => Just(2u32), 4 => Just(6u32), 1 => any::<u32>()]
}

fn copy_end() -> impl Strategy<Value = (u16, u64, u16)> {
    let what = prop_oneof![gref().prop_map(u64::from), gfn()];
    (domain_id(), what, prop_oneof![0u16..4097, any::<u16>()])
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0usize..3;
    prop_oneof![
        8 => (who.clone(), 0u32..6, entry_flags(), domain_id(), prop_oneof![6 => 0u32..12, 1 => any::<u32>()])
            .prop_map(|(who, gref, flags, to, frame)| Step::Entry { who, gref, flags, to, frame }),
        10 => (who.clone(), domain_id(), gref(), gfn(), map_flags())
            .prop_map(|(who, from, gref, gfn, flags)| Step::Map { who, from, gref, gfn, flags }),
        6 => (who.clone(), prop_oneof![8 => 0u32..8, 1 => any::<u32>()], gfn())
            .prop_map(|(who, handle, gfn)| Step::Unmap { who, handle, gfn }),
        5 => (who.clone(), copy_end(), copy_end(), prop_oneof![0u16..64, any::<u16>()], 0u16..8)
            .prop_map(|(who, source, dest, len, flags)| Step::Copy { who, source, dest, len, flags }),
        2 => (who.clone(), gfn()).prop_map(|(who, gfn)| Step::Decrease { who, gfn }),
        2 => (who.clone(), gfn()).prop_map(|(who, gfn)| Step::Populate { who, gfn }),
        1 => (who.clone(), gfn()).prop_map(|(who, gfn)| Step::Remove { who, gfn }),
        1 => (who.clone(), 0u64..66, gfn()).prop_map(|(who, index, gfn)| Step::Table { who, index, gfn }),
        1 => who.prop_map(|who| Step::Die { who }),
    ]
}

/// Writes an entry if the table is still where it was.
fn try_grant(guest: &Guest<'_>, gref: u32, flags: u16, to: u16, frame: u32) {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&flags.to_le_bytes());
    bytes[2..4].copy_from_slice(&to.to_le_bytes());
    bytes[4..].copy_from_slice(&frame.to_le_bytes());
    let _ = guest.write((TABLE << 12) + 8 * u64::from(gref), &bytes);
}

fn perform(guests: &mut [Option<Guest<'_>>; 3], step: &Step) {
    let guest = |who: usize| guests[who].as_ref();
    match *step {
        Step::Entry { who, gref, flags, to, frame } => {
            guest(who).inspect(|guest| try_grant(guest, gref, flags, to, frame));
        }
        Step::Map { who, from, gref, gfn, flags } => {
            // Arguments of hypercalls are in the upper half of memory, which nothing here names.
            guest(who).inspect(|guest| {
                let _ = guest.map(DomId(from), gref, gfn & 0xf_ffff_ffff, MapFlags::from_bits_retain(flags));
            });
        }
        Step::Unmap { who, handle, gfn } => {
            guest(who).inspect(|guest| {
                guest.unmap(GrantHandle(handle), gfn & 0xf_ffff_ffff);
            });
        }
        Step::Copy { who, source, dest, len, flags } => {
            let end = |(domid, u, offset)| GrantCopyPtr { u, domid: DomId(domid), offset, pad: 0 };
            let request = GrantCopy { source: end(source), dest: end(dest), len, flags, ..GrantCopy::default() };
            guest(who).inspect(|guest| assert_eq!(guest.grant_op(abi::COPY, &mut [request]), 0));
        }
        Step::Decrease { who, gfn } => drop(guest(who).map(|guest| guest.reservation(DECREASE_RESERVATION, gfn))),
        Step::Populate { who, gfn } => drop(guest(who).map(|guest| guest.reservation(POPULATE_PHYSMAP, gfn))),
        Step::Remove { who, gfn } => drop(guest(who).map(|guest| guest.remove(gfn))),
        Step::Table { who, index, gfn } => drop(guest(who).map(|guest| guest.add(MAPSPACE_GRANT_TABLE, index, gfn))),
        Step::Die { who } => {
            if let Some(guest) = guests[who].take() {
                guest.die();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_books_stay_right(steps in prop::collection::vec(step(), 1..120)) {
        let hv = testing::hypervisor(1, 2048);
        let before = hv.heap.ledger();
        let mut guests = [1, 2, 3].map(|id| Some(Guest::new(&hv, id)));
        for step in &steps {
            perform(&mut guests, step);
        }
        audit(&hv);
        for guest in guests.iter_mut().filter_map(Option::take) {
            guest.die();
            audit(&hv);
        }
        let after = hv.heap.ledger();
        prop_assert_eq!((after.domains, after.hypervisor), (before.domains, before.hypervisor));
    }
}
