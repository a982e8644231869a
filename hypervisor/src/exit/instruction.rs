//! Instructions that touch a device: decoded by iced-x86, carried out on the vCPU's registers and the device.
//!
//! The forms compilers use for device registers are here (moves of every kind, string stores, exchange, and the
//! logical and comparing forms on memory). Another form is #UD for the guest.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, OpKind, Register};

use super::Context;

use super::mmio::Device;
use crate::instruction_form::{self, Operation};
use crate::virt::register;

const FLAG_CF: u64 = 1 << 0;
const FLAG_PF: u64 = 1 << 2;
const FLAG_AF: u64 = 1 << 4;
const FLAG_ZF: u64 = 1 << 6;
const FLAG_SF: u64 = 1 << 7;
const FLAG_DF: u64 = 1 << 10;
const FLAG_OF: u64 = 1 << 11;
const ARITHMETIC_FLAGS: u64 = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF;

/// Builds the decoder's tables, once, at boot: they are allocated on first use, which must not be in an exit.
pub fn prepare() {
    let mut decoder = Decoder::new(64, &[0x90], DecoderOptions::NONE);
    let _ = decoder.decode();
}

/// Whether these bytes are only the beginning of an instruction.
pub fn is_cut_off(code_bits: u32, bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(code_bits, bytes, DecoderOptions::NONE);
    let _ = decoder.decode();
    decoder.last_error() == DecoderError::NoMoreBytes
}

