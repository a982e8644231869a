//! add_to_physmap and its batch, remove_from_physmap, acquire_resource: what appears at which gfn.

use alloc::sync::Arc;

use shared_abi::memory as op;
use shared_abi::memory::{AddToPhysmap, AddToPhysmapBatch, MemAcquireResource, RemoveFromPhysmap};
use shared_abi::xen::{DomId, Errno, Gfn, Mfn};

use crate::clock;
use crate::domain::Domain;
use crate::grant;
use crate::hypercall::{Call, CallResult, Next};
use crate::machine::Machine;

/// One page to map.
struct Source {
    space: u32,
    idx: u64,
    /// For another domain's pages.
    foreign: DomId,
}

/// add_to_physmap(arg).
///
/// # Errors
/// As Xen's: `EDOM`, `EILSEQ`, `EOVERFLOW` for a bad range, `ENOSYS` for foreign pages (batch only), and those of the
/// space.
pub(super) fn add<M: Machine>(call: &Call<'_, M>, start: u64) -> CallResult {
    let start = u16::try_from(start).map_err(|_| Errno::EDOM)?;
    let argument: AddToPhysmap = call.memory_argument()?;
    if argument.space == op::MAPSPACE_GMFN_FOREIGN {
        return Err(Errno::ENOSYS);
    }
    let domain = call.memory_target(argument.domid)?;
    if argument.space == op::MAPSPACE_DEV_MMIO {
        return Err(Errno::EACCES);
    }
    if argument.gpfn.0 == u64::MAX {
        return Err(Errno::EINVAL);
    }
    if argument.space == op::MAPSPACE_GMFN_RANGE {
        return add_range(call, &domain, &argument, start);
    }
    let source = Source { space: argument.space, idx: argument.idx, foreign: DomId::INVALID };
    add_one(call, &domain, &source, argument.gpfn)?;
    Ok(Next::Return(0))
}

/// Moves a range of pages; from its end when it moves up over itself.
fn add_range<M: Machine>(call: &Call<'_, M>, domain: &Domain<M>, argument: &AddToPhysmap, start: u16) -> CallResult {
    let (size, idx, gpfn) = (u64::from(argument.size), argument.idx, argument.gpfn.0);
    if argument.size < start {
        return Err(Errno::EILSEQ);
    }
    if gpfn.checked_add(size).is_none() || idx.checked_add(size).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let backwards = gpfn > idx && gpfn < idx + size;
    for done in u64::from(start)..size {
        if done != u64::from(start) && call.should_preempt() {
            return Ok(call.continue_memory_op(op::ADD_TO_PHYSMAP, done));
        }
        let offset = if backwards { size - 1 - done } else { done };
        domain.memory.move_page(call.hv, Gfn(idx + offset), Gfn(gpfn + offset))?;
    }
    Ok(Next::Return(0))
}

/// add_to_physmap_batch(arg): an errno for each page goes to `errs`.
///
/// # Errors
/// `EDOM`, `EILSEQ`, `EOPNOTSUPP` (a range space), `EFAULT` for the arrays, `ESRCH`, `EPERM`, `EACCES`.
pub(super) fn add_batch<M: Machine>(call: &Call<'_, M>, start: u64) -> CallResult {
    let start = u16::try_from(start).map_err(|_| Errno::EDOM)?;
    let argument: AddToPhysmapBatch = call.memory_argument()?;
    let space = u32::from(argument.space);
    if space == op::MAPSPACE_GMFN_RANGE {
        return Err(Errno::EOPNOTSUPP);
    }
    let domain = call.memory_target(argument.domid)?;
    if space == op::MAPSPACE_DEV_MMIO {
        return Err(Errno::EACCES);
    }
    if argument.size < start || (argument.size == start && start != 0) {
        return Err(Errno::EILSEQ);
    }
    for index in start..argument.size {
        if index != start && call.should_preempt() {
            return Ok(call.continue_memory_op(op::ADD_TO_PHYSMAP_BATCH, u64::from(index)));
        }
        let (mut idx, mut gpfn) = ([0], [0]);
        let index = u64::from(index);
        let read = call.read_numbers(argument.idxs.address(), index, &mut idx)
            + call.read_numbers(argument.gpfns.address(), index, &mut gpfn);
        if read != 2 {
            return Err(Errno::EFAULT);
        }
        if gpfn[0] == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let source = Source { space, idx: idx[0], foreign: argument.foreign_domid };
        let errno = add_one(call, &domain, &source, Gfn(gpfn[0])).map_or_else(|errno| errno.to_return() as i32, |()| 0);
        call.write_element(argument.errs, index, &errno)?;
    }
    Ok(Next::Return(0))
}

