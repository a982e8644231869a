//! A device behind a bus, ordered and relaxed access to it, and the guard.

use core::cell::Cell;
use core::ops::{Deref, DerefMut};

use crate::register::{Readable, Register, Safe, Writable};

/// The way to a device's registers of one width.
pub trait Bus<W> {
    /// Reads; ordered after this processor's earlier accesses to the same device, as on every bus, and nothing else.
    fn load(&self, offset: usize) -> W;
    /// Writes; posted: it may arrive later, but before this processor's later accesses to the same device.
    fn store(&self, offset: usize, value: W);
    /// Orders this processor's memory accesses and device accesses before the call with those after it. On x86, whose
    /// device memory is uncached, telling the compiler is enough.
    fn barrier(&self);
}

/// A device.
#[derive(Debug)]
pub struct Device<B> {
    bus: B,
    safe: Register<u32, Safe>,
    /// Something was written that no read has pushed yet.
    posted: Cell<bool>,
}

impl<B> Device<B> {
    /// The device on `bus`, whose writes are flushed by reading `safe`.
    pub const fn new(bus: B, safe: Register<u32, Safe>) -> Self {
        Self { bus, safe, posted: Cell::new(false) }
    }

    /// The bus.
    pub fn bus(&self) -> &B {
        &self.bus
    }

    /// Reads, ordered with this processor's memory accesses: what the device wrote to memory before is seen after.
    #[inline]
    pub fn read<W, A: Readable>(&self, register: Register<W, A>) -> W
    where
        B: Bus<W>,
    {
        let value = self.read_relaxed(register);
        self.bus.barrier();
        value
    }

    /// Reads, ordered with accesses to this device only.
    #[inline]
    pub fn read_relaxed<W, A: Readable>(&self, register: Register<W, A>) -> W
    where
        B: Bus<W>,
    {
        self.posted.set(false);
        self.bus.load(register.offset())
    }

    /// Writes, ordered with this processor's memory accesses: what was written to memory before, the device sees. The
    /// write is posted.
    #[inline]
    pub fn write<W, A: Writable>(&self, register: Register<W, A>, value: W)
    where
        B: Bus<W>,
    {
        self.bus.barrier();
        self.write_relaxed(register, value);
    }

    /// Writes, ordered with accesses to this device only.
    #[inline]
    pub fn write_relaxed<W, A: Writable>(&self, register: Register<W, A>, value: W)
    where
        B: Bus<W>,
    {
        self.bus.store(register.offset(), value);
        self.posted.set(true);
    }

    /// Sees to it that everything written has arrived.
    #[inline]
    pub fn flush(&self)
    where
        B: Bus<u32>,
    {
        if self.posted.get() {
            // For its effect on the way, not for the value.
            let _ = self.read(self.safe);
        }
    }
}

/// A lock's guard around a device: flushes before the lock is let go.
#[derive(Debug)]
#[must_use = "the lock is let go at once"]
pub struct Flushed<G: DerefMut<Target = Device<B>>, B: Bus<u32>> {
    guard: G,
}

impl<G: DerefMut<Target = Device<B>>, B: Bus<u32>> Flushed<G, B> {
    /// Around the lock's own guard.
    pub fn new(guard: G) -> Self {
        Self { guard }
    }
}

impl<G: DerefMut<Target = Device<B>>, B: Bus<u32>> Deref for Flushed<G, B> {
    type Target = Device<B>;

    fn deref(&self) -> &Device<B> {
        &self.guard
    }
}

impl<G: DerefMut<Target = Device<B>>, B: Bus<u32>> Drop for Flushed<G, B> {
    fn drop(&mut self) {
        // The guard is a field: it goes after this.
        self.guard.flush();
    }
}
