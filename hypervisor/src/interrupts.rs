//! Exceptions and interrupts of the hypervisor itself.
//!
//! Interrupts are off while the hypervisor runs, so handlers run only at [`crate::cpu::idle`], in an interrupt window,
//! or from an NMI or exception. The kick and the timer are only noted (`PerCpu::take_kick`, `PerCpu::take_timer`), and
//! what is typed is put into a queue. An
//! exception is either expected, with an entry in the fixup table (`instr::rdmsr_safe` and the like), or a bug of ours
//! and the end of the machine with a report.
//!
//! NMI, double fault and machine check have stacks of their own (IST), so that they are reported even when the main
//! stack is the problem.
#![allow(unsafe_code, reason = "interrupt descriptor table and assembly entries")]

use crate::{apic, console, cpu, instr, machine_check, nmi, panic, warn};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};
use x86::dtables::{DescriptorTablePointer, lidt};

core::arch::global_asm!(include_str!("interrupts.S"));

/// Something was typed on the console.
pub const CONSOLE_VECTOR: u8 = 0xe0;
/// The local APIC timer.
pub const TIMER_VECTOR: u8 = 0xf0;
/// Another processor wants this one's attention.
pub const KICK_VECTOR: u8 = 0xf1;
/// The local APIC's own errors.
pub const ERROR_VECTOR: u8 = 0xfe;
/// Spurious interrupts of the local APIC: no EOI.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// Where the two 8259s are moved, masked, so that their spurious interrupts do not look like exceptions.
pub const PIC_VECTORS: core::ops::Range<u8> = 0x20..0x30;

const NMI: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const MACHINE_CHECK: u64 = 18;

/// The interrupted state, as interrupts.S pushes it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the registers' names are their documentation")]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// One gate (AMD APM vol. 2, 4.8.4).
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

#[repr(C, align(16))]
struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: written once by `init` on the boot processor, before any other processor runs; after that only read.
unsafe impl Sync for Table {}

static IDT: Table = Table(UnsafeCell::new([Gate { low: 0, high: 0 }; 256]));

/// A place where a fault is expected, and where to go on.
#[repr(C)]
struct Fixup {
    at: u64,
    resume: u64,
}

unsafe extern "C" {
    static interrupt_entries: u8;
    static fixups_start: Fixup;
    static fixups_end: Fixup;
}

/// Fills the table; on the boot processor, before [`load`].
pub(crate) fn init() {
    let base = core::ptr::addr_of!(interrupt_entries) as u64;
    // SAFETY: see `Table`: this runs once, alone.
    let table = unsafe { &mut *IDT.0.get() };
    for (vector, gate) in table.iter_mut().enumerate() {
        let handler = base + vector as u64 * 16;
        let ist = match vector as u64 {
            NMI => cpu::IST_NMI,
            DOUBLE_FAULT => cpu::IST_DOUBLE_FAULT,
            MACHINE_CHECK => cpu::IST_MACHINE_CHECK,
            _ => 0,
        };
        // Present, DPL 0, 64-bit interrupt gate.
        let attributes = 0x8e00 | u64::from(ist);
        gate.low =
            handler & 0xffff | u64::from(cpu::CODE_SELECTOR) << 16 | attributes << 32 | (handler >> 16 & 0xffff) << 48;
        gate.high = handler >> 32;
    }
}

/// Makes this processor use the table.
pub(crate) fn load() {
    // SAFETY: the table is static and filled; its handlers keep the interrupted state.
    unsafe { lidt(&DescriptorTablePointer::new(&*IDT.0.get())) };
}

/// Moves both 8259s away from the exceptions' vectors and masks them.
pub(crate) fn disable_pics() {
    // The initialisation sequence ICW1 to ICW4, then the masks (Intel 8259A data sheet).
    let sequence = [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, PIC_VECTORS.start),
        (0xa1, PIC_VECTORS.start + 8),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0xff),
        (0xa1, 0xff),
    ];
    for (port, value) in sequence {
        // SAFETY: programming the interrupt controllers, which nothing else uses; they end masked.
        unsafe { instr::outb(port, value) };
    }
}

/// Interrupts with no handler, for a bounded complaint.
static UNEXPECTED: AtomicU32 = AtomicU32::new(0);

/// Every exception and interrupt, from interrupts.S.
#[unsafe(no_mangle)]
extern "C" fn ebb_interrupt(frame: &mut Frame) {
    match frame.vector {
        NMI => nmi::taken(Some(frame)),
        MACHINE_CHECK => machine_check::exception(Some(frame)),
        0..32 => exception(frame),
        vector if vector == u64::from(TIMER_VECTOR) => {
            cpu::this_cpu().note_timer();
            apic::eoi();
        }
        vector if vector == u64::from(KICK_VECTOR) => {
            cpu::this_cpu().note_kick();
            apic::eoi();
        }
        vector if vector == u64::from(CONSOLE_VECTOR) => {
            console::input::receive();
            apic::eoi();
        }
        vector if vector == u64::from(SPURIOUS_VECTOR) => {}
        vector => unexpected(vector as u8),
    }
}

fn unexpected(vector: u8) {
    if UNEXPECTED.fetch_add(1, Ordering::Relaxed) < 8 {
        if vector == ERROR_VECTOR {
            warn!("local APIC error {:#x} on CPU {}", apic::error_status(), cpu::this_cpu().id().0);
        } else {
            warn!("unexpected interrupt {vector:#x} on CPU {}", cpu::this_cpu().id().0);
        }
    }
    // Spurious interrupts of the 8259s are not the local APIC's.
    if !PIC_VECTORS.contains(&vector) {
        apic::eoi();
    }
}

fn exception(frame: &mut Frame) {
    if frame.vector != DOUBLE_FAULT
        && let Some(resume) = find_fixup(frame.rip)
    {
        frame.rip = resume;
        return;
    }
    panic::exception(frame);
}

fn find_fixup(rip: u64) -> Option<u64> {
    let start = core::ptr::addr_of!(fixups_start);
    let count = (core::ptr::addr_of!(fixups_end) as usize - start as usize) / size_of::<Fixup>();
    // SAFETY: the linker script puts the table's entries, 16 bytes each, between the two symbols, in read-only data.
    let table = unsafe { core::slice::from_raw_parts(start, count) };
    table.iter().find(|fixup| fixup.at == rip).map(|fixup| fixup.resume)
}

/// The name of exception `vector`.
pub fn exception_name(vector: u64) -> &'static str {
    const NAMES: [&str; 32] = [
        "divide error",
        "debug",
        "non-maskable interrupt",
        "breakpoint",
        "overflow",
        "bound range exceeded",
        "invalid opcode",
        "device not available",
        "double fault",
        "coprocessor segment overrun",
        "invalid TSS",
        "segment not present",
        "stack-segment fault",
        "general protection",
        "page fault",
        "reserved (15)",
        "x87 floating point",
        "alignment check",
        "machine check",
        "SIMD floating point",
        "virtualization",
        "control protection",
        "reserved (22)",
        "reserved (23)",
        "reserved (24)",
        "reserved (25)",
        "reserved (26)",
        "reserved (27)",
        "hypervisor injection",
        "VMM communication",
        "security",
        "reserved (31)",
    ];
    NAMES.get(vector as usize).copied().unwrap_or("interrupt")
}
