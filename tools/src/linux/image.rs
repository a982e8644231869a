//! Linux kernels as they are packaged: a bzImage, whose payload is a compressed ELF file.
//!
//! A PVH domain starts from the ELF file, so this looks for it in the bzImage (Linux's
//! Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`, `payload_length`) and unpacks
//! it with whatever Linux may have packed it with. Linux's build appends the unpacked size as a
//! 32-bit word to the payload, or, for gzip, its format does so itself; no more than that is ever
//! unpacked, whatever the payload says.

use std::io::{self, Read};

use crate::linux::lzop;
use crate::size::Size;

/// Greatest size of an unpacked kernel; ten times what distributions have.
const UNPACKED_MAX: Size = Size::mib(512);
/// Memory that an LZMA decoder may take for its dictionary; `xz -9` needs 65 MiB.
const LZMA_MEMORY_KIB: u32 = 256 << 10;

/// Offsets in a bzImage's setup header.
mod header {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const PAYLOAD_OFFSET: usize = 0x248;
    pub const PAYLOAD_LENGTH: usize = 0x24c;
    /// Protocol 2.08, the first with a payload.
    pub const VERSION_PAYLOAD: u16 = 0x0208;
    /// Sectors of set-up code when `SETUP_SECTS` is 0, as in very old kernels.
    pub const SETUP_SECTS_OLD: usize = 4;
    pub const SECTOR: usize = 512;
}

/// How a payload is packed, by its first bytes.
const FORMATS: [(&[u8], &str, Unpack); 7] = [
    (&[0x02, 0x21, 0x4c, 0x18], "LZ4", lz4_legacy),
    (&[0x1f, 0x8b], "gzip", |packed, limit| read_all(flate2::read::GzDecoder::new(packed), limit)),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", |packed, limit| {
        read_all(lzma_rust2::XzReader::new_mem_limit(packed, false, LZMA_MEMORY_KIB), limit)
    }),
    (&[0x5d, 0, 0], "lzma", |packed, limit| {
        read_all(lzma_rust2::LzmaReader::new_mem_limit(packed, LZMA_MEMORY_KIB, None)?, limit)
    }),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", |packed, limit| {
        read_all(ruzstd::decoding::StreamingDecoder::new(packed).map_err(io::Error::other)?, limit)
    }),
    (b"BZh", "bzip2", |packed, limit| read_all(bzip2::read::BzDecoder::new(packed), limit)),
    (&[0x89, b'L', b'Z', b'O', 0], "lzo", lzop::unpack),
];

/// Unpacks the bytes; an answer longer than the limit may stop one byte beyond it.
type Unpack = fn(&[u8], usize) -> io::Result<Vec<u8>>;

/// The ELF file in `file`, which is one already or is a bzImage.
///
/// Whether a PVH domain can start from it is for [`crate::image::check_kernel`] to say.
///
/// # Errors
/// One sentence about what is wrong with the file, without its subject.
pub fn elf(file: Vec<u8>) -> Result<Vec<u8>, String> {
    if file.starts_with(b"\x7fELF") {
        return Ok(file);
    }
    if !is_bzimage(&file) {
        return Err(foreign(&file).into());
    }
    let version = u16_at(&file, header::VERSION);
    if version.is_none_or(|version| version < header::VERSION_PAYLOAD) {
        return Err("is a kernel from before Linux 2.6.24 (boot protocol below 2.08), which Ebb cannot unpack".into());
    }
    unpack(payload(&file)?)
}

/// The ELF file in `file`, a kernel's module, which may be packed in any of the ways that kernels are.
///
/// # Errors
/// One sentence about what is wrong with the file, without its subject.
pub fn module(file: Vec<u8>) -> Result<Vec<u8>, String> {
    let elf = match FORMATS.iter().find(|(magic, ..)| file.starts_with(magic)) {
        Some((_, name, unpack)) => {
            let limit = UNPACKED_MAX.bytes() as usize;
            let elf = unpack(&file, limit).map_err(|e| format!("is damaged ({name}: {e})"))?;
            if elf.len() > limit {
                return Err(format!("unpacks to more than {UNPACKED_MAX}"));
            }
            elf
        }
        None => file,
    };
    if elf.starts_with(b"\x7fELF") { Ok(elf) } else { Err("is no ELF file".into()) }
}

/// Whether `file` has the boot sector of a Linux kernel for x86.
#[must_use]
pub fn is_bzimage(file: &[u8]) -> bool {
    u16_at(file, header::BOOT_FLAG) == Some(0xaa55)
        && file.get(header::MAGIC..header::MAGIC + 4).is_some_and(|magic| magic == b"HdrS")
}

/// What a file is that is neither an ELF file nor a bzImage.
fn foreign(file: &[u8]) -> &'static str {
    match file.get(0x38..0x3c) {
        Some(b"ARM\x64") => "is a Linux kernel for arm64, not for x86",
        Some(b"RSC\x05") => "is a Linux kernel for RISC-V, not for x86",
        _ => "is neither an ELF file nor a Linux bzImage",
    }
}

