//! Checks of a guest kernel before it is packed: is it an ELF file that a PVH domain can be
//! started from?
//!
//! The hypervisor makes the same checks on its side, where the file is hostile input; here they
//! exist to give a clear answer before a machine starts.

use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::AnyEndian;
use elf::note::Note;
use elf::segment::ProgramHeader;

use crate::size::Size;

/// Type of the ELF note, owned by "Xen", that holds the 32-bit unpaged entry point.
const XEN_ELFNOTE_PHYS32_ENTRY: u64 = 18;

/// Type of the ELF note, owned by "Xen", that names the guest's operating system.
const XEN_ELFNOTE_GUEST_OS: u64 = 6;

/// What a kernel's file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Physical address of the PVH entry point.
    pub entry: u32,
    /// Lowest physical address loaded.
    pub start: u64,
    /// First physical address after all segments, bss included.
    pub end: u64,
}

/// Checks that `file` can start a domain with `memory`.
///
/// # Errors
/// One sentence about what is wrong.
pub fn check_kernel(file: &[u8], memory: Size) -> Result<KernelInfo, String> {
    if !file.starts_with(b"\x7fELF") {
        return Err("is not an ELF file".into());
    }
    let image = ElfBytes::<AnyEndian>::minimal_parse(file).map_err(|e| format!("is a damaged ELF file: {e}"))?;
    if !matches!(image.ehdr.e_machine, EM_386 | EM_X86_64) {
        return Err(format!("is for another processor (ELF machine {})", image.ehdr.e_machine));
    }
    let segments = image.segments().ok_or("has no program headers")?;
    let mut ranges = Vec::new();
    for header in segments.iter().filter(|h| h.p_type == PT_LOAD && h.p_memsz > 0) {
        ranges.push(load_range(&header, file.len())?);
    }
    ranges.sort_unstable();
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
        return Err("loads nothing".into());
    };
    let (start, end) = (first.0, last.1);
    if let Some(pair) = ranges.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        return Err(format!("has overlapping segments at {:#x} and {:#x}", pair[0].0, pair[1].0));
    }
    if end > memory.bytes() {
        return Err(format!("reaches to {end:#x}, beyond the domain's {memory} of memory"));
    }
    let entry = pvh_entry(&image)?.ok_or("has no PVH entry point (ELF note 18 of owner Xen)")?;
    if !ranges.iter().any(|range| (range.0..range.1).contains(&u64::from(entry))) {
        return Err(format!("has its PVH entry point at {entry:#x}, outside every segment"));
    }
    Ok(KernelInfo { entry, start, end })
}

fn load_range(header: &ProgramHeader, file_len: usize) -> Result<(u64, u64), String> {
    let at = header.p_paddr;
    if header.p_filesz > header.p_memsz {
        return Err(format!("has a segment at {at:#x} that is larger in the file than in memory"));
    }
    if header.p_offset.checked_add(header.p_filesz).is_none_or(|end| end > file_len as u64) {
        return Err(format!("is truncated: its segment at {at:#x} ends beyond the file"));
    }
    let end = at.checked_add(header.p_memsz).ok_or_else(|| format!("has a segment at {at:#x} that wraps around"))?;
    Ok((at, end))
}

/// The operating system that a kernel says it is.
#[must_use]
pub fn guest_os(file: &[u8]) -> Option<String> {
    let image = ElfBytes::<AnyEndian>::minimal_parse(file).ok()?;
    let name = xen_note(&image, XEN_ELFNOTE_GUEST_OS).ok()??;
    Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
}

fn pvh_entry(image: &ElfBytes<'_, AnyEndian>) -> Result<Option<u32>, String> {
    let Some(desc) = xen_note(image, XEN_ELFNOTE_PHYS32_ENTRY)? else {
        return Ok(None);
    };
    let word = desc.get(..4).ok_or("has a PVH note without an address")?;
    Ok(Some(u32::from_le_bytes([word[0], word[1], word[2], word[3]])))
}

