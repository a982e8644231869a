//! `grant_table_op`: which operation, and those about the table as a whole.

use shared_abi::grant_table::{self as abi, CacheFlush, GetVersion, GrantStatus, QuerySize, SetVersion, SetupTable};
use shared_abi::xen::compat::SetupTable32;
use shared_abi::xen::{DomId, Errno, Gfn, GuestHandle};

use super::table::MAX_FRAMES;
use super::{copy, map};
use crate::domain::Domain;
use crate::hypercall::{Call, CallResult, Next, Width};
use crate::machine::{Machine, PAGE_SHIFT, PAGE_SIZE};
use alloc::sync::Arc;

/// The one version there is.
const VERSION: u32 = 1;

/// `grant_table_op(cmd, uop, count)`.
///
/// # Errors
/// `ENOSYS` for an operation that is not offered, `EINVAL` for a bad count, `EFAULT`, and what the operation says.
pub fn grant_table_op<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let [command, list, count, ..] = call.args;
    let count = count as u32;
    let offered = matches!(
        command as u32,
        abi::MAP_GRANT_REF
            | abi::UNMAP_GRANT_REF
            | abi::SETUP_TABLE
            | abi::COPY
            | abi::QUERY_SIZE
            | abi::SET_VERSION
            | abi::GET_VERSION
            | abi::CACHE_FLUSH
    );
    if !offered {
        return Err(Errno::ENOSYS);
    }
    if count > i32::MAX as u32 {
        return Err(Errno::EINVAL);
    }
    match command as u32 {
        abi::MAP_GRANT_REF => map::map(call, list, count),
        abi::UNMAP_GRANT_REF => map::unmap(call, list, count),
        abi::COPY => copy::copy(call, list, count),
        abi::CACHE_FLUSH => cache_flush(call, list, count),
        abi::SET_VERSION => set_version(call, list),
        abi::GET_VERSION => get_version(call, list),
        _ if count != 1 => Err(Errno::EINVAL),
        abi::SETUP_TABLE => setup_table(call, list),
        _ => query_size(call, list),
    }
}

/// Calls the operation again for the last `count` structures, which are at `list`.
pub(super) fn continue_at<M: Machine>(call: &Call<'_, M>, list: u64, count: u32) -> Next {
    let mut args = call.args;
    args[1] = list;
    args[2] = u64::from(count);
    Next::Again(args)
}

/// The domain whose table an operation is about.
fn target<M: Machine>(call: &Call<'_, M>, id: DomId) -> Result<Arc<Domain<M>>, GrantStatus> {
    call.hv.target_domain(call.current.domain(), id).map_err(|errno| match errno {
        Errno::EPERM => GrantStatus::PERMISSION_DENIED,
        _ => GrantStatus::BAD_DOMAIN,
    })
}

fn setup_table<M: Machine>(call: &Call<'_, M>, address: u64) -> CallResult {
    let (request, status_at) = match call.width {
        Width::Bits64 => (call.read_guest(address)?, core::mem::offset_of!(SetupTable, status)),
        Width::Bits32 => {
            let narrow: SetupTable32 = call.read_guest(address)?;
            let frame_list = GuestHandle::new(u64::from(narrow.frame_list));
            let wide = SetupTable { dom: narrow.dom, nr_frames: narrow.nr_frames, frame_list, ..SetupTable::default() };
            (wide, core::mem::offset_of!(SetupTable32, status))
        }
    };
    let status = list_frames(call, &request).err().unwrap_or(GrantStatus::OKAY);
    call.write_guest(address + status_at as u64, &status)?;
    Ok(Next::Return(0))
}

/// Grows the table, and tells where its frames are mapped; all ones for one that is nowhere.
fn list_frames<M: Machine>(call: &Call<'_, M>, request: &SetupTable) -> Result<(), GrantStatus> {
    let domain = target(call, request.dom)?;
    let mut gfns = [Gfn(u64::MAX); MAX_FRAMES as usize];
    let gfns = gfns.get_mut(..request.nr_frames as usize).ok_or(GrantStatus::GENERAL_ERROR)?;
    {
        let mut table = domain.grants.table.lock();
        table.grow(call.hv, request.nr_frames.max(1)).map_err(|_| GrantStatus::GENERAL_ERROR)?;
        for (index, gfn) in gfns.iter_mut().enumerate() {
            *gfn = table.gfn_of(&call.hv.machine, &domain, index as u32).unwrap_or(*gfn);
        }
    }
    let mut written = Ok(());
    for (index, gfn) in gfns.iter().enumerate() {
        let index = index as u64;
        let list = request.frame_list;
        let one = match call.width {
            Width::Bits64 => call.write_element(list, index, gfn),
            Width::Bits32 => call.write_element(GuestHandle::<u32>::new(list.address()), index, &(gfn.0 as u32)),
        };
        written = written.and(one);
    }
    written.map_err(|_| GrantStatus::BAD_VIRT_ADDR)
}

fn query_size<M: Machine>(call: &Call<'_, M>, address: u64) -> CallResult {
    let mut request: QuerySize = call.read_guest(address)?;
    request.status = match target(call, request.dom) {
        Ok(domain) => {
            let mut table = domain.grants.table.lock();
            // A table has a frame from the beginning, to whoever looks; if there is no memory for it, none.
            let _ = table.grow(call.hv, 1);
            request.nr_frames = table.len();
            request.max_nr_frames = MAX_FRAMES;
            GrantStatus::OKAY
        }
        Err(status) => status,
    };
    call.write_guest(address, &request)?;
    Ok(Next::Return(0))
}

fn set_version<M: Machine>(call: &Call<'_, M>, address: u64) -> CallResult {
    let request: SetVersion = call.read_guest(address)?;
    call.write_guest(address, &SetVersion { version: VERSION })?;
    match request.version {
        VERSION => Ok(Next::Return(0)),
        2 => Err(Errno::ENOSYS),
        _ => Err(Errno::EINVAL),
    }
}

fn get_version<M: Machine>(call: &Call<'_, M>, address: u64) -> CallResult {
    let mut request: GetVersion = call.read_guest(address)?;
    call.hv.target_domain(call.current.domain(), request.dom)?;
    request.version = VERSION;
    call.write_guest(address, &request)?;
    Ok(Next::Return(0))
}

/// cache_flush: all processors and the memory of a PC agree on what it holds, so there is nothing to do for a range that
/// may be flushed.
fn cache_flush<M: Machine>(call: &Call<'_, M>, list: u64, count: u32) -> CallResult {
    for index in 0..count {
        let address = map::element(list, index, size_of::<CacheFlush>() as u64)?;
        if index != 0 && call.should_preempt() {
            return Ok(continue_at(call, address, count - index));
        }
        check_flush(call, &call.read_guest(address)?)?;
    }
    Ok(Next::Return(0))
}

fn check_flush<M: Machine>(call: &Call<'_, M>, request: &CacheFlush) -> Result<(), Errno> {
    let known = request.op & !(abi::CACHE_CLEAN | abi::CACHE_INVAL) == 0;
    let (offset, length) = (usize::from(request.offset), usize::from(request.length));
    if !known || offset >= PAGE_SIZE || offset + length > PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    if length == 0 || request.op == 0 {
        return Ok(());
    }
    let found = call.current.domain().memory.translate(&call.hv.machine, Gfn(request.a >> PAGE_SHIFT));
    found.map(|_| ()).ok_or(Errno::EINVAL)
}
