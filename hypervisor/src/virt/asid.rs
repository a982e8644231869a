//! Address-space identifiers (AMD: ASID, Intel: VPID): one per vCPU on the CPU it runs on, so that translations survive
//! an exit and a switch.
//!
//! Each CPU hands out identifiers in order. When they run out it starts a new generation with a full flush; a vCPU
//! whose identifier is of an old generation, or of another CPU, gets a new one. Identifier 0 is the host's.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::cpu::{CpuId, MAX_CPUS};

struct PerCpu {
    next: AtomicU32,
    generation: AtomicU64,
}

static CPUS: [PerCpu; MAX_CPUS] =
    [const { PerCpu { next: AtomicU32::new(u32::MAX), generation: AtomicU64::new(0) } }; MAX_CPUS];
static COUNT: AtomicU32 = AtomicU32::new(2);

/// An identifier and where it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asid {
    /// The identifier; never 0.
    pub number: u32,
    cpu: usize,
    generation: u64,
}

impl Asid {
    /// An identifier that is valid nowhere.
    pub const NONE: Self = Self { number: 1, cpu: usize::MAX, generation: 0 };

    /// Whether it may still be used on `cpu`.
    pub fn is_valid_on(self, cpu: CpuId) -> bool {
        let index = usize::from(cpu.0);
        self.cpu == index && CPUS[index].generation.load(Ordering::Relaxed) == self.generation
    }
}

/// Says how many identifiers the processor has.
pub fn set_count(count: u32) {
    COUNT.store(count.max(2), Ordering::Relaxed);
}

/// A fresh identifier on this CPU, and whether everything must be flushed with its first use. Only `cpu` itself calls
/// this, so its counters need no ordering.
pub fn allocate(cpu: CpuId) -> (Asid, bool) {
    let index = usize::from(cpu.0);
    let slot = &CPUS[index];
    let next = slot.next.load(Ordering::Relaxed);
    let wrapped = next >= COUNT.load(Ordering::Relaxed);
    let number = if wrapped { 1 } else { next };
    if wrapped {
        slot.generation.fetch_add(1, Ordering::Relaxed);
    }
    slot.next.store(number + 1, Ordering::Relaxed);
    (Asid { number, cpu: index, generation: slot.generation.load(Ordering::Relaxed) }, wrapped)
}
