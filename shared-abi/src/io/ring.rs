//! `io/ring.h`: indexes of shared rings. Indexes run freely through all 32 bits and are masked when used. The other side
//! can write any value to its index at any time: [`available`] turns every pair into a count that is safe, or nothing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many entries lie between `consumer` and `producer` in a ring of `size` (a power of two), or `None` when that is
/// more than the ring holds: the other side's index is corrupt.
pub const fn available(producer: u32, consumer: u32, size: u32) -> Option<u32> {
    let used = producer.wrapping_sub(consumer);
    if used <= size { Some(used) } else { None }
}

/// How many entries are free, or `None` as for [`available`].
pub const fn free(producer: u32, consumer: u32, size: u32) -> Option<u32> {
    match available(producer, consumer, size) {
        Some(used) => Some(size - used),
        None => None,
    }
}

/// Where in the ring an index points.
pub const fn offset(index: u32, size: u32) -> usize {
    (index & (size - 1)) as usize
}

/// The two pieces (each a start and a length) into which `count` entries from `index` fall, at the ring's end and at
/// its start. `count` at most `size`.
pub const fn pieces(index: u32, count: u32, size: u32) -> [(usize, usize); 2] {
    let start = offset(index, size);
    let to_end = size as usize - start;
    let first = if (count as usize) < to_end { count as usize } else { to_end };
    [(start, first), (0, count as usize - first)]
}

/// Entries of a ring of requests and responses: as many of `entry_size` as fit behind the header in `bytes`, rounded
/// down to a power of two. 0 when none fits.
pub const fn entries(bytes: usize, entry_size: usize) -> u32 {
    if bytes <= size_of::<SharedRingHeader>() || entry_size == 0 {
        return 0;
    }
    let fit = (bytes - size_of::<SharedRingHeader>()) / entry_size;
    if fit == 0 { 0 } else { 1 << fit.ilog2() }
}

/// The header of a ring of requests and responses (`DEFINE_RING_TYPES`). Accessed in place by both sides.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SharedRingHeader {
    /// Requests produced.
    pub req_prod: u32,
    /// The back end wants an event when `req_prod` gets here.
    pub req_event: u32,
    /// Responses produced.
    pub rsp_prod: u32,
    /// The front end wants an event when `rsp_prod` gets here.
    pub rsp_event: u32,
    /// Private to the protocol.
    pub pvt: [u8; 4],
    /// Padding.
    pub __pad: [u8; 44],
}

/// Whether the other side wants an event after a producer's index moved from `old` to `new`.
pub const fn must_notify(old: u32, new: u32, event: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

const _: () = assert!(size_of::<SharedRingHeader>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_pair_of_indexes_is_safe() {
        assert_eq!(available(3, 3, 1024), Some(0));
        assert_eq!(available(2, 0xffff_fffe, 1024), Some(4));
        assert_eq!(available(1024, 0, 1024), Some(1024));
        assert_eq!(available(1025, 0, 1024), None);
        assert_eq!(available(0, 1, 1024), None);
        assert_eq!(free(0, 1, 1024), None);
        assert_eq!(free(5, 1, 8), Some(4));
    }

    #[test]
    fn pieces_stay_inside_the_ring() {
        for index in [0, 1, 7, 8, 13, u32::MAX, u32::MAX - 3] {
            for count in 0..=8 {
                let [(start, first), (again, second)] = pieces(index, count, 8);
                assert_eq!(first + second, count as usize);
                assert!(start < 8 && start + first <= 8 && again == 0 && second <= start);
            }
        }
    }

    #[test]
    fn entries_are_a_power_of_two() {
        assert_eq!(entries(4096, 112), 32);
        assert_eq!(entries(4096, 12), 256);
        assert_eq!(entries(64, 1), 0);
        assert_eq!(entries(65, 2), 0);
        assert_eq!(entries(4096, 0), 0);
    }

    #[test]
    fn notification_is_due_when_the_event_index_is_passed() {
        assert!(must_notify(0, 1, 1));
        assert!(!must_notify(0, 1, 2));
        assert!(!must_notify(1, 1, 1));
        assert!(must_notify(u32::MAX, 1, 0));
    }
}
