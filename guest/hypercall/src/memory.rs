//! `memory_op`.
//!
//! Calls are for the calling domain, unless their name ends in `_of`: those are for a privileged domain to make. The hypervisor continues a long list by itself; a count that is short is an
//! answer, not an error.
#![allow(unsafe_code)] // Handles to lists, and calls that change the guest's physical memory.

use crate::call::{call, command};
use shared_abi::hypercall::MEMORY_OP;
use shared_abi::memory::{
    ACQUIRE_RESOURCE, ADD_TO_PHYSMAP, ADD_TO_PHYSMAP_BATCH, AddToPhysmap, AddToPhysmapBatch, CURRENT_RESERVATION,
    DECREASE_RESERVATION, E820Entry, EXCHANGE, MAPSPACE_GMFN_FOREIGN, MAXIMUM_GPFN, MAXIMUM_RAM_PAGE,
    MAXIMUM_RESERVATION, MEMORY_MAP, MemAcquireResource, MemoryDomain, MemoryExchange, MemoryMap, MemoryReservation,
    POPULATE_PHYSMAP, REMOVE_FROM_PHYSMAP, RemoveFromPhysmap,
};
use shared_abi::xen::{DomId, Errno, Gfn, GuestHandle};

fn address<T: ?Sized>(value: *const T) -> u64 {
    value.expose_provenance() as u64
}

fn reservation(extents: &[Gfn], order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(address(extents.as_ptr())),
        nr_extents: extents.len() as u64,
        extent_order: order,
        domid: DomId::SELF,
        ..Default::default()
    }
}

/// Pages the domain has.
pub fn current_reservation() -> Result<u64, Errno> {
    figure(CURRENT_RESERVATION)
}

/// Pages the domain may have.
pub fn maximum_reservation() -> Result<u64, Errno> {
    figure(MAXIMUM_RESERVATION)
}

/// The greatest gfn that is backed.
pub fn maximum_gpfn() -> Result<u64, Errno> {
    figure(MAXIMUM_GPFN)
}

fn figure(operation: u32) -> Result<u64, Errno> {
    let mut domain = MemoryDomain { domid: DomId::SELF };
    command(MEMORY_OP, u64::from(operation), &mut domain).map(|pages| pages as u64)
}

/// The host's greatest frame number.
pub fn maximum_ram_page() -> Result<u64, Errno> {
    // SAFETY: the call has no argument and changes nothing.
    unsafe { call(MEMORY_OP, [u64::from(MAXIMUM_RAM_PAGE), 0, 0, 0, 0]) }.map(|page| page as u64)
}

/// Gives the extents of 2^`order` pages to the hypervisor; how many of them, from the first, are gone.
///
/// # Safety
/// The kernel uses none of these pages any more, and not until they are populated again.
pub unsafe fn decrease_reservation(extents: &[Gfn], order: u32) -> Result<usize, Errno> {
    command(MEMORY_OP, u64::from(DECREASE_RESERVATION), &mut reservation(extents, order)).map(|done| done as usize)
}

/// Backs the extents of 2^`order` pages; how many of them, from the first, are there now.
///
/// # Safety
/// The extents are absent, or in use by nobody: what lies there is replaced. Two vCPUs do not populate the same extent.
pub unsafe fn populate_physmap(extents: &[Gfn], order: u32) -> Result<usize, Errno> {
    // The call writes the frames back into the list for guests that translate for themselves; ours are left alone.
    command(MEMORY_OP, u64::from(POPULATE_PHYSMAP), &mut reservation(extents, order)).map(|done| done as usize)
}

/// Gives `given` extents for `wanted` ones. The error, if any, and how many of the given extents were exchanged.
///
/// # Safety
/// As for [`decrease_reservation`] of `given` and [`populate_physmap`] of `wanted`.
pub unsafe fn exchange(given: &[Gfn], given_order: u32, wanted: &[Gfn], wanted_order: u32) -> (usize, Option<Errno>) {
    let mut argument = MemoryExchange {
        in_: reservation(given, given_order),
        out: reservation(wanted, wanted_order),
        nr_exchanged: 0,
    };
    let result = command(MEMORY_OP, u64::from(EXCHANGE), &mut argument);
    (argument.nr_exchanged as usize, result.err())
}

