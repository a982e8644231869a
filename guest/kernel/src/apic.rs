//! The local APIC: by MSRs (x2APIC) where the processor has that, by its page (xAPIC) otherwise or with `apic=x`.
#![allow(unsafe_code)] // MSRs and device memory.

use crate::{cpu, fixup, paging, start_info};
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};
use ebb_ordered_io::{Bus, Device, Flushed, ReadOnly, ReadWrite, Register, WriteOnly};
use shared_abi::xen::PAGE_SIZE;

const MSR_APIC_BASE: u32 = 0x1B;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
const MSR_X2APIC: u32 = 0x800;
/// Where the registers of an xAPIC are.
pub const PAGE: u64 = 0xFEE0_0000;

/// Register numbers: offset in the page divided by 16.
pub mod register {
    /// Number of this local APIC.
    pub const ID: u32 = 0x02;
    /// Version.
    pub const VERSION: u32 = 0x03;
    /// Task priority.
    pub const TPR: u32 = 0x08;
    /// End of interrupt.
    pub const EOI: u32 = 0x0B;
    /// Logical destination.
    pub const LDR: u32 = 0x0D;
    /// Spurious vector and software enable.
    pub const SVR: u32 = 0x0F;
    /// First of the in-service words.
    pub const ISR: u32 = 0x10;
    /// First of the request words.
    pub const IRR: u32 = 0x20;
    /// Interrupt command (64 bits in x2APIC).
    pub const ICR: u32 = 0x30;
    /// Interrupt command, high half (xAPIC only).
    pub const ICR_HIGH: u32 = 0x31;
    /// Timer's vector.
    pub const LVT_TIMER: u32 = 0x32;
    /// Timer's initial count.
    pub const TIMER_INITIAL: u32 = 0x38;
    /// Timer's current count.
    pub const TIMER_CURRENT: u32 = 0x39;
    /// Timer's divisor.
    pub const TIMER_DIVIDE: u32 = 0x3E;
    /// Self IPI (x2APIC only).
    pub const SELF_IPI: u32 = 0x3F;
}

/// Software enable in the spurious vector register.
const SVR_ENABLE: u32 = 1 << 8;
/// ICR: INIT, level, assert.
const ICR_INIT: u32 = 0xC500;
/// ICR: INIT, level, de-assert.
const ICR_INIT_END: u32 = 0x8500;
/// ICR: start-up.
const ICR_STARTUP: u32 = 0x4600;
/// ICR: delivery under way (xAPIC).
const ICR_BUSY: u32 = 1 << 12;

static X2APIC: AtomicBool = AtomicBool::new(false);

/// Are the registers MSRs?
pub fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

/// Chooses the mode for all vCPUs and maps the page. On the boot processor.
pub fn choose() -> Result<(), &'static str> {
    let has = __cpuid(1).ecx & 1 << 21 != 0;
    let args = start_info::args();
    // One of the benchmarks reads the page.
    let wants_page = match args.get("apic") {
        Some(mode) => mode == "x",
        None => args.flag("bench") || args.get("bench").is_some(),
    };
    X2APIC.store(has && !wants_page, Ordering::Relaxed);
    // SAFETY: the local APIC's page is no RAM; it is accessed by volatile reads and writes below only.
    unsafe { paging::map(PAGE, PAGE, PAGE_SIZE, paging::DEVICE) }
}

/// Enables the calling vCPU's local APIC.
pub fn init_cpu() -> Result<(), &'static str> {
    let base = fixup::rdmsr(MSR_APIC_BASE).map_err(|_| "there is no local APIC")?;
    let wanted = base | BASE_ENABLED | if is_x2apic() { BASE_X2APIC } else { 0 };
    if wanted != base {
        // SAFETY: enabling the local APIC in the chosen mode.
        unsafe { fixup::wrmsr(MSR_APIC_BASE, wanted) }.map_err(|_| "the local APIC's mode is refused")?;
    }
    write(register::SVR, SVR_ENABLE | u32::from(crate::interrupt::SPURIOUS_VECTOR));
    write(register::TPR, 0);
    Ok(())
}

