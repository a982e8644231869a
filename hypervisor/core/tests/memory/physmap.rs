//! What appears at which gfn: pages that move, special pages, other domains' pages.

use super::*;

fn add(hv: &Hv, caller: &Dom, space: u32, idx: u64, gpfn: u64, size: u16) -> i64 {
    let argument = AddToPhysmap { domid: DomId::SELF, size, space, idx, gpfn: Gfn(gpfn) };
    memory_op(hv, caller, op::ADD_TO_PHYSMAP, &argument)
}

#[test]
fn pages_move() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    poke(&hv, &d, 600 << 12, b"page 600");
    let (mfn, _) = d.memory.translate(&hv.machine, Gfn(600)).unwrap();
    assert_eq!(add(&hv, &d, op::MAPSPACE_GMFN, 600, 5000, 0), 0);
    assert_eq!(d.memory.translate(&hv.machine, Gfn(5000)), Some((mfn, true)));
    assert_eq!(order_at(&hv, &d, 600), None);
    assert_eq!(d.memory.current(), 1024);
    audit(&hv);
    // Over a page that is there: that one goes back.
    assert_eq!(add(&hv, &d, op::MAPSPACE_GMFN, 5000, 700, 0), 0);
    assert_eq!(peek::<8>(&hv, &d, 700 << 12), *b"page 600");
    assert_eq!(d.memory.current(), 1023);
    assert_eq!(add(&hv, &d, op::MAPSPACE_GMFN, 600, 700, 0), error(Errno::EINVAL), "nothing at 600");
    assert_eq!(add(&hv, &d, op::MAPSPACE_GMFN, 700, 1 << 28, 0), error(Errno::EINVAL));
    assert_eq!(peek::<8>(&hv, &d, 700 << 12), *b"page 600");
    audit(&hv);
    // Onto itself.
    assert_eq!(add(&hv, &d, op::MAPSPACE_GMFN, 700, 700, 0), 0);
    assert_eq!(peek::<8>(&hv, &d, 700 << 12), *b"page 600");
    audit(&hv);
}

#[test]
fn ranges_move_over_themselves() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    for gfn in 600..620u64 {
        poke(&hv, &d, gfn << 12, &gfn.to_le_bytes());
    }
    hv.machine.interrupt.store(true, Ordering::SeqCst);
    assert_eq!(add(&hv, &d, op::MAPSPACE_GMFN_RANGE, 600, 610, 20), 0);
    for gfn in 600..620u64 {
        assert_eq!(peek::<8>(&hv, &d, (gfn + 10) << 12), gfn.to_le_bytes());
    }
    assert_eq!(order_at(&hv, &d, 609), None);
    assert_eq!(d.memory.current(), 1014);
    assert_eq!(add(&hv, &d, op::MAPSPACE_GMFN_RANGE, u64::MAX - 3, 610, 20), error(Errno::EOVERFLOW));
    audit(&hv);
}

#[test]
fn shared_info_is_at_one_place() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    assert_eq!(add(&hv, &d, op::MAPSPACE_SHARED_INFO, 0, 700, 0), error(Errno::EINVAL), "it has none");
    let frame = hv.heap.allocate(&hv.machine, 0, Owner::Hypervisor).unwrap();
    ebb_core::evtchn::attach_shared_info(&hv, &d, frame.first());
    assert_eq!(add(&hv, &d, op::MAPSPACE_SHARED_INFO, 1, 700, 0), error(Errno::EINVAL));
    assert_eq!(add(&hv, &d, op::MAPSPACE_SHARED_INFO, 0, 700, 0), 0);
    assert_eq!(d.memory.translate(&hv.machine, Gfn(700)), Some((frame.first(), true)));
    assert_eq!(d.memory.current(), 1023, "the page that was there is given back");
    assert_eq!(add(&hv, &d, op::MAPSPACE_SHARED_INFO, 0, 2000, 0), 0);
    assert_eq!(order_at(&hv, &d, 700), None);
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[2000], 0), 1);
    assert_eq!(add(&hv, &d, op::MAPSPACE_SHARED_INFO, 0, 2000, 0), 0);
    assert_eq!(d.memory.pin(&hv, Gfn(2000)), Err(Errno::EINVAL), "not the domain's memory");
    audit(&hv);
    while !d.memory.release_all(&hv, 64) {}
    hv.set_domain(DomId(1), None);
    hv.heap.free(frame);
    audit(&hv);
}

#[test]
fn spaces_that_are_refused() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    assert_eq!(add(&hv, &d, op::MAPSPACE_GMFN_FOREIGN, 0, 700, 0), error(Errno::ENOSYS));
    assert_eq!(add(&hv, &d, op::MAPSPACE_DEV_MMIO, 0, 700, 0), error(Errno::EACCES));
    assert_eq!(add(&hv, &d, op::MAPSPACE_GRANT_TABLE, 10_000, 700, 0), error(Errno::EINVAL));
    assert_eq!(add(&hv, &d, 99, 0, 700, 0), error(Errno::EINVAL));
    assert_eq!(add(&hv, &d, op::MAPSPACE_GMFN, 600, u64::MAX, 0), error(Errno::EINVAL));
    let resource = MemAcquireResource { domid: DomId(1), nr_frames: 1, ..Default::default() };
    assert_eq!(memory_op(&hv, &d, op::ACQUIRE_RESOURCE, &resource), error(Errno::EPERM));
    let g = governor(&hv, 2);
    assert_eq!(memory_op(&hv, &g, op::ACQUIRE_RESOURCE, &resource), error(Errno::EINVAL));
    audit(&hv);
}

