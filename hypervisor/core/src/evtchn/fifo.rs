//! The FIFO ABI: an event word per port in pages the guest gave, and sixteen queues per vCPU, linked through those words.
//!
//! **The protocol** (Xen's event channel FIFO design, `event_channel.h`). A word has PENDING, MASKED, LINKED, BUSY and a
//! LINK field. We set PENDING; we put an event that is pending, unmasked and not LINKED onto its queue: by the LINK field
//! of the queue's last word while that is still LINKED, else by writing the queue's head in the vCPU's control block and
//! its ready bit. The guest takes events off the head, clearing LINKED and LINK, and then looks at PENDING and MASKED;
//! when it clears MASKED of a pending event that is not LINKED, it asks us (`EVTCHNOP_unmask`) to link it.
//!
//! **Locks.** Setting PENDING takes none. Linking locks the queue, and the queue the event was last on if that is another
//! one, since the event may still be remembered there as the last (`tail`), and must not be once it is LINKED elsewhere.
//! `PortEntry::last_queue` changes only under both locks; if it changed while we waited for them, somebody else has
//! linked the event after we set PENDING, and nothing is left to do.
//!
//! **Trust.** The guest can write anything into its words and control blocks. We take from them single bits only; ports
//! and tails are our own numbers, every loop is bounded, and what a guest spoils is its own queue.
//!
//! Callers hold a pass of the domain's gate: that is what keeps the pages, and the number of queues locked at once small.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use shared_abi::event_channel::{
    FIFO_BUSY, FIFO_EVENT_WORDS_PER_PAGE, FIFO_LINK_MASK, FIFO_LINKED, FIFO_MASKED, FIFO_MAX_EVENT_ARRAY_PAGES,
    FIFO_MAX_QUEUES, FIFO_PENDING, FifoControlBlock,
};
use shared_abi::xen::{Mfn, Port, VcpuId};

use super::deliver::{Outcome, mark_upcall};
use super::port::PortEntry;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::locks::{Mutex, rank};
use crate::machine::{Machine, MachineAddress};
use crate::vcpu::Vcpu;

const PENDING: u32 = 1 << FIFO_PENDING;
const MASKED: u32 = 1 << FIFO_MASKED;
const LINKED: u32 = 1 << FIFO_LINKED;
const BUSY: u32 = 1 << FIFO_BUSY;

/// A guest that keeps to the protocol can change a LINKED, BUSY word at most four times before it must wait for us.
const LINK_TRIES: u32 = 5;

/// The event words of a domain: the frames that hold them, in order.
#[derive(Debug)]
pub struct EventArray {
    frames: [AtomicU64; FIFO_MAX_EVENT_ARRAY_PAGES as usize],
    count: AtomicU32,
}

impl EventArray {
    /// No pages.
    pub const fn new() -> Self {
        Self { frames: [const { AtomicU64::new(0) }; FIFO_MAX_EVENT_ARRAY_PAGES as usize], count: AtomicU32::new(0) }
    }

    /// Number of pages.
    pub fn pages(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    /// Adds a page; false when all slots are taken. The caller holds the domain's EVENT lock.
    pub fn add(&self, frame: Mfn) -> bool {
        let count = self.pages();
        let Some(slot) = self.frames.get(count as usize) else {
            return false;
        };
        slot.store(frame.0, Ordering::SeqCst);
        self.count.store(count + 1, Ordering::SeqCst);
        true
    }

    /// Takes the last page out. The caller holds the EVENT lock and has shut the gate.
    pub fn remove_last(&self) -> Option<Mfn> {
        let last = self.pages().checked_sub(1)?;
        self.count.store(last, Ordering::SeqCst);
        Some(Mfn(self.frames[last as usize].load(Ordering::SeqCst)))
    }

    /// The event word of `port`, if its page exists.
    #[inline]
    fn word<'a, M: Machine>(&self, hv: &'a Hypervisor<M>, port: Port) -> Option<&'a AtomicU32> {
        let page = port.0 / FIFO_EVENT_WORDS_PER_PAGE;
        if page >= self.count.load(Ordering::SeqCst) {
            return None;
        }
        let frame = Mfn(self.frames.get(page as usize)?.load(Ordering::SeqCst));
        let offset = (port.0 % FIFO_EVENT_WORDS_PER_PAGE) as usize * size_of::<u32>();
        Some(hv.machine.word32(MachineAddress::in_frame(frame, offset)))
    }
}

impl Default for EventArray {
    fn default() -> Self {
        Self::new()
    }
}

/// A vCPU's queues.
#[derive(Debug)]
pub struct VcpuQueues {
    /// Machine address of the control block; 0: none.
    control: AtomicU64,
    /// The last port put on each queue, 0: none.
    tails: [Mutex<u32, { rank::EVENT_QUEUE }>; FIFO_MAX_QUEUES],
}

