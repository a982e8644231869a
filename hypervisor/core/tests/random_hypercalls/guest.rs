//! What the test knows of a domain, and the guest's half of event delivery, as a well-behaved kernel does it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use ebb_core::hypercall::{GuestPaging, Width};
use ebb_core::machine::{Machine, MachineAddress};
use shared_abi::event_channel::{FIFO_LINK_MASK, FIFO_LINKED, FIFO_MASKED, FIFO_MAX_QUEUES, FIFO_PENDING};
use shared_abi::xen::{DomId, Gfn, Port, shared_info_offset as shared, vcpu_info_offset as info};

use super::layout::{ARRAY_GFN, CONTROL_GFN};
use super::testing::FakeMachine;
use super::{Dom, Hv};

pub const PENDING: u32 = 1 << FIFO_PENDING;
pub const MASKED: u32 = 1 << FIFO_MASKED;
pub const LINKED: u32 = 1 << FIFO_LINKED;
/// Ports that a tidy guest knows of: those in its one page of FIFO words.
pub const PORTS: u32 = 1024;

/// A hypercall to be repeated.
#[derive(Clone, Debug)]
pub struct Unfinished {
    pub number: u64,
    pub args: [u64; 5],
    pub width: Width,
    pub paging: GuestPaging,
}

/// What a vCPU polls for.
#[derive(Clone, Debug, Default)]
pub struct Polled {
    pub ports: Vec<Port>,
    pub has_timeout: bool,
    /// It takes interrupts meanwhile: whatever it could take ends the poll.
    pub interrupts: bool,
}

/// A domain as the test knows it.
pub struct Known {
    pub domain: Weak<ebb_core::Domain<FakeMachine>>,
    pub id: DomId,
    /// When its vCPUs' times began.
    pub admitted: u64,
    /// It spoils none of the pages it shares with the hypervisor: everything it is owed must come.
    pub tidy: bool,
    pub width: Width,
    /// How often the test has paused each vCPU.
    pub pauses: Vec<u32>,
    /// The latest poll of each vCPU, if it is known.
    pub polls: Vec<Option<Polled>>,
    /// The hypercall that each vCPU is in the middle of.
    pub unfinished: Vec<Option<Unfinished>>,
    /// The vCPUs that have a control block, and whether there is a page of event words.
    pub controls: Vec<bool>,
    pub array: bool,
    /// The guest's idea of the heads of the queues.
    heads: HashMap<(usize, u32), u32>,
}

impl Known {
    pub fn new(domain: &Dom, now: u64, tidy: bool, width: Width) -> Self {
        let count = domain.vcpus.len();
        Self {
            domain: Arc::downgrade(domain),
            id: domain.id,
            admitted: now,
            tidy,
            width,
            pauses: vec![0; count],
            polls: vec![None; count],
            unfinished: vec![None; count],
            controls: vec![false; count],
            array: false,
            heads: HashMap::new(),
        }
    }

    /// Whether this is `domain`.
    pub fn is(&self, domain: &Dom) -> bool {
        std::ptr::eq(self.domain.as_ptr(), Arc::as_ptr(domain))
    }

    /// Forgets the FIFO pages when the domain has gone back to the 2-level ABI.
    pub fn follow_abi(&mut self, domain: &Dom) {
        if !domain.events.uses_fifo() {
            self.controls.fill(false);
            self.array = false;
            self.heads.clear();
        }
    }

    /// The upcall handler of vCPU `vcpu`: takes every event there is, by the protocol.
    pub fn drain(&mut self, hv: &Hv, domain: &Dom, vcpu: usize) {
        let Some(at) = domain.vcpus[vcpu].events.info() else { return };
        let pending = hv.machine.byte(MachineAddress(at.0 + info::EVTCHN_UPCALL_PENDING as u64));
        for _ in 0..PORTS {
            if pending.swap(0, Ordering::SeqCst) == 0 {
                return;
            }
            if domain.events.uses_fifo() {
                self.drain_fifo(hv, domain, vcpu);
            } else {
                drain_two_level(hv, domain, at);
            }
        }
        assert!(!self.tidy, "events without end");
    }

