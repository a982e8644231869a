//! `XEN_SYSCTL_tmem_op`: a privileged domain looks at the store, decides about its clients, saves and restores them.
//!
//! Long operations stop after a bounded part: flush, which then says that it has flushed less than asked, and those
//! that repeat the hypercall (destroy, the end of saving).

use core::fmt;

use ebb_tmem::{ClientId, Handle, PAGE_SIZE, POOLS, SavedPage, Tmem};
use shared_abi::sysctl::{self as abi, TmemClient, TmemControl, TmemHandle, TmemPoolInfo};
use shared_abi::tmem::{SPEC_VERSION, TmemOid};
use shared_abi::xen::{DomId, Errno, GuestHandle};

use super::machine::{BufferPage, MachineFrames};
use super::{BUDGET, errno, repeat, with_scratch};
use crate::hypercall::{Call, CallResult, Next};
use crate::machine::Machine;

/// Frames that one flush gives back at most.
const FLUSH_LIMIT: u64 = 1024;
/// KiB in a frame.
const FRAME_KIB: u64 = 4;

/// One operation, for a caller that is privileged.
///
/// # Errors
/// `EINVAL` when the padding is not 0, `ENOSYS` for an operation that is none, and what the operation says.
pub(crate) fn control<M: Machine>(call: &Call<'_, M>, op: &TmemControl) -> CallResult {
    if op.pad != 0 {
        return Err(Errno::EINVAL);
    }
    let frames = call.hv.machine_frames();
    let tmem = call.hv.tmem.on(&frames);
    let done = |result: Result<(), ebb_tmem::Error>| result.map(|()| Next::Return(0)).map_err(errno);
    match op.cmd {
        abi::TMEM_THAW => done(tmem.freeze(selected(op)?, false)),
        abi::TMEM_FREEZE => done(tmem.freeze(selected(op)?, true)),
        abi::TMEM_FLUSH => flush(&tmem, op),
        abi::TMEM_DESTROY => {
            let id = client(op)?;
            repeat(call, || Ok((tmem.destroy_pools(id, BUDGET).map_err(errno)?, 0)))
        }
        abi::TMEM_LIST => list(call, &tmem, op),
        abi::TMEM_GET_CLIENT_INFO => get_client_info(call, &tmem, op),
        abi::TMEM_SET_CLIENT_INFO => set_client_info(call, &tmem, op),
        abi::TMEM_GET_POOLS => get_pools(call, &tmem, op),
        abi::TMEM_SET_POOLS => set_pools(call, &tmem, op),
        abi::TMEM_SET_AUTH => set_auth(call, &tmem, op),
        abi::TMEM_QUERY_FREEABLE_MB => Ok(Next::Return((tmem.freeable() * FRAME_KIB / 1024) as i64)),
        abi::TMEM_SAVE_BEGIN => done(tmem.save_begin(client(op)?, op.arg != 0)),
        abi::TMEM_SAVE_GET_NEXT_PAGE => next_page(call, &tmem, op),
        abi::TMEM_SAVE_GET_NEXT_INV => next_flushed(call, &tmem, op),
        abi::TMEM_SAVE_END => {
            let id = client(op)?;
            repeat(call, || Ok((tmem.save_end(id, BUDGET).map_err(errno)?, 0)))
        }
        abi::TMEM_RESTORE_BEGIN => restore_begin(call, &tmem, op),
        abi::TMEM_RESTORE_PUT_PAGE => restore_page(call, &tmem, op),
        abi::TMEM_RESTORE_FLUSH_PAGE => {
            tmem.flush_page(client(op)?, &handle(op)).map_err(errno)?;
            Ok(Next::Return(1))
        }
        _ => Err(Errno::ENOSYS),
    }
}

type Here<'a, 'f, M> = Tmem<'a, MachineFrames<'f, M>>;

fn client(op: &TmemControl) -> Result<ClientId, Errno> {
    u16::try_from(op.cli_id).map(ClientId).map_err(|_| Errno::EINVAL)
}

/// One client, or all.
fn selected(op: &TmemControl) -> Result<Option<ClientId>, Errno> {
    if op.cli_id == abi::TMEM_ALL_CLIENTS { Ok(None) } else { client(op).map(Some) }
}

