//! increase_reservation, decrease_reservation, populate_physmap: they answer the number of extents done, whatever
//! stopped them, and never an error.

use alloc::sync::Arc;

use shared_abi::memory as op;
use shared_abi::memory::MemoryReservation;
use shared_abi::trace::MEM_DECREASE_RESERVATION;
use shared_abi::xen::{Errno, Gfn};

use crate::domain::Domain;
use crate::heap::Owner;
use crate::hypercall::{Call, Next};
use crate::machine::{Machine, PAGE_SHIFT};
use crate::p2m::Retired;

/// Extents per chunk: so many gfns are read at once and worked on under one lock and with one flush.
const CHUNK: usize = 64;
/// The most extents a call can be about: more would not fit a continuation.
const MAX_EXTENTS: u64 = u32::MAX as u64 >> op::COMMAND_BITS;
/// How often ephemeral pages are taken back for one chunk: compressed ones may give few frames at a time.
const TAKE_BACK_ATTEMPTS: u32 = 8;
/// Nodes a privileged caller may name; the machine has one.
const MAX_NODES: u32 = 64;

/// One of the three, checked.
struct Adjustment<M: Machine> {
    operation: u32,
    domain: Arc<Domain<M>>,
    list: u64,
    extents: u64,
    order: u32,
}

/// Does what `operation` asks from extent `start` on.
pub(super) fn adjust<M: Machine>(call: &Call<'_, M>, operation: u32, start: u64) -> Next {
    let done = Next::Return(start as i64);
    let Ok(reservation) = call.memory_argument::<MemoryReservation>() else { return done };
    let Some(adjustment) = check(call, operation, start, &reservation) else { return done };
    if operation == op::INCREASE_RESERVATION {
        increase(call, &adjustment, start)
    } else {
        run(call, &adjustment, start)
    }
}

/// Everything that can be wrong with a reservation before its list is looked at.
fn check<M: Machine>(
    call: &Call<'_, M>,
    operation: u32,
    start: u64,
    reservation: &MemoryReservation,
) -> Option<Adjustment<M>> {
    if reservation.nr_extents > MAX_EXTENTS || start >= reservation.nr_extents {
        return None;
    }
    let domain = call.memory_target(reservation.domid).ok()?;
    if !flags_allowed(call, reservation.mem_flags) || reservation.extent_order > call.memory_max_order() {
        return None;
    }
    if operation == op::POPULATE_PHYSMAP && reservation.mem_flags & op::MEMF_POPULATE_ON_DEMAND != 0 {
        return None;
    }
    Some(Adjustment {
        operation,
        domain,
        list: reservation.extent_start.address(),
        extents: reservation.nr_extents,
        order: reservation.extent_order,
    })
}

/// Whether the machine can honour what the flags ask for: memory below an address only if all of it is, and its one
/// node.
#[inline]
pub(super) fn flags_allowed<M: Machine>(call: &Call<'_, M>, flags: u32) -> bool {
    flags == 0 || uncommon_flags_allowed(call, flags)
}

#[cold]
fn uncommon_flags_allowed<M: Machine>(call: &Call<'_, M>, flags: u32) -> bool {
    let bits = op::memf_address_bits(flags);
    let machine_bits = call.hv.heap.frame_count().next_power_of_two().ilog2() + PAGE_SHIFT;
    if bits != 0 && bits < machine_bits {
        return false;
    }
    if flags & op::MEMF_VNODE != 0 {
        return true;
    }
    // The field is the node plus one; 0 is "any".
    let node = (flags >> 8 & 0xff).checked_sub(1);
    let exact = flags & op::MEMF_EXACT_NODE_REQUEST != 0;
    match node {
        None => true,
        Some(node) if call.current.domain().is_privileged() => node < MAX_NODES && (node == 0 || !exact),
        Some(_) => !exact,
    }
}

