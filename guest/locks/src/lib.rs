//! Spinlocks that know they are virtual.
//!
//! A fair spinlock on a virtual machine has a flaw: the next in line may not be running, and everyone behind it burns
//! whole time slices waiting for it. [`RawTicketLock`] is the ticketlock as it always was while nobody waits long; a
//! waiter that has spun in vain blocks its vCPU, and the unlocker kicks the one whose turn it is.
//!
//! What the lock needs of the kernel around it is the trait [`Platform`]; what it needs of the processor is [`Word`]. Both
//! can be replaced, so that another kernel can take the lock, and so that a model checker can run it (`tests/loom.rs`).
//!
//! Locking: this is where it comes from. Specification: the shape of the lock follows the text that came with Linux's
//! PV ticketlocks in 2012; `docs/locks.md` says what differs and why.
#![no_std]
#![deny(unsafe_code)]

pub mod lab;
mod lock;
mod platform;
mod sync;
mod ticket;
mod word;

pub use lock::{TicketGuard, TicketLock};
pub use platform::{Platform, WaitKey, WaitTable};
pub use ticket::{RawTicketLock, Ticket};
pub use word::{Large, Small, Word};
