//! A load with two needs out of step: a file that is read and partly rewritten, and anonymous memory that is wanted for a
//! part of each period.
//!
//! In the first third of a period it works through its file and has little anonymous memory; in the second it wants much
//! of that, and looks at a quarter of the file; in the last it rests. Half of all accesses go to a hot eighth. The same
//! seed gives the same accesses at the same times.

use ebb_guest_tmem::Calls;

use crate::border::PageSource;
use crate::memory::{Failure, FileId, Memory, RegionId};

/// Pages of a file that are read one behind the other.
const RUN: u32 = 8;
/// Pages by which a promise changes at a time.
const STEP: u32 = 128;

/// What a load is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Chooses the accesses.
    pub seed: u64,
    /// Pages of the file.
    pub file: u32,
    /// Anonymous pages while it works on its file, and while it rests.
    pub low: u32,
    /// Anonymous pages in the second third of a period.
    pub high: u32,
    /// A period, in ms; 0: the first third for ever.
    pub period_ms: u64,
    /// How far into it the load starts, in ms.
    pub phase_ms: u64,
    /// One in so many runs of the file is written instead of read; 0: none.
    pub write_one_in: u32,
}

/// A part of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Works on its file.
    File,
    /// Works in anonymous memory.
    Anon,
    /// Does nothing.
    Rest,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// To have so many anonymous pages promised.
    Commit(u32),
    /// To read a page of the file.
    Read(u32),
    /// To write one.
    Write(u32),
    /// To touch an anonymous page, and write to it if so.
    Touch(u32, bool),
    /// Nothing; the time may be spent sleeping.
    Rest,
}

/// A load at work on one file and one region.
#[derive(Clone, Debug)]
pub struct Load {
    plan: Plan,
    file: FileId,
    region: RegionId,
    state: u64,
    /// Anonymous pages promised, and how many of them were touched in turn.
    committed: u32,
    touched: u32,
    /// What is left of a run: the page, how many, and whether they are written.
    run: (u32, u32, bool),
}

impl Load {
    /// Starts, with nothing promised yet.
    #[must_use]
    pub fn new(plan: Plan, file: FileId, region: RegionId) -> Self {
        let state = plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self { plan, file, region, state, committed: 0, touched: 0, run: (0, 0, false) }
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let value = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        ((value * u64::from(bound)) >> 32) as u32
    }

    /// One of `pages`; half the time one of the first eighth.
    fn skewed(&mut self, pages: u32) -> u32 {
        let hot = if self.below(2) == 0 { pages.div_ceil(8) } else { pages };
        self.below(hot)
    }

    /// The part of the period that `now_ms` is in.
    #[must_use]
    pub fn phase(&self, now_ms: u64) -> Phase {
        let Plan { period_ms, phase_ms, .. } = self.plan;
        match (now_ms + phase_ms).checked_rem(period_ms).map_or(0, |place| place * 3 / period_ms) {
            0 => Phase::File,
            1 => Phase::Anon,
            _ => Phase::Rest,
        }
    }

    /// Anonymous pages it would like to be promised now.
    #[must_use]
    pub fn wish(&self, now_ms: u64) -> u32 {
        if self.phase(now_ms) == Phase::Anon { self.plan.high } else { self.plan.low }
    }

    /// The next thing to do. A [`Work::Commit`] must be answered by [`Load::committed`], or it comes again.
    pub fn next(&mut self, now_ms: u64) -> Work {
        let (phase, wish) = (self.phase(now_ms), self.wish(now_ms));
        if wish < self.committed {
            return Work::Commit(wish.max(self.committed.saturating_sub(STEP)));
        }
        // New memory is asked for when the former is in use.
        if wish > self.committed && self.touched == self.committed {
            return Work::Commit(wish.min(self.committed + STEP));
        }
        match phase {
            Phase::Rest => Work::Rest,
            phase => self.access(phase == Phase::Anon),
        }
    }

