//! What becomes of mappings when a domain ends.

use shared_abi::grant_table::{GrantStatus, MapFlags};

use crate::testing;
use crate::world::*;

const HOST: MapFlags = MapFlags::HOST_MAP;

#[test]
fn a_dead_granters_page_lives_until_it_is_unmapped() {
    let hv = testing::hypervisor(1, 1024);
    let mapper = Guest::new(&hv, 2);
    let before = hv.heap.ledger();
    let granter = Guest::new(&hv, 1);
    granter.grant(9, PERMIT, mapper.id(), 5);
    granter.grant(10, PERMIT, mapper.id(), 5);
    granter.write(5 << 12, b"legacy").expect("memory");
    let id = granter.id();
    let handles = [9, 10].map(|gref| mapper.map(id, gref, EMPTY + u64::from(gref), HOST).expect("permitted"));
    granter.die();
    assert_eq!(hv.heap.account(id).current(), 1, "the page, and nothing else");
    assert_eq!(&mapper.read::<6>((EMPTY + 9) << 12), b"legacy");
    assert_eq!(mapper.map(id, 9, EMPTY, HOST), Err(GrantStatus::BAD_DOMAIN));
    audit(&hv);
    for (handle, gref) in handles.into_iter().zip([9, 10]) {
        assert_eq!(mapper.unmap(handle, EMPTY + gref), GrantStatus::OKAY);
    }
    audit(&hv);
    assert_eq!(hv.heap.account(id).current(), 0);
    let after = hv.heap.ledger();
    let free = |ledger: &ebb_core::heap::Ledger| ledger.free + ledger.scrubbing;
    // The mapper's p2m has kept no table of what is unmapped.
    assert_eq!((after.domains, after.hypervisor, free(&after)), (before.domains, before.hypervisor, free(&before)));
}

#[test]
fn a_dead_mapper_lets_go() {
    let hv = testing::hypervisor(1, 1024);
    let granter = Guest::new(&hv, 1);
    let before = hv.heap.ledger();
    let mapper = Guest::new(&hv, 2);
    for gref in 0..200 {
        granter.grant(gref, PERMIT, mapper.id(), u64::from(gref % 64));
        mapper.map(granter.id(), gref, EMPTY + u64::from(gref), HOST).expect("permitted");
    }
    mapper.die();
    for gref in 0..200 {
        assert_eq!(granter.flags(gref), PERMIT);
    }
    assert_eq!(granter.domain.grants.in_use(), 0);
    let after = hv.heap.ledger();
    assert_eq!((after.domains, after.hypervisor), (before.domains, before.hypervisor));
    audit(&hv);
}

#[test]
fn two_that_map_each_other_can_end_in_any_order() {
    for order in [[0, 1], [1, 0]] {
        let hv = testing::hypervisor(1, 1024);
        let before = hv.heap.ledger();
        let guests = [Guest::new(&hv, 1), Guest::new(&hv, 2)];
        for (granter, mapper) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
            let gref = 1 + mapper as u32;
            guests[granter].grant(gref, PERMIT, guests[mapper].id(), 5);
            let at = EMPTY + granter as u64;
            guests[mapper].map(guests[granter].id(), gref, at, HOST).expect("permitted");
        }
        // Only what maps keeps a domain's structures, once the queues have let its vCPUs go.
        let weak = guests.each_ref().map(|guest| std::sync::Arc::downgrade(&guest.domain));
        let mut guests = guests.map(Some);
        for index in order {
            guests[index].take().expect("alive").die();
            audit(&hv);
        }
        let after = hv.heap.ledger();
        assert_eq!((after.domains, after.hypervisor), (before.domains, before.hypervisor));
        assert!(hv.schedule().is_none());
        assert!(weak.iter().all(|domain| domain.upgrade().is_none()), "no structure is kept");
    }
}
