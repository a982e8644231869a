//! A virtual CPU: the parts other modules keep of it, what it must look at before its next entry, and how it starts.
//!
//! A vCPU lives inside its domain; [`VcpuRef`] names one from anywhere and keeps its domain alive. Everything here may
//! be touched from any CPU (atomics and small locks); only [`Vcpu::arch`] belongs to the CPU that runs the vCPU.

use alloc::sync::Arc;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bitflags::bitflags;
pub use shared_abi::trace_stream::ExitReason;
use shared_abi::xen::VcpuId;

use crate::clock::VcpuClock;
use crate::domain::Domain;
use crate::evtchn::VcpuEvents;
use crate::guest_memory::WalkCache;
use crate::lapic::Lapic;
use crate::locks::{Mutex, rank};
use crate::machine::Machine;
use crate::runstate::Runstate;
use crate::sched::VcpuSched;
use crate::timer::VcpuTimers;

bitflags! {
    /// Reasons for a vCPU to do more than enter the guest.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Attention: u32 {
        /// The local APIC may have an interrupt to deliver.
        const LAPIC = 1 << 0;
        /// A non-maskable interrupt waits.
        const NMI = 1 << 1;
        /// [`Vcpu::start`] holds a state to begin from.
        const START = 1 << 2;
        /// One of the vCPU's timers has expired and its effect is still to be applied.
        const TIMER = 1 << 3;
    }
}

/// Exits of a vCPU by reason, counted by the CPU that runs it (so a load and a store are enough).
#[derive(Debug)]
pub struct Counters {
    exits: [AtomicU64; ExitReason::COUNT],
}

impl Counters {
    const fn new() -> Self {
        Self { exits: [const { AtomicU64::new(0) }; ExitReason::COUNT] }
    }

