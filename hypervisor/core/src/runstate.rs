//! Runstates: where a vCPU's time went, and the guest's copy of that.
//!
//! A vCPU is running, runnable, blocked or offline, which is read off its state word. [`Runstate::refresh`] is called
//! after each step that may have changed it and books the time since the last call to the state until then, so the
//! four times always add up to the time since the first call, exactly. One that its domain's cap keeps from running is
//! runnable: it waits for a CPU, as on Xen.
//!
//! A guest may register an area where it can read these numbers. Its memory is pinned at that moment and written at
//! every change, also for a vCPU that does not run: a lock waiter looks at another vCPU's area to see whether that one
//! was preempted. (Xen translates a virtual address anew at each update, and updates at context switches only.)
//!
//! Locking: a vCPU's times and area are under its `RUNSTATE` lock.

use core::sync::atomic::{AtomicBool, Ordering, fence};

use shared_abi::vcpu::{
    RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, RUNSTATE_UPDATE, RunstateInfo,
};
use shared_abi::xen::{Errno, Gfn};
use zerocopy::IntoBytes;

use crate::domain::Domain;
use crate::heap::{FrameHeap, PinnedFrame};
use crate::hypercall::{Call, Width};
use crate::hypervisor::Hypervisor;
use crate::locks::{Mutex, rank};
use crate::machine::{Machine, MachineAddress, PAGE_SHIFT, PAGE_SIZE};
use crate::sched::VcpuSched;
use crate::sched::state::{Placement, Word};

/// Most bytes of an area.
const AREA_BYTES: usize = 48;
/// Bytes of `vcpu_runstate_info` as a 32-bit guest sees it: 64-bit fields have an alignment of 4 there.
const NARROW_BYTES: usize = 44;

/// A small piece of a guest's memory that the hypervisor writes at any time, whatever the guest does with its page
/// tables and its memory meanwhile: the frames under it are pinned.
#[derive(Debug)]
pub struct GuestArea {
    /// Its bytes in the first frame.
    first_bytes: usize,
    first: MachineAddress,
    second: Option<MachineAddress>,
    pins: [Option<PinnedFrame>; 2],
}

impl GuestArea {
    /// Pins `bytes` (at most a page) at a virtual address of the caller.
    ///
    /// # Errors
    /// `EFAULT` when the caller does not map them, or not to writable memory.
    pub fn pin_virtual<M: Machine>(call: &Call<'_, M>, address: u64, bytes: usize) -> Result<Self, Errno> {
        let first_bytes = bytes_in_page(address, bytes);
        let first = call.guest_frame_of(address)?;
        let second = if first_bytes < bytes {
            let next = address.checked_add(first_bytes as u64).ok_or(Errno::EFAULT)?;
            Some(call.guest_frame_of(next)?)
        } else {
            None
        };
        Self::pin(call.hv, call.current.domain(), first, second, first_bytes).map_err(|_| Errno::EFAULT)
    }

    /// Pins `bytes` (at most a page) at a guest-physical address of `domain`, within one page.
    ///
    /// # Errors
    /// `ENXIO` when they cross a page, `EINVAL` when there is no writable memory.
    pub fn pin_physical<M: Machine>(
        hv: &Hypervisor<M>,
        domain: &Domain<M>,
        address: u64,
        bytes: usize,
    ) -> Result<Self, Errno> {
        let first_bytes = bytes_in_page(address, bytes);
        if first_bytes < bytes {
            return Err(Errno::ENXIO);
        }
        let first = (Gfn(address >> PAGE_SHIFT), address as usize % PAGE_SIZE);
        Self::pin(hv, domain, first, None, first_bytes)
    }

    fn pin<M: Machine>(
        hv: &Hypervisor<M>,
        domain: &Domain<M>,
        first: (Gfn, usize),
        second: Option<(Gfn, usize)>,
        first_bytes: usize,
    ) -> Result<Self, Errno> {
        let pin = |(gfn, offset)| {
            let pin = domain.memory.pin(hv, gfn)?;
            let at = MachineAddress::in_frame(pin.mfn(), offset);
            Ok((pin, at))
        };
        let (first_pin, first) = pin(first)?;
        let second = match second.map(pin) {
            Some(Err(errno)) => {
                first_pin.release(&hv.heap);
                return Err(errno);
            }
            Some(Ok(second)) => Some(second),
            None => None,
        };
        let (second_pin, second) = second.unzip();
        Ok(Self { first_bytes, first, second, pins: [Some(first_pin), second_pin] })
    }

    /// Writes the area's first bytes.
    pub fn write<M: Machine>(&self, machine: &M, bytes: &[u8]) {
        match self.second {
            None if self.first.0.is_multiple_of(8) => write_words(machine, self.first, bytes),
            None => machine.write(self.first, bytes),
            Some(second) => {
                let (head, tail) = bytes.split_at(self.first_bytes.min(bytes.len()));
                machine.write(self.first, head);
                machine.write(second, tail);
            }
        }
    }

    /// Gives the frames back.
    pub fn release(mut self, heap: &FrameHeap) {
        for pin in self.pins.iter_mut().filter_map(Option::take) {
            pin.release(heap);
        }
    }
}

/// How many of `bytes` bytes at `address` lie in its page.
fn bytes_in_page(address: u64, bytes: usize) -> usize {
    bytes.min(PAGE_SIZE - address as usize % PAGE_SIZE)
}

