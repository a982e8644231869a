//! XENMEM_exchange: extents of one order for as much memory in extents of another, chunk by chunk. A chunk is the
//! smallest part in which both sides have whole extents; its new memory is allocated before its old is taken, so a
//! chunk that cannot be done leaves everything as it was.

use shared_abi::memory::{MemoryExchange, MemoryReservation};
use shared_abi::xen::compat::MemoryExchange32;
use shared_abi::xen::{Errno, Gfn, Mfn};

use super::reservation::flags_allowed;
use super::{DOMAIN_MAX_ORDER, DomainMemory};
use crate::domain::Domain;
use crate::heap::{Extent, FrameHeap, NIL, Owner};
use crate::hypercall::{Call, CallResult, Next, Width};
use crate::machine::Machine;
use crate::p2m::{FrameKind, Retired};

/// Numbers read at a time.
const BATCH: usize = 64;

/// The two lists, and how they correspond.
struct Plan {
    given: MemoryReservation,
    wanted: MemoryReservation,
    /// log2 of the extents given per chunk.
    given_order: u32,
    /// log2 of the extents wanted per chunk.
    wanted_order: u32,
}

/// `exchange(arg)`.
///
/// # Errors
/// As Xen's: `EPERM` for an order too high, `EINVAL` for lists that do not fit each other or memory that is not there,
/// `ENOMEM`, `EFAULT`, `ESRCH`. `nr_exchanged` says how far it came.
pub(super) fn exchange<M: Machine>(call: &Call<'_, M>) -> CallResult {
    let mut argument: MemoryExchange = call.memory_argument()?;
    let result = run(call, &mut argument);
    if result != Ok(Next::Return(0)) || argument.nr_exchanged != 0 {
        write_progress(call, argument.nr_exchanged)?;
    }
    result
}

/// Extents that make a 64-bit number of pages.
fn counts(reservation: &MemoryReservation) -> Option<u64> {
    (u64::MAX >> reservation.extent_order >= reservation.nr_extents)
        .then(|| reservation.nr_extents << reservation.extent_order)
}

fn check<M: Machine>(call: &Call<'_, M>, argument: &MemoryExchange) -> Result<Plan, Errno> {
    let (given, wanted) = (argument.in_, argument.out);
    if given.extent_order.max(wanted.extent_order) > DOMAIN_MAX_ORDER {
        return Err(Errno::EPERM);
    }
    let pages = counts(&given);
    if argument.nr_exchanged > given.nr_extents
        || given.domid != wanted.domid
        || pages.is_none()
        || pages != counts(&wanted)
        || !flags_allowed(call, wanted.mem_flags)
    {
        return Err(Errno::EINVAL);
    }
    Ok(Plan {
        given,
        wanted,
        given_order: wanted.extent_order.saturating_sub(given.extent_order),
        wanted_order: given.extent_order.saturating_sub(wanted.extent_order),
    })
}

fn run<M: Machine>(call: &Call<'_, M>, argument: &mut MemoryExchange) -> CallResult {
    let plan = check(call, argument)?;
    if argument.nr_exchanged == plan.given.nr_extents {
        return Ok(Next::Return(0));
    }
    let domain = call.memory_target(plan.given.domid)?;
    let first = argument.nr_exchanged >> plan.given_order;
    for chunk in first..plan.given.nr_extents >> plan.given_order {
        argument.nr_exchanged = chunk << plan.given_order;
        if chunk != first && call.should_preempt() {
            return Ok(Next::Again(call.args));
        }
        exchange_chunk(call, &domain, &plan, chunk)?;
    }
    argument.nr_exchanged = plan.given.nr_extents;
    Ok(Next::Return(0))
}

fn write_progress<M: Machine>(call: &Call<'_, M>, exchanged: u64) -> Result<(), Errno> {
    let at = |offset: usize| call.args[1].checked_add(offset as u64).ok_or(Errno::EFAULT);
    match call.width {
        Width::Bits64 => call.write_guest(at(core::mem::offset_of!(MemoryExchange, nr_exchanged))?, &exchanged),
        Width::Bits32 => {
            call.write_guest(at(core::mem::offset_of!(MemoryExchange32, nr_exchanged))?, &(exchanged as u32))
        }
    }
}

