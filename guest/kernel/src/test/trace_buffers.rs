//! Xen's trace buffers, read by a privileged domain as Xen's own tools read them.
#![allow(unsafe_code)] // Mapping what the hypervisor shares.

use super::{Outcome, Stop, Test, is_privileged};
use crate::control::window::Slot;
use crate::{check, check_eq, clock, events};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use ebb_guest_hypercall::{Errno, VcpuId, event_channel, hvm, memory, sched, sysctl};
use shared_abi::sysctl::{self as abi, TbufOp};
use shared_abi::trace;
use shared_abi::xen::{PAGE_SIZE, Virq};

/// The test here.
pub const TESTS: &[Test] = &[("trace-buffers", buffers)];

/// Frames of a CPU's buffer.
const PAGES: u32 = 2;
/// Bytes for its records.
const SIZE: u32 = PAGES * PAGE_SIZE as u32 - 8;
/// Longest wait for what must come.
const PATIENCE: u64 = 10_000_000_000;

/// A record: its event and the words after the time.
struct Record {
    event: u32,
    time: u64,
    words: Vec<u32>,
}

/// Consecutive frames that the hypervisor shares.
struct Shared(Vec<Slot>);

impl Shared {
    fn map(frames: impl IntoIterator<Item = u64>) -> Result<Self, Stop> {
        let mut slots = Vec::new();
        for mfn in frames {
            let slot = Slot::take()?;
            // SAFETY: the slot is ours, and what appears there is accessed by atomics.
            unsafe { memory::map_shared_frame(mfn, slot.gfn())? };
            slots.push(slot);
        }
        Ok(Self(slots))
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        let page = &self.0[offset as usize / PAGE_SIZE as usize];
        let address = page.address() + u64::from(offset) % PAGE_SIZE;
        // SAFETY: an aligned word of a page that stays mapped as long as `self`.
        unsafe { AtomicU32::from_ptr(core::ptr::with_exposed_provenance_mut(address as usize)) }
    }

    /// The records since the last time.
    fn take(&self) -> Vec<Record> {
        let (mut cons, prod) = (self.word(0).load(Ordering::Relaxed), self.word(4).load(Ordering::Acquire));
        let mut records = Vec::new();
        while cons != prod {
            let word = |index: u32| self.word(8 + cons % SIZE + 4 * index).load(Ordering::Relaxed);
            let head = word(0);
            let fixed = if head & trace::CYCLES_INCLUDED != 0 { 3 } else { 1 };
            let count = head >> trace::EXTRA_SHIFT & 7;
            let time = if fixed == 3 { u64::from(word(1)) | u64::from(word(2)) << 32 } else { 0 };
            let words = (0..count).map(|index| word(fixed + index)).collect();
            records.push(Record { event: head & trace::EVENT_MASK, time, words });
            cons = (cons + 4 * (fixed + count)) % (2 * SIZE);
        }
        self.word(0).store(cons, Ordering::Release);
        records.retain(|record| record.event != trace::WRAP_BUFFER);
        records
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for slot in self.0.drain(..) {
            // SAFETY: this was the only way to the page, and it ends here.
            if unsafe { memory::remove_from_physmap(slot.gfn()) }.is_err() {
                slot.lose();
            }
        }
    }
}

fn order(cmd: u32, size: u32) -> Result<TbufOp, Errno> {
    sysctl::trace_buffers(&TbufOp { cmd, size, ..TbufOp::default() })
}

/// Every CPU's buffer, found through the list.
fn find() -> Result<Vec<Shared>, Stop> {
    let info = order(abi::TBUFOP_GET_INFO, 0)?;
    let frames = u64::from(info.size) / PAGE_SIZE;
    let list = Shared::map(info.buffer_mfn..info.buffer_mfn + frames)?;
    let half = |index: u32| list.word(index / 2 * 4).load(Ordering::Relaxed) >> (index % 2 * 16) & 0xffff;
    check_eq!(half(0), PAGES, "pages of a buffer");
    let cpus = sysctl::physical_info()?.nr_cpus;
    (0..cpus)
        .map(|cpu| {
            let place = half(1 + cpu);
            Shared::map((0..PAGES).map(|page| u64::from(list.word(4 * (place + page)).load(Ordering::Relaxed))))
        })
        .collect()
}

fn buffers() -> Outcome {
    if !is_privileged() {
        return Err(Stop::Skip("it takes a privileged domain".into()));
    }
    check_eq!(order(abi::TBUFOP_ENABLE, 0).err(), Some(Errno::EINVAL), "tracing without buffers");
    order(abi::TBUFOP_SET_SIZE, PAGES)?;
    check_eq!(order(abi::TBUFOP_SET_SIZE, PAGES).err(), Some(Errno::EBUSY), "a second set of buffers");
    let cpus = find()?;
    let slot = Slot::take()?;
    // SAFETY: nothing is in the slot, and nothing appears there.
    check_eq!(unsafe { memory::map_shared_frame(1, slot.gfn()) }, Err(Errno::EINVAL), "a frame that is not shared");
    story(&cpus)?;
    half_full(&cpus)?;
    mistake(&cpus)?;
    order(abi::TBUFOP_DISABLE, 0)?;
    cpus.iter().for_each(|cpu| drop(cpu.take()));
    hvm::xentrace(1, &[])?;
    check!(cpus.iter().all(|cpu| cpu.take().is_empty()), "records although tracing is off");
    Ok(())
}

