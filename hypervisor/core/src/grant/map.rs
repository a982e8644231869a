//! map_grant_ref and unmap_grant_ref: a granted page appears in the caller's memory, and goes.
//!
//! Unmapping is done in batches with one flush: the page-table entries go first, then every CPU that may have cached
//! them is made to forget, then the granters' entries are marked unused and the handles freed.

use alloc::sync::Arc;

use arrayvec::ArrayVec;
use shared_abi::grant_table::{GrantHandle, GrantRef, GrantStatus, MapFlags, MapGrantRef, UnmapGrantRef};
use shared_abi::xen::{DomId, Errno, Gfn, Mfn};

use super::maptrack::Mapping;
use crate::domain::Domain;
use crate::heap::PinnedFrame;
use crate::hypercall::{Call, CallResult, Next};
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, PAGE_SHIFT, PAGE_SIZE};
use crate::p2m::Retired;

/// Most mappings a domain may have.
const MAX_MAPPINGS: usize = 4096;
/// The same for a privileged domain, which may serve many others.
const MAX_MAPPINGS_PRIVILEGED: usize = 32_768;
/// Mappings removed with one flush.
const BATCH: usize = 16;
const STATUS_OFFSET: u64 = core::mem::offset_of!(UnmapGrantRef, status) as u64;

/// Begins a use of a granter's entry.
pub(super) fn begin_use<M: Machine>(
    hv: &Hypervisor<M>,
    granter: &Domain<M>,
    gref: GrantRef,
    user: DomId,
    readonly: bool,
) -> Result<Mfn, GrantStatus> {
    granter.grants.table.lock().begin_use(hv, granter, gref, user, readonly)
}

/// Ends a use of a granter's entry.
pub(super) fn end_use<M: Machine>(hv: &Hypervisor<M>, granter: &Domain<M>, gref: GrantRef, readonly: bool) {
    let pin = granter.grants.table.lock().end_use(hv, gref, readonly);
    if let Some(pin) = pin {
        pin.release(&hv.heap);
    }
}

/// map_grant_ref for `count` structures at `list`.
///
/// # Errors
/// `EFAULT`; what came before stays done.
pub(super) fn map<M: Machine>(call: &Call<'_, M>, list: u64, count: u32) -> CallResult {
    let size = size_of::<MapGrantRef>() as u64;
    for index in 0..count {
        let address = element(list, index, size)?;
        if index != 0 && call.should_preempt() {
            return Ok(super::op::continue_at(call, address, count - index));
        }
        let mut request: MapGrantRef = call.read_guest(address)?;
        request.status = match map_one(call, &request) {
            Ok(handle) => {
                request.handle = handle;
                request.dev_bus_addr = request.host_addr & !(PAGE_SIZE as u64 - 1);
                GrantStatus::OKAY
            }
            Err(status) => status,
        };
        call.write_guest(address, &request)?;
    }
    Ok(Next::Return(0))
}

/// The address of element `index` of an array of the caller's.
pub(super) fn element(list: u64, index: u32, size: u64) -> Result<u64, Errno> {
    list.checked_add(u64::from(index) * size).ok_or(Errno::EFAULT)
}

fn map_one<M: Machine>(call: &Call<'_, M>, request: &MapGrantRef) -> Result<GrantHandle, GrantStatus> {
    let flags = MapFlags::from_bits_retain(request.flags);
    if !flags.intersects(MapFlags::HOST_MAP | MapFlags::DEVICE_MAP) {
        return Err(GrantStatus::BAD_GNTREF);
    }
    // What is for devices, or for paravirtual guests, is not for us.
    if flags - MapFlags::READONLY != MapFlags::HOST_MAP {
        return Err(GrantStatus::GENERAL_ERROR);
    }
    let granter = call.hv.find_domain(request.dom).ok_or(GrantStatus::BAD_DOMAIN)?;
    let maptrack = &call.current.domain().grants.maptrack;
    let limit = if call.current.domain().is_privileged() { MAX_MAPPINGS_PRIVILEGED } else { MAX_MAPPINGS };
    let handle = maptrack.lock().reserve(limit).ok_or(GrantStatus::NO_SPACE)?;
    let result = map_page(call, request, granter, flags.contains(MapFlags::READONLY));
    let mut maptrack = maptrack.lock();
    match result {
        Ok(mapping) => maptrack.fill(handle, mapping),
        Err(status) => {
            maptrack.release(handle);
            return Err(status);
        }
    }
    Ok(handle)
}

fn map_page<M: Machine>(
    call: &Call<'_, M>,
    request: &MapGrantRef,
    granter: Arc<Domain<M>>,
    readonly: bool,
) -> Result<Mapping<M>, GrantStatus> {
    let (hv, user) = (call.hv, call.current.domain());
    let gref = request.ref_;
    let mfn = begin_use(hv, &granter, gref, user.id, readonly)?;
    let gfn = Gfn(request.host_addr >> PAGE_SHIFT);
    // The use holds the frame meanwhile.
    let pin = hv.heap.pin(mfn);
    if user.memory.map_grant(hv, gfn, pin, !readonly).is_err() {
        end_use(hv, &granter, gref, readonly);
        return Err(GrantStatus::GENERAL_ERROR);
    }
    Ok(Mapping { granter, gref, gfn, mfn, readonly })
}

