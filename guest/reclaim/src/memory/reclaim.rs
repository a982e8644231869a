//! Which pages go: an approximation of the least recently used, by two lists for each kind.
//!
//! New pages of files start inactive and become active when they are used a second time; anonymous pages start active.
//! The oldest inactive page is looked at first: a page of a file is dropped (written first if it is dirty, put into
//! cleancache), an anonymous one is swapped out, unless it was referenced since it was last looked at. When a list of
//! inactive pages is shorter than its active one, the oldest active page becomes inactive.
//!
//! While there are more inactive than active pages of files, only they go. Otherwise both kinds go, in the proportion of
//! [`SWAPPINESS`] and of how often the pages looked at turned out to be in use. That is Linux's rule of 2.6.28 to 5.8.

use ebb_guest_tmem::Calls;

use super::{Failure, Memory};
use crate::border::PageSource;
use crate::lists::{Kind, Owner};

/// Pages that an allocation reclaims.
pub(super) const BATCH: u64 = 32;
/// `vm.swappiness`.
const SWAPPINESS: u64 = 60;

/// How reclaim has fared with each kind lately.
#[derive(Debug, Default)]
pub(super) struct Balance {
    scanned: [u64; 2],
    rotated: [u64; 2],
    /// Whose turn it is.
    credit: u64,
}

impl Balance {
    fn note(&mut self, kind: Kind, rotated: bool, listed: u64) {
        let kind = kind as usize;
        self.scanned[kind] += 1;
        self.rotated[kind] += u64::from(rotated);
        // Old experience counts half.
        if self.scanned[kind] > listed / 4 + 32 {
            self.scanned[kind] /= 2;
            self.rotated[kind] /= 2;
        }
    }

    fn pressure(&self, kind: Kind, priority: u64) -> u64 {
        let kind = kind as usize;
        1 + priority * (self.scanned[kind] + 1) / (self.rotated[kind] + 1)
    }

    /// The kind whose turn it is, in proportion to the pressures.
    fn next(&mut self) -> Kind {
        let anon = self.pressure(Kind::Anon, SWAPPINESS);
        let all = anon + self.pressure(Kind::File, 200 - SWAPPINESS);
        // A position between 0 and 1, so that it stays meaningful when the pressures change.
        self.credit += (anon << 16) / all;
        if self.credit >= 1 << 16 {
            self.credit -= 1 << 16;
            Kind::Anon
        } else {
            Kind::File
        }
    }
}

impl<P: PageSource, C: Calls> Memory<P, C> {
    /// Frees up to `wanted` pages; how many. Each page in use is looked at three times at most.
    pub(super) fn reclaim_some(&mut self, wanted: u64) -> Result<u64, Failure> {
        let (mut freed, mut looks) = (0, 3 * self.lists.total() + BATCH);
        while freed < wanted && looks > 0 {
            looks -= 1;
            let Some(kind) = self.choose() else { break };
            self.refill(kind);
            let Some(page) = self.lists.oldest(kind, false) else { continue };
            self.stats.scanned += 1;
            let went = self.look_at(page)?;
            freed += u64::from(went);
            self.balance.note(kind, !went, self.listed(kind));
        }
        self.stats.reclaimed += freed;
        Ok(freed)
    }

    fn listed(&self, kind: Kind) -> u64 {
        self.lists.count(kind, true) + self.lists.count(kind, false)
    }

    fn choose(&mut self) -> Option<Kind> {
        let swappable = self.listed(Kind::Anon) > 0 && self.slots.used() < self.slots.total();
        match (self.listed(Kind::File) > 0, swappable) {
            (false, false) => None,
            (true, false) => Some(Kind::File),
            (false, true) => Some(Kind::Anon),
            (true, true) if self.lists.count(Kind::File, false) > self.lists.count(Kind::File, true) => {
                Some(Kind::File)
            }
            (true, true) => Some(self.balance.next()),
        }
    }

    /// Makes the oldest active page inactive, when there are too few inactive ones.
    fn refill(&mut self, kind: Kind) {
        if self.lists.count(kind, false) < self.lists.count(kind, true).max(1)
            && let Some(page) = self.lists.oldest(kind, true)
        {
            let referenced = core::mem::replace(&mut self.lists.page_mut(page).referenced, false);
            self.lists.move_to(page, false);
            self.balance.note(kind, referenced, self.listed(kind));
        }
    }

    /// Whether the page went.
    fn look_at(&mut self, page: u32) -> Result<bool, Failure> {
        let entry = self.lists.page_mut(page);
        let referenced = core::mem::replace(&mut entry.referenced, false);
        let dirty = entry.dirty;
        match entry.owner {
            Owner::File { file, index } => {
                if dirty {
                    self.write_file_page(page, file, index)?;
                }
                self.drop_file_page(page, file, index, true);
                Ok(true)
            }
            Owner::Anon { region, index } => {
                if referenced || !self.swap_out(page, region, index)? {
                    self.lists.move_to(page, true);
                    return Ok(false);
                }
                Ok(true)
            }
        }
    }
}