/// Carries out the instruction in `bytes` against `device` and steps over it.
///
/// # Errors
/// The instruction is none of those known here; nothing has changed.
pub fn emulate(context: &mut Context<'_>, bytes: &[u8], device: &Device, write: bool) -> Result<(), &'static str> {
    let hw = &context.guest.hw;
    let mut decoder = Decoder::with_ip(hw.code_bits(), bytes, hw.rip(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return Err("an instruction that cannot be decoded");
    }
    let (operation, size) = instruction_form::of(instruction.code()).ok_or("an instruction that is not emulated")?;
    match operation {
        Operation::Move if write => {
            let value = source(context, &instruction, 1)?;
            device.write(context, truncate(value, size), size);
        }
        Operation::Move | Operation::MoveZeroExtended => {
            let value = truncate(device.read(context), size);
            set_register(context, instruction.op0_register(), value)?;
        }
        Operation::MoveSignExtended => {
            let value = sign_extend(device.read(context), size);
            set_register(context, instruction.op0_register(), value)?;
        }
        Operation::Exchange => {
            let other = if instruction.op0_kind() == OpKind::Memory { 1 } else { 0 };
            let register = instruction.op_register(other);
            let new = read_register(context, register)?;
            let old = device.read(context);
            device.write(context, truncate(new, size), size);
            set_register(context, register, truncate(old, size))?;
        }
        Operation::Store => return store_string(context, &instruction, device, size),
        Operation::And | Operation::Or | Operation::Xor | Operation::Test | Operation::Compare => {
            logical(context, &instruction, operation, device, size)?;
        }
    }
    context.guest.hw.set_rip(instruction.next_ip());
    Ok(())
}

fn truncate(value: u64, size: usize) -> u64 {
    if size >= 8 { value } else { value & ((1 << (size * 8)) - 1) }
}

fn sign_extend(value: u64, size: usize) -> u64 {
    let shift = 64 - size as u32 * 8;
    ((value << shift) as i64 >> shift) as u64
}

/// The value of the operand that is not memory.
fn source(context: &Context<'_>, from: &Instruction, operand: u32) -> Result<u64, &'static str> {
    match from.op_kind(operand) {
        OpKind::Register => read_register(context, from.op_register(operand)),
        OpKind::Memory => Err("an operand in memory where a register was expected"),
        _ => from.try_immediate(operand).map_err(|_| "an operand of an unknown kind"),
    }
}

/// The value of a general register or a part of one.
pub(super) fn read_register(context: &Context<'_>, name: Register) -> Result<u64, &'static str> {
    if !name.is_gpr() {
        return Err("an operand that is no general register");
    }
    let value = context.guest.hw.general(name.full_register().number());
    let high_byte = matches!(name, Register::AH | Register::BH | Register::CH | Register::DH);
    Ok(truncate(if high_byte { value >> 8 } else { value }, name.size()))
}

fn set_register(context: &mut Context<'_>, name: Register, value: u64) -> Result<(), &'static str> {
    if !name.is_gpr() {
        return Err("an operand that is no general register");
    }
    let number = name.full_register().number();
    let old = context.guest.hw.general(number);
    let new = match (name, name.size()) {
        (Register::AH | Register::BH | Register::CH | Register::DH, _) => old & !0xff00 | (value & 0xff) << 8,
        (_, 1) => old & !0xff | value & 0xff,
        (_, 2) => old & !0xffff | value & 0xffff,
        (_, 4) => value & 0xffff_ffff,
        _ => value,
    };
    context.guest.hw.set_general(number, new);
    Ok(())
}

/// One element of a string store; a repeated one executes again until its count is used up.
fn store_string(
    context: &mut Context<'_>,
    instruction: &Instruction,
    device: &Device,
    size: usize,
) -> Result<(), &'static str> {
    let mask = match instruction.op0_kind() {
        OpKind::MemoryESDI => 0xffff,
        OpKind::MemoryESEDI => 0xffff_ffff,
        OpKind::MemoryESRDI => u64::MAX,
        _ => return Err("a string store of an unknown form"),
    };
    let value = truncate(context.guest.hw.general(register::RAX), size);
    device.write(context, value, size);
    let hw = &mut context.guest.hw;
    let old = hw.general(register::RDI);
    let step = size as u64;
    let moved = if hw.rflags() & FLAG_DF != 0 { old.wrapping_sub(step) } else { old.wrapping_add(step) };
    hw.set_general(register::RDI, old & !mask | moved & mask);
    if instruction.has_rep_prefix() {
        let count = hw.general(register::RCX);
        let left = (count & mask).wrapping_sub(1) & mask;
        hw.set_general(register::RCX, count & !mask | left);
        if left != 0 {
            return Ok(());
        }
    }
    hw.set_rip(instruction.next_ip());
    Ok(())
}

fn logical(
    context: &mut Context<'_>,
    instruction: &Instruction,
    operation: Operation,
    device: &Device,
    size: usize,
) -> Result<(), &'static str> {
    let memory_first = instruction.op0_kind() == OpKind::Memory;
    let other = source(context, instruction, u32::from(memory_first))?;
    let memory = device.read(context);
    let (left, right) = if memory_first { (memory, other) } else { (other, memory) };
    let (left, right) = (truncate(left, size), truncate(right, size));
    let result = match operation {
        Operation::And | Operation::Test => left & right,
        Operation::Or => left | right,
        Operation::Xor => left ^ right,
        _ => truncate(left.wrapping_sub(right), size),
    };
    let compare = operation == Operation::Compare;
    let flags = flags_of(left, right, result, size, compare);
    if !compare && operation != Operation::Test {
        if memory_first {
            device.write(context, result, size);
        } else {
            set_register(context, instruction.op0_register(), result)?;
        }
    }
    let hw = &mut context.guest.hw;
    hw.set_rflags(hw.rflags() & !ARITHMETIC_FLAGS | flags);
    Ok(())
}

fn flags_of(left: u64, right: u64, result: u64, size: usize, subtraction: bool) -> u64 {
    let sign = 1_u64 << (size * 8 - 1);
    let mut flags = 0;
    if result == 0 {
        flags |= FLAG_ZF;
    }
    if result & sign != 0 {
        flags |= FLAG_SF;
    }
    if (result as u8).count_ones().is_multiple_of(2) {
        flags |= FLAG_PF;
    }
    if subtraction {
        if left < right {
            flags |= FLAG_CF;
        }
        if (left ^ right) & (left ^ result) & sign != 0 {
            flags |= FLAG_OF;
        }
        if (left ^ right ^ result) & 0x10 != 0 {
            flags |= FLAG_AF;
        }
    }
    flags
}
