//! The pattern that fills a held page, so that a page which comes back wrong is noticed.
//!
//! Every eighth word of a page (one in each cache line) carries the page number mixed with the owner's seed
//! and the word's place: a page that belongs to someone else, an old copy and a zeroed page all differ.

/// Words in a page.
pub const WORDS: usize = 512;
/// Distance between the words that carry the pattern.
const STRIDE: usize = 8;

/// The word at place `index` of page `gfn`.
fn word(gfn: u64, seed: u64, index: usize) -> u64 {
    (gfn ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ index as u64
}

/// Writes the pattern of page `gfn`.
pub fn fill(page: &mut [u64; WORDS], gfn: u64, seed: u64) {
    for index in (0..WORDS).step_by(STRIDE) {
        page[index] = word(gfn, seed, index);
    }
}

/// The first place where the page differs from its pattern, with what should be there and what is.
pub fn check(page: &[u64; WORDS], gfn: u64, seed: u64) -> Result<(), Mismatch> {
    for index in (0..WORDS).step_by(STRIDE) {
        let expected = word(gfn, seed, index);
        if page[index] != expected {
            return Err(Mismatch { gfn, index, expected, found: page[index] });
        }
    }
    Ok(())
}

/// A page that does not hold what was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The page.
    pub gfn: u64,
    /// Which word of it.
    pub index: usize,
    /// What was written.
    pub expected: u64,
    /// What is there now.
    pub found: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_page_seed_or_zeroes_differ() {
        let mut page = [0; WORDS];
        assert!(check(&page, 5, 77).is_err());
        fill(&mut page, 5, 77);
        assert_eq!(check(&page, 5, 77), Ok(()));
        assert!(check(&page, 6, 77).is_err());
        assert!(check(&page, 5, 78).is_err());
        page[504] ^= 1;
        assert_eq!(check(&page, 5, 77).unwrap_err().index, 504);
    }
}
