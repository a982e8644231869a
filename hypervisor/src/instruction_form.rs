//! The forms of instructions that are emulated: what each does, and how many bytes it accesses. A table of our own, since
//! the decoder's are for every instruction there is and twenty times as large.

use iced_x86::Code as C;

/// What an instruction does with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// MOV, either way.
    Move,
    /// MOVZX.
    MoveZeroExtended,
    /// MOVSX, MOVSXD.
    MoveSignExtended,
    /// XCHG.
    Exchange,
    /// STOS.
    Store,
    /// AND.
    And,
    /// OR.
    Or,
    /// XOR.
    Xor,
    /// CMP.
    Compare,
    /// TEST.
    Test,
}

/// What an instruction of this form does, and the size of its operand in memory. `None`: it is not emulated.
pub fn of(code: C) -> Option<(Operation, usize)> {
    Some(match code {
        C::Mov_rm8_r8 | C::Mov_r8_rm8 | C::Mov_rm8_imm8 | C::Mov_AL_moffs8 | C::Mov_moffs8_AL => (Operation::Move, 1),
        C::Mov_rm16_r16 | C::Mov_r16_rm16 | C::Mov_rm16_imm16 | C::Mov_AX_moffs16 | C::Mov_moffs16_AX => {
            (Operation::Move, 2)
        }
        C::Mov_rm32_r32 | C::Mov_r32_rm32 | C::Mov_rm32_imm32 | C::Mov_EAX_moffs32 | C::Mov_moffs32_EAX => {
            (Operation::Move, 4)
        }
        C::Mov_rm64_r64 | C::Mov_r64_rm64 | C::Mov_rm64_imm32 | C::Mov_RAX_moffs64 | C::Mov_moffs64_RAX => {
            (Operation::Move, 8)
        }
        C::Movzx_r16_rm8 | C::Movzx_r32_rm8 | C::Movzx_r64_rm8 => (Operation::MoveZeroExtended, 1),
        C::Movzx_r16_rm16 | C::Movzx_r32_rm16 | C::Movzx_r64_rm16 => (Operation::MoveZeroExtended, 2),
        C::Movsx_r16_rm8 | C::Movsx_r32_rm8 | C::Movsx_r64_rm8 => (Operation::MoveSignExtended, 1),
        C::Movsx_r16_rm16 | C::Movsx_r32_rm16 | C::Movsx_r64_rm16 | C::Movsxd_r16_rm16 => {
            (Operation::MoveSignExtended, 2)
        }
        C::Movsxd_r32_rm32 | C::Movsxd_r64_rm32 => (Operation::MoveSignExtended, 4),
        C::Xchg_rm8_r8 => (Operation::Exchange, 1),
        C::Xchg_rm16_r16 => (Operation::Exchange, 2),
        C::Xchg_rm32_r32 => (Operation::Exchange, 4),
        C::Xchg_rm64_r64 => (Operation::Exchange, 8),
        C::Stosb_m8_AL => (Operation::Store, 1),
        C::Stosw_m16_AX => (Operation::Store, 2),
        C::Stosd_m32_EAX => (Operation::Store, 4),
        C::Stosq_m64_RAX => (Operation::Store, 8),
        C::And_rm8_r8 | C::And_r8_rm8 | C::And_rm8_imm8 | C::And_rm8_imm8_82 => (Operation::And, 1),
        C::And_rm16_r16 | C::And_r16_rm16 | C::And_rm16_imm16 | C::And_rm16_imm8 => (Operation::And, 2),
        C::And_rm32_r32 | C::And_r32_rm32 | C::And_rm32_imm32 | C::And_rm32_imm8 => (Operation::And, 4),
        C::And_rm64_r64 | C::And_r64_rm64 | C::And_rm64_imm32 | C::And_rm64_imm8 => (Operation::And, 8),
        C::Or_rm8_r8 | C::Or_r8_rm8 | C::Or_rm8_imm8 | C::Or_rm8_imm8_82 => (Operation::Or, 1),
        C::Or_rm16_r16 | C::Or_r16_rm16 | C::Or_rm16_imm16 | C::Or_rm16_imm8 => (Operation::Or, 2),
        C::Or_rm32_r32 | C::Or_r32_rm32 | C::Or_rm32_imm32 | C::Or_rm32_imm8 => (Operation::Or, 4),
        C::Or_rm64_r64 | C::Or_r64_rm64 | C::Or_rm64_imm32 | C::Or_rm64_imm8 => (Operation::Or, 8),
        C::Xor_rm8_r8 | C::Xor_r8_rm8 | C::Xor_rm8_imm8 | C::Xor_rm8_imm8_82 => (Operation::Xor, 1),
        C::Xor_rm16_r16 | C::Xor_r16_rm16 | C::Xor_rm16_imm16 | C::Xor_rm16_imm8 => (Operation::Xor, 2),
        C::Xor_rm32_r32 | C::Xor_r32_rm32 | C::Xor_rm32_imm32 | C::Xor_rm32_imm8 => (Operation::Xor, 4),
        C::Xor_rm64_r64 | C::Xor_r64_rm64 | C::Xor_rm64_imm32 | C::Xor_rm64_imm8 => (Operation::Xor, 8),
        C::Cmp_rm8_r8 | C::Cmp_r8_rm8 | C::Cmp_rm8_imm8 | C::Cmp_rm8_imm8_82 => (Operation::Compare, 1),
        C::Cmp_rm16_r16 | C::Cmp_r16_rm16 | C::Cmp_rm16_imm16 | C::Cmp_rm16_imm8 => (Operation::Compare, 2),
        C::Cmp_rm32_r32 | C::Cmp_r32_rm32 | C::Cmp_rm32_imm32 | C::Cmp_rm32_imm8 => (Operation::Compare, 4),
        C::Cmp_rm64_r64 | C::Cmp_r64_rm64 | C::Cmp_rm64_imm32 | C::Cmp_rm64_imm8 => (Operation::Compare, 8),
        C::Test_rm8_r8 | C::Test_rm8_imm8 | C::Test_rm8_imm8_F6r1 => (Operation::Test, 1),
        C::Test_rm16_r16 | C::Test_rm16_imm16 | C::Test_rm16_imm16_F7r1 => (Operation::Test, 2),
        C::Test_rm32_r32 | C::Test_rm32_imm32 | C::Test_rm32_imm32_F7r1 => (Operation::Test, 4),
        C::Test_rm64_r64 | C::Test_rm64_imm32 | C::Test_rm64_imm32_F7r1 => (Operation::Test, 8),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    /// Every form with a known encoding: the table against bytes as assemblers write them.
    #[test]
    fn sizes_are_those_of_the_encodings() {
        use Operation::{And, Compare, Exchange, Move, MoveSignExtended, MoveZeroExtended, Or, Store, Test, Xor};
        // Opcode with [rax] and eax, or an immediate; the operand of the byte form, then of 16, 32 and 64 bits.
        let pairs: [(&[u8], &[u8], Operation); 17] = [
            (&[0x88, 0x00], &[0x89, 0x00], Move),
            (&[0x8a, 0x00], &[0x8b, 0x00], Move),
            (&[0xc6, 0x00, 1], &[0xc7, 0x00, 1, 0, 0, 0], Move),
            (&[0x86, 0x00], &[0x87, 0x00], Exchange),
            (&[0xaa], &[0xab], Store),
            (&[0x20, 0x00], &[0x21, 0x00], And),
            (&[0x22, 0x00], &[0x23, 0x00], And),
            (&[0x80, 0x20, 1], &[0x83, 0x20, 1], And),
            (&[0x80, 0x20, 1], &[0x81, 0x20, 1, 0, 0, 0], And),
            (&[0x08, 0x00], &[0x09, 0x00], Or),
            (&[0x80, 0x08, 1], &[0x81, 0x08, 1, 0, 0, 0], Or),
            (&[0x30, 0x00], &[0x33, 0x00], Xor),
            (&[0x80, 0x30, 1], &[0x83, 0x30, 1], Xor),
            (&[0x38, 0x00], &[0x3b, 0x00], Compare),
            (&[0x80, 0x38, 1], &[0x81, 0x38, 1, 0, 0, 0], Compare),
            (&[0x84, 0x00], &[0x85, 0x00], Test),
            (&[0xf6, 0x00, 1], &[0xf7, 0x00, 1, 0, 0, 0], Test),
        ];
        for (byte, wide, operation) in pairs {
            check(&[], byte, Some((operation, 1)));
            check(&[0x66], wide, Some((operation, 2)));
            check(&[], wide, Some((operation, 4)));
            check(&[0x48], wide, Some((operation, 8)));
        }
        for prefix in [&[][..], &[0x66], &[0x48]] {
            check(prefix, &[0x0f, 0xb6, 0x00], Some((MoveZeroExtended, 1)));
            check(prefix, &[0x0f, 0xb7, 0x00], Some((MoveZeroExtended, 2)));
            check(prefix, &[0x0f, 0xbe, 0x00], Some((MoveSignExtended, 1)));
            check(prefix, &[0x0f, 0xbf, 0x00], Some((MoveSignExtended, 2)));
        }
        check(&[0x66], &[0x63, 0x00], Some((MoveSignExtended, 2)));
        check(&[], &[0x63, 0x00], Some((MoveSignExtended, 4)));
        check(&[0x48], &[0x63, 0x00], Some((MoveSignExtended, 4)));
    }

    #[test]
    fn other_instructions_are_not_emulated() {
        for other in [&[0x90][..], &[0xff, 0x00], &[0x8c, 0x00], &[0x0f, 0x6f, 0x00], &[0xa4], &[0x00, 0x00]] {
            check(&[], other, None);
        }
    }

    fn check(prefix: &[u8], bytes: &[u8], expected: Option<(Operation, usize)>) {
        // Enough bytes for any immediate.
        let mut all = prefix.to_vec();
        all.extend_from_slice(bytes);
        all.extend_from_slice(&[0; 4]);
        let code = Decoder::new(64, &all, DecoderOptions::NONE).decode().code();
        assert_eq!(of(code), expected, "{all:02x?} is {code:?}");
    }
}
