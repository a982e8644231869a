//! A guest's kernel image: an ELF file, 32 or 64 bits, with Xen's PVH entry note. Read once, checked completely; what
//! comes out has segments inside the file, inside the 4 GiB an unpaged entry can reach, and apart from each other.

use alloc::vec::Vec;

use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
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

/// Most segments of an image. Real kernels have up to five.
const MAX_SEGMENTS: usize = 64;
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
                PT_LOAD if header.p_memsz > 0 && segments.len() == MAX_SEGMENTS => {
                    return Err("kernel: too many segments");
                }
                PT_LOAD if header.p_memsz > 0 => {
                    let bytes = elf.segment_data(&header).map_err(|_| "kernel: truncated: a segment ends outside")?;
                    segments.push(segment(header.p_paddr, bytes, header.p_memsz)?);
                }
                PT_NOTE => {
                    let notes = elf.segment_data(&header).map_err(|_| "kernel: truncated: notes end outside")?;
                    entry = entry.or(pvh_entry(notes));
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
        let inside =
            |segment: &ImageSegment<'_>| (segment.address..segment.address + segment.size).contains(&u64::from(entry));
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

/// A note.
struct Note<'a> {
    name: &'a [u8],
    kind: u32,
    contents: &'a [u8],
}

/// The first note of a segment, and what comes after it. Parts are padded to 4 bytes whatever the segment's alignment
/// says, as Xen reads them.
fn split_note(notes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at + 4)?.try_into().ok()?));
    let (name_size, size, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
    let (name, rest) = split_padded(notes.get(12..)?, name_size)?;
    let (contents, rest) = split_padded(rest, size)?;
    Some((Note { name, kind, contents }, rest))
}

fn split_padded(bytes: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    let padded = size.checked_next_multiple_of(4)?.min(bytes.len());
    Some((bytes.get(..size)?, &bytes[padded..]))
}

/// The PVH entry point, if one of the notes says it. It may be written as 4 or 8 bytes.
fn pvh_entry(mut notes: &[u8]) -> Option<u32> {
    while let Some((note, rest)) = split_note(notes) {
        let is_xens = note.name.strip_suffix(b"\0").unwrap_or(note.name) == b"Xen";
        if is_xens && note.kind == elfnote::PHYS32_ENTRY {
            return match note.contents.len() {
                4 => Some(u32::from_le_bytes(note.contents.try_into().ok()?)),
                8 => u32::try_from(u64::from_le_bytes(note.contents.try_into().ok()?)).ok(),
                _ => None,
            };
        }
        notes = rest;
    }
    None
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{ElfFile, elf64};
