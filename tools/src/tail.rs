//! Follows a file that another process is writing.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes taken at once, so that a flood leaves time to draw.
const CHUNK: u64 = 1 << 20;

/// A file that grows, read from its beginning.
#[derive(Debug)]
pub struct Tail {
    file: File,
}

impl Tail {
    /// Follows the file at `path`, which exists.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    /// What has come since the last call, at most a MiB; empty when nothing has.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.by_ref().take(CHUNK).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Cuts a stream of bytes into lines. A carriage return ends a line too, and empty lines are left
/// out. Terminal control sequences, which firmware and loaders write, are dropped, and damaged UTF-8
/// and other control characters made visible, so that nobody in the machine can write more than text.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    escape: Escape,
}

/// Where in a terminal control sequence (`ESC [ parameters final`) the stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    Parameters,
}

impl Lines {
    /// Longest line kept whole; a flood without line ends is cut here.
    const LONGEST: usize = 4096;

    /// Takes more bytes and gives the lines they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            match (self.escape, byte) {
                (_, 0x1b) => self.escape = Escape::Begun,
                (_, b'\n' | b'\r') => {
                    self.escape = Escape::None;
                    lines.extend(self.finish());
                }
                (Escape::Begun, b'[') => self.escape = Escape::Parameters,
                (Escape::Parameters, 0x20..=0x3f) => {}
                (Escape::Begun | Escape::Parameters, _) => self.escape = Escape::None,
                (Escape::None, _) => {
                    if self.partial.len() == Self::LONGEST {
                        lines.extend(self.finish());
                    }
                    self.partial.push(byte);
                }
            }
        }
        lines
    }

    /// The last line, when it had no end.
    pub fn finish(&mut self) -> Option<String> {
        let text = self.unfinished();
        self.partial.clear();
        (!text.is_empty()).then_some(text)
    }

    /// The last line so far.
    #[must_use]
    pub fn unfinished(&self) -> String {
        let visible = |c: char| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        };
        String::from_utf8_lossy(&self.partial).chars().map(visible).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_cleaned() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\r\ntw"), ["one"]);
        assert_eq!(
            lines.push(b"o\n\n\x1b[2J\x1b[01;3Hx\xff\x07\n\x1b[0m\r(ebb) \x1bcy\r\n"),
            ["two", "x\u{fffd}\u{fffd}", "(ebb) y"]
        );
        assert_eq!(lines.push(b"end"), Vec::<String>::new());
        assert_eq!(lines.unfinished(), "end");
        assert_eq!(lines.finish().as_deref(), Some("end"));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::default();
        let out = lines.push(&vec![b'a'; Lines::LONGEST * 2 + 1]);
        assert_eq!(out.iter().map(String::len).collect::<Vec<_>>(), [Lines::LONGEST, Lines::LONGEST]);
    }

    #[test]
    fn a_growing_file_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "ab").unwrap();
        let mut tail = Tail::open(&path).unwrap();
        assert_eq!(tail.read().unwrap(), b"ab");
        assert_eq!(tail.read().unwrap(), b"");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut f| io::Write::write_all(&mut f, b"c"))
            .unwrap();
        assert_eq!(tail.read().unwrap(), b"c");
    }
}