impl VcpuQueues {
    /// Empty queues, without a control block.
    pub const fn new() -> Self {
        Self { control: AtomicU64::new(0), tails: [const { Mutex::new(0) }; FIFO_MAX_QUEUES] }
    }

    /// Where the control block is.
    pub fn control(&self) -> Option<MachineAddress> {
        match self.control.load(Ordering::SeqCst) {
            0 => None,
            address => Some(MachineAddress(address)),
        }
    }

    /// Sets the control block. The caller holds the domain's EVENT lock.
    pub fn set_control(&self, control: MachineAddress) {
        self.control.store(control.0, Ordering::SeqCst);
    }

    /// Forgets the control block and all events. The caller holds the EVENT lock and has shut the gate.
    pub fn clear(&self) -> Option<MachineAddress> {
        for tail in &self.tails {
            *tail.lock() = 0;
        }
        match self.control.swap(0, Ordering::SeqCst) {
            0 => None,
            address => Some(MachineAddress(address)),
        }
    }
}

impl Default for VcpuQueues {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue of a domain: vCPU in bits 4 up, priority below. Also the order in which two are locked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QueueId(u16);

impl QueueId {
    fn new(vcpu: VcpuId, priority: u8) -> Self {
        Self((vcpu.0 as u16) << 4 | u16::from(priority & 15))
    }

    fn priority(self) -> usize {
        usize::from(self.0 & 15)
    }

    fn tail<M: Machine>(self, domain: &Domain<M>) -> Option<&Mutex<u32, { rank::EVENT_QUEUE }>> {
        let vcpu = domain.vcpus.get(usize::from(self.0 >> 4))?;
        Some(&vcpu.events.fifo.tails[self.priority()])
    }
}

/// Makes `port` pending, and links it unless it is masked or linked already.
#[inline]
pub fn set_pending<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    port: Port,
    entry: &PortEntry,
    vcpu: &Vcpu<M>,
) -> Outcome {
    let array = &domain.events.array;
    let word = match array.word(hv, port) {
        Some(word) => word,
        None => {
            // `expand_array` publishes the page first and looks at this flag second, so one of us sees the other.
            entry.saved_pending.store(true, Ordering::SeqCst);
            match array.word(hv, port) {
                Some(word) if entry.saved_pending.swap(false, Ordering::SeqCst) => word,
                _ => return Outcome::default(),
            }
        }
    };
    let before = word.fetch_or(PENDING, Ordering::SeqCst);
    let upcall = before & (MASKED | LINKED) == 0 && link(hv, domain, Event { port, entry, word }, vcpu);
    Outcome { fresh: before & PENDING == 0, upcall }
}

/// Clears MASKED, and links the event if it is pending.
pub fn unmask<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    port: Port,
    entry: &PortEntry,
    vcpu: &Vcpu<M>,
) -> Outcome {
    let Some(word) = domain.events.array.word(hv, port) else {
        return Outcome::default();
    };
    let before = word.fetch_and(!MASKED, Ordering::SeqCst);
    let upcall = before & (PENDING | LINKED) == PENDING && link(hv, domain, Event { port, entry, word }, vcpu);
    Outcome { fresh: false, upcall }
}

/// Whether `port` is pending.
pub fn is_pending<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port) -> bool {
    has(hv, domain, port, PENDING)
}

/// Whether `port` is still on a queue, so that it cannot be given out anew.
pub fn is_linked<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port) -> bool {
    has(hv, domain, port, LINKED)
}

fn has<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port, flag: u32) -> bool {
    domain.events.array.word(hv, port).is_some_and(|word| word.load(Ordering::SeqCst) & flag != 0)
}

/// Withdraws a pending event. It stays on its queue: the guest passes over what is not pending.
pub fn clear_pending<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port) {
    if let Some(word) = domain.events.array.word(hv, port) {
        word.fetch_and(!PENDING, Ordering::SeqCst);
    }
}

/// An event to link.
#[derive(Clone, Copy)]
struct Event<'a> {
    port: Port,
    entry: &'a PortEntry,
    word: &'a AtomicU32,
}

/// Puts an event on its queue. True if the vCPU's upcall became pending by it.
#[inline(always)]
fn link<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, event: Event<'_>, vcpu: &Vcpu<M>) -> bool {
    // Without a control block there is no queue; the guest must not unmask before it has made one.
    let Some(control) = vcpu.events.fifo.control() else {
        return false;
    };
    let priority = event.entry.priority.load(Ordering::Relaxed);
    let target = QueueId::new(vcpu.id, priority);
    if !put_on_queue(hv, domain, event, vcpu, target, control) {
        return false;
    }
    let ready_at = control.0 + core::mem::offset_of!(FifoControlBlock, ready) as u64;
    let flag = 1 << target.priority();
    let ready = hv.machine.word32(MachineAddress(ready_at));
    ready.fetch_or(flag, Ordering::SeqCst) & flag == 0 && mark_upcall(hv, vcpu)
}

