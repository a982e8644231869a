//! A guest's kernel image: an ELF file, 32 or 64 bits, with Xen's PVH entry note. Read once, checked completely; what
//! comes out has segments inside the file, inside the 4 GiB an unpaged entry can reach, and apart from each other.

use alloc::vec::Vec;

use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use shared_abi::elfnote;

/// A part of the image, to be put at a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSegment<'a> {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes from the file; memory beyond them is zero.
    pub bytes: &'a [u8],
    /// Size in memory, at least that of `bytes`.
    pub size: u64,
}

/// A checked image.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// In ascending order of address.
    pub segments: Vec<ImageSegment<'a>>,
    /// The 32-bit entry point.
    pub entry: u32,
}

/// The end of what an unpaged 32-bit processor can address.
const ADDRESSABLE: u64 = 1 << 32;

impl<'a> Image<'a> {
    /// Reads an image.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(file: &'a [u8]) -> Result<Self, &'static str> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| "kernel: not a (complete) ELF file")?;
        if !matches!(elf.ehdr.e_machine, EM_386 | EM_X86_64) {
            return Err("kernel: an ELF file for another processor");
        }
        let headers = elf.segments().ok_or("kernel: no program headers")?;
        let mut segments = Vec::new();
        let mut entry = None;
        for header in headers.iter() {
            match header.p_type {
                PT_LOAD if header.p_memsz > 0 => {
                    let bytes = elf.segment_data(&header).map_err(|_| "kernel: truncated: a segment ends outside")?;
                    segments.push(segment(header.p_paddr, bytes, header.p_memsz)?);
                }
                PT_NOTE => {
                    let notes =
                        elf.segment_data_as_notes(&header).map_err(|_| "kernel: truncated: notes end outside")?;
                    entry = notes.into_iter().find_map(pvh_entry).or(entry);
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err("kernel: nothing to load");
        }
        segments.sort_unstable_by_key(|segment| segment.address);
        if segments.windows(2).any(|pair| pair[0].address + pair[0].size > pair[1].address) {
            return Err("kernel: overlapping segments");
        }
        let entry = entry.ok_or("kernel: no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY)")?;
        let inside = |segment: &ImageSegment<'_>| {
            (segment.address..segment.address + segment.size).contains(&u64::from(entry))
        };
        if !segments.iter().any(inside) {
            return Err("kernel: the PVH entry point is outside the image");
        }
        Ok(Self { segments, entry })
    }

    /// The first address after the image.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.address + segment.size)
    }
}

fn segment(address: u64, bytes: &[u8], size: u64) -> Result<ImageSegment<'_>, &'static str> {
    if (bytes.len() as u64) > size {
        return Err("kernel: a segment has more bytes in the file than in memory");
    }
    match address.checked_add(size) {
        Some(end) if end <= ADDRESSABLE => Ok(ImageSegment { address, bytes, size }),
        _ => Err("kernel: a segment lies above 4 GiB"),
    }
}

/// The entry point, if this is the note that has it. It may be written as 4 or 8 bytes.
fn pvh_entry(note: Note<'_>) -> Option<u32> {
    let Note::Unknown(note) = note else { return None };
    if note.n_type != u64::from(elfnote::PHYS32_ENTRY) || note.name.strip_suffix(b"\0").unwrap_or(note.name) != b"Xen" {
        return None;
    }
    match note.desc.len() {
        4 => Some(u32::from_le_bytes(note.desc.try_into().ok()?)),
        8 => u32::try_from(u64::from_le_bytes(note.desc.try_into().ok()?)).ok(),
        _ => None,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A 64-bit image with one segment of `bytes` at `address` and the note.
    pub fn elf64(address: u64, bytes: &[u8], memory: u64, entry: u32) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend_from_slice(&2_u16.to_le_bytes());
        file.extend_from_slice(&62_u16.to_le_bytes());
        file.extend_from_slice(&1_u32.to_le_bytes());
        for word in [0_u64, 64, 0] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&0_u32.to_le_bytes());
        for half in [64_u16, 56, 2, 0, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        let (notes_at, data_at) = (64 + 112, 64 + 112 + 20);
        for (kind, offset, physical, file_size, memory_size) in
            [(4_u32, notes_at, 0, 20_u64, 20), (1, data_at, address, bytes.len() as u64, memory)]
        {
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&5_u32.to_le_bytes());
            for word in [offset, physical, physical, file_size, memory_size, 4] {
                file.extend_from_slice(&word.to_le_bytes());
            }
        }
        for word in [4_u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(bytes);
        file
    }

    #[test]
    fn a_good_image_is_read() {
        let file = elf64(0x10_0000, b"code", 0x3000, 0x10_0002);
        let image = Image::parse(&file).unwrap();
        assert_eq!(image.entry, 0x10_0002);
        assert_eq!(image.segments, [ImageSegment { address: 0x10_0000, bytes: b"code", size: 0x3000 }]);
        assert_eq!(image.end(), 0x10_3000);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let file = elf64(0x10_0000, b"code", 0x3000, 0x10_0002);
        for length in 0..file.len() {
            assert!(Image::parse(&file[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn bad_images_say_why() {
        let reject = |file: &[u8], part: &str| {
            let error = Image::parse(file).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        reject(&elf64(0xffff_f000, b"code", 0x3000, 0xffff_f000), "above 4 GiB");
        reject(&elf64(u64::MAX - 2, b"code", 0x3000, 0), "above 4 GiB");
        reject(&elf64(0x10_0000, b"code", 2, 0x10_0000), "more bytes");
        reject(&elf64(0x10_0000, b"code", 0x1000, 0x20_0000), "outside the image");
        let mut no_note = elf64(0x10_0000, b"code", 0x1000, 0x10_0000);
        no_note[64 + 112 + 8] = 17;
        reject(&no_note, "no PVH entry note");
        let mut foreign = elf64(0x10_0000, b"code", 0x1000, 0x10_0000);
        foreign[18] = 183;
        reject(&foreign, "another processor");
        reject(b"#!/bin/sh", "not a");
    }
}
