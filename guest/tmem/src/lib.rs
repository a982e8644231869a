//! Cleancache and frontswap: what a kernel does with transcendent memory.
//!
//! [`Cleancache`] keeps clean page-cache pages that were reclaimed in ephemeral pools: the hypervisor may drop them at
//! any time, and a miss costs no more than a call. [`Frontswap`] keeps swapped pages in a persistent pool: what was taken
//! stays until the guest forgets it, and what was refused goes to the swap device.
//!
//! Neither knows a hypercall: they are given [`Calls`] each time. Neither allocates while memory is short (frontswap's
//! bitmap is made at swapon), neither is `unsafe`, and nothing that the other side of [`Calls`] answers makes them panic.
//!
//! What a caller may rely on:
//!
//! - **No stale page.** Cleancache never gives a page that was put before the last invalidation of its key; a put that
//!   fails in a way that may have left an older page there is followed by a flush.
//! - **No lost page.** Frontswap says that it has a page exactly while the hypervisor answered 1 to its put and nobody
//!   has invalidated it. If the hypervisor breaks its promise, the load says so ([`Lost`]).
//! - **Without transcendent memory** (a pool refused) every get misses, every store is refused, and no call is made.
//!
//! Specification: Linux's `mm/cleancache.c`, `mm/frontswap.c` and `drivers/xen/tmem.c` (3.0 to 5.2) for the protocol
//! and the object numbers; Xen's `tmem.h` for the answers.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod calls;
mod cleancache;
mod frontswap;

pub use calls::{Calls, EPHEMERAL_POOL, PERSISTENT_POOL, PoolId, SHARED_POOL, Uuid};
pub use cleancache::{CacheStats, Cleancache, FileSystem, MAX_FILE_SYSTEMS};
pub use frontswap::{Frontswap, Lost, MAX_AREAS, SlotId, SwapStats};