fn map_foreign(hv: &Hv, caller: &Dom, owner: DomId, idx: u64, gpfn: u64) -> (i64, i32) {
    put_list(hv, caller, LIST, &[idx]);
    put_list(hv, caller, LIST + 8, &[gpfn]);
    let argument = AddToPhysmapBatch {
        domid: DomId::SELF,
        space: op::MAPSPACE_GMFN_FOREIGN as u16,
        size: 1,
        foreign_domid: owner,
        idxs: GuestHandle::new(LIST),
        gpfns: GuestHandle::new(LIST + 8),
        errs: GuestHandle::new(LIST + 16),
    };
    let result = memory_op(hv, caller, op::ADD_TO_PHYSMAP_BATCH, &argument);
    (result, i32::from_le_bytes(peek(hv, caller, LIST + 16)))
}

#[test]
fn a_foreign_page_outlives_its_owners_interest() {
    let hv = hypervisor(1, 8192);
    let g = governor(&hv, 1);
    let d = domain(&hv, 2, 1024, 1);
    poke(&hv, &d, 600 << 12, b"shared");
    assert_eq!(map_foreign(&hv, &d, g.id, 0, 2000), (0, error(Errno::EPERM) as i32));
    assert_eq!(map_foreign(&hv, &g, DomId::SELF, 0, 2000), (0, error(Errno::EINVAL) as i32));
    assert_eq!(map_foreign(&hv, &g, DomId(9), 0, 2000), (0, error(Errno::ESRCH) as i32));
    assert_eq!(map_foreign(&hv, &g, d.id, 600, 2000), (0, 0));
    assert_eq!(peek::<6>(&hv, &g, 2000 << 12), *b"shared");
    assert_eq!(order_at(&hv, &d, 600), Some(9), "a pin does not split");
    audit(&hv);
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &[512], 9), 1);
    assert_eq!(d.memory.current(), 513, "the page in use stays charged");
    assert_eq!(peek::<6>(&hv, &g, 2000 << 12), *b"shared");
    audit(&hv);
    assert_eq!(adjust(&hv, &g, op::DECREASE_RESERVATION, &[2000], 0), 0, "not the domain's to give");
    let remove = RemoveFromPhysmap { domid: DomId::SELF, pad: [0; 3], gpfn: Gfn(2000) };
    assert_eq!(memory_op(&hv, &g, op::REMOVE_FROM_PHYSMAP, &remove), 0);
    assert_eq!(memory_op(&hv, &g, op::REMOVE_FROM_PHYSMAP, &remove), error(Errno::ENOENT));
    assert_eq!(d.memory.current(), 512);
    audit(&hv);
}

#[test]
fn a_domain_ends_with_its_pages_mapped_elsewhere() {
    let hv = hypervisor(1, 8192);
    let g = governor(&hv, 1);
    let d = domain(&hv, 2, 1024, 1);
    for page in 0..40 {
        assert_eq!(map_foreign(&hv, &g, d.id, 100 + page, 2000 + page), (0, 0));
    }
    let pin = d.memory.pin(&hv, Gfn(7)).unwrap();
    while !d.memory.release_all(&hv, 10) {}
    audit(&hv);
    assert_eq!(d.memory.current(), 41);
    assert_eq!(d.memory.populate(&hv, Gfn(0), 0), Err(Errno::EINVAL), "a domain that ends gets nothing");
    assert_eq!(d.memory.pin(&hv, Gfn(0)), Err(Errno::EINVAL));
    while !g.memory.release_all(&hv, 10) {}
    assert_eq!(d.memory.current(), 1);
    audit(&hv);
    pin.release(&hv.heap);
    hv.set_domain(DomId(1), None);
    hv.set_domain(DomId(2), None);
    let ledger = hv.heap.ledger();
    assert_eq!((ledger.domains, ledger.hypervisor), (0, testing::HYPERVISOR_FRAMES));
    audit(&hv);
}

#[test]
fn removed_pages_stay_the_domains() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    let remove = RemoveFromPhysmap { domid: DomId::SELF, pad: [0; 3], gpfn: Gfn(600) };
    assert_eq!(memory_op(&hv, &d, op::REMOVE_FROM_PHYSMAP, &remove), 0);
    assert_eq!(d.memory.current(), 1024);
    assert_eq!(adjust(&hv, &d, op::INCREASE_RESERVATION, &[0, 0], 1), 2);
    assert_eq!(d.memory.current(), 1028);
    audit(&hv);
    while !d.memory.release_all(&hv, 1000) {}
    assert_eq!(d.memory.current(), 0);
    audit(&hv);
}
