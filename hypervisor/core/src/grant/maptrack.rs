//! What a domain has mapped of others' grants: handles that name mappings.
//!
//! A handle is free, busy (its mapping is being made or unmade by one vCPU) or mapped; so of two vCPUs that unmap the
//! same handle, one finds nothing. Room grows by chunks that never move, up to a limit.
//!
//! Locking: the domain's GRANT lock for mappings, which is never held together with one for tables.

use alloc::sync::Arc;
use alloc::vec::Vec;

use shared_abi::grant_table::{GrantHandle, GrantRef};
use shared_abi::xen::{Gfn, Mfn};

use crate::domain::Domain;
use crate::machine::Machine;

/// Handles in a chunk.
const CHUNK: usize = 256;
/// No handle.
const NIL: u32 = u32::MAX;

/// One mapping.
pub(super) struct Mapping<M: Machine> {
    /// Whose entry; it may have ended meanwhile.
    pub granter: Arc<Domain<M>>,
    /// Which entry.
    pub gref: GrantRef,
    /// Where the page is mapped.
    pub gfn: Gfn,
    /// Which page.
    pub mfn: Mfn,
    /// Whether it may only be read.
    pub readonly: bool,
}

enum Slot<M: Machine> {
    /// The next free one.
    Free(u32),
    Busy,
    Mapped(Mapping<M>),
}

/// A domain's handles.
pub(super) struct Maptrack<M: Machine> {
    chunks: Vec<Vec<Slot<M>>>,
    free: u32,
    /// Where [`Maptrack::next_mapped`] has come to, at the domain's end.
    drained: usize,
}

impl<M: Machine> Maptrack<M> {
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), free: NIL, drained: 0 }
    }

    fn slot(&mut self, handle: GrantHandle) -> Option<&mut Slot<M>> {
        let index = handle.0 as usize;
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    /// A busy handle, of at most `limit` there may be, or `None` when there are no more or memory is short.
    pub fn reserve(&mut self, limit: usize) -> Option<GrantHandle> {
        if self.free == NIL {
            self.grow(limit)?;
        }
        let handle = GrantHandle(self.free);
        let slot = self.slot(handle)?;
        let Slot::Free(next) = core::mem::replace(slot, Slot::Busy) else {
            unreachable!("the free list holds free handles")
        };
        self.free = next;
        Some(handle)
    }

    fn grow(&mut self, limit: usize) -> Option<()> {
        let first = self.chunks.len() * CHUNK;
        if first >= limit {
            return None;
        }
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).ok()?;
        self.chunks.try_reserve(1).ok()?;
        let last = first + CHUNK - 1;
        chunk.extend((first..=last).map(|index| Slot::Free(if index == last { NIL } else { index as u32 + 1 })));
        self.chunks.push(chunk);
        self.free = first as u32;
        Some(())
    }

    /// Makes a busy handle name a mapping.
    pub fn fill(&mut self, handle: GrantHandle, mapping: Mapping<M>) {
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Mapped(mapping);
        }
    }

    /// Takes the mapping that a handle names; the handle is busy then.
    pub fn take(&mut self, handle: GrantHandle) -> Option<Mapping<M>> {
        let slot = self.slot(handle)?;
        if !matches!(slot, Slot::Mapped(_)) {
            return None;
        }
        match core::mem::replace(slot, Slot::Busy) {
            Slot::Mapped(mapping) => Some(mapping),
            _ => None,
        }
    }

    /// Whether a handle names a mapping.
    pub fn is_mapped(&mut self, handle: GrantHandle) -> bool {
        matches!(self.slot(handle), Some(Slot::Mapped(_)))
    }

    /// Gives a busy handle back.
    pub fn release(&mut self, handle: GrantHandle) {
        let next = self.free;
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Free(next);
            self.free = handle.0;
        }
    }

    /// The next handle that is mapped, looking at each once and at no more than `budget`. `Err` says whether all have
    /// been looked at.
    pub fn next_mapped(&mut self, budget: &mut usize) -> Result<GrantHandle, bool> {
        let end = self.chunks.len() * CHUNK;
        while self.drained < end {
            if *budget == 0 {
                return Err(false);
            }
            *budget -= 1;
            let handle = GrantHandle(self.drained as u32);
            self.drained += 1;
            if self.is_mapped(handle) {
                return Ok(handle);
            }
        }
        Err(true)
    }

    /// Mappings there are. Looks at all.
    pub fn mapped(&self) -> usize {
        self.chunks.iter().flatten().filter(|slot| matches!(slot, Slot::Mapped(_))).count()
    }
}