/// The content of Xen's first note of this type.
fn xen_note<'f>(image: &ElfBytes<'f, AnyEndian>, kind: u64) -> Result<Option<&'f [u8]>, String> {
    let Some(segments) = image.segments() else {
        return Ok(None);
    };
    for header in segments.iter().filter(|h| h.p_type == PT_NOTE) {
        let notes = image.segment_data_as_notes(&header).map_err(|e| format!("has damaged ELF notes: {e}"))?;
        for note in notes {
            if let Note::Unknown(note) = note
                && note.n_type == kind
                && note.name_str().is_ok_and(|name| name == "Xen")
            {
                return Ok(Some(note.desc));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A 64-bit ELF with one segment per `(address, memory size)` and, if asked, a PVH note.
    pub(crate) fn elf64(loads: &[(u64, u64)], entry: Option<u32>) -> Vec<u8> {
        let count = loads.len() as u64 + 1;
        let note_at = 64 + 56 * count;
        let mut note = Vec::new();
        if let Some(entry) = entry {
            for word in [4u32, 4, 18] {
                note.extend(word.to_le_bytes());
            }
            note.extend(b"Xen\0");
            note.extend(entry.to_le_bytes());
        }
        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        out.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        for word in [0u64, 64, 0] {
            out.extend(word.to_le_bytes());
        }
        out.extend([0, 0, 0, 0]);
        for half in [64u16, 56, count as u16, 64, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        let mut header = |kind: u32, offset: u64, addr: u64, filesz: u64, memsz: u64| {
            out.extend(kind.to_le_bytes());
            out.extend(7u32.to_le_bytes());
            for word in [offset, addr, addr, filesz, memsz, 4] {
                out.extend(word.to_le_bytes());
            }
        };
        for &(addr, size) in loads {
            header(PT_LOAD, 0, addr, 64.min(size), size);
        }
        header(PT_NOTE, note_at, 0, note.len() as u64, note.len() as u64);
        out.extend(note);
        out
    }

    const MEMORY: Size = Size::mib(16);

    #[test]
    fn a_pvh_kernel_is_accepted() {
        let file = elf64(&[(0x10_0000, 0x1000), (0x20_0000, 0x8000)], Some(0x10_0010));
        let expected = KernelInfo { entry: 0x10_0010, start: 0x10_0000, end: 0x20_8000 };
        assert_eq!(check_kernel(&file, MEMORY), Ok(expected));
    }

    #[test]
    fn every_other_file_is_refused_with_a_reason() {
        let good = elf64(&[(0x10_0000, 0x1000)], Some(0x10_0000));
        let mut foreign = good.clone();
        foreign[18] = 183;
        let mut truncated = good.clone();
        truncated[64 + 8] = 0xff;
        truncated[64 + 10] = 0xff;
        for (file, reason) in [
            (Vec::new(), "is not an ELF file"),
            (b"MZ".to_vec(), "is not an ELF file"),
            (good[..40].to_vec(), "is a damaged ELF file"),
            (foreign, "is for another processor"),
            (truncated, "is truncated"),
            (elf64(&[], Some(0)), "loads nothing"),
            (elf64(&[(0x10_0000, 0x1000)], None), "has no PVH entry point"),
            (elf64(&[(0x10_0000, 0x1000)], Some(0x1000)), "has its PVH entry point at 0x1000"),
            (elf64(&[(0x10_0000, 0x1000), (0x10_0800, 0x1000)], Some(0x10_0000)), "has overlapping segments"),
            (elf64(&[(0x10_0000, 0x4000_0000)], Some(0x10_0000)), "reaches to 0x40100000"),
            (elf64(&[(u64::MAX - 0xff, 0x1000)], Some(0x10_0000)), "has a segment at 0xffffffffffffff00 that wraps"),
        ] {
            let error = check_kernel(&file, MEMORY).unwrap_err();
            assert!(error.starts_with(reason), "got: {error}\nwant: {reason}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_byte_never_panics(at in 0usize..176, value: u8, cut in 0usize..200) {
            let mut file = elf64(&[(0x10_0000, 0x1000)], Some(0x10_0000));
            file[at] = value;
            file.truncate(file.len().min(cut));
            let _ = check_kernel(&file, MEMORY);
        }
    }
}
