//! Writes to CR4 (SDM vol. 3, 2.5; APM vol. 2, 3.1.3): a guest sets what it is offered, and gets #GP for the rest.
//!
//! Without the intercept the processor would take every bit that the host has, among them features whose state is not
//! switched. The register is found by decoding; where the hardware would name it, decoding costs little beside an exit
//! and is the same everywhere.

use ebb_core::lapic::Fault;
use iced_x86::{Code, Decoder, DecoderOptions, Register};

use super::{Context, instruction, mmio};
use crate::virt::vector;

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LMA: u64 = 1 << 10;

/// Serves a write to CR4.
pub fn write_cr4(context: &mut Context<'_>) {
    let mut buffer = [0_u8; 15];
    let Some(length) = mmio::fetch_code(context, &mut buffer) else { return };
    let hw = &context.guest.hw;
    let decoded = Decoder::with_ip(hw.code_bits(), &buffer[..length], hw.rip(), DecoderOptions::NONE).decode();
    // Another instruction can only be there if the guest has written it since.
    let is_ours =
        matches!(decoded.code(), Code::Mov_cr_r32 | Code::Mov_cr_r64) && decoded.op0_register() == Register::CR4;
    let value = if is_ours { instruction::read_register(context, decoded.op1_register()).ok() } else { None };
    let Some(value) = value else {
        return context.guest.hw.inject_exception(vector::UNDEFINED_OPCODE, None);
    };
    let paging = context.guest.hw.paging();
    let leaves_long_mode = paging.cr0 & CR0_PG != 0 && paging.efer & EFER_LMA != 0 && value & CR4_PAE == 0;
    if value & !context.hv.machine.policy.cr4_mask() != 0 || leaves_long_mode {
        return context.fault(Fault::GeneralProtection(0));
    }
    context.guest.hw.set_cr4(value);
    context.guest.hw.set_rip(decoded.next_ip());
}
