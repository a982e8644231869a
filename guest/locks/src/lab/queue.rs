//! The queued lock (Mellor-Crummey and Scott) with a wait and a kick: each waiter has a node, spins on it, and after a
//! while sleeps; the predecessor hands over and kicks it.
//!
//! Nodes are a table of the kernel's, [`NODES_PER_CPU`] for each CPU: one lock may be waited for in the thread, one in an
//! interrupt handler, and so on. Nobody loses a wake-up: a waiter that wants to sleep says so in its node's state by a
//! compare-and-exchange, the predecessor hands over by an exchange on the same word.

use super::SpinLock;
use crate::platform::{Platform, WaitKey};
use crate::sync::{AtomicU32, Ordering};

/// Locks that one CPU may wait for or hold at one time.
pub const NODES_PER_CPU: usize = 4;

const WAITING: u32 = 0;
const ASLEEP: u32 = 1;
const GRANTED: u32 = 2;

/// A place in a queue.
#[derive(Debug)]
pub struct Node {
    /// 0, or the number of the one behind + 1.
    next: AtomicU32,
    state: AtomicU32,
    /// Written by its own CPU only.
    used: AtomicU32,
}

impl Node {
    /// A node of three zeros.
    pub const fn with(next: AtomicU32, state: AtomicU32, used: AtomicU32) -> Self {
        Self { next, state, used }
    }
}

/// A kernel with a table of nodes.
pub trait QueuePlatform: Platform {
    /// The calling CPU.
    fn cpu(&self) -> usize;
    /// The nodes, [`NODES_PER_CPU`] for each CPU.
    fn nodes(&self) -> &[Node];
}

/// The queue: 0, or the number of the last in it + 1.
#[derive(Debug)]
pub(super) struct Queue {
    tail: AtomicU32,
}

impl Queue {
    pub(super) const fn with(tail: AtomicU32) -> Self {
        Self { tail }
    }

    /// Queues and waits until it is at the head; the node.
    pub(super) fn enter<P: QueuePlatform>(&self, platform: &P) -> u32 {
        let number = claim(platform);
        let node = &platform.nodes()[number as usize];
        node.next.store(0, Ordering::Relaxed);
        node.state.store(WAITING, Ordering::Relaxed);
        // Release: the node is ready. Acquire: what the last holder did, when the queue is empty.
        let before = self.tail.swap(number + 1, Ordering::AcqRel);
        if before != 0 {
            platform.nodes()[before as usize - 1].next.store(number + 1, Ordering::Release);
            wait(platform, node);
        }
        number
    }

    /// Leaves the head to the next.
    pub(super) fn leave<P: QueuePlatform>(&self, platform: &P, number: u32) {
        let node = &platform.nodes()[number as usize];
        let mut next = node.next.load(Ordering::Acquire);
        if next == 0 {
            if self.tail.compare_exchange(number + 1, 0, Ordering::Release, Ordering::Relaxed).is_ok() {
                node.used.store(0, Ordering::Relaxed);
                return;
            }
            // The one behind has entered and not said so yet.
            while next == 0 {
                platform.relax();
                next = node.next.load(Ordering::Acquire);
            }
        }
        let number = next - 1;
        if platform.nodes()[number as usize].state.swap(GRANTED, Ordering::AcqRel) == ASLEEP {
            platform.kick(number as usize / NODES_PER_CPU);
        }
        node.used.store(0, Ordering::Relaxed);
    }
}

fn claim<P: QueuePlatform>(platform: &P) -> u32 {
    let first = platform.cpu() * NODES_PER_CPU;
    let own = &platform.nodes()[first..first + NODES_PER_CPU];
    // An interrupt between the look and the mark gives back what it took.
    let free = own.iter().position(|node| node.used.load(Ordering::Relaxed) == 0);
    let index = free.expect("a CPU waits for more queued locks than it has nodes");
    own[index].used.store(1, Ordering::Relaxed);
    (first + index) as u32
}

fn wait<P: QueuePlatform>(platform: &P, node: &Node) {
    loop {
        for _ in 0..platform.spin_threshold().max(1) {
            if node.state.load(Ordering::Acquire) == GRANTED {
                return;
            }
            platform.relax();
        }
        if platform.can_block() {
            asleep(platform, core::ptr::from_ref(node).addr(), || {
                node.state.compare_exchange(WAITING, ASLEEP, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            });
            // Awake again; if this fails the state is `GRANTED`.
            let _ = node.state.compare_exchange(ASLEEP, WAITING, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Sleeps if `announce` says that a kick will come. An interrupt handler may wait for another lock meanwhile: what was
/// published tells it that there is an outer wait, which it has look again.
pub(super) fn asleep<P: Platform>(platform: &P, address: usize, announce: impl FnOnce() -> bool) {
    let interrupts = platform.interrupts_off();
    platform.clear_kick();
    let outer = platform.publish(Some(WaitKey::new(address, 1)));
    if announce() {
        platform.block(&interrupts);
    }
    platform.publish(outer);
    if outer.is_some() {
        platform.kick_self();
    }
    platform.interrupts_restore(interrupts);
}

/// The queued lock: the head of the queue has it.
#[derive(Debug)]
pub struct Queued {
    queue: Queue,
}

impl Queued {
    /// A free lock of a zero.
    pub const fn with(tail: AtomicU32) -> Self {
        Self { queue: Queue::with(tail) }
    }
}

impl<P: QueuePlatform> SpinLock<P> for Queued {
    type Token = u32;

    fn lock(&self, platform: &P) -> u32 {
        self.queue.enter(platform)
    }

    fn unlock(&self, platform: &P, node: u32) {
        self.queue.leave(platform, node);
    }
}
