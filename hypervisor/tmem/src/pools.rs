//! How clients and pools come and go. Everything that ends does so in bounded steps.

use core::sync::atomic::Ordering::Relaxed;

use crate::arena::Which;
use crate::client::{Client, NO_UUID, State, Uuid};
use crate::frames::{ClientId, Frames, Kind};
use crate::shard::POOLS;
use crate::store::{Error, Progress, Tmem};

/// Pool flags, as in Xen's `tmem.h`.
const PERSIST: u32 = 1;
const SHARED: u32 = 2;
const PRECOMPRESSED: u32 = 4;
const PAGE_SIZE_FIELD: u32 = 0xf << 4;
const RESERVED: u32 = 0x00ff_ff00;
/// The flags of the one version there is, without more.
pub(crate) const VERSION: u32 = 1;
pub(crate) const VERSION_SHIFT: u32 = 24;

/// What a pool is to be.
#[derive(Clone, Copy)]
struct Wish {
    persistent: bool,
    shared: Option<Uuid>,
    uuid: Uuid,
}

impl Wish {
    fn new(flags: u32, uuid: Uuid) -> Result<Self, Error> {
        let (persistent, shared) = (flags & PERSIST != 0, flags & SHARED != 0);
        let supported = flags >> VERSION_SHIFT == VERSION
            && !(persistent && shared)
            && flags & (PAGE_SIZE_FIELD | PRECOMPRESSED | RESERVED | 8) == 0;
        if !supported {
            return Err(Error::Permission);
        }
        Ok(Self { persistent, shared: (shared && uuid != NO_UUID).then_some(uuid), uuid })
    }
}

