//! Device registers whose accesses have an order, and a guard that waits for posted writes.
//!
//! A write to a device may be *posted*: it has left the processor and not arrived. Two processors that write to one
//! register, one after the other under a lock, may have their writes arrive in the other order:
//!
//! ```text
//! CPU A:  lock; status = read STATUS; write RING; unlock
//! CPU B:                                          lock; status = read STATUS; write RING; unlock
//! ```
//!
//! The lock orders the processors, not the bus between them and the device. A read from the same device pushes the
//! writes before it: whoever reads a *safe* register, one whose read has no effect, before the unlock makes his writes
//! arrive first. [`Flushed`] does so when it is dropped, before it lets the lock go, and only if something was written.
//!
//! A [`Device`] has a [`Bus`]; a [`Register`] says at its definition which accesses make sense, so that reading a
//! write-only register does not compile:
//!
//! ```compile_fail,E0277
//! use ebb_ordered_io::{Bus, Device, Register, WriteOnly};
//! const EOI: Register<u32, WriteOnly> = Register::at(0xb0);
//! fn wrong<B: Bus<u32>>(device: &Device<B>) -> u32 {
//!     device.read(EOI)
//! }
//! ```
//!
//! and only a register that was declared safe can be the one a guard reads:
//!
//! ```compile_fail,E0308
//! use ebb_ordered_io::{Bus, Device, ReadOnly, Register};
//! const FIFO: Register<u32, ReadOnly> = Register::at(0);
//! fn wrong<B: Bus<u32>>(bus: B) -> Device<B> {
//!     Device::new(bus, FIFO)
//! }
//! ```
//!
//! Locking: a [`Flushed`] wraps the guard of any lock around a [`Device`]. Specification: the kernel's text on ordering
//! I/O writes to memory-mapped addresses.
#![no_std]
#![forbid(unsafe_code)]

mod device;
mod register;

pub use device::{Bus, Device, Flushed};
pub use register::{ReadOnly, ReadWrite, Readable, Register, Safe, Writable, WriteOnly};
