//! Starting the other processors: INIT, SIPI, a real-mode trampoline, and the hand-shake (Intel SDM vol. 3, 9.4.4).
//!
//! INIT goes to all first, so that the 10 ms it asks for pass once (and are used to calibrate the timers); then each is
//! started on its own, because they share the trampoline's page. How long a processor takes to answer depends on what
//! runs this machine: under an emulator, on how busy its host is. So each gives a sign of life with its first
//! instructions. Without one it is reset and tried again; with one it is waited for, since a reset could find it with a
//! lock in its hands. A processor that does not come is left out with a warning.
#![allow(unsafe_code, reason = "the trampoline's page, and assembly that jumps into Rust")]

use super::{COUNT, CPUS, CpuId, MAX_CPUS, PerCpu};
use crate::acpi::CpuEntry;
use crate::memory::paging::{Access, PageTables};
use crate::memory::ranges::{PAGE_SIZE, PhysRange};
use crate::{apic, debug, instr, memory, time, warn};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

core::arch::global_asm!(include_str!("trampoline.S"), options(att_syntax));

// Where the trampoline expects its parameters; trampoline.S has the same numbers.
const PARAMETER_CR3: usize = 0xfe0;
const PARAMETER_STACK: usize = 0xfe8;
const PARAMETER_INDEX: usize = 0xff0;
const PARAMETER_ALIVE: usize = 0xff8;

/// How long a processor may take from SIPI to its sign of life, in µs.
const ALIVE_TIMEOUT_US: u64 = 2_000_000;
/// How long it may take from there until it is in Rust and its clock has been compared, in µs.
const ONLINE_TIMEOUT_US: u64 = 30_000_000;
/// Between INIT and SIPI, in µs.
const INIT_TIME_US: u64 = 10_000;
/// INIT and SIPI are tried so often.
const ATTEMPTS: u32 = 3;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// What each processor does once the boot processor lets it go.
static AP_RUN: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static RELEASED: AtomicBool = AtomicBool::new(false);

/// The processors to start: in ACPI's order, without the boot processor, at most `limit` and [`MAX_CPUS`] with it.
pub(crate) struct Plan<'a> {
    pub entries: &'a [CpuEntry],
    pub boot_apic_id: u32,
    pub limit: usize,
}

impl Plan<'_> {
    fn targets(&self) -> impl Iterator<Item = &CpuEntry> {
        let limit = self.limit.min(MAX_CPUS).saturating_sub(1);
        // Larger ids cannot be addressed through an xAPIC; 255 is everyone.
        let reachable = |id: u32| id < 255 || apic::mode() == apic::Mode::X2Apic;
        let others = self.entries.iter().filter(|entry| entry.apic_id != self.boot_apic_id);
        others.filter(move |entry| reachable(entry.apic_id)).take(limit)
    }

    /// Processors that nobody asked to leave out, and that are not used all the same.
    fn unreached(&self) -> usize {
        self.entries.len().min(self.limit).saturating_sub(1 + self.targets().count())
    }
}

/// Sends INIT to every processor of the plan. At least 10 ms must pass before [`start_all`].
pub(crate) fn send_init(plan: &Plan<'_>) {
    for entry in plan.targets() {
        apic::send_init(entry.apic_id);
    }
}

/// Starts every processor of the plan and waits until each is in Rust.
pub(crate) fn start_all(plan: &Plan<'_>, run: fn(CpuId) -> !) {
    let unreached = plan.unreached();
    if unreached != 0 {
        warn!(
            "{unreached} processors are not used: at most {MAX_CPUS} are, and without x2APIC those with ids below 255"
        );
    }
    if plan.targets().next().is_none() {
        return;
    }
    let page = memory::trampoline_page();
    if page == 0 {
        warn!("no free page below 640 KiB: only one CPU can be used");
        return;
    }
    AP_RUN.store(run as *mut (), Ordering::Release);
    let Some(tables) = prepare_trampoline(page) else {
        warn!("no memory to start other CPUs");
        return;
    };
    let mut index = 1;
    for entry in plan.targets() {
        if start_one(page, tables, index, entry) {
            index += 1;
        } else {
            warn!("the CPU with APIC id {} does not start; it is left out", entry.apic_id);
        }
    }
    COUNT.store(index, Ordering::Release);
}

/// Lets the started processors go to their `run`.
pub(crate) fn release_all() {
    RELEASED.store(true, Ordering::Release);
    for cpu in &super::all()[1..] {
        apic::send_kick(cpu.id());
    }
}

