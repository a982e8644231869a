//! A hypervisor with frames of its own, that runs short and misbehaves to order.

use ebb_balloon::{Host, Outcome, PAGES_PER_SUPERPAGE};
use shared_abi::xen::{Errno, Gfn};

use super::Random;

const REGION: u64 = PAGES_PER_SUPERPAGE;

/// How the machine misbehaves. Percentages of calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A call stops somewhere for no reason.
    pub partial: u8,
    /// A call is refused with an errno before it did anything.
    pub refuse: u8,
    /// No 2 MiB extents are backed or taken.
    pub no_superpages: bool,
    /// A call that did some work reports an errno beside the count.
    pub errno_beside_count: u8,
    /// An exchange does only some of its pages.
    pub tear_exchange: u8,
    /// Exchange answers -EOPNOTSUPP, as Xen does for a PVH domain.
    pub no_exchange: bool,
}

#[derive(Clone, Debug)]
pub struct Domain {
    /// gfn to mfn.
    pub p2m: Vec<Option<u64>>,
    /// Pages mapped.
    pub current: u64,
    pub maximum: u64,
}

/// What was called, for tests that count: name, order, extents asked, extents done.
pub type Call = (&'static str, u32, usize, usize);

pub struct Machine {
    owner: Vec<Option<usize>>,
    /// Free frames of each 2 MiB block.
    free: Vec<u64>,
    pub domains: Vec<Domain>,
    pub faults: Faults,
    pub calls: Vec<Call>,
    random: Random,
}

impl Machine {
    /// `regions` 2 MiB blocks of free memory.
    pub fn new(regions: u64, seed: u64) -> Self {
        Self {
            owner: vec![None; (regions * REGION) as usize],
            free: vec![REGION; regions as usize],
            domains: Vec::new(),
            faults: Faults::default(),
            calls: Vec::new(),
            random: Random::new(seed),
        }
    }

    pub fn free_frames(&self) -> u64 {
        self.free.iter().sum()
    }

    /// Whether there is a 2 MiB extent to give.
    pub fn has_superpage(&self) -> bool {
        self.find(9).is_some()
    }

    /// A domain with `backed` of `total` regions of memory, in 2 MiB extents; answers its number.
    pub fn add_domain(&mut self, backed: u64, total: u64) -> usize {
        let domain = self.domains.len();
        let pages = total * REGION;
        self.domains.push(Domain { p2m: vec![None; pages as usize], current: 0, maximum: pages });
        for region in 0..backed {
            assert!(self.back(domain, region * REGION, 9), "the machine is too small for the test");
        }
        domain
    }

    pub fn host(&mut self, domain: usize) -> DomainHost<'_> {
        DomainHost { machine: self, domain }
    }

    /// Each frame is free or mapped once, by its owner.
    pub fn check_ledger(&self) {
        let mut mapped = vec![None; self.owner.len()];
        for (number, domain) in self.domains.iter().enumerate() {
            for (gfn, mfn) in domain.p2m.iter().enumerate().filter_map(|(gfn, mfn)| Some((gfn, (*mfn)?))) {
                let before = mapped[mfn as usize].replace(number);
                assert_eq!(before, None, "frame {mfn:#x} is mapped twice, last by {number} at {gfn:#x}");
            }
            assert_eq!(domain.current, domain.p2m.iter().flatten().count() as u64);
        }
        assert!(mapped == self.owner, "owners and mappings differ");
        for (block, &free) in self.owner.chunks(REGION as usize).zip(&self.free) {
            assert_eq!(block.iter().filter(|owner| owner.is_none()).count() as u64, free, "the ledger does not add up");
        }
    }

    /// A free extent; single pages from a broken block before a whole one.
    fn find(&self, order: u32) -> Option<u64> {
        let block = |wanted: fn(u64) -> bool| self.free.iter().position(|&free| wanted(free));
        let whole = block(|free| free == REGION);
        if order == 9 {
            return whole.map(|block| block as u64 * REGION);
        }
        let block = block(|free| (1..REGION).contains(&free)).or(whole)? as u64;
        (block * REGION..).find(|&mfn| self.owner[mfn as usize].is_none())
    }

    fn back(&mut self, domain: usize, gfn: u64, order: u32) -> bool {
        let pages = 1 << order;
        if self.domains[domain].current + pages > self.domains[domain].maximum {
            return false;
        }
        let Some(mfn) = self.find(order) else {
            return false;
        };
        for page in 0..pages {
            self.owner[(mfn + page) as usize] = Some(domain);
            let before = self.domains[domain].p2m[(gfn + page) as usize].replace(mfn + page);
            assert_eq!(before, None, "populate over a page that the guest has: {:#x}", gfn + page);
        }
        self.free[(mfn / REGION) as usize] -= pages;
        self.domains[domain].current += pages;
        true
    }

    fn unback(&mut self, domain: usize, gfn: u64, order: u32) -> bool {
        let run = gfn as usize..(gfn + (1 << order)) as usize;
        if self.domains[domain].p2m[run.clone()].contains(&None) {
            return false;
        }
        for gfn in run {
            if let Some(mfn) = self.domains[domain].p2m[gfn].take() {
                self.owner[mfn as usize] = None;
                self.free[(mfn / REGION) as usize] += 1;
            }
        }
        self.domains[domain].current -= 1 << order;
        true
    }

    /// Works through a list with the faults of the day.
    fn work(
        &mut self,
        name: &'static str,
        extents: &[Gfn],
        order: u32,
        one: impl Fn(&mut Self, u64) -> bool,
    ) -> Outcome {
        assert!(!extents.is_empty(), "an empty {name}");
        assert!(extents.len() <= 512, "too long a {name}");
        let faults = self.faults;
        if self.random.percent(faults.refuse) {
            let errnos = [Errno::EINVAL, Errno::EPERM, Errno::ENOMEM, Errno::EFAULT, Errno::EBUSY];
            self.calls.push((name, order, extents.len(), 0));
            return Outcome::refused(errnos[self.random.below(errnos.len() as u64) as usize]);
        }
        let mut most = extents.len();
        if self.random.percent(faults.partial) {
            most = self.random.below(most as u64 + 1) as usize;
        }
        if faults.no_superpages && order > 0 {
            most = 0;
        }
        let mut done = 0;
        for gfn in &extents[..most] {
            assert!(gfn.is_aligned(order), "{name} of a misaligned extent");
            if !one(self, gfn.0) {
                break;
            }
            done += 1;
        }
        self.calls.push((name, order, extents.len(), done));
        let beside = done < extents.len() && self.random.percent(faults.errno_beside_count);
        Outcome { done, refused: beside.then_some(Errno::EBUSY) }
    }
}