/// Works through the list of a decrease or populate.
fn run<M: Machine>(call: &Call<'_, M>, adjustment: &Adjustment<M>, start: u64) -> Next {
    // Large extents make smaller chunks; a single extent is never interrupted.
    let chunk = (CHUNK >> adjustment.order).max(1);
    let mut done = start;
    loop {
        let wanted = (adjustment.extents - done).min(chunk as u64) as usize;
        // The common single extent should not pay for a long list.
        let applied = if wanted == 1 {
            read_and_apply::<M, 1>(call, adjustment, done, wanted)
        } else {
            read_and_apply::<M, CHUNK>(call, adjustment, done, wanted)
        };
        done += applied as u64;
        if applied < wanted || done == adjustment.extents {
            return Next::Return(done as i64);
        }
        if call.should_preempt() {
            return call.continue_memory_op(adjustment.operation, done);
        }
    }
}

/// Does up to `N` extents from `from` on, and says how many.
fn read_and_apply<M: Machine, const N: usize>(
    call: &Call<'_, M>,
    adjustment: &Adjustment<M>,
    from: u64,
    wanted: usize,
) -> usize {
    let mut gfns = [0; N];
    let read = call.read_numbers(adjustment.list, from, &mut gfns[..wanted]);
    let done = apply(call, adjustment, &gfns[..read]);
    if adjustment.operation == op::DECREASE_RESERVATION && call.hv.trace_buffers.are_on() {
        let whose = u32::from(adjustment.domain.id.0) | adjustment.order << 16;
        for gfn in &gfns[..done] {
            call.hv.record(MEM_DECREASE_RESERVATION, &[*gfn as u32, (*gfn >> 32) as u32, whose, 0]);
        }
    }
    done
}

/// Applies one chunk, with one flush. Gives the number of extents done.
fn apply<M: Machine>(call: &Call<'_, M>, adjustment: &Adjustment<M>, gfns: &[u64]) -> usize {
    let (hv, memory, order) = (call.hv, &adjustment.domain.memory, adjustment.order);
    let (mut done, mut attempts) = (0, TAKE_BACK_ATTEMPTS);
    loop {
        let mut retired = Retired::new();
        let mut stopped = None;
        {
            let mut p2m = memory.p2m.write();
            for gfn in &gfns[done..] {
                let result = if adjustment.operation == op::POPULATE_PHYSMAP {
                    memory.populate_locked(hv.frames(), &mut p2m, Gfn(*gfn), order, false, &mut retired)
                } else {
                    memory.remove_locked(hv.frames(), &mut p2m, Gfn(*gfn), order, &mut retired)
                };
                if let Err(errno) = result {
                    stopped = Some(errno);
                    break;
                }
                done += 1;
            }
        }
        let freed = !retired.is_empty();
        if freed {
            retired.flush(hv, memory).free(&hv.heap);
        }
        if stopped != Some(Errno::ENOMEM) || order != 0 {
            return done;
        }
        let again = if adjustment.operation == op::DECREASE_RESERVATION {
            // A split may have wanted a frame that is free only now.
            freed
        } else {
            // What the domain may have is taken back from ephemeral pools.
            attempts -= 1;
            attempts != 0 && hv.take_back_ephemeral(adjustment.domain.id, (gfns.len() - done) as u64)
        };
        if !again {
            return done;
        }
    }
}

/// Adds memory that is mapped nowhere.
fn increase<M: Machine>(call: &Call<'_, M>, adjustment: &Adjustment<M>, start: u64) -> Next {
    let (hv, domain) = (call.hv, &adjustment.domain);
    for done in start..adjustment.extents {
        if done != start && call.should_preempt() {
            return call.continue_memory_op(adjustment.operation, done);
        }
        let extent = hv.heap.allocate(&hv.machine, adjustment.order, Owner::Domain(domain.id));
        let Some(extent) = extent else { return Next::Return(done as i64) };
        if let Err(extent) = domain.memory.keep_unmapped(hv, extent) {
            hv.heap.free(extent);
            return Next::Return(done as i64);
        }
    }
    Next::Return(adjustment.extents as i64)
}
