//! Caps: a domain that has one gets so many per cent of one physical CPU and no more, however idle the machine is.
//!
//! A capped domain has a pool of run time that is filled to its part of each [`PERIOD`]. A CPU takes a [`Grant`] out of
//! the pool before it runs one of the domain's vCPUs, comes back for more when that is used up, and gives back what is
//! left when it runs another. So several CPUs cannot spend the same time, and none has to ask while a guest runs. Where
//! the pool has nothing left the vCPU is parked: a bit in its state word, one reason more not to run, which nothing but
//! [`release`] takes away. What a vCPU ran too long is a debt of the pool, what was not used is not kept.
//!
//! - Over any time, the domain runs at most its part of that time and one part of a period more, and what its latest
//!   grants were overdrawn by: the time until a timer's interrupt is served.
//! - A parked vCPU waits for a CPU, as its runstate tells. Wake-ups, pauses and all else change its word as ever; what is
//!   left of them counts when it is released.
//! - While a vCPU is parked its domain's timer is set for the next period; a domain whose vCPUs are not parked has none,
//!   and periods that passed meanwhile are counted when somebody asks. A domain without a cap is one load in the choice
//!   of the next vCPU.
//!
//! Locking: a pool is under its domain's `BUDGET` lock, which is taken with a run queue held. A vCPU is parked under that
//! lock, together with its bit in [`Pool::parked`]; who takes the bit out, under the lock, takes the park back, without.
//! So each park is taken back once, and none is overlooked: it is in the mask that the next [`release`] sees.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, Ordering};

use shared_abi::xen::{DomId, VcpuId};

use super::state::Word;
use crate::domain::Domain;
use crate::hypervisor::{CpuAttention, Hypervisor};
use crate::locks::{Mutex, rank};
use crate::machine::Machine;
use crate::timer;
use crate::vcpu::VcpuRef;

/// A pool is filled once in so many nanoseconds.
pub const PERIOD: u64 = 50_000_000;
/// Run time per period for one per cent, in nanoseconds.
const PER_CENT: i64 = PERIOD.cast_signed() / 100;
/// No less is granted while there is as much, in nanoseconds: bounds how often a CPU comes back for more.
const LEAST_GRANT: i64 = 250_000;
/// Nor less than this part of a full pool.
const GRANTS: i64 = 16;
/// What is not worth a switch, in nanoseconds: a pool with less counts as empty.
const CRUMBS: i64 = 50_000;
/// Debt beyond so many full pools is forgiven: a machine that stood still shall not take its domains with it.
const DEBT_PERIODS: i64 = 10;

/// Run time that a CPU took for what it runs, in nanoseconds; negative when that ran longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant(i64);

impl Grant {
    /// Nothing: to be asked for anew at once.
    pub const NONE: Grant = Grant(0);

    /// What is left after so much run time.
    pub fn after(self, ran_ns: u64) -> Self {
        Self(self.0.saturating_sub_unsigned(ran_ns))
    }

    /// When it is used up by what runs since `start`.
    pub fn end(self, start: u64) -> u64 {
        start.saturating_add(self.0.max(0).cast_unsigned())
    }
}

/// The run time of a capped domain that no CPU has taken.
#[derive(Debug)]
struct Pool {
    /// In nanoseconds; negative: a debt.
    left: i64,
    /// When the next period begins.
    renews_at: u64,
    /// The vCPUs that are parked, a bit each.
    parked: u64,
    /// The one to be released first: the one after the latest that got a grant. Where a pool is not enough for all, they
    /// have it in turns.
    next: u32,
}

/// A pool at the beginning of a period without debt.
fn full(percent: u16) -> i64 {
    i64::from(percent) * PER_CENT
}

/// No less is granted while there is as much.
fn least_grant(percent: u16) -> i64 {
    (full(percent) / GRANTS).max(LEAST_GRANT)
}

impl Pool {
    const EMPTY: Pool = Pool { left: 0, renews_at: 0, parked: 0, next: 0 };

    /// Brings it up to `now`: each period that has begun adds a full pool, and no more than one is kept.
    fn renew(&mut self, percent: u16, now: u64) {
        let Some(late) = now.checked_sub(self.renews_at) else { return };
        let periods = late / PERIOD + 1;
        let added = full(percent).saturating_mul(i64::try_from(periods).unwrap_or(i64::MAX));
        self.left = self.left.saturating_add(added).min(full(percent));
        self.renews_at += periods * PERIOD;
    }

