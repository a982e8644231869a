//! Per-vCPU data, found through the GS base. The index is Xen's vCPU number.
#![allow(unsafe_code)] // The GS base.

use crate::cpu;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// vCPUs the kernel can use.
pub const MAX_CPUS: usize = 16;

const MSR_GS_BASE: u32 = 0xC000_0101;

/// What a vCPU knows of itself. All atomics: tests and the panic report look at other vCPUs' too.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct PerCpu {
    /// The vCPU's number; first, so that it is at `gs:[0]`.
    id: AtomicU32,
    /// The thread that runs, or `thread::IDLE`.
    pub current: AtomicU32,
    /// Runs the kernel (set when the vCPU has set itself up).
    pub online: AtomicBool,
    /// The deadline the vCPU's timer is set to, ns; `u64::MAX` for none.
    pub timer_armed: AtomicU64,
    /// Port of `VIRQ_TIMER`, 0 before it is bound.
    pub timer_port: AtomicU32,
    /// Port that wakes the vCPU, 0 before it is bound.
    pub kick_port: AtomicU32,
    /// Port through which the vCPU is kicked out of its wait for a lock, 0 when its locks do not sleep.
    pub lock_port: AtomicU32,
    /// Stack pointer of the idle context while a thread runs.
    pub idle_stack: AtomicU64,
    /// Upcalls taken.
    pub upcalls: AtomicU64,
    /// An interrupt handler runs.
    pub in_handler: AtomicBool,
    /// Local APIC interrupts taken on the test vectors.
    pub apic_interrupts: AtomicU64,
    /// NMIs taken.
    pub nmis: AtomicU64,
    /// Upcalls come through the local APIC and need an EOI.
    pub upcalls_by_apic: AtomicBool,
    /// Note the TSC at each upcall's start (for a benchmark).
    pub stamp_upcalls: AtomicBool,
    /// That TSC.
    pub upcall_stamp: AtomicU64,
}

static CPUS: [PerCpu; MAX_CPUS] = [const {
    PerCpu {
        id: AtomicU32::new(0),
        current: AtomicU32::new(u32::MAX),
        online: AtomicBool::new(false),
        timer_armed: AtomicU64::new(u64::MAX),
        timer_port: AtomicU32::new(0),
        kick_port: AtomicU32::new(0),
        lock_port: AtomicU32::new(0),
        idle_stack: AtomicU64::new(0),
        upcalls: AtomicU64::new(0),
        in_handler: AtomicBool::new(false),
        apic_interrupts: AtomicU64::new(0),
        nmis: AtomicU64::new(0),
        upcalls_by_apic: AtomicBool::new(false),
        stamp_upcalls: AtomicBool::new(false),
        upcall_stamp: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// Sets up the calling vCPU, before anything else on it.
pub fn init(id: usize) {
    let own = &CPUS[id];
    own.id.store(id as u32, core::sync::atomic::Ordering::Relaxed);
    // SAFETY: the GS base is used by this module alone.
    unsafe { cpu::wrmsr(MSR_GS_BASE, core::ptr::from_ref(own).addr() as u64) };
}

/// The calling vCPU's number. With interrupts on, a thread may find itself on another one a moment later.
pub fn id() -> usize {
    let id: u32;
    // SAFETY: `init` has pointed GS at this vCPU's entry, whose first field is the number.
    unsafe { asm!("mov {:e}, gs:[0]", out(reg) id, options(nostack, readonly)) };
    id as usize
}

/// The calling vCPU's data.
pub fn own() -> &'static PerCpu {
    &CPUS[id()]
}

/// Another vCPU's data; `None` when there is no such number.
pub fn of(id: usize) -> Option<&'static PerCpu> {
    CPUS.get(id)
}
