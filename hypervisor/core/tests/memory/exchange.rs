//! memory_exchange.

use super::*;

fn exchange(hv: &Hv, d: &Dom, given: (&[u64], u32), wanted: (&[u64], u32)) -> (i64, u64) {
    put_list(hv, d, LIST, given.0);
    put_list(hv, d, LIST + 0x2000, wanted.0);
    let out = MemoryReservation { extent_start: GuestHandle::new(LIST + 0x2000), ..reservation(wanted.0, wanted.1) };
    let argument = MemoryExchange { in_: reservation(given.0, given.1), out, nr_exchanged: 0 };
    let result = memory_op(hv, d, op::EXCHANGE, &argument);
    (result, u64::from_le_bytes(peek(hv, d, ARGUMENT + 64)))
}

#[test]
fn scattered_pages_buy_a_superpage() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 2048, 1);
    // Scatter: every other page of two superpages.
    let holes: Vec<u64> = (512..1536).step_by(2).collect();
    assert_eq!(adjust(&hv, &d, op::DECREASE_RESERVATION, &holes, 0), 512);
    let rest: Vec<u64> = (513..1536).step_by(2).collect();
    d.memory.set_maximum(d.memory.current());
    assert_eq!(exchange(&hv, &d, (&rest, 0), (&[512], 9)), (0, 512));
    assert_eq!(order_at(&hv, &d, 512), Some(9));
    assert_eq!(order_at(&hv, &d, 1025), None);
    assert_eq!(d.memory.current(), 1536);
    audit(&hv);
    // And back.
    assert_eq!(exchange(&hv, &d, (&[512], 9), (&rest, 0)), (0, 1));
    assert_eq!(order_at(&hv, &d, 513), Some(0));
    assert_eq!(order_at(&hv, &d, 512), None);
    audit(&hv);
}

#[test]
fn an_exchange_that_cannot_be_leaves_all_as_it_was() {
    let hv = hypervisor(1, 4096);
    let d = domain(&hv, 1, 2048, 1);
    let current = d.memory.current();
    assert_eq!(exchange(&hv, &d, (&[600, 601], 0), (&[700], 2)).0, error(Errno::EINVAL), "sizes differ");
    assert_eq!(exchange(&hv, &d, (&[600], 10), (&[700], 10)).0, error(Errno::EPERM));
    assert_eq!(exchange(&hv, &d, (&[600, 5000], 0), (&[3000], 1)), (error(Errno::EINVAL), 0), "nothing at 5000");
    assert!(order_at(&hv, &d, 600).is_some());
    // No block of that order.
    let mut kept = Vec::new();
    while let Some(extent) = hv.heap.allocate(&hv.machine, 2, Owner::Hypervisor) {
        kept.push(extent);
    }
    assert_eq!(exchange(&hv, &d, (&[600, 601, 602, 603], 0), (&[3000], 2)), (error(Errno::ENOMEM), 0));
    assert!(order_at(&hv, &d, 600).is_some());
    assert_eq!(d.memory.current(), current);
    kept.into_iter().for_each(|extent| hv.heap.free(extent));
    audit(&hv);
}

#[test]
fn an_exchange_for_places_that_cannot_be_read_loses_no_frame() {
    let hv = hypervisor(1, 8192);
    let d = domain(&hv, 1, 1024, 1);
    put_list(&hv, &d, LIST, &[600, 601]);
    for bad in [1 << 40, (1024 << 12) - 8] {
        let out = MemoryReservation { extent_start: GuestHandle::new(bad), ..reservation(&[0, 0], 0) };
        let argument = MemoryExchange { in_: reservation(&[600, 601], 0), out, nr_exchanged: 0 };
        assert_eq!(memory_op(&hv, &d, op::EXCHANGE, &argument), error(Errno::EFAULT));
        audit(&hv);
        put_list(&hv, &d, LIST, &[700, 701]);
    }
    // Places outside the guest's address space.
    assert_eq!(exchange(&hv, &d, (&[800, 801], 0), (&[1 << 30], 1)).0, error(Errno::EINVAL));
    audit(&hv);
}
