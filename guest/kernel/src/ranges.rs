//! Sets of page ranges, for turning the start-of-day memory map into what the allocator may manage.

use arrayvec::ArrayVec;

/// Pages `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First page.
    pub start: u64,
    /// One past the last page.
    pub end: u64,
}

impl Range {
    /// Pages in the range.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// No page at all?
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// A set of ranges that do not overlap, in no order. What exceeds the room is left out, which wastes memory but is safe
/// for a set of usable pages.
#[derive(Clone, Debug, Default)]
pub struct Ranges<const N: usize> {
    list: ArrayVec<Range, N>,
}

impl<const N: usize> Ranges<N> {
    /// An empty set.
    pub const fn new() -> Self {
        Self { list: ArrayVec::new_const() }
    }

    /// Adds `range`; the part that is already there is not added twice.
    pub fn insert(&mut self, range: Range) {
        self.remove(range);
        if !range.is_empty() {
            let _ = self.list.try_push(range);
        }
    }

    /// Takes every page of `hole` out.
    pub fn remove(&mut self, hole: Range) {
        if hole.is_empty() {
            return;
        }
        let old = core::mem::take(&mut self.list);
        for range in old {
            let below = Range { start: range.start, end: range.end.min(hole.start) };
            let above = Range { start: range.start.max(hole.end), end: range.end };
            for part in [below, above] {
                if !part.is_empty() {
                    let _ = self.list.try_push(part);
                }
            }
        }
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.list.iter().copied()
    }

    /// Pages in all ranges.
    pub fn total(&self) -> u64 {
        self.iter().map(|range| range.len()).sum()
    }

    /// One past the highest page, 0 when empty.
    pub fn end(&self) -> u64 {
        self.iter().map(|range| range.end).max().unwrap_or(0)
    }

    /// Does the set hold `page`?
    pub fn contains(&self, page: u64) -> bool {
        self.iter().any(|range| (range.start..range.end).contains(&page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range { start, end }
    }

    #[test]
    fn holes_split_and_overlaps_count_once() {
        let mut set = Ranges::<8>::new();
        set.insert(range(0, 100));
        set.insert(range(50, 150));
        assert_eq!(set.total(), 150);
        set.remove(range(20, 30));
        assert_eq!(set.total(), 140);
        assert!(set.contains(19) && !set.contains(20) && !set.contains(29) && set.contains(30));
        assert_eq!(set.end(), 150);
        set.remove(range(0, 1000));
        assert_eq!((set.total(), set.end()), (0, 0));
        set.insert(range(9, 9));
        assert_eq!(set.iter().count(), 0);
    }
}
