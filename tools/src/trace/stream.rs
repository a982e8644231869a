//! Takes a trace stream in pieces of any size and gives its records.
//!
//! What precedes the stream's first record (firmware may chatter on the port) is skipped; after
//! damage the stream is picked up at its next start record.

use shared_abi::trace_stream::{self, DecodeError, HEADER_SIZE, Header, Record};

/// A decoder that keeps what is not complete yet.
#[derive(Debug, Default)]
pub struct Stream {
    pending: Vec<u8>,
    in_step: bool,
    skipped: u64,
}

/// Bytes that [`trace_stream::find_start`] needs to see to recognise a start.
const START_WINDOW: usize = HEADER_SIZE + trace_stream::MAGIC.len();

impl Stream {
    /// Takes more bytes and calls `each` with every record they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&Header, &Record<'_>)) {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let rest = &self.pending[at..];
            if !self.in_step {
                match trace_stream::find_start(rest) {
                    Some(start) => {
                        self.skipped += start as u64;
                        at += start;
                        self.in_step = true;
                    }
                    None => {
                        // Keep what may be the beginning of a start record.
                        let noise = rest.len().saturating_sub(START_WINDOW - 1);
                        self.skipped += noise as u64;
                        at += noise;
                        break;
                    }
                }
                continue;
            }
            match trace_stream::decode(rest) {
                Ok((header, record, _)) => {
                    each(&header, &record);
                    at += header.length as usize;
                }
                Err(DecodeError::Truncated { .. }) => break,
                Err(DecodeError::BadLength(_)) => {
                    self.skipped += 1;
                    at += 1;
                    self.in_step = false;
                }
            }
        }
        self.pending.drain(..at);
    }

    /// Bytes that were not part of a stream.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Bytes of a record that has not ended yet; at the stream's end, of one that was cut off.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared_abi::trace_stream::{HostSample, Lost, Payload, Start, encode};

    /// A record as bytes.
    pub(crate) fn record<P: Payload>(payload: &P, time_ns: u64) -> Vec<u8> {
        let mut out = vec![0; trace_stream::MAX_WRITTEN_SIZE];
        let length = encode(payload, 0, time_ns, &mut out).expect("fits");
        out.truncate(length);
        out
    }

    fn sample(time: u64) -> Vec<u8> {
        record(&HostSample { free: time, total: time, ..Default::default() }, time)
    }

    fn times(pieces: &[&[u8]]) -> (Vec<u64>, Stream) {
        let mut stream = Stream::default();
        let mut times = Vec::new();
        for piece in pieces {
            stream.push(piece, |header, _| times.push(header.time_ns));
        }
        (times, stream)
    }

    #[test]
    fn noise_before_and_within_is_skipped() {
        let mut bytes = b"BdsDxe: loading".to_vec();
        bytes.extend(record(&Start::new(2, 1_000_000, 100), 1));
        bytes.extend(sample(2));
        bytes.extend([0xff; 40]);
        bytes.extend(record(&Start::new(2, 1_000_000, 100), 3));
        bytes.extend(record(&Lost { count: 1 }, 4));
        let (times, stream) = times(&[&bytes]);
        assert_eq!(times, [1, 2, 3, 4]);
        assert_eq!(stream.skipped(), 15 + 40);
        assert_eq!(stream.unfinished(), 0);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in proptest::collection::vec(0usize..400, 0..10)) {
            let mut bytes = record(&Start::new(1, 1, 1), 1);
            (2..8).for_each(|t| bytes.extend(sample(t)));
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(times(&pieces).0, (1..8).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>, start: bool) {
            let head = if start { record(&Start::new(1, 1, 1), 1) } else { Vec::new() };
            let (_, stream) = times(&[&head, &bytes]);
            prop_assert!(stream.skipped() <= bytes.len() as u64);
        }
    }
}