impl<F: Frames> Tmem<'_, F> {
    /// Makes the client, with no pools.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::NoMemory`]; [`Error::Invalid`] for a number that no client can have.
    pub fn create_client(&self, id: ClientId) -> Result<(), Error> {
        let slot = self.store.clients.get(id.index()).ok_or(Error::Invalid)?;
        let mut slot = slot.write();
        if !slot.is_empty() {
            return Err(Error::Exists);
        }
        slot.try_reserve_exact(1).map_err(|_| Error::NoMemory)?;
        slot.push(Client::new(id, self.store.config.compress, self.store.config.deduplicate));
        Ok(())
    }

    /// Makes a pool for a client, who is made too if it is new. The pool's number.
    ///
    /// # Errors
    /// [`Error::Permission`] for flags that are not supported, or when there is no slot; [`Error::NoMemory`].
    pub fn new_pool(&self, id: ClientId, flags: u32, uuid: Uuid) -> Result<u32, Error> {
        let wish = Wish::new(flags, uuid)?;
        match self.create_client(id) {
            Ok(()) | Err(Error::Exists) => {}
            Err(error) => return Err(error),
        }
        let client = self.client(id).ok_or(Error::NoPool)?;
        let _governing = client.governing.lock();
        if client.closed.load(Relaxed) {
            return Err(Error::NoPool);
        }
        let free = (0..POOLS).find(|slot| client.pools[*slot].gate.state() == State::Free);
        self.open_at(&client, free.ok_or(Error::Permission)?, wish)
    }

    /// Makes a pool of a given number for a client that exists: to restore it.
    ///
    /// # Errors
    /// As [`Tmem::new_pool`]; [`Error::Permission`] when the number is taken or none, [`Error::NotFound`] when there
    /// is no such client.
    pub fn new_pool_at(&self, id: ClientId, pool: u32, flags: u32, uuid: Uuid) -> Result<u32, Error> {
        let wish = Wish::new(flags, uuid)?;
        let client = self.client(id).ok_or(Error::NotFound)?;
        let _governing = client.governing.lock();
        let slot = usize::try_from(pool).ok().filter(|slot| *slot < POOLS).ok_or(Error::Permission)?;
        if client.pools[slot].gate.state() != State::Free || client.closed.load(Relaxed) {
            return Err(Error::Permission);
        }
        self.open_at(&client, slot, wish)
    }

    fn open_at(&self, client: &Client, slot: usize, wish: Wish) -> Result<u32, Error> {
        let allowed = |uuid: &Uuid| self.store.share_freely.load(Relaxed) || client.authorised.lock().contains(uuid);
        // Who is not authorised gets a private pool and is not told.
        let shared = match wish.shared.filter(allowed) {
            Some(uuid) => Some(self.join(uuid, (client.id, slot as u8))?),
            None => None,
        };
        let compress = client.compress.load(Relaxed);
        client.pools[slot].open(wish.persistent, shared, wish.uuid, compress);
        Ok(slot as u32)
    }

    /// Joins the shared pool of a name, or begins it.
    fn join(&self, uuid: Uuid, member: (ClientId, u8)) -> Result<usize, Error> {
        // Twice: somebody may begin it between the two passes. Then the second one finds it.
        for _ in 0..2 {
            for (index, pool) in self.store.shared.iter().enumerate() {
                match pool.join(uuid, member) {
                    Some(true) => return Ok(index),
                    Some(false) => return Err(Error::Permission),
                    None => {}
                }
            }
            let _creating = self.store.creating.lock();
            if self.store.shared.iter().any(|pool| pool.describe().is_some_and(|(name, _)| name == uuid)) {
                continue;
            }
            let begun = self.store.shared.iter().position(|pool| pool.begin(uuid, member));
            return begun.ok_or(Error::Permission);
        }
        Err(Error::Permission)
    }

    /// Ends a pool, giving back at most `budget` pages at a time. Whether there was one.
    pub fn destroy_pool(&self, id: ClientId, pool: u32, budget: usize) -> (bool, Progress) {
        let Some(client) = self.client(id) else { return (false, Progress::Done) };
        let Some(slot) = usize::try_from(pool).ok().filter(|slot| *slot < POOLS) else {
            return (false, Progress::Done);
        };
        let Some(_governing) = client.governing.try_lock() else { return (true, Progress::More) };
        if client.pools[slot].gate.state() == State::Free {
            return (false, Progress::Done);
        }
        (true, self.end_pool(&client, slot, budget))
    }

    fn end_pool(&self, client: &Client, slot: usize, budget: usize) -> Progress {
        let pool = &client.pools[slot];
        pool.gate.close();
        if !pool.gate.is_unused() {
            return Progress::More;
        }
        let drained = match pool.shared() {
            None => {
                let arena = client.arena(pool.is_persistent());
                let payer = arena.payer(self.frames, &self.store.accounts);
                arena.flush_some(&payer, Which::Pool(slot as u8), false, budget, &mut 0)
            }
            Some(index) => self.leave_shared(index, (client.id, slot as u8), budget),
        };
        if !drained {
            return Progress::More;
        }
        pool.gate.set(State::Free);
        Progress::Done
    }

    fn leave_shared(&self, index: usize, member: (ClientId, u8), budget: usize) -> bool {
        let shared = &self.store.shared[index];
        if shared.leave(member) {
            return true;
        }
        if !shared.gate.is_unused() {
            return false;
        }
        let payer = shared.arena.payer(self.frames, &self.store.accounts);
        shared.arena.flush_some(&payer, Which::Pool(0), false, budget, &mut 0) && shared.hand_on()
    }

    /// Ends a client with all its pools, at most `budget` pages at a time. Afterwards nothing is charged to it. It
    /// must not begin anything new meanwhile; what it tries fails.
    pub fn destroy_client(&self, id: ClientId, budget: usize) -> Progress {
        let Some(client) = self.client(id) else { return Progress::Done };
        client.closed.store(true, Relaxed);
        let Some(governing) = client.governing.try_lock() else { return Progress::More };
        for slot in 0..POOLS {
            if client.pools[slot].gate.state() != State::Free && self.end_pool(&client, slot, budget) == Progress::More
            {
                return Progress::More;
            }
        }
        if self.clear_log(&client, &mut { budget }) == Progress::More {
            return Progress::More;
        }
        drop(governing);
        drop(client);
        let account = &self.store.accounts[id.index()];
        if account.frames(Kind::Ephemeral) + account.frames(Kind::Persistent) != 0 {
            return Progress::More;
        }
        // Somebody who looks for pages to evict may be reading just now.
        let Some(mut slot) = self.store.clients[id.index()].try_write() else { return Progress::More };
        slot.clear();
        account.reset();
        Progress::Done
    }

    /// Ends all pools of a client, which stays.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn destroy_pools(&self, id: ClientId, budget: usize) -> Result<Progress, Error> {
        let client = self.client(id).ok_or(Error::NotFound)?;
        let Some(_governing) = client.governing.try_lock() else { return Ok(Progress::More) };
        for slot in 0..POOLS {
            if client.pools[slot].gate.state() != State::Free && self.end_pool(&client, slot, budget) == Progress::More
            {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }
}
