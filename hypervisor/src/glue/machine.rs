//! [`Machine`] for the real machine.
#![allow(unsafe_code)] // Guest memory as atomics and bytes through the direct map.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use ebb_core::Machine;
use ebb_core::machine::{ControlMasks, CpuId, Level, MachineAddress, Speaker, TscScale};
use shared_abi::memory::E820Entry;
use shared_abi::xen::Mfn;

use super::{Glue, GuestCpu, VcpuState, trace_ring};
use crate::exit::msr::StoredMsrs;
use crate::memory::{clear, phys_to_virt};
use crate::virt::any::{AnyFormat, AnyVcpu};
use crate::virt::cell::VcpuCell;
use crate::{apic, console, cpu, instr, time};

/// The word of type `T` at `address`.
fn word<T>(address: MachineAddress) -> &'static T {
    assert!(address.0.is_multiple_of(size_of::<T>() as u64), "a misaligned word of guest memory");
    // SAFETY: the core passes addresses of RAM only (it derives them from frames of its heap), all RAM is in the direct
    // map for good, the address is aligned, and `T` is an atomic integer: every value is valid, and concurrent access
    // by guests and other CPUs is what atomics are for.
    unsafe { &*phys_to_virt(address.0).cast::<T>() }
}

/// Copies `length` bytes by string instructions.
///
/// # Safety
/// Both ranges are mapped for that access, and no Rust reference relies on the destination's bytes meanwhile. One side
/// may be memory that a guest changes at the same time.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller's promise; the direction flag is clear, as the ABI demands.
    unsafe {
        asm!("rep movsq", "mov ecx, {tail:e}", "rep movsb", tail = in(reg) length % 8,
             inout("rcx") length / 8 => _, inout("rsi") from => _, inout("rdi") to => _,
             options(nostack, preserves_flags));
    }
}

/// The clock in the form guests use. Both sides scale the same TSC, so they agree to within rounding.
pub fn tsc_scale() -> TscScale {
    let khz = time::tsc_khz();
    // A multiplier with its top bit set keeps most precision: shift the TSC until a tick is from 0.5 to 1 ns.
    let mut shift = 0_i8;
    let mut ticks = khz;
    while ticks > 2_000_000 {
        ticks >>= 1;
        shift -= 1;
    }
    while ticks <= 1_000_000 {
        ticks <<= 1;
        shift += 1;
    }
    let shifted_hz = if shift < 0 {
        (u128::from(khz) * 1000) >> u32::from(shift.unsigned_abs())
    } else {
        (u128::from(khz) * 1000) << u32::from(shift.unsigned_abs())
    };
    let mul = ((1_000_000_000_u128 << 32) / shifted_hz) as u32;
    TscScale { mul, shift, tsc_base: time::ns_to_tsc(0), ns_base: 0, khz }
}

impl Machine for Glue {
    type VcpuState = VcpuState;
    type Format = AnyFormat;

    fn new_vcpu_state(&self) -> Option<Self::VcpuState> {
        Some(VcpuCell::new(GuestCpu { hw: AnyVcpu::new()?, msrs: StoredMsrs::default() }))
    }

    fn control_masks(&self) -> ControlMasks {
        ControlMasks { cr4: self.policy.cr4_mask(), efer: self.policy.efer_mask() }
    }

    #[inline]
    fn word64(&self, address: MachineAddress) -> &AtomicU64 {
        word(address)
    }

    #[inline]
    fn word32(&self, address: MachineAddress) -> &AtomicU32 {
        word(address)
    }

    #[inline]
    fn word16(&self, address: MachineAddress) -> &AtomicU16 {
        word(address)
    }

    #[inline]
    fn byte(&self, address: MachineAddress) -> &AtomicU8 {
        word(address)
    }

    fn read(&self, address: MachineAddress, bytes: &mut [u8]) {
        // SAFETY: the source is RAM in the direct map (the core's promise); the destination is a Rust slice, which no
        // guest frame overlaps. A guest may write meanwhile: `rep movsb` in assembly has no data-race rules, and the
        // bytes are whatever they were.
        unsafe { copy(phys_to_virt(address.0), bytes.as_mut_ptr(), bytes.len()) };
    }

    fn write(&self, address: MachineAddress, bytes: &[u8]) {
        // SAFETY: as for `read`, with the roles exchanged.
        unsafe { copy(bytes.as_ptr(), phys_to_virt(address.0), bytes.len()) };
    }

    fn memory_map(&self) -> &[E820Entry] {
        &self.memory_map
    }

    fn copy_frame(&self, from: Mfn, to: Mfn) {
        // SAFETY: both frames are RAM in the direct map (the core's promise), and no Rust reference is made to either;
        // a guest may use one of them meanwhile, as for `read`.
        unsafe { copy(phys_to_virt(from.0 << 12), phys_to_virt(to.0 << 12), 1 << 12) };
    }

    fn zero(&self, first: Mfn, order: u32) {
        // SAFETY: the frames are RAM in the direct map and belong to the core, which asks for it.
        unsafe { clear::frames(first.0 << 12, order) };
    }

    #[inline]
    fn now(&self) -> u64 {
        time::now_ns()
    }

    #[inline]
    fn tsc(&self) -> u64 {
        time::rdtsc()
    }

    fn tsc_scale(&self) -> TscScale {
        tsc_scale()
    }

    fn wall_clock_base(&self) -> u64 {
        super::wall_clock::base()
    }

    #[inline]
    fn arm_timer(&self, deadline: Option<u64>) {
        time::arm_timer(deadline);
    }

    #[inline]
    fn this_cpu(&self) -> CpuId {
        CpuId(cpu::this_cpu().id().0)
    }

    fn cpu_count(&self) -> usize {
        cpu::cpu_count()
    }

    fn kick(&self, target: CpuId) {
        apic::send_kick(cpu::CpuId(target.0));
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }

    fn interrupt_waiting(&self) -> bool {
        instr::take_interrupts();
        let this = cpu::this_cpu();
        this.kick_pending() || this.timer_pending()
    }

    fn console_write(&self, speaker: Speaker, bytes: &[u8]) {
        match speaker {
            Speaker::Domain(domain) => console::guest_text(domain.0, bytes),
            Speaker::Privileged(domain) => console::raw_text(domain.0, bytes),
        }
    }

    fn console_read(&self, bytes: &mut [u8]) -> usize {
        console::input::read(bytes)
    }

    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        match level {
            Level::Error => crate::error!("{line}"),
            Level::Warn => crate::warn!("{line}"),
            Level::Info => crate::info!("{line}"),
            Level::Debug => crate::debug!("{line}"),
        }
    }

    fn trace(&self, kind: u16, payload: &[u8]) {
        trace_ring::record(kind, payload);
    }

    #[inline]
    fn trace_enabled(&self, kind: u16) -> bool {
        trace_ring::enabled(kind)
    }
}