    fn drain_fifo(&mut self, hv: &Hv, domain: &Dom, vcpu: usize) {
        let Some(control) = frame_of(hv, domain, CONTROL_GFN + vcpu as u64) else { return };
        if !self.controls[vcpu] {
            return;
        }
        let mut ready = 0;
        for _ in 0..2 * PORTS {
            ready |= hv.machine.word32(control).swap(0, Ordering::SeqCst);
            if ready == 0 {
                return;
            }
            let priority = ready.trailing_zeros();
            if priority >= FIFO_MAX_QUEUES as u32 || self.consume(hv, domain, (vcpu, priority), control) {
                ready &= !(1 << priority);
            }
        }
        assert!(!self.tidy, "a queue without end");
    }

    /// Takes one event off a queue; true when the queue is empty then.
    fn consume(&mut self, hv: &Hv, domain: &Dom, queue: (usize, u32), control: MachineAddress) -> bool {
        let mut head = self.heads.get(&queue).copied().unwrap_or(0);
        if head == 0 {
            head = hv.machine.word32(MachineAddress(control.0 + 8 + u64::from(queue.1) * 4)).load(Ordering::SeqCst);
        }
        let Some(word) = fifo_word(hv, domain, head).filter(|_| self.array) else { return true };
        let seen = word.fetch_and(!(LINKED | FIFO_LINK_MASK), Ordering::SeqCst);
        self.heads.insert(queue, seen & FIFO_LINK_MASK);
        if seen & (PENDING | MASKED) == PENDING {
            word.fetch_and(!PENDING, Ordering::SeqCst);
        }
        seen & FIFO_LINK_MASK == 0
    }
}

/// Where a guest-physical page is, if anywhere.
pub fn frame_of(hv: &Hv, domain: &Dom, gfn: u64) -> Option<MachineAddress> {
    let (mfn, _) = domain.memory.translate(&hv.machine, Gfn(gfn))?;
    Some(MachineAddress::in_frame(mfn, 0))
}

/// The FIFO event word of a port.
pub fn fifo_word<'a>(hv: &'a Hv, domain: &Dom, port: u32) -> Option<&'a AtomicU32> {
    let page = frame_of(hv, domain, ARRAY_GFN)?;
    (port < PORTS).then(|| hv.machine.word32(MachineAddress(page.0 + u64::from(port) * 4)))
}

/// A domain's 2-level words as 32-bit ones: pending and mask of word `index`, and the bit of the selectors for it.
pub fn two_level<'a>(hv: &'a Hv, domain: &Dom, index: usize) -> Option<(&'a AtomicU32, &'a AtomicU32, u64)> {
    let narrow = domain.events.is_narrow();
    let frame = domain.events.shared_info_frame()?;
    if narrow && index >= 32 {
        return None;
    }
    let masks = if narrow { shared::EVTCHN_PENDING + 32 * 4 } else { shared::EVTCHN_MASK };
    let word = |base: usize| hv.machine.word32(MachineAddress::in_frame(frame, base + index * 4));
    let selector = if narrow { 1 << index } else { 1 << (index / 2) };
    Some((word(shared::EVTCHN_PENDING), word(masks), selector))
}

/// The selector in the `vcpu_info` at `at`.
pub fn selected(hv: &Hv, domain: &Dom, at: MachineAddress) -> u64 {
    if domain.events.is_narrow() {
        hv.machine.word32(MachineAddress(at.0 + 4)).load(Ordering::SeqCst).into()
    } else {
        hv.machine.word64(MachineAddress(at.0 + info::EVTCHN_PENDING_SEL as u64)).load(Ordering::SeqCst)
    }
}

fn drain_two_level(hv: &Hv, domain: &Dom, at: MachineAddress) {
    let selected = if domain.events.is_narrow() {
        hv.machine.word32(MachineAddress(at.0 + 4)).swap(0, Ordering::SeqCst).into()
    } else {
        hv.machine.word64(MachineAddress(at.0 + info::EVTCHN_PENDING_SEL as u64)).swap(0, Ordering::SeqCst)
    };
    for index in 0..128 {
        let Some((pending, mask, selector)) = two_level(hv, domain, index) else { return };
        if selected & selector != 0 {
            pending.fetch_and(mask.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }
}

/// Masks a port, as a guest does.
pub fn mask(hv: &Hv, domain: &Dom, port: u32) {
    if domain.events.uses_fifo() {
        if let Some(word) = fifo_word(hv, domain, port) {
            word.fetch_or(MASKED, Ordering::SeqCst);
        }
    } else if let Some((_, mask, _)) = two_level(hv, domain, port as usize / 32) {
        mask.fetch_or(1 << (port % 32), Ordering::SeqCst);
    }
}
