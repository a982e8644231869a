//! One CPU's trace buffer: records in shared memory.
//!
//! The reader's counter is the only thing that is read out of the buffer, and checked each time. Counters run from 0 to
//! twice the buffer's size, so that full and empty differ. A record does not go round the buffer's end: what is left
//! there is filled by a record that says so.
//!
//! Locking: none; see the module above.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use shared_abi::trace::{self as abi, TraceBuffer};
use shared_abi::xen::{DomId, Mfn};

use crate::machine::{Machine, MachineAddress, PAGE_SIZE};

/// Bytes of a word.
const WORD: u32 = 4;
/// Words of a record before the extra ones: the event, and the time as two.
const FIXED: u32 = 3;
/// Extra words of the record that tells of lost ones.
const LOST_WORDS: u32 = 4;

/// What the writer knows of its buffer. Only its CPU writes it.
#[derive(Debug, Default)]
pub(super) struct Producer {
    /// Where it is; the shared copy is only written.
    at: AtomicU32,
    /// Records lost since the last one that was not, and when the first was.
    lost: AtomicU32,
    lost_since: AtomicU64,
}

impl Producer {
    /// Forgets what was lost.
    pub(super) fn forget_lost(&self) {
        self.lost.store(0, Ordering::Relaxed);
    }
}

/// What came of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// Nobody needs to know.
    Quiet,
    /// The buffer has just become half full.
    HalfFull,
    /// The reader's counter cannot be; nothing was written.
    Nonsense(u32),
}

/// A buffer.
pub(super) struct Ring<'a, M> {
    machine: &'a M,
    first: Mfn,
    /// Bytes for records.
    size: u32,
}

impl<'a, M: Machine> Ring<'a, M> {
    /// The buffer in so many frames, at least one.
    pub(super) fn new(machine: &'a M, first: Mfn, frames: u32) -> Self {
        Self { machine, first, size: frames * PAGE_SIZE as u32 - size_of::<TraceBuffer>() as u32 }
    }

    /// The word at `offset` bytes from the beginning.
    fn word(&self, offset: u32) -> &'a AtomicU32 {
        self.machine.word32(MachineAddress(MachineAddress::in_frame(self.first, 0).0 + u64::from(offset)))
    }

    /// Adds a record with the time, unless there is no room. At most [`abi::EXTRA_MAX`] extra words.
    pub(super) fn push(&self, producer: &Producer, event: u32, extra: &[u32]) -> Pushed {
        let cons = self.word(core::mem::offset_of!(TraceBuffer, cons) as u32).load(Ordering::Acquire);
        let at = producer.at.load(Ordering::Relaxed);
        let used = (at + 2 * self.size).wrapping_sub(cons) % (2 * self.size);
        if !cons.is_multiple_of(WORD) || cons >= 2 * self.size || used > self.size {
            return Pushed::Nonsense(cons);
        }
        let time = self.machine.tsc();
        let lost = producer.lost.load(Ordering::Relaxed);
        let length = (FIXED + extra.len() as u32) * WORD;
        let story = if lost == 0 { 0 } else { (FIXED + LOST_WORDS) * WORD };
        if self.needed(at, [story, length]) > self.size - used {
            if lost == 0 {
                producer.lost_since.store(time, Ordering::Relaxed);
            }
            producer.lost.store(lost.saturating_add(1), Ordering::Relaxed);
            return Pushed::Quiet;
        }
        let mut end = at;
        if lost != 0 {
            let since = producer.lost_since.load(Ordering::Relaxed);
            // Whose time it was is not known here.
            let story = [lost, u32::from(DomId::IDLE.0), since as u32, (since >> 32) as u32];
            end = self.append(end, abi::LOST_RECORDS, time, &story);
            producer.lost.store(0, Ordering::Relaxed);
        }
        end = self.append(end, event, time, extra);
        producer.at.store(end, Ordering::Relaxed);
        self.word(core::mem::offset_of!(TraceBuffer, prod) as u32).store(end, Ordering::Release);
        let now_used = (end + 2 * self.size - cons) % (2 * self.size);
        if used < self.size / 2 && now_used >= self.size / 2 { Pushed::HalfFull } else { Pushed::Quiet }
    }

    /// Bytes from here to the buffer's end.
    fn to_end(&self, at: u32) -> u32 {
        self.size - at % self.size
    }

    /// Bytes that records of these lengths take, one after the other, with what is left over at the end.
    fn needed(&self, at: u32, lengths: [u32; 2]) -> u32 {
        let mut end = at;
        for length in lengths {
            if length > self.to_end(end) {
                end += self.to_end(end);
            }
            end += length;
        }
        end - at
    }

    /// Writes a record at `at`, after a filler if it would go round the end, and says where the next one goes.
    fn append(&self, at: u32, event: u32, time: u64, extra: &[u32]) -> u32 {
        let mut at = at;
        let left = self.to_end(at) / WORD;
        if FIXED + extra.len() as u32 > left {
            // Without a time it could be a word too short to say how long it is.
            let timed = if left > abi::EXTRA_MAX as u32 { FIXED } else { 1 };
            at = self.write(at, abi::WRAP_BUFFER, (timed == FIXED).then_some(time), (left - timed) as usize, &[]);
        }
        self.write(at, event, Some(time), extra.len(), extra)
    }

    /// Writes one record of `count` extra words, of which those not given are left as they are.
    fn write(&self, at: u32, event: u32, time: Option<u64>, count: usize, extra: &[u32]) -> u32 {
        let timed = if time.is_some() { abi::CYCLES_INCLUDED } else { 0 };
        let head = event & abi::EVENT_MASK | (count as u32) << abi::EXTRA_SHIFT | timed;
        let mut place = at % self.size + size_of::<TraceBuffer>() as u32;
        let mut put = |word: u32| {
            self.word(place).store(word, Ordering::Relaxed);
            place += WORD;
        };
        put(head);
        if let Some(time) = time {
            put(time as u32);
            put((time >> 32) as u32);
        }
        extra.iter().for_each(|word| put(*word));
        let words = 1 + if time.is_some() { 2 } else { 0 } + count as u32;
        (at + words * WORD) % (2 * self.size)
    }
}
