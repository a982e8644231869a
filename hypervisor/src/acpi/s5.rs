//! The sleep type for power-off, from `\_S5` in the DSDT or an SSDT, without an AML interpreter.
//!
//! The object is a constant in practice: `Name (_S5, Package () { a, b, ... })`. In AML that is NameOp (0x08), an
//! optional root prefix `\`, the name `_S5_`, PackageOp (0x12), PkgLength, the number of elements, and the elements:
//! ZeroOp, OneOp, or BytePrefix (0x0a), WordPrefix (0x0b), DWordPrefix (0x0c) and the number (ACPI 6.5, 20.2.2 to
//! 20.2.5, and 7.4.2 for the meaning). Anything else, such as a method, is not understood and gives `None`.

/// SLP_TYPa and SLP_TYPb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepTypes {
    /// For PM1a_CNT.
    pub a: u8,
    /// For PM1b_CNT.
    pub b: u8,
}

/// Finds the object in a table's AML.
pub fn find(aml: &[u8]) -> Option<SleepTypes> {
    let mut from = 0;
    while let Some(at) = aml.get(from..)?.windows(4).position(|window| window == b"_S5_") {
        let name = from + at;
        let named = matches!(aml[..name], [.., 0x08] | [.., 0x08, b'\\']);
        if named && let Some(types) = parse_package(&aml[name + 4..]) {
            return Some(types);
        }
        from = name + 4;
    }
    None
}

fn parse_package(aml: &[u8]) -> Option<SleepTypes> {
    let (&op, rest) = aml.split_first()?;
    if op != 0x12 {
        return None;
    }
    // PkgLength: the two top bits of its first byte say how many more bytes it has.
    let length_bytes = 1 + usize::from(*rest.first()? >> 6);
    let rest = rest.get(length_bytes..)?;
    let (&elements, rest) = rest.split_first()?;
    let (a, rest) = parse_integer(rest)?;
    let b = if elements >= 2 { parse_integer(rest)?.0 } else { 0 };
    // SLP_TYP has three bits.
    (elements >= 1 && a <= 7 && b <= 7).then_some(SleepTypes { a: a as u8, b: b as u8 })
}

fn parse_integer(aml: &[u8]) -> Option<(u32, &[u8])> {
    let (&op, rest) = aml.split_first()?;
    let size = match op {
        0x00 => return Some((0, rest)),
        0x01 => return Some((1, rest)),
        0x0a => 1,
        0x0b => 2,
        0x0c => 4,
        _ => return None,
    };
    let value = rest.get(..size)?.iter().rev().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
    Some((value, &rest[size..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_q35() {
        let aml = b"\x10\x4e_SB_\x08_S5_\x12\x06\x04\0\0\0\0rest";
        assert_eq!(find(aml), Some(SleepTypes { a: 0, b: 0 }));
    }

    #[test]
    fn byte_prefixes_and_root() {
        let aml = b"\x08\\_S5_\x12\x0a\x04\x0a\x05\x0a\x07\x00\x00";
        assert_eq!(find(aml), Some(SleepTypes { a: 5, b: 7 }));
    }

    #[test]
    fn a_mention_before_the_definition_is_skipped() {
        let aml = b"text _S5_ more \x08_S5_\x12\x05\x02\x01\x01";
        assert_eq!(find(aml), Some(SleepTypes { a: 1, b: 1 }));
    }

    #[test]
    fn nonsense_gives_nothing() {
        for aml in [
            &b""[..],
            b"_S5_",
            b"\x08_S5_",
            b"\x08_S5_\x14\x06",
            b"\x08_S5_\x12\xc6",
            b"\x08_S5_\x12\x06\x04\x0a",
            b"\x08_S5_\x12\x06\x04\x0a\x08\x00",
            b"\x08_S5_\x12\x06\x04\x0e",
            b"\x08_S5_\x12\x06\x00",
        ] {
            assert_eq!(find(aml), None, "{aml:x?}");
        }
    }
}
