//! What a privileged domain does with the store: look at clients and decide about them.

use core::fmt;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use crate::client::{Client, NO_UUID, Pool, PoolCounters, State, Uuid};
use crate::frames::{ClientId, Frames, Kind};
use crate::pools::{VERSION, VERSION_SHIFT};
use crate::shard::POOLS;
use crate::store::{Error, Tmem};
use crate::vault::VaultFigures;

/// What is decided about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Pools it has.
    pub pools: u32,
    /// Its share in eviction.
    pub weight: u32,
    /// Its new pages are compressed.
    pub compress: bool,
    /// It is frozen.
    pub frozen: bool,
    /// It is being saved live.
    pub migrating: bool,
}

/// A pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Its number.
    pub id: u32,
    /// As it was made.
    pub flags: u32,
    /// Its pages.
    pub pages: u64,
    /// Its name.
    pub uuid: Uuid,
}

impl<F: Frames> Tmem<'_, F> {
    fn selected(&self, id: Option<ClientId>) -> impl Iterator<Item = ClientId> {
        let all = 0..self.store.accounts.len() as u16;
        all.map(ClientId).filter(move |client| id.is_none_or(|id| id == *client))
    }

    /// Freezes or thaws a client, or all.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such client.
    pub fn freeze(&self, id: Option<ClientId>, frozen: bool) -> Result<(), Error> {
        let mut found = id.is_none();
        for client in self.selected(id).filter_map(|id| self.client(id)) {
            client.frozen.store(frozen, Relaxed);
            found = true;
        }
        if found { Ok(()) } else { Err(Error::NotFound) }
    }

    /// What is decided about a client.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn client_info(&self, id: ClientId) -> Result<ClientInfo, Error> {
        let client = self.client(id).ok_or(Error::NotFound)?;
        Ok(ClientInfo {
            pools: client.pool_count() as u32,
            weight: self.store.accounts[id.index()].weight(),
            compress: client.compress.load(Relaxed),
            frozen: client.frozen.load(Relaxed),
            migrating: client.migrating.load(Relaxed),
        })
    }

    /// Sets the weight of a client, or of all, and whether what it puts from now on is compressed.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn set_client_info(&self, id: Option<ClientId>, weight: u32, compress: bool) -> Result<(), Error> {
        let mut found = id.is_none();
        for client in self.selected(id).filter_map(|id| self.client(id)) {
            self.store.accounts[client.id.index()].set_weight(weight);
            client.compress.store(compress, Relaxed);
            for pool in &client.pools {
                pool.compress.store(compress, Relaxed);
            }
            found = true;
        }
        if found { Ok(()) } else { Err(Error::NotFound) }
    }

    /// Whether what a pool is given from now on is compressed.
    ///
    /// # Errors
    /// [`Error::NoPool`].
    pub fn set_pool_compression(&self, id: ClientId, pool: u32, compress: bool) -> Result<(), Error> {
        self.check_pool(id, pool)?;
        let client = self.client(id).ok_or(Error::NoPool)?;
        client.pools[pool as usize].compress.store(compress, Relaxed);
        Ok(())
    }

    /// Whether equal pages that a client puts from now on are kept once.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn set_deduplication(&self, id: ClientId, deduplicate: bool) -> Result<(), Error> {
        let client = self.client(id).ok_or(Error::NotFound)?;
        client.deduplicate.store(deduplicate, Relaxed);
        Ok(())
    }

    fn pages_of(&self, client: &Client, slot: usize) -> u64 {
        let pool = &client.pools[slot];
        match pool.shared() {
            Some(index) => self.store.shared[index].arena.pages(0),
            None => client.arena(pool.is_persistent()).pages(slot as u8),
        }
    }

    /// A client's pool of a number, if it is in use.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such client.
    pub fn pool_info(&self, id: ClientId, pool: u32) -> Result<Option<PoolInfo>, Error> {
        let client = self.client(id).ok_or(Error::NotFound)?;
        let Some(slot) = usize::try_from(pool).ok().filter(|slot| *slot < POOLS) else { return Ok(None) };
        let found = &client.pools[slot];
        if found.life.state() != State::Live {
            return Ok(None);
        }
        let kind = u32::from(found.is_persistent()) | u32::from(found.shared().is_some()) << 1;
        let authorised = client.authorised.lock().contains(&found.uuid());
        Ok(Some(PoolInfo {
            id: pool,
            flags: kind | u32::from(authorised) << 2 | VERSION << VERSION_SHIFT,
            pages: self.pages_of(&client, slot),
            uuid: found.uuid(),
        }))
    }

    /// Lets a client share pools of this name, or forbids it; in pools that it shares already it stays.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such client, or nothing to forbid; [`Error::Invalid`] for the name that
    /// none has; [`Error::NoMemory`] when it may share too many already.
    pub fn authorise(&self, id: ClientId, uuid: Uuid, allow: bool) -> Result<(), Error> {
        if uuid == NO_UUID {
            return Err(Error::Invalid);
        }
        let client = self.client(id).ok_or(Error::NotFound)?;
        let mut authorised = client.authorised.lock();
        let known = authorised.contains(&uuid);
        match (allow, known) {
            (true, true) => Ok(()),
            (true, false) => authorised.try_push(uuid).map_err(|_| Error::NoMemory),
            (false, true) => {
                authorised.retain(|other| *other != uuid);
                Ok(())
            }
            (false, false) => Err(Error::NotFound),
        }
    }

    /// Lets everybody share every name, or not.
    pub fn share_freely(&self, all: bool) {
        self.store.share_freely.store(all, Relaxed);
    }

    /// What the client's own pools of a kind keep.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn vault_figures(&self, id: ClientId, kind: Kind) -> Result<VaultFigures, Error> {
        let client = self.client(id).ok_or(Error::NotFound)?;
        Ok(client.arena(kind == Kind::Persistent).vault.figures())
    }

    /// Frames and pages of a client, or of all, for people and programs: lines as Xen's `xl tmem-list` has them. Each
    /// is a letter for what the line is about, and pairs of two letters and a number.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NoMemory`] when `out` is full.
    pub fn list(&self, id: Option<ClientId>, long: bool, out: &mut dyn fmt::Write) -> Result<(), Error> {
        if let Some(id) = id {
            let client = self.client(id).ok_or(Error::NotFound)?;
            return self.list_client(&client, long, out).map_err(|_| Error::NoMemory);
        }
        self.list_store(long, out).map_err(|_| Error::NoMemory)
    }

    fn list_store(&self, long: bool, out: &mut dyn fmt::Write) -> fmt::Result {
        let counters = &self.store.counters;
        let value = |counter: &AtomicU64| counter.load(Relaxed);
        write!(
            out,
            "G=Cf:{},Af:{},Et:{},Ea:{},Rt:{},Ra:{}",
            value(&counters.failed_copies),
            value(&counters.refused),
            value(&counters.evicted),
            value(&counters.evict_attempts),
            value(&counters.reclaimed),
            value(&counters.reclaims),
        )?;
        if long {
            let persistent: u64 = self.store.accounts.iter().map(|account| account.frames(Kind::Persistent)).sum();
            write!(out, ",Fe:{},Fp:{persistent},Zt:{}", self.freeable(), value(&counters.zero_puts))?;
        }
        writeln!(out)?;
        for (index, shared) in self.store.shared.iter().enumerate() {
            let Some((uuid, members)) = shared.describe() else { continue };
            write!(out, "S=SI:{index},PT:ES,U0:{:x},U1:{:x}", uuid[0], uuid[1])?;
            for (client, _) in members {
                write!(out, ",SC:{}", client.0)?;
            }
            if long {
                write!(out, ",Pc:{},Oc:{}", shared.arena.pages(0), shared.arena.objects())?;
            }
            writeln!(out)?;
        }
        for client in self.selected(None).filter_map(|id| self.client(id)) {
            self.list_client(&client, long, out)?;
        }
        Ok(())
    }

    fn list_client(&self, client: &Client, long: bool, out: &mut dyn fmt::Write) -> fmt::Result {
        let account = &self.store.accounts[client.id.index()];
        let flag = |flag: bool| u32::from(flag);
        write!(
            out,
            "C=CI:{},ww:{},co:{},fr:{}",
            client.id.0,
            account.weight(),
            flag(client.compress.load(Relaxed)),
            flag(client.frozen.load(Relaxed)),
        )?;
        if long {
            let figures = [client.persistent.vault.figures(), client.ephemeral.vault.figures()];
            let sum = |get: fn(&VaultFigures) -> u64| figures.iter().map(get).sum::<u64>();
            write!(
                out,
                ",Fe:{},Fp:{},cp:{},cb:{},Gd:{}",
                account.frames(Kind::Ephemeral),
                account.frames(Kind::Persistent),
                sum(|figures| figures.contents - figures.raw),
                sum(|figures| figures.packed_bytes),
                sum(|figures| figures.deduplicated),
            )?;
        }
        writeln!(out)?;
        for (slot, pool) in client.pools.iter().enumerate() {
            if pool.life.state() == State::Live {
                self.list_pool(client, slot, pool, long, out)?;
            }
        }
        Ok(())
    }

    fn list_pool(
        &self,
        client: &Client,
        slot: usize,
        pool: &Pool,
        long: bool,
        out: &mut dyn fmt::Write,
    ) -> fmt::Result {
        let shared = pool.shared().is_some();
        let uuid = if shared { pool.uuid() } else { [0; 2] };
        write!(
            out,
            "P=CI:{},PI:{slot},PT:{}{},U0:{:x},U1:{:x}",
            client.id.0,
            if pool.is_persistent() { 'P' } else { 'E' },
            if shared { 'S' } else { 'P' },
            uuid[0],
            uuid[1],
        )?;
        if long {
            let rare = &pool.rare;
            let value = |counter: &AtomicU64| counter.load(Relaxed);
            let sum = |get: fn(&PoolCounters) -> &AtomicU64| client.sum(slot, get);
            let (puts, hits, flushed) = (sum(|all| &all.good_puts), sum(|all| &all.hits), sum(|all| &all.flushed));
            write!(out, ",Pc:{}", self.pages_of(client, slot))?;
            write!(out, ",ps:{puts},pt:{}", puts.wrapping_add(sum(|all| &all.failed_puts)))?;
            write!(out, ",pd:{},pr:{}", value(&rare.lost), sum(|all| &all.replaced))?;
            write!(out, ",px:{}", value(&rare.no_memory))?;
            write!(out, ",gs:{hits},gt:{}", hits.wrapping_add(sum(|all| &all.misses)))?;
            write!(out, ",fs:{flushed},ft:{}", flushed.wrapping_add(sum(|all| &all.vain_flushes)))?;
            write!(out, ",os:{},ot:{}", value(&rare.objects_flushed), value(&rare.object_flushes))?;
        }
        writeln!(out)
    }

    /// Checks all links and all books while nobody uses the store, for tests.
    ///
    /// # Panics
    /// When something does not add up.
    pub fn audit(&self) {
        for (index, account) in self.store.accounts.iter().enumerate() {
            let (mut ephemeral, mut persistent) = (0, 0);
            if let Some(client) = self.client(ClientId(index as u16)) {
                ephemeral += client.ephemeral.audit(self.frames);
                persistent += client.persistent.audit(self.frames);
            }
            let paid = self.store.shared.iter().filter(|shared| usize::from(shared.arena.client().0) == index);
            ephemeral += paid.map(|shared| shared.arena.audit(self.frames)).sum::<u64>();
            assert_eq!(account.frames(Kind::Ephemeral), ephemeral, "ephemeral frames of client {index}");
            assert_eq!(account.frames(Kind::Persistent), persistent, "persistent frames of client {index}");
        }
    }
}
