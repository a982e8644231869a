//! What a domain's line in the boot configuration says of its transcendent memory (`tmem=`), for the tool that writes the
//! line and the hypervisor that reads it. Ebb's own: Xen sets these with `xl tmem-set` when the domain runs.
//!
//! `off`, or what differs from the rest, with commas: `weight:512,compress,floor:8M,cap:64M`.

use core::fmt;

use crate::size;

/// Bytes in a page.
const PAGE: u64 = 4096;
/// What is no setting.
const GRAMMAR: &str = "off, or of weight:N, compress, floor:SIZE and cap:SIZE, with commas";

/// Settings of one domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TmemSettings {
    /// It has none.
    pub off: bool,
    /// Its share under pressure, if not the usual one; 0 gives way first.
    pub weight: Option<u32>,
    /// What it puts is compressed.
    pub compress: bool,
    /// Ephemeral pages that other domains' puts cannot take, if not the usual share of its maximum.
    pub floor: Option<u64>,
    /// The most ephemeral pages, if not as many as its maximum.
    pub cap: Option<u64>,
}

impl TmemSettings {
    /// Reads what comes after `tmem=`.
    ///
    /// # Errors
    /// What would have been right.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "off" {
            return Ok(Self { off: true, ..Self::default() });
        }
        let mut settings = Self::default();
        for word in text.split(',') {
            match word.split_once(':') {
                Some(("weight", number)) if settings.weight.is_none() => {
                    settings.weight = Some(number.parse().map_err(|_| "weight: is not a number")?);
                }
                Some(("floor", size)) if settings.floor.is_none() => settings.floor = Some(pages(size)?),
                Some(("cap", size)) if settings.cap.is_none() => settings.cap = Some(pages(size)?),
                Some(("weight" | "floor" | "cap", _)) => return Err("something is given twice"),
                None if word == "compress" => settings.compress = true,
                _ => return Err(GRAMMAR),
            }
        }
        match (settings.floor, settings.cap) {
            (Some(floor), Some(cap)) if floor > cap => Err("the floor is above the cap"),
            _ => Ok(settings),
        }
    }
}

fn pages(text: &str) -> Result<u64, &'static str> {
    size::bytes(text).map(|bytes| bytes / PAGE).map_err(|_| "not a size in whole pages such as 8M")
}

impl fmt::Display for TmemSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.off {
            return f.write_str("off");
        }
        let mut comma = "";
        let mut write = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            let result = write!(f, "{comma}{text}");
            comma = ",";
            result
        };
        if let Some(weight) = self.weight {
            write(f, format_args!("weight:{weight}"))?;
        }
        if self.compress {
            write(f, format_args!("compress"))?;
        }
        if let Some(floor) = self.floor {
            write(f, format_args!("floor:{}K", floor * (PAGE >> 10)))?;
        }
        if let Some(cap) = self.cap {
            write(f, format_args!("cap:{}K", cap * (PAGE >> 10)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["off", "weight:0", "compress", "weight:512,compress,floor:8192K,cap:65536K"] {
            assert_eq!(TmemSettings::parse(text).unwrap().to_string(), text);
        }
        let settings = TmemSettings::parse("cap:64M,floor:8,weight:3").unwrap();
        let expected = TmemSettings { weight: Some(3), floor: Some(2048), cap: Some(16384), ..TmemSettings::default() };
        assert_eq!(settings, expected);
    }

    #[test]
    fn mistakes_are_errors() {
        for (text, part) in [
            ("", "off, or"),
            ("on", "off, or"),
            ("off,compress", "off, or"),
            ("compress:yes", "off, or"),
            ("weight", "off, or"),
            ("weight:-1", "not a number"),
            ("weight:4294967296", "not a number"),
            ("weight:1,weight:2", "twice"),
            ("cap:1x", "whole pages"),
            ("cap:6K", "whole pages"),
            ("floor:99999999999999999999G", "whole pages"),
            ("floor:8M,cap:4M", "above"),
        ] {
            let error = TmemSettings::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
