//! The laboratory: locks to compare the PV ticketlock with, behind one trait.
//!
//! | lock | fair | waiters sleep | what it shows |
//! |---|---|---|---|
//! | [`TestAndSet`] | no | no | the simplest; whoever runs takes it |
//! | [`PlainTicket`] | yes | no | what a native kernel had; collapses when the next in line does not run |
//! | [`Preemptable`] | nearly | no | a ticketlock that lets later ones pass after a time that grows with their place |
//! | [`crate::RawTicketLock`] | yes | yes | the PV ticketlock |
//! | [`Queued`] | yes | yes | MCS: each waiter spins on its own word |
//! | [`Hybrid`] | bounded | yes | steals first, queues then; a head that was passed too often bars thieves |
//!
//! Those whose waiters sleep do so only where [`Platform::can_block`] says so: each is its own native variant.

mod hybrid;
mod queue;
mod simple;

pub use hybrid::Hybrid;
pub use queue::{NODES_PER_CPU, Node, QueuePlatform, Queued};
pub use simple::{PlainTicket, Preemptable, TestAndSet};

use crate::platform::Platform;

/// A spinlock without data.
pub trait SpinLock<P: Platform> {
    /// What the holder has, and gives back.
    type Token;

    /// Waits for the lock.
    fn lock(&self, platform: &P) -> Self::Token;
    /// Lets it go.
    fn unlock(&self, platform: &P, token: Self::Token);
}
