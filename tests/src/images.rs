//! Guest images, sound and broken. `kernel = "broken/<how>"` names a way to damage Ebb's own guest,
//! so that the hypervisor has something to refuse that is almost right.

use anyhow::{Result, bail};

/// Where broken kernels are named.
pub const BROKEN: &str = "broken/";

/// Offsets in the header of a 64-bit ELF file.
const E_PHOFF: usize = 32;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;
const E_MACHINE: usize = 18;
/// Offsets in a 64-bit program header.
const P_OFFSET: usize = 8;
const P_PADDR: usize = 24;
const P_MEMSZ: usize = 40;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Damages `guest` in the way called `how`.
///
/// # Errors
/// There is no such way, or the guest is not the file that it should be.
pub fn broken(guest: &[u8], how: &str) -> Result<Vec<u8>> {
    let mut file = guest.to_vec();
    match how {
        "empty" => file.clear(),
        "text" => file = b"This is not a kernel.\n".to_vec(),
        "header-only" => file.truncate(64),
        // Its headers promise segments that are no longer there.
        "truncated" => file.truncate(guest.len() / 3),
        "foreign" => put(&mut file, E_MACHINE, &183u16.to_le_bytes())?,
        "no-note" => {
            let at = header(&file, PT_NOTE, 0)?;
            put(&mut file, at, &0u32.to_le_bytes())?;
        }
        // The second segment on top of the first.
        "overlap" => {
            let (first, second) = (header(&file, PT_LOAD, 0)?, header(&file, PT_LOAD, 1)?);
            let target = file[first + P_PADDR..first + P_PADDR + 8].to_vec();
            put(&mut file, second + P_PADDR, &target)?;
        }
        "beyond-memory" => {
            let at = header(&file, PT_LOAD, 0)?;
            put(&mut file, at + P_PADDR, &(1u64 << 40).to_le_bytes())?;
        }
        "wrapping" => {
            let at = header(&file, PT_LOAD, 0)?;
            put(&mut file, at + P_PADDR, &(u64::MAX - 0xfff).to_le_bytes())?;
        }
        "huge-segment" => {
            let at = header(&file, PT_LOAD, 0)?;
            put(&mut file, at + P_MEMSZ, &(u64::MAX / 2).to_le_bytes())?;
        }
        "offset-beyond-file" => {
            let at = header(&file, PT_LOAD, 0)?;
            put(&mut file, at + P_OFFSET, &(u64::MAX - 7).to_le_bytes())?;
        }
        _ => bail!("no way to break a kernel is called `{how}`"),
    }
    Ok(file)
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    match file.get_mut(at..at + bytes.len()) {
        Some(place) => place.copy_from_slice(bytes),
        None => bail!("the guest's file is too short"),
    }
    Ok(())
}

/// Where the `nth` program header of type `kind` is.
fn header(file: &[u8], kind: u32, nth: usize) -> Result<usize> {
    let half = |at: usize| file.get(at..at + 2).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let word = |at: usize| file.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let table = word(E_PHOFF) as usize;
    (0..half(E_PHNUM))
        .map(|index| table + index * half(E_PHENTSIZE))
        .filter(|at| word(*at) == kind)
        .nth(nth)
        .ok_or_else(|| anyhow::anyhow!("the guest has no program header {nth} of type {kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebb_tools::image::check_kernel;
    use ebb_tools::size::Size;

    /// Two segments and a PVH note, as the guest has them.
    fn guest() -> Vec<u8> {
        let mut file = vec![0; 64 + 3 * 56];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut set = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        set(16, &[2, 0, 62, 0, 1]);
        set(E_PHOFF, &64u64.to_le_bytes());
        set(52, &64u16.to_le_bytes());
        set(E_PHENTSIZE, &56u16.to_le_bytes());
        set(E_PHNUM, &3u16.to_le_bytes());
        set(58, &64u16.to_le_bytes());
        for (n, (kind, paddr, size)) in
            [(PT_LOAD, 0x10_0000u64, 200u64), (PT_LOAD, 0x20_0000, 200), (PT_NOTE, 0, 20)].into_iter().enumerate()
        {
            let at = 64 + n * 56;
            let offset: u64 = if kind == PT_NOTE { 64 + 3 * 56 } else { 0 };
            set(at, &kind.to_le_bytes());
            set(at + P_OFFSET, &offset.to_le_bytes());
            set(at + P_PADDR, &paddr.to_le_bytes());
            set(at + 32, &size.to_le_bytes());
            set(at + P_MEMSZ, &size.to_le_bytes());
            set(at + 48, &4u64.to_le_bytes());
        }
        file.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        file.extend(b"Xen\0");
        file.extend(0x10_0000u32.to_le_bytes());
        file
    }

    #[test]
    fn every_breakage_breaks() {
        check_kernel(&guest(), Size::mib(8)).unwrap();
        for how in [
            "empty",
            "text",
            "header-only",
            "truncated",
            "foreign",
            "no-note",
            "overlap",
            "beyond-memory",
            "wrapping",
            "huge-segment",
            "offset-beyond-file",
        ] {
            let file = broken(&guest(), how).unwrap();
            assert!(check_kernel(&file, Size::mib(8)).is_err(), "{how}");
        }
        assert!(broken(&guest(), "by magic").is_err());
    }
}
