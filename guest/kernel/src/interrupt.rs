//! Descriptor tables, and the way every exception and interrupt takes.
//!
//! Handlers run with interrupts off. Double faults, NMIs and machine checks have stacks of their own.
#![allow(unsafe_code)] // Descriptor tables and the entry from assembly.

use crate::percpu::{self, MAX_CPUS};
use crate::{apic, cpu, events, fixup, page, panic};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};
use shared_abi::xen::PAGE_SIZE;

/// Vector of event-channel upcalls.
pub const UPCALL_VECTOR: u8 = 0xF3;
/// Vectors that tests use for local APIC interrupts.
pub const APIC_TEST_VECTORS: core::ops::RangeInclusive<u8> = 0xE0..=0xE7;
/// The local APIC's spurious vector.
pub const SPURIOUS_VECTOR: u8 = 0xFF;

const VECTOR_NMI: u64 = 2;
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const TSS: u16 = 0x18;

/// The interrupted context, as `interrupt.s` lays it out.
#[derive(Clone, Debug)]
#[repr(C)]
#[allow(missing_docs)] // Registers.
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    /// The vector.
    pub vector: u64,
    /// The error code, 0 where there is none.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

global_asm!(
    include_str!("asm/interrupt.s"),
    handle = sym handle,
    thread_main = sym crate::thread::thread_main,
    options(att_syntax)
);

unsafe extern "C" {
    static interrupt_stubs: u8;
}

#[repr(C, align(16))]
struct Gate {
    low: u64,
    high: u64,
}

#[repr(C, packed)]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: [u16; 5],
    io_map: u16,
}

/// One vCPU's tables.
#[repr(C, align(64))]
struct Tables {
    gdt: UnsafeCell<[u64; 5]>,
    tss: UnsafeCell<TaskState>,
}

// SAFETY: each vCPU writes its own entry, once, before it is used.
unsafe impl Sync for Tables {}

static TABLES: [Tables; MAX_CPUS] = [const {
    Tables {
        gdt: UnsafeCell::new([0; 5]),
        tss: UnsafeCell::new(TaskState {
            reserved0: 0,
            rsp: [0; 3],
            reserved1: 0,
            ist: [0; 7],
            reserved2: [0; 5],
            io_map: 104,
        }),
    }
}; MAX_CPUS];

struct Idt(UnsafeCell<[Gate; 256]>);

// SAFETY: written by the boot processor before any other runs.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([const { Gate { low: 0, high: 0 } }; 256]));

/// Stacks of the boot processor's exceptions that need their own: the page allocator is not there yet.
#[repr(C, align(16))]
struct EarlyStacks(UnsafeCell<[u8; 16384]>);

// SAFETY: used as a stack by one vCPU, never through Rust references.
unsafe impl Sync for EarlyStacks {}

static EARLY_STACKS: EarlyStacks = EarlyStacks(UnsafeCell::new([0; 16384]));

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Fills the interrupt table. Once, on the boot processor.
pub fn init_table() {
    let stubs = (&raw const interrupt_stubs).addr() as u64;
    // SAFETY: only the boot processor runs, and the table is not loaded yet.
    let table = unsafe { &mut *IDT.0.get() };
    for (vector, gate) in table.iter_mut().enumerate() {
        let entry = stubs + vector as u64 * 16;
        let stack: u64 = match vector {
            8 => 1,
            2 | 18 => 2,
            _ => 0,
        };
        gate.low = entry & 0xFFFF | u64::from(CODE) << 16 | stack << 32 | 0x8E << 40 | (entry >> 16 & 0xFFFF) << 48;
        gate.high = entry >> 32;
    }
}

