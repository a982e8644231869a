//! The local APIC of each processor: x2APIC by MSRs, or xAPIC by memory (Intel SDM vol. 3, chapter 11).
//!
//! All processors use the same mode, chosen once by [`choose_mode`]. A register is named by its xAPIC offset.
#![allow(unsafe_code, reason = "APIC registers")]

use crate::cpu::{self, CpuId};
use crate::interrupts::{ERROR_VECTOR, KICK_VECTOR, SPURIOUS_VECTOR, TIMER_VECTOR};
use crate::memory::paging::Access;
use crate::{instr, memory};
use core::sync::atomic::{AtomicPtr, Ordering, fence};
use x86::msr::{IA32_APIC_BASE, IA32_TSC_DEADLINE};

const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const ERROR_STATUS: u32 = 0x280;
const LVT_CMCI: u32 = 0x2f0;
const ICR_LOW: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_THERMAL: u32 = 0x330;
const LVT_PERFORMANCE: u32 = 0x340;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;
const VERSION: u32 = 0x30;

const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const LVT_MASKED: u32 = 1 << 16;
const TIMER_MODE_DEADLINE: u32 = 2 << 17;
const ICR_BUSY: u32 = 1 << 12;
const ICR_ASSERT: u32 = 1 << 14;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_INIT: u32 = 5 << 8;
const DELIVER_STARTUP: u32 = 6 << 8;

/// The xAPIC's registers, null in x2APIC mode.
static XAPIC: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// The mode all processors use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Memory-mapped, ids up to 254.
    XApic,
    /// By MSRs, ids of 32 bits.
    X2Apic,
}

impl Mode {
    /// Its name as printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::XApic => "xAPIC",
            Self::X2Apic => "x2APIC",
        }
    }
}

/// Why there is no usable local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicError {
    /// The processor has none.
    Missing,
    /// Its registers could not be mapped.
    Unmapped,
}

/// Chooses the mode and prepares for it; on the boot processor, before [`init_this_cpu`].
///
/// # Errors
/// [`ApicError`].
pub(crate) fn choose_mode(no_x2apic: bool) -> Result<Mode, ApicError> {
    let features = raw_cpuid::CpuId::new().get_feature_info().ok_or(ApicError::Missing)?;
    if !features.has_apic() {
        return Err(ApicError::Missing);
    }
    if features.has_x2apic() && !no_x2apic {
        return Ok(Mode::X2Apic);
    }
    // SAFETY: a processor with an APIC has this register.
    let base = unsafe { instr::rdmsr(IA32_APIC_BASE) } & BASE_ADDRESS;
    let registers = memory::map_mmio(base, 0x1000, Access::Uncached).map_err(|_| ApicError::Unmapped)?;
    XAPIC.store(registers, Ordering::Release);
    Ok(Mode::XApic)
}

/// The mode in use.
#[inline(always)]
pub fn mode() -> Mode {
    if XAPIC.load(Ordering::Relaxed).is_null() { Mode::X2Apic } else { Mode::XApic }
}

#[inline(always)]
fn read(register: u32) -> u32 {
    let base = XAPIC.load(Ordering::Relaxed);
    // SAFETY: `register` is one of the constants above: an APIC register at a 16-byte step within the mapped page, or
    // the MSR of the same number in x2APIC mode.
    unsafe {
        if base.is_null() {
            instr::rdmsr(0x800 + (register >> 4)) as u32
        } else {
            base.add(register as usize).cast::<u32>().read_volatile()
        }
    }
}

#[inline(always)]
fn write(register: u32, value: u32) {
    let base = XAPIC.load(Ordering::Relaxed);
    // SAFETY: as for `read`; the values written keep delivery to vectors that have handlers.
    unsafe {
        if base.is_null() {
            instr::wrmsr(0x800 + (register >> 4), value.into());
        } else {
            base.add(register as usize).cast::<u32>().write_volatile(value);
        }
    }
}

/// Enables this processor's local APIC in the chosen mode, with everything masked but the timer (not armed).
pub(crate) fn init_this_cpu() {
    // SAFETY: the register exists; xAPIC's base stays where it was mapped. Going from x2APIC to xAPIC needs the
    // disabled state between (SDM 11.12.5).
    unsafe {
        let base = instr::rdmsr(IA32_APIC_BASE);
        match mode() {
            Mode::X2Apic => {
                instr::wrmsr(IA32_APIC_BASE, base | BASE_ENABLE);
                instr::wrmsr(IA32_APIC_BASE, base | BASE_ENABLE | BASE_X2APIC);
            }
            Mode::XApic => {
                if base & BASE_X2APIC != 0 {
                    instr::wrmsr(IA32_APIC_BASE, base & !(BASE_ENABLE | BASE_X2APIC));
                }
                instr::wrmsr(IA32_APIC_BASE, base & !BASE_X2APIC | BASE_ENABLE);
            }
        }
    }
    // First of all: while the APIC is disabled by software, its vector table's entries cannot be unmasked (SDM 11.4.7.2).
    write(SPURIOUS, 1 << 8 | u32::from(SPURIOUS_VECTOR));
    let entries = (read(VERSION) >> 16 & 0xff) + 1;
    for (lvt, needs) in [(LVT_LINT0, 0), (LVT_LINT1, 0), (LVT_PERFORMANCE, 5), (LVT_THERMAL, 6), (LVT_CMCI, 7)] {
        if entries >= needs {
            write(lvt, LVT_MASKED);
        }
    }
    write(LVT_ERROR, ERROR_VECTOR.into());
    write(TASK_PRIORITY, 0);
    write(TIMER_DIVIDE, 0xb);
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, timer_entry());
    // What was left in service by the firmware would hold back everything below it.
    for _ in 0..8 {
        eoi();
    }
    error_status();
}

