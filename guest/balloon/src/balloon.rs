//! The balloon: a target, and steps towards it.

use shared_abi::xen::{Errno, Gfn};

use crate::border::{Backing, Host, PageSource};
use crate::extent::{Batch, Extent, PAGES_PER_SUPERPAGE, SUPERPAGE_ORDER};
use crate::regions::{Presence, Region, RegionMap, SetupError};
use crate::schedule::Retry;
use crate::stats::{Shortage, Stats};
use crate::tuning::Tuning;

/// So many extents of a batch may be refused one by one, before the rest is left for the next attempt.
const REFUSALS_PER_BATCH: u32 = 8;

/// When to call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At this time in ns, on the clock of the `now_ns` that was passed in. Not later than now: at once, after letting
    /// others run. Calling earlier does no harm and nothing.
    At(u64),
    /// When there is a new target; nothing is left to do.
    Idle,
}

impl Next {
    /// The earlier of two.
    #[must_use]
    pub fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::At(a), Self::At(b)) => Self::At(a.min(b)),
            (Self::At(at), Self::Idle) | (Self::Idle, Self::At(at)) => Self::At(at),
            (Self::Idle, Self::Idle) => Self::Idle,
        }
    }
}

/// What one attempt came to.
struct Attempt {
    /// Pages moved towards the target.
    moved: u64,
    /// Why it was not as many as were asked for.
    shortage: Shortage,
}

/// Moves a guest's memory towards a target; see the [crate's page](crate).
#[derive(Debug)]
pub struct Balloon<'a> {
    pub(crate) map: RegionMap<'a>,
    pub(crate) tuning: Tuning,
    pub(crate) batch: Batch,
    /// What was asked for, before it is clamped to what there is.
    wish: u64,
    /// Whether anyone asked yet. Until then the guest is to have what it started with.
    wished: bool,
    retry: Retry,
    /// Pages still to be moved one by one before 2 MiB extents are tried again.
    small_run: u64,
    shortage: Shortage,
    retries: u32,
    retries_total: u64,
    pages_given: u64,
    pages_got: u64,
    superpages_given: u64,
    superpages_got: u64,
    rejected: u64,
    pub(crate) heal_retry: Retry,
    pub(crate) heal_cursor: usize,
    pub(crate) exchange_unsupported: bool,
}

impl<'a> Balloon<'a> {
    /// A balloon without RAM; add it with [`add_ram`](Self::add_ram).
    ///
    /// `regions[i]` remembers the pages from 512 `i` on, so there must be as many as reach the end of the guest's RAM
    /// at its static maximum. Whatever they hold is dropped.
    #[must_use]
    pub fn new(regions: &'a mut [Region], tuning: Tuning) -> Self {
        let tuning = tuning.in_range();
        let high_start = tuning.high_start.map_or(u64::MAX, |first| first.0);
        Self {
            map: RegionMap::new(regions, high_start),
            tuning,
            batch: Batch::new(),
            wish: 0,
            wished: false,
            retry: Retry::new(tuning.first_delay_ns, tuning.longest_delay_ns),
            small_run: 0,
            shortage: Shortage::None,
            retries: 0,
            retries_total: 0,
            pages_given: 0,
            pages_got: 0,
            superpages_given: 0,
            superpages_got: 0,
            rejected: 0,
            heal_retry: Retry::new(tuning.first_delay_ns, tuning.longest_delay_ns),
            heal_cursor: 0,
            exchange_unsupported: false,
        }
    }

    /// Tells the balloon of `pages` pages of RAM from `first` on. May be called at any time, for hot-added memory too.
    ///
    /// Until a target is set, the target is the RAM that was added as present. Afterwards adding RAM leaves the wish as
    /// it is; present RAM above target will be given away unless the target is raised as well.
    ///
    /// # Errors
    /// [`SetupError`], and nothing is added, if there is no region for some of it or it was added before.
    pub fn add_ram(&mut self, first: Gfn, pages: u64, presence: Presence) -> Result<(), SetupError> {
        let before = self.target();
        self.map.add_ram(first, pages, presence)?;
        if !self.wished && presence == Presence::Present {
            self.wish = self.wish.saturating_add(pages);
        }
        self.note_target(before);
        Ok(())
    }

    /// Pages the guest has.
    #[must_use]
    pub const fn current(&self) -> u64 {
        self.map.present()
    }

    /// Pages the guest is to have.
    #[must_use]
    pub fn target(&self) -> u64 {
        self.wish.max(self.tuning.floor_pages).min(self.map.ram())
    }

    /// Sets how many pages the guest is to have, and answers the target that was accepted: not below the floor, and not
    /// above the static maximum (which bounds the floor too). The wish is remembered: when RAM is added, a target that
    /// was cut short grows to it.
    ///
    /// A new target ends any wait and begins the schedule anew. The same target again changes nothing, so that a policy
    /// which repeats itself does not defeat the back-off.
    pub fn set_target(&mut self, pages: u64) -> u64 {
        let before = self.target();
        self.wish = pages;
        self.wished = true;
        self.note_target(before);
        self.target()
    }