/// Makes a special page appear at `gpfn`.
///
/// # Safety
/// Nothing of the kernel's lies at `gpfn`; what the page is says how it may be accessed (by atomics, as a rule).
pub unsafe fn add_to_physmap(space: u32, idx: u64, gpfn: Gfn) -> Result<(), Errno> {
    let mut argument = AddToPhysmap { domid: DomId::SELF, size: 0, space, idx, gpfn };
    command(MEMORY_OP, u64::from(ADD_TO_PHYSMAP), &mut argument).map(drop)
}

/// Makes a frame that the hypervisor shares, of the trace buffers, appear at `gpfn`. Privileged.
///
/// # Safety
/// Nothing of the kernel's lies at `gpfn`. The hypervisor writes what appears there.
pub unsafe fn map_shared_frame(mfn: u64, gpfn: Gfn) -> Result<(), Errno> {
    let mut errno = 0i32;
    let mut argument = AddToPhysmapBatch {
        domid: DomId::SELF,
        space: MAPSPACE_GMFN_FOREIGN as u16,
        size: 1,
        foreign_domid: DomId::XEN,
        idxs: GuestHandle::new(address(&raw const mfn)),
        gpfns: GuestHandle::new(address(&raw const gpfn)),
        errs: GuestHandle::new(address(&raw mut errno)),
    };
    command(MEMORY_OP, u64::from(ADD_TO_PHYSMAP_BATCH), &mut argument)?;
    // The hypervisor has written it through its address.
    Errno::from_return(i64::from(core::hint::black_box(errno))).map(drop)
}

/// Unmaps `gpfn`.
///
/// # Safety
/// The kernel uses the page no more.
pub unsafe fn remove_from_physmap(gpfn: Gfn) -> Result<(), Errno> {
    let mut argument = RemoveFromPhysmap { domid: DomId::SELF, gpfn, ..Default::default() };
    command(MEMORY_OP, u64::from(REMOVE_FROM_PHYSMAP), &mut argument).map(drop)
}

/// Reads the domain's e820; how many entries there are in `buffer` now.
pub fn memory_map(buffer: &mut [E820Entry]) -> Result<usize, Errno> {
    let mut argument =
        MemoryMap { nr_entries: buffer.len() as u32, pad: 0, buffer: GuestHandle::new(address(buffer.as_mut_ptr())) };
    command(MEMORY_OP, u64::from(MEMORY_MAP), &mut argument)?;
    Ok((argument.nr_entries as usize).min(buffer.len()))
}

/// Backs gfns of another domain's; how many of them, from the first, are there now. Privileged.
///
/// # Safety
/// `domain` is not the calling one.
pub unsafe fn populate_physmap_of(domain: DomId, extents: &[Gfn], order: u32) -> Result<usize, Errno> {
    let mut argument = MemoryReservation { domid: domain, ..reservation(extents, order) };
    command(MEMORY_OP, u64::from(POPULATE_PHYSMAP), &mut argument).map(|done| done as usize)
}

/// Has frames of a resource of another domain's (`XENMEM_resource_*`) appear at `gfns`, from the resource's frame
/// `first` on. Privileged.
///
/// # Safety
/// Nothing of the kernel's lies at `gfns`. What appears there belongs to the other domain and is written by others.
pub unsafe fn acquire_resource_of(domain: DomId, resource: u16, first: u64, gfns: &[Gfn]) -> Result<(), Errno> {
    let mut argument = MemAcquireResource {
        domid: domain,
        type_: resource,
        nr_frames: gfns.len() as u32,
        frame: first,
        frame_list: GuestHandle::new(address(gfns.as_ptr())),
        ..Default::default()
    };
    command(MEMORY_OP, u64::from(ACQUIRE_RESOURCE), &mut argument).map(drop)
}
