//! How clients and pools come and go. Everything that ends does so in bounded steps.

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use crate::account::{Account, Governed};
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
        let account = self.store.account(id).ok_or(Error::Invalid)?;
        let mut governed = account.govern();
        if governed.client().is_some() {
            return Err(Error::Exists);
        }
        self.install(id, &mut governed)
    }

    fn install(&self, id: ClientId, governed: &mut Governed<'_>) -> Result<(), Error> {
        let config = &self.store.config;
        let client = || Client::try_new(id, config.compress, config.deduplicate);
        if self.store.accounts[id.index()].install(governed, client) { Ok(()) } else { Err(Error::NoMemory) }
    }

    /// Makes a pool for a client, who is made too if it is new. The pool's number.
    ///
    /// # Errors
    /// [`Error::Permission`] for flags that are not supported, or when there is no slot; [`Error::NoMemory`].
    pub fn new_pool(&self, id: ClientId, flags: u32, uuid: Uuid) -> Result<u32, Error> {
        let wish = Wish::new(flags, uuid)?;
        let mut governed = self.store.account(id).ok_or(Error::Invalid)?.govern();
        if governed.client().is_none() {
            self.install(id, &mut governed)?;
        }
        let client = governed.client().ok_or(Error::NoPool)?;
        if client.closed.load(Relaxed) {
            return Err(Error::NoPool);
        }
        let free = (0..POOLS).find(|slot| client.pools[*slot].life.state() == State::Free);
        self.open_at(client, free.ok_or(Error::Permission)?, wish)
    }

    /// Makes a pool of a given number for a client that exists: to restore it.
    ///
    /// # Errors
    /// As [`Tmem::new_pool`]; [`Error::Permission`] when the number is taken or none, [`Error::NotFound`] when there
    /// is no such client.
    pub fn new_pool_at(&self, id: ClientId, pool: u32, flags: u32, uuid: Uuid) -> Result<u32, Error> {
        let wish = Wish::new(flags, uuid)?;
        let governed = self.store.account(id).ok_or(Error::NotFound)?.govern();
        let client = governed.client().ok_or(Error::NotFound)?;
        let slot = usize::try_from(pool).ok().filter(|slot| *slot < POOLS).ok_or(Error::Permission)?;
        if client.pools[slot].life.state() != State::Free || client.closed.load(Relaxed) {
            return Err(Error::Permission);
        }
        self.open_at(client, slot, wish)
    }

    fn open_at(&self, client: &Client, slot: usize, wish: Wish) -> Result<u32, Error> {
        let allowed = |uuid: &Uuid| self.store.share_freely.load(Relaxed) || client.authorised.lock().contains(uuid);
        // Who is not authorised gets a private pool and is not told.
        let shared = match wish.shared.filter(allowed) {
            Some(uuid) => Some(self.join(uuid, (client.id, slot as u8))?),
            None => None,
        };
        client.open(slot, wish.persistent, shared, wish.uuid);
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
        let slot = usize::try_from(pool).ok().filter(|slot| *slot < POOLS);
        let (Some(slot), Some(account)) = (slot, self.store.account(id)) else { return (false, Progress::Done) };
        let Some(governed) = account.try_govern() else { return (true, Progress::More) };
        let Some(client) = governed.client() else { return (false, Progress::Done) };
        if client.pools[slot].life.state() == State::Free {
            return (false, Progress::Done);
        }
        (true, self.end_pools(account, client, slot..slot + 1, budget))
    }

    /// Ends pools of a client that the caller governs. What is in them is given back when nobody uses the client any
    /// more who may have seen them alive.
    fn end_pools(&self, account: &Account, client: &Client, slots: Range<usize>, budget: usize) -> Progress {
        let pools = &client.pools[slots.clone()];
        for pool in pools {
            pool.life.close();
        }
        if pools.iter().any(|pool| pool.life.state() == State::Draining) {
            if !account.is_deserted() {
                return Progress::More;
            }
            let closed = pools.iter().filter(|pool| pool.life.state() == State::Draining);
            closed.for_each(|pool| pool.life.set(State::Deserted));
        }
        for slot in slots {
            if client.pools[slot].life.state() != State::Free && self.drain_pool(client, slot, budget) == Progress::More
            {
                return Progress::More;
            }
        }
        Progress::Done
    }

    fn drain_pool(&self, client: &Client, slot: usize, budget: usize) -> Progress {
        let pool = &client.pools[slot];
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
        pool.life.set(State::Free);
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
        let Some(account) = self.store.account(id) else { return Progress::Done };
        let Some(mut governed) = account.try_govern() else { return Progress::More };
        let Some(client) = governed.client() else { return Progress::Done };
        client.closed.store(true, Relaxed);
        if self.end_pools(account, client, 0..POOLS, budget) == Progress::More
            || self.clear_log(client, &mut { budget }) == Progress::More
            || account.frames(Kind::Ephemeral) + account.frames(Kind::Persistent) != 0
        {
            return Progress::More;
        }
        // Somebody who looks for pages to evict may be reading just now.
        if account.remove(&mut governed) { Progress::Done } else { Progress::More }
    }

    /// Ends all pools of a client, which stays.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn destroy_pools(&self, id: ClientId, budget: usize) -> Result<Progress, Error> {
        let account = self.store.account(id).ok_or(Error::NotFound)?;
        let Some(governed) = account.try_govern() else { return Ok(Progress::More) };
        let client = governed.client().ok_or(Error::NotFound)?;
        Ok(self.end_pools(account, client, 0..POOLS, budget))
    }
}
