//! The pages of one client's pools of one kind, or of a shared pool: an index and a vault, both sharded, and who pays.
//!
//! Locking: a shard's lock, then nothing but the frames' allocator for freeing. A shard's and a vault's lock are never
//! held together; frames are obtained with no lock held.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU16, AtomicU64};

use alloc::boxed::Box;
use alloc::vec::Vec;

use arrayvec::ArrayVec;
use spin::Mutex;

use crate::account::{Account, Payer};
use crate::frames::{Charge, ClientId, Frame, Frames, Kind, Shortage, Spares, few};
use crate::shard::{Key, POOLS, Shard, Wants, holds_nodes};
use crate::vault::{Content, Vault};

/// Shards of an index.
pub const SHARDS: usize = 4;
/// Pages taken out under one hold of a lock.
const BATCH: usize = 16;

/// In cache lines of its own.
#[repr(align(128))]
struct IndexShard {
    inner: Mutex<Shard>,
    /// The stamp of its oldest page, to be read without the lock.
    oldest: AtomicU64,
}

impl IndexShard {
    const fn new() -> Self {
        Self { inner: Mutex::new(Shard::new()), oldest: AtomicU64::new(u64::MAX) }
    }
}

/// See the module.
pub struct Arena {
    client: AtomicU16,
    kind: Kind,
    shards: Box<[IndexShard; SHARDS]>,
    /// The contents.
    pub vault: Vault,
}

/// Which pages to take out.
#[derive(Clone, Copy)]
pub enum Which<'a> {
    /// Those of one object.
    Object(&'a Key),
    /// Those of a pool.
    Pool(u8),
}

impl Arena {
    /// An empty one; `None` when there is no memory.
    pub fn try_new(client: ClientId, kind: Kind) -> Option<Self> {
        let (shards, vault) = (few(IndexShard::new)?, Vault::try_new()?);
        Some(Self { client: AtomicU16::new(client.0), kind, shards, vault })
    }

    /// Who pays.
    pub fn client(&self) -> ClientId {
        ClientId(self.client.load(Relaxed))
    }

    /// Sets who pays. Only while it [`Arena::is_empty`] and nobody uses it.
    pub fn set_client(&self, client: ClientId) {
        self.client.store(client.0, Relaxed);
    }

    /// The payer of now.
    pub fn payer<'a, F: Frames>(&self, frames: &'a F, accounts: &'a [Account]) -> Payer<'a, F> {
        let client = self.client();
        Payer::new(frames, &accounts[client.index()], Charge { client, kind: self.kind })
    }

    /// Pages of a pool.
    pub fn pages(&self, pool: u8) -> u64 {
        self.shards.iter().map(|shard| shard.inner.lock().pages(pool)).sum()
    }

    /// Runs `work` on the shard of a number, under its lock.
    pub fn with<F: Frames, R>(&self, frames: &F, index: usize, work: impl FnOnce(&mut Shard) -> R) -> R {
        let place = &self.shards[index % SHARDS];
        let mut shard = place.inner.lock();
        let result = work(&mut shard);
        let oldest = shard.oldest_stamp(frames);
        if place.oldest.load(Relaxed) != oldest {
            place.oldest.store(oldest, Relaxed);
        }
        result
    }

    /// Runs `work` on the shard of a handle.
    pub fn at<F: Frames, R>(&self, frames: &F, key: &Key, work: impl FnOnce(&mut Shard) -> R) -> R {
        self.with(frames, key.hash as usize, work)
    }

    /// Enters a page with a reference to its content, and gives the content that was there.
    ///
    /// # Errors
    /// When frames for nodes cannot be obtained; nothing has changed.
    pub fn link<F: Frames>(
        &self,
        payer: &Payer<'_, F>,
        key: &Key,
        content: Content,
        mut obtain: impl FnMut() -> Result<Frame, Shortage>,
    ) -> Result<Option<Content>, Shortage> {
        let (mut spares, mut asked) = (Spares::new(), false);
        let result = loop {
            let inserted =
                self.at(payer.frames, key, |shard| shard.insert(payer.frames, key, content, &mut spares, asked));
            let wants = match inserted {
                Ok(old) => break Ok(old),
                Err(wants) => wants,
            };
            asked |= wants.optional;
            if let Err(shortage) = Self::supply(payer, wants, &mut spares, &mut obtain)
                && !wants.optional
            {
                self.at(payer.frames, key, |shard| shard.trim(payer));
                break Err(shortage);
            }
        };
        while let Some(frame) = spares.pop() {
            payer.free(frame);
        }
        result
    }

    fn supply<F: Frames>(
        payer: &Payer<'_, F>,
        wants: Wants,
        spares: &mut Spares,
        obtain: &mut impl FnMut() -> Result<Frame, Shortage>,
    ) -> Result<(), Shortage> {
        while spares.len() < wants.frames {
            let frame = obtain()?;
            if !holds_nodes(&frame) {
                payer.free(frame);
                return Err(Shortage::Memory);
            }
            spares.push(frame);
        }
        Ok(())
    }

