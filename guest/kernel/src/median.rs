//! The figures of a benchmark: least, median and greatest of the samples.

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many samples there were.
    pub samples: u32,
    /// The least.
    pub min: u32,
    /// The middle one (the lower of the two in an even number).
    pub median: u32,
    /// The greatest.
    pub max: u32,
}

/// Sorts `samples` and sums them up; `None` when there are none. Values above 32 bits are cut at the greatest one.
pub fn summarise(samples: &mut [u64]) -> Option<Summary> {
    samples.sort_unstable();
    let cut = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Some(Summary {
        samples: samples.len() as u32,
        min: cut(*samples.first()?),
        median: cut(samples[(samples.len() - 1) / 2]),
        max: cut(*samples.last()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_of_odd_and_even() {
        assert_eq!(summarise(&mut []), None);
        assert_eq!(summarise(&mut [9, 1, 5]).unwrap().median, 5);
        let even = summarise(&mut [4, 1, u64::MAX, 2]).unwrap();
        assert_eq!((even.min, even.median, even.max, even.samples), (1, 2, u32::MAX, 4));
    }
}
