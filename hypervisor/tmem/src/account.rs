//! What each client holds, who gives way when memory is short, and the way to the client itself.
//!
//! A CPU that works for a client changes only its own lane of the account: it counts frames against a few that the lane
//! has spare, and holds the lane's lock (for reading) as long as it uses the client. So CPUs that work for one client
//! at once do not fetch each other's cache lines.
//!
//! Invariants: frames held of a kind are `held` less what the lanes have spare; nothing is taken that would bring `held`
//! above the cap, and nothing that is spare while it is above a cap that has become lower.
//!
//! Locking: `home` is taken to make and to end the client and its pools. A lane's lock is taken for writing to make the
//! client known and to forget it, and to see that nobody who came in earlier is still there ([`Account::is_deserted`]).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};

use spin::{Mutex, MutexGuard, RwLock, RwLockReadGuard};

use crate::client::Client;
use crate::frames::{Charge, Frame, Frames, Kind, LANES, Shortage};

/// The weight a client starts with.
pub const DEFAULT_WEIGHT: u32 = 256;
/// Frames that a lane gets at a time. It has twice as many spare at most.
const BATCH: u64 = 16;

/// No element, or the client: a `Vec`, because making it can fail without taking the machine down.
type Home = Vec<Client>;

/// A CPU's part of an account.
#[derive(Default)]
#[repr(align(64))]
struct Lane {
    client: RwLock<Option<Arc<Home>>>,
    spare: [AtomicU64; 2],
}

/// One client's books, in frames.
pub struct Account {
    lanes: [Lane; LANES],
    /// Never given away but to the lanes, so it is the only one when they have none.
    home: Mutex<Arc<Home>>,
    /// Frames by kind, those included that lanes have spare.
    held: [AtomicU64; 2],
    /// Ephemeral frames that other clients' puts cannot take.
    floor: AtomicU64,
    /// The most ephemeral frames.
    cap: AtomicU64,
    weight: AtomicU32,
}

/// A client that is there as long as this exists.
pub(crate) struct Entry<'a>(RwLockReadGuard<'a, Option<Arc<Home>>>);

impl core::ops::Deref for Entry<'_> {
    type Target = Client;
    fn deref(&self) -> &Client {
        self.0.as_ref().and_then(|home| home.first()).expect("checked when it was made")
    }
}

/// A client that nobody else makes or ends, nor its pools.
pub(crate) struct Governed<'a>(MutexGuard<'a, Arc<Home>>);

impl Governed<'_> {
    /// The client, if there is one.
    pub fn client(&self) -> Option<&Client> {
        self.0.first()
    }
}

impl Account {
    /// A client's that has nothing.
    pub fn new() -> Self {
        Self {
            lanes: Default::default(),
            home: Mutex::new(Arc::new(Vec::new())),
            held: [const { AtomicU64::new(0) }; 2],
            floor: AtomicU64::new(0),
            cap: AtomicU64::new(u64::MAX),
            weight: AtomicU32::new(DEFAULT_WEIGHT),
        }
    }

    /// Frames held of a kind, metadata included. While it changes, some number of that time.
    pub fn frames(&self, kind: Kind) -> u64 {
        let held = self.held[kind as usize].load(Relaxed);
        if held == 0 {
            return 0;
        }
        let spare = self.lanes.iter().map(|lane| lane.spare[kind as usize].load(Relaxed));
        held.saturating_sub(spare.sum())
    }

    /// Its weight.
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Sets its weight. At 0 it gives way before all others.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// Its floor and cap of ephemeral frames.
    pub fn limits(&self) -> (u64, u64) {
        (self.floor.load(Relaxed), self.cap.load(Relaxed))
    }

    /// Sets its floor and cap of ephemeral frames. Above a new cap nothing is taken away: it cannot grow.
    pub fn set_limits(&self, floor: u64, cap: u64) {
        self.floor.store(floor, Relaxed);
        self.cap.store(cap, Relaxed);
    }

    /// How much more than its share a client has; `None` when there is nothing to take. `below` counts what is below
    /// the floor too.
    pub(crate) fn excess(&self, below: bool) -> Option<u64> {
        let held = self.frames(Kind::Ephemeral);
        let floor = if below { 0 } else { self.floor.load(Relaxed) };
        let above = held.saturating_sub(floor);
        (above != 0).then(|| match self.weight() {
            0 => u64::MAX,
            weight => (above << 20) / u64::from(weight),
        })
    }