/// Writes whole words, so that a reader never sees half of one, and what is left over as bytes.
fn write_words<M: Machine>(machine: &M, mut at: MachineAddress, bytes: &[u8]) {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        machine.word64(at).store(u64::from_le_bytes(*word), Ordering::Relaxed);
        at.0 += 8;
    }
    if !rest.is_empty() {
        machine.write(at, rest);
    }
}

/// The area a guest registered.
#[derive(Debug)]
struct Registered {
    area: GuestArea,
    width: Width,
    /// Mark the area while it changes.
    marks: bool,
}

/// What the lock protects.
#[derive(Debug)]
struct Times {
    info: RunstateInfo,
    started: bool,
    /// No area may be registered any more.
    closed: bool,
    registered: Option<Registered>,
}

/// Where a vCPU's time went.
#[derive(Debug)]
pub struct Runstate {
    times: Mutex<Times, { rank::RUNSTATE }>,
}

/// The runstate that a state word means.
pub fn of(word: Word) -> i32 {
    if word.placement() == Placement::Running {
        RUNSTATE_RUNNING
    } else if word.wants_cpu() {
        RUNSTATE_RUNNABLE
    } else if word.is_blocked() && !word.is_down() {
        RUNSTATE_BLOCKED
    } else {
        RUNSTATE_OFFLINE
    }
}

impl Times {
    /// Books the time up to `now` to the state until now. Another CPU's slightly older `now` changes nothing.
    fn book(&mut self, now: u64) {
        if !self.started {
            self.started = true;
            self.info.state_entry_time = now;
        }
        let passed = now.saturating_sub(self.info.state_entry_time);
        self.info.time[self.info.state as usize] += passed;
        self.info.state_entry_time += passed;
    }

    fn write<M: Machine>(&self, machine: &M) {
        let Some(registered) = &self.registered else { return };
        let mut info = self.info;
        if registered.marks {
            // Marked before anything else changes, unmarked after everything has.
            info.state_entry_time |= RUNSTATE_UPDATE;
            registered.write(machine, &info);
            fence(Ordering::Release);
            info.state_entry_time &= !RUNSTATE_UPDATE;
        }
        registered.write(machine, &info);
    }
}

impl Registered {
    fn write<M: Machine>(&self, machine: &M, info: &RunstateInfo) {
        let (bytes, length) = encode(info, self.width);
        self.area.write(machine, &bytes[..length]);
    }
}

impl Runstate {
    /// An offline vCPU whose time begins with the first [`Runstate::refresh`].
    pub fn new() -> Self {
        let info = RunstateInfo { state: RUNSTATE_OFFLINE, pad: 0, state_entry_time: 0, time: [0; 4] };
        Self { times: Mutex::new(Times { info, started: false, closed: false, registered: None }) }
    }

    /// Brings the runstate in line with the vCPU's state word, at the time `now` in nanoseconds. The state before and
    /// after.
    pub fn refresh<M: Machine>(&self, machine: &M, sched: &VcpuSched, now: u64) -> (i32, i32) {
        let mut times = self.times.lock();
        let (before, state) = (times.info.state, of(sched.state()));
        if state != before || !times.started {
            times.book(now);
            times.info.state = state;
            times.write(machine);
        }
        (before, state)
    }

    /// The times up to `now`, in nanoseconds.
    pub fn info(&self, now: u64) -> RunstateInfo {
        let times = self.times.lock();
        let mut info = times.info;
        if times.started {
            info.time[info.state as usize] += now.saturating_sub(info.state_entry_time);
        }
        info
    }

    /// Bytes of the area that a guest of this width registers.
    pub fn area_bytes(width: Width) -> usize {
        match width {
            Width::Bits64 => AREA_BYTES,
            Width::Bits32 => NARROW_BYTES,
        }
    }

    /// Keeps `area` up to date from now on, in place of an earlier one. Once closed, it just gives the area back.
    pub fn register<M: Machine>(&self, hv: &Hypervisor<M>, area: GuestArea, width: Width, marks: &AtomicBool) {
        let marks = marks.load(Ordering::Relaxed);
        let earlier = {
            let mut times = self.times.lock();
            if times.closed {
                Some(area)
            } else {
                let earlier = times.registered.replace(Registered { area, width, marks });
                times.write(&hv.machine);
                earlier.map(|earlier| earlier.area)
            }
        };
        if let Some(earlier) = earlier {
            earlier.release(&hv.heap);
        }
    }

    /// Writes no area any more and gives its memory back.
    pub fn unregister(&self, heap: &FrameHeap) {
        let earlier = self.times.lock().registered.take();
        if let Some(earlier) = earlier {
            earlier.area.release(heap);
        }
    }

    /// As [`Runstate::unregister`], for good: the domain goes.
    pub fn close(&self, heap: &FrameHeap) {
        self.times.lock().closed = true;
        self.unregister(heap);
    }

    /// Marks the area while it changes (`VMASST_TYPE_runstate_update_flag`), or no longer.
    pub fn set_marks(&self, marks: bool) {
        if let Some(registered) = &mut self.times.lock().registered {
            registered.marks = marks;
        }
    }
}

impl Default for Runstate {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes of `info` as a guest of this width reads them, and how many there are.
pub fn encode(info: &RunstateInfo, width: Width) -> ([u8; AREA_BYTES], usize) {
    let mut bytes = [0; AREA_BYTES];
    bytes.copy_from_slice(info.as_bytes());
    if width == Width::Bits32 {
        bytes.copy_within(8..AREA_BYTES, 4);
    }
    (bytes, Runstate::area_bytes(width))
}
