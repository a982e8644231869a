//! Cleancache: a second chance for clean pages of files.
//!
//! The kernel puts a page when it reclaims it clean, asks before it reads from the disk, and invalidates a page, a file
//! or a file system whenever what the disk holds, or will hold, is no longer what was put.

use shared_abi::tmem::TmemOid;
use shared_abi::xen::{Errno, Gfn};

use crate::calls::{Calls, EPHEMERAL_POOL, PoolId, SHARED_POOL, Uuid};

/// File systems at one time: as many as a domain has pools.
pub const MAX_FILE_SYSTEMS: usize = 16;

/// A mounted file system, from [`Cleancache::mount`] to [`Cleancache::unmount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem(u8);

/// What has been done, ever; Linux's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Pages that came back.
    pub succ_gets: u64,
    /// Pages that were asked for and not there.
    pub failed_gets: u64,
    /// Pages that were put.
    pub puts: u64,
    /// Puts that were refused.
    pub failed_puts: u64,
    /// Pages, files and file systems that were invalidated.
    pub invalidates: u64,
}

/// The mounted file systems and their pools.
#[derive(Clone, Debug, Default)]
pub struct Cleancache {
    /// By number; the inner `None` is a file system without a pool.
    mounted: [Option<Option<PoolId>>; MAX_FILE_SYSTEMS],
    stats: CacheStats,
}

impl Cleancache {
    /// Nothing mounted.
    #[must_use]
    pub const fn new() -> Self {
        const NONE: Option<Option<PoolId>> = None;
        let stats = CacheStats { succ_gets: 0, failed_gets: 0, puts: 0, failed_puts: 0, invalidates: 0 };
        Self { mounted: [NONE; MAX_FILE_SYSTEMS], stats }
    }

    /// A file system is mounted: it gets a pool, shared with other guests when it has a name for that. Without a pool
    /// (none to be had) it works all the same, and nothing is kept. `None`: too many file systems.
    pub fn mount(&mut self, calls: &mut impl Calls, shared: Option<Uuid>) -> Option<FileSystem> {
        let number = self.mounted.iter().position(Option::is_none)?;
        let pool = match shared {
            Some(uuid) => calls.new_pool(uuid, SHARED_POOL),
            None => calls.new_pool([0; 2], EPHEMERAL_POOL),
        };
        self.mounted[number] = Some(pool.ok());
        Some(FileSystem(number as u8))
    }

    /// A file system mounted without a pool: for one that must not be cached.
    pub fn mount_without(&mut self) -> Option<FileSystem> {
        let number = self.mounted.iter().position(Option::is_none)?;
        self.mounted[number] = Some(None);
        Some(FileSystem(number as u8))
    }

    /// A file system is unmounted: its pool goes, with all in it. Linux: `cleancache_invalidate_fs`.
    pub fn unmount(&mut self, calls: &mut impl Calls, file_system: FileSystem) {
        if let Some(pool) = self.pool(file_system) {
            calls.destroy_pool(pool);
            self.stats.invalidates += 1;
        }
        self.mounted[usize::from(file_system.0)] = None;
    }

    fn pool(&self, file_system: FileSystem) -> Option<PoolId> {
        // A handle is made by `mount` only, so the number is in range.
        self.mounted[usize::from(file_system.0)].flatten()
    }

    /// Whether a file system has a pool.
    #[must_use]
    pub fn has_pool(&self, file_system: FileSystem) -> bool {
        self.pool(file_system).is_some()
    }

    /// A clean page is reclaimed.
    pub fn put_page(&mut self, calls: &mut impl Calls, file_system: FileSystem, file: TmemOid, index: u32, page: Gfn) {
        let Some(pool) = self.pool(file_system) else { return };
        match calls.put(pool, file, index, page) {
            Ok(()) => self.stats.puts += 1,
            // By the ABI these leave no page under the key.
            Err(Errno::ENOMEM | Errno::ENOSPC | Errno::EFROZEN) => self.stats.failed_puts += 1,
            // An older page might still be there (`EFAULT`: nothing has changed).
            Err(_) => {
                self.stats.failed_puts += 1;
                calls.flush_page(pool, file, index);
            }
        }
    }

    /// A page is wanted that is not in the page cache: whether it came back. In a private pool it is gone then.
    pub fn get_page(
        &mut self,
        calls: &mut impl Calls,
        file_system: FileSystem,
        file: TmemOid,
        index: u32,
        page: Gfn,
    ) -> bool {
        let Some(pool) = self.pool(file_system) else { return false };
        let there = calls.get(pool, file, index, page);
        if there {
            self.stats.succ_gets += 1;
        } else {
            self.stats.failed_gets += 1;
        }
        there
    }

    /// A page is about to differ from what was put: overwritten, or cut off.
    pub fn invalidate_page(&mut self, calls: &mut impl Calls, file_system: FileSystem, file: TmemOid, index: u32) {
        if let Some(pool) = self.pool(file_system) {
            calls.flush_page(pool, file, index);
            self.stats.invalidates += 1;
        }
    }

    /// All pages of a file: truncated, deleted, or changed behind the page cache.
    pub fn invalidate_file(&mut self, calls: &mut impl Calls, file_system: FileSystem, file: TmemOid) {
        if let Some(pool) = self.pool(file_system) {
            calls.flush_object(pool, file);
            self.stats.invalidates += 1;
        }
    }

    /// The figures.
    #[must_use]
    pub const fn stats(&self) -> CacheStats {
        self.stats
    }
}
