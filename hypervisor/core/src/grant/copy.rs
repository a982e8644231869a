//! copy: bytes between two pages, each the caller's own or one granted to it.

use alloc::sync::Arc;

use shared_abi::grant_table::{COPY_DEST_GREF, COPY_SOURCE_GREF, GrantCopy, GrantCopyPtr, GrantRef, GrantStatus};
use shared_abi::xen::compat::{GrantCopy32, GrantCopyPtr32};
use shared_abi::xen::{DomId, Mfn};

use super::map::{begin_use, element, end_use};
use crate::domain::Domain;
use crate::heap::PinnedFrame;
use crate::hypercall::{Call, CallResult, Next, Width};
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, MachineAddress, PAGE_SIZE};

/// Bytes moved at once.
const PIECE: usize = 512;

/// A page held for a copy.
enum Page<M: Machine> {
    Granted { granter: Arc<Domain<M>>, gref: GrantRef, mfn: Mfn, readonly: bool },
    Own(PinnedFrame),
}

impl<M: Machine> Page<M> {
    fn mfn(&self) -> Mfn {
        match self {
            Self::Granted { mfn, .. } => *mfn,
            Self::Own(pin) => pin.mfn(),
        }
    }

    fn release(self, hv: &Hypervisor<M>) {
        match self {
            Self::Granted { granter, gref, readonly, .. } => end_use(hv, &granter, gref, readonly),
            Self::Own(pin) => pin.release(&hv.heap),
        }
    }
}

/// copy for `count` structures at `list`.
///
/// # Errors
/// `EFAULT`; what came before stays done.
pub(super) fn copy<M: Machine>(call: &Call<'_, M>, list: u64, count: u32) -> CallResult {
    let (size, status_at) = match call.width {
        Width::Bits64 => (size_of::<GrantCopy>(), core::mem::offset_of!(GrantCopy, status)),
        Width::Bits32 => (size_of::<GrantCopy32>(), core::mem::offset_of!(GrantCopy32, status)),
    };
    for index in 0..count {
        let address = element(list, index, size as u64)?;
        if index != 0 && call.should_preempt() {
            return Ok(super::op::continue_at(call, address, count - index));
        }
        let request = match call.width {
            Width::Bits64 => call.read_guest(address)?,
            Width::Bits32 => widen(call.read_guest(address)?),
        };
        let status = copy_one(call, &request).err().unwrap_or(GrantStatus::OKAY);
        call.write_guest(address + status_at as u64, &status)?;
    }
    Ok(Next::Return(0))
}

fn widen(narrow: GrantCopy32) -> GrantCopy {
    let end = |end: GrantCopyPtr32| GrantCopyPtr { u: u64::from(end.u), domid: end.domid, offset: end.offset, pad: 0 };
    GrantCopy {
        source: end(narrow.source),
        dest: end(narrow.dest),
        len: narrow.len,
        flags: narrow.flags,
        ..GrantCopy::default()
    }
}

fn copy_one<M: Machine>(call: &Call<'_, M>, request: &GrantCopy) -> Result<(), GrantStatus> {
    let (from_grant, to_grant) = (request.flags & COPY_SOURCE_GREF != 0, request.flags & COPY_DEST_GREF != 0);
    let from = owner_of(call, request.source.domid, from_grant)?;
    let to = owner_of(call, request.dest.domid, to_grant)?;
    let source = hold(call, from, &request.source, from_grant, true)?;
    let dest = match hold(call, to, &request.dest, to_grant, false) {
        Ok(dest) => dest,
        Err(status) => {
            source.release(call.hv);
            return Err(status);
        }
    };
    let result = move_bytes(&call.hv.machine, source.mfn(), dest.mfn(), request);
    source.release(call.hv);
    dest.release(call.hv);
    result
}

/// The domain whose page one end of a copy is. Only the caller's own pages go by frame number.
fn owner_of<M: Machine>(call: &Call<'_, M>, id: DomId, granted: bool) -> Result<Arc<Domain<M>>, GrantStatus> {
    match id {
        DomId::SELF => Ok(call.current.domain().clone()),
        _ if !granted => Err(GrantStatus::PERMISSION_DENIED),
        id => call.hv.find_domain(id).ok_or(GrantStatus::BAD_DOMAIN),
    }
}

/// Holds the page of one end.
fn hold<M: Machine>(
    call: &Call<'_, M>,
    owner: Arc<Domain<M>>,
    end: &GrantCopyPtr,
    granted: bool,
    readonly: bool,
) -> Result<Page<M>, GrantStatus> {
    if !granted {
        return owner.memory.pin(call.hv, end.gmfn()).map(Page::Own).map_err(|_| GrantStatus::BAD_PAGE);
    }
    let gref = end.gref();
    let mfn = begin_use(call.hv, &owner, gref, call.current.domain().id, readonly)?;
    Ok(Page::Granted { granter: owner, gref, mfn, readonly })
}

fn move_bytes<M: Machine>(machine: &M, from: Mfn, to: Mfn, request: &GrantCopy) -> Result<(), GrantStatus> {
    let length = usize::from(request.len);
    let (start, end) = (usize::from(request.source.offset), usize::from(request.dest.offset));
    if start + length > PAGE_SIZE || end + length > PAGE_SIZE {
        return Err(GrantStatus::BAD_COPY_ARG);
    }
    let mut bytes = [0; PIECE];
    for done in (0..length).step_by(PIECE) {
        let piece = &mut bytes[..PIECE.min(length - done)];
        machine.read(MachineAddress::in_frame(from, start + done), piece);
        machine.write(MachineAddress::in_frame(to, end + done), piece);
    }
    Ok(())
}
