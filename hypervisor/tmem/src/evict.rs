//! Who gives way when there is no frame: fair by weight, in a number of steps that depends on no number of pages.
//!
//! A client's excess is what it holds of ephemeral frames above its floor, divided by its weight; the one with most
//! gives up its oldest page. A page may free no frame at once (others share its content, or its pack), so an
//! allocation evicts up to [`ROUNDS`] pages; every one of them is progress, because it is gone for good. For memory
//! that a domain is entitled to, floors do not count ([`Tmem::reclaim`]).

use core::sync::atomic::Ordering::Relaxed;

use crate::account::Payer;
use crate::arena::Arena;
use crate::client::{State, count};
use crate::frames::{ClientId, Frame, Frames, Kind, Shortage};
use crate::store::Tmem;

/// Pages evicted for one frame before the caller is refused.
const ROUNDS: usize = 64;
/// Clients looked at beside the one with the greatest excess, which may have nothing left to take.
const CANDIDATES: usize = 8;

impl<F: Frames> Tmem<'_, F> {
    /// A frame for a payer, cleared if it must be, with eviction if there is none.
    #[inline]
    pub(crate) fn obtain(&self, payer: &Payer<'_, F>, clear: bool) -> Result<Frame, Shortage> {
        payer.allocate(clear).or_else(|shortage| self.make_room(payer, clear, shortage))
    }

    /// A frame after evictions.
    #[cold]
    fn make_room(&self, payer: &Payer<'_, F>, clear: bool, mut shortage: Shortage) -> Result<Frame, Shortage> {
        for _ in 0..ROUNDS {
            let charge = payer.charge();
            let evicted = match (shortage, charge.kind) {
                // At its cap, a client makes room for itself.
                (Shortage::Maximum, Kind::Ephemeral) => self.evict_from(charge.client).is_some(),
                (Shortage::Maximum, Kind::Persistent) => false,
                (Shortage::Memory, _) => self.evict(false).is_some(),
            };
            if !evicted {
                break;
            }
            match payer.allocate(clear) {
                Ok(frame) => return Ok(frame),
                Err(again) => shortage = again,
            }
        }
        count(&self.store.counters.refused);
        Err(Shortage::Memory)
    }

    /// Gives ephemeral memory back to the machine until `frames` are free or `budget` pages have been looked at: how
    /// many frames, and whether there is more that could be given.
    pub fn reclaim(&self, frames: u64, budget: usize) -> (u64, bool) {
        count(&self.store.counters.reclaims);
        let mut freed = 0;
        for _ in 0..budget {
            if freed >= frames {
                break;
            }
            match self.evict(false).or_else(|| self.evict(true)) {
                Some(count) => freed += count,
                None => return (freed, false),
            }
        }
        self.store.counters.reclaimed.fetch_add(freed, Relaxed);
        (freed, true)
    }

    /// Frames that eviction could give back.
    pub fn freeable(&self) -> u64 {
        self.store.accounts.iter().map(|account| account.frames(Kind::Ephemeral)).sum()
    }

    /// Evicts a page of the client with the greatest excess that has one; how many frames that freed.
    fn evict(&self, below: bool) -> Option<u64> {
        count(&self.store.counters.evict_attempts);
        let mut limit = None;
        for _ in 0..CANDIDATES {
            let (excess, client) = self.greatest_excess(below, limit)?;
            if let Some(freed) = self.evict_from(client) {
                return Some(freed);
            }
            limit = Some((excess, client));
        }
        None
    }

    /// The client with the greatest excess below `limit`, ties in order of numbers.
    fn greatest_excess(&self, below: bool, limit: Option<(u64, ClientId)>) -> Option<(u64, ClientId)> {
        let accounts = self.store.accounts.iter().enumerate();
        let candidates = accounts
            .filter_map(|(index, account)| account.excess(below).map(|excess| (excess, ClientId(index as u16))));
        candidates.filter(|candidate| limit.is_none_or(|limit| *candidate < limit)).max()
    }

    /// Evicts the oldest page that a client pays for; how many frames that freed. `None` when it has none.
    fn evict_from(&self, id: ClientId) -> Option<u64> {
        let client = self.client(id);
        let own = client.as_ref().map(|client| &client.ephemeral);
        let shared = self.store.shared.iter().filter(|shared| shared.arena.client() == id);
        // The use keeps the arena from changing its payer.
        let shared = shared.filter_map(|shared| Some((&shared.arena, Some(shared.gate.enter()?))));
        let oldest = |arena: &Arena| arena.oldest().1;
        let (arena, _in_use) = own
            .map(|arena| (arena, None))
            .into_iter()
            .chain(shared)
            .filter(|(arena, _)| arena.client() == id && oldest(arena) != u64::MAX)
            .min_by_key(|(arena, _)| oldest(arena))?;
        let payer = arena.payer(self.frames, &self.store.accounts);
        let evicted = arena.evict(&payer, arena.oldest().0);
        if evicted {
            count(&self.store.counters.evicted);
        }
        evicted.then(|| payer.freed())
    }

    /// Moves packed pages of all clients together, at most `budget` frames' worth. True when there is no more to do.
    pub fn compact(&self, budget: usize) -> bool {
        let each = (0..self.store.accounts.len()).filter_map(|index| self.client(ClientId(index as u16)));
        let mut done = true;
        for client in each {
            for arena in [&client.persistent, &client.ephemeral] {
                done &= arena.vault.compact(&arena.payer(self.frames, &self.store.accounts), budget);
            }
        }
        for shared in self.store.shared.iter().filter(|shared| shared.gate.life.state() == State::Live) {
            if let Some(_in_use) = shared.gate.enter() {
                let payer = shared.arena.payer(self.frames, &self.store.accounts);
                done &= shared.arena.vault.compact(&payer, budget);
            }
        }
        done
    }
}
