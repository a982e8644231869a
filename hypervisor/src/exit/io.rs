//! Ports. A guest has no port devices: reads float (all ones), writes are dropped. Two exceptions: port 0xe9 is a
//! console, and port 0x42 (the timer's second counter) reads as zero, because Linux would otherwise read it a hundred
//! thousand times before it believes that there is none.

use ebb_core::console;
use ebb_core::hypercall::{Call, Width};

use super::Context;
use crate::virt::{IoAccess, SegmentName, register};

const CONSOLE: u16 = 0xe9;
const TIMER_COUNTER_2: u16 = 0x42;
/// Most bytes of a string operation per exit; the guest repeats the instruction for the rest.
const CHUNK: usize = 256;
const RFLAGS_DF: u64 = 1 << 10;

/// Serves one port access.
pub fn access(context: &mut Context<'_>, access: IoAccess) {
    if access.string {
        return string(context, access);
    }
    if access.input {
        let value = floating(access.port);
        let old = context.guest.hw.general(register::RAX);
        let new = match access.size {
            1 => old & !0xff | value & 0xff,
            2 => old & !0xffff | value & 0xffff,
            _ => value & 0xffff_ffff,
        };
        context.guest.hw.set_general(register::RAX, new);
    } else if access.port == CONSOLE && access.size == 1 {
        let byte = context.guest.hw.general(register::RAX) as u8;
        console::print(context.hv, context.vcpu.domain(), &[byte]);
    }
    context.guest.hw.advance_io();
}

fn floating(port: u16) -> u64 {
    if port == TIMER_COUNTER_2 { 0 } else { u64::MAX }
}

/// INS and OUTS: as many elements as fit in a chunk, then the guest executes the rest.
fn string(context: &mut Context<'_>, access: IoAccess) {
    let mask = match access.address_size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let hw = &context.guest.hw;
    let index = if access.input { register::RDI } else { register::RSI };
    let remaining = if access.repeated { hw.general(register::RCX) & mask } else { 1 };
    let size = u64::from(access.size);
    let backwards = hw.rflags() & RFLAGS_DF != 0;
    let count = if backwards { remaining.min(1) } else { remaining.min(CHUNK as u64 / size) };
    if count > 0 && (access.input || access.port == CONSOLE) && !transfer(context, access, count, mask) {
        return;
    }
    let hw = &mut context.guest.hw;
    let distance = count * size;
    let old = hw.general(index);
    let moved = if backwards { old.wrapping_sub(distance) } else { old.wrapping_add(distance) };
    hw.set_general(index, old & !mask | moved & mask);
    if access.repeated {
        let old = hw.general(register::RCX);
        hw.set_general(register::RCX, old & !mask | (remaining - count) & mask);
    }
    if remaining == count {
        hw.advance_io();
    }
}

/// Moves the bytes of a chunk. `false` when the guest's memory is not there: a page fault has been put before it.
fn transfer(context: &mut Context<'_>, access: IoAccess, count: u64, mask: u64) -> bool {
    let hw = &context.guest.hw;
    let length = (count * u64::from(access.size)) as usize;
    let (segment, index) = if access.input {
        (SegmentName::Es, register::RDI)
    } else {
        (SegmentName::from_number(access.segment), register::RSI)
    };
    let address = hw.segment_base(segment).wrapping_add(hw.general(index) & mask);
    let address = if hw.width() == Width::Bits64 { address } else { address & 0xffff_ffff };
    let paging = hw.paging();
    let mut bytes = [0xff_u8; CHUNK];
    let call = Call { hv: context.hv, current: context.vcpu, args: [0; 5], width: hw.width(), paging };
    let done = if access.input {
        call.write_guest_bytes(address, &bytes[..length])
    } else {
        call.read_guest_bytes(address, &mut bytes[..length])
    };
    if done.is_err() {
        // The instruction's own access would have faulted the same way.
        super::mmio::inject_page_fault(context, address, access.input);
        return false;
    }
    if !access.input {
        bytes[..length]
            .chunks(console::PIECE)
            .for_each(|piece| console::print(context.hv, context.vcpu.domain(), piece));
    }
    true
}