/// Lets this processor take NMIs from its local pin `line` (0 or 1), where boards connect their NMI button: on the boot
/// processor, so that a hang can be turned into a report.
pub(crate) fn enable_nmi_line(line: Option<u8>) {
    match line {
        Some(0) => write(LVT_LINT0, DELIVER_NMI),
        Some(1) => write(LVT_LINT1, DELIVER_NMI),
        _ => {}
    }
}

/// This processor's APIC id.
pub(crate) fn own_id() -> u32 {
    match mode() {
        Mode::XApic => read(ID) >> 24,
        Mode::X2Apic => read(ID),
    }
}

/// Reads and clears the error status.
pub(crate) fn error_status() -> u32 {
    write(ERROR_STATUS, 0);
    read(ERROR_STATUS)
}

/// Ends the interrupt in service.
#[inline(always)]
pub fn eoi() {
    write(EOI, 0);
}

fn send(apic_id: u32, command: u32) {
    match mode() {
        Mode::X2Apic => {
            // The MSR write is not serialising: what was stored before must be visible to the target.
            fence(Ordering::SeqCst);
            // SAFETY: MFENCE and LFENCE order only; the ICR exists in this mode, and the command delivers to a vector
            // with a handler, or is INIT, SIPI or NMI.
            unsafe {
                core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
                instr::wrmsr(0x830, u64::from(apic_id) << 32 | u64::from(command));
            }
        }
        Mode::XApic => {
            wait_until_sent();
            write(ICR_HIGH, apic_id << 24);
            write(ICR_LOW, command);
        }
    }
}

/// The previous command has left; bounded, since a dead target must not hang the sender.
fn wait_until_sent() {
    for _ in 0..100_000 {
        if read(ICR_LOW) & ICR_BUSY == 0 {
            return;
        }
        core::hint::spin_loop();
    }
}

/// Asks another processor (or this one) to look for work: it leaves its guest or its idle state and finds the kick
/// noted.
#[inline]
pub fn send_kick(cpu: CpuId) {
    let this = cpu::this_cpu();
    if this.id() == cpu {
        this.note_kick();
    } else {
        send(cpu::by_id(cpu).apic_id(), u32::from(KICK_VECTOR) | ICR_ASSERT);
    }
}

/// Has this processor interrupted by a kick as soon as it takes interrupts: in a guest, before its next instruction.
pub fn interrupt_self() {
    send(cpu::this_cpu().apic_id(), u32::from(KICK_VECTOR) | ICR_ASSERT);
}

/// Sends an NMI to the processor with this APIC id.
pub(crate) fn send_nmi(apic_id: u32) {
    send(apic_id, DELIVER_NMI | ICR_ASSERT);
}

/// Sends an NMI to a processor: it leaves its guest, whatever that holds off.
pub fn send_nmi_to(cpu: CpuId) {
    send_nmi(cpu::by_id(cpu).apic_id());
}

pub(crate) fn send_init(apic_id: u32) {
    send(apic_id, DELIVER_INIT | ICR_ASSERT);
}

pub(crate) fn send_startup(apic_id: u32, vector: u8) {
    send(apic_id, DELIVER_STARTUP | ICR_ASSERT | u32::from(vector));
}

/// Makes this processor's timer fire `TIMER_VECTOR` after `count` ticks; 0 disarms it.
#[inline(always)]
pub(crate) fn set_timer_count(count: u32) {
    write(TIMER_INITIAL, count);
}

/// Starts the timer from its maximum without an interrupt, for calibration (also where it later works by deadline).
pub(crate) fn start_timer_masked() {
    write(LVT_TIMER, u32::from(TIMER_VECTOR) | LVT_MASKED);
    write(TIMER_INITIAL, u32::MAX);
}

/// Ends what [`start_timer_masked`] began.
pub(crate) fn stop_timer_unmask() {
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, timer_entry());
}

/// The timer's entry in the local vector table.
fn timer_entry() -> u32 {
    let deadline = if crate::time::uses_tsc_deadline() { TIMER_MODE_DEADLINE } else { 0 };
    u32::from(TIMER_VECTOR) | deadline
}

/// Ticks left.
pub(crate) fn timer_count() -> u32 {
    read(TIMER_CURRENT)
}

/// Makes the timer fire when the TSC reaches `tsc`; 0 disarms it.
#[inline(always)]
pub(crate) fn set_timer_deadline(tsc: u64) {
    // SAFETY: called only where CPUID has the TSC-deadline mode.
    unsafe { instr::wrmsr(IA32_TSC_DEADLINE, tsc) };
}
