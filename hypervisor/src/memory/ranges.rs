//! A sorted set of disjoint physical ranges, with a fixed capacity: which memory is RAM, which of it is still free.

use arrayvec::ArrayVec;

/// 4 KiB.
pub const PAGE_SIZE: u64 = 4096;

/// Physical bytes `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysRange {
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
}

impl PhysRange {
    /// `start..end`; an inverted range is empty.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// `size` bytes from `start`, cut at the end of the address space.
    pub const fn sized(start: u64, size: u64) -> Self {
        Self { start, end: start.saturating_add(size) }
    }

    /// Length in bytes.
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }

    /// True for no bytes.
    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// The whole pages inside.
    pub const fn shrink_to_pages(&self) -> Self {
        Self::new(self.start.saturating_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1), self.end & !(PAGE_SIZE - 1))
    }

    /// The pages touched (cut at the last page of the address space).
    pub const fn grow_to_pages(&self) -> Self {
        Self::new(self.start & !(PAGE_SIZE - 1), self.end.saturating_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1))
    }
}

/// The set. Invariant: ranges are non-empty, sorted, disjoint and not adjacent.
#[derive(Clone, Debug, Default)]
pub struct RangeSet<const N: usize> {
    ranges: ArrayVec<PhysRange, N>,
}

