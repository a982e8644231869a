//! A page that both sides access at the same time.

use core::array;
use core::sync::atomic::{AtomicU32, Ordering};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// A shared page. Offsets are in bytes; those of words are multiples of 4. An implementation may panic for what lies
/// outside of the page: no such access is made.
pub trait Page {
    /// Reads a word; what is read afterwards is at least as new (acquire).
    fn load(&self, offset: usize) -> u32;

    /// Writes a word; what was read and written before is done (release).
    fn store(&self, offset: usize, value: u32);

    /// Copies bytes out.
    fn read(&self, offset: usize, to: &mut [u8]);

    /// Copies bytes in. Only the one who produces into an area writes there.
    fn write(&self, offset: usize, from: &[u8]);
}

impl<P: Page + ?Sized> Page for &P {
    fn load(&self, offset: usize) -> u32 {
        (**self).load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        (**self).store(offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        (**self).read(offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        (**self).write(offset, from);
    }
}

/// Bytes in the middle of a word are written by reading and writing the whole word. That loses nothing: words are not
/// shared between areas with different writers in any of these rings.
impl Page for [AtomicU32; PAGE_SIZE / 4] {
    fn load(&self, offset: usize) -> u32 {
        self[offset / 4].load(Ordering::Acquire)
    }

    fn store(&self, offset: usize, value: u32) {
        self[offset / 4].store(value, Ordering::Release);
    }

    fn read(&self, mut offset: usize, mut to: &mut [u8]) {
        while !to.is_empty() {
            let word = self[offset / 4].load(Ordering::Relaxed).to_le_bytes();
            let word = &word[offset % 4..];
            let length = word.len().min(to.len());
            to[..length].copy_from_slice(&word[..length]);
            offset += length;
            to = &mut to[length..];
        }
    }

    fn write(&self, mut offset: usize, mut from: &[u8]) {
        while !from.is_empty() {
            let place = &self[offset / 4];
            let mut word = place.load(Ordering::Relaxed).to_le_bytes();
            let start = offset % 4;
            let length = (4 - start).min(from.len());
            word[start..start + length].copy_from_slice(&from[..length]);
            place.store(u32::from_le_bytes(word), Ordering::Relaxed);
            offset += length;
            from = &from[length..];
        }
    }
}

/// A shared page of one's own: atomic words, aligned as a page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct SharedPage([AtomicU32; PAGE_SIZE / 4]);

impl SharedPage {
    /// A page of zeros.
    pub fn new() -> SharedPage {
        SharedPage(array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Default for SharedPage {
    fn default() -> SharedPage {
        SharedPage::new()
    }
}

impl Page for SharedPage {
    fn load(&self, offset: usize) -> u32 {
        self.0.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        self.0.store(offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        self.0.read(offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.0.write(offset, from);
    }
}

const _: () = assert!(size_of::<SharedPage>() == PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_where_they_belong() {
        let page = SharedPage::new();
        page.write(5, b"abcdefgh");
        let mut out = [0; 12];
        page.read(3, &mut out);
        assert_eq!(&out, b"\0\0abcdefgh\0\0");
        assert_eq!(page.load(8), u32::from_le_bytes(*b"defg"));
        page.write(4092, b"last");
        assert_eq!(page.load(4092), u32::from_le_bytes(*b"last"));
        page.store(0, 0x0403_0201);
        page.read(1, &mut out[..2]);
        assert_eq!(out[..2], [2, 3]);
    }
}