    /// Counts one more frame; false at the cap.
    fn take(&self, kind: Kind, lane: usize) -> bool {
        let spare = &self.lanes[lane].spare[kind as usize];
        let cap = if kind == Kind::Ephemeral { self.cap.load(Relaxed) } else { u64::MAX };
        // Above a cap that has become lower, what is spare is not for taking.
        let within = cap == u64::MAX || self.held[kind as usize].load(Relaxed) <= cap;
        if within && spare.try_update(Relaxed, Relaxed, |spare| spare.checked_sub(1)).is_ok() {
            return true;
        }
        let enter = |count: u64| {
            let within = |held: u64| held.checked_add(count).filter(|held| *held <= cap);
            self.held[kind as usize].try_update(Relaxed, Relaxed, within).is_ok()
        };
        if enter(BATCH) {
            spare.fetch_add(BATCH - 1, Relaxed);
            return true;
        }
        // Close to the cap, what other lanes have spare counts.
        self.gather(kind);
        enter(1)
    }

    /// Counts one frame less.
    fn give(&self, kind: Kind, lane: usize) {
        let spare = &self.lanes[lane].spare[kind as usize];
        if spare.fetch_add(1, Relaxed) < 2 * BATCH {
            return;
        }
        if spare.try_update(Relaxed, Relaxed, |spare| spare.checked_sub(BATCH)).is_ok() {
            self.held[kind as usize].fetch_sub(BATCH, Relaxed);
        }
    }

    /// Takes back what the lanes have spare.
    fn gather(&self, kind: Kind) {
        let spare: u64 = self.lanes.iter().map(|lane| lane.spare[kind as usize].swap(0, Relaxed)).sum();
        self.held[kind as usize].fetch_sub(spare, Relaxed);
    }

    /// The client, if there is one, for a CPU.
    pub(crate) fn enter(&self, cpu: usize) -> Option<Entry<'_>> {
        let guard = self.lanes[cpu % LANES].client.read();
        guard.is_some().then_some(Entry(guard))
    }

    /// To make or end the client or its pools.
    pub(crate) fn govern(&self) -> Governed<'_> {
        Governed(self.home.lock())
    }

    /// The same, if nobody else does so just now.
    pub(crate) fn try_govern(&self) -> Option<Governed<'_>> {
        self.home.try_lock().map(Governed)
    }

    /// Makes the client; false when there is no memory. There must be none.
    pub(crate) fn install(&self, governed: &mut Governed<'_>, client: impl FnOnce() -> Option<Client>) -> bool {
        let home = Arc::get_mut(&mut governed.0).expect("the lanes know of no client");
        if home.try_reserve_exact(1).is_err() {
            return false;
        }
        let Some(client) = client() else { return false };
        home.push(client);
        for lane in &self.lanes {
            *lane.client.write() = Some(governed.0.clone());
        }
        true
    }

    /// Whether everybody has left the client who came in before this call. Those who come in later know what was decided
    /// before it: each lane's lock is between the two. False when somebody is there just now.
    pub(crate) fn is_deserted(&self) -> bool {
        self.lanes.iter().all(|lane| lane.client.try_write().is_some())
    }

    /// Forgets the client, whose account is empty, if nobody uses it. False when somebody does; then some CPUs may not
    /// know it any more.
    pub(crate) fn remove(&self, governed: &mut Governed<'_>) -> bool {
        let forgotten = |lane: &Lane| lane.client.try_write().map(|mut client| *client = None).is_some();
        if !self.lanes.iter().all(forgotten) {
            return false;
        }
        // Freed here, and what is spare is nobody's.
        *Arc::get_mut(&mut governed.0).expect("no lane knows it") = Vec::new();
        [Kind::Ephemeral, Kind::Persistent].into_iter().for_each(|kind| self.gather(kind));
        self.set_limits(0, u64::MAX);
        self.set_weight(DEFAULT_WEIGHT);
        true
    }
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}

/// A charge with the books it is entered into.
pub struct Payer<'a, F: Frames> {
    /// The frames.
    pub frames: &'a F,
    account: &'a Account,
    charge: Charge,
    lane: usize,
    freed: Cell<u64>,
}

impl<'a, F: Frames> Payer<'a, F> {
    /// The payer of a charge.
    pub fn new(frames: &'a F, account: &'a Account, charge: Charge) -> Self {
        Self { frames, account, charge, lane: frames.cpu() % LANES, freed: Cell::new(0) }
    }

    /// Who pays, for what.
    pub fn charge(&self) -> Charge {
        self.charge
    }

    /// This CPU's lane.
    pub fn lane(&self) -> usize {
        self.lane
    }

    /// Frames given back through this value.
    pub fn freed(&self) -> u64 {
        self.freed.get()
    }

    /// A frame, cleared if it must be, if there is one just so.
    pub fn allocate(&self, clear: bool) -> Result<Frame, Shortage> {
        if !self.account.take(self.charge.kind, self.lane) {
            return Err(Shortage::Maximum);
        }
        let frame = if clear { self.frames.allocate(self.charge) } else { self.frames.allocate_any(self.charge) };
        frame.inspect_err(|_| self.account.give(self.charge.kind, self.lane))
    }

    /// Gives one back.
    pub fn free(&self, frame: Frame) {
        self.freed.set(self.freed.get() + 1);
        self.frames.free(frame, self.charge);
        self.account.give(self.charge.kind, self.lane);
    }
}
