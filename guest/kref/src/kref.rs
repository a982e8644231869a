//! The count. A value from [`SATURATED`] upwards stands for "never released": threads that are in the middle of an
//! operation may move it a little, and each operation that sees it puts it back to the middle of that range.

use crate::sync::{AtomicU32, Ordering, fence};

/// Counts from here on are stuck.
pub const SATURATED: u32 = 1 << 31;
/// Where a stuck count is put: as far from both ends as can be.
const STUCK: u32 = SATURATED | SATURATED >> 1;

/// What was done wrong with a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// A get of an object that has been released: rule 1 or 3 was broken.
    GetAfterRelease,
    /// A put of an object that has been released: rule 2 was broken.
    PutAfterRelease,
}

impl core::fmt::Display for Misuse {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::GetAfterRelease => "a reference was taken to an object that has been released",
            Self::PutAfterRelease => "a reference was given back that had been given back before",
        })
    }
}

/// A count of references.
#[derive(Debug)]
pub struct Kref {
    count: AtomicU32,
}

impl Kref {
    /// The count in `count`: 1 for an object that its maker holds, 0 for a place where none is yet.
    pub const fn with(count: AtomicU32) -> Self {
        Self { count }
    }

    /// A count of one: the maker's.
    #[allow(clippy::new_without_default, reason = "who makes a count holds a reference, which is worth saying")]
    pub fn new() -> Self {
        Self::with(AtomicU32::new(1))
    }

    /// Makes the first reference to an object that has none: a place in a table that is used again. False when there
    /// are references.
    #[must_use]
    pub fn init(&self) -> bool {
        self.count.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// One more reference, by somebody who holds one.
    ///
    /// # Errors
    /// [`Misuse::GetAfterRelease`]: there was none. The count is stuck from now on.
    #[inline]
    pub fn get(&self) -> Result<(), Misuse> {
        // Nothing to order: whoever calls this has the object already.
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        if before == 0 || before >= SATURATED - 1 {
            self.stick();
            if before == 0 {
                return Err(Misuse::GetAfterRelease);
            }
        }
        Ok(())
    }

    /// A reference to an object that may be on its way out; false when it is.
    #[inline]
    #[must_use]
    pub fn get_unless_zero(&self) -> bool {
        let mut count = self.count.load(Ordering::Relaxed);
        loop {
            if count == 0 {
                return false;
            }
            if count >= SATURATED - 1 {
                self.stick();
                return true;
            }
            match self.count.compare_exchange(count, count + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
    }

    /// One reference less; true when it was the last and the caller shall release the object.
    ///
    /// # Errors
    /// [`Misuse::PutAfterRelease`]: there was none. The count is stuck from now on.
    #[inline]
    pub fn put(&self) -> Result<bool, Misuse> {
        // Release: what this holder did to the object comes before its release by another.
        let before = self.count.fetch_sub(1, Ordering::Release);
        if before == 1 {
            // Acquire: what the others did comes before this.
            fence(Ordering::Acquire);
            return Ok(true);
        }
        if before == 0 || before > SATURATED {
            self.stick();
            if before == 0 {
                return Err(Misuse::PutAfterRelease);
            }
        } else if before == SATURATED {
            self.stick();
        }
        Ok(false)
    }

    /// One reference less, and `release` if it was the last; whether it was.
    ///
    /// # Errors
    /// As [`Kref::put`].
    #[inline]
    pub fn put_with(&self, release: impl FnOnce()) -> Result<bool, Misuse> {
        let last = self.put()?;
        if last {
            release();
        }
        Ok(last)
    }

    /// One reference less, where the last goes only under a lock, so that whoever finds the object under that lock may
    /// [`get`](Kref::get) it (the third rule). `lock` takes it and is called only if this may be the last. The lock
    /// comes back, held, when it was: the caller takes the object out of the table, lets go, and releases it.
    ///
    /// # Errors
    /// As [`Kref::put`].
    pub fn put_lock<G>(&self, lock: impl FnOnce() -> G) -> Result<Option<G>, Misuse> {
        let mut count = self.count.load(Ordering::Relaxed);
        while count > 1 {
            if count >= SATURATED {
                self.stick();
                return Ok(None);
            }
            match self.count.compare_exchange(count, count - 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Ok(None),
                Err(now) => count = now,
            }
        }
        let guard = lock();
        Ok(self.put()?.then_some(guard))
    }

    /// References at some instant, for reports.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    #[cold]
    fn stick(&self) {
        self.count.store(STUCK, Ordering::Relaxed);
    }
}