/// The set had no room for one more range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<const N: usize> RangeSet<N> {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: ArrayVec::new_const() }
    }

    /// The ranges in order.
    pub fn as_slice(&self) -> &[PhysRange] {
        &self.ranges
    }

    /// Bytes in the set.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(PhysRange::size).sum()
    }

    /// True when all of `range` is in the set.
    pub fn contains(&self, range: PhysRange) -> bool {
        range.is_empty() || self.ranges.iter().any(|r| r.start <= range.start && range.end <= r.end)
    }

    /// True when any byte of `range` is in the set.
    pub fn overlaps(&self, range: PhysRange) -> bool {
        !range.is_empty() && self.ranges.iter().any(|r| r.start < range.end && range.start < r.end)
    }

    /// Adds `range`, joining what overlaps or touches.
    ///
    /// # Errors
    /// [`Full`], with the set unchanged.
    pub fn insert(&mut self, range: PhysRange) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        // Those that overlap or touch are one run: first..last.
        let first = self.ranges.iter().take_while(|r| r.end < range.start).count();
        let last = first + self.ranges[first..].iter().take_while(|r| r.start <= range.end).count();
        if first == last {
            return self.ranges.try_insert(first, range).map_err(|_| Full);
        }
        let start = range.start.min(self.ranges[first].start);
        let end = range.end.max(self.ranges[last - 1].end);
        self.ranges[first] = PhysRange { start, end };
        self.ranges.drain(first + 1..last);
        Ok(())
    }

    /// Removes every byte of `range`.
    ///
    /// # Errors
    /// [`Full`] when the middle of a range goes and the set has no room for the second half; the set is unchanged.
    pub fn remove(&mut self, range: PhysRange) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        let mut index = 0;
        while index < self.ranges.len() {
            let old = self.ranges[index];
            if old.end <= range.start || old.start >= range.end {
                index += 1;
                continue;
            }
            let left = PhysRange::new(old.start, range.start.max(old.start));
            let right = PhysRange::new(range.end.min(old.end), old.end);
            match (left.is_empty(), right.is_empty()) {
                (true, true) => {
                    self.ranges.remove(index);
                }
                (false, true) => self.ranges[index] = left,
                (true, false) => self.ranges[index] = right,
                (false, false) => {
                    self.ranges.try_insert(index + 1, right).map_err(|_| Full)?;
                    self.ranges[index] = left;
                    index += 1;
                }
            }
        }
        Ok(())
    }

    /// Takes `size` bytes, aligned to `align` (a power of two), at the lowest address within `window`.
    pub fn take(&mut self, size: u64, align: u64, window: PhysRange) -> Option<u64> {
        let start = self.ranges.iter().find_map(|r| {
            let start = r.start.max(window.start).checked_add(align - 1)? & !(align - 1);
            let end = start.checked_add(size)?;
            (end <= r.end.min(window.end)).then_some(start)
        })?;
        self.remove(PhysRange::sized(start, size)).ok()?;
        Some(start)
    }

    /// Removes the highest bytes so that at most `limit` remain.
    pub fn truncate_to(&mut self, limit: u64) {
        while self.total() > limit {
            let excess = self.total() - limit;
            let Some(last) = self.ranges.last_mut() else {
                return;
            };
            if last.size() > excess {
                last.end -= excess;
            } else {
                self.ranges.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    /// A small generator, so that the model test repeats.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    fn check_invariant<const N: usize>(set: &RangeSet<N>) {
        for range in set.as_slice() {
            assert!(range.start < range.end);
        }
        for pair in set.as_slice().windows(2) {
            assert!(pair[0].end < pair[1].start, "{pair:?}");
        }
    }

    #[test]
    fn agrees_with_a_bit_per_byte() {
        const SPACE: u64 = 64;
        let mut random = Random(1);
        for _ in 0..200 {
            let mut set = RangeSet::<40>::new();
            let mut model = vec![false; SPACE as usize];
            for _ in 0..60 {
                let start = random.below(SPACE);
                let range = PhysRange::new(start, start + random.below(SPACE - start + 1));
                let add = random.below(2) == 0;
                if add {
                    set.insert(range).unwrap()
                } else {
                    set.remove(range).unwrap()
                };
                model[range.start as usize..range.end as usize].fill(add);
                check_invariant(&set);
                assert_eq!(set.total(), model.iter().filter(|&&bit| bit).count() as u64);
                for byte in 0..SPACE {
                    assert_eq!(set.contains(PhysRange::sized(byte, 1)), model[byte as usize]);
                    assert_eq!(set.overlaps(PhysRange::sized(byte, 1)), model[byte as usize]);
                }
            }
        }
    }

    #[test]
    fn take_is_aligned_lowest_and_inside_the_window() {
        let mut set = RangeSet::<8>::new();
        set.insert(PhysRange::new(0x1000, 0x9000)).unwrap();
        set.insert(PhysRange::new(0x10_0000, 0x20_0000)).unwrap();
        let window = PhysRange::new(0x2000, u64::MAX);
        assert_eq!(set.take(0x1000, 0x4000, window), Some(0x4000));
        assert_eq!(set.take(0x1000, 0x1000, window), Some(0x2000));
        assert_eq!(set.take(0x8000, 0x1000, window), Some(0x10_0000));
        assert_eq!(set.take(0x100_0000, 0x1000, window), None);
        check_invariant(&set);
    }

    #[test]
    fn a_full_set_says_so_and_stays() {
        let mut set = RangeSet::<1>::new();
        set.insert(PhysRange::new(0, 10)).unwrap();
        assert_eq!(set.insert(PhysRange::new(20, 30)), Err(Full));
        assert_eq!(set.remove(PhysRange::new(4, 5)), Err(Full));
        assert_eq!(set.as_slice(), [PhysRange::new(0, 10)]);
    }

    #[test]
    fn truncation_takes_from_the_top() {
        let mut set = RangeSet::<4>::new();
        set.insert(PhysRange::new(0, 100)).unwrap();
        set.insert(PhysRange::new(200, 300)).unwrap();
        set.truncate_to(120);
        assert_eq!(set.as_slice(), [PhysRange::new(0, 100), PhysRange::new(200, 220)]);
        set.truncate_to(50);
        assert_eq!(set.as_slice(), [PhysRange::new(0, 50)]);
    }

    #[test]
    fn page_rounding() {
        let range = PhysRange::new(0x1001, 0x2fff);
        assert!(range.shrink_to_pages().is_empty());
        assert_eq!(range.grow_to_pages(), PhysRange::new(0x1000, 0x3000));
        assert!(PhysRange::new(u64::MAX - 5, u64::MAX).shrink_to_pages().is_empty());
    }
}
