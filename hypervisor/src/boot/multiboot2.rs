//! Multiboot2 boot information (specification 2.0, section 3.6).
//!
//! The tags are walked here over a byte slice, because a malformed tag must be skipped, where the crate's accessors
//! assert; the crate gives the numbers.

use super::info::{BootError, BootInfo, Display, MemoryKind, PhysicalMemory, Protocol, u32_at, u64_at};
use ::multiboot2::{TagType, TagTypeRaw};

/// What the loader puts into EAX, also what entry.S passes as the protocol.
pub const MAGIC: u32 = ::multiboot2::MAGIC;

/// More boot information than this is not believed.
const MAX_SIZE: u32 = 1 << 20;

/// Reads the structure at `address`.
///
/// # Errors
/// [`BootError`] when the structure's header is malformed or no memory map is found.
pub fn parse(memory: &impl PhysicalMemory, address: u64) -> Result<BootInfo, BootError> {
    let head = memory.bytes(address, 8).ok_or(BootError::BadStructure)?;
    let size = u32_at(head, 0).ok_or(BootError::BadStructure)?;
    if !(16..=MAX_SIZE).contains(&size) {
        return Err(BootError::BadStructure);
    }
    let all = memory.bytes(address, size.into()).ok_or(BootError::BadStructure)?;
    let mut info = BootInfo::new(Protocol::Multiboot2);
    // The copy of the RSDP lives in here, and ACPI is read after memory has been handed out.
    info.keep = Some((address, size.into()));

    let mut offset = 8;
    while let Some((number, length)) = u32_at(all, offset).zip(u32_at(all, offset + 4)) {
        let length = length as usize;
        let Some(tag) = all.get(offset..offset.saturating_add(length)).filter(|tag| tag.len() >= 8) else {
            info.ignored += 1;
            break;
        };
        let number = TagType::from(TagTypeRaw::new(number));
        if number == TagType::End {
            break;
        }
        parse_tag(number, &tag[8..], address + offset as u64 + 8, &mut info);
        offset += length.next_multiple_of(8);
    }
    if info.memory.is_empty() { Err(BootError::NoMemoryMap) } else { Ok(info) }
}

/// One tag: `body` is what follows type and size, at the physical address `address`.
fn parse_tag(number: TagType, body: &[u8], address: u64, info: &mut BootInfo) {
    match number {
        TagType::Cmdline => info.set_command_line(body),
        TagType::Module => match u32_at(body, 0).zip(u32_at(body, 4)) {
            Some((start, end)) if end >= start => info.add_module(start.into(), (end - start).into(), &body[8..]),
            _ => info.ignored += 1,
        },
        TagType::Mmap => parse_memory_map(body, info),
        TagType::Framebuffer => parse_framebuffer(body, info),
        // The newer one wins, whichever comes first.
        TagType::AcpiV1 if body.len() >= 20 && info.rsdp == 0 => info.rsdp = address,
        TagType::AcpiV2 if body.len() >= 36 => info.rsdp = address,
        _ => {}
    }
}

fn parse_memory_map(body: &[u8], info: &mut BootInfo) {
    let entry_size = u32_at(body, 0).unwrap_or(0) as usize;
    if entry_size < 24 {
        info.ignored += 1;
        return;
    }
    for entry in body.get(8..).unwrap_or(&[]).chunks_exact(entry_size) {
        let field = |offset| u64_at(entry, offset).unwrap_or(0);
        let kind = MemoryKind::from_e820(u32_at(entry, 16).unwrap_or(0));
        info.add_memory(field(0), field(8), kind);
    }
}

fn parse_framebuffer(body: &[u8], info: &mut BootInfo) {
    let (Some(address), Some(pitch), Some(width), Some(height), Some(&bits), Some(&kind)) =
        (u64_at(body, 0), u32_at(body, 8), u32_at(body, 12), u32_at(body, 16), body.get(20), body.get(21))
    else {
        info.ignored += 1;
        return;
    };
    let pixel_bytes = bits / 8;
    let fits = u64::from(width) * u64::from(pixel_bytes) <= u64::from(pitch);
    info.display = match (kind, bits) {
        (2, _) => Some(Display::Text { address }),
        (1, 24 | 32) if fits => Some(Display::Pixels { address, pitch, width, height, pixel_bytes }),
        _ => None,
    };
}

