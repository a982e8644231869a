//! Accesses to guest-physical addresses without memory behind them: the local APIC's page, and everything else, which
//! reads as all ones and drops writes.

use core::fmt::Write as _;

use ebb_core::lifecycle;

use super::{Context, instruction};
use crate::virt::{NestedFault, vector};

const APIC_PAGE_MASK: u64 = !0xfff;

/// What an emulated access reaches.
pub enum Device {
    /// The vCPU's local APIC, at this offset.
    LocalApic(u32),
    /// Nothing.
    Absent,
}

/// Serves a nested page fault.
pub fn nested_fault(context: &mut Context<'_>, fault: NestedFault) {
    let device = match context.hv.apic_window(context.vcpu) {
        Some(base) if fault.address & APIC_PAGE_MASK == base => Device::LocalApic((fault.address & 0xfff) as u32),
        _ => {
            if became_accessible(context, fault) {
                return;
            }
            Device::Absent
        }
    };
    if fault.table_walk || context.guest.hw.interruptibility().occupied {
        // There is no instruction to carry out: the guest's page tables, or the stack or descriptors of an event that
        // was being delivered, lie where no memory is.
        let what = if fault.table_walk { "its page tables" } else { "what an interrupt needs" };
        let why = format_args!("{what} lie at {:#x}, where it has no memory", fault.address);
        return lifecycle::crash(context.hv, context.vcpu.domain(), why);
    }
    if fault.fetch {
        // Code that reads as all ones is no instruction.
        return context.guest.hw.inject_exception(vector::UNDEFINED_OPCODE, None);
    }
    let mut buffer = [0_u8; 15];
    let Some(length) = fetch(context, &mut buffer) else { return };
    if let Err(unsupported) = instruction::emulate(context, &buffer[..length], &device, fault.write) {
        let mut bytes = alloc::string::String::new();
        for byte in &buffer[..length.min(8)] {
            let _ = write!(bytes, "{byte:02x} ");
        }
        crate::debug!("d{}: {unsupported} at {:#x}: {bytes}", context.vcpu.domain().id.0, fault.address);
        context.guest.hw.inject_exception(vector::UNDEFINED_OPCODE, None);
    }
}

/// Another CPU may have put memory there since the fault; then the guest simply tries again.
fn became_accessible(context: &Context<'_>, fault: NestedFault) -> bool {
    let gfn = shared_abi::xen::Gfn(fault.address >> 12);
    let found = context.vcpu.domain().memory.translate(&context.hv.machine, gfn);
    found.is_some_and(|(_, writable)| writable || !fault.write)
}

/// The bytes of the instruction. `None` when they cannot be read: a fault has been put before the guest.
fn fetch(context: &mut Context<'_>, buffer: &mut [u8; 15]) -> Option<usize> {
    let hw = &context.guest.hw;
    let kept = hw.instruction_bytes();
    if kept.length > 0 {
        *buffer = kept.bytes;
        return Some(kept.length);
    }
    fetch_code(context, buffer)
}

/// The bytes at the instruction pointer, from the guest's memory. `None` as for [`fetch`].
pub(super) fn fetch_code(context: &mut Context<'_>, buffer: &mut [u8; 15]) -> Option<usize> {
    let hw = &context.guest.hw;
    let address = hw.segment_base(crate::virt::SegmentName::Cs).wrapping_add(hw.rip());
    let paging = hw.paging();
    // Few instructions go on in the next page; that is looked at only for those.
    let here = buffer.len().min(0x1000 - (address & 0xfff) as usize);
    let mut length = context.hv.read_virtual(context.vcpu, &paging, address, &mut buffer[..here]);
    if length == here && here < buffer.len() && instruction::is_cut_off(hw.code_bits(), &buffer[..here]) {
        let next = address.wrapping_add(here as u64);
        length += context.hv.read_virtual(context.vcpu, &paging, next, &mut buffer[here..]);
    }
    if length == 0 {
        inject_page_fault(context, address, false);
    }
    (length != 0).then_some(length)
}

/// Puts a page fault at `address` before the guest.
pub fn inject_page_fault(context: &mut Context<'_>, address: u64, write: bool) {
    let user = context.guest.hw.paging().cpl == 3;
    let error = u32::from(write) << 1 | u32::from(user) << 2;
    context.guest.hw.set_page_fault_address(address);
    context.guest.hw.inject_exception(vector::PAGE_FAULT, Some(error));
}

impl Device {
    /// Reads `size` bytes.
    pub fn read(&self, context: &mut Context<'_>) -> u64 {
        match *self {
            Device::LocalApic(offset) => {
                let word = context.hv.apic_mmio_read(context.vcpu, offset & !3);
                u64::from(word >> ((offset & 3) * 8))
            }
            Device::Absent => u64::MAX,
        }
    }

    /// Writes; the APIC takes whole aligned words and ignores everything else.
    pub fn write(&self, context: &mut Context<'_>, value: u64, size: usize) {
        if let Device::LocalApic(offset) = *self
            && size >= 4
            && offset & 3 == 0
        {
            context.hv.apic_mmio_write(context.vcpu, offset, value as u32);
            context.refresh_tpr();
        }
    }
}
