//! A client: its pools and what has been decided about it.

use alloc::boxed::Box;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};

use arrayvec::ArrayVec;
use spin::Mutex;

use crate::arena::Arena;
use crate::frames::{ClientId, Kind, LANES, few};
use crate::shard::POOLS;

/// Identifiers that a client may be authorised to share, and shared pools of the machine.
pub const SHARED_POOLS: usize = 16;

/// A shared pool's name.
pub type Uuid = [u64; 2];
/// The name that none has.
pub const NO_UUID: Uuid = [u64::MAX; 2];

/// Where a pool, or a shared pool, is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// There is none.
    Free = 0,
    /// It is used.
    Live = 1,
    /// What is in it is being given back; nothing else may be done with it.
    Draining = 2,
    /// The same, and nobody is left who may not know it.
    Deserted = 3,
}

/// A state that others look at. Whoever ends something sets the state first and waits then until everybody has left
/// who may not have seen it; so nothing is ever put into a pool that has been drained.
#[derive(Debug)]
pub struct Life(AtomicU8);

impl Life {
    /// Not begun.
    pub const fn new() -> Self {
        Self(AtomicU8::new(State::Free as u8))
    }

    /// The state.
    pub fn state(&self) -> State {
        match self.0.load(SeqCst) {
            0 => State::Free,
            1 => State::Live,
            2 => State::Draining,
            _ => State::Deserted,
        }
    }

    /// Sets the state.
    pub fn set(&self, state: State) {
        self.0.store(state as u8, SeqCst);
    }

    /// From live to draining; false when it was not live.
    pub fn close(&self) -> bool {
        self.0.compare_exchange(State::Live as u8, State::Draining as u8, SeqCst, SeqCst).is_ok()
    }
}

/// A shared pool's state with a count of those who rely on it, who may be of any client. (Those who use a private pool
/// use its client, and the client's lanes say when they have left.)
///
/// Whoever uses the pool counts itself first and looks at the state then; whoever ends it sets the state first and
/// looks at the count then. So either the user sees the end, or the end sees the user and waits.
#[derive(Debug)]
pub struct Gate {
    /// The state.
    pub life: Life,
    users: AtomicU32,
}

/// A use of a pool: it is not drained as long as this exists.
#[must_use = "dropping it ends the use"]
pub struct Use<'a>(&'a Gate);

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, SeqCst);
    }
}

impl Gate {
    /// Closed.
    pub const fn new() -> Self {
        Self { life: Life::new(), users: AtomicU32::new(0) }
    }

    /// A use, if it is live.
    pub fn enter(&self) -> Option<Use<'_>> {
        self.users.fetch_add(1, SeqCst);
        let guard = Use(self);
        (self.life.state() == State::Live).then_some(guard)
    }

    /// Whether nobody uses it. Final once it is not live.
    pub fn is_unused(&self) -> bool {
        self.users.load(SeqCst) == 0
    }
}

/// What has been done with a pool, by a lane's CPUs. Wraps.
#[derive(Debug, Default)]
pub struct PoolCounters {
    pub(crate) good_puts: AtomicU64,
    pub(crate) failed_puts: AtomicU64,
    pub(crate) replaced: AtomicU64,
    pub(crate) hits: AtomicU64,
    /// Gets that gave nothing.
    pub(crate) misses: AtomicU64,
    pub(crate) flushed: AtomicU64,
    /// Flushes of pages that were not there.
    pub(crate) vain_flushes: AtomicU64,
}

/// What is seldom done.
#[derive(Debug, Default)]
pub struct RareCounters {
    pub(crate) lost: AtomicU64,
    pub(crate) no_memory: AtomicU64,
    pub(crate) object_flushes: AtomicU64,
    pub(crate) objects_flushed: AtomicU64,
}

/// A lane's counters of all pools.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Tally(pub [PoolCounters; POOLS]);

fn reset<const N: usize>(counters: [&AtomicU64; N]) {
    counters.into_iter().for_each(|counter| counter.store(0, Relaxed));
}

impl PoolCounters {
    fn reset(&self) {
        let Self { good_puts, failed_puts, replaced, hits, misses, flushed, vain_flushes } = self;
        reset([good_puts, failed_puts, replaced, hits, misses, flushed, vain_flushes]);
    }
}