/// What this vCPU does is in the buffers, in order.
fn story(cpus: &[Shared]) -> Outcome {
    cpus.iter().for_each(|cpu| drop(cpu.take()));
    let own = crate::xen::hypervisor().domid.ok_or("no domain id")?;
    hvm::xentrace(0x123, &[1, 2, 3, 4, 5])?;
    let end = clock::now() + 3_000_000;
    while clock::now() < end {
        sched::poll(&[], end)?;
    }
    hvm::xentrace(0x124, &[])?;
    let mut records = Vec::new();
    for cpu in cpus {
        let of_one = cpu.take();
        check!(of_one.is_sorted_by_key(|record| record.time), "time goes back");
        records.extend(of_one);
    }
    records.sort_by_key(|record| record.time);
    let mut at = 0;
    let mut next = |event: u32, words: &[u32]| {
        let found = records[at..].iter().position(|it| it.event == event && (words.is_empty() || it.words == words));
        found.map(|index| at += index + 1).ok_or_else(|| {
            Stop::Failure(alloc::format!("no record {event:#x} {words:x?} after {at} of {}", records.len()))
        })
    };
    next(trace::GUEST + 0x123, &[0x0403_0201, 5])?;
    next(trace::HVM_VMENTRY, &[])?;
    next(trace::HVM_VMEXIT64, &[])?;
    next(trace::SCHED_BLOCK, &[own, 0])?;
    // From running to blocked, and back.
    next(trace::SCHED_RUNSTATE_CHANGE | 2 << 4, &[own << 16])?;
    next(trace::SCHED_WAKE, &[own, 0])?;
    next(trace::SCHED_RUNSTATE_CHANGE | 1 << 8, &[own << 16])?;
    next(trace::GUEST + 0x124, &[])?;
    let switches = records.iter().filter(|record| record.event == trace::SCHED_SWITCH && record.words.len() == 4);
    check!(switches.count() >= 2, "a switch away and one back");
    let exits = records.iter().filter(|record| record.event == trace::HVM_VMEXIT64);
    check!(exits.clone().all(|exit| exit.words.len() == 3 && exit.words[1..] != [0, 0]), "an exit from nowhere");
    Ok(())
}

/// A buffer that nobody reads: the VIRQ when it is half full, and the count of what is lost.
fn half_full(cpus: &[Shared]) -> Outcome {
    let port = event_channel::bind_virq(Virq::TBUF, VcpuId(0))?;
    events::make_room(port)?;
    events::channels().mask(port);
    cpus.iter().for_each(|cpu| drop(cpu.take()));
    events::channels().clear_pending(port);
    let end = clock::now() + PATIENCE;
    while !events::channels().is_pending(port) {
        check!(clock::now() < end, "no VIRQ_TBUF");
        hvm::xentrace(7, &[0; 28])?;
    }
    for _ in 0..2 * SIZE / 40 {
        hvm::xentrace(8, &[0; 28])?;
    }
    cpus.iter().for_each(|cpu| drop(cpu.take()));
    for _ in 0..cpus.len() {
        sched::yield_now()?;
        hvm::xentrace(9, &[])?;
    }
    let lost = cpus.iter().flat_map(Shared::take).filter(|record| record.event == trace::LOST_RECORDS);
    let lost: u32 = lost.map(|record| record.words[0]).sum();
    check!(lost > 0, "nothing was lost");
    event_channel::close(port)?;
    Ok(())
}

/// A counter that cannot be ends the tracing; it can be begun again.
fn mistake(cpus: &[Shared]) -> Outcome {
    cpus.iter().for_each(|cpu| cpu.word(0).store(u32::MAX, Ordering::Release));
    hvm::xentrace(1, &[])?;
    let before: Vec<u32> = cpus.iter().map(|cpu| cpu.word(4).load(Ordering::Acquire)).collect();
    hvm::xentrace(2, &[])?;
    let after: Vec<u32> = cpus.iter().map(|cpu| cpu.word(4).load(Ordering::Acquire)).collect();
    check_eq!(after, before, "where the hypervisor writes");
    for (cpu, prod) in cpus.iter().zip(after) {
        cpu.word(0).store(prod, Ordering::Release);
    }
    order(abi::TBUFOP_ENABLE, 0)?;
    hvm::xentrace(3, &[])?;
    let found = cpus.iter().flat_map(Shared::take).any(|record| record.event == trace::GUEST + 3);
    check!(found, "no record after a new beginning");
    Ok(())
}