    /// Takes a grant for one of `vcpus` vCPUs: its part of what there is, within limits. None when there is nothing.
    fn take(&mut self, percent: u16, vcpus: usize, now: u64) -> Option<Grant> {
        self.renew(percent, now);
        if self.left < CRUMBS {
            return None;
        }
        let part = self.left / i64::try_from(vcpus).unwrap_or(i64::MAX).max(1);
        let grant = part.max(least_grant(percent)).min(self.left).min(PERIOD.cast_signed());
        self.left -= grant;
        Some(Grant(grant))
    }

    /// Takes a grant back, or the debt it has become.
    fn give_back(&mut self, percent: u16, grant: Grant) {
        self.left = self.left.saturating_add(grant.0).max(-DEBT_PERIODS * full(percent));
    }

    /// The vCPUs to release: all, if one of them would get something.
    fn released(&mut self, percent: u16, now: u64) -> Released {
        self.renew(percent, now);
        let free = percent == 0 || self.left >= least_grant(percent).min(full(percent));
        Released { vcpus: if free { core::mem::take(&mut self.parked) } else { 0 }, next: self.next }
    }
}

/// vCPUs that are parked no longer, a bit each, in turns from one on.
struct Released {
    vcpus: u64,
    next: u32,
}

impl Iterator for Released {
    type Item = VcpuId;

    fn next(&mut self) -> Option<VcpuId> {
        if self.vcpus == 0 {
            return None;
        }
        let ahead = self.vcpus.rotate_right(self.next).trailing_zeros();
        let id = (self.next + ahead) % u64::BITS;
        self.vcpus &= !(1 << id);
        Some(VcpuId(id))
    }
}

/// A domain's cap.
#[derive(Debug)]
pub struct Cap {
    /// Per cent of one CPU; 0: no cap.
    percent: AtomicU16,
    pool: Mutex<Pool, { rank::BUDGET }>,
}

impl Cap {
    /// A cap of so many per cent of one CPU; 0: none.
    pub const fn new(percent: u16) -> Self {
        Self { percent: AtomicU16::new(percent), pool: Mutex::new(Pool::EMPTY) }
    }

    /// Per cent of one CPU; 0: no cap.
    pub fn percent(&self) -> u16 {
        self.percent.load(Ordering::Relaxed)
    }
}

/// Whether a vCPU may be run for a while.
pub(super) enum Funding {
    /// As long as one likes: there is no cap.
    Uncapped,
    /// So long.
    Granted(Grant),
    /// Not now: it has been parked.
    Parked,
}

/// Domains that are to be given to [`release`] once no lock is held, a bit each by id.
#[derive(Clone, Copy, Default)]
pub(super) struct Touched(u128);

impl Touched {
    fn add(&mut self, id: DomId) {
        self.0 |= 1u128.checked_shl(u32::from(id.0)).unwrap_or(0);
    }

    /// [`release`] for each.
    pub fn release<M: Machine>(mut self, hv: &Hypervisor<M>, now: u64) {
        while self.0 != 0 {
            let id = DomId(self.0.trailing_zeros() as u16);
            self.0 &= self.0 - 1;
            // One that is not in the table any more is dying: its vCPUs never run again.
            if let Some(domain) = hv.find_domain(id) {
                release(hv, &domain, now);
            }
        }
    }
}

/// Takes run time for `vcpu` out of its domain's pool, or parks it.
#[inline]
pub(super) fn fund<M: Machine>(vcpu: &VcpuRef<M>, now: u64, touched: &mut Touched) -> Funding {
    if vcpu.domain().sched.cap.percent() == 0 { Funding::Uncapped } else { fund_capped(vcpu, now, touched) }
}

#[inline(never)]
fn fund_capped<M: Machine>(vcpu: &VcpuRef<M>, now: u64, touched: &mut Touched) -> Funding {
    let domain = vcpu.domain();
    let cap = &domain.sched.cap;
    let mut pool = cap.pool.lock();
    let percent = cap.percent();
    if percent == 0 {
        return Funding::Uncapped;
    }
    match pool.take(percent, domain.vcpus.len(), now) {
        Some(grant) => {
            pool.next = (vcpu.id.0 + 1) % u64::BITS;
            Funding::Granted(grant)
        }
        None => {
            pool.parked |= 1 << (vcpu.id.0 % u64::BITS);
            vcpu.sched.word.update(Word::park);
            touched.add(domain.id);
            Funding::Parked
        }
    }
}

/// Gives back what is left of a grant for `vcpu`.
pub(super) fn give_back<M: Machine>(vcpu: &VcpuRef<M>, grant: Grant, touched: &mut Touched) {
    let domain = vcpu.domain();
    let cap = &domain.sched.cap;
    cap.pool.lock().give_back(cap.percent(), grant);
    touched.add(domain.id);
}

