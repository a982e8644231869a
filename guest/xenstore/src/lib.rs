//! A XenStore server as a state machine: bytes of requests in, bytes of replies and watch events out.
//!
//! It knows nothing of rings, event channels or mappings: whoever holds a [`Server`] moves bytes between it and each
//! domain's ring with [`Server::input`] and [`Server::output`], tells it which domains come and go, and has the tree to
//! itself through [`Server::write`], [`Server::read`] and [`Server::watch`]. Clients are hostile: everything they make
//! the server keep is counted and bounded by [`Quotas`], a client that does not read its ring is not read from, and
//! watch events that find no room are merged, never lost.
//!
//! Modules: `path` and `permissions` (the rules), `store` (everyone's tree), `transaction` (a log over it), `view` (the
//! tree's operations for one caller), `client` (a connection's bytes and events), `server` (the whole), `domains`
//! (who is there), `request` (the wire's requests), `owner` (the holder's own calls); [`ring`] is the transport over a
//! shared page, for holders that have one.
//!
//! Locking: none; one `&mut Server` at a time. Specification: Xen's `docs/misc/xenstore.txt` and `io/xs_wire.h`; where
//! they are silent, what xenstored does. Differences are listed in `docs/xenstore.md`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod client;
mod domains;
mod owner;
mod path;
mod permissions;
mod quotas;
mod request;
pub mod ring;
mod server;
mod store;
mod transaction;
mod view;

pub use client::Broken;
pub use domains::Notice;
pub use owner::Event;
pub use path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN};
pub use permissions::{Access, Permission};
pub use quotas::{Quotas, Usage};
pub use server::Server;
