//! Files: read, written in whole pages, truncated; their pages in the page cache, in cleancache or on the disk.

use alloc::vec;
use alloc::vec::Vec;

use ebb_guest_tmem::{Calls, FileSystem, Uuid};
use shared_abi::tmem::TmemOid;

use super::{Failure, Memory};
use crate::border::PageSource;
use crate::contents::Tag;
use crate::lists::{NONE, Owner};

/// A mounted file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountId(u16);

/// A file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u16);

#[cfg(test)]
impl FileId {
    /// The first file's.
    pub(crate) const fn first() -> Self {
        Self(0)
    }
}

pub(super) struct Mount {
    pub file_system: FileSystem,
    /// Tells this file system's pages from others'. The same for all guests that share it.
    seed: u64,
    files: u32,
    mounted: bool,
}

pub(super) struct File {
    mount: u16,
    inode: u32,
    /// The first of its blocks.
    block: u32,
    /// Pages up to the end of the file.
    len: u32,
    /// Page in use, or [`NONE`]; to the most that the file can have.
    pub pages: Vec<u32>,
    /// How often each page was written: what should be in it.
    versions: Vec<u32>,
}

impl File {
    pub fn cached(&self) -> usize {
        self.pages.iter().filter(|page| **page != NONE).count()
    }
}

impl<P: PageSource, C: Calls> Memory<P, C> {
    /// Mounts a file system. One that is shared with other guests has a name for that, and the same contents everywhere;
    /// who writes to it is theirs to agree on. `None`: too many.
    pub fn mount(&mut self, shared: Option<Uuid>) -> Option<MountId> {
        let file_system = if self.config.cleancache {
            self.cleancache.mount(&mut self.calls, shared)?
        } else {
            self.cleancache.mount_without()?
        };
        let seed = match shared {
            Some([low, high]) => low ^ high.rotate_left(32),
            None => self.config.seed ^ (self.mounts.len() as u64 + 1) << 48,
        };
        self.mounts.push(Mount { file_system, seed, files: 0, mounted: true });
        Some(MountId(self.mounts.len() as u16 - 1))
    }

    /// Makes a file of so many pages, with contents already on the disk. It cannot grow beyond them.
    pub fn create(&mut self, mount: MountId, pages: u32) -> FileId {
        let owner = &mut self.mounts[usize::from(mount.0)];
        owner.files += 1;
        let (seed, inode) = (owner.seed, owner.files);
        let block = self.disk.grow(pages, |index| Tag::new(seed, inode, index, 0));
        let (pages_in_use, versions) = (vec![NONE; pages as usize], vec![0; pages as usize]);
        self.files.push(File { mount: mount.0, inode, block, len: pages, pages: pages_in_use, versions });
        FileId(self.files.len() as u16 - 1)
    }

    /// Pages of a file.
    #[must_use]
    pub fn len(&self, file: FileId) -> u32 {
        self.files[usize::from(file.0)].len
    }

    fn file_system(&self, file: u16) -> FileSystem {
        self.mounts[usize::from(self.files[usize::from(file)].mount)].file_system
    }

    fn oid(&self, file: u16) -> TmemOid {
        TmemOid { oid: [self.files[usize::from(file)].inode.into(), 0, 0] }
    }

    fn file_tag(&self, file: u16, index: u32) -> Tag {
        let entry = &self.files[usize::from(file)];
        let seed = self.mounts[usize::from(entry.mount)].seed;
        Tag::new(seed, entry.inode, index, entry.versions[index as usize])
    }

    /// The file, when the index is inside and it is still mounted.
    fn file_at(&self, file: FileId, index: u32) -> Result<u16, Failure> {
        let entry = self.files.get(usize::from(file.0)).ok_or(Failure::OutOfRange)?;
        let mounted = self.mounts[usize::from(entry.mount)].mounted;
        if mounted && index < entry.len { Ok(file.0) } else { Err(Failure::OutOfRange) }
    }

