//! A transcendent-memory store: pages that clients put into spare memory, found again by handle.
//!
//! The library keeps the books and decides what goes where; frames come through [`Frames`], and the page of a call
//! through [`GuestPage`]. It knows no hypercall: what a client's call means is Xen's `tmem_op`, as of the last tree
//! that had it (2019), and each [`Error`] is one of its answers.
//!
//! # What is where
//!
//! A [`Store`] has clients; a client has up to 16 pools, each persistent, ephemeral, or standing for a shared pool.
//! The pages of a client's pools of one kind, and those of a shared pool, are in an arena: an index from handles to
//! contents (`shard`) and the contents (`vault`), each in four shards with a lock of its own. All that is kept per
//! page is in frames too, charged to who pays for the page: nothing is allocated on a heap but a structure per client.
//! What each call of a client's changes is there once for each of a few lanes of CPUs (`account`).
//!
//! # What holds
//!
//! - What a get gives is what the last put of that handle was given, or nothing. A persistent page is there until it
//!   is flushed; a put that fails where there was a page leaves none.
//! - A copy to or from a guest is made with no lock held and before anything is unlinked. Lookups hold a reference to
//!   what they found (`refs`).
//! - Every frame is charged to one client from allocation to freeing. Eviction takes ephemeral pages only.
//! - Work per call is bounded: flushes stop at a budget and go on at the next call.
//!
//! # Locks
//!
//! A client's entry (for reading) is held over a whole call; the locks of shards and vaults are held for short
//! sequences, one at a time, and inside them only [`Frames::free`] and the frames' words are used. So the caller may
//! hold locks of its own that its [`Frames`] and [`GuestPage`] do not take.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod account;
mod arena;
mod client;
mod control;
mod evict;
mod filter;
mod frames;
mod pack;
mod pools;
mod refs;
mod save;
mod scratch;
mod shard;
mod shared;
mod slab;
mod store;
mod table;
mod vault;

pub use account::{Account, DEFAULT_WEIGHT};
pub use client::{NO_UUID, SHARED_POOLS, Uuid};
pub use control::{ClientInfo, PoolInfo};
pub use frames::{Charge, ClientId, Fault, Frame, Frames, GuestPage, Kind, LANES, PAGE_SIZE, Page, Shortage};
pub use save::SavedPage;
pub use scratch::Scratch;
pub use shard::{ObjectId, POOLS};
pub use store::{Config, Error, Handle, Progress, Store, StoreCounters, Tmem};
pub use vault::VaultFigures;