/// The packed kernel in a bzImage.
fn payload(file: &[u8]) -> Result<&[u8], String> {
    let word = |at| u32_at(file, at).ok_or("is truncated: it ends in its setup header");
    let sectors = match file[header::SETUP_SECTS] {
        0 => header::SETUP_SECTS_OLD,
        sectors => sectors.into(),
    };
    let (offset, length) = (word(header::PAYLOAD_OFFSET)? as usize, word(header::PAYLOAD_LENGTH)? as usize);
    if length < 8 {
        return Err("has no payload to unpack".into());
    }
    // The setup sectors and the boot sector come before the protected-mode code.
    let start = (sectors + 1) * header::SECTOR + offset;
    file.get(start..start + length).ok_or_else(|| {
        format!("is truncated: its payload ends at byte {} and the file at {}", start + length, file.len())
    })
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>, String> {
    let (_, name, unpack) = FORMATS
        .iter()
        .find(|(magic, ..)| payload.starts_with(magic))
        .ok_or_else(|| format!("is packed in a way that Ebb does not know (it begins {:02x?})", &payload[..4]))?;
    let size = u32_at(payload, payload.len() - 4).unwrap_or(0) as usize;
    if size as u64 > UNPACKED_MAX.bytes() {
        return Err(format!("would unpack to {size} bytes, more than {UNPACKED_MAX}"));
    }
    let packed = if *name == "gzip" { payload } else { &payload[..payload.len() - 4] };
    let elf = unpack(packed, size).map_err(|e| format!("has a damaged payload ({name}: {e})"))?;
    if elf.len() != size {
        let more = if elf.len() > size { "more" } else { "less" };
        return Err(format!("has a damaged payload ({name}: unpacks to {more} than the {size} bytes it states)"));
    }
    if !elf.starts_with(b"\x7fELF") {
        return Err("holds no ELF file".into());
    }
    Ok(elf)
}

/// Reads at most one byte more than `limit`.
fn read_all(reader: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut out)?;
    Ok(out)
}