fn exchange_chunk<M: Machine>(call: &Call<'_, M>, domain: &Domain<M>, plan: &Plan, chunk: u64) -> Result<(), Errno> {
    let (hv, memory) = (call.hv, &domain.memory);
    let given = chunk << plan.given_order;
    each_gfn(call, &plan.given, given, 1 << plan.given_order, |gfn| {
        all_there(call, memory, gfn, plan.given.extent_order)
    })?;
    let mut bag = Bag::fill(call, domain, plan)?;
    let mut retired = Retired::new();
    let result = each_gfn(call, &plan.given, given, 1 << plan.given_order, |gfn| {
        memory.remove_locked(hv.frames(), &mut memory.p2m.write(), gfn, plan.given.extent_order, &mut retired)
    })
    .and_then(|()| {
        let wanted = chunk << plan.wanted_order;
        each_gfn(call, &plan.wanted, wanted, 1 << plan.wanted_order, |gfn| {
            let extent = bag.take(&hv.heap).ok_or(Errno::ENOMEM)?;
            memory.map_extent_locked(hv.frames(), &mut memory.p2m.write(), gfn, extent, &mut retired)
        })
    });
    bag.empty(&hv.heap);
    retired.flush(hv, memory).free(&hv.heap);
    // What is not the domain's memory is `EINVAL` here, as is what is not there.
    result.map_err(|errno| if errno == Errno::ENOENT { Errno::EINVAL } else { errno })
}

/// Calls `visit` with each gfn of `count` extents from `first` on. The list is read without a lock.
fn each_gfn<M: Machine>(
    call: &Call<'_, M>,
    reservation: &MemoryReservation,
    first: u64,
    count: u64,
    mut visit: impl FnMut(Gfn) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut done = 0;
    while done < count {
        let mut gfns = [0; BATCH];
        let wanted = (count - done).min(BATCH as u64) as usize;
        let read = call.read_numbers(reservation.extent_start.address(), first + done, &mut gfns[..wanted]);
        for gfn in &gfns[..read] {
            visit(Gfn(*gfn))?;
        }
        if read < wanted {
            return Err(Errno::EFAULT);
        }
        done += wanted as u64;
    }
    Ok(())
}

fn all_there<M: Machine>(call: &Call<'_, M>, memory: &DomainMemory<M>, gfn: Gfn, order: u32) -> Result<(), Errno> {
    let end = gfn.0.checked_add(1 << order).ok_or(Errno::EINVAL)?;
    let p2m = memory.p2m.read();
    let mut at = gfn.0;
    while at < end {
        match p2m.lookup(&call.hv.machine, Gfn(at)) {
            Some(found) if found.kind == FrameKind::Ram => at = (at | ((1 << found.order) - 1)) + 1,
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(())
}

/// The new memory of a chunk: a chain of blocks of one order.
struct Bag {
    head: u32,
    order: u32,
}

impl Bag {
    fn fill<M: Machine>(call: &Call<'_, M>, domain: &Domain<M>, plan: &Plan) -> Result<Self, Errno> {
        let heap = &call.hv.heap;
        let mut bag = Self { head: NIL, order: plan.wanted.extent_order };
        for _ in 0..1u64 << plan.wanted_order {
            // Over the maximum for the moment: as much is taken away below.
            match heap.try_allocate(&call.hv.machine, bag.order, Owner::Domain(domain.id), true) {
                Ok(extent) => {
                    let (first, _) = extent.into_record();
                    heap.frame(first.0 as u32).set_next(bag.head);
                    bag.head = first.0 as u32;
                }
                Err(_) => {
                    bag.empty(heap);
                    return Err(Errno::ENOMEM);
                }
            }
        }
        Ok(bag)
    }

    fn take(&mut self, heap: &FrameHeap) -> Option<Extent> {
        if self.head == NIL {
            return None;
        }
        let first = self.head;
        self.head = heap.frame(first).next();
        Some(Extent::from_record(Mfn(u64::from(first)), self.order))
    }

    fn empty(&mut self, heap: &FrameHeap) {
        while let Some(extent) = self.take(heap) {
            heap.free_untouched(extent);
        }
    }
}
