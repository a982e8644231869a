//! The pages events travel through: shared_info, each vCPU's `vcpu_info`, the FIFO ABI's control blocks and event words.
//!
//! shared_info is a frame of the hypervisor's. The others are pages the guest names: pinned when it does, so that they
//! stay what they are although the guest may remove them from its memory, and unpinned when the domain ends or goes back
//! to the 2-level ABI. A pin is recorded by the address kept for the page.

use core::sync::atomic::Ordering;

use shared_abi::event_channel::{
    ExpandArray, FIFO_EVENT_WORDS_PER_PAGE, FIFO_LINK_BITS, FIFO_MAX_EVENT_ARRAY_PAGES, FIFO_PRIORITY_DEFAULT,
    FifoControlBlock, InitControl,
};
use shared_abi::xen::shared_info::LEGACY_MAX_VCPUS;
use shared_abi::xen::{Errno, Gfn, Mfn, Port, VcpuInfo, shared_info_offset};

use super::bind::Book;
use super::{deliver, fifo, two_level};
use crate::clock;
use crate::domain::Domain;
use crate::heap::PinnedFrame;
use crate::hypercall::{Call, CallResult, Next, Width};
use crate::hypervisor::Hypervisor;
use crate::locks::{MutexGuard, rank};
use crate::machine::{Machine, MachineAddress, PAGE_SIZE};
use crate::vcpu::VcpuRef;

/// Gives a domain its shared_info, a cleared frame, while it is built: the first vCPUs have their `vcpu_info` there, and
/// the clocks are set. Once only.
pub fn attach_shared_info<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, frame: Mfn) {
    domain.events.shared_info.call_once(|| frame);
    for (index, vcpu) in domain.vcpus.iter().take(LEGACY_MAX_VCPUS).enumerate() {
        let offset = shared_info_offset::VCPU_INFO + index * shared_info_offset::VCPU_INFO_STRIDE;
        let info = MachineAddress::in_frame(frame, offset);
        vcpu.events.info.store(info.0, Ordering::SeqCst);
        clock::update_vcpu(hv, vcpu);
    }
    clock::update_wall_clock(hv, domain);
}

/// Notes which layout the guest's shared pages have: that of the code it runs when it has the hypercall page written
/// and when it sets up its callback. Xen looks at the same moments.
pub fn latch_width<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, width: Width) {
    domain.events.narrow.store(width == Width::Bits32, Ordering::SeqCst);
    clock::update_wall_clock(hv, domain);
}

/// `VCPUOP_register_vcpu_info`: moves the vCPU's `vcpu_info` into the guest's own page `gfn`, and marks everything
/// pending there, since events may have been noted in the old place meanwhile.
///
/// # Errors
/// `ENXIO` when it is not aligned or not inside one page, `EBUSY` when it has been moved before, `EINVAL` when the page
/// is not memory of the domain's.
pub fn register_vcpu_info<M: Machine>(call: &Call<'_, M>, vcpu: &VcpuRef<M>, gfn: Gfn, offset: u32) -> CallResult {
    let (hv, domain) = (call.hv, vcpu.domain());
    let narrow = domain.events.is_narrow();
    let alignment = if narrow { 4 } else { 8 };
    let offset = offset as usize;
    if offset > PAGE_SIZE - size_of::<VcpuInfo>() || !offset.is_multiple_of(alignment) {
        return Err(Errno::ENXIO);
    }
    let pin = domain.memory.pin(hv, gfn).map_err(|_| Errno::EINVAL)?;
    let info = MachineAddress::in_frame(pin.mfn(), offset);
    let book = domain.events.book.lock();
    if book.closed || is_registered(domain, vcpu) {
        drop(book);
        pin.release(&hv.heap);
        return Err(Errno::EBUSY);
    }
    let mut contents = [0; size_of::<VcpuInfo>()];
    if let Some(old) = vcpu.events.info() {
        hv.machine.read(old, &mut contents);
    }
    hv.machine.write(info, &contents);
    vcpu.events.info.store(info.0, Ordering::SeqCst);
    pin.into_record();
    drop(book);
    clock::update_vcpu(hv, vcpu);
    two_level::select_all(hv, narrow, info);
    deliver::mark_upcall(hv, vcpu);
    deliver::announce(hv, vcpu);
    Ok(Next::Return(0))
}

/// Whether the vCPU's `vcpu_info` is in a page the guest named.
fn is_registered<M: Machine>(domain: &Domain<M>, vcpu: &crate::vcpu::Vcpu<M>) -> bool {
    vcpu.events.info().is_some_and(|info| Some(info.frame()) != domain.events.shared_info_frame())
}