/// Loads the calling vCPU's tables. Its exception stacks are in bss for the boot processor, in fresh pages for others.
pub fn init_cpu(id: usize) -> Result<(), &'static str> {
    let stacks = if id == 0 {
        EARLY_STACKS.0.get().addr() as u64
    } else {
        page::take(2).ok_or("no memory for exception stacks")? * PAGE_SIZE
    };
    let tables = &TABLES[id];
    // SAFETY: this vCPU's entries, not loaded yet; nobody else touches them.
    unsafe {
        let tss = tables.tss.get();
        (*tss).ist = [stacks + 8192, stacks + 16384, 0, 0, 0, 0, 0];
        let base = tss.addr() as u64;
        *tables.gdt.get() = [
            0,
            0x00AF_9B00_0000_FFFF,
            0x00CF_9300_0000_FFFF,
            103 | (base & 0xFF_FFFF) << 16 | 0x89 << 40 | (base >> 24 & 0xFF) << 56,
            base >> 32,
        ];
        load(tables);
    }
    Ok(())
}

/// # Safety
/// The tables are filled and stay.
unsafe fn load(tables: &'static Tables) {
    let gdt = Pointer { limit: 39, base: tables.gdt.get().addr() as u64 };
    let idt = Pointer { limit: 4095, base: IDT.0.get().addr() as u64 };
    // SAFETY: the code segment's descriptor is where the loaded one was and equal to it; data segments are reloaded
    // (not GS, whose base is in use); the TSS is this vCPU's and not busy.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "ltr {tss:x}",
            "lidt [{idt}]",
            gdt = in(reg) &gdt,
            idt = in(reg) &idt,
            data = in(reg) u32::from(DATA),
            tss = in(reg) TSS,
        );
    }
}

/// Loads an empty interrupt table, so that the next exception is a triple fault.
pub fn forget_table() {
    let nothing = Pointer { limit: 0, base: 0 };
    // SAFETY: the caller wants the domain to end by it.
    unsafe { asm!("lidt [{}]", in(reg) &nothing) };
}

/// Interrupts on vectors nobody asked for.
static STRAY: AtomicU64 = AtomicU64::new(0);

/// How many interrupts came on vectors nobody asked for.
pub fn stray() -> u64 {
    STRAY.load(Ordering::Relaxed)
}

/// The one way in; `interrupt.s` calls it.
extern "C" fn handle(frame: &mut Frame) {
    match frame.vector {
        VECTOR_NMI => {
            percpu::own().nmis.fetch_add(1, Ordering::Relaxed);
        }
        0..32 => {
            if !fixup::apply(frame) {
                panic::exception(frame);
            }
        }
        // No processor does that. QEMU's emulation of SVM does, to 7.2 at least: when its instruction budget ends between
        // an injection and the next exit, it delivers the vector once more, with interrupts off and locks held. What
        // still waits is injected again.
        _ if frame.rflags & cpu::FLAG_IF == 0 => {
            STRAY.fetch_add(1, Ordering::Relaxed);
        }
        vector => {
            let vector = vector as u8;
            let own = percpu::own();
            own.in_handler.store(true, Ordering::Relaxed);
            crate::idle::leave(frame);
            if vector == UPCALL_VECTOR {
                events::upcall();
            } else if APIC_TEST_VECTORS.contains(&vector) {
                percpu::own().apic_interrupts.fetch_add(1, Ordering::SeqCst);
                apic::end_of_interrupt();
            } else if vector != SPURIOUS_VECTOR {
                STRAY.fetch_add(1, Ordering::Relaxed);
            }
            own.in_handler.store(false, Ordering::Relaxed);
        }
    }
}

/// The name of an exception.
pub fn name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "divide error",
        "debug",
        "NMI",
        "breakpoint",
        "overflow",
        "bound range",
        "invalid opcode",
        "no FPU",
        "double fault",
        "coprocessor segment",
        "invalid TSS",
        "segment not present",
        "stack fault",
        "general protection",
        "page fault",
        "15",
        "x87 error",
        "alignment check",
        "machine check",
        "SIMD error",
        "virtualisation",
        "control protection",
    ];
    NAMES.get(vector as usize).copied().unwrap_or("interrupt")
}

/// The fault address of a page fault.
pub fn fault_address(frame: &Frame) -> Option<u64> {
    (frame.vector == 14).then(cpu::cr2)
}
