//! `XEN_SYSCTL_tbuf_op`: a privileged domain makes the buffers, finds them, and chooses what goes into them.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use shared_abi::sysctl::{self as abi, TbufOp};
use shared_abi::xen::{Errno, Mfn};

use super::{CpuBuffer, Producer, SetUp, Wishes};
use crate::domctl::affinity;
use crate::heap::{Extent, Owner, PinnedFrame};
use crate::hypercall::Call;
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, MachineAddress, PAGE_SIZE};

/// Most frames of all buffers together, a power of two: what is asked for beyond is not given, as on Xen, whose limit is
/// another. They are taken and cleared in one call.
const MOST_FRAMES: u32 = 4096;

/// One operation; the answer is what goes back to the caller.
///
/// # Errors
/// `EINVAL` for an unknown operation, no size or another than there is, and tracing without buffers; `EBUSY` when there are
/// buffers of this size already; `ENOMEM`; `EFAULT` for a mask the guest does not map.
pub(crate) fn control<M: Machine>(call: &Call<'_, M>, request: &TbufOp) -> Result<TbufOp, Errno> {
    let buffers = &call.hv.trace_buffers;
    let mut wishes = buffers.control.lock();
    let mut answer = *request;
    match request.cmd {
        abi::TBUFOP_GET_INFO => {
            let set_up = buffers.set_up.get();
            answer.evt_mask = wishes.events;
            answer.buffer_mfn = set_up.map_or(0, |set_up| set_up.info.0);
            answer.size = set_up.map_or(0, |set_up| set_up.info_frames * PAGE_SIZE as u32);
        }
        abi::TBUFOP_SET_CPU_MASK => {
            // Guest memory is read under the p2m's lock, which comes before this one.
            drop(wishes);
            let mask = affinity::read_mask(call, &request.cpu_mask)?;
            buffers.cpus.iter().zip(mask).for_each(|(word, wanted)| word.store(wanted, Ordering::Relaxed));
            return Ok(answer);
        }
        abi::TBUFOP_SET_EVT_MASK => wishes.events = request.evt_mask,
        abi::TBUFOP_SET_SIZE => {
            make(call.hv, request.size)?;
            wishes.enabled = true;
        }
        abi::TBUFOP_ENABLE if buffers.set_up.is_completed() => wishes.enabled = true,
        abi::TBUFOP_DISABLE => {
            wishes.enabled = false;
            buffers.set_up.get().iter().flat_map(|it| &it.cpus).for_each(|cpu| cpu.producer.forget_lost());
        }
        _ => return Err(Errno::EINVAL),
    }
    let Wishes { enabled, events } = *wishes;
    // Only what changes it: a look does not start again what a reader's mistake has stopped.
    if request.cmd != abi::TBUFOP_GET_INFO {
        buffers.live.store(if enabled { events } else { 0 }, Ordering::Relaxed);
    }
    Ok(answer)
}

/// Makes the buffers, of `pages` frames for each CPU: up to a power of two, down to what is given at most.
fn make<M: Machine>(hv: &Hypervisor<M>, pages: u32) -> Result<(), Errno> {
    let cpus = hv.cpus.len() as u32;
    let order = pages.clamp(1, MOST_FRAMES).next_power_of_two().min(MOST_FRAMES / cpus).ilog2();
    let size = 1 << order;
    if let Some(set_up) = hv.trace_buffers.set_up.get() {
        return Err(if set_up.pages == size { Errno::EBUSY } else { Errno::EINVAL });
    }
    if pages == 0 {
        return Err(Errno::EINVAL);
    }
    // The list: a 16-bit size and a 16-bit place for each CPU, then a word for each frame.
    let first = (1 + cpus).div_ceil(2);
    let info_frames = (first + cpus * size).div_ceil(PAGE_SIZE as u32 / 4);
    let mut extents = take_blocks(hv, cpus, order, info_frames.next_power_of_two().ilog2())?.into_iter();
    let mut next = || extents.next().expect("a block for each CPU and the list").into_record().0;
    let info = next();
    let half = |index: u32| hv.machine.word16(MachineAddress::in_frame(info, index as usize * 2));
    let word = |index: u32| hv.machine.word32(MachineAddress::in_frame(info, index as usize * 4));
    half(0).store(size as u16, Ordering::Relaxed);
    let mut buffers = Vec::with_capacity(cpus as usize);
    for cpu in 0..cpus {
        let (frames, place) = (next(), first + cpu * size);
        half(1 + cpu).store(place as u16, Ordering::Relaxed);
        for index in 0..size {
            word(place + index).store(frames.0 as u32 + index, Ordering::Relaxed);
        }
        buffers.push(CpuBuffer { first: frames, producer: Producer::default() });
    }
    hv.trace_buffers.set_up.call_once(|| SetUp { info, info_frames, pages: size, cpus: buffers.into_boxed_slice() });
    Ok(())
}

/// Cleared blocks of the hypervisor's, all or none: one of `list` (an order), then `count` of `order`.
fn take_blocks<M: Machine>(hv: &Hypervisor<M>, count: u32, order: u32, list: u32) -> Result<Vec<Extent>, Errno> {
    let mut extents = Vec::new();
    for index in 0..=count {
        let block = hv.heap.allocate(&hv.machine, if index == 0 { list } else { order }, Owner::Hypervisor);
        match block {
            // Readers name a frame by 32 bits.
            Some(block) if block.first().0 + block.frames() <= 1 << 32 => extents.push(block),
            other => {
                extents.into_iter().chain(other).for_each(|block| hv.heap.free_untouched(block));
                return Err(Errno::ENOMEM);
            }
        }
    }
    Ok(extents)
}

impl<M: Machine> Hypervisor<M> {
    /// Keeps a frame of the trace buffers for a mapping, if `mfn` is one; whether the mapping may be written to.
    pub(crate) fn pin_trace_frame(&self, mfn: Mfn) -> Option<(PinnedFrame, bool)> {
        let writable = self.trace_buffers.shared(mfn)?;
        Some((self.heap.pin(mfn), writable))
    }
}