impl RareCounters {
    fn reset(&self) {
        let Self { lost, no_memory, object_flushes, objects_flushed } = self;
        reset([lost, no_memory, object_flushes, objects_flushed]);
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// A pool is not shared.
const PRIVATE: u8 = 0xff;

/// A client's pool.
#[derive(Debug)]
pub struct Pool {
    /// Its life.
    pub life: Life,
    persistent: AtomicBool,
    /// Number of the shared pool that it stands for, or [`PRIVATE`].
    shared: AtomicU8,
    /// Whether its pages are compressed.
    pub compress: AtomicBool,
    uuid: Mutex<Uuid>,
    /// What has been done with it, apart from what lanes count ([`Client::counters`]).
    pub rare: RareCounters,
}

impl Pool {
    fn new() -> Self {
        Self {
            life: Life::new(),
            persistent: AtomicBool::new(false),
            shared: AtomicU8::new(PRIVATE),
            compress: AtomicBool::new(false),
            uuid: Mutex::new([0; 2]),
            rare: RareCounters::default(),
        }
    }

    /// Makes it, while it is free and nobody else makes one here. Its counters are for the caller to begin anew.
    fn open(&self, persistent: bool, shared: Option<usize>, uuid: Uuid, compress: bool) {
        self.persistent.store(persistent, Relaxed);
        self.shared.store(shared.map_or(PRIVATE, |index| index as u8), Relaxed);
        self.compress.store(compress, Relaxed);
        *self.uuid.lock() = uuid;
        self.rare.reset();
        self.life.set(State::Live);
    }

    /// Whether its pages stay.
    pub fn is_persistent(&self) -> bool {
        self.persistent.load(Relaxed)
    }

    /// The shared pool that it stands for.
    pub fn shared(&self) -> Option<usize> {
        let index = self.shared.load(Relaxed);
        (index != PRIVATE).then_some(usize::from(index))
    }

    /// The name it was made with.
    pub fn uuid(&self) -> Uuid {
        *self.uuid.lock()
    }
}

/// A client being saved.
#[derive(Debug, Default)]
pub(crate) struct Save {
    /// Whether it was frozen before.
    pub was_frozen: bool,
    /// The pool whose pages are being handed out.
    pub pool: Option<u8>,
    /// The shard that is being walked.
    pub shard: usize,
    /// The last entry of the log handed out, and its shard.
    pub entry: (usize, u32),
    /// The log is being cleared.
    pub ending: bool,
}

/// A client.
pub struct Client {
    /// Which one.
    pub id: ClientId,
    /// Its persistent pools.
    pub persistent: Arena,
    /// Its private ephemeral pools.
    pub ephemeral: Arena,
    /// All its pools.
    pub pools: [Pool; POOLS],
    tallies: Box<[Tally; LANES]>,
    pub(crate) closed: AtomicBool,
    pub(crate) frozen: AtomicBool,
    pub(crate) migrating: AtomicBool,
    pub(crate) compress: AtomicBool,
    pub(crate) deduplicate: AtomicBool,
    pub(crate) authorised: Mutex<ArrayVec<Uuid, SHARED_POOLS>>,
    pub(crate) save: Mutex<Save>,
}

impl Client {
    /// With no pools; `None` when there is no memory.
    pub(crate) fn try_new(id: ClientId, compress: bool, deduplicate: bool) -> Option<Self> {
        Some(Self {
            id,
            persistent: Arena::try_new(id, Kind::Persistent)?,
            ephemeral: Arena::try_new(id, Kind::Ephemeral)?,
            pools: core::array::from_fn(|_| Pool::new()),
            tallies: few(Tally::default)?,
            closed: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            migrating: AtomicBool::new(false),
            compress: AtomicBool::new(compress),
            deduplicate: AtomicBool::new(deduplicate),
            authorised: Mutex::new(ArrayVec::new_const()),
            save: Mutex::new(Save::default()),
        })
    }

    /// Pools it has.
    pub fn pool_count(&self) -> usize {
        self.pools.iter().filter(|pool| pool.life.state() != State::Free).count()
    }

    /// Makes a pool, while its slot is free and nobody else makes one there.
    pub(crate) fn open(&self, slot: usize, persistent: bool, shared: Option<usize>, uuid: Uuid) {
        self.tallies.iter().for_each(|tally| tally.0[slot].reset());
        self.pools[slot].open(persistent, shared, uuid, self.compress.load(Relaxed));
    }

    /// A lane's counters of a pool.
    pub(crate) fn counters(&self, slot: usize, lane: usize) -> &PoolCounters {
        &self.tallies[lane].0[slot]
    }

    /// All lanes' counters of a pool, taken together.
    pub(crate) fn sum(&self, slot: usize, get: impl Fn(&PoolCounters) -> &AtomicU64) -> u64 {
        self.tallies.iter().map(|tally| get(&tally.0[slot]).load(Relaxed)).fold(0, u64::wrapping_add)
    }

    /// The arena of one of its own pools.
    pub(crate) fn arena(&self, persistent: bool) -> &Arena {
        if persistent { &self.persistent } else { &self.ephemeral }
    }
}
