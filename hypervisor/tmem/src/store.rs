//! The store, and what clients do with it: put, get, flush.

use alloc::boxed::Box;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU64};

use spin::Mutex;

use crate::account::{Account, Entry, Payer};
use crate::arena::{Arena, Which};
use crate::client::{Client, Pool, PoolCounters, SHARED_POOLS, State, Use, count};
use crate::filter;
use crate::frames::{ClientId, FRAME_WORDS, Fault, Frames, GuestPage, Shortage};
use crate::scratch::Scratch;
use crate::shard::{Key, ObjectId, POOLS, Shard};
use crate::shared::SharedPool;
use crate::vault::{Bytes, Content, Found};

/// Why something could not be done, by the name that Xen's interface has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// `EPERM`: flags that are not supported, or no slot.
    Permission,
    /// `ENOENT`: no such client, or nothing more.
    NotFound,
    /// `ENOMEM`.
    NoMemory,
    /// `EFAULT`: the caller's page is not mapped.
    Fault,
    /// `EEXIST`: the client exists.
    Exists,
    /// `ENODEV`: no such pool.
    NoPool,
    /// `EINVAL`.
    Invalid,
    /// `ENOSPC`: a put over an existing page failed, and the page is gone.
    NoSpace,
    /// `ERANGE`.
    Range,
    /// `EOPNOTSUPP`: another version of the interface.
    Unsupported,
    /// `EFROZEN`.
    Frozen,
    /// `EEMPTY`: the pool has no page at all.
    Empty,
}

impl From<Fault> for Error {
    fn from(_: Fault) -> Self {
        Error::Fault
    }
}

/// Whether bounded work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "work that is not done must be continued"]
pub enum Progress {
    /// All.
    Done,
    /// Call again.
    More,
}

/// A page's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle {
    /// The client's pool.
    pub pool: u32,
    /// The object.
    pub oid: ObjectId,
    /// The page in it.
    pub index: u32,
}

/// What a store starts with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Clients are numbered below this.
    pub clients: usize,
    /// A secret, for hashes.
    pub seed: u64,
    /// Whether a new client's pages are compressed.
    pub compress: bool,
    /// Whether equal pages of a client are kept once.
    pub deduplicate: bool,
}

/// What has been done, ever.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Pages evicted.
    pub evicted: AtomicU64,
    /// Rounds of looking for one.
    pub evict_attempts: AtomicU64,
    /// Frames given back to the machine when it asked.
    pub reclaimed: AtomicU64,
    /// Times that it asked.
    pub reclaims: AtomicU64,
    /// Frames that could not be had.
    pub refused: AtomicU64,
    /// Copies from or to guests that failed.
    pub failed_copies: AtomicU64,
    /// Pages of zeros put.
    pub zero_puts: AtomicU64,
}

/// The store: see the crate. It keeps no frames of its own accord, and does nothing by itself.
pub struct Store {
    pub(crate) config: Config,
    pub(crate) accounts: Box<[Account]>,
    pub(crate) shared: Box<[SharedPool]>,
    pub(crate) share_freely: AtomicBool,
    /// Taken to begin a shared pool: so there are no two of one name.
    pub(crate) creating: Mutex<()>,
    /// What has been done.
    pub counters: StoreCounters,
}

impl Store {
    /// An empty store.
    ///
    /// # Panics
    /// When there is no memory for it.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            accounts: (0..config.clients).map(|_| Account::new()).collect(),
            shared: (0..SHARED_POOLS).map(|_| SharedPool::try_new().expect("memory")).collect(),
            share_freely: AtomicBool::new(false),
            creating: Mutex::new(()),
            counters: StoreCounters::default(),
        }
    }

    /// The store with the frames to use.
    pub fn on<'a, F: Frames>(&'a self, frames: &'a F) -> Tmem<'a, F> {
        Tmem { store: self, frames }
    }

    /// A client's books.
    pub fn account(&self, client: ClientId) -> Option<&Account> {
        self.accounts.get(client.index())
    }
}

/// The store at work.
pub struct Tmem<'a, F: Frames> {
    pub(crate) store: &'a Store,
    pub(crate) frames: &'a F,
}

