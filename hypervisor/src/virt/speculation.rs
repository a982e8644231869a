//! Against leaks by speculation: what is done when another domain's vCPU comes to a CPU, and around entries.
//!
//! What is done follows from [`ebb_core::speculation::Plan`], which is made once. Processors that need nothing at their
//! entries pay one test for it (`EntryGuard::is_needed`); what only concerns a switch costs nothing anywhere else.
#![allow(unsafe_code)] // MSRs of the plan, and the filling of the return predictor.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ebb_core::domain::Birth;
use ebb_core::speculation::{COMMAND, Plan, msr};

use crate::cpu::{MAX_CPUS, this_cpu};
use crate::instr;

const MSR_EFER: u32 = 0xc000_0080;
const EFER_AUTOMATIC_IBRS: u64 = 1 << 21;

static PLAN: spin::Once<Plan> = spin::Once::new();
static BARRIER: AtomicBool = AtomicBool::new(false);
static FLUSH_CACHE: AtomicBool = AtomicBool::new(false);
static VERW: AtomicBool = AtomicBool::new(false);
/// IA32_SPEC_CTRL while the hypervisor runs.
static HOST_SPEC_CTRL: AtomicU64 = AtomicU64::new(0);
/// Whose vCPU each CPU ran last: the domain's birth, 0 at first.
static LAST: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Adopts the plan. Before any CPU is enabled and any vCPU exists.
pub fn set_up(plan: Plan) {
    BARRIER.store(plan.ibpb, Ordering::Relaxed);
    FLUSH_CACHE.store(plan.l1d, Ordering::Relaxed);
    VERW.store(plan.verw, Ordering::Relaxed);
    HOST_SPEC_CTRL.store(plan.host_spec_ctrl.unwrap_or(0), Ordering::Relaxed);
    PLAN.call_once(|| plan);
}

/// Puts the hypervisor's own restrictions in force on this CPU.
pub fn enable_this_cpu() {
    let Some(plan) = PLAN.get() else { return };
    if let Some(value) = plan.host_spec_ctrl {
        // SAFETY: the plan names a value only where the register is, and only bits that the processor has.
        unsafe { instr::wrmsr(msr::SPEC_CTRL, value) };
    }
    if plan.automatic_ibrs {
        // SAFETY: the processor has the bit, which restricts predictions and nothing else.
        unsafe { instr::wrmsr(MSR_EFER, instr::rdmsr(MSR_EFER) | EFER_AUTOMATIC_IBRS) };
    }
}

/// A vCPU of the domain comes to this CPU.
#[inline]
pub fn arrive(domain: Birth) {
    if BARRIER.load(Ordering::Relaxed) {
        separate(domain.number());
    }
}

/// What another domain has taught the predictors is forgotten. A CPU that idled has learnt nothing of anybody's.
#[cold]
fn separate(domain: u64) {
    if LAST[usize::from(this_cpu().id().0)].swap(domain, Ordering::Relaxed) != domain {
        command(msr::PRED_CMD, COMMAND);
        fill_return_predictor();
    }
}

/// Writes one of the command registers, which the processor has: whoever asks has seen its bit in CPUID.
pub fn command(number: u32, value: u64) {
    debug_assert!(matches!(number, msr::PRED_CMD | msr::FLUSH_CMD));
    // SAFETY: the processor has the register (the caller's promise; `Plan` and `GuestControls` keep it), and forgetting
    // predictions or writing back a cache changes no state.
    unsafe { instr::wrmsr(number, value) };
}

/// The barrier leaves the return predictor as it is on some processors: as many calls as it has entries replace them,
/// each by one that leads into a loop which speculation does not leave.
fn fill_return_predictor() {
    // SAFETY: each call's return address is taken off the stack again; nothing else changes.
    unsafe {
        asm!(
            "2: call 4f",
            "3: pause",
            "lfence",
            "jmp 3b",
            "4: add rsp, 8",
            "dec {count:e}",
            "jnz 2b",
            "lfence",
            count = inout(reg) 32 => _,
        );
    }
}

/// A vCPU's IA32_SPEC_CTRL, and whether its entries need anything beside the world switch.
pub struct EntryGuard {
    spec_ctrl: u64,
    needed: bool,
}

impl EntryGuard {
    /// That of a vCPU after reset: nothing is restricted.
    pub fn after_reset() -> Self {
        let mut guard = Self { spec_ctrl: 0, needed: false };
        guard.set_spec_ctrl(0);
        guard
    }

    /// Whether [`EntryGuard::before`] and [`EntryGuard::after`] must be called around an entry.
    #[inline(always)]
    pub fn is_needed(&self) -> bool {
        self.needed
    }

    /// The guest's IA32_SPEC_CTRL.
    pub fn spec_ctrl(&self) -> u64 {
        self.spec_ctrl
    }

    /// Changes it. The value has been checked.
    pub fn set_spec_ctrl(&mut self, value: u64) {
        self.spec_ctrl = value;
        self.needed = self.switches() || FLUSH_CACHE.load(Ordering::Relaxed) || VERW.load(Ordering::Relaxed);
    }

    fn switches(&self) -> bool {
        self.spec_ctrl != HOST_SPEC_CTRL.load(Ordering::Relaxed)
    }

    /// The last thing before the world switch. Whether VERW must come right before the entry.
    pub fn before(&self) -> bool {
        if FLUSH_CACHE.load(Ordering::Relaxed) {
            command(msr::FLUSH_CMD, COMMAND);
        }
        if self.switches() {
            self.write(self.spec_ctrl);
        }
        VERW.load(Ordering::Relaxed)
    }

    /// The first thing after it.
    pub fn after(&self) {
        if self.switches() {
            self.write(HOST_SPEC_CTRL.load(Ordering::Relaxed));
        }
    }

    fn write(&self, value: u64) {
        // SAFETY: values differ only where the register is: the host's is 0 elsewhere, and the guest's then too, since
        // it cannot write a register that it is not offered. Both have only bits that the processor has.
        unsafe { instr::wrmsr(msr::SPEC_CTRL, value) };
    }
}
