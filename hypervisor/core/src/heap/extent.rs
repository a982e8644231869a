//! Frames in somebody's hands: values that cannot be copied, and may not be forgotten.

use core::sync::atomic::{AtomicU64, Ordering};

use shared_abi::xen::Mfn;

/// Extents and pins dropped instead of given back, ever. Only a release build lives to count one.
pub static LEAKED: AtomicU64 = AtomicU64::new(0);

/// Ownership of a block of `1 << order` naturally aligned frames.
///
/// Holding one proves that no free list, p2m or other holder has these frames. It ends by being freed to the heap or
/// moved into a p2m; dropping it is a bug (a panic in debug builds, a counted leak otherwise).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "frames must be given to someone"]
pub struct Extent {
    first: Mfn,
    order: u32,
}

impl Extent {
    /// Takes ownership out of the place that recorded it (a free list, a page-table entry, a chain).
    pub(crate) fn from_record(first: Mfn, order: u32) -> Self {
        debug_assert!(first.0.trailing_zeros() >= order);
        Self { first, order }
    }

    /// Gives ownership to the place that records it from now on.
    pub(crate) fn into_record(self) -> (Mfn, u32) {
        let record = (self.first, self.order);
        core::mem::forget(self);
        record
    }

    /// Its first frame.
    pub fn first(&self) -> Mfn {
        self.first
    }

    /// log2 of its number of frames.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Its number of frames.
    pub fn frames(&self) -> u64 {
        1 << self.order
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        dropped("extent");
    }
}

/// One of a domain's frames, kept although the domain may have removed it from its memory. It stays charged to the
/// domain until the last pin goes. Ends by [`PinnedFrame::release`]; dropping it is a bug, as for [`Extent`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pin must be released"]
pub struct PinnedFrame {
    mfn: Mfn,
}

impl PinnedFrame {
    /// A pin that has been counted in the frame's record.
    pub(super) fn counted(mfn: Mfn) -> Self {
        Self { mfn }
    }

    /// For the place that records the pin from now on.
    pub(crate) fn into_record(self) -> Mfn {
        let mfn = self.mfn;
        core::mem::forget(self);
        mfn
    }

    /// Takes the pin out of the place that recorded it.
    pub(crate) fn from_record(mfn: Mfn) -> Self {
        Self { mfn }
    }

    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }
}

impl Drop for PinnedFrame {
    fn drop(&mut self) {
        dropped("pin");
    }
}

fn dropped(what: &str) {
    LEAKED.fetch_add(1, Ordering::Relaxed);
    #[cfg(test)]
    if std::thread::panicking() {
        return;
    }
    if cfg!(debug_assertions) {
        panic!("{what} dropped");
    }
}