/// A pool in use: where its pages are.
pub(crate) struct Opened<'c, F: Frames> {
    pub pool: &'c Pool,
    /// What this CPU has done with it.
    pub counters: &'c PoolCounters,
    pub arena: &'c Arena,
    pub payer: Payer<'c, F>,
    /// Its number in the arena.
    pub number: u8,
    /// Whether a get takes the page out.
    pub exclusive: bool,
    deduplicate: bool,
    compress: bool,
    _use: Option<Use<'c>>,
}

impl<'a, F: Frames> Tmem<'a, F> {
    /// The client, if there is one.
    pub(crate) fn client(&self, id: ClientId) -> Option<Entry<'a>> {
        self.store.accounts.get(id.index())?.enter(self.frames.cpu())
    }

    /// Opens a pool for one call. `Ok(None)`: a shared pool that is just being emptied.
    #[inline(always)]
    pub(crate) fn open<'c>(&'c self, client: &'c Client, pool: u32) -> Result<Option<Opened<'c, F>>, Error> {
        let index = usize::try_from(pool).ok().filter(|index| *index < POOLS).ok_or(Error::NoPool)?;
        let pool = &client.pools[index];
        // After this CPU's lane has been entered: see `Account::is_deserted`.
        if pool.life.state() != State::Live {
            return Err(Error::NoPool);
        }
        let (arena, number, exclusive, _use) = match pool.shared() {
            None => (client.arena(pool.is_persistent()), index as u8, !pool.is_persistent(), None),
            Some(shared) => {
                let shared = &self.store.shared[shared];
                let Some(shared_use) = shared.gate.enter() else { return Ok(None) };
                (&shared.arena, 0, false, Some(shared_use))
            }
        };
        let payer = arena.payer(self.frames, &self.store.accounts);
        let counters = client.counters(index, payer.lane());
        let deduplicate = client.deduplicate.load(Relaxed);
        let compress = pool.compress.load(Relaxed);
        Ok(Some(Opened { pool, counters, arena, payer, number, exclusive, deduplicate, compress, _use }))
    }

    pub(crate) fn key(&self, number: u8, handle: &Handle) -> Key {
        Key::new(self.store.config.seed, number, handle.oid, handle.index)
    }

    /// Puts a page. A page that is there under this handle is replaced.
    ///
    /// # Errors
    /// [`Error::NoPool`]; [`Error::Frozen`] for a new page of a frozen client; [`Error::Fault`], and nothing has
    /// changed; [`Error::NoMemory`]; [`Error::NoSpace`] when there was a page, which is gone now.
    pub fn put<G: GuestPage<F>>(
        &self,
        id: ClientId,
        handle: &Handle,
        page: &G,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let client = self.client(id).ok_or(Error::NoPool)?;
        let opened = self.open(&client, handle.pool)?.ok_or(Error::NoMemory)?;
        let result = self.put_into(&client, &opened, handle, page, scratch);
        count(if result.is_ok() { &opened.counters.good_puts } else { &opened.counters.failed_puts });
        if result == Err(Error::NoMemory) {
            count(&opened.pool.rare.no_memory);
        }
        result
    }

    #[inline(always)]
    fn put_into<G: GuestPage<F>>(
        &self,
        client: &Client,
        opened: &Opened<'_, F>,
        handle: &Handle,
        page: &G,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let key = self.key(opened.number, handle);
        if client.frozen.load(Relaxed) {
            let there = opened.arena.at(self.frames, &key, |shard| shard.find(self.frames, &key).is_some());
            if !there {
                return Err(Error::Frozen);
            }
            if client.migrating.load(Relaxed) {
                self.lose(opened, client, &key);
                return Err(Error::NoSpace);
            }
        }
        let failed = |_: &Fault| count(&self.store.counters.failed_copies);
        match self.keep_directly(opened, page).inspect_err(failed)? {
            Some(content) => self.enter(client, opened, &key, content, false),
            None => {
                page.read(scratch.page_mut()).inspect_err(failed)?;
                self.put_copied(client, opened, &key, scratch)
            }
        }
    }

    /// Puts what is in the scratch page.
    fn put_copied(
        &self,
        client: &Client,
        opened: &Opened<'_, F>,
        key: &Key,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let mut lost = false;
        let content = match self.keep(opened, scratch) {
            Ok(content) => content,
            Err(_) => {
                // Stale data is never given back; and what the old page held may be all that was missing.
                lost = self.lose(opened, client, key);
                let again = if lost { self.keep(opened, scratch) } else { Err(Shortage::Memory) };
                again.map_err(|_| if lost { Error::NoSpace } else { Error::NoMemory })?
            }
        };
        self.enter(client, opened, key, content, lost)
    }

    /// Enters a content under its handle, or gives it up. `lost`: a page that was there is gone already.
    fn enter(
        &self,
        client: &Client,
        opened: &Opened<'_, F>,
        key: &Key,
        content: Content,
        mut lost: bool,
    ) -> Result<(), Error> {
        let obtain = || self.obtain(&opened.payer, true);
        match opened.arena.link(&opened.payer, key, content, obtain) {
            Ok(old) => {
                if let Some(old) = old {
                    count(&opened.counters.replaced);
                    opened.arena.vault.release(&opened.payer, old);
                }
                Ok(())
            }
            Err(_) => {
                opened.arena.vault.release(&opened.payer, content);
                lost |= self.lose(opened, client, key);
                Err(if lost { Error::NoSpace } else { Error::NoMemory })
            }
        }
    }

    /// Takes out the page that a put could not replace; whether there was one.
    fn lose(&self, opened: &Opened<'_, F>, client: &Client, key: &Key) -> bool {
        let log = client.migrating.load(Relaxed) && opened.pool.is_persistent();
        let lost = opened.arena.flush(&opened.payer, key, log);
        if lost {
            count(&opened.pool.rare.lost);
        }
        lost
    }

    /// Keeps a page that is neither to be compressed nor compared with others: it is copied once, to where it stays.
    /// `None` when there is no memory, or when it is to be looked at first.
    fn keep_directly<G: GuestPage<F>>(&self, opened: &Opened<'_, F>, page: &G) -> Result<Option<Content>, Fault> {
        if opened.deduplicate || opened.compress {
            return Ok(None);
        }
        let Ok(frame) = self.obtain(&opened.payer, false) else { return Ok(None) };
        if let Err(fault) = page.read_frame(self.frames, frame.number()) {
            opened.payer.free(frame);
            return Err(fault);
        }
        if (0..FRAME_WORDS).all(|index| self.frames.word(frame.number(), index).load(Relaxed) == 0) {
            opened.payer.free(frame);
            count(&self.store.counters.zero_puts);
            return Ok(Some(Content::ZERO));
        }
        Ok(opened.arena.vault.store_frame(&opened.payer, frame, || self.obtain(&opened.payer, false)).ok())
    }

    /// Keeps the scratch page's contents in the arena's vault.
    fn keep(&self, opened: &Opened<'_, F>, scratch: &mut Scratch) -> Result<Content, Shortage> {
        if scratch.is_zero() {
            count(&self.store.counters.zero_puts);
            return Ok(Content::ZERO);
        }
        let packed = if opened.compress { scratch.compress() } else { None };
        let bytes = match packed {
            Some(length) => Bytes::Packed(scratch.packed(length)),
            None => Bytes::Raw(scratch.page()),
        };
        let seed = self.store.config.seed;
        let hash = match bytes {
            Bytes::Raw(page) if opened.deduplicate => Some(filter::number(page, seed)),
            Bytes::Packed(bytes) if opened.deduplicate => Some(filter::number(bytes, seed)),
            _ => None,
        };
        let obtain = |clear| self.obtain(&opened.payer, clear);
        opened.arena.vault.store(&opened.payer, hash, bytes, obtain)
    }

    /// Gets a page; whether it was there. A private ephemeral page is taken out, after it has been copied.
    ///
    /// # Errors
    /// [`Error::NoPool`]; [`Error::Empty`]; [`Error::Fault`], and nothing has changed.
    pub fn get<G: GuestPage<F>>(
        &self,
        id: ClientId,
        handle: &Handle,
        page: &G,
        scratch: &mut Scratch,
    ) -> Result<bool, Error> {
        let client = self.client(id).ok_or(Error::NoPool)?;
        let Some(opened) = self.open(&client, handle.pool)? else { return Ok(false) };
        let key = self.key(opened.number, handle);
        let found = opened.arena.at(self.frames, &key, |shard| {
            let begin = |shard: &mut Shard| {
                let node = shard.find(self.frames, &key)?;
                let found = shard.begin_get(self.frames, node, opened.exclusive)?;
                if !opened.exclusive && !opened.pool.is_persistent() {
                    shard.refresh(self.frames, node);
                }
                Some(found)
            };
            begin(shard).ok_or_else(|| shard.pages(opened.number) != 0)
        });
        let (content, stamp) = match found {
            Ok(found) => found,
            Err(others) if others || opened.arena.pages(opened.number) != 0 => {
                count(&opened.counters.misses);
                return Ok(false);
            }
            Err(_) => return Err(Error::Empty),
        };
        let copied = self.copy_out(&opened, content, page, scratch);
        if opened.exclusive {
            opened.arena.end_get(&opened.payer, &key, stamp, copied.is_ok());
        }
        opened.arena.vault.release(&opened.payer, content);
        count(if copied.is_ok() { &opened.counters.hits } else { &opened.counters.misses });
        copied.inspect_err(|_| count(&self.store.counters.failed_copies))?;
        Ok(true)
    }

    pub(crate) fn copy_out<G: GuestPage<F>>(
        &self,
        opened: &Opened<'_, F>,
        content: Content,
        page: &G,
        scratch: &mut Scratch,
    ) -> Result<(), Fault> {
        match opened.arena.vault.load(self.frames, content, scratch) {
            Found::Frame(frame) => page.write_frame(self.frames, frame),
            Found::Scratch => page.write(scratch.page()),
            Found::Zero => page.write(scratch.zero()),
        }
    }

    /// Forgets a page; whether there was one.
    ///
    /// # Errors
    /// [`Error::NoPool`]; [`Error::Frozen`] for a frozen client, though the page is forgotten.
    pub fn flush_page(&self, id: ClientId, handle: &Handle) -> Result<bool, Error> {
        let client = self.client(id).ok_or(Error::NoPool)?;
        let Some(opened) = self.open(&client, handle.pool)? else { return Ok(false) };
        let log = client.migrating.load(Relaxed) && opened.pool.is_persistent();
        let there = opened.arena.flush(&opened.payer, &self.key(opened.number, handle), log);
        count(if there { &opened.counters.flushed } else { &opened.counters.vain_flushes });
        if client.frozen.load(Relaxed) { Err(Error::Frozen) } else { Ok(there) }
    }

    /// Forgets an object's pages, at most `budget` at a time.
    ///
    /// # Errors
    /// As [`Tmem::flush_page`].
    pub fn flush_object(&self, id: ClientId, pool: u32, oid: ObjectId, budget: usize) -> Result<Progress, Error> {
        let client = self.client(id).ok_or(Error::NoPool)?;
        let Some(opened) = self.open(&client, pool)? else { return Ok(Progress::Done) };
        let key = self.key(opened.number, &Handle { pool, oid, index: 0 });
        let log = client.migrating.load(Relaxed) && opened.pool.is_persistent();
        let mut flushed = 0;
        let done = opened.arena.flush_some(&opened.payer, Which::Object(&key), log, budget, &mut flushed);
        if !done {
            return Ok(Progress::More);
        }
        count(&opened.pool.rare.object_flushes);
        if flushed != 0 {
            count(&opened.pool.rare.objects_flushed);
        }
        if client.frozen.load(Relaxed) { Err(Error::Frozen) } else { Ok(Progress::Done) }
    }

    /// Whether the pool exists, for errors that come before anything else.
    ///
    /// # Errors
    /// [`Error::NoPool`].
    pub fn check_pool(&self, id: ClientId, pool: u32) -> Result<(), Error> {
        let client = self.client(id).ok_or(Error::NoPool)?;
        let index = usize::try_from(pool).ok().filter(|index| *index < POOLS).ok_or(Error::NoPool)?;
        if client.pools[index].life.state() == State::Live { Ok(()) } else { Err(Error::NoPool) }
    }
}
