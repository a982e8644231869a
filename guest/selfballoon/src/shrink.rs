//! Frontswap-selfshrinking: pages come back from frontswap when nothing has gone there for a while.

use crate::tunables::Tunables;

/// The loop's memory: how many pages there were last time, and how long to wait still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelfShrink {
    last: u64,
    inertia: u64,
}

impl SelfShrink {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: 0, inertia: 0 }
    }

    /// One interval: with `pages` in frontswap now, how many are to stay there; `None`: leave it alone.
    ///
    /// With no pages, or more than last time, the wait begins anew. It is over after [`Tunables::frontswap_inertia`]
    /// intervals; from then on each takes 1/[`Tunables::frontswap_hysteresis`] of the pages, and at last all.
    pub fn step(&mut self, tunables: &Tunables, pages: u64) -> Option<u64> {
        let last = core::mem::replace(&mut self.last, pages);
        if pages == 0 || pages > last {
            self.inertia = tunables.frontswap_inertia;
            return None;
        }
        // A wait set while running applies at once when it is shorter.
        self.inertia = self.inertia.min(tunables.frontswap_inertia).saturating_sub(1);
        if self.inertia > 0 || !tunables.selfshrinking {
            return None;
        }
        let hysteresis = tunables.frontswap_hysteresis.max(1);
        Some(if pages <= hysteresis { 0 } else { pages - pages / hysteresis })
    }

    /// Intervals to wait still.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.inertia
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_inertia_then_takes_a_twentieth_each_time() {
        let (mut shrink, tunables) = (SelfShrink::new(), Tunables::DEFAULT);
        assert_eq!(shrink.step(&tunables, 0), None);
        assert_eq!(shrink.step(&tunables, 1000), None, "growth arms the wait");
        assert_eq!(shrink.waiting(), 3);
        assert_eq!(shrink.step(&tunables, 1000), None);
        assert_eq!(shrink.step(&tunables, 1000), None);
        assert_eq!(shrink.step(&tunables, 1000), Some(950));
        assert_eq!(shrink.step(&tunables, 950), Some(903));
        assert_eq!(shrink.step(&tunables, 951), None, "growth arms it again");
        assert_eq!(shrink.step(&tunables, 951), None);
    }

    #[test]
    fn the_last_pages_go_at_once() {
        let (mut shrink, tunables) = (SelfShrink::new(), Tunables { frontswap_inertia: 1, ..Tunables::DEFAULT });
        shrink.step(&tunables, 20);
        assert_eq!(shrink.step(&tunables, 20), Some(0));
        assert_eq!(shrink.step(&tunables, 0), None);
    }

    #[test]
    fn off_it_still_counts() {
        let mut tunables = Tunables { selfshrinking: false, ..Tunables::DEFAULT };
        let mut shrink = SelfShrink::new();
        assert!((0..10).all(|_| shrink.step(&tunables, 40).is_none()));
        tunables.selfshrinking = true;
        assert_eq!(shrink.step(&tunables, 40), Some(38));
    }
}