/// Locks the queues concerned and links; `target` is one of `vcpu`'s. True if the event became the queue's head.
#[inline(always)]
fn put_on_queue<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    event: Event<'_>,
    vcpu: &Vcpu<M>,
    target: QueueId,
    control: MachineAddress,
) -> bool {
    let last = QueueId(event.entry.last_queue.load(Ordering::SeqCst));
    if last != target {
        return move_to_queue(hv, domain, event, last, target, control);
    }
    let mut tail = vcpu.events.fifo.tails[target.priority()].lock();
    event.entry.last_queue.load(Ordering::SeqCst) == target.0 && append(hv, domain, event, target, control, &mut tail)
}

/// [`put_on_queue`] for an event that was last on another queue.
#[inline(never)]
fn move_to_queue<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    event: Event<'_>,
    last: QueueId,
    target: QueueId,
    control: MachineAddress,
) -> bool {
    const SECOND: u8 = rank::EVENT_QUEUE_SECOND;
    let (Some(tail), Some(old_tail)) = (target.tail(domain), last.tail(domain)) else {
        return false;
    };
    let still = || event.entry.last_queue.load(Ordering::SeqCst) == last.0;
    if last < target {
        let mut old = old_tail.lock();
        let mut tail = tail.lock_as::<SECOND>();
        still() && append_moved(hv, domain, event, target, control, &mut tail, &mut old)
    } else {
        let mut tail = tail.lock();
        let mut old = old_tail.lock_as::<SECOND>();
        still() && append_moved(hv, domain, event, target, control, &mut tail, &mut old)
    }
}

/// Links an event that was last on another queue, whose tail is `old`.
fn append_moved<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    event: Event<'_>,
    target: QueueId,
    control: MachineAddress,
    tail: &mut u32,
    old: &mut u32,
) -> bool {
    if event.word.load(Ordering::SeqCst) & (LINKED | MASKED) != 0 {
        return false;
    }
    // Not LINKED, and only a holder of `old` could link it there: as a tail it marks an empty queue.
    if *old == event.port.0 {
        *old = 0;
    }
    event.entry.last_queue.store(target.0, Ordering::SeqCst);
    append(hv, domain, event, target, control, tail)
}

/// Links an event at the end of the queue whose tail is `tail`. True if it became the head.
#[inline(always)]
fn append<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    event: Event<'_>,
    target: QueueId,
    control: MachineAddress,
    tail: &mut u32,
) -> bool {
    if event.word.load(Ordering::SeqCst) & MASKED != 0 || event.word.fetch_or(LINKED, Ordering::SeqCst) & LINKED != 0 {
        return false;
    }
    // An event that is its own queue's tail was taken off, so the queue is empty.
    let behind = if *tail == event.port.0 { 0 } else { *tail };
    let chained =
        behind != 0 && domain.events.array.word(hv, Port(behind)).is_some_and(|word| set_link(word, event.port));
    if !chained {
        let head = core::mem::offset_of!(FifoControlBlock, head) + target.priority() * 4;
        let head = hv.machine.word32(MachineAddress(control.0 + head as u64));
        head.store(event.port.0, Ordering::SeqCst);
    }
    *tail = event.port.0;
    !chained
}

/// Sets the LINK field of a queue's last word, if it is still LINKED; false if it is not, and the queue so is empty.
fn set_link(word: &AtomicU32, next: Port) -> bool {
    let mut seen = word.load(Ordering::SeqCst);
    for attempt in 0..LINK_TRIES {
        if seen & LINKED == 0 {
            if attempt > 0 {
                word.fetch_and(!BUSY, Ordering::SeqCst);
            }
            return false;
        }
        let linked = seen & !(BUSY | FIFO_LINK_MASK) | next.0;
        match word.compare_exchange(seen, linked, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return true,
            // BUSY keeps a guest that follows the protocol from unmasking, so that this ends.
            Err(_) => seen = word.fetch_or(BUSY, Ordering::SeqCst) | BUSY,
        }
    }
    // The guest does not follow the protocol: its event is lost, and nothing else.
    word.fetch_and(!BUSY, Ordering::SeqCst);
    true
}

/// The control block of a vCPU and the pages of event words go away: what was pinned for them. The caller holds the
/// EVENT lock and has shut the gate.
pub fn dismantle<M: Machine>(domain: &Domain<M>, mut unpin: impl FnMut(Mfn)) {
    for vcpu in &domain.vcpus {
        let vcpu: &Vcpu<M> = vcpu;
        if let Some(control) = vcpu.events.fifo.clear() {
            unpin(control.frame());
        }
    }
    while let Some(frame) = domain.events.array.remove_last() {
        unpin(frame);
    }
}
