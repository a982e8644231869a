//! A kernel of one thread, for the examples in this crate's documentation.

use crate::sync::AtomicU16;
use crate::{Mutex, TaskId, Tasks, Unchecked};

/// The one thread.
#[derive(Debug, Default)]
pub struct Single(AtomicU16);

impl Tasks for Single {
    fn current(&self) -> TaskId {
        TaskId(0)
    }

    fn link(&self, _: TaskId) -> &AtomicU16 {
        &self.0
    }

    fn park(&self) {
        core::hint::spin_loop();
    }

    fn unpark(&self, _: TaskId) {}

    fn relax(&self) {
        core::hint::spin_loop();
    }
}

/// A mutex of that kernel.
pub fn mutex(value: u32) -> Mutex<u32, Single> {
    Mutex::new(value, Single::default(), Unchecked)
}