#[cfg(test)]
mod tests {
    use super::super::info::fake::FakeMemory;
    use super::*;
    use std::vec::Vec;

    const BASE: u64 = 0x8000;

    fn tag(data: &mut Vec<u8>, number: u32, body: &[u8]) {
        data.extend_from_slice(&number.to_le_bytes());
        data.extend_from_slice(&(body.len() as u32 + 8).to_le_bytes());
        data.extend_from_slice(body);
        data.resize(data.len().next_multiple_of(8), 0xee);
    }

    fn good() -> Vec<u8> {
        let mut data = Vec::new();
        data.extend_from_slice(&[0; 8]);
        tag(&mut data, 1, b"maxcpus=2\0");
        let mut module = Vec::new();
        module.extend_from_slice(&0x30_0000u32.to_le_bytes());
        module.extend_from_slice(&0x30_1000u32.to_le_bytes());
        module.extend_from_slice(b"name=x\0");
        tag(&mut data, 3, &module);
        let mut map = Vec::new();
        map.extend_from_slice(&24u32.to_le_bytes());
        map.extend_from_slice(&0u32.to_le_bytes());
        for (start, size, kind) in [(0u64, 0x9_f000u64, 1u32), (0x10_0000, 0x100_0000, 1), (0x200_0000, 0x1000, 3)] {
            map.extend_from_slice(&start.to_le_bytes());
            map.extend_from_slice(&size.to_le_bytes());
            map.extend_from_slice(&kind.to_le_bytes());
            map.extend_from_slice(&0u32.to_le_bytes());
        }
        tag(&mut data, 6, &map);
        let mut display = Vec::new();
        display.extend_from_slice(&0xfd00_0000u64.to_le_bytes());
        for value in [4096u32, 1024, 768] {
            display.extend_from_slice(&value.to_le_bytes());
        }
        display.extend_from_slice(&[32, 1, 0, 0]);
        tag(&mut data, 8, &display);
        tag(&mut data, 15, &[0; 36]);
        tag(&mut data, 14, &[0; 20]);
        tag(&mut data, 0, b"");
        let size = data.len() as u32;
        data[..4].copy_from_slice(&size.to_le_bytes());
        data
    }

    #[test]
    fn reads_everything() {
        let data = good();
        let info = parse(&FakeMemory { base: BASE, data: data.clone() }, BASE).unwrap();
        assert_eq!(info.command_line.as_str(), "maxcpus=2");
        assert_eq!((info.modules[0].start, info.modules[0].size), (0x30_0000, 0x1000));
        assert_eq!(info.modules[0].line.as_str(), "name=x");
        assert_eq!(info.memory.len(), 3);
        assert_eq!(info.memory[2].kind, MemoryKind::AcpiReclaimable);
        let pixels = Display::Pixels { address: 0xfd00_0000, pitch: 4096, width: 1024, height: 768, pixel_bytes: 4 };
        assert_eq!(info.display, Some(pixels));
        assert!(info.rsdp > BASE && info.rsdp + 36 <= BASE + data.len() as u64);
        assert_eq!(info.ignored, 0);
    }

    #[test]
    fn any_corrupt_byte_is_survived() {
        for position in 0..good().len() {
            for value in [0u8, 1, 7, 0x7f, 0xff] {
                let mut data = good();
                data[position] = value;
                let _ = parse(&FakeMemory { base: BASE, data }, BASE);
            }
        }
    }

    #[test]
    fn truncation_anywhere_is_survived() {
        let full = good();
        for length in 0..full.len() {
            let mut data = full[..length].to_vec();
            if length >= 4 {
                data[..4].copy_from_slice(&(length as u32).to_le_bytes());
            }
            let _ = parse(&FakeMemory { base: BASE, data }, BASE);
        }
    }
}
