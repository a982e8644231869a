//! Registers: a place, a width, and what may be done with them.

use core::marker::PhantomData;

/// May be read. A read may have effects.
#[derive(Clone, Copy, Debug)]
pub struct ReadOnly;
/// May be written.
#[derive(Clone, Copy, Debug)]
pub struct WriteOnly;
/// May be read and written.
#[derive(Clone, Copy, Debug)]
pub struct ReadWrite;
/// May be read, and a read has no effect: what a flush reads.
#[derive(Clone, Copy, Debug)]
pub struct Safe;

/// Kinds of registers that may be read.
pub trait Readable {}
/// Kinds of registers that may be written.
pub trait Writable {}

impl Readable for ReadOnly {}
impl Readable for ReadWrite {}
impl Readable for Safe {}
impl Writable for WriteOnly {}
impl Writable for ReadWrite {}

/// A register of a device: `W` is its width (`u8` to `u64`), `A` one of [`ReadOnly`], [`WriteOnly`], [`ReadWrite`] and
/// [`Safe`].
#[derive(Debug)]
pub struct Register<W, A> {
    offset: usize,
    kind: PhantomData<fn(W) -> (W, A)>,
}

// Not derived: neither the width nor the kind has to be `Clone`.
impl<W, A> Clone for Register<W, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W, A> Copy for Register<W, A> {}

impl<W, A> Register<W, A> {
    /// The register at `offset` from the device's beginning; what an offset is, the bus says.
    pub const fn at(offset: usize) -> Self {
        Self { offset, kind: PhantomData }
    }

    /// The one of a row of registers that is `index` places of `stride` further.
    pub const fn nth(self, index: usize, stride: usize) -> Self {
        Self::at(self.offset + index * stride)
    }

    /// Its place.
    pub const fn offset(self) -> usize {
        self.offset
    }
}
