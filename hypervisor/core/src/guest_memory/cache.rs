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

/// All a walk depends on besides the entries. The control registers stand here whole, although only some of their bits
/// shape a walk: kernels seldom change the others, and comparing is cheaper than picking bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    page: u64,
    cr3: u64,
    cr0: u64,
    cr4: u64,
    efer: u64,
}

impl Key {
    #[inline]
    pub(super) fn new(paging: &GuestPaging, address: u64) -> Self {
        let &GuestPaging { cr0, cr3, cr4, efer, .. } = paging;
        Self { page: address >> PAGE_SHIFT, cr3, cr0, cr4, efer }
    }

    fn slot(&self) -> usize {
        self.page as usize % ENTRIES
    }
}

/// Levels of a 64-bit guest's tables.
const USUAL_STEPS: usize = 4;
const _: () = assert!(MAX_STEPS == USUAL_STEPS + 1);

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
    #[inline(always)]
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
        // This is the one place where a few instructions per hypercall are won or lost: a loop of fixed length for the
        // usual number of levels, to which `remember` fills up shorter paths.
        let holds = |step: &Step| machine.word64(MachineAddress(step.address)).load(Ordering::Acquire) == step.value;
        let (usual, more) = entry.path.split_at(USUAL_STEPS);
        let same = match entry.steps {
            0 => true,
            5 => usual.iter().all(holds) && more.iter().all(holds),
            _ => usual.iter().all(holds),
        };
        same.then_some(Mfn(entry.mfn))
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
        if let Some(last) = steps.last() {
            entry.path = [*last; MAX_STEPS];
            entry.path[..steps.len()].copy_from_slice(steps);
        }
    }
}
