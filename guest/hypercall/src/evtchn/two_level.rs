//! The 2-level ABI: a pending and a mask bit per port, and per vCPU a word that says which words to look at.

use core::sync::atomic::{AtomicU64, Ordering};
use shared_abi::xen::Port;

/// The bitmaps of the `shared_info` page.
#[derive(Clone, Copy, Debug)]
pub struct TwoLevel<'a> {
    pending: &'a [AtomicU64; 64],
    mask: &'a [AtomicU64; 64],
}

impl<'a> TwoLevel<'a> {
    /// Over the two bitmaps.
    pub const fn new(pending: &'a [AtomicU64; 64], mask: &'a [AtomicU64; 64]) -> Self {
        Self { pending, mask }
    }

    /// Masks every port, as a kernel wants it before it binds any.
    pub fn mask_all(&self) {
        for word in self.mask {
            word.store(!0, Ordering::SeqCst);
        }
    }

    /// Is an event pending? False for a port that does not exist.
    pub fn is_pending(&self, port: Port) -> bool {
        bit(self.pending, port).is_some_and(|(word, mask)| word.load(Ordering::SeqCst) & mask != 0)
    }

    /// Is the port masked? True for a port that does not exist.
    pub fn is_masked(&self, port: Port) -> bool {
        bit(self.mask, port).is_none_or(|(word, mask)| word.load(Ordering::SeqCst) & mask != 0)
    }

    /// Takes a pending event; was there one?
    pub fn clear_pending(&self, port: Port) -> bool {
        bit(self.pending, port).is_some_and(|(word, mask)| word.fetch_and(!mask, Ordering::SeqCst) & mask != 0)
    }

    /// Masks a port.
    pub fn mask(&self, port: Port) {
        if let Some((word, mask)) = bit(self.mask, port) {
            word.fetch_or(mask, Ordering::SeqCst);
        }
    }

    /// Hands the pending and unmasked ports that `selector` leads to, lowest first, to `handle`.
    ///
    /// An event that arrives meanwhile sets its selector bit again and raises another upcall.
    pub fn drain(&self, selector: &AtomicU64, mut handle: impl FnMut(Port)) {
        let mut words = selector.swap(0, Ordering::SeqCst);
        while words != 0 {
            let index = words.trailing_zeros();
            words &= words - 1;
            let word = &self.pending[index as usize];
            let mut ready = word.load(Ordering::SeqCst) & !self.mask[index as usize].load(Ordering::SeqCst);
            while ready != 0 {
                let low = ready & ready.wrapping_neg();
                ready ^= low;
                if word.fetch_and(!low, Ordering::SeqCst) & low != 0 {
                    handle(Port(index * 64 + low.trailing_zeros()));
                }
            }
        }
    }
}

fn bit(words: &[AtomicU64; 64], port: Port) -> Option<(&AtomicU64, u64)> {
    Some((words.get(port.index() / 64)?, 1 << (port.0 % 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the hypervisor does on a send.
    fn raise(abi: &TwoLevel<'_>, selector: &AtomicU64, port: u32) {
        let (word, mask) = bit(abi.pending, Port(port)).unwrap();
        let was = word.fetch_or(mask, Ordering::SeqCst) & mask != 0;
        if !was && !abi.is_masked(Port(port)) {
            selector.fetch_or(1 << (port / 64), Ordering::SeqCst);
        }
    }

    #[test]
    fn masked_ports_stay_pending_and_others_come_once() {
        let (pending, mask) = ([const { AtomicU64::new(0) }; 64], [const { AtomicU64::new(0) }; 64]);
        let (abi, selector) = (TwoLevel::new(&pending, &mask), AtomicU64::new(0));
        abi.mask(Port(70));
        for port in [3, 64, 70, 4095, 3] {
            raise(&abi, &selector, port);
        }
        let mut seen = Vec::new();
        abi.drain(&selector, |port| seen.push(port.0));
        assert_eq!(seen, [3, 64, 4095]);
        assert!(abi.is_pending(Port(70)) && !abi.is_pending(Port(3)));
        assert!(abi.clear_pending(Port(70)) && !abi.clear_pending(Port(70)));
    }

    #[test]
    fn an_event_during_the_drain_is_seen_by_the_next() {
        let (pending, mask) = ([const { AtomicU64::new(0) }; 64], [const { AtomicU64::new(0) }; 64]);
        let (abi, selector) = (TwoLevel::new(&pending, &mask), AtomicU64::new(0));
        raise(&abi, &selector, 5);
        abi.drain(&selector, |_| raise(&abi, &selector, 5));
        let mut seen = 0;
        abi.drain(&selector, |_| seen += 1);
        assert_eq!(seen, 1);
    }

    #[test]
    fn ports_that_do_not_exist_are_harmless() {
        let (pending, mask) = ([const { AtomicU64::new(0) }; 64], [const { AtomicU64::new(0) }; 64]);
        let abi = TwoLevel::new(&pending, &mask);
        abi.mask(Port(4096));
        assert!(!abi.is_pending(Port(u32::MAX)) && abi.is_masked(Port(4096)) && !abi.clear_pending(Port(9999)));
    }
}
