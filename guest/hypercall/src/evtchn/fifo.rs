//! The FIFO ABI: an event word per port, linked into one queue per priority and vCPU.
//!
//! The hypervisor appends a port by setting its LINKED bit and writing the link into the tail's word; the guest takes
//! the head by clearing its LINKED bit and following the link. A queue is empty when the word taken has link 0. Between
//! the control block (where the hypervisor announces a head) and the guest stands the guest's own note of the head,
//! which is touched by its vCPU alone.

use crate::shared::{ControlBlock, EventPage, Slot};
use core::sync::atomic::{AtomicU32, Ordering};
use shared_abi::event_channel as abi;
use shared_abi::xen::Port;

const PENDING: u32 = 1 << abi::FIFO_PENDING;
const MASKED: u32 = 1 << abi::FIFO_MASKED;
const LINKED: u32 = 1 << abi::FIFO_LINKED;
const BUSY: u32 = 1 << abi::FIFO_BUSY;
const PAGES: usize = abi::FIFO_MAX_EVENT_ARRAY_PAGES as usize;

/// vCPUs that can have a control block here.
pub const MAX_VCPUS: usize = 64;

/// One vCPU's queues.
#[derive(Debug)]
struct Queues {
    control: Slot<ControlBlock>,
    /// The next port of each queue, as far as this vCPU has followed it; 0: ask the control block.
    head: [AtomicU32; abi::FIFO_MAX_QUEUES],
}

/// The domain's event words and the vCPUs' queues.
#[derive(Debug)]
pub struct Fifo {
    pages: [Slot<EventPage>; PAGES],
    count: AtomicU32,
    queues: [Queues; MAX_VCPUS],
}

impl Default for Fifo {
    fn default() -> Self {
        Self::new()
    }
}

impl Fifo {
    /// Without any page or control block.
    pub const fn new() -> Self {
        Self {
            pages: [const { Slot::new() }; PAGES],
            count: AtomicU32::new(0),
            queues: [const { Queues { control: Slot::new(), head: [const { AtomicU32::new(0) }; abi::FIFO_MAX_QUEUES] } };
                MAX_VCPUS],
        }
    }

    /// Ports that have an event word.
    pub fn capacity(&self) -> u32 {
        self.count.load(Ordering::Acquire) * abi::FIFO_EVENT_WORDS_PER_PAGE
    }

    /// Adds a page, which must be given to the hypervisor (`expand_array`) right after. Its ports start masked.
    /// False when there are enough. Not to be called by two vCPUs at once.
    pub fn add_page(&self, page: &'static EventPage) -> bool {
        let count = self.count.load(Ordering::Acquire);
        let Some(slot) = self.pages.get(count as usize) else {
            return false;
        };
        for word in page {
            word.store(MASKED, Ordering::Relaxed);
        }
        slot.set(page);
        self.count.store(count + 1, Ordering::Release);
        true
    }

    /// Sets a vCPU's control block, which must be given to the hypervisor (`init_control`) too. False when the vCPU's
    /// number is too large.
    pub fn set_control(&self, vcpu: usize, control: &'static ControlBlock) -> bool {
        self.queues.get(vcpu).is_some_and(|queues| {
            queues.control.set(control);
            true
        })
    }