fn handle(op: &TmemControl) -> Handle {
    Handle { pool: op.pool_id as u32, oid: op.oid.oid, index: op.arg }
}

/// Gives back up to `arg` KiB of ephemeral memory; says how many KiB it was.
fn flush<M: Machine>(tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    // Of one client is not supported, as in Xen.
    if selected(op)?.is_some() {
        return Err(Errno::EPERM);
    }
    let wanted = u64::from(op.arg).div_ceil(FRAME_KIB).min(FLUSH_LIMIT);
    let (freed, _) = tmem.reclaim(wanted, 2 * FLUSH_LIMIT as usize);
    Ok(Next::Return((freed * FRAME_KIB) as i64))
}

/// Text into a guest's buffer, as much as fits, with a NUL behind it.
struct GuestText<'a, 'c, M: Machine> {
    call: &'a Call<'c, M>,
    address: u64,
    left: u64,
    failed: bool,
}

impl<M: Machine> fmt::Write for GuestText<'_, '_, M> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let part = &text.as_bytes()[..text.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))];
        if self.call.write_guest_bytes(self.address, part).is_err() {
            self.failed = true;
            return Err(fmt::Error);
        }
        self.address = self.address.wrapping_add(part.len() as u64);
        self.left -= part.len() as u64;
        if part.len() < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

fn list<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    let id = selected(op)?;
    if op.len == 0 {
        return Err(Errno::EINVAL);
    }
    let left = u64::from(op.len - 1);
    let mut text = GuestText { call, address: op.buf.address(), left, failed: false };
    match tmem.list(id, op.arg != 0, &mut text) {
        Err(ebb_tmem::Error::NotFound) => return Err(Errno::ENOENT),
        _ if text.failed => return Err(Errno::EFAULT),
        _ => {}
    }
    call.write_guest_bytes(text.address, &[0])?;
    Ok(Next::Return(0))
}

fn get_client_info<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    let info = tmem.client_info(client(op)?).map_err(errno)?;
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let told = TmemClient {
        version: SPEC_VERSION,
        maxpools: POOLS as u32,
        nr_pools: info.pools,
        flags: flag(info.frozen, abi::TMEM_CLIENT_FLAG_FROZEN)
            | flag(info.compress, abi::TMEM_CLIENT_FLAG_COMPRESS)
            | flag(info.migrating, abi::TMEM_CLIENT_FLAG_MIGRATING),
        weight: info.weight,
    };
    call.write_guest(op.buf.address(), &told)?;
    Ok(Next::Return(0))
}

fn set_client_info<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    let info: TmemClient = call.read_guest(op.buf.address())?;
    if info.version != SPEC_VERSION {
        return Err(Errno::EOPNOTSUPP);
    }
    if info.maxpools > POOLS as u32 {
        return Err(Errno::ERANGE);
    }
    let compress = info.flags & abi::TMEM_CLIENT_FLAG_COMPRESS != 0;
    tmem.set_client_info(selected(op)?, info.weight, compress).map_err(errno)?;
    Ok(Next::Return(0))
}

/// The client's pools, as many as there is room for; says how many.
fn get_pools<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    let (id, pools) = (client(op)?, GuestHandle::<TmemPoolInfo>::new(op.buf.address()));
    let mut found = 0;
    for pool in 0..POOLS as u32 {
        if found == u64::from(op.len) {
            break;
        }
        let Some(info) = tmem.pool_info(id, pool).map_err(errno)? else { continue };
        let told = TmemPoolInfo { flags: info.flags, id: info.id, n_pages: info.pages, uuid: info.uuid };
        call.write_element(pools, found, &told)?;
        found += 1;
    }
    Ok(Next::Return(found as i64))
}

/// The list of pools in the buffer.
fn listed_pools<M: Machine>(
    call: &Call<'_, M>,
    op: &TmemControl,
    mut each: impl FnMut(GuestHandle<TmemPoolInfo>, u64, TmemPoolInfo) -> Result<(), Errno>,
) -> CallResult {
    let pools = GuestHandle::<TmemPoolInfo>::new(op.buf.address());
    let count = u64::from(op.len);
    if count == 0 || count > POOLS as u64 {
        return Err(Errno::EINVAL);
    }
    for index in 0..count {
        each(pools, index, call.read_element(pools, index)?)?;
    }
    Ok(Next::Return(count as i64))
}