    /// Counts an exit.
    #[inline]
    pub fn count_exit(&self, reason: ExitReason) {
        let counter = &self.exits[reason as usize];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Exits for `reason` so far (a continued hypercall counts each time).
    pub fn exits_for(&self, reason: ExitReason) -> u64 {
        self.exits[reason as usize].load(Ordering::Relaxed)
    }

    /// All exits so far.
    pub fn exits(&self) -> u64 {
        self.exits.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Hypercalls so far.
    pub fn hypercalls(&self) -> u64 {
        self.exits_for(ExitReason::Hypercall)
    }
}

/// A virtual CPU.
pub struct Vcpu<M: Machine> {
    /// Its number inside the domain.
    pub id: VcpuId,
    attention: AtomicU32,
    /// The translation generation of its domain at its last flush.
    seen_generation: AtomicU64,
    /// What it did.
    pub counters: Counters,
    /// Event delivery: where its `vcpu_info` is, its upcall vector.
    pub events: VcpuEvents,
    /// Scheduling: state, CPU, weight account, affinity.
    pub sched: VcpuSched,
    /// Where its time went.
    pub runstate: Runstate,
    /// Its single-shot, periodic, poll and APIC timers.
    pub timers: VcpuTimers,
    /// Its PV clock pages.
    pub clock: VcpuClock,
    /// Its local APIC.
    pub lapic: Mutex<Lapic, { rank::LAPIC }>,
    /// The state to begin from at its next entry, with [`Attention::START`].
    pub start: Mutex<Option<StartState>, { rank::VCPU }>,
    /// Its latest walks through its page tables, for arguments of hypercalls.
    pub walks: WalkCache,
    /// The machine's part. Only the CPU that runs the vCPU may change it.
    pub arch: M::VcpuState,
}

impl<M: Machine> Vcpu<M> {
    /// A vCPU that is down and has never run.
    pub fn new(id: VcpuId, apic_id: u32, arch: M::VcpuState) -> Self {
        Self {
            id,
            attention: AtomicU32::new(0),
            seen_generation: AtomicU64::new(0),
            counters: Counters::new(),
            events: VcpuEvents::new(),
            sched: VcpuSched::new(),
            runstate: Runstate::new(),
            timers: VcpuTimers::new(),
            clock: VcpuClock::new(),
            lapic: Mutex::new(Lapic::new(apic_id)),
            start: Mutex::new(None),
            walks: WalkCache::new(),
            arch,
        }
    }

    /// Whether the vCPU's cached translations are older than `generation`, its domain's now. Asked once before each
    /// entry, after `enter_guest`, by the CPU that runs it; the machine drops them when the answer is yes (and by itself
    /// when the vCPU comes to another CPU).
    #[inline]
    pub fn translations_are_stale(&self, generation: u64) -> bool {
        if self.seen_generation.load(Ordering::Relaxed) == generation {
            return false;
        }
        self.seen_generation.store(generation, Ordering::Relaxed);
        true
    }

    /// Notes reasons to look before the next entry. The caller kicks the CPU when the vCPU may be running.
    pub fn raise(&self, reasons: Attention) {
        self.attention.fetch_or(reasons.bits(), Ordering::SeqCst);
    }

    /// Withdraws reasons that have been dealt with.
    pub fn withdraw(&self, reasons: Attention) {
        self.attention.fetch_and(!reasons.bits(), Ordering::SeqCst);
    }

    /// The reasons noted now.
    pub fn attention(&self) -> Attention {
        Attention::from_bits_retain(self.attention.load(Ordering::SeqCst))
    }
}

/// A vCPU by its domain and number. Holding one keeps the domain's structures (not its life) alive.
pub struct VcpuRef<M: Machine> {
    domain: Arc<Domain<M>>,
    id: VcpuId,
}

impl<M: Machine> VcpuRef<M> {
    /// Names vCPU `id` of `domain`, if there is one.
    pub fn new(domain: &Arc<Domain<M>>, id: VcpuId) -> Option<Self> {
        ((id.0 as usize) < domain.vcpus.len()).then(|| Self { domain: domain.clone(), id })
    }

    /// Its domain.
    pub fn domain(&self) -> &Arc<Domain<M>> {
        &self.domain
    }
}

impl<M: Machine> Clone for VcpuRef<M> {
    fn clone(&self) -> Self {
        Self { domain: self.domain.clone(), id: self.id }
    }
}

impl<M: Machine> PartialEq for VcpuRef<M> {
    fn eq(&self, other: &Self) -> bool {
        self.domain.id == other.domain.id && self.id == other.id
    }
}

impl<M: Machine> Deref for VcpuRef<M> {
    type Target = Vcpu<M>;
    fn deref(&self) -> &Vcpu<M> {
        &self.domain.vcpus[self.id.0 as usize]
    }
}

/// One segment register to start from, with the attributes in the packed form of the VMCB
/// (type, S, DPL, P in bits 0–7; AVL, L, D/B, G in bits 8–11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// The architectural state a vCPU begins from: everything not named here has its reset value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartState {
    /// rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi in the order of their numbers.
    pub general: [u64; 8],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Control registers.
    pub cr0: u64,
    /// Page-table base.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enable (the guest's view: without SVME).
    pub efer: u64,
    /// Code segment.
    pub cs: Segment,
    /// Data segments.
    pub ds: Segment,
    /// Extra segment.
    pub es: Segment,
    /// Stack segment.
    pub ss: Segment,
    /// fs, gs start like es.
    /// Task register.
    pub tr: Segment,
}

impl StartState {
    /// What a start-up IPI with `vector` starts: real mode at `vector << 12`.
    pub fn real_mode(vector: u8) -> Self {
        let data = Segment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
        Self {
            general: [0; 8],
            rip: 0,
            rflags: 2,
            cr0: 0x6000_0010,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cs: Segment {
                selector: u16::from(vector) << 8,
                attributes: 0x9b,
                limit: 0xffff,
                base: u64::from(vector) << 12,
            },
            ds: data,
            es: data,
            ss: data,
            tr: Segment { selector: 0, attributes: 0x8b, limit: 0xffff, base: 0 },
        }
    }

    /// What the PVH entry starts from: flat 32-bit protected mode without paging, `ebx` at the start info.
    pub fn pvh(entry: u32, start_info: u32) -> Self {
        let data = Segment { selector: 0, attributes: 0xc93, limit: 0xffff_ffff, base: 0 };
        let mut general = [0; 8];
        general[3] = u64::from(start_info);
        Self {
            general,
            rip: u64::from(entry),
            rflags: 2,
            cr0: 0x11,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cs: Segment { selector: 0, attributes: 0xc9b, limit: 0xffff_ffff, base: 0 },
            ds: data,
            es: data,
            ss: data,
            tr: Segment { selector: 0, attributes: 0x8b, limit: 0x67, base: 0 },
        }
    }
}

/// Whether the guest could take an event right now, as the machine sees it before an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruptibility {
    /// RFLAGS.IF is set and no interrupt shadow is in force.
    pub interrupts: bool,
    /// No NMI handler runs and no shadow blocks NMIs.
    pub nmi: bool,
    /// An event (a re-injected one, or an exception of ours) already waits to be injected at this entry.
    pub occupied: bool,
}

/// An event to inject at an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// An external interrupt with this vector.
    External(u8),
    /// A non-maskable interrupt.
    Nmi,
}

/// What the machine must do for an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryPlan {
    /// The event to inject.
    pub inject: Option<Injection>,
    /// Ask for an exit as soon as the guest can take an interrupt.
    pub interrupt_window: bool,
    /// Ask for an exit as soon as the guest can take an NMI.
    pub nmi_window: bool,
    /// Drop this vCPU's translations on this CPU first.
    pub flush_tlb: bool,
    /// Begin from this state.
    pub start: Option<StartState>,
}