    /// The next access, with the memory that there is.
    pub fn access(&mut self, anon: bool) -> Work {
        if self.touched < self.committed && self.below(2) == 0 {
            self.touched += 1;
            return Work::Touch(self.touched - 1, true);
        }
        if let (page, left @ 1.., write) = self.run {
            self.run = (page + 1, left - 1, write);
            return if write { Work::Write(page) } else { Work::Read(page) };
        }
        // A run is many pages, so it is chosen rarely.
        let of_64 = if anon { 60 } else { 16 };
        if self.touched > 0 && (self.below(64) < of_64 || self.plan.file == 0) {
            let page = self.skewed(self.touched);
            let write = self.below(4) == 0;
            return Work::Touch(page, write);
        }
        let pages = if anon { self.plan.file / 4 } else { self.plan.file };
        if pages == 0 {
            return Work::Commit(self.committed);
        }
        let first = self.skewed(pages.div_ceil(RUN)) * RUN;
        let write = self.plan.write_one_in != 0 && self.below(self.plan.write_one_in) == 0;
        self.run = (first + 1, RUN.min(self.plan.file - first) - 1, write);
        if write { Work::Write(first) } else { Work::Read(first) }
    }

    /// So many anonymous pages are promised now.
    pub fn committed(&mut self, pages: u32) {
        self.committed = pages;
        self.touched = self.touched.min(pages);
    }

    /// Anonymous pages promised.
    #[must_use]
    pub fn promised(&self) -> u32 {
        self.committed
    }

    /// Does it. When the I/O is done.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn perform<P: PageSource, C: Calls>(
        &mut self,
        memory: &mut Memory<P, C>,
        now: u64,
        work: Work,
    ) -> Result<u64, Failure> {
        match work {
            Work::Commit(pages) => {
                memory.resize(self.region, pages)?;
                self.committed(pages);
                Ok(now)
            }
            Work::Read(page) => memory.read(now, self.file, page),
            Work::Write(page) => memory.write(now, self.file, page),
            Work::Touch(page, write) => memory.touch(now, self.region, page, write),
            Work::Rest => Ok(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(plan: Plan) -> Load {
        // The numbers are not looked at here.
        Load::new(plan, FileId::first(), RegionId::first())
    }

    const PLAN: Plan =
        Plan { seed: 3, file: 1000, low: 100, high: 2000, period_ms: 1000, phase_ms: 0, write_one_in: 8 };

    #[test]
    fn it_follows_its_period_and_repeats() {
        let (mut one, mut two) = (load(PLAN), load(PLAN));
        let mut counts = [[0; 5]; 3];
        for step in 0..40_000 {
            let now = step / 10;
            let work = one.next(now);
            assert_eq!(work, two.next(now));
            let part = one.phase(now) as usize;
            match work {
                Work::Commit(pages) => {
                    assert!(pages.abs_diff(one.promised()) <= STEP && pages <= PLAN.high);
                    one.committed(pages);
                    two.committed(pages);
                    counts[part][0] += 1;
                }
                Work::Read(page) => {
                    assert!(page < PLAN.file);
                    counts[part][1] += 1;
                }
                Work::Write(page) => {
                    assert!(page < PLAN.file);
                    counts[part][2] += 1;
                }
                Work::Touch(page, _) => {
                    assert!(page < one.promised());
                    counts[part][3] += 1;
                }
                Work::Rest => counts[part][4] += 1,
            }
        }
        assert!(counts[0][1] > 2 * counts[0][3] && counts[1][3] > 2 * counts[1][1], "{counts:?}");
        assert!(counts[0][2] > 0 && counts[1][2] > 0 && counts[1][0] > 10, "{counts:?}");
        assert!(counts[2][1..4] == [0; 3] && counts[2][4] > 1000, "{counts:?}");
    }

    #[test]
    fn it_works_with_nothing_of_one_kind() {
        let mut files = load(Plan { low: 0, high: 0, ..PLAN });
        assert!((0..100).all(|now| matches!(files.next(now * 6), Work::Read(_) | Work::Write(_))));
        let mut nothing = load(Plan { file: 0, low: 0, high: 0, period_ms: 0, ..PLAN });
        assert_eq!(nothing.next(5), Work::Commit(0));
    }
}
