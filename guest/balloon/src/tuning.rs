//! The balloon's tunables, their defaults and their limits.

use shared_abi::xen::Gfn;

use crate::extent::MAX_EXTENTS;

/// No wait is shorter than this, so that a shortage cannot make the guest spin (1 ms).
pub(crate) const SHORTEST_DELAY_NS: u64 = 1_000_000;

/// What may be chosen about a balloon. Values out of range are brought into it, as each field says; none is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The wait after a first attempt that fell short, in ns; at least 1 ms. Default 1 s.
    pub first_delay_ns: u64,
    /// The longest wait between attempts, in ns; at least `first_delay_ns`. Default 32 s.
    pub longest_delay_ns: u64,
    /// The pause between steps that make progress, in ns: 0 asks to be called again at once. Default 0.
    pub pace_ns: u64,
    /// The most 4 KiB pages a step moves one by one, 1 to 512. Default 512.
    pub pages_per_step: usize,
    /// The most 2 MiB extents a step moves, 1 to 512. Default 16 (32 MiB).
    pub superpages_per_step: usize,
    /// Whether 2 MiB extents are tried at all. Default yes.
    pub superpages: bool,
    /// How many pages are moved one by one after a 2 MiB attempt failed and before the next is made. Default 4096.
    pub small_run_pages: u64,
    /// No target below this many pages is accepted. Default 0; a kernel knows what it needs to live and must say so.
    pub floor_pages: u64,
    /// Ballooned pages at or above this frame count as high. Default none: a flat 64-bit kernel, like 64-bit Linux,
    /// has no high memory.
    pub high_start: Option<Gfn>,
    /// Whether [`Balloon::heal`](crate::Balloon::heal) does anything. Default yes.
    pub heal: bool,
    /// How many scattered regions one call of `heal` asks the page source for, at least 1. Default 32.
    pub heal_probes: u32,
}

impl Tuning {
    /// The defaults named beside the fields.
    pub const DEFAULT: Self = Self {
        first_delay_ns: 1_000_000_000,
        longest_delay_ns: 32_000_000_000,
        pace_ns: 0,
        pages_per_step: MAX_EXTENTS,
        superpages_per_step: 16,
        superpages: true,
        small_run_pages: 4096,
        floor_pages: 0,
        high_start: None,
        heal: true,
        heal_probes: 32,
    };

    /// The same with every value in its range.
    #[must_use]
    pub(crate) fn in_range(mut self) -> Self {
        self.first_delay_ns = self.first_delay_ns.max(SHORTEST_DELAY_NS);
        self.longest_delay_ns = self.longest_delay_ns.max(self.first_delay_ns);
        self.pages_per_step = self.pages_per_step.clamp(1, MAX_EXTENTS);
        self.superpages_per_step = self.superpages_per_step.clamp(1, MAX_EXTENTS);
        self.heal_probes = self.heal_probes.max(1);
        self
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self::DEFAULT
    }
}
