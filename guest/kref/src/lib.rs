//! Reference counts for objects that several hold.
//!
//! The three rules of a [`Kref`]:
//!
//! 1. Who makes a copy of a reference that outlives the moment, above all one for another thread, calls [`Kref::get`]
//!    *before* handing it on. Whoever still holds a reference may do so without any lock.
//! 2. Who is done with a reference calls [`Kref::put`]. The one whose put answers "last" releases the object, nobody
//!    touches it afterwards.
//! 3. Who has no reference yet, and finds the object in some table, must keep the last put from happening between the
//!    finding and the get: by holding the table's lock, under which the last put happens too ([`Kref::put_lock`] hands
//!    that lock back), or by [`Kref::get_unless_zero`] while the memory at least stays what it is.
//!
//! A count saturates: beyond [`SATURATED`] it stays there and the object is never released. A leak is a nuisance, a
//! count that wraps is a use after free. Mistakes that the count can see (a get of a released object, a put too many)
//! answer with [`Misuse`] and saturate as well.
//!
//! Locking: none of its own. Specification: the text that came with Linux's kref in 2004, and its refcount's saturation.
#![no_std]
#![forbid(unsafe_code)]

mod kref;

/// The atomics, which a model checker replaces (`tests/loom.rs` includes `kref.rs` beside another such module).
mod sync {
    pub(crate) use core::sync::atomic::{AtomicU32, Ordering, fence};
}

pub use kref::{Kref, Misuse, SATURATED};
