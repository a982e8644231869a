//! What the hypervisor remembers of an entry in use: one word, so that a frame of such words accompanies each frame of
//! the table.

use shared_abi::xen::{DomId, Mfn};

use crate::hypervisor::MAX_DOMAINS;

const WRITERS_SHIFT: u32 = 0;
const READERS_SHIFT: u32 = 12;
const DOMAIN_SHIFT: u32 = 24;
const MFN_SHIFT: u32 = 32;
const COUNT_MASK: u64 = 0xfff;

const _: () = assert!(MAX_DOMAINS <= 256, "a domain's number has 8 bits here");

/// Uses of an entry: mappings and copies. All bits zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Active {
    /// The frame that was behind the entry when its first use began; meaningful while in use.
    pub mfn: u32,
    /// Who uses it; meaningful while in use.
    pub domain: u8,
    /// Uses that only read.
    pub readers: u16,
    /// Uses that write.
    pub writers: u16,
}

impl Active {
    /// From a word.
    pub fn unpack(word: u64) -> Self {
        Self {
            mfn: (word >> MFN_SHIFT) as u32,
            domain: (word >> DOMAIN_SHIFT) as u8,
            readers: (word >> READERS_SHIFT & COUNT_MASK) as u16,
            writers: (word >> WRITERS_SHIFT & COUNT_MASK) as u16,
        }
    }

    /// To a word.
    pub fn pack(self) -> u64 {
        u64::from(self.mfn) << MFN_SHIFT
            | u64::from(self.domain) << DOMAIN_SHIFT
            | u64::from(self.readers) << READERS_SHIFT
            | u64::from(self.writers) << WRITERS_SHIFT
    }

    /// Whether the entry is in use.
    pub fn in_use(self) -> bool {
        self.readers | self.writers != 0
    }

    /// Whether it is `domain` that uses it.
    pub fn is_used_by(self, domain: DomId) -> bool {
        u16::from(self.domain) == domain.0
    }

    /// The frame.
    pub fn frame(self) -> Mfn {
        Mfn(u64::from(self.mfn))
    }

    fn count(&mut self, readonly: bool) -> &mut u16 {
        if readonly { &mut self.readers } else { &mut self.writers }
    }

    /// One more use, if there is room to count it.
    pub fn more(mut self, readonly: bool) -> Option<Self> {
        let count = self.count(readonly);
        *count = count.checked_add(1).filter(|count| u64::from(*count) <= COUNT_MASK)?;
        Some(self)
    }

    /// One use less.
    ///
    /// # Panics
    /// When there was none: the hypervisor's books are wrong.
    pub fn less(mut self, readonly: bool) -> Self {
        let count = self.count(readonly);
        *count = count.checked_sub(1).expect("a use of a grant that was not counted");
        if self.in_use() { self } else { Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_all_of_it() {
        let active = Active { mfn: 0xdead_beef, domain: 127, readers: 4095, writers: 1 };
        assert_eq!(Active::unpack(active.pack()), active);
        assert_eq!(Active::unpack(0), Active::default());
        assert!(!Active::default().in_use());
        assert_eq!(active.frame(), Mfn(0xdead_beef));
    }

    #[test]
    fn counts_neither_overflow_nor_mix() {
        let mut active = Active::default();
        for _ in 0..4095 {
            active = active.more(true).expect("room");
        }
        assert_eq!(active.more(true), None);
        let active = active.more(false).expect("room for a writer");
        assert_eq!((active.readers, active.writers), (4095, 1));
        assert_eq!(active.less(false).writers, 0);
        assert_eq!(Active { readers: 1, mfn: 9, ..Active::default() }.less(true), Active::default());
    }
}