/// Copies the trampoline and builds the temporary page tables; returns their root, below 4 GiB.
fn prepare_trampoline(page: u64) -> Option<u32> {
    let start = core::ptr::addr_of!(trampoline_start);
    let size = core::ptr::addr_of!(trampoline_end) as usize - start as usize;
    assert!(size <= PARAMETER_CR3, "the trampoline runs into its parameters");
    // SAFETY: the page was taken for this by memory::init and is in the direct map; the trampoline is in rodata.
    unsafe { memory::phys_to_virt(page).copy_from_nonoverlapping(start, size) };

    let root = zeroed_page()?;
    let low = u32::try_from(root).ok()?;
    let upper_half = (PAGE_SIZE / 2) as usize;
    let from = memory::phys_to_virt(memory::page_table_root());
    // SAFETY: both are whole frames in the direct map; the upper half of the final root maps the hypervisor.
    unsafe { memory::phys_to_virt(root).add(upper_half).copy_from_nonoverlapping(from.add(upper_half), upper_half) };
    let mut tables = PageTables::new(root, false);
    tables.map(page, PhysRange::sized(page, PAGE_SIZE), Access::ReadExecute, &mut zeroed_page).ok()?;
    Some(low)
}

fn zeroed_page() -> Option<u64> {
    let page = memory::alloc_pages(1)?;
    // SAFETY: just allocated, in the direct map.
    unsafe { memory::phys_to_virt(page).write_bytes(0, PAGE_SIZE as usize) };
    Some(page)
}

fn start_one(page: u64, tables: u32, index: usize, entry: &CpuEntry) -> bool {
    let cpu: &PerCpu = &CPUS[index];
    // A processor that did not come has left its stacks to the next.
    if cpu.stack_top() == 0 && super::make_stacks(index).is_err() {
        return false;
    }
    cpu.apic_id.store(entry.apic_id, Ordering::Relaxed);
    cpu.acpi_id.store(entry.acpi_id, Ordering::Relaxed);
    let page_start = memory::phys_to_virt(page);
    // SAFETY: the parameters lie within the page, naturally aligned; no processor is in the trampoline now.
    unsafe {
        page_start.add(PARAMETER_CR3).cast::<u32>().write_volatile(tables);
        page_start.add(PARAMETER_STACK).cast::<u64>().write_volatile(cpu.stack_top());
        page_start.add(PARAMETER_INDEX).cast::<u64>().write_volatile(index as u64);
    }
    let alive = || {
        // SAFETY: a byte of the page, which the processor in the trampoline writes once.
        unsafe { page_start.add(PARAMETER_ALIVE).read_volatile() != 0 }
    };
    // SAFETY: as above; no processor is in the trampoline now.
    unsafe { page_start.add(PARAMETER_ALIVE).write_volatile(0) };
    let started = call_up(entry.apic_id, (page / PAGE_SIZE) as u8, alive)
        && time::sync::serve_until(ONLINE_TIMEOUT_US, || cpu.is_online());
    if !started {
        // It might still come: INIT stops it for good.
        apic::send_init(entry.apic_id);
        return false;
    }
    debug!("CPU {index} is up (APIC id {})", entry.apic_id);
    true
}

/// Sends SIPI until the processor gives its sign of life. INIT has been sent, and its time has passed.
fn call_up(apic_id: u32, vector: u8, alive: impl Fn() -> bool) -> bool {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            debug!("APIC id {apic_id} does not answer; once more");
            apic::send_init(apic_id);
            time::sync::serve_until(INIT_TIME_US, || false);
        }
        apic::send_startup(apic_id, vector);
        // Only a processor that has missed the first gets a second one: 200 µs, then the long wait.
        if time::sync::serve_until(200, &alive) {
            return true;
        }
        apic::send_startup(apic_id, vector);
        if time::sync::serve_until(ALIVE_TIMEOUT_US, &alive) {
            return true;
        }
    }
    false
}

/// First Rust code on a started processor, on its own main stack, with the temporary page tables.
#[unsafe(no_mangle)]
extern "C" fn ap_entry(index: u64) -> ! {
    let index = index as usize;
    super::adopt(index);
    // SAFETY: the final tables map everything that this code uses at the same addresses.
    unsafe { instr::set_cr3(memory::page_table_root()) };
    super::init_tables();
    apic::init_this_cpu();
    time::sync::measure_this_cpu();
    let cpu = super::this_cpu();
    cpu.set_activity(super::Doing::Idle, 0, 0, 0);
    cpu.online.store(true, Ordering::Release);
    while !RELEASED.load(Ordering::Acquire) {
        super::idle();
        cpu.take_kick();
    }
    let run = AP_RUN.load(Ordering::Acquire);
    // SAFETY: `start_all` stored a `fn(CpuId) -> !` before this processor was started.
    let run: fn(CpuId) -> ! = unsafe { core::mem::transmute(run) };
    run(cpu.id())
}

/// Marks the boot processor as running.
pub(crate) fn boot_cpu_online(apic_id: u32) {
    let cpu = super::this_cpu();
    cpu.apic_id.store(apic_id, Ordering::Relaxed);
    cpu.online.store(true, Ordering::Release);
}
