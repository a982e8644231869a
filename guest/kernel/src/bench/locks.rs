//! Rows about locks that nobody else wants.

use super::{Outcome, repeat};
use crate::mutex::{self, Mutex};
use crate::pv::Pv;
use core::hint::black_box;
use core::sync::atomic::AtomicU32;
use ebb_guest_hypercall::Errno;
use ebb_locks::lab::{PlainTicket, SpinLock};
use ebb_locks::{RawTicketLock, Small};

fn lock_and_unlock<L: SpinLock<Pv>>(lock: &L) -> Outcome {
    repeat(|| {
        // Of the lock's place nothing is known, as in a kernel.
        let lock = black_box(lock);
        let token = lock.lock(&Pv);
        lock.unlock(&Pv, token);
        Ok::<(), Errno>(())
    })
}

/// The ticketlock that never sleeps.
pub fn native() -> Outcome {
    lock_and_unlock(&PlainTicket::with(AtomicU32::new(0)))
}

/// The one that does.
pub fn pv() -> Outcome {
    lock_and_unlock(&RawTicketLock::new(Small::new(0)))
}

static MUTEX: Mutex<()> = mutex::new("bench", ());

/// The mutex, by a thread.
pub fn mutex() -> Outcome {
    repeat(|| {
        drop(black_box(&MUTEX).lock());
        Ok::<(), Errno>(())
    })
}