    /// Takes one page out; whether it was there. `log`: leave an entry in the log.
    pub fn flush<F: Frames>(&self, payer: &Payer<'_, F>, key: &Key, log: bool) -> bool {
        let content = self.at(payer.frames, key, |shard| {
            let node = shard.find(payer.frames, key)?;
            Some(if log { shard.remove_logged(payer, node) } else { shard.remove(payer, node) })
        });
        if let Some(content) = content {
            self.vault.release(payer, content);
        }
        content.is_some()
    }

    /// Ends an exclusive get; see [`Shard::end_get`].
    pub fn end_get<F: Frames>(&self, payer: &Payer<'_, F>, key: &Key, stamp: u64, copied: bool) {
        let content = self.at(payer.frames, key, |shard| shard.end_get(payer, key, stamp, copied));
        if let Some(content) = content {
            self.vault.release(payer, content);
        }
    }

    /// Takes out at most `budget` pages; true when none is left. Counts those taken out.
    pub fn flush_some<F: Frames>(
        &self,
        payer: &Payer<'_, F>,
        which: Which<'_>,
        log: bool,
        budget: usize,
        count: &mut u64,
    ) -> bool {
        let shards = match which {
            Which::Object(key) => key.hash as usize % SHARDS..key.hash as usize % SHARDS + 1,
            Which::Pool(_) => 0..SHARDS,
        };
        let mut left = budget;
        for index in shards {
            loop {
                let mut out = ArrayVec::<Content, BATCH>::new();
                let done = self.with(payer.frames, index, |shard| {
                    self.take_batch(shard, payer, which, log, left.min(BATCH), &mut out)
                });
                left -= out.len();
                *count += out.len() as u64;
                out.into_iter().for_each(|content| self.vault.release(payer, content));
                if done {
                    break;
                }
                if left == 0 {
                    return false;
                }
            }
        }
        true
    }

    fn take_batch<F: Frames>(
        &self,
        shard: &mut Shard,
        payer: &Payer<'_, F>,
        which: Which<'_>,
        log: bool,
        most: usize,
        out: &mut ArrayVec<Content, BATCH>,
    ) -> bool {
        loop {
            let node = match which {
                Which::Object(key) => shard.first_of_object(payer.frames, key),
                Which::Pool(pool) => shard.first_of_pool(payer.frames, pool),
            };
            let Some(node) = node else { return true };
            if out.len() == most {
                return false;
            }
            out.push(if log { shard.remove_logged(payer, node) } else { shard.remove(payer, node) });
        }
    }

    /// The shard with the oldest page, and its stamp.
    pub fn oldest(&self) -> (usize, u64) {
        let stamps = self.shards.iter().map(|shard| shard.oldest.load(Relaxed)).enumerate();
        stamps.min_by_key(|(_, stamp)| *stamp).unwrap_or((0, u64::MAX))
    }

    /// Takes out the oldest page of a shard; whether there was one.
    pub fn evict<F: Frames>(&self, payer: &Payer<'_, F>, index: usize) -> bool {
        let content = self.with(payer.frames, index, |shard| {
            let node = shard.oldest()?;
            Some(shard.remove(payer, node))
        });
        if let Some(content) = content {
            self.vault.release(payer, content);
        }
        content.is_some()
    }

    /// Objects in it.
    pub fn objects(&self) -> u64 {
        self.shards.iter().map(|shard| shard.inner.lock().objects()).sum()
    }

    /// Frames of the index.
    pub fn index_frames(&self) -> u64 {
        self.shards.iter().map(|shard| shard.inner.lock().frames()).sum()
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        let figures = self.vault.figures();
        self.index_frames() == 0 && figures.metadata_frames + figures.raw + figures.pack_frames == 0
    }

    /// Checks all links and counts while nobody uses it, for tests: the frames it holds.
    ///
    /// # Panics
    /// When something does not add up.
    pub fn audit<F: Frames>(&self, frames: &F) -> u64 {
        let (mut pages, mut held, mut contents) = ([0; POOLS], 0, Vec::new());
        for shard in self.shards.iter() {
            let shard = shard.inner.lock();
            shard.each_page(frames, |pool, content| {
                pages[usize::from(pool)] += 1;
                if content != Content::ZERO {
                    contents.push(content.word());
                }
            });
            held += shard.frames();
        }
        for (pool, pages) in pages.iter().enumerate() {
            assert_eq!(self.pages(pool as u8), *pages, "pages of pool {pool}");
        }
        contents.sort_unstable();
        let mut distinct = 0;
        for group in contents.chunk_by(|one, other| one == other) {
            let references = Vault::references(frames, Content::from_word(group[0]));
            assert_eq!(references, group.len() as u64, "references to a content");
            distinct += 1;
        }
        let figures = self.vault.figures();
        assert_eq!(figures.contents, distinct, "contents");
        held + figures.metadata_frames + figures.raw + figures.pack_frames
    }
}
