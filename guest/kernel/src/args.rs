//! The kernel's arguments: words separated by spaces, `key=value` or a flag. The last of a kind wins.
//!
//! Numbers are decimal, or hexadecimal after `0x`. Sizes take the suffixes K, M and G (bytes) or `p`
//! (pages of 4 KiB); a bare number is a count of pages.

/// The command line, looked up by key.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    text: &'a str,
}

/// A value that does not parse: the key it belongs to and what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadValue<'a> {
    /// The argument's name.
    pub key: &'a str,
    /// Its value as written.
    pub value: &'a str,
}

impl<'a> Args<'a> {
    /// Looks into `text`.
    pub const fn new(text: &'a str) -> Self {
        Self { text }
    }

    /// The whole line.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The value of `key`, when it was given with a `=`.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.text
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .rfind(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// Is `name` there as a word of its own?
    pub fn flag(&self, name: &str) -> bool {
        self.text.split_ascii_whitespace().any(|word| word == name)
    }

    /// The number after `key=`, or `default` without it.
    pub fn number<'k>(&self, key: &'k str, default: u64) -> Result<u64, BadValue<'k>>
    where
        'a: 'k,
    {
        match self.get(key) {
            None => Ok(default),
            Some(value) => parse_number(value).ok_or(BadValue { key, value }),
        }
    }

    /// The size after `key=` in pages, or `default` (pages) without it.
    pub fn pages<'k>(&self, key: &'k str, default: u64) -> Result<u64, BadValue<'k>>
    where
        'a: 'k,
    {
        match self.get(key) {
            None => Ok(default),
            Some(value) => parse_pages(value).ok_or(BadValue { key, value }),
        }
    }
}

/// A decimal or `0x` number.
pub fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A size in pages; bytes are rounded up.
pub fn parse_pages(text: &str) -> Option<u64> {
    let (digits, bytes) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 1u64 << 10),
        b'M' | b'm' => (&text[..text.len() - 1], 1 << 20),
        b'G' | b'g' => (&text[..text.len() - 1], 1 << 30),
        b'p' => (&text[..text.len() - 1], 4096),
        _ => (text, 4096),
    };
    Some(parse_number(digits)?.checked_mul(bytes)?.div_ceil(4096))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_word_wins_and_flags_stand_alone() {
        let args = Args::new("workload=tide min=4M  min=8M bench nobench=1");
        assert_eq!(args.get("workload"), Some("tide"));
        assert_eq!(args.get("min"), Some("8M"));
        assert!(args.flag("bench"));
        assert!(!args.flag("nobench"));
        assert_eq!(args.get("absent"), None);
    }

    #[test]
    fn sizes_are_pages() {
        assert_eq!(parse_pages("8M"), Some(2048));
        assert_eq!(parse_pages("1G"), Some(262_144));
        assert_eq!(parse_pages("5K"), Some(2));
        assert_eq!(parse_pages("77"), Some(77));
        assert_eq!(parse_pages("77p"), Some(77));
        assert_eq!(parse_pages(""), None);
        assert_eq!(parse_pages("M"), None);
        assert_eq!(parse_pages("99999999999999999G"), None);
    }

    #[test]
    fn a_bad_number_names_its_key() {
        let args = Args::new("seed=0x10 calls=many");
        assert_eq!(args.number("seed", 1), Ok(16));
        assert_eq!(args.number("absent", 7), Ok(7));
        assert_eq!(args.number("calls", 1), Err(BadValue { key: "calls", value: "many" }));
    }
}