/// Lets the parked vCPUs of a domain go on if there is run time again, or sets the timer for when there will be. Called
/// with no lock of the scheduler's held.
pub(crate) fn release<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, now: u64) {
    let cap = &domain.sched.cap;
    let (freed, renews_at) = {
        let mut pool = cap.pool.lock();
        if pool.parked == 0 {
            return;
        }
        (pool.released(cap.percent(), now), pool.renews_at)
    };
    if freed.vcpus == 0
        && let Some(first) = VcpuRef::new(domain, VcpuId(0))
    {
        timer::set(hv, &first, timer::Kind::Budget, Some(renews_at));
    }
    for id in freed {
        if let Some(vcpu) = VcpuRef::new(domain, id) {
            hv.step(&vcpu, Word::unpark);
        }
    }
}

/// Changes a domain's cap; 0: none. A lower one counts at once, for what CPUs have taken already from their next choice
/// on.
pub fn set_cap<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain<M>>, percent: u16) {
    let cap = &domain.sched.cap;
    {
        let mut pool = cap.pool.lock();
        let before = cap.percent.swap(percent, Ordering::Relaxed);
        if before == 0 {
            pool.left = 0;
            pool.renews_at = 0;
        } else {
            pool.left = pool.left.min(full(percent));
        }
    }
    release(hv, domain, hv.machine.now());
    // Whoever has looked at the old value has withdrawn this before, and looks again.
    for cpu in &hv.cpus {
        hv.poke(cpu, CpuAttention::RESCHEDULE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pool_holds_one_period() {
        let mut pool = Pool::EMPTY;
        pool.renew(40, 7 * PERIOD + 3);
        assert_eq!((pool.left, pool.renews_at), (20_000_000, 8 * PERIOD));
        pool.renew(40, 8 * PERIOD - 1);
        assert_eq!((pool.left, pool.renews_at), (20_000_000, 8 * PERIOD), "the period goes on");
        pool.left = -30_000_000;
        pool.renew(40, 8 * PERIOD);
        assert_eq!(pool.left, -10_000_000, "a debt is paid first");
        assert_eq!(pool.take(40, 1, 8 * PERIOD), None);
    }

    #[test]
    fn grants_are_parts_of_what_there_is() {
        let mut pool = Pool::EMPTY;
        assert_eq!(pool.take(40, 4, 0), Some(Grant(5_000_000)));
        assert_eq!(pool.take(40, 4, 0), Some(Grant(3_750_000)));
        assert_eq!(pool.take(40, 64, 0), Some(Grant(1_250_000)), "a sixteenth of a full pool at least");
        pool.left = 60_000;
        assert_eq!(pool.take(40, 4, 0), Some(Grant(60_000)), "the rest");
        pool.left = CRUMBS - 1;
        assert_eq!(pool.take(40, 4, 0), None);
        // Never for longer than a period, so that a change of the cap is noticed.
        let mut pool = Pool::EMPTY;
        assert_eq!(pool.take(6400, 1, 0), Some(Grant(PERIOD as i64)));
    }

    #[test]
    fn whoever_had_a_grant_comes_last() {
        let order = |vcpus, next| Released { vcpus, next }.map(|id| id.0).collect::<std::vec::Vec<_>>();
        assert_eq!(order(0b1011, 0), [0, 1, 3]);
        assert_eq!(order(0b1011, 1), [1, 3, 0]);
        assert_eq!(order(1 << 63 | 1 << 5, 6), [63, 5]);
        assert_eq!(order(0, 9), []);
    }

    #[test]
    fn old_debts_are_forgiven() {
        let mut pool = Pool::EMPTY;
        pool.give_back(10, Grant(i64::MIN));
        assert_eq!(pool.left, -DEBT_PERIODS * full(10));
    }

    proptest! {
        /// Whoever takes and uses what, and gives back when: it is never more than the cap allows.
        #[test]
        fn no_more_is_granted_than_there_is(
            percent in 1u16..800,
            vcpus in 1usize..=64,
            steps in proptest::collection::vec((0u64..20_000_000, 0i64..=100), 1..400),
        ) {
            let (mut pool, mut now, mut used) = (Pool::EMPTY, 0, 0);
            for (passed, part) in steps {
                now += passed;
                if let Some(Grant(grant)) = pool.take(percent, vcpus, now) {
                    prop_assert!(grant > 0 && grant <= PERIOD as i64);
                    let uses = grant * part / 100;
                    used += uses;
                    pool.give_back(percent, Grant(grant - uses));
                }
                prop_assert!(pool.left <= full(percent) && pool.renews_at > now);
                let periods = (now / PERIOD + 1) as i64;
                prop_assert!(used <= periods * full(percent), "{used} in {now}");
            }
        }
    }
}
