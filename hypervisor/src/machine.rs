//! Bringing the machine up, in order, and refusing in one clear line where that cannot be done.
#![allow(unsafe_code, reason = "changes stacks on the way up")]

use crate::boot::info::{BootError, BootInfo, Protocol};
use crate::boot::{self, Boot, BootMemory};
use crate::cpu::start::{self, Plan};
use crate::cpu::{CpuId, MAX_CPUS};
use crate::memory::MemoryError;
use crate::options::{self, Options};
use crate::{acpi, apic, console, cpu, debug, error, features, info, interrupts, memory, panic, power, time, warn};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// What the boot processor does at the end.
static RUN: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static AP_RUN: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// TSC at the first Rust instruction.
static START_TSC: AtomicU64 = AtomicU64::new(0);

/// How long the machine has been up, and how much of that the boot processor waited, in TSC ticks.
pub fn ticks_since_start() -> (u64, u64) {
    (time::rdtsc() - START_TSC.load(Ordering::Relaxed), time::waited())
}

/// Prints why Ebb cannot run here, and ends with status 0x13.
pub fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    error!("cannot start: {why}");
    power::power_off(power::status::CANNOT_START)
}

/// Everything from the first Rust instruction to `run` on this processor, and `ap_run` on every other.
///
/// `protocol` and `info` are what the loader left in registers. Runs on the boot stack.
pub fn bring_up(protocol: u32, info: u64, run: fn(Boot) -> !, ap_run: fn(CpuId) -> !) -> ! {
    START_TSC.store(time::rdtsc(), Ordering::Relaxed);
    cpu::adopt(0);
    interrupts::init();
    cpu::init_tables();
    interrupts::disable_pics();
    RUN.store(run as *mut (), Ordering::Release);
    AP_RUN.store(ap_run as *mut (), Ordering::Release);

    let info = match boot::parse(&BootMemory, protocol, info) {
        Ok(info) => boot::keep(info),
        Err(error) => refuse_boot(error),
    };
    set_options(info);
    if let Err(error) = memory::init(info, options::options().memory_limit) {
        refuse_memory(error);
    }
    console::remap_screen(info);
    if cpu::make_stacks(0).is_err() {
        refuse(format_args!("no memory for stacks"));
    }
    cpu::init_tables();
    // SAFETY: the main stack was mapped just now; what is on the boot stack is not needed again.
    unsafe { cpu::switch_stack(bring_up_rest) }
}

fn refuse_boot(error: BootError) -> ! {
    console::init(&Options::DEFAULT, None);
    match error {
        BootError::UnknownProtocol(magic) => refuse(format_args!("{} ({magic:#x})", error.text())),
        _ => refuse(format_args!("{}", error.text())),
    }
}

fn refuse_memory(error: MemoryError) -> ! {
    match error {
        MemoryError::TooLittle { found } => {
            refuse(format_args!("{} MiB of RAM; at least {} MiB are needed", found >> 20, memory::MIN_RAM >> 20))
        }
        MemoryError::TooManyRanges => refuse(format_args!("the memory map has too many pieces")),
        MemoryError::Map(error) => refuse(format_args!("the address space cannot be built ({error:?})")),
    }
}

/// Parses the command line and opens the consoles; complaints follow, since only then they can be seen.
fn set_options(info: &BootInfo) {
    options::set(options::parse(&info.command_line, |_| {}));
    console::init(options::options(), Some(info));
    options::parse(&info.command_line, |word| warn!("option not understood: {word}"));
    if info.ignored > 0 {
        warn!("{} parts of the loader's information were malformed or too many", info.ignored);
    }
}

/// The second part, on the boot processor's main stack.
extern "C" fn bring_up_rest() -> ! {
    // SAFETY: `bring_up` has switched the page tables and the stack.
    unsafe { memory::reclaim_boot_memory() };
    let info = boot::info();
    let options = options::options();
    let acpi = acpi::init(info.rsdp);
    time::choose_timer();
    let mode = match apic::choose_mode(options.no_x2apic) {
        Ok(mode) => mode,
        Err(error) => refuse(format_args!("no usable local APIC ({error:?})")),
    };
    apic::init_this_cpu();
    apic::enable_nmi_line(acpi.nmi_lint);
    let boot_apic_id = apic::own_id();
    start::boot_cpu_online(boot_apic_id);

    let plan =
        Plan { entries: &acpi.cpus, boot_apic_id, limit: options.max_cpus.map_or(MAX_CPUS, |limit| limit as usize) };
    // The 10 ms between INIT and SIPI pass while the clock is calibrated.
    start::send_init(&plan);
    let reference = match time::init(acpi) {
        Ok(reference) => reference,
        Err(time::NoReference) => refuse(format_args!("no timer to calibrate the TSC with")),
    };
    let ap_run = AP_RUN.load(Ordering::Acquire);
    // SAFETY: `bring_up` stored a function of this type.
    let ap_run: fn(CpuId) -> ! = unsafe { core::mem::transmute(ap_run) };
    start::start_all(&plan, ap_run);
    banner(info, mode, reference);
    console::input::init();
    let present = acpi.cpus.len() + acpi.more_cpus;
    if present > MAX_CPUS {
        warn!("{present} CPUs are present; this build uses at most {MAX_CPUS}");
    }
    debug!("display: {:?}", info.display);
    debug!("power-off: {:?}, reset: {:?}", acpi.power_off, acpi.reset);
    // Under an instruction-counting emulator these are instructions.
    let (ticks, waited) = ticks_since_start();
    debug!("bring-up took {} TSC ticks, and {waited} of waiting", ticks - waited);
    panic::run_test();
    start::release_all();
    let run = RUN.load(Ordering::Acquire);
    // SAFETY: `bring_up` stored a function of this type.
    let run: fn(Boot) -> ! = unsafe { core::mem::transmute(run) };
    run(Boot { info, cpus: cpu::cpu_count() })
}

fn banner(info: &BootInfo, mode: apic::Mode, reference: &str) {
    let figures = memory::figures();
    info!(
        "Ebb {} by {}: {} CPU{} ({}), {} MiB RAM, TSC {}.{:03} MHz by {}",
        env!("CARGO_PKG_VERSION"),
        info.protocol.name(),
        cpu::cpu_count(),
        if cpu::cpu_count() == 1 { "" } else { "s" },
        mode.name(),
        figures.ram >> 20,
        time::tsc_khz() / 1000,
        time::tsc_khz() % 1000,
        reference,
    );
    info!(
        "{} KiB used (heap {} KiB), {} KiB free for guests, {} module{}",
        figures.hypervisor >> 10,
        figures.heap >> 10,
        figures.free >> 10,
        info.modules.len(),
        if info.modules.len() == 1 { "" } else { "s" },
    );
}

/// Ends with a clear line when guests cannot run here or there are none.
pub fn refuse_if_unusable(boot: &Boot) {
    if let Err(missing) = features::check(&raw_cpuid::CpuId::new()) {
        refuse(format_args!("{}", missing.text()));
    }
    if boot.info.modules.is_empty() {
        let how = match boot.info.protocol {
            Protocol::Pvh => "give an archive made by `ebb pack` with -initrd",
            Protocol::Multiboot2 => "add `module2` lines to the boot menu's entry",
        };
        refuse(format_args!("no guests: {how}"));
    }
}
