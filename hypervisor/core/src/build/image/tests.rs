//! Images, good and bad, and a maker of ELF files for other tests.

use proptest::prelude::*;

use super::*;

/// An ELF file to be made.
#[derive(Clone, Debug)]
pub struct ElfFile<'a> {
    /// 64-bit rather than 32-bit.
    pub wide: bool,
    /// `e_machine`.
    pub machine: u16,
    /// Physical address, contents, size in memory.
    pub segments: &'a [(u64, &'a [u8], u64)],
    /// Contents of the notes' segment.
    pub notes: Vec<u8>,
    /// Its alignment.
    pub notes_align: u64,
}

impl ElfFile<'_> {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let (header, program_header) = if self.wide { (64, 56) } else { (52, 32) };
        let mut file = Vec::new();
        let class = if self.wide { 2 } else { 1 };
        file.extend_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend_from_slice(&2_u16.to_le_bytes());
        file.extend_from_slice(&self.machine.to_le_bytes());
        file.extend_from_slice(&1_u32.to_le_bytes());
        for word in [0, header, 0] {
            self.push_word(&mut file, word);
        }
        file.extend_from_slice(&0_u32.to_le_bytes());
        let count = self.segments.len() as u16 + 1;
        for half in [header as u16, program_header as u16, count, 0, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        let mut at = header + program_header * u64::from(count);
        self.push_program_header(&mut file, 4, at, 0, &self.notes, self.notes.len() as u64, self.notes_align);
        at += self.notes.len() as u64;
        for &(address, bytes, memory) in self.segments {
            self.push_program_header(&mut file, 1, at, address, bytes, memory, 4);
            at += bytes.len() as u64;
        }
        file.extend_from_slice(&self.notes);
        for (_, bytes, _) in self.segments {
            file.extend_from_slice(bytes);
        }
        file
    }

    fn push_word(&self, file: &mut Vec<u8>, word: u64) {
        let bytes = word.to_le_bytes();
        file.extend_from_slice(if self.wide { &bytes } else { &bytes[..4] });
    }

    #[allow(clippy::too_many_arguments)]
    fn push_program_header(
        &self,
        file: &mut Vec<u8>,
        kind: u32,
        offset: u64,
        address: u64,
        bytes: &[u8],
        memory: u64,
        align: u64,
    ) {
        const FLAGS: u32 = 5;
        file.extend_from_slice(&kind.to_le_bytes());
        if self.wide {
            file.extend_from_slice(&FLAGS.to_le_bytes());
        }
        // The virtual address is another one: nobody may load by it.
        for word in [offset, address ^ 0x4000_0000, address, bytes.len() as u64, memory] {
            self.push_word(file, word);
        }
        if !self.wide {
            file.extend_from_slice(&FLAGS.to_le_bytes());
        }
        self.push_word(file, align);
    }
}

/// A note, padded to 4 bytes.
fn note(name: &[u8], kind: u32, contents: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [name.len() as u32, contents.len() as u32, kind] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for part in [name, contents] {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// A 64-bit image with one segment of `bytes` at `address` and the note.
pub fn elf64(address: u64, bytes: &[u8], memory: u64, entry: u32) -> Vec<u8> {
    let notes = note(b"Xen\0", 18, &entry.to_le_bytes());
    ElfFile { wide: true, machine: 62, segments: &[(address, bytes, memory)], notes, notes_align: 4 }.bytes()
}

impl<'a> ElfFile<'a> {
    /// A file with these segments and the note.
    pub fn with_entry(wide: bool, machine: u16, segments: &'a [(u64, &'a [u8], u64)], entry: u32) -> Self {
        Self { wide, machine, segments, notes: note(b"Xen\0", 18, &entry.to_le_bytes()), notes_align: 4 }
    }
}

#[test]
fn a_good_image_is_read() {
    for (wide, machine) in [(true, EM_X86_64), (false, EM_X86_64), (false, EM_386)] {
        let segments = [(0x20_0000, &b"data"[..], 4), (0x10_0000, b"code", 0x3000)];
        let file = ElfFile::with_entry(wide, machine, &segments, 0x10_0002).bytes();
        let image = Image::parse(&file).unwrap();
        assert_eq!(image.entry, 0x10_0002);
        let sorted = [
            ImageSegment { address: 0x10_0000, bytes: b"code", size: 0x3000 },
            ImageSegment { address: 0x20_0000, bytes: b"data", size: 4 },
        ];
        assert_eq!(image.segments, sorted);
        assert_eq!(image.end(), 0x20_0004);
    }
}

