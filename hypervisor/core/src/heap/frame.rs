//! What the hypervisor remembers of each frame: 16 bytes.
//!
//! A block is a run of `1 << order` frames. Only its first frame, the head, says what the block is; the others are
//! [`Use::None`]. `count` is the exception: it is kept for every frame of its own (pins, or the entries of a page
//! table), and is 0 for every frame that has neither, so it need not be set when a block is handed out.
//!
//! Locking: `state` and the links of free blocks change under the heap lock. `state` of a domain's block also changes
//! under its domain's p2m write lock (split, merge). The links of a retired block belong to whoever holds the chain.

use core::sync::atomic::{AtomicU32, Ordering};

use shared_abi::xen::DomId;

use super::Owner;

/// The end of a chain of frames.
pub(crate) const NIL: u32 = u32::MAX;

/// One frame's record. All bytes zero: not the heap's, and nobody's.
#[derive(Debug, Default)]
#[repr(C)]
pub struct FrameInfo {
    /// Use (bits 0–7), order (8–15), domain (16–31).
    state: AtomicU32,
    /// Pins of a domain's frame (with [`ORPHANED`]), or entries present in a page table.
    pub(crate) count: AtomicU32,
    /// The next block of its free list or chain.
    pub(crate) next: AtomicU32,
    /// The previous block of its free list.
    pub(crate) prev: AtomicU32,
}

const _: () = assert!(size_of::<FrameInfo>() == 16);

/// In `count`: the frame is in nobody's p2m any more, and the last pin to go frees it.
pub(crate) const ORPHANED: u32 = 1 << 31;

/// What the head of a block says the block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Use {
    /// Not a head.
    None,
    /// Free and cleared.
    Clean,
    /// Free, with what its last owner left in it.
    Dirty,
    /// A domain's memory.
    Domain,
    /// The hypervisor's.
    Hypervisor,
    /// A page table of the hypervisor's.
    PageTable,
    /// A page of an ephemeral pool.
    TmemEphemeral,
    /// A page of a persistent pool.
    TmemPersistent,
}

impl Use {
    const ALL: [Use; 8] = [
        Use::None,
        Use::Clean,
        Use::Dirty,
        Use::Domain,
        Use::Hypervisor,
        Use::PageTable,
        Use::TmemEphemeral,
        Use::TmemPersistent,
    ];
}

/// A decoded `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// What the block is.
    pub used_as: Use,
    /// log2 of its frames.
    pub order: u32,
    /// For whom, where that means anything.
    pub domain: DomId,
}

impl State {
    pub(crate) const NONE: State = State { used_as: Use::None, order: 0, domain: DomId(0) };

    pub(crate) fn free(used_as: Use, order: u32) -> Self {
        Self { used_as, order, domain: DomId(0) }
    }

    pub(crate) fn owned(owner: Owner, order: u32) -> Self {
        let (used_as, domain) = match owner {
            Owner::Domain(domain) => (Use::Domain, domain),
            Owner::Hypervisor => (Use::Hypervisor, DomId(0)),
            Owner::PageTable => (Use::PageTable, DomId(0)),
            Owner::TmemEphemeral(domain) => (Use::TmemEphemeral, domain),
            Owner::TmemPersistent(domain) => (Use::TmemPersistent, domain),
        };
        Self { used_as, order, domain }
    }

    /// Whose the block is; `None` for a free block and for what is no head.
    pub(crate) fn owner(self) -> Option<Owner> {
        match self.used_as {
            Use::None | Use::Clean | Use::Dirty => None,
            Use::Domain => Some(Owner::Domain(self.domain)),
            Use::Hypervisor => Some(Owner::Hypervisor),
            Use::PageTable => Some(Owner::PageTable),
            Use::TmemEphemeral => Some(Owner::TmemEphemeral(self.domain)),
            Use::TmemPersistent => Some(Owner::TmemPersistent(self.domain)),
        }
    }

    fn pack(self) -> u32 {
        self.used_as as u32 | self.order << 8 | u32::from(self.domain.0) << 16
    }
}

impl FrameInfo {
    pub(crate) fn state(&self) -> State {
        let packed = self.state.load(Ordering::Relaxed);
        let used_as = Use::ALL[(packed & 7) as usize];
        State { used_as, order: packed >> 8 & 0xff, domain: DomId((packed >> 16) as u16) }
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state.pack(), Ordering::Relaxed);
    }

    /// Whether this is the head of a block in exactly this state.
    pub(crate) fn is(&self, state: State) -> bool {
        self.state.load(Ordering::Relaxed) == state.pack()
    }

    /// The next frame of the chain this one is in.
    pub(crate) fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next(&self, next: u32) {
        self.next.store(next, Ordering::Relaxed);
    }
}