/// A mapping on its way out.
struct Leaving<M: Machine> {
    index: usize,
    handle: GrantHandle,
    mapping: Mapping<M>,
    pin: Option<PinnedFrame>,
}

/// unmap_grant_ref for `count` structures at `list`.
///
/// # Errors
/// `EFAULT`; what came before stays done.
pub(super) fn unmap<M: Machine>(call: &Call<'_, M>, list: u64, count: u32) -> CallResult {
    let size = size_of::<UnmapGrantRef>() as u64;
    let mut done = 0;
    while done < count {
        let address = element(list, done, size)?;
        if done != 0 && call.should_preempt() {
            return Ok(super::op::continue_at(call, address, count - done));
        }
        let wanted = (count - done).min(BATCH as u32);
        unmap_batch(call, address, wanted)?;
        done += wanted;
    }
    Ok(Next::Return(0))
}

/// Unmaps up to [`BATCH`] structures at `list`.
fn unmap_batch<M: Machine>(call: &Call<'_, M>, list: u64, count: u32) -> Result<(), Errno> {
    let size = size_of::<UnmapGrantRef>() as u64;
    let mut statuses = ArrayVec::<GrantStatus, BATCH>::new();
    let mut leaving = ArrayVec::<Leaving<M>, BATCH>::new();
    let mut fault = Ok(());
    for index in 0..count {
        match element(list, index, size).and_then(|address| call.read_guest::<UnmapGrantRef>(address)) {
            Ok(request) => statuses.push(begin_unmap(call, &request, &mut leaving, index as usize)),
            Err(errno) => {
                fault = Err(errno);
                break;
            }
        }
    }
    take_out(call, &mut leaving);
    for Leaving { index, handle, mapping, pin } in leaving {
        let maptrack = &call.current.domain().grants.maptrack;
        if let Some(pin) = pin {
            pin.release(&call.hv.heap);
            end_use(call.hv, &mapping.granter, mapping.gref, mapping.readonly);
            maptrack.lock().release(handle);
        } else {
            // Nothing but this takes a mapping out, so this is not reached; it must not lose the handle, though.
            statuses[index] = GrantStatus::GENERAL_ERROR;
            maptrack.lock().fill(handle, mapping);
        }
    }
    for (index, status) in statuses.iter().enumerate() {
        call.write_guest(element(list, index as u32, size)? + STATUS_OFFSET, status)?;
    }
    fault
}

/// Takes the mapping that a request names in hand.
fn begin_unmap<M: Machine>(
    call: &Call<'_, M>,
    request: &UnmapGrantRef,
    leaving: &mut ArrayVec<Leaving<M>, BATCH>,
    index: usize,
) -> GrantStatus {
    let mut maptrack = call.current.domain().grants.maptrack.lock();
    let handle = request.handle;
    if request.host_addr == 0 {
        // As on Xen: no mapping is named, and none removed.
        return if maptrack.is_mapped(handle) { GrantStatus::OKAY } else { GrantStatus::BAD_HANDLE };
    }
    let Some(mapping) = maptrack.take(handle) else { return GrantStatus::BAD_HANDLE };
    if mapping.gfn.0 != request.host_addr >> PAGE_SHIFT {
        maptrack.fill(handle, mapping);
        return GrantStatus::GENERAL_ERROR;
    }
    leaving.push(Leaving { index, handle, mapping, pin: None });
    GrantStatus::OKAY
}

/// Takes page-table entries out, and returns when no CPU uses them any more.
fn take_out<M: Machine>(call: &Call<'_, M>, leaving: &mut [Leaving<M>]) {
    if leaving.is_empty() {
        return;
    }
    let (hv, memory) = (call.hv, &call.current.domain().memory);
    let mut retired = Retired::new();
    let mut p2m = memory.p2m.write();
    for one in leaving {
        let mapping = &one.mapping;
        one.pin = memory.detach_grant(hv.frames(), &mut p2m, mapping.gfn, mapping.mfn, &mut retired).ok();
    }
    drop(p2m);
    retired.flush(hv, memory).free(&hv.heap);
}

/// Lets go of what a domain has mapped, whose vCPUs are off all CPUs for good; its memory is still to be released, and
/// the pages with it. Looks at no more than `budget` handles; true when all is done.
pub(crate) fn release_mappings<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, budget: usize) -> bool {
    let mut budget = budget;
    loop {
        let mut maptrack = domain.grants.maptrack.lock();
        let handle = match maptrack.next_mapped(&mut budget) {
            Ok(handle) => handle,
            Err(done) => return done,
        };
        let mapping = maptrack.take(handle);
        maptrack.release(handle);
        drop(maptrack);
        if let Some(mapping) = mapping {
            end_use(hv, &mapping.granter, mapping.gref, mapping.readonly);
        }
    }
}
