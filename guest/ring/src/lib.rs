//! Byte rings in a page that is shared with another domain: XenStore's and the console's, either side of each.
//!
//! The peer may be hostile and may change any byte at any time. Therefore:
//!
//! - An end keeps its own index to itself and only ever writes it to the page; what the peer makes of that word does
//!   not matter.
//! - The peer's index is read once per use and believed only when the bytes it claims fit in the ring; else the use
//!   ends with [`BadIndex`], and what to do about it is the caller's business.
//! - Bytes are copied out before anyone looks at them.
//!
//! A page is anything that is a [`Page`]. An array of 1024 atomic words is one, so that a mapped page can be referred to
//! as one; [`SharedPage`] is such an array with a page's alignment. Neither end signals anything: the caller sends an event after whatever changed an index, as these protocols ask.
//!
//! Locking: none; each end has one user at a time (`&mut`). Memory order: the producer's bytes are written before its
//! index is released, and read after it was acquired; a consumer's bytes are read before its index is released.
//! Specification: `io/xs_wire.h`, `docs/misc/xenstore-ring.txt`, `io/console.h`.
#![no_std]
#![forbid(unsafe_code)]

mod end;
mod page;

pub use end::{BadIndex, Consumer, Layout, Producer};
pub use page::{PAGE_SIZE, Page, SharedPage};
