//! Transcendent memory: `tmem_op` over the store of [`ebb_tmem`], with this machine's frames.
//!
//! A domain is the client of its number. It is made when the domain makes its first pool, and ended with the domain
//! ([`end_some`]), in bounded steps. Frames of persistent pools count against the domain's maximum; those of ephemeral
//! ones against a cap of the same size, and up to a floor other domains' puts cannot take them. Memory that a domain
//! is entitled to takes ephemeral pages back first ([`Hypervisor::take_back_ephemeral`]).
//!
//! Locking: the store's own locks, which are leaves but for the heap's (rank HEAP). Guests' pages are copied with none
//! of them held, under the domain's p2m lock; so the store may be entered while holding any lock up to P2M. A CPU's
//! buffers ([`Buffers`]) are used by that CPU only, and never across two calls.
//!
//! Specification: Xen 4.11's `tmem.h` and what its hypervisor answers; docs/tmem.md.

mod control;
mod machine;

use alloc::sync::Arc;
use alloc::vec::Vec;

use ebb_tmem::{ClientId, Config, DEFAULT_WEIGHT, Error, Handle, Progress, Scratch, Store, Tmem};
use shared_abi::tmem::{self as abi, TmemOp};
use shared_abi::xen::compat::TmemOp32;
use shared_abi::xen::{DomId, Errno, Gfn};
use zerocopy::FromZeros;

use crate::domain::Domain;
use crate::hypercall::{Call, CallResult, Next, Width};
use crate::hypervisor::{Hypervisor, MAX_DOMAINS};
use crate::machine::Machine;
pub(crate) use control::control;
use machine::{GuestFrame, MachineFrames};

/// Pages given back between two looks at what waits.
const BUDGET: usize = 64;
/// Pages evicted at most when memory is to be taken back.
const TAKE_BACK_BUDGET: usize = 256;
/// The floor of a domain's ephemeral frames: its maximum divided by this.
const FLOOR_SHARE: u64 = 64;

/// A CPU's buffers for put and get: made when the CPU first needs them.
pub type Buffers = spin::Mutex<Vec<Scratch>>;

/// The store as the hypervisor starts with it.
pub(crate) fn new_store<M: Machine>(machine: &M) -> Store {
    // Guests must not be able to choose what collides. They do not know when the machine was started, to the tick.
    let seed = machine.tsc().rotate_left(32) ^ machine.wall_clock_base() ^ machine.now();
    Store::new(Config { clients: MAX_DOMAINS, seed, compress: false, deduplicate: true })
}

fn client_of(domain: DomId) -> ClientId {
    ClientId(domain.0)
}

fn errno(error: Error) -> Errno {
    match error {
        Error::Permission => Errno::EPERM,
        Error::NotFound => Errno::ENOENT,
        Error::NoMemory => Errno::ENOMEM,
        Error::Fault => Errno::EFAULT,
        Error::Exists => Errno::EEXIST,
        Error::NoPool => Errno::ENODEV,
        Error::Invalid => Errno::EINVAL,
        Error::NoSpace => Errno::ENOSPC,
        Error::Range => Errno::ERANGE,
        Error::Unsupported => Errno::EOPNOTSUPP,
        Error::Frozen => Errno::EFROZEN,
        Error::Empty => Errno::EEMPTY,
    }
}

impl<M: Machine> Hypervisor<M> {
    fn machine_frames(&self) -> MachineFrames<'_, M> {
        MachineFrames { machine: &self.machine, heap: &self.heap }
    }

    /// Takes ephemeral pages back for a domain that wants `frames` more, if it is entitled to so many: whether that
    /// gave any. One bounded step.
    pub(crate) fn take_back_ephemeral(&self, domain: DomId, frames: u64) -> bool {
        let account = self.heap.account(domain);
        let entitled = account.maximum().saturating_sub(account.current()).min(frames);
        if entitled == 0 || self.heap.ledger().tmem_ephemeral == 0 {
            return false;
        }
        self.tmem.on(&self.machine_frames()).reclaim(entitled, TAKE_BACK_BUDGET).0 != 0
    }

    /// The same for a claim of so many more frames, or a domain to be built with them: whether to try again. Nothing is
    /// taken when all of it would not be enough.
    pub(crate) fn take_back_for_claim(&self, frames: u64) -> bool {
        let ledger = self.heap.ledger();
        let free = (ledger.free + ledger.scrubbing).saturating_sub(ledger.claimed);
        if ledger.tmem_ephemeral == 0 || free + ledger.tmem_ephemeral < frames {
            return false;
        }
        self.tmem.on(&self.machine_frames()).reclaim(TAKE_BACK_BUDGET as u64, TAKE_BACK_BUDGET).0 != 0
    }

    /// For tests: checks all of the store's links and books.
    ///
    /// # Panics
    /// When something does not add up.
    pub fn audit_tmem(&self) {
        self.tmem.on(&self.machine_frames()).audit();
        let frames = |kind| (0..MAX_DOMAINS as u16).map(|id| self.tmem_frames(DomId(id), kind)).sum::<u64>();
        let ledger = self.heap.ledger();
        assert_eq!(frames(ebb_tmem::Kind::Ephemeral), ledger.tmem_ephemeral, "ephemeral frames");
        assert_eq!(frames(ebb_tmem::Kind::Persistent), ledger.tmem_persistent, "persistent frames");
    }

    /// Frames of a kind that a domain's pools hold, metadata included.
    pub fn tmem_frames(&self, domain: DomId, kind: ebb_tmem::Kind) -> u64 {
        self.tmem.account(client_of(domain)).map_or(0, |account| account.frames(kind))
    }
}