/// The page of the registers. An access is 32 bits wide, and only to the calling vCPU's local APIC.
#[derive(Debug)]
struct Page;

impl Bus<u32> for Page {
    fn load(&self, offset: usize) -> u32 {
        // SAFETY: mapped by `choose`.
        unsafe { core::ptr::with_exposed_provenance::<u32>(PAGE as usize + offset).read_volatile() }
    }

    fn store(&self, offset: usize, value: u32) {
        let place = core::ptr::with_exposed_provenance_mut::<u32>(PAGE as usize + offset);
        // SAFETY: mapped by `choose`.
        unsafe { place.write_volatile(value) };
    }

    fn barrier(&self) {
        // The page is uncached: the processor keeps the order, the compiler has to.
        compiler_fence(Ordering::SeqCst);
    }
}

/// The place of a register in the page.
const fn at<A>(register: u32) -> Register<u32, A> {
    Register::at(register as usize * 16)
}

/// The local APIC behind its page. Its identification is safe to read.
const fn page() -> Device<Page> {
    Device::new(Page, at(register::ID))
}

/// Reads a register.
pub fn read(register: u32) -> u32 {
    if is_x2apic() {
        // SAFETY: reading the registers named in this module has no effect.
        return unsafe { cpu::rdmsr(MSR_X2APIC + register) } as u32;
    }
    page().read_relaxed(at::<ReadOnly>(register))
}

/// Writes a register.
pub fn write(register: u32, value: u32) {
    if is_x2apic() {
        // SAFETY: what interrupts follow from it is what the caller wants.
        unsafe { cpu::wrmsr(MSR_X2APIC + register, value.into()) };
        return;
    }
    page().write_relaxed(at::<WriteOnly>(register), value);
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    write(register::EOI, 0);
}

/// The calling vCPU's local APIC number.
pub fn id() -> u32 {
    let id = read(register::ID);
    if is_x2apic() { id } else { id >> 24 }
}

/// Sends a command to another local APIC. Interrupts should be off: the command register has two halves.
pub fn send(destination: u32, command: u32) {
    let interrupts = cpu::interrupts_off();
    if is_x2apic() {
        // SAFETY: what the other vCPU does with it is what the caller wants.
        unsafe { cpu::wrmsr(MSR_X2APIC + register::ICR, u64::from(destination) << 32 | u64::from(command)) };
    } else {
        send_by_page(&mut page(), destination, command);
    }
    if interrupts {
        cpu::interrupts_on();
    }
}

/// The command has two halves, and must have arrived before interrupts are on again: what a handler sends would mix with
/// it otherwise.
fn send_by_page(page: &mut Device<Page>, destination: u32, command: u32) {
    const COMMAND: Register<u32, ReadWrite> = at(register::ICR);
    let page = Flushed::new(page);
    page.write_relaxed(at::<WriteOnly>(register::ICR_HIGH), destination << 24);
    // Ordered: what the receiver shall find in memory is there before.
    page.write(COMMAND, command);
    while page.read(COMMAND) & ICR_BUSY != 0 {
        core::hint::spin_loop();
    }
}

/// Sends an interrupt.
pub fn send_vector(destination: u32, vector: u8) {
    send(destination, 0x4000 | u32::from(vector));
}

/// Starts another processor at `page` (below 1 MiB) by INIT and two start-ups, as processors want it.
pub fn start_processor(destination: u32, page: u8) {
    send(destination, ICR_INIT);
    crate::clock::spin(10_000_000);
    if !is_x2apic() {
        send(destination, ICR_INIT_END);
    }
    for _ in 0..2 {
        send(destination, ICR_STARTUP | u32::from(page));
        crate::clock::spin(200_000);
    }
}