/// One domain's hypercalls.
pub struct DomainHost<'a> {
    machine: &'a mut Machine,
    domain: usize,
}

impl Host for DomainHost<'_> {
    fn decrease_reservation(&mut self, extents: &[Gfn], order: u32) -> Outcome {
        let domain = self.domain;
        self.machine.work("decrease", extents, order, |machine, gfn| machine.unback(domain, gfn, order))
    }

    fn populate_physmap(&mut self, extents: &[Gfn], order: u32) -> Outcome {
        let domain = self.domain;
        self.machine.work("populate", extents, order, |machine, gfn| machine.back(domain, gfn, order))
    }

    fn exchange(&mut self, given: &[Gfn], given_order: u32, wanted: &[Gfn], wanted_order: u32) -> Outcome {
        let (machine, domain) = (&mut *self.machine, self.domain);
        assert_eq!((given.len(), given_order, wanted.len(), wanted_order), (512, 0, 1, 9));
        let faults = machine.faults;
        let (mut done, mut refused) = (0, None);
        if faults.no_exchange {
            refused = Some(Errno::EOPNOTSUPP);
        } else if machine.random.percent(faults.refuse) {
            refused = Some(Errno::EBUSY);
        } else if machine.random.percent(faults.tear_exchange) {
            done = 1 + machine.random.below(511) as usize;
            assert!(given[..done].iter().all(|gfn| machine.unback(domain, gfn.0, 0)));
            refused = Some(Errno::ENOMEM);
        } else if faults.no_superpages || machine.find(9).is_none() {
            refused = Some(Errno::ENOMEM);
        } else {
            // The maximum does not matter: the domain has no more pages afterwards than before.
            let maximum = std::mem::replace(&mut machine.domains[domain].maximum, u64::MAX);
            assert!(given.iter().all(|gfn| machine.unback(domain, gfn.0, 0)), "exchange of pages not there");
            assert!(machine.back(domain, wanted[0].0, 9));
            machine.domains[domain].maximum = maximum;
            done = 512;
        }
        machine.calls.push(("exchange", 9, 512, done));
        Outcome { done, refused }
    }

    fn current_reservation(&mut self) -> Result<u64, Errno> {
        Ok(self.machine.domains[self.domain].current)
    }

    fn maximum_reservation(&mut self) -> Result<u64, Errno> {
        Ok(self.machine.domains[self.domain].maximum)
    }
}
