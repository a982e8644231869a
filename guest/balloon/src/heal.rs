//! Winning back superpages: a region whose pages came back one by one is exchanged for one 2 MiB extent.
//!
//! Only regions whose 512 pages are all free in the guest are touched, because an exchange loses their contents. The
//! hypervisor gives and takes in one call, so the guest's memory never falls in between, and a host without a free
//! 2 MiB extent costs nothing but the attempt.

use shared_abi::xen::{Errno, Gfn};

use crate::balloon::{Balloon, Next};
use crate::border::{Backing, Host, Outcome, PageSource};
use crate::extent::{Batch, Extent, MAX_EXTENTS, PAGES_PER_SUPERPAGE, SUPERPAGE_ORDER};
use crate::regions::first_of;

impl Balloon<'_> {
    /// Tries to exchange one scattered region for a 2 MiB extent, and says when to call again: [`Next::Idle`] if there
    /// is none, or the hypervisor does not exchange.
    ///
    /// At most [`Tuning::heal_probes`](crate::Tuning::heal_probes) regions are asked for and one is exchanged. When
    /// none is free, or the hypervisor has no extent for it, the next attempt waits like a step's, on a schedule of its
    /// own. Best called when [`step`](Self::step) is idle; it does no harm at other times.
    ///
    /// Should the hypervisor exchange a part only, that part is in the balloon afterwards, and the answer is now: the
    /// next [`step`](Self::step) gets it back.
    pub fn heal<S, H>(&mut self, now_ns: u64, source: &mut S, host: &mut H) -> Next
    where
        S: PageSource + ?Sized,
        H: Host + ?Sized,
    {
        if !self.tuning.heal || self.exchange_unsupported || self.map.regions_scattered() == 0 {
            self.heal_retry.restart();
            return Next::Idle;
        }
        if let Some(at) = self.heal_retry.waiting(now_ns) {
            return Next::At(at);
        }
        let Some(index) = self.take_scattered(source) else {
            return Next::At(self.heal_retry.postpone(now_ns));
        };
        let outcome = self.exchange(index, host);
        let done = outcome.done.min(MAX_EXTENTS);
        let whole = Extent { first: first_of(index), order: SUPERPAGE_ORDER };
        if done == MAX_EXTENTS {
            self.map.mark_healed(index);
            self.heal_retry.restart();
            source.give_back(whole, Backing::Fresh);
            return match self.map.regions_scattered() {
                0 => Next::Idle,
                _ => Next::At(now_ns.saturating_add(self.tuning.pace_ns)),
            };
        }
        if done == 0 {
            source.give_back(whole, Backing::Unchanged);
        } else {
            self.keep_rest(done, source);
        }
        self.exchange_unsupported =
            done == 0 && matches!(outcome.refused, Some(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM));
        if self.exchange_unsupported {
            return Next::Idle;
        }
        let at = self.heal_retry.postpone(now_ns);
        Next::At(if done == 0 { at } else { now_ns })
    }

    /// Takes from the source a scattered region that is all free, and answers its index.
    fn take_scattered<S: PageSource + ?Sized>(&mut self, source: &mut S) -> Option<usize> {
        let probes = usize::try_from(self.tuning.heal_probes).unwrap_or(usize::MAX);
        for _ in 0..probes.min(self.map.regions_scattered()) {
            let index = self.map.next_scattered(self.heal_cursor)?;
            self.heal_cursor = index + 1;
            if source.take_at(Extent { first: first_of(index), order: SUPERPAGE_ORDER }) {
                return Some(index);
            }
        }
        None
    }

    /// Exchanges the pages of a region for one extent at the same place; they stay in the batch.
    fn exchange<H: Host + ?Sized>(&mut self, index: usize, host: &mut H) -> Outcome {
        let first = first_of(index);
        fill(&mut self.batch, first);
        host.exchange(self.batch.as_slice(), 0, &[first], SUPERPAGE_ORDER)
    }

    /// The first `done` pages of the batch are gone, the others were not touched.
    fn keep_rest<S: PageSource + ?Sized>(&mut self, done: usize, source: &mut S) {
        let (gone, kept) = self.batch.as_slice().split_at(done);
        for &first in gone {
            self.map.mark_absent(Extent::page(first));
        }
        for &first in kept {
            source.give_back(Extent::page(first), Backing::Unchanged);
        }
    }
}

/// Fills the batch with the pages of the region that begins at `first`.
fn fill(batch: &mut Batch, first: Gfn) {
    batch.reset(MAX_EXTENTS);
    for page in 0..PAGES_PER_SUPERPAGE {
        if !batch.push(Gfn(first.0 + page)) {
            break;
        }
    }
}