    /// Changes the floor below which no target goes. A target that moves with it is a new target.
    pub fn set_floor(&mut self, pages: u64) {
        let before = self.target();
        self.tuning.floor_pages = pages;
        self.note_target(before);
    }

    /// Begins anew if the target is not what it was.
    fn note_target(&mut self, before: u64) {
        if self.target() != before {
            self.settle();
        }
    }

    /// Ends the present wait, if any, for a caller who knows that memory has become free. The schedule goes on from
    /// where it was: should the attempt fail, the next wait is longer still.
    pub fn retry_now(&mut self) {
        self.retry.cut_short();
        self.heal_retry.cut_short();
    }

    /// The figures of this instant.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (low, high) = self.map.low_and_high();
        let (superpages_kept, superpages_won, superpages_lost) = self.map.superpages();
        let (current, target) = (self.current(), self.target());
        Stats {
            current,
            target,
            low,
            high,
            total: self.map.ram(),
            floor: self.tuning.floor_pages.min(self.map.ram()),
            shortfall: current.abs_diff(target),
            shortage: if current == target { Shortage::None } else { self.shortage },
            retries: self.retries,
            retries_total: self.retries_total,
            delay_ns: self.retry.delay_ns(),
            pages_given: self.pages_given,
            pages_got: self.pages_got,
            superpages_given: self.superpages_given,
            superpages_got: self.superpages_got,
            superpages_kept,
            superpages_won,
            superpages_lost,
            regions_absent: self.map.regions_absent() as u64,
            regions_scattered: self.map.regions_scattered() as u64,
            exchange_unsupported: self.exchange_unsupported,
            rejected: self.rejected,
        }
    }

    /// Moves at most one batch towards the target, and says when to call again: [`Next::Idle`] if and only if current
    /// is at target.
    ///
    /// While a wait lasts nothing is done. At most two batches are tried (2 MiB extents, and 4 KiB pages if those came
    /// to nothing), each a few hypercalls.
    pub fn step<S, H>(&mut self, now_ns: u64, source: &mut S, host: &mut H) -> Next
    where
        S: PageSource + ?Sized,
        H: Host + ?Sized,
    {
        let (current, target) = (self.current(), self.target());
        if current == target {
            self.settle();
            return Next::Idle;
        }
        if let Some(at) = self.retry.waiting(now_ns) {
            return Next::At(at);
        }
        let attempt = if current > target {
            self.inflate(current - target, source, host)
        } else {
            self.deflate(target - current, source, host)
        };
        self.conclude(now_ns, &attempt)
    }

    /// At target, or on the way to a new one: the next shortage is a new one.
    fn settle(&mut self) {
        self.retry.restart();
        self.small_run = 0;
        self.shortage = Shortage::None;
        self.retries = 0;
    }

    /// Draws the schedule's conclusion from an attempt.
    fn conclude(&mut self, now_ns: u64, attempt: &Attempt) -> Next {
        if attempt.moved > 0 {
            self.retry.restart();
        }
        if self.current() == self.target() {
            self.settle();
            return Next::Idle;
        }
        self.shortage = attempt.shortage;
        if attempt.moved > 0 && attempt.shortage == Shortage::None {
            return Next::At(now_ns.saturating_add(self.tuning.pace_ns));
        }
        self.retries = self.retries.saturating_add(1);
        self.retries_total = self.retries_total.saturating_add(1);
        // A wait is long: by its end there may be superpages again.
        self.small_run = 0;
        Next::At(self.retry.postpone(now_ns))
    }

    /// How many 2 MiB extents to try for `pages` pages.
    fn superpages_for(&self, pages: u64) -> usize {
        if !self.tuning.superpages || self.small_run > 0 {
            return 0;
        }
        limit(pages / PAGES_PER_SUPERPAGE, self.tuning.superpages_per_step)
    }

    /// Notes that 2 MiB extents are not to be had for a while.
    fn begin_small_run(&mut self) {
        self.small_run = self.tuning.small_run_pages;
    }

    /// Notes that pages were moved one by one.
    fn count_small(&mut self, pages: u64) {
        self.small_run = self.small_run.saturating_sub(pages);
    }

    /// Gives up to `excess` pages away: the balloon grows.
    fn inflate<S, H>(&mut self, excess: u64, source: &mut S, host: &mut H) -> Attempt
    where
        S: PageSource + ?Sized,
        H: Host + ?Sized,
    {
        let superpages = self.superpages_for(excess);
        if superpages > 0 {
            let attempt = self.give(SUPERPAGE_ORDER, superpages, source, host);
            if attempt.shortage != Shortage::None {
                self.begin_small_run();
            }
            if attempt.moved > 0 {
                self.superpages_given = self.superpages_given.saturating_add(attempt.moved / PAGES_PER_SUPERPAGE);
                return Attempt { moved: attempt.moved, shortage: Shortage::None };
            }
        }
        let attempt = self.give(0, limit(excess, self.tuning.pages_per_step), source, host);
        self.count_small(attempt.moved);
        attempt
    }

    /// Takes up to `want` extents from the source and gives them to the hypervisor. What the hypervisor does not take
    /// goes back to the source.
    fn give<S, H>(&mut self, order: u32, want: usize, source: &mut S, host: &mut H) -> Attempt
    where
        S: PageSource + ?Sized,
        H: Host + ?Sized,
    {
        self.batch.reset(want);
        source.take(order, &mut self.batch);
        let map = &self.map;
        let rejected = self.batch.retain(|first| map.is_present(Extent { first, order }));
        self.rejected = self.rejected.saturating_add(rejected as u64);

        let offered = self.batch.len();
        let mut shortage = if offered < want { Shortage::NoFreeGuestMemory } else { Shortage::None };
        let (mut at, mut moved, mut refusals) = (0, 0, 0);
        while at < offered {
            let extents = &self.batch.as_slice()[at..];
            let outcome = host.decrease_reservation(extents, order);
            let done = outcome.done.min(extents.len());
            for &first in &extents[..done] {
                let extent = Extent { first, order };
                if self.map.mark_absent(extent) {
                    moved += extent.pages();
                }
            }
            at += done;
            if at == offered {
                break;
            }
            // Giving memory away cannot run short: either the call is refused, or this extent is, and not the rest.
            shortage = Shortage::Refused(outcome.refused);
            refusals += 1;
            let over = outcome.refused.is_some() || refusals == REFUSALS_PER_BATCH;
            let keep = if over { offered } else { at + 1 };
            for &first in &self.batch.as_slice()[at..keep] {
                let extent = Extent { first, order };
                // A source may have offered a page twice, and the first time it was taken.
                if self.map.is_present(extent) {
                    source.give_back(extent, Backing::Unchanged);
                }
            }
            at = keep;
        }
        self.pages_given = self.pages_given.saturating_add(moved);
        Attempt { moved, shortage }
    }

    /// Gets up to `deficit` pages back: the balloon shrinks.
    fn deflate<S, H>(&mut self, deficit: u64, source: &mut S, host: &mut H) -> Attempt
    where
        S: PageSource + ?Sized,
        H: Host + ?Sized,
    {
        let superpages = self.superpages_for(deficit).min(self.map.regions_absent());
        if superpages > 0 {
            self.batch.reset(superpages);
            self.map.collect_superpages(&mut self.batch);
            let attempt = self.get(SUPERPAGE_ORDER, source, host);
            if attempt.shortage != Shortage::None {
                self.begin_small_run();
            }
            if attempt.moved > 0 {
                self.superpages_got = self.superpages_got.saturating_add(attempt.moved / PAGES_PER_SUPERPAGE);
                return Attempt { moved: attempt.moved, shortage: Shortage::None };
            }
        }
        self.batch.reset(limit(deficit, self.tuning.pages_per_step));
        self.map.collect_pages(&mut self.batch);
        let attempt = self.get(0, source, host);
        self.count_small(attempt.moved);
        attempt
    }

    /// Asks the hypervisor to back the extents of the batch, and gives the source those it did.
    fn get<S, H>(&mut self, order: u32, source: &mut S, host: &mut H) -> Attempt
    where
        S: PageSource + ?Sized,
        H: Host + ?Sized,
    {
        let extents = self.batch.as_slice();
        let outcome = host.populate_physmap(extents, order);
        let done = outcome.done.min(extents.len());
        let mut moved = 0;
        for &first in &extents[..done] {
            let extent = Extent { first, order };
            if self.map.mark_present(extent) {
                moved += extent.pages();
                source.give_back(extent, Backing::Fresh);
            }
        }
        let short = done < extents.len();
        self.pages_got = self.pages_got.saturating_add(moved);
        Attempt { moved, shortage: if short { why_short(outcome.refused, host) } else { Shortage::None } }
    }
}

/// Why fewer extents were backed than asked. The ABI does not say which of two it was, memory or the maximum.
fn why_short<H: Host + ?Sized>(refused: Option<Errno>, host: &mut H) -> Shortage {
    match refused {
        None | Some(Errno::ENOMEM) => match (host.current_reservation(), host.maximum_reservation()) {
            (Ok(current), Ok(maximum)) if current >= maximum => Shortage::AtMaximum,
            _ => Shortage::HostShort,
        },
        Some(errno) => Shortage::Refused(Some(errno)),
    }
}

/// The smaller of a number of extents wanted and a number allowed.
fn limit(want: u64, most: usize) -> usize {
    usize::try_from(want).map_or(most, |want| want.min(most))
}
