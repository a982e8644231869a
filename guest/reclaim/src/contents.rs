//! What is in a page, computed from its tag.
//!
//! Three kinds, so that a store which treats pages differently has something to work with: zeros, pages that compress
//! well, and pages that do not compress. The tag says which, by the shares that were chosen.

use crate::border::{WORDS, Words};

/// Who a page's contents belong to, and which version of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag(pub u64);

const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value ^ value >> 27
}

impl Tag {
    /// The tag of a page of an owner (a file, a region of memory) of one guest or disk.
    #[must_use]
    pub fn new(seed: u64, owner: u32, index: u32, version: u32) -> Self {
        let place = u64::from(owner) << 32 | u64::from(index);
        Self(mix(mix(seed.wrapping_add(SPREAD) ^ place).wrapping_add(u64::from(version).wrapping_mul(SPREAD))))
    }

    /// A word that cannot be guessed from the others.
    fn word(self, index: usize) -> u64 {
        let value = (self.0 ^ index as u64).wrapping_mul(SPREAD);
        value ^ value >> 29
    }
}

/// How many of 16 pages are of which kind; the rest do not compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Pages of zeros.
    pub zero: u8,
    /// Pages that compress to a quarter or less.
    pub compressible: u8,
}

/// A page that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Which word.
    pub index: usize,
    /// What should be there.
    pub expected: u64,
    /// What is.
    pub found: u64,
}

enum Kind {
    Zero,
    Compressible,
    Random,
}

impl Contents {
    /// One zero page in 16 and half of the pages compressible: about what measurements of servers found.
    pub const USUAL: Self = Self { zero: 1, compressible: 8 };

    fn kind(self, tag: Tag) -> Kind {
        let sixteenth = (tag.0 >> 60) as u8;
        if sixteenth < self.zero {
            Kind::Zero
        } else if sixteenth < self.zero.saturating_add(self.compressible) {
            Kind::Compressible
        } else {
            Kind::Random
        }
    }

    /// Fills a page.
    pub fn fill(self, tag: Tag, page: &mut Words) {
        match self.kind(tag) {
            Kind::Zero => page.fill(0),
            Kind::Compressible => {
                page.fill(tag.0);
                (0..WORDS).step_by(16).for_each(|index| page[index] = tag.word(index));
            }
            Kind::Random => page.iter_mut().enumerate().for_each(|(index, word)| *word = tag.word(index)),
        }
    }

    /// Compares all of a page with what should be there.
    ///
    /// # Errors
    /// The first place that differs.
    pub fn check(self, tag: Tag, page: &Words) -> Result<(), Mismatch> {
        let wrong = |index: usize, expected| Mismatch { index, expected, found: page[index] };
        let different = match self.kind(tag) {
            Kind::Zero => page.iter().position(|word| *word != 0).map(|index| wrong(index, 0)),
            Kind::Compressible => {
                let expected = |index| if index % 16 == 0 { tag.word(index) } else { tag.0 };
                (0..WORDS).find(|index| page[*index] != expected(*index)).map(|index| wrong(index, expected(index)))
            }
            Kind::Random => {
                let differs = |index: &usize| page[*index] != tag.word(*index);
                (0..WORDS).find(differs).map(|index| wrong(index, tag.word(index)))
            }
        };
        different.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_other_page_version_or_owner_differs_and_so_does_any_word() {
        let contents = Contents { zero: 0, compressible: 8 };
        for index in 0..64 {
            let tag = Tag::new(1, 2, index, 3);
            let mut page = [0; WORDS];
            contents.fill(tag, &mut page);
            assert_eq!(contents.check(tag, &page), Ok(()));
            for other in [Tag::new(2, 2, index, 3), Tag::new(1, 3, index, 3), Tag::new(1, 2, index, 4)] {
                assert!(contents.check(other, &page).is_err());
            }
            assert!(contents.check(Tag::new(1, 2, index + 1, 3), &page).is_err());
            for word in [0, 1, 15, 16, 511] {
                page[word] ^= 1 << 63;
                assert_eq!(contents.check(tag, &page).unwrap_err().index, word);
                page[word] ^= 1 << 63;
            }
        }
    }

    #[test]
    fn the_shares_are_as_chosen() {
        let contents = Contents { zero: 4, compressible: 8 };
        let mut counts = [0; 3];
        for index in 0..4096 {
            counts[contents.kind(Tag::new(7, 1, index, 0)) as usize] += 1;
        }
        assert!((900..1150).contains(&counts[0]) && (1900..2200).contains(&counts[1]), "{counts:?}");
    }
}
