//! Walks remembered, and checked again before each use.
//!
//! An answer holds if the paging registers that shape a walk are the same, the p2m has lost no translation since in the
//! regions that the tables and the page are in (additions do not matter), and every entry on the way still contains what
//! it did. The entries' frames cannot have changed hands: that would have been a loss. So a hit costs one load per level instead of a walk of the guest's
//! tables with a walk of the p2m at each level.
//!
//! Locking: a try-lock; only the vCPU's own calls come here, so it is free unless something odd happens, and then the
//! walk is simply done again.

use core::sync::atomic::Ordering;

use shared_abi::xen::Mfn;

use super::Access;
use super::walk::{MAX_STEPS, Step, Walk};
use crate::hypercall::GuestPaging;
use crate::machine::{Machine, MachineAddress, PAGE_SHIFT};
use crate::p2m::P2m;

/// Pages remembered for each vCPU: the hypercall arguments of a kernel live in a few (a stack page or two, some static
/// ones).
const ENTRIES: usize = 8;

/// CR0.PG and CR0.WP.
const CR0_BITS: u64 = 1 << 31 | 1 << 16;
/// CR4.PSE, CR4.PAE, CR4.LA57.
const CR4_BITS: u64 = 1 << 4 | 1 << 5 | 1 << 12;
/// EFER.LMA, EFER.NXE.
const EFER_BITS: u64 = 1 << 10 | 1 << 11;

/// All a walk depends on besides the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    page: u64,
    cr3: u64,
    /// The bits of CR0, CR4 (shifted by 32) and EFER (shifted by 1) that shape a walk. None of them overlap.
    mode: u64,
}

impl Key {
    pub(super) fn new(paging: &GuestPaging, address: u64) -> Self {
        let mode = paging.cr0 & CR0_BITS | (paging.cr4 & CR4_BITS) << 32 | (paging.efer & EFER_BITS) << 1;
        Self { page: address >> PAGE_SHIFT, cr3: paging.cr3, mode }
    }

    fn slot(&self) -> usize {
        self.page as usize % ENTRIES
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Remembered {
    key: Key,
    valid: bool,
    writable: bool,
    steps: u8,
    mfn: u64,
    /// The p2m's generation when this was last known to hold.
    generation: u64,
    /// The regions of the p2m that it depends on.
    regions: u64,
    path: [Step; MAX_STEPS],
}

/// A vCPU's remembered walks.
#[derive(Debug, Default)]
pub struct WalkCache {
    entries: spin::Mutex<[Remembered; ENTRIES]>,
}

impl WalkCache {
    /// Nothing remembered.
    pub fn new() -> Self {
        Self::default()
    }

    /// The frame, if a walk with this key is remembered and still holds. The caller holds the p2m's lock.
    #[inline]
    pub(super) fn find<M: Machine>(&self, machine: &M, p2m: &P2m<M>, key: &Key, access: Access) -> Option<Mfn> {
        let mut entries = self.entries.try_lock()?;
        let entry = &mut entries[key.slot()];
        if entry.key != *key || !entry.valid || (access == Access::Write && !entry.writable) {
            return None;
        }
        if entry.generation != p2m.generation() {
            if !p2m.unchanged_since(entry.generation, entry.regions) {
                return None;
            }
            entry.generation = p2m.generation();
        }
        // A plain loop: this is the one place where a few instructions per hypercall are won or lost.
        for step in entry.path.iter().take(usize::from(entry.steps)) {
            if machine.word64(MachineAddress(step.address)).load(Ordering::Acquire) != step.value {
                return None;
            }
        }
        Some(Mfn(entry.mfn))
    }

    /// Remembers a walk that was made under the p2m lock that the caller still holds.
    pub(super) fn remember<M: Machine>(&self, p2m: &P2m<M>, key: &Key, walk: &Walk) {
        let (Some(mut entries), Some(steps)) = (self.entries.try_lock(), &walk.steps) else { return };
        let entry = &mut entries[key.slot()];
        *entry = Remembered {
            key: *key,
            valid: true,
            writable: walk.writable,
            steps: steps.len() as u8,
            mfn: walk.mfn.0,
            generation: p2m.generation(),
            regions: walk.regions,
            path: [Step::default(); MAX_STEPS],
        };
        entry.path[..steps.len()].copy_from_slice(steps);
    }
}
