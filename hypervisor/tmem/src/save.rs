//! Saving a client and restoring it elsewhere, by a privileged domain, page by page.
//!
//! While a client is saved it is frozen, so its persistent pages only become fewer. Saved live, it goes on flushing,
//! and each flushed page leaves an entry in a log (in the node that the page had, so it costs nothing), which is
//! handed out after the pages. The walk's place is adjusted when the page it stands at is flushed.

use core::sync::atomic::Ordering::Relaxed;

use crate::arena::SHARDS;
use crate::client::{Client, State};
use crate::frames::{ClientId, Frames, GuestPage};
use crate::scratch::Scratch;
use crate::shard::{ObjectId, POOLS};
use crate::store::{Error, Handle, Progress, Tmem};

/// The name of a page handed out.
pub type SavedPage = Handle;

impl<F: Frames> Tmem<'_, F> {
    /// Begins to save a client: freezes it. `live`: it goes on running.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such client, or it has no pools.
    pub fn save_begin(&self, id: ClientId, live: bool) -> Result<(), Error> {
        let client = self.client(id).ok_or(Error::NotFound)?;
        if client.pool_count() == 0 {
            return Err(Error::NotFound);
        }
        let mut save = client.save.lock();
        if save.ending {
            return Err(Error::Exists);
        }
        save.was_frozen = client.frozen.swap(true, Relaxed);
        save.pool = None;
        save.entry = (0, 0);
        if live {
            client.migrating.store(true, Relaxed);
        }
        Ok(())
    }

    /// The next page of a persistent pool: `page` gets what is in it, if that works out; else the same page comes
    /// again. `None` at the end. Asking for another pool begins that one.
    ///
    /// # Errors
    /// [`Error::NoPool`] when there is no such persistent pool; [`Error::Fault`].
    pub fn save_next_page<G: GuestPage<F>>(
        &self,
        id: ClientId,
        pool: u32,
        name: impl FnOnce(&SavedPage) -> G,
        scratch: &mut Scratch,
    ) -> Result<Option<SavedPage>, Error> {
        let client = self.client(id).ok_or(Error::NotFound)?;
        let opened = self.open(&client, pool)?.filter(|opened| opened.pool.is_persistent()).ok_or(Error::NoPool)?;
        let mut save = client.save.lock();
        if save.pool != Some(opened.number) {
            save.pool = Some(opened.number);
            save.shard = 0;
            opened.arena.with(self.frames, 0, |shard| shard.begin_walk(self.frames, opened.number));
        }
        loop {
            let found = opened.arena.with(self.frames, save.shard, |shard| shard.walk(self.frames));
            if let Some((oid, index, content)) = found {
                let handle = Handle { pool, oid, index };
                let copied = self.copy_out(&opened, content, &name(&handle), scratch);
                opened.arena.vault.release(&opened.payer, content);
                copied?;
                let key = self.key(opened.number, &handle);
                opened.arena.with(self.frames, save.shard, |shard| shard.walked(self.frames, &key));
                return Ok(Some(handle));
            }
            if save.shard + 1 >= SHARDS {
                return Ok(None);
            }
            save.shard += 1;
            opened.arena.with(self.frames, save.shard, |shard| shard.begin_walk(self.frames, opened.number));
        }
    }

    /// The next page that has been flushed since the saving began, as `name` is told; if it cannot be told, the same
    /// one comes again. `None` at the end, and then from the beginning.
    ///
    /// # Errors
    /// [`Error::NotFound`]; what `name` says.
    pub fn save_next_flushed(
        &self,
        id: ClientId,
        name: impl FnOnce(&SavedPage) -> Result<(), Error>,
    ) -> Result<Option<SavedPage>, Error> {
        let client = self.client(id).ok_or(Error::NotFound)?;
        let mut save = client.save.lock();
        let (mut index, mut entry) = save.entry;
        while index < SHARDS {
            let next = client.persistent.with(self.frames, index, |shard| shard.log_after(self.frames, entry));
            if let Some((node, pool, oid, page)) = next {
                let handle = Handle { pool: u32::from(pool), oid, index: page };
                name(&handle)?;
                save.entry = (index, node);
                return Ok(Some(handle));
            }
            (index, entry) = (index + 1, 0);
        }
        save.entry = (0, 0);
        Ok(None)
    }

    /// Ends the saving, forgetting at most `budget` entries of the log at a time.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn save_end(&self, id: ClientId, budget: usize) -> Result<Progress, Error> {
        let client = self.client(id).ok_or(Error::NotFound)?;
        client.migrating.store(false, Relaxed);
        if self.clear_log(&client, &mut { budget }) == Progress::More {
            return Ok(Progress::More);
        }
        let save = client.save.lock();
        client.frozen.store(save.was_frozen, Relaxed);
        Ok(Progress::Done)
    }

    pub(crate) fn clear_log(&self, client: &Client, budget: &mut usize) -> Progress {
        let mut save = client.save.lock();
        save.entry = (0, 0);
        save.ending = true;
        let payer = client.persistent.payer(self.frames, &self.store.accounts);
        for index in 0..SHARDS {
            if !client.persistent.with(self.frames, index, |shard| shard.clear_log(&payer, budget)) {
                return Progress::More;
            }
        }
        save.ending = false;
        Progress::Done
    }

    /// Puts a page of a client that is being restored.
    ///
    /// # Errors
    /// As [`Tmem::put`].
    pub fn restore_page<G: GuestPage<F>>(
        &self,
        id: ClientId,
        handle: &SavedPage,
        page: &G,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        self.put(id, handle, page, scratch)
    }

    /// Flushes a page of a client that is being restored.
    ///
    /// # Errors
    /// As [`Tmem::flush_page`].
    pub fn restore_flush(&self, id: ClientId, pool: u32, oid: ObjectId, index: u32) -> Result<bool, Error> {
        self.flush_page(id, &Handle { pool, oid, index })
    }

    /// The pools of a client whose pages are worth saving.
    pub fn persistent_pools(&self, id: ClientId) -> impl Iterator<Item = u32> {
        let client = self.client(id);
        (0..POOLS as u32).filter(move |pool| {
            client.as_ref().is_some_and(|client| {
                let pool = &client.pools[*pool as usize];
                pool.life.state() == State::Live && pool.is_persistent()
            })
        })
    }
}
