//! What a mutex needs of the kernel around it.

use crate::sync::AtomicU16;

/// A thread, by its place in the kernel's table. The place is the thread's for as long as it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId(pub u16);

impl TaskId {
    /// No thread has this number.
    pub const NONE: u16 = u16::MAX;
}

/// The kernel's threads. A mutex is given one, usually of no size.
pub trait Tasks {
    /// The calling thread.
    fn current(&self) -> TaskId;
    /// A word for each thread, which the one wait list it is in uses. It starts as anything.
    fn link(&self, task: TaskId) -> &AtomicU16;
    /// Sleeps until the calling thread has been unparked since its last park. May return early.
    fn park(&self);
    /// Ends a thread's park, or lets its next return at once.
    fn unpark(&self, task: TaskId);
    /// A pause while another thread is in the few instructions that the wait list takes.
    fn relax(&self);
    /// Whether the calling thread shall give up an interruptible wait.
    fn is_interrupted(&self) -> bool {
        false
    }
}