/// `EVTCHNOP_init_control`: gives a vCPU its control block; the domain's first one switches it to the FIFO ABI.
pub(super) fn init_control<M: Machine>(call: &Call<'_, M>, request: &mut InitControl) -> Result<(), Errno> {
    let (hv, domain) = (call.hv, call.current.domain());
    let vcpu = domain.vcpus.get(request.vcpu.index()).ok_or(Errno::ENOENT)?;
    let offset = request.offset as usize;
    if offset > PAGE_SIZE - size_of::<FifoControlBlock>() || !offset.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let pin = domain.memory.pin(hv, request.control_gfn).map_err(|_| Errno::EINVAL)?;
    let control = MachineAddress::in_frame(pin.mfn(), offset);
    let book = domain.events.book.lock();
    if book.closed || vcpu.events.fifo.control().is_some() {
        drop(book);
        pin.release(&hv.heap);
        return Err(Errno::EINVAL);
    }
    if !domain.events.uses_fifo() {
        switch_to_fifo(hv, domain);
    }
    vcpu.events.fifo.set_control(control);
    pin.into_record();
    request.link_bits = FIFO_LINK_BITS as u8;
    Ok(())
}

/// Switches to the FIFO ABI, keeping what is pending for when the pages with the event words come. The caller holds the
/// EVENT lock.
fn switch_to_fifo<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>) {
    let events = &domain.events;
    events.gate.pause(&hv.machine);
    for number in 1..two_level::limit(events) {
        let port = Port(number);
        let Some(entry) = events.ports.get(port) else {
            break;
        };
        let pending = two_level::is_pending(hv, domain, port);
        entry.saved_pending.store(pending, Ordering::SeqCst);
        entry.priority.store(FIFO_PRIORITY_DEFAULT as u8, Ordering::Relaxed);
    }
    events.uses_fifo.store(true, Ordering::SeqCst);
    events.gate.resume();
}

/// `EVTCHNOP_expand_array`: the page for the next 1024 event words. What was pending for them is raised.
pub(super) fn expand_array<M: Machine>(call: &Call<'_, M>, request: &ExpandArray) -> Result<(), Errno> {
    let (hv, domain) = (call.hv, call.current.domain());
    let events = &domain.events;
    if !events.uses_fifo() {
        return Err(Errno::EOPNOTSUPP);
    }
    if events.array.pages() >= FIFO_MAX_EVENT_ARRAY_PAGES {
        return Err(Errno::ENOSPC);
    }
    let pin = domain.memory.pin(hv, request.array_gfn).map_err(|_| Errno::EINVAL)?;
    let book = events.book.lock();
    let refusal = if book.closed || !events.uses_fifo() {
        Some(Errno::EOPNOTSUPP)
    } else if !events.array.add(pin.mfn()) {
        Some(Errno::ENOSPC)
    } else {
        None
    };
    let first = (events.array.pages().max(1) - 1) * FIFO_EVENT_WORDS_PER_PAGE;
    drop(book);
    if let Some(errno) = refusal {
        pin.release(&hv.heap);
        return Err(errno);
    }
    pin.into_record();
    for number in first..first + FIFO_EVENT_WORDS_PER_PAGE {
        let Some(entry) = events.ports.get(Port(number)) else {
            break;
        };
        if entry.saved_pending.swap(false, Ordering::SeqCst) {
            deliver::raise(hv, domain, Port(number), entry, entry.load().vcpu());
        }
    }
    Ok(())
}

/// Back to the 2-level ABI after a reset has closed all ports.
pub(super) fn back_to_two_level<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    book: MutexGuard<'_, Book, { rank::EVENT }>,
) {
    let events = &domain.events;
    if !events.uses_fifo() {
        return;
    }
    events.gate.pause(&hv.machine);
    events.uses_fifo.store(false, Ordering::SeqCst);
    two_level::forget(hv, domain);
    fifo::dismantle(domain, |frame| PinnedFrame::from_record(frame).release(&hv.heap));
    events.gate.resume();
    drop(book);
}

/// The end of a domain: nobody writes to its event pages again, and those it named are unpinned.
pub(super) fn detach<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>) {
    let events = &domain.events;
    let book = events.book.lock();
    events.gate.close(&hv.machine);
    let unpin = |frame| PinnedFrame::from_record(frame).release(&hv.heap);
    fifo::dismantle(domain, unpin);
    for vcpu in &domain.vcpus {
        let registered = is_registered(domain, vcpu);
        let info = vcpu.events.info.swap(0, Ordering::SeqCst);
        if registered {
            unpin(MachineAddress(info).frame());
        }
    }
    drop(book);
}
