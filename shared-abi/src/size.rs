//! Sizes of memory as people write them in the boot configuration. Ebb's own.

/// Bytes of a size with a suffix K, M or G; a plain number is MiB. Whole pages, below 64 TiB.
///
/// # Errors
/// What is wrong with it.
pub fn bytes(text: &str) -> Result<u64, &'static str> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 20),
    };
    let number: u64 = digits.parse().map_err(|_| "not a size such as 64M")?;
    let bytes = number.checked_mul(1 << shift).ok_or("too large")?;
    if bytes.is_multiple_of(4096) && bytes < 1 << 46 {
        Ok(bytes)
    } else {
        Err("not a size in whole pages, below 64 TiB")
    }
}
