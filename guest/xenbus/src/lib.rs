//! A XenStore client.
//!
//! Three layers, of which a kernel takes what it needs:
//!
//! - [`Connection`] is the protocol alone: requests go in, replies come out by their number, watch events queue up. It
//!   never waits and sends no event; [`Connection::poll`] moves the bytes and says whether the server has to be told.
//! - [`Exchange`] is one request and its reply, waited for. [`Store`] has the operations over it: read, write, lists,
//!   permissions, watches, transactions that are tried again when they conflict.
//! - [`Blocking`] is an [`Exchange`] for a client of one thread: a connection and a [`Signal`] (how to send on the event
//!   channel and how to wait for it). A kernel with threads writes its own, around a lock and a queue of waiters; Ebb's
//!   is `guest/kernel/src/xenstore.rs`.
//!
//! The server is not believed blindly: a payload longer than the protocol allows or an index that claims too much breaks
//! the connection ([`Fault`]), unknown replies are dropped, equal events are merged and their number is bounded, which
//! [`Connection::take_events_lost`] reports.
//!
//! ```
//! # use ebb_xenbus::{Error, Exchange, Store};
//! # fn example(exchange: &impl Exchange) -> Result<(), Error> {
//! let store = Store::new(exchange);
//! let target = store.read_number("memory/target")?;
//! store.watch("memory/target", "target")?;
//! store.transaction(|inside| inside.write("data/seen", target.to_string().as_bytes()))?;
//! # Ok(())
//! # }
//! ```
//!
//! Locking: none in here. Specification: Xen's `docs/misc/xenstore.txt`, `docs/misc/xenstore-ring.txt`, `io/xs_wire.h`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod blocking;
mod connection;
mod error;
mod store;

pub use blocking::{Blocking, Signal};
pub use connection::{Connection, Event, MAX_EVENTS, Request};
pub use error::{Error, Fault};
pub use store::{Exchange, Store, TRANSACTION_ATTEMPTS};
