//! The hypervisor as one value: the machine, the frame heap, the domains, the CPUs.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bitflags::bitflags;
use shared_abi::xen::{DomId, Errno};

use crate::build::construction::Construction;
use crate::domain::Domain;
use crate::heap::{FrameHeap, HeapConfig};
use crate::locks::{Mutex, rank};
use crate::machine::{CpuId, Machine};
use crate::sched::{CpuSched, SchedConfig};
use crate::timer::CpuTimers;
use crate::tmem;
use crate::trace_buffers::TraceBuffers;

/// Most domains alive at once (and the range of ids in use).
pub const MAX_DOMAINS: usize = u128::BITS as usize;

bitflags! {
    /// Reasons for a CPU to do more than go back into the guest.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CpuAttention: u32 {
        /// The scheduler must choose again.
        const RESCHEDULE = 1 << 0;
        /// The CPU's timer has expired.
        const TIMER = 1 << 1;
        /// Another CPU kicked this one; the reason is in shared state.
        const KICK = 1 << 2;
        /// Something was typed on the console.
        const TYPED = 1 << 3;
        /// This CPU's trace buffer is half full.
        const TRACE = 1 << 4;
    }
}

/// What the hypervisor keeps for each physical CPU.
pub struct PerCpu<M: Machine> {
    /// Its number.
    pub id: CpuId,
    attention: AtomicU32,
    /// Bits 0–16: whose guest code runs here now, the domain's id plus one, or 0 in the hypervisor. Above: a count of
    /// exits, so that one stay in the guest can be told from the next.
    in_guest: AtomicU64,
    /// Its run queue and what runs now.
    pub sched: CpuSched<M>,
    /// Its timers.
    pub timers: CpuTimers<M>,
    /// Buffers for transcendent memory.
    pub tmem_buffers: tmem::Buffers,
}

impl<M: Machine> PerCpu<M> {
    fn new(id: CpuId) -> Self {
        Self {
            id,
            attention: AtomicU32::new(0),
            in_guest: AtomicU64::new(0),
            sched: CpuSched::new(id),
            timers: CpuTimers::new(),
            tmem_buffers: tmem::Buffers::default(),
        }
    }

    /// Notes reasons for this CPU to look up from what it does.
    pub fn raise(&self, reasons: CpuAttention) {
        self.attention.fetch_or(reasons.bits(), Ordering::SeqCst);
    }

    /// The reasons noted now.
    pub fn attention(&self) -> CpuAttention {
        CpuAttention::from_bits_retain(self.attention.load(Ordering::SeqCst))
    }

    /// Withdraws reasons that have been dealt with.
    pub fn withdraw(&self, reasons: CpuAttention) {
        self.attention.fetch_and(!reasons.bits(), Ordering::SeqCst);
    }

    /// Says that guest code of `domain` is about to run here. What the caller checks afterwards (attention,
    /// translation generations) cannot be missed: whoever changes it looks at this word after its change.
    pub fn enter_guest(&self, domain: DomId) {
        // Only this CPU writes the word.
        let exits = self.in_guest.load(Ordering::Relaxed);
        self.in_guest.store(exits | (u64::from(domain.0) + 1), Ordering::SeqCst);
    }

    /// Says that no guest code runs here. The first thing after an exit.
    pub fn leave_guest(&self) {
        let stay = self.in_guest.load(Ordering::Relaxed);
        self.in_guest.store((stay | IN_GUEST_MASK).wrapping_add(1), Ordering::Release);
    }

    /// Whether guest code of `domain` may be running here.
    pub fn runs_guest_of(&self, domain: DomId) -> bool {
        self.stay_of(domain).is_some()
    }

    /// Names the stay in guest code of `domain` that may be going on here, if there is one: the value changes when
    /// the CPU has left the guest, even if it has entered again.
    pub fn stay_of(&self, domain: DomId) -> Option<u64> {
        let stay = self.in_guest.load(Ordering::SeqCst);
        (stay & IN_GUEST_MASK == u64::from(domain.0) + 1).then_some(stay)
    }
}

/// The part of `PerCpu::in_guest` that names the domain.
const IN_GUEST_MASK: u64 = (1 << 17) - 1;

/// Everything that is chosen once, at boot.
pub struct Config {
    /// The heap's frames.
    pub heap: HeapConfig,
    /// The scheduler's parameters.
    pub sched: SchedConfig,
    /// The hypervisor's command line, for `xen_version`.
    pub command_line: alloc::string::String,
    /// Period of memory and domain samples in the trace stream, in nanoseconds; 0: none.
    pub sample_period: u64,
}

