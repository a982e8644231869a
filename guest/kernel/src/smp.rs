//! Starting the other vCPUs: by `VCPUOP_initialise` and `VCPUOP_up`, in 64-bit or 32-bit mode, or by INIT and SIPI.
//!
//! The argument `smp=` chooses: `vcpuop` (default), `vcpuop32`, `apic`, `mixed` (each in turn) or `off`.
//! vCPUs are started one after the other, so the words that tell one its number and stack are enough once.
#![allow(unsafe_code)] // Handing another processor its first registers.

use crate::percpu::{self, MAX_CPUS};
use crate::{acpi, apic, clock, cpu, events, interrupt, page, paging, println, start_info, thread};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use ebb_guest_hypercall::{VcpuId, sched, vcpu};
use shared_abi::hvm::hvm_vcpu::{HvmContext, X86_32, X86_64};
use shared_abi::xen::PAGE_SIZE;

global_asm!(
    include_str!("asm/boot.s"),
    kernel_main = sym crate::kernel_main,
    ap_main = sym ap_main,
    ap_root = sym paging::AP_ROOT,
    ap_stack = sym AP_STACK,
    ap_cpu = sym AP_CPU,
    options(att_syntax)
);

static AP_STACK: AtomicU64 = AtomicU64::new(0);
static AP_CPU: AtomicU32 = AtomicU32::new(0);
static ONLINE: AtomicU32 = AtomicU32::new(1);

unsafe extern "C" {
    static ap_entry32: u8;
    static ap_entry64: u8;
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
}

/// How long a vCPU may take to come up, ns.
const PATIENCE: u64 = 5_000_000_000;

/// A way to start a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `VCPUOP_initialise` in 64-bit mode.
    Vcpuop64,
    /// `VCPUOP_initialise` in 32-bit mode without paging.
    Vcpuop32,
    /// INIT and SIPI.
    Apic,
}

/// vCPUs that run the kernel.
pub fn online() -> usize {
    ONLINE.load(Ordering::Acquire) as usize
}

/// vCPUs the domain has, as far as the kernel can use them.
pub fn possible() -> usize {
    (0..MAX_CPUS).take_while(|id| vcpu::is_up(VcpuId(*id as u32)).is_ok()).count().max(1)
}

/// Starts all vCPUs, or as many as `cpus=` allows.
pub fn start_all() -> Result<(), &'static str> {
    let args = start_info::args();
    let count = possible().min(args.number("cpus", MAX_CPUS as u64).unwrap_or(1) as usize);
    for id in 1..count {
        let way = match args.get("smp") {
            Some("off") => return Ok(()),
            Some("apic") => Way::Apic,
            Some("vcpuop32") => Way::Vcpuop32,
            Some("mixed") => [Way::Apic, Way::Vcpuop32, Way::Vcpuop64][id % 3],
            _ => Way::Vcpuop64,
        };
        start(id, way)?;
    }
    Ok(())
}

fn start(id: usize, way: Way) -> Result<(), &'static str> {
    events::prepare(id)?;
    AP_STACK.store(thread::cpu_stack_top(id), Ordering::SeqCst);
    AP_CPU.store(id as u32, Ordering::SeqCst);
    match way {
        Way::Apic => start_by_apic(id)?,
        Way::Vcpuop32 => start_by_hypercall(id, &context_32())?,
        Way::Vcpuop64 => start_by_hypercall(id, &context_64())?,
    }
    let deadline = clock::now() + PATIENCE;
    while !percpu::of(id).is_some_and(|other| other.online.load(Ordering::Acquire)) {
        if clock::now() > deadline {
            println!("vCPU {id} did not come up ({way:?})");
            return Err("a vCPU did not come up");
        }
        let _ = sched::yield_now();
    }
    ONLINE.fetch_add(1, Ordering::AcqRel);
    Ok(())
}

fn start_by_hypercall(id: usize, context: &HvmContext) -> Result<(), &'static str> {
    let vcpu_id = VcpuId(id as u32);
    // SAFETY: the entry points expect these registers; the stack is the vCPU's own.
    unsafe { vcpu::initialise(vcpu_id, context) }.map_err(|_| "VCPUOP_initialise is refused")?;
    vcpu::up(vcpu_id).map_err(|_| "VCPUOP_up is refused")
}

fn context_64() -> HvmContext {
    // Long mode enabled and active, no-execute as here.
    let no_execute = core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 20 != 0;
    HvmContext::new_64(&X86_64 {
        rip: (&raw const ap_entry64).addr() as u64,
        rsp: AP_STACK.load(Ordering::SeqCst),
        rflags: 2,
        cr0: 0x8001_0011,
        cr3: paging::root(),
        cr4: 0x20,
        efer: if no_execute { 0xD00 } else { 0x500 },
        ..Default::default()
    })
}

fn context_32() -> HvmContext {
    HvmContext::new_32(&X86_32 {
        eip: (&raw const ap_entry32).addr() as u32,
        eflags: 2,
        cr0: 0x11,
        cs_limit: u32::MAX,
        ds_limit: u32::MAX,
        ss_limit: u32::MAX,
        es_limit: u32::MAX,
        tr_limit: 0x67,
        cs_ar: 0xC9B,
        ds_ar: 0xC93,
        ss_ar: 0xC93,
        es_ar: 0xC93,
        tr_ar: 0x8B,
        ..Default::default()
    })
}

fn start_by_apic(id: usize) -> Result<(), &'static str> {
    let page = page::layout().trampoline.ok_or("there is no RAM below 1 MiB for the trampoline")?;
    let start = &raw const ap_trampoline;
    let length = (&raw const ap_trampoline_end).addr() - start.addr();
    let place = core::ptr::with_exposed_provenance_mut::<u8>((page * PAGE_SIZE) as usize);
    // SAFETY: the page is RAM that the allocator does not have; the code fits into it and needs no relocation.
    unsafe { core::ptr::copy_nonoverlapping(start, place, length) };
    let processor = acpi::processors()?
        .into_iter()
        .find(|processor| processor.acpi_id == id as u32 && processor.enabled)
        .ok_or("the MADT does not have this vCPU")?;
    apic::start_processor(processor.apic_id, page as u8);
    Ok(())
}

/// Another vCPU's first Rust function.
extern "C" fn ap_main(id: u32) -> ! {
    let id = id as usize;
    percpu::init(id);
    if let Err(why) = init_cpu(id) {
        panic!("vCPU {id}: {why}");
    }
    percpu::own().online.store(true, Ordering::Release);
    thread::idle_loop()
}

/// What every vCPU sets up for itself.
pub fn init_cpu(id: usize) -> Result<(), &'static str> {
    interrupt::init_cpu(id)?;
    enable_features();
    apic::init_cpu()?;
    events::init_cpu()
}

/// SSE and, where there is XSAVE, extended state: the kernel does not use them, but its tests do.
pub fn enable_features() {
    const OSFXSR_OSXMMEXCPT: u64 = 3 << 9;
    const OSXSAVE: u64 = 1 << 18;
    let has_xsave = core::arch::x86_64::__cpuid(1).ecx & 1 << 26 != 0;
    let cr4 = cpu::cr4() | OSFXSR_OSXMMEXCPT | if has_xsave { OSXSAVE } else { 0 };
    // SAFETY: enables instructions; clears EM and TS and sets MP and NE, so that the FPU is usable.
    unsafe {
        cpu::set_cr4(cr4);
        cpu::set_cr0(cpu::cr0() & !0xC | 0x22);
    }
}
