//! The container of `lzop`, as Linux packs its kernel with: a header, then blocks of LZO1X. The
//! numbers are big-endian.
//!
//! Checksums are stepped over: the whole is as long as Linux's build says, and a damaged block
//! hardly ever unpacks.

use std::io;

/// First version of lzop whose header states a version needed, a level and the time's upper half.
const VERSION_LEVEL: u16 = 0x0940;

/// Bits of the header's flags: which checksums each block has, and a filter's number.
mod flag {
    pub const ADLER32_UNPACKED: u32 = 0x1;
    pub const ADLER32_PACKED: u32 = 0x2;
    pub const CRC32_UNPACKED: u32 = 0x100;
    pub const CRC32_PACKED: u32 = 0x200;
    pub const FILTER: u32 = 0x800;
}

/// Unpacks `packed`, at most `limit` bytes and one block.
///
/// # Errors
/// It ends too early or a block is damaged.
pub fn unpack(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut input = Input(packed);
    let flags = input.header()?;
    let count = |bits: u32| (flags & bits).count_ones() as usize;
    let mut out = Vec::new();
    while out.len() <= limit {
        let unpacked_len = input.u32()? as usize;
        if unpacked_len == 0 {
            break;
        }
        let packed_len = input.u32()? as usize;
        if unpacked_len > limit - out.len() || packed_len > unpacked_len {
            return Err(io::Error::other("a block has an impossible size"));
        }
        input.take(4 * count(flag::ADLER32_UNPACKED | flag::CRC32_UNPACKED))?;
        // A block that would not shrink is stored, without checksums of the packed form.
        if packed_len == unpacked_len {
            out.extend_from_slice(input.take(packed_len)?);
            continue;
        }
        input.take(4 * count(flag::ADLER32_PACKED | flag::CRC32_PACKED))?;
        let start = out.len();
        out.resize(start + unpacked_len, 0);
        let len = lzokay::decompress::decompress(input.take(packed_len)?, &mut out[start..])
            .map_err(|e| io::Error::other(format!("{e:?}")))?;
        if len != unpacked_len {
            return Err(io::Error::other("a block is shorter than it says"));
        }
    }
    Ok(out)
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(head)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Steps over the header and gives its flags.
    fn header(&mut self) -> io::Result<u32> {
        self.take(9)?; // magic
        let version = self.u16()?;
        let newer = version >= VERSION_LEVEL;
        // The library's version, the version needed, method and level.
        self.take(if newer { 6 } else { 3 })?;
        let flags = self.u32()?;
        if flags & flag::FILTER != 0 {
            self.take(4)?;
        }
        self.take(if newer { 12 } else { 8 })?; // mode and time
        let name = self.take(1)?[0];
        self.take(usize::from(name) + 4)?; // name and checksum
        Ok(flags)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What `lzop` writes for `data`, in blocks of `block` bytes.
    pub(crate) fn pack(data: &[u8], block: usize) -> Vec<u8> {
        let mut out = vec![0x89, b'L', b'Z', b'O', 0, b'\r', b'\n', 0x1a, b'\n'];
        out.extend([0x10, 0x30, 0x20, 0xa0, 0x09, 0x40, 3, 9]);
        out.extend((flag::ADLER32_UNPACKED | flag::ADLER32_PACKED).to_be_bytes());
        out.extend([0; 12]);
        out.extend(b"\x07vmlinux\0\0\0\0");
        for block in data.chunks(block) {
            let packed = lzokay::compress::compress(block).unwrap();
            let stored = packed.len() >= block.len();
            let bytes = if stored { block } else { &packed };
            out.extend((block.len() as u32).to_be_bytes());
            out.extend((bytes.len() as u32).to_be_bytes());
            out.extend([0; 4]);
            if !stored {
                out.extend([0; 4]);
            }
            out.extend(bytes);
        }
        out.extend([0; 4]);
        out
    }

    #[test]
    fn packed_and_stored_blocks_are_unpacked() {
        let mut x = 1u32;
        let noise = (0..5000).map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        });
        let data: Vec<u8> = std::iter::repeat_n(7, 5000).chain(noise).collect();
        assert_eq!(unpack(&pack(&data, 5000), data.len()).unwrap(), data);
    }

    #[test]
    fn impossible_blocks_are_refused() {
        let good = pack(&[7; 5000], 5000);
        for end in 0..good.len() {
            assert!(unpack(&good[..end], 5000).is_err(), "{end}");
        }
        assert!(unpack(&good, 4999).is_err());
    }
}