    fn word(&self, port: Port) -> Option<&'static AtomicU32> {
        let per_page = abi::FIFO_EVENT_WORDS_PER_PAGE as usize;
        let page = self.pages.get(port.index() / per_page)?.get()?;
        page.get(port.index() % per_page)
    }

    /// Is an event pending? False for a port without a word.
    pub fn is_pending(&self, port: Port) -> bool {
        self.word(port).is_some_and(|word| word.load(Ordering::SeqCst) & PENDING != 0)
    }

    /// Is the port masked? True for a port without a word.
    pub fn is_masked(&self, port: Port) -> bool {
        self.word(port).is_none_or(|word| word.load(Ordering::SeqCst) & MASKED != 0)
    }

    /// Takes a pending event; was there one?
    pub fn clear_pending(&self, port: Port) -> bool {
        self.word(port).is_some_and(|word| word.fetch_and(!PENDING, Ordering::SeqCst) & PENDING != 0)
    }

    /// Masks a port.
    pub fn mask(&self, port: Port) {
        if let Some(word) = self.word(port) {
            word.fetch_or(MASKED, Ordering::SeqCst);
        }
    }

    /// Unmasks a port that has nothing pending; false when it has, and the hypervisor must be asked to unmask and
    /// deliver it. The BUSY bit is the hypervisor's sign that it is moving the word: wait for it.
    pub fn unmask(&self, port: Port) -> bool {
        let Some(word) = self.word(port) else {
            return false;
        };
        let mut old = word.load(Ordering::SeqCst);
        loop {
            if old & PENDING != 0 {
                return false;
            }
            let expected = old & !BUSY;
            match word.compare_exchange_weak(expected, expected & !MASKED, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    /// Hands the pending and unmasked events on the vCPU's queues, most urgent first, to `handle`.
    pub fn drain(&self, vcpu: usize, mut handle: impl FnMut(Port)) {
        let Some(queues) = self.queues.get(vcpu) else {
            return;
        };
        let Some(control) = queues.control.get() else {
            return;
        };
        let mut ready = control.ready.swap(0, Ordering::SeqCst);
        while ready != 0 {
            let priority = ready.trailing_zeros() as usize;
            if priority >= abi::FIFO_MAX_QUEUES || !self.consume(queues, control, priority, &mut handle) {
                ready &= ready - 1;
            }
            ready |= control.ready.swap(0, Ordering::SeqCst);
        }
    }

    /// Takes one port off a queue; false when that was the last.
    fn consume(&self, queues: &Queues, control: &ControlBlock, priority: usize, handle: &mut impl FnMut(Port)) -> bool {
        let mut head = queues.head[priority].load(Ordering::Relaxed);
        if head == 0 {
            head = control.head[priority].load(Ordering::Acquire);
        }
        let port = Port(head);
        let Some(word) = self.word(port) else {
            // Only a broken hypervisor links a port that has no word: drop the queue.
            queues.head[priority].store(0, Ordering::Relaxed);
            return false;
        };
        let next = unlink(word);
        queues.head[priority].store(next, Ordering::Relaxed);
        let old = word.load(Ordering::SeqCst);
        if old & MASKED == 0 && word.fetch_and(!PENDING, Ordering::SeqCst) & PENDING != 0 {
            handle(port);
        }
        next != 0
    }
}

/// Clears the LINKED bit and the link, atomically with respect to the hypervisor appending; the old link.
fn unlink(word: &AtomicU32) -> u32 {
    let mut old = word.load(Ordering::SeqCst);
    loop {
        let new = old & !(LINKED | abi::FIFO_LINK_MASK);
        match word.compare_exchange_weak(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return old & abi::FIFO_LINK_MASK,
            Err(now) => old = now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hypervisor's half, from Xen's design of the ABI: append to the tail, or announce a new head.
    struct Sender {
        tail: [u32; abi::FIFO_MAX_QUEUES],
    }

    impl Sender {
        fn send(&mut self, fifo: &Fifo, control: &ControlBlock, port: u32, priority: usize) {
            let word = fifo.word(Port(port)).unwrap();
            let old = word.fetch_or(PENDING, Ordering::SeqCst);
            if old & (MASKED | LINKED) != 0 {
                return;
            }
            word.fetch_or(LINKED, Ordering::SeqCst);
            let tail = self.tail[priority];
            let mut linked = false;
            if tail != 0 {
                let tail_word = fifo.word(Port(tail)).unwrap();
                let old = tail_word.load(Ordering::SeqCst);
                // A tail that is no longer linked was consumed: the queue is empty.
                if old & LINKED != 0 && tail != port {
                    tail_word.store(old & !abi::FIFO_LINK_MASK | port, Ordering::SeqCst);
                    linked = true;
                }
            }
            if !linked {
                control.head[priority].store(port, Ordering::SeqCst);
                control.ready.fetch_or(1 << priority, Ordering::SeqCst);
            }
            self.tail[priority] = port;
        }
    }

    fn set_up() -> (Fifo, &'static ControlBlock, Sender) {
        let fifo = Fifo::new();
        let page: &'static EventPage = Box::leak(Box::new([const { AtomicU32::new(0) }; 1024]));
        let control: &'static ControlBlock = Box::leak(Box::default());
        assert!(fifo.add_page(page) && fifo.set_control(0, control));
        for port in 0..1024 {
            assert!(fifo.unmask(Port(port)));
        }
        (fifo, control, Sender { tail: [0; 16] })
    }

    #[test]
    fn urgent_queues_first_and_order_kept() {
        let (fifo, control, mut sender) = set_up();
        for (port, priority) in [(10, 7), (11, 7), (5, 0), (12, 7), (6, 0)] {
            sender.send(&fifo, control, port, priority);
        }
        let mut seen = Vec::new();
        fifo.drain(0, |port| seen.push(port.0));
        assert_eq!(seen, [5, 6, 10, 11, 12]);
        fifo.drain(0, |_| panic!("nothing left"));
    }

    #[test]
    fn sends_from_within_handlers_are_all_seen() {
        let (fifo, control, mut sender) = set_up();
        sender.send(&fifo, control, 20, 7);
        let mut seen = Vec::new();
        fifo.drain(0, |port| {
            seen.push(port.0);
            if seen.len() < 50 {
                sender.send(&fifo, control, 20 + (seen.len() as u32 % 3), [7, 3][seen.len() % 2]);
            }
        });
        assert_eq!(seen.len(), 50);
    }

    #[test]
    fn masked_ports_are_passed_over_and_stay_pending() {
        let (fifo, control, mut sender) = set_up();
        sender.send(&fifo, control, 30, 7);
        sender.send(&fifo, control, 31, 7);
        fifo.mask(Port(30));
        let mut seen = Vec::new();
        fifo.drain(0, |port| seen.push(port.0));
        assert_eq!(seen, [31]);
        assert!(fifo.is_pending(Port(30)));
        assert!(!fifo.unmask(Port(30)), "the hypervisor has to deliver it");
        assert!(fifo.clear_pending(Port(30)) && fifo.unmask(Port(30)));
    }

    #[test]
    fn ports_without_a_word_are_harmless() {
        let (fifo, control, _) = set_up();
        assert!(!fifo.is_pending(Port(1024)) && fifo.is_masked(Port(u32::MAX)) && !fifo.unmask(Port(5000)));
        control.head[3].store(9000, Ordering::SeqCst);
        control.ready.store(u32::MAX, Ordering::SeqCst);
        fifo.drain(0, |port| assert_eq!(port.0, 0));
        fifo.drain(99, |_| panic!("no such vCPU"));
        assert_eq!(fifo.capacity(), 1024);
    }
}
