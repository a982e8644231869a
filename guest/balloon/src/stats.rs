//! What the balloon says of itself.

use shared_abi::xen::Errno;

/// Why current is not at target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shortage {
    /// It is, or the last attempt got all it asked for and more steps are to come.
    #[default]
    None,
    /// The hypervisor backed fewer pages than asked, though the domain is below its maximum.
    HostShort,
    /// The domain has as many pages as its maximum allows.
    AtMaximum,
    /// The guest has no free pages to give away.
    NoFreeGuestMemory,
    /// The hypervisor refused, with this error; `None`: it did less than asked where nothing could run short.
    Refused(Option<Errno>),
}

impl Shortage {
    /// The number used in traces: 0 none, 1 host short, 2 at maximum, 3 no free guest memory, 4 refused.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::None => 0,
            Self::HostShort => 1,
            Self::AtMaximum => 2,
            Self::NoFreeGuestMemory => 3,
            Self::Refused(_) => 4,
        }
    }
}

/// A balloon's figures at one instant. Memory is in pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pages the guest has: `total - low - high`.
    pub current: u64,
    /// Pages the guest is to have; between `floor` and `total`.
    pub target: u64,
    /// Ballooned pages below [`Tuning::high_start`](crate::Tuning::high_start). In a flat kernel: all of them.
    pub low: u64,
    /// Ballooned pages at or above it.
    pub high: u64,
    /// The static maximum: all RAM of the guest's address space, backed or not.
    pub total: u64,
    /// The least target that is accepted.
    pub floor: u64,

    /// Pages between current and target, either way.
    pub shortfall: u64,
    /// Why, as of the last attempt.
    pub shortage: Shortage,
    /// Attempts that fell short since the target was last set or met.
    pub retries: u32,
    /// Attempts that fell short, ever.
    pub retries_total: u64,
    /// The current or last wait between attempts in ns; 0 after progress.
    pub delay_ns: u64,

    /// Pages given to the hypervisor, ever, in extents of any size.
    pub pages_given: u64,
    /// Pages got from it, ever, in extents of any size; exchanges are not counted.
    pub pages_got: u64,
    /// 2 MiB extents given whole, ever.
    pub superpages_given: u64,
    /// 2 MiB extents got whole, ever.
    pub superpages_got: u64,

    /// Regions that came (back) as one 2 MiB extent and were one when they left, or never were here, ever.
    pub superpages_kept: u64,
    /// Regions that were scattered 4 KiB frames and became one 2 MiB extent, by exchange or by leaving and coming
    /// back whole, ever.
    pub superpages_won: u64,
    /// Regions that were (believed to be) one 2 MiB extent and were broken into 4 KiB pages, ever.
    pub superpages_lost: u64,
    /// Regions wholly in the balloon now: the next to come back as 2 MiB extents.
    pub regions_absent: u64,
    /// Regions wholly with the guest but in scattered 4 KiB frames now: what [`heal`](crate::Balloon::heal) works on.
    pub regions_scattered: u64,
    /// Whether the hypervisor said that it does not exchange.
    pub exchange_unsupported: bool,

    /// Extents from the page source that were not its to give (not RAM, misaligned, in the balloon already), ever.
    /// Anything but 0 is a bug of the guest.
    pub rejected: u64,
}