    /// Reads a page and compares it with what should be there. When the I/O is done.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn read(&mut self, now: u64, file: FileId, index: u32) -> Result<u64, Failure> {
        let file = self.file_at(file, index)?;
        self.done = now;
        self.stats.file_accesses += 1;
        let tag = self.file_tag(file, index);
        let page = self.files[usize::from(file)].pages[index as usize];
        if page != NONE {
            self.verify(page, tag)?;
            self.stats.file_hits += 1;
            self.touch_page(page);
            return Ok(self.done);
        }
        let mut frame = self.allocate()?;
        let (fs, oid, gfn) = (self.file_system(file), self.oid(file), self.source.gfn(&frame));
        if !self.cleancache.get_page(&mut self.calls, fs, oid, index, gfn) {
            let block = self.files[usize::from(file)].block + index;
            self.read_in(block, &mut frame);
            self.stats.file_disk_reads += 1;
        }
        let frame = self.verify_frame(frame, tag)?;
        self.cache(file, index, frame);
        Ok(self.done)
    }

    fn cache(&mut self, file: u16, index: u32, frame: P::Frame) -> u32 {
        let page = self.lists.insert(frame, Owner::File { file, index }, false);
        self.files[usize::from(file)].pages[index as usize] = page;
        page
    }

    /// Overwrites a page, or appends one. When the I/O is done: reclaim's, and write-back's if too much is dirty.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn write(&mut self, now: u64, file: FileId, index: u32) -> Result<u64, Failure> {
        let entry = self.files.get(usize::from(file.0)).ok_or(Failure::OutOfRange)?;
        if index != entry.len || index as usize >= entry.pages.len() {
            self.file_at(file, index)?;
        } else if !self.mounts[usize::from(entry.mount)].mounted {
            return Err(Failure::OutOfRange);
        }
        let file = file.0;
        self.done = now;
        self.stats.file_accesses += 1;
        let mut page = self.files[usize::from(file)].pages[index as usize];
        if page == NONE {
            let frame = self.allocate()?;
            page = self.cache(file, index, frame);
        } else {
            self.stats.file_hits += 1;
            self.touch_page(page);
        }
        let entry = &mut self.files[usize::from(file)];
        entry.versions[index as usize] += 1;
        entry.len = entry.len.max(index + 1);
        let tag = self.file_tag(file, index);
        self.fill(page, tag);
        if !core::mem::replace(&mut self.lists.page_mut(page).dirty, true) {
            // What was put, by us or by another guest, is no longer what the file holds.
            let (fs, oid) = (self.file_system(file), self.oid(file));
            self.cleancache.invalidate_page(&mut self.calls, fs, oid, index);
            self.dirty += 1;
            self.dirtied.push_back((file, index));
        }
        if self.dirty > self.config.dirty {
            self.write_back_some(self.dirty - self.config.dirty)?;
        }
        Ok(self.done)
    }

    /// Writes the oldest `pages` dirty pages back. When those who write may go on.
    ///
    /// # Errors
    /// [`Failure::Wrong`].
    pub fn write_back(&mut self, now: u64, pages: u64) -> Result<u64, Failure> {
        self.done = now;
        self.write_back_some(pages)?;
        Ok(self.done)
    }

    fn write_back_some(&mut self, pages: u64) -> Result<(), Failure> {
        let mut written = 0;
        while written < pages
            && let Some((file, index)) = self.dirtied.pop_front()
        {
            let page = self.files[usize::from(file)].pages[index as usize];
            if page != NONE && self.lists.page(page).dirty {
                self.write_file_page(page, file, index)?;
                written += 1;
            }
        }
        Ok(())
    }

    /// Writes a dirty page to its block; it is clean then.
    pub(super) fn write_file_page(&mut self, page: u32, file: u16, index: u32) -> Result<(), Failure> {
        let block = self.files[usize::from(file)].block + index;
        let tag = self.file_tag(file, index);
        self.write_out(page, block, tag)?;
        self.lists.page_mut(page).dirty = false;
        self.dirty -= 1;
        self.stats.file_disk_writes += 1;
        Ok(())
    }

    /// Takes a clean page out of the page cache for good; cleancache gets it, if asked.
    pub(super) fn drop_file_page(&mut self, page: u32, file: u16, index: u32, put: bool) {
        if put {
            let (fs, oid) = (self.file_system(file), self.oid(file));
            let gfn = self.source.gfn(self.lists.page(page).frame.as_ref().expect("in use"));
            self.cleancache.put_page(&mut self.calls, fs, oid, index, gfn);
        }
        self.files[usize::from(file)].pages[index as usize] = NONE;
        self.dirty -= u64::from(self.lists.page(page).dirty);
        let frame = self.lists.remove(page);
        self.source.give(frame);
    }

    /// Cuts a file to `len` pages. What was behind is gone, from everywhere.
    ///
    /// # Errors
    /// [`Failure::OutOfRange`] when it has fewer.
    pub fn truncate(&mut self, file: FileId, len: u32) -> Result<(), Failure> {
        let entry = self.files.get_mut(usize::from(file.0)).filter(|entry| len <= entry.len);
        let entry = entry.ok_or(Failure::OutOfRange)?;
        let behind = len..core::mem::replace(&mut entry.len, len);
        if behind.is_empty() {
            return Ok(());
        }
        for index in behind {
            let entry = &mut self.files[usize::from(file.0)];
            // Should any of it ever be seen again, it will be wrong.
            entry.versions[index as usize] += 1;
            let page = entry.pages[index as usize];
            if page != NONE {
                self.drop_file_page(page, file.0, index, false);
            }
        }
        let (fs, oid) = (self.file_system(file.0), self.oid(file.0));
        self.cleancache.invalidate_file(&mut self.calls, fs, oid);
        Ok(())
    }

    /// Drops a file's clean pages, here and in cleancache: somebody changed the disk behind the page cache.
    pub fn invalidate(&mut self, file: FileId) {
        for index in 0..self.files[usize::from(file.0)].pages.len() as u32 {
            let page = self.files[usize::from(file.0)].pages[index as usize];
            if page != NONE && !self.lists.page(page).dirty {
                self.drop_file_page(page, file.0, index, false);
            }
        }
        let (fs, oid) = (self.file_system(file.0), self.oid(file.0));
        self.cleancache.invalidate_file(&mut self.calls, fs, oid);
    }

    /// Unmounts a file system: writes what is dirty, drops its pages, gives its pool up. When the disk has taken it.
    ///
    /// # Errors
    /// [`Failure::Wrong`].
    pub fn unmount(&mut self, now: u64, mount: MountId) -> Result<u64, Failure> {
        self.done = now;
        if !core::mem::replace(&mut self.mounts[usize::from(mount.0)].mounted, false) {
            return Err(Failure::OutOfRange);
        }
        for file in 0..self.files.len() as u16 {
            if self.files[usize::from(file)].mount != mount.0 {
                continue;
            }
            for index in 0..self.files[usize::from(file)].pages.len() as u32 {
                let page = self.files[usize::from(file)].pages[index as usize];
                if page == NONE {
                    continue;
                }
                if self.lists.page(page).dirty {
                    self.write_file_page(page, file, index)?;
                }
                self.drop_file_page(page, file, index, false);
            }
        }
        let file_system = self.mounts[usize::from(mount.0)].file_system;
        self.cleancache.unmount(&mut self.calls, file_system);
        Ok(self.done)
    }
}