/// Ends a domain's pools, a bounded part at a time; true when all are gone.
pub(crate) fn end_some<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, budget: usize) -> bool {
    hv.tmem.on(&hv.machine_frames()).destroy_client(client_of(domain.id), budget) == Progress::Done
}

/// `tmem_op(uops)`.
///
/// # Errors
/// `ENODEV` for a domain that has none, `EFAULT` for an argument that cannot be read, `ENOSYS` for an operation that is none, `EOPNOTSUPP` for one that has
/// moved to `sysctl`, and what the operation says.
pub fn tmem_op<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    if call.current.domain().config.tmem.off {
        return Err(Errno::ENODEV);
    }
    let op = read_argument(call)?;
    let frames = call.hv.machine_frames();
    let tmem = call.hv.tmem.on(&frames);
    let domain = call.current.domain();
    let client = client_of(domain.id);
    let pool = op.pool_id as u32;
    match op.cmd {
        abi::NEW_POOL => new_pool(call, &tmem, &op),
        abi::DESTROY_POOL => repeat(call, || {
            let (there, progress) = tmem.destroy_pool(client, pool, BUDGET);
            Ok((progress, i64::from(there)))
        }),
        abi::PUT_PAGE | abi::GET_PAGE => page_op(call, &tmem, &op),
        abi::FLUSH_PAGE => {
            tmem.flush_page(client, &handle(&op)).map_err(errno)?;
            Ok(Next::Return(1))
        }
        abi::FLUSH_OBJECT => repeat(call, || {
            let progress = tmem.flush_object(client, pool, op.oid.oid, BUDGET).map_err(errno)?;
            Ok((progress, 1))
        }),
        // TMEM_CONTROL was 0 before it became a sysctl.
        0 | abi::AUTH | abi::RESTORE_NEW => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOSYS),
    }
}

fn read_argument<M: Machine>(call: &Call<'_, M>) -> Result<TmemOp, Errno> {
    if call.width == Width::Bits64 {
        return call.read_guest(call.args[0]);
    }
    let op: TmemOp32 = call.read_guest(call.args[0])?;
    let mut wide = TmemOp::new_zeroed();
    // Copied field by field: that also carries what NEW_POOL has in the same bytes.
    wide.cmd = op.cmd;
    wide.pool_id = op.pool_id;
    wide.oid = op.oid;
    wide.index = op.index;
    wide.cmfn = Gfn(u64::from(op.cmfn));
    Ok(wide)
}

fn handle(op: &TmemOp) -> Handle {
    Handle { pool: op.pool_id as u32, oid: op.oid.oid, index: op.index }
}

/// Repeats a step until it is done, or something waits.
fn repeat<M: Machine>(call: &Call<'_, M>, mut step: impl FnMut() -> Result<(Progress, i64), Errno>) -> CallResult {
    loop {
        match step()? {
            (Progress::Done, value) => return Ok(Next::Return(value)),
            (Progress::More, _) if call.should_preempt() => return Ok(Next::Again(call.args)),
            (Progress::More, _) => {}
        }
    }
}

fn new_pool<M: Machine>(call: &Call<'_, M>, tmem: &Tmem<'_, MachineFrames<'_, M>>, op: &TmemOp) -> CallResult {
    let wish = op.as_new_pool();
    let domain = call.current.domain();
    let client = client_of(domain.id);
    let settings = &domain.config.tmem;
    let is_new = tmem.client_info(client).is_err();
    // Before there is anything to account for.
    if is_new && let Some(account) = call.hv.tmem.account(client) {
        let cap = settings.cap.unwrap_or(domain.memory.maximum());
        account.set_limits(settings.floor.unwrap_or(domain.memory.maximum() / FLOOR_SHARE).min(cap), cap);
    }
    let pool = tmem.new_pool(client, wish.flags, wish.uuid).map_err(errno)?;
    if is_new {
        let weight = settings.weight.unwrap_or(DEFAULT_WEIGHT);
        tmem.set_client_info(Some(client), weight, settings.compress).map_err(errno)?;
    }
    Ok(Next::Return(i64::from(pool)))
}

fn page_op<M: Machine>(call: &Call<'_, M>, tmem: &Tmem<'_, MachineFrames<'_, M>>, op: &TmemOp) -> CallResult {
    let domain: &Arc<Domain<M>> = call.current.domain();
    let client = client_of(domain.id);
    tmem.check_pool(client, op.pool_id as u32).map_err(errno)?;
    let page = GuestFrame { hv: call.hv, domain, gfn: op.cmfn };
    with_scratch(call, |scratch| {
        let result = if op.cmd == abi::PUT_PAGE {
            tmem.put(client, &handle(op), &page, scratch).map(|()| true)
        } else {
            tmem.get(client, &handle(op), &page, scratch)
        };
        result.map(|found| Next::Return(i64::from(found))).map_err(errno)
    })
}

/// Runs `work` with this CPU's buffers.
fn with_scratch<M: Machine, R>(
    call: &Call<'_, M>,
    work: impl FnOnce(&mut Scratch) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let mut buffers = call.hv.cpu().tmem_buffers.lock();
    if buffers.is_empty() {
        buffers.try_reserve_exact(1).map_err(|_| Errno::ENOMEM)?;
        buffers.push(Scratch::try_new().ok_or(Errno::ENOMEM)?);
    }
    work(&mut buffers[0])
}

#[cfg(test)]
mod tests;
