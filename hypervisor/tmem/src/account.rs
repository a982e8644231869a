//! What each client holds, and who gives way when memory is short. Counts change with every frame, without locks.

use core::cell::Cell;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::frames::{Charge, Frame, Frames, Kind, Shortage};

/// The weight a client starts with.
pub const DEFAULT_WEIGHT: u32 = 256;

/// One client's books, in frames.
#[derive(Debug)]
pub struct Account {
    ephemeral: AtomicU64,
    persistent: AtomicU64,
    /// Ephemeral frames that other clients' puts cannot take.
    floor: AtomicU64,
    /// The most ephemeral frames.
    cap: AtomicU64,
    weight: AtomicU32,
}

impl Account {
    /// A client's that has nothing.
    pub const fn new() -> Self {
        Self {
            ephemeral: AtomicU64::new(0),
            persistent: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            cap: AtomicU64::new(u64::MAX),
            weight: AtomicU32::new(DEFAULT_WEIGHT),
        }
    }

    /// Frames held of a kind, metadata included.
    pub fn frames(&self, kind: Kind) -> u64 {
        self.counter(kind).load(Relaxed)
    }

    fn counter(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Ephemeral => &self.ephemeral,
            Kind::Persistent => &self.persistent,
        }
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

    /// As new, for the next client of the same number.
    pub(crate) fn reset(&self) {
        self.set_limits(0, u64::MAX);
        self.set_weight(DEFAULT_WEIGHT);
    }

    /// How much more than its share a client has; `None` when there is nothing to take. `below` counts what is below
    /// the floor too.
    pub(crate) fn excess(&self, below: bool) -> Option<u64> {
        let held = self.ephemeral.load(Relaxed);
        let floor = if below { 0 } else { self.floor.load(Relaxed) };
        let above = held.saturating_sub(floor);
        (above != 0).then(|| match self.weight() {
            0 => u64::MAX,
            weight => (above << 20) / u64::from(weight),
        })
    }

    fn take(&self, kind: Kind) -> bool {
        let held = self.counter(kind).fetch_add(1, Relaxed);
        if kind == Kind::Ephemeral && held >= self.cap.load(Relaxed) {
            self.counter(kind).fetch_sub(1, Relaxed);
            return false;
        }
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
    freed: Cell<u64>,
}

impl<'a, F: Frames> Payer<'a, F> {
    /// The payer of a charge.
    pub fn new(frames: &'a F, account: &'a Account, charge: Charge) -> Self {
        Self { frames, account, charge, freed: Cell::new(0) }
    }

    /// Who pays, for what.
    pub fn charge(&self) -> Charge {
        self.charge
    }

    /// Frames given back through this value.
    pub fn freed(&self) -> u64 {
        self.freed.get()
    }

    /// A frame, cleared if it must be, if there is one just so.
    pub fn allocate(&self, clear: bool) -> Result<Frame, Shortage> {
        if !self.account.take(self.charge.kind) {
            return Err(Shortage::Maximum);
        }
        let frame = if clear { self.frames.allocate(self.charge) } else { self.frames.allocate_any(self.charge) };
        frame.inspect_err(|_| {
            self.account.counter(self.charge.kind).fetch_sub(1, Relaxed);
        })
    }

    /// Gives one back.
    pub fn free(&self, frame: Frame) {
        self.freed.set(self.freed.get() + 1);
        self.frames.free(frame, self.charge);
        self.account.counter(self.charge.kind).fetch_sub(1, Relaxed);
    }
}