fn add_one<M: Machine>(call: &Call<'_, M>, domain: &Arc<Domain<M>>, source: &Source, gpfn: Gfn) -> Result<(), Errno> {
    let hv = call.hv;
    match source.space {
        op::MAPSPACE_SHARED_INFO if source.idx == 0 => {
            let frame = domain.events.shared_info_frame().ok_or(Errno::EINVAL)?;
            domain.memory.map_shared_info(hv, gpfn, frame)?;
            // A guest may read its clock as soon as it sees the page.
            clock::update_wall_clock(hv, domain);
            for vcpu in &domain.vcpus {
                clock::update_vcpu(hv, vcpu);
            }
            Ok(())
        }
        op::MAPSPACE_GMFN => domain.memory.move_page(hv, Gfn(source.idx), gpfn),
        op::MAPSPACE_GRANT_TABLE => grant::map_table_frame(hv, domain, source.idx, gpfn),
        op::MAPSPACE_GMFN_FOREIGN => add_foreign(call, domain, source, gpfn),
        _ => Err(Errno::EINVAL),
    }
}

/// Maps another domain's page: the caller governs both. The hypervisor's own are those of the trace buffers.
fn add_foreign<M: Machine>(
    call: &Call<'_, M>,
    domain: &Arc<Domain<M>>,
    source: &Source,
    gpfn: Gfn,
) -> Result<(), Errno> {
    if source.foreign == DomId::SELF {
        return Err(Errno::EINVAL);
    }
    if source.foreign == DomId::XEN {
        if !call.current.domain().is_privileged() {
            return Err(Errno::EPERM);
        }
        let (pin, writable) = call.hv.pin_trace_frame(Mfn(source.idx)).ok_or(Errno::EINVAL)?;
        return domain.memory.map_foreign(call.hv, gpfn, pin, writable);
    }
    let owner = call.hv.find_domain(source.foreign).ok_or(Errno::ESRCH)?;
    if owner.id == domain.id {
        return Err(Errno::EINVAL);
    }
    if !call.current.domain().is_privileged() {
        return Err(Errno::EPERM);
    }
    let pin = owner.memory.pin(call.hv, Gfn(source.idx))?;
    domain.memory.map_foreign(call.hv, gpfn, pin, true)
}

/// remove_from_physmap(arg): the page stays the domain's, but is mapped nowhere (as in Xen).
///
/// # Errors
/// `ENOENT` when nothing is there; `EFAULT`, `ESRCH`, `EPERM`.
pub(super) fn remove<M: Machine>(call: &Call<'_, M>) -> CallResult {
    let argument: RemoveFromPhysmap = call.memory_argument()?;
    let domain = call.memory_target(argument.domid)?;
    domain.memory.unmap_page(call.hv, argument.gpfn)?;
    Ok(Next::Return(0))
}

/// acquire_resource(arg): maps frames of a resource of another domain's into the caller's memory. Grant tables are the
/// one resource there is: Ebb has no device models and no processor tracing. Without a list of gfns it tells how many
/// frames there may be.
///
/// # Errors
/// `EFAULT`, `EINVAL` (no such resource, bad range), `ESRCH`, `EPERM`; `EIO` when it fails on its way.
pub(super) fn acquire_resource<M: Machine>(call: &Call<'_, M>, start: u64) -> CallResult {
    let argument: MemAcquireResource = call.memory_argument()?;
    let end = argument.frame.checked_add(u64::from(argument.nr_frames));
    if argument.pad != 0 || end.is_none_or(|end| end > u64::from(u32::MAX)) {
        return Err(Errno::EINVAL);
    }
    if argument.domid == DomId::SELF || argument.domid == call.current.domain().id {
        return Err(Errno::EPERM);
    }
    let owner = call.memory_target(argument.domid)?;
    if argument.type_ != op::RESOURCE_GRANT_TABLE || argument.id != op::RESOURCE_GRANT_TABLE_ID_SHARED {
        return Err(Errno::EINVAL);
    }
    if argument.frame_list.is_null() {
        if argument.nr_frames != 0 || start != 0 {
            return Err(Errno::EINVAL);
        }
        // The same place in the structures of both widths.
        let place = core::mem::offset_of!(MemAcquireResource, nr_frames) as u64;
        call.write_guest(call.args[1] + place, &grant::MAX_FRAMES)?;
        return Ok(Next::Return(0));
    }
    // So few that every continuation fits.
    if start >= u64::from(argument.nr_frames) || end.is_none_or(|end| end > u64::from(grant::MAX_FRAMES)) {
        return Err(Errno::EINVAL);
    }
    for index in start..u64::from(argument.nr_frames) {
        if index != start && call.should_preempt() {
            return Ok(call.continue_memory_op(op::ACQUIRE_RESOURCE, index));
        }
        let mut gfn = [0];
        if call.read_numbers(argument.frame_list.address(), index, &mut gfn) != 1 {
            return Err(Errno::EFAULT);
        }
        let pin = grant::pin_table_frame(call.hv, &owner, argument.frame + index)?;
        let mapped = call.current.domain().memory.map_foreign(call.hv, Gfn(gfn[0]), pin, true);
        mapped.map_err(|errno| if index == 0 { errno } else { Errno::EIO })?;
    }
    Ok(Next::Return(0))
}