#[test]
fn the_note_is_found_among_others() {
    let entry = 0x10_0000_u32;
    let with = |notes: Vec<u8>, notes_align| {
        let segments = [(0x10_0000, &b"code"[..], 4)];
        let file = ElfFile { wide: true, machine: EM_X86_64, segments: &segments, notes, notes_align }.bytes();
        Image::parse(&file).map(|image| image.entry)
    };
    let mut notes = note(b"GNU\0", 1, &[1; 3]);
    notes.extend(note(b"Xen\0", 6, b"linux\0"));
    notes.extend(note(b"Linux\0", 18, &[9; 4]));
    notes.extend(note(b"Xen\0", 18, &u64::from(entry).to_le_bytes()));
    for align in [0, 1, 4, 8] {
        assert_eq!(with(notes.clone(), align), Ok(entry), "alignment {align}");
    }
    assert_eq!(with(note(b"Xen", 18, &entry.to_le_bytes()), 4), Ok(entry), "the NUL may be missing");
    let none = Err("kernel: no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY)");
    assert_eq!(with(note(b"Xen\0", 18, &[0; 6]), 4), none);
    assert_eq!(with(note(b"Xen\0", 18, &(1_u64 << 32).to_le_bytes()), 4), none);
    assert_eq!(with(note(b"Xen\0", 17, &entry.to_le_bytes()), 4), none);
    assert_eq!(with(note(b"Xen\0\0", 18, &entry.to_le_bytes()), 4), none);
    let mut wild = note(b"Xen\0", 18, &entry.to_le_bytes());
    wild[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(with(wild.clone(), 4), none);
    wild[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(with(wild, 4), none);
}

#[test]
fn every_truncation_is_an_error() {
    for wide in [true, false] {
        let segments = [(0x10_0000, &b"code"[..], 0x3000), (0x20_0000, b"more", 4)];
        let file = ElfFile::with_entry(wide, EM_X86_64, &segments, 0x10_0002).bytes();
        assert!(Image::parse(&file).is_ok());
        for length in 0..file.len() {
            let error = Image::parse(&file[..length]).unwrap_err();
            assert!(error.starts_with("kernel: "), "{length} bytes: {error}");
        }
    }
}

#[test]
fn bad_images_say_why() {
    let reject = |file: &[u8], part: &str| {
        let error = Image::parse(file).unwrap_err();
        assert!(error.starts_with("kernel: ") && error.contains(part), "{error}");
    };
    let two = |segments: &[(u64, &[u8], u64)]| ElfFile::with_entry(true, EM_X86_64, segments, 0x10_0000).bytes();
    reject(&elf64(0xffff_f000, b"code", 0x3000, 0xffff_f000), "above 4 GiB");
    reject(&elf64(u64::MAX - 2, b"code", 0x3000, 0), "above 4 GiB");
    reject(&elf64(0x10_0000, b"code", 2, 0x10_0000), "more bytes");
    reject(&elf64(0x10_0000, b"code", 0x1000, 0x20_0000), "outside the image");
    reject(&elf64(0x10_0000, b"code", 0x1000, 0x10_1000), "outside the image");
    reject(&two(&[(0x10_0000, b"code", 0x1001), (0x10_1000, b"data", 4)]), "overlapping");
    reject(&two(&[(0x10_0000, b"code", 4), (0x10_0000, b"data", 4)]), "overlapping");
    reject(&two(&[(0x10_0000, b"", 0)]), "nothing to load");
    let many: Vec<(u64, &[u8], u64)> = (0..65).map(|index| (0x10_0000 + index * 16, &b"code"[..], 4)).collect();
    reject(&two(&many), "too many segments");
    assert!(Image::parse(&two(&many[..64])).is_ok());
    assert!(Image::parse(&two(&[(0x10_0000, b"code", 0x1000), (0x10_1000, b"data", 4)])).is_ok(), "they may touch");
    let mut foreign = elf64(0x10_0000, b"code", 0x1000, 0x10_0000);
    foreign[18] = 183;
    reject(&foreign, "another processor");
    let mut big_endian = elf64(0x10_0000, b"code", 0x1000, 0x10_0000);
    big_endian[5] = 2;
    reject(&big_endian, "not a");
    reject(b"#!/bin/sh", "not a");
}

proptest! {
    /// Whatever is in the file, what comes out holds what the rest of the builder relies on.
    #[test]
    fn any_damage_is_an_error_or_a_sound_image(
        damage in proptest::collection::vec((0..300_usize, any::<u8>()), 0..12),
        wide in any::<bool>(),
    ) {
        let segments = [(0x10_0000, &b"code"[..], 0x3000), (0x20_0000, b"more", 4)];
        let mut file = ElfFile::with_entry(wide, EM_X86_64, &segments, 0x10_0002).bytes();
        let length = file.len();
        for (at, value) in damage {
            file[at % length] = value;
        }
        if let Ok(image) = Image::parse(&file) {
            let mut end = 0;
            for segment in &image.segments {
                prop_assert!(segment.address >= end && segment.size >= segment.bytes.len() as u64);
                end = segment.address + segment.size;
                prop_assert!(end <= ADDRESSABLE);
            }
            prop_assert!(image.segments.len() <= MAX_SEGMENTS && !image.segments.is_empty());
        }
    }
}