/// Makes pools of given numbers for a client that is being restored.
fn set_pools<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    let id = client(op)?;
    alive(call, id)?;
    listed_pools(call, op, |pools, index, info| {
        if info.n_pages != 0 {
            return Err(Errno::EINVAL);
        }
        // A client's own flags have no bit that says whether it is authorised.
        let flags = info.flags & !abi::TMEM_POOL_FLAG_AUTH;
        let pool = tmem.new_pool_at(id, info.id, flags, info.uuid).map_err(errno)?;
        call.write_element(pools, index, &TmemPoolInfo { id: pool, ..info })
    })
}

/// Says which names a client may share, and which not.
fn set_auth<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    let id = selected(op)?;
    listed_pools(call, op, |_, _, info| {
        let allow = info.flags & abi::TMEM_POOL_FLAG_AUTH != 0;
        match id {
            Some(id) => tmem.authorise(id, info.uuid, allow).map_err(errno),
            None => {
                tmem.share_freely(allow);
                Ok(())
            }
        }
    })
}

fn tell<M: Machine>(call: &Call<'_, M>, op: &TmemControl, page: &SavedPage) -> Result<(), Errno> {
    let told = TmemHandle { pool_id: page.pool, index: page.index, oid: TmemOid { oid: page.oid } };
    call.write_guest(op.buf.address(), &told)
}

/// The next page of a persistent pool, behind its name: 1, or `EPERM` (in Xen -1) when there is none.
fn next_page<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    const NAME: u64 = size_of::<TmemHandle>() as u64;
    let id = client(op)?;
    if u64::from(op.len) < NAME + PAGE_SIZE as u64 {
        return Err(Errno::ENOMEM);
    }
    let address = op.buf.address().checked_add(NAME).ok_or(Errno::EFAULT)?;
    let buffer = |_: &SavedPage| BufferPage { call, address };
    let found = with_scratch(call, |scratch| {
        let page = tmem.save_next_page(id, op.pool_id as u32, buffer, scratch);
        page.map_err(|error| if error == ebb_tmem::Error::NoPool { Errno::EPERM } else { errno(error) })
    })?;
    tell(call, op, &found.ok_or(Errno::EPERM)?)?;
    Ok(Next::Return(1))
}

/// The name of the next page flushed since saving began: 1, or 0 when there is none.
fn next_flushed<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    if (op.len as usize) < size_of::<TmemHandle>() {
        return Ok(Next::Return(0));
    }
    let name = |page: &SavedPage| tell(call, op, page).map_err(|_| ebb_tmem::Error::Fault);
    let found = tmem.save_next_flushed(client(op)?, name).map_err(errno)?;
    Ok(Next::Return(i64::from(found.is_some())))
}

/// A client's domain must exist, so that somebody pays, and ends the client with it.
fn alive<M: Machine>(call: &Call<'_, M>, id: ClientId) -> Result<(), Errno> {
    let domain = call.hv.find_domain(DomId(id.0)).ok_or(Errno::ENOENT)?;
    if domain.lifecycle.is_running() { Ok(()) } else { Err(Errno::ENOENT) }
}

fn restore_begin<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    let id = client(op)?;
    alive(call, id)?;
    tmem.create_client(id).map_err(errno)?;
    // A domain that has begun to end meanwhile may have looked for its client before it was there.
    if alive(call, id).is_err() {
        let _ = tmem.destroy_client(id, BUDGET);
        return Err(Errno::ENOENT);
    }
    Ok(Next::Return(0))
}

fn restore_page<M: Machine>(call: &Call<'_, M>, tmem: &Here<'_, '_, M>, op: &TmemControl) -> CallResult {
    if op.len as usize != PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    let id = client(op)?;
    let page = BufferPage { call, address: op.buf.address() };
    with_scratch(call, |scratch| tmem.put(id, &handle(op), &page, scratch).map_err(errno))?;
    Ok(Next::Return(1))
}
