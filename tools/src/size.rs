//! Amounts of memory as people write them: `64M`, `1G`, `512K`; a plain number means MiB.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Bytes in a page of x86-64, the unit of every figure in the trace stream.
pub const PAGE: u64 = 4096;

/// An amount of memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// `n` MiB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The amount in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The amount in whole MiB, rounded up.
    #[must_use]
    pub const fn to_mib(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

/// Formats a number of pages as MiB with one decimal, without the unit.
#[must_use]
pub fn pages_as_mib(pages: u64) -> String {
    // Tenths of a MiB: 256 pages are 1 MiB.
    let tenths = pages.saturating_mul(10) / 256;
    format!("{}.{}", tenths / 10, tenths % 10)
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            _ => (text, 20),
        };
        let bad = || format!("`{text}` is not a size; write for instance 64M, 1G, 512K or 64 (MiB)");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| format!("`{text}` is more memory than can be addressed"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "G"), (20, "M")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}K", self.0.div_ceil(1 << 10))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64M\" or a number of MiB")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, mib: i64) -> Result<Size, E> {
                mib.to_string().parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in
            [("64", 64 << 20), ("64M", 64 << 20), ("64m", 64 << 20), ("1G", 1 << 30), ("8K", 8192), ("0", 0)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "M", "-1", "+1M", "1.5G", "64MB", "64 M", "99999999999999999999", "18446744073709551615G"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for bytes in [4096, 12 << 10, 1 << 20, 48 << 20, 1 << 30, (1 << 30) + 4096] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
    }

    #[test]
    fn pages_are_shown_in_mib() {
        assert_eq!(pages_as_mib(256), "1.0");
        assert_eq!(pages_as_mib(128), "0.5");
        assert_eq!(pages_as_mib(0), "0.0");
    }
}
