//! `memory/target` in the balloon's pages.
//!
//! A toolstack counts all memory of a domain, in KiB; a balloon counts the RAM of its memory map. As Linux does, the
//! difference is taken once at start, when the domain has all that it was built with (`memory/static-max`).

/// Turns one into the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Pages that the toolstack counts and the balloon does not.
    beside: u64,
}

impl Target {
    /// From `memory/static-max` in KiB and the balloon's pages at the start.
    pub fn new(static_max_kib: Option<u64>, current_pages: u64) -> Self {
        Self { beside: static_max_kib.map_or(0, |kib| (kib / 4).saturating_sub(current_pages)) }
    }

    /// Pages for a target in KiB.
    pub fn pages(&self, kib: u64) -> u64 {
        (kib / 4).saturating_sub(self.beside)
    }

    /// The target in KiB at which the balloon has so many pages.
    pub fn kib(&self, pages: u64) -> u64 {
        pages.saturating_add(self.beside).saturating_mul(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_taken_at_the_start() {
        // 64 MiB, of which the memory map shows all but 12 pages.
        let target = Target::new(Some(65536), 16384 - 12);
        assert_eq!(target.pages(65536), 16384 - 12);
        assert_eq!(target.pages(32768), 8192 - 12);
        assert_eq!(target.kib(8192 - 12), 32768);
        assert_eq!(target.pages(0), 0);
        assert_eq!(target.kib(u64::MAX), u64::MAX);
    }

    #[test]
    fn without_a_maximum_they_are_the_same() {
        for target in [Target::new(None, 1000), Target::new(Some(100), 1000)] {
            assert_eq!(target.pages(4000), 1000);
            assert_eq!(target.kib(1000), 4000);
        }
    }
}
