//! The trace stream: a ring of records for each CPU, drained to COM2 when the CPU has nothing better to do, or when
//! an eighth of the ring is used. A port can be slow (115200 baud: 3 s for a ring; under nested virtualisation too), so no
//! more than a record or two goes out before the CPU looks for work again.
//!
//! Only its own CPU writes a ring and drains it, so a ring needs no lock; the serial port has one (rank OUTPUT). A
//! record that does not fit is dropped and counted, and the count is sent as a record of its own.
//!
//! An idle CPU does not even wait for the port (5 ms for a record): the rest of a record stays with the port, and whoever
//! sends next sends that first.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

use ebb_core::{Hypervisor, Machine};
use shared_abi::trace_stream::{End, Header, Kind, Lost, MAX_WRITTEN_SIZE, Start};
use zerocopy::IntoBytes;

use super::Glue;
use crate::cpu::{self, MAX_CPUS};
use crate::options::options;
use crate::{console, time};

/// Bytes of a ring.
const CAPACITY: usize = 32 << 10;

struct Ring {
    bytes: Box<[u8]>,
    /// Bytes ever written and ever sent; their difference is in use.
    head: usize,
    tail: usize,
    lost: u64,
}

/// Times to find the port busy before giving up.
const PATIENCE: u32 = 20_000_000;

/// The port, and the record that is on its way.
struct Port {
    record: [u8; MAX_WRITTEN_SIZE],
    /// What of the record is still to be sent.
    next: usize,
    end: usize,
    /// Times in a row that the port was found busy.
    refused: u32,
}

static PORT: spin::Mutex<Port> = spin::Mutex::new(Port { record: [0; MAX_WRITTEN_SIZE], next: 0, end: 0, refused: 0 });
static MASK: AtomicU64 = AtomicU64::new(0);
static RINGS: [spin::Mutex<Option<Ring>>; MAX_CPUS] = [const { spin::Mutex::new(None) }; MAX_CPUS];

/// Makes the rings, if tracing was asked for, and sends the start record.
pub fn start(hv: &Hypervisor<Glue>) {
    if !options().trace {
        return;
    }
    for ring in RINGS.iter().take(cpu::cpu_count()) {
        let bytes = alloc::vec![0; CAPACITY].into_boxed_slice();
        *ring.lock() = Some(Ring { bytes, head: 0, tail: 0, lost: 0 });
    }
    MASK.store(options().trace_mask, Ordering::Relaxed);
    let total = hv.heap.ledger().total;
    let start = Start::new(hv.machine.cpu_count() as u32, time::tsc_khz(), total);
    record(Kind::START.0, start.as_bytes());
}

/// Whether records of this kind are wanted.
#[inline]
pub fn enabled(kind: u16) -> bool {
    MASK.load(Ordering::Relaxed) & (1 << (kind & 63)) != 0
}

/// Adds a record to this CPU's ring.
pub fn record(kind: u16, payload: &[u8]) {
    if !enabled(kind) {
        return;
    }
    with_ring(|ring| {
        if ring.lost > 0 {
            let lost = Lost { count: ring.lost };
            if ring.push(Kind::LOST.0, lost.as_bytes()) {
                ring.lost = 0;
            }
        }
        if ring.lost > 0 || !ring.push(kind, payload) {
            ring.lost += 1;
        }
        // The frame of the story goes out at once, so that its parts leave in order whatever CPU they are from.
        if [Kind::START, Kind::DOMAIN_START, Kind::DOMAIN_END].contains(&Kind(kind)) {
            ring.send(CAPACITY, true);
        } else if ring.used() > CAPACITY / 8 {
            // As much as has come.
            ring.send(size_of::<Header>() + payload.len(), true);
        } else if Kind(kind) == Kind::GUEST_EVENT {
            // Somebody may wait to see it, and a CPU that is never idle would keep it until much more has come.
            ring.send(1, false);
        }
    });
}

/// Sends a record of this CPU's ring, as far as the port takes it now. True when something is left.
pub fn drain_this_cpu() -> bool {
    let mut more = false;
    if MASK.load(Ordering::Relaxed) != 0 {
        with_ring(|ring| more = ring.send(1, false));
    }
    more
}

/// Sends everything of every CPU, and the end record. The machine is about to stop: no other CPU has work.
pub fn finish(status: u8) {
    record(Kind::END.0, End { status: u64::from(status) }.as_bytes());
    for ring in RINGS.iter().take(cpu::cpu_count()) {
        if let Some(ring) = ring.lock().as_mut() {
            ring.send(CAPACITY, true);
        }
    }
}

fn with_ring(action: impl FnOnce(&mut Ring)) {
    let mut ring = RINGS[usize::from(cpu::this_cpu().id().0)].lock();
    if let Some(ring) = ring.as_mut() {
        action(ring);
    }
}

impl Port {
    /// Sends on what is left of a record, waiting for the port or not; a port that takes nothing for too long loses it.
    /// False while something is left.
    fn flush(&mut self, wait: bool) -> bool {
        while self.next < self.end {
            let sent = console::com2_write(&self.record[self.next..self.end]);
            self.next += sent;
            self.refused = if sent == 0 { self.refused + 1 } else { 0 };
            if self.refused == PATIENCE {
                (self.next, self.refused) = (self.end, 0);
            } else if sent == 0 && !wait {
                return false;
            }
        }
        true
    }
}

impl Ring {
    fn used(&self) -> usize {
        self.head.wrapping_sub(self.tail)
    }

    /// Appends a record; `false` when there is no room.
    fn push(&mut self, kind: u16, payload: &[u8]) -> bool {
        let length = (size_of::<Header>() + payload.len()).next_multiple_of(8);
        if self.used() + length > CAPACITY {
            return false;
        }
        let header =
            Header { kind: Kind(kind), cpu: cpu::this_cpu().id().0, length: length as u32, time_ns: time::now_ns() };
        let end = self.head.wrapping_add(length);
        self.append(header.as_bytes());
        self.append(payload);
        while self.head != end {
            self.append(&[0]);
        }
        true
    }

    fn append(&mut self, bytes: &[u8]) {
        let at = self.head % CAPACITY;
        let first = bytes.len().min(CAPACITY - at);
        self.bytes[at..at + first].copy_from_slice(&bytes[..first]);
        self.bytes[..bytes.len() - first].copy_from_slice(&bytes[first..]);
        self.head = self.head.wrapping_add(bytes.len());
    }

    /// Sends records of `least` bytes together, or all there are; without `wait` no more than the port takes at once. True
    /// when something is left.
    fn send(&mut self, least: usize, wait: bool) -> bool {
        let mut port = PORT.lock();
        let mut sent = 0;
        loop {
            if !port.flush(wait) {
                return true;
            }
            if sent >= least || self.used() == 0 {
                return self.used() > 0;
            }
            sent += self.take(&mut port);
        }
    }

    /// Moves a record to the port; its length.
    fn take(&mut self, port: &mut Port) -> usize {
        let at = |index: usize| self.bytes[self.tail.wrapping_add(index) % CAPACITY];
        let length = u32::from_le_bytes([at(4), at(5), at(6), at(7)]) as usize;
        for (index, byte) in port.record[..length].iter_mut().enumerate() {
            *byte = at(index);
        }
        (port.next, port.end) = (0, length);
        self.tail = self.tail.wrapping_add(length);
        length
    }
}