/// The legacy frame, which is what `lz4 -l` writes: blocks of up to 8 MiB, each after its packed size.
fn lz4_legacy(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut rest = &packed[4..];
    let mut out = Vec::new();
    while !rest.is_empty() && out.len() <= limit {
        let (size, after) = rest.split_at_checked(4).ok_or_else(cut)?;
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
        let (block, after) = after.split_at_checked(size).ok_or_else(cut)?;
        let room = BLOCK.min(limit - out.len());
        let start = out.len();
        out.resize(start + room, 0);
        let len = lz4_flex::block::decompress_into(block, &mut out[start..]).map_err(io::Error::other)?;
        out.truncate(start + len);
        rest = after;
    }
    Ok(out)
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    file.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::{check_kernel, tests::elf64};
    use std::io::Write;

    /// A PVH kernel with enough in it for every packer to have something to do.
    fn kernel() -> Vec<u8> {
        let mut elf = elf64(&[(0x10_0000, 0x1000)], Some(0x10_0000));
        let mut x = 1u32;
        elf.extend((0..200_000).map(|n| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if n % 3 == 0 { (x >> 24) as u8 } else { (n >> 8) as u8 }
        }));
        elf
    }

    fn lz4(elf: &[u8], block: usize) -> Vec<u8> {
        let mut out = vec![0x02, 0x21, 0x4c, 0x18];
        for block in elf.chunks(block) {
            let packed = lz4_flex::block::compress(block);
            out.extend((packed.len() as u32).to_le_bytes());
            out.extend(packed);
        }
        out
    }

    pub(crate) fn xz(elf: &[u8]) -> Vec<u8> {
        // As Linux's xz_wrap.sh does: the x86 filter before LZMA2, and CRC32.
        let mut options = lzma_rust2::XzOptions::with_preset(6);
        options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
        options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(elf).unwrap();
        writer.finish().unwrap()
    }

    fn lzma(elf: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::LzmaOptions::with_preset(6);
        let mut writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
        writer.write_all(elf).unwrap();
        writer.finish().unwrap()
    }

    fn gzip(elf: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        writer.write_all(elf).unwrap();
        writer.finish().unwrap()
    }

    fn bzip2(elf: &[u8]) -> Vec<u8> {
        let mut writer = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::best());
        writer.write_all(elf).unwrap();
        writer.finish().unwrap()
    }

    fn zstd(elf: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(elf, ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// `elf` packed in each way that Linux offers, with the size where Linux's build puts it.
    fn payloads(elf: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let mut all = vec![
            ("LZ4", lz4(elf, 8 << 20)),
            ("LZ4 in blocks", lz4(elf, 50_000)),
            ("xz", xz(elf)),
            ("lzma", lzma(elf)),
            ("zstd", zstd(elf)),
            ("bzip2", bzip2(elf)),
            ("lzo", lzop::tests::pack(elf, 64 << 10)),
        ];
        for (_, payload) in &mut all {
            payload.extend((elf.len() as u32).to_le_bytes());
        }
        all.push(("gzip", gzip(elf)));
        all
    }

    /// A bzImage around `payload`.
    pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 3 * 512];
        out[header::SETUP_SECTS] = 2;
        out[header::BOOT_FLAG..][..2].copy_from_slice(&[0x55, 0xaa]);
        out[header::MAGIC..][..4].copy_from_slice(b"HdrS");
        out[header::VERSION..][..2].copy_from_slice(&0x020fu16.to_le_bytes());
        out[header::PAYLOAD_OFFSET..][..4].copy_from_slice(&100u32.to_le_bytes());
        out[header::PAYLOAD_LENGTH..][..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend([0x90; 100]);
        out.extend(payload);
        out.extend([0x90; 300]);
        out
    }

    /// A bzImage that a PVH domain starts from.
    pub(crate) fn good() -> Vec<u8> {
        bzimage(&payloads(&kernel())[0].1)
    }

    #[test]
    fn every_packing_is_unpacked() {
        let kernel = kernel();
        for (name, payload) in payloads(&kernel) {
            let elf = elf(bzimage(&payload)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(elf == kernel, "{name}");
            check_kernel(&elf, Size::mib(16)).unwrap();
        }
    }

    #[test]
    fn an_elf_file_is_left_alone() {
        let kernel = kernel();
        assert_eq!(elf(kernel.clone()), Ok(kernel));
    }

    #[test]
    fn no_more_is_unpacked_than_stated() {
        let kernel = kernel();
        for (name, mut payload) in payloads(&kernel) {
            let at = payload.len() - 4;
            for size in [0u32, 1, 100_000, kernel.len() as u32 - 1, kernel.len() as u32 + 1] {
                payload[at..].copy_from_slice(&size.to_le_bytes());
                let error = elf(bzimage(&payload)).unwrap_err();
                assert!(error.starts_with("has a damaged payload"), "{name} {size}: {error}");
            }
            payload[at..].copy_from_slice(&u32::MAX.to_le_bytes());
            let error = elf(bzimage(&payload)).unwrap_err();
            assert!(error.starts_with("would unpack to 4294967295 bytes, more than 512M"), "{name}: {error}");
        }
    }

    #[test]
    fn every_other_file_is_refused_with_a_reason() {
        let good = good();
        let with = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..][..bytes.len()].copy_from_slice(bytes);
            file
        };
        let mut arm = vec![0; 4096];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        for (file, reason) in [
            (Vec::new(), "is neither an ELF file nor a Linux bzImage"),
            (vec![0; 4096], "is neither an ELF file nor a Linux bzImage"),
            (arm, "is a Linux kernel for arm64"),
            (with(header::MAGIC, b"XXXX"), "is neither"),
            (with(header::VERSION, &[0x07, 0x02]), "is a kernel from before Linux 2.6.24"),
            (with(header::PAYLOAD_LENGTH, &[0; 4]), "has no payload"),
            (with(header::PAYLOAD_OFFSET, &[0xff; 4]), "is truncated: its payload ends at"),
            (good[..header::PAYLOAD_LENGTH].to_vec(), "is truncated: it ends in its setup header"),
            (good[..good.len() / 2].to_vec(), "is truncated: its payload ends at"),
            (bzimage(b"something else altogether"), "is packed in a way that Ebb does not know"),
            (bzimage(&payloads(b"no kernel at all")[0].1), "holds no ELF file"),
        ] {
            let error = elf(file).unwrap_err();
            assert!(error.starts_with(reason), "got: {error}\nwant: {reason}");
        }
    }

    #[test]
    fn modules_are_unpacked_or_refused() {
        let elf = kernel();
        for (name, file) in [("plain", elf.clone()), ("xz", xz(&elf)), ("zstd", zstd(&elf)), ("gzip", gzip(&elf))] {
            assert!(module(file.clone()).as_ref() == Ok(&elf), "{name}");
            let half = module(file[..file.len() / 2].to_vec());
            assert!(half.is_err() || name == "plain", "{name}");
        }
        assert_eq!(module(gzip(b"a text")), Err("is no ELF file".into()));
        assert_eq!(module(Vec::new()), Err("is no ELF file".into()));
    }

    proptest::proptest! {
        #[test]
        fn damage_never_panics(which in 0usize..8, at: proptest::sample::Index, value: u8, cut: proptest::sample::Index) {
            let small = elf64(&[(0x10_0000, 0x1000)], Some(0x10_0000));
            let mut payload = payloads(&small).swap_remove(which).1;
            let at = at.index(payload.len());
            payload[at] = value;
            let mut file = bzimage(&payload);
            let _ = elf(file.clone());
            file.truncate(cut.index(file.len()));
            let _ = elf(file);
        }
    }
}
