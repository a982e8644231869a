//! A number by which equal contents are found: a filter, for bytes are compared before two contents are taken for equal.
//!
//! Every put that looks for equal pages pays for it, mostly without finding one. So it is no hash for strangers: two
//! additions for a word, as in Fletcher's checksum, over four lanes of words. Each lane has the sum of its words and the
//! sum of these sums, which tell contents apart by what is in them and where it is; a key is mixed in at the end. Who
//! wants to can find contents with the same number. It costs him the finding of his own equal pages: see [`COMPARED`].

use crate::shard::mix;

/// Contents with the number of a new one that are compared with it, and that are in a table at once. So nobody can make
/// others, or himself, wait in a long chain of them.
pub const COMPARED: usize = 8;

const LANES: usize = 4;
const CHUNK: usize = LANES * 8;

#[derive(Default)]
struct Sums {
    words: [u64; LANES],
    sums: [u64; LANES],
}

impl Sums {
    #[inline(always)]
    fn add(&mut self, chunk: &[u8; CHUNK]) {
        for (lane, word) in chunk.as_chunks::<8>().0.iter().enumerate() {
            self.words[lane] = self.words[lane].wrapping_add(u64::from_le_bytes(*word));
            self.sums[lane] = self.sums[lane].wrapping_add(self.words[lane]);
        }
    }
}

/// The number of these bytes, with a key.
pub fn number(bytes: &[u8], key: u64) -> u64 {
    let mut sums = Sums::default();
    let (pairs, rest) = bytes.as_chunks::<{ 2 * CHUNK }>();
    for pair in pairs {
        let (chunks, _) = pair.as_chunks::<CHUNK>();
        sums.add(&chunks[0]);
        sums.add(&chunks[1]);
    }
    let (chunks, rest) = rest.as_chunks::<CHUNK>();
    chunks.iter().for_each(|chunk| sums.add(chunk));
    let mut last = [0; CHUNK];
    last[..rest.len()].copy_from_slice(rest);
    sums.add(&last);
    let all = sums.words.into_iter().chain(sums.sums);
    all.fold(key ^ bytes.len() as u64, |number, sum| mix(number ^ sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_depends_on_every_byte_its_place_and_the_length() {
        let mut bytes = [0; if cfg!(miri) { 70 } else { 200 }];
        let mut seen = std::vec![number(&bytes, 1), number(&bytes, 1 << 40), number(&bytes[1..], 1), number(&[], 1)];
        for place in 0..bytes.len() {
            for value in [1, 0x42] {
                bytes[place] = value;
                seen.push(number(&bytes, 1));
            }
            bytes[place] = 0;
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