/// A place in the table of domains.
type Slot<M> = spin::RwLock<Option<Arc<Domain<M>>>>;

/// The hypervisor.
pub struct Hypervisor<M: Machine> {
    /// The machine below.
    pub machine: M,
    /// All frames.
    pub heap: FrameHeap,
    /// Transcendent memory.
    pub tmem: ebb_tmem::Store,
    /// Per-CPU state, by [`CpuId`].
    pub cpus: Box<[PerCpu<M>]>,
    /// Xen's trace buffers.
    pub trace_buffers: TraceBuffers,
    /// What was chosen at boot.
    pub sched_config: SchedConfig,
    /// The hypervisor's command line.
    pub command_line: alloc::string::String,
    /// Period of samples in nanoseconds.
    pub sample_period: u64,
    domains: Box<[Slot<M>]>,
    /// Taken to create or remove a domain.
    pub domain_table: Mutex<DomainTable, { rank::DOMAIN_TABLE }>,
    /// Domains that have ended and are still to be taken apart.
    pub(crate) endings: AtomicU32,
    /// Domains of the boot configuration are all built: from now on "none is left" means the end.
    pub(crate) opened: AtomicBool,
    /// Domains that are being built anew, between two steps.
    pub(crate) constructions: Mutex<VecDeque<Box<Construction<M>>>, { rank::LIFECYCLE }>,
    /// Domains that ended by a crash, ever.
    pub(crate) crashed: AtomicU32,
}

/// What must be known to create a domain.
#[derive(Debug, Default)]
pub struct DomainTable {
    /// The next id to try: ids are not reused before they must be, so a stale id finds nothing.
    pub next_id: u16,
    /// Domains alive.
    pub alive: usize,
    /// Ids in use, a bit each: of domains alive, under construction or coming apart.
    pub taken: u128,
}

impl<M: Machine> Hypervisor<M> {
    /// The hypervisor over `machine`, with no domain.
    pub fn new(machine: M, config: Config) -> Self {
        let cpus = (0..machine.cpu_count()).map(|index| PerCpu::new(CpuId(index as u16))).collect();
        let tmem = tmem::new_store(&machine);
        Self {
            machine,
            tmem,
            heap: FrameHeap::new(config.heap),
            cpus,
            trace_buffers: TraceBuffers::default(),
            sched_config: config.sched.checked(),
            command_line: config.command_line,
            sample_period: config.sample_period,
            domains: (0..MAX_DOMAINS).map(|_| spin::RwLock::new(None)).collect(),
            domain_table: Mutex::new(DomainTable::default()),
            endings: AtomicU32::new(0),
            opened: AtomicBool::new(false),
            constructions: Mutex::new(VecDeque::new()),
            crashed: AtomicU32::new(0),
        }
    }

    /// The CPU this runs on.
    pub fn cpu(&self) -> &PerCpu<M> {
        &self.cpus[self.machine.this_cpu().index()]
    }

    /// The domain with this id, if it is in the table.
    pub fn find_domain(&self, id: DomId) -> Option<Arc<Domain<M>>> {
        self.domains.get(usize::from(id.0))?.read().clone()
    }

    /// Puts a domain into the table at its id, or takes the one there out.
    pub fn set_domain(&self, id: DomId, domain: Option<Arc<Domain<M>>>) -> Option<Arc<Domain<M>>> {
        core::mem::replace(&mut *self.domains[usize::from(id.0)].write(), domain)
    }

    /// [`Hypervisor::each_domain`], without those whose slot is locked at this instant: for reports.
    pub(crate) fn each_domain_now(&self) -> impl Iterator<Item = Arc<Domain<M>>> + '_ {
        self.domains.iter().filter_map(|slot| slot.try_read()?.clone())
    }

    /// All domains in the table now, in order of id.
    pub fn each_domain(&self) -> impl Iterator<Item = Arc<Domain<M>>> + '_ {
        self.domains.iter().filter_map(|slot| slot.read().clone())
    }

    /// The domain a hypercall of `caller` is about: itself, or any other if the caller is privileged.
    ///
    /// # Errors
    /// `ESRCH` when there is no such domain, `EPERM` when the caller may not govern it.
    pub fn target_domain(&self, caller: &Arc<Domain<M>>, id: DomId) -> Result<Arc<Domain<M>>, Errno> {
        if id == DomId::SELF || id == caller.id {
            return Ok(caller.clone());
        }
        let target = self.find_domain(id).ok_or(Errno::ESRCH)?;
        if caller.is_privileged() { Ok(target) } else { Err(Errno::EPERM) }
    }
}
