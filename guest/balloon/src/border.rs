//! The border to the kernel that adopts the balloon: its page allocator and its hypercalls.

use shared_abi::xen::{Errno, Gfn};

use crate::extent::{Batch, Extent};

/// What lies behind the pages of an extent that the balloon hands to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// The very pages the guest offered: they were not given away after all and their contents are as they were.
    Unchanged,
    /// Other frames than before, which the hypervisor promises hold no other domain's data. Do not rely on zeros:
    /// Xen and Ebb scrub, but the ABI does not say so.
    Fresh,
}

/// The guest's page allocator, as the balloon sees it.
///
/// An extent that was taken belongs to the balloon: the guest must hold no reference to it and must touch none of its
/// pages (a stray access to a page that was given away is a fault, or on Xen a crash of the domain), until
/// [`give_back`](PageSource::give_back) is called for it.
pub trait PageSource {
    /// Takes free extents of 2^`order` pages (0 or 9), aligned to their size, and pushes them until `out` is full or
    /// there are no more to spare. The source keeps what reserve the guest needs: it need not, and should not, reclaim
    /// or sleep. Best are extents that do not break up larger ones.
    fn take(&mut self, order: u32, out: &mut Batch);

    /// Takes exactly this extent if all its pages are free; false, and nothing taken, if not.
    ///
    /// Used to win back superpages. A source that cannot do it keeps this default, and none are won back by exchange.
    fn take_at(&mut self, extent: Extent) -> bool {
        let _ = extent;
        false
    }

    /// Makes the extent free memory of the guest. Extents come back in other sizes than they were taken in: 512 pages
    /// for a 2 MiB extent, or one 2 MiB extent for 512 pages.
    fn give_back(&mut self, extent: Extent, backing: Backing);
}

/// What a memory hypercall achieved.
///
/// `done` is meaningful beside `refused` too: what was done before the hypervisor refused stays done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many extents of the (input) list were dealt with, from its start.
    pub done: usize,
    /// The error, where the hypervisor named one. It names none when it merely ran short.
    pub refused: Option<Errno>,
}

impl Outcome {
    /// `done` extents and no error.
    #[must_use]
    pub const fn done(done: usize) -> Self {
        Self { done, refused: None }
    }

    /// Nothing done, for this reason.
    #[must_use]
    pub const fn refused(errno: Errno) -> Self {
        Self { done: 0, refused: Some(errno) }
    }
}

/// The hypercalls the balloon makes (`XENMEM_*` of `memory_op`, for the calling domain).
///
/// The balloon trusts these only as far as it must: `done` is capped at what was asked for.
pub trait Host {
    /// `XENMEM_decrease_reservation`: gives away the extents; stops at the first it cannot.
    fn decrease_reservation(&mut self, extents: &[Gfn], order: u32) -> Outcome;

    /// `XENMEM_populate_physmap`: backs the extents; stops when memory runs out or the domain is at its maximum.
    fn populate_physmap(&mut self, extents: &[Gfn], order: u32) -> Outcome;

    /// `XENMEM_exchange`: gives away the input extents and backs the output extents, atomically for each output
    /// extent. `done` counts input extents (`nr_exchanged`).
    ///
    /// # Errors
    /// Xen offers this to PV domains only (-EOPNOTSUPP otherwise). -ENOSYS, -EOPNOTSUPP and -EPERM make the balloon
    /// stop asking; so a kernel without the call answers [`Errno::ENOSYS`].
    fn exchange(&mut self, given: &[Gfn], given_order: u32, wanted: &[Gfn], wanted_order: u32) -> Outcome;

    /// `XENMEM_current_reservation`: pages the domain has.
    ///
    /// # Errors
    /// As the hypervisor gives them; the balloon then only knows its reason for a shortage less exactly.
    fn current_reservation(&mut self) -> Result<u64, Errno>;

    /// `XENMEM_maximum_reservation`: pages the domain may have.
    ///
    /// # Errors
    /// As for [`current_reservation`](Host::current_reservation).
    fn maximum_reservation(&mut self) -> Result<u64, Errno>;
}
