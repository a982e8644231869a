//! `workload=hello`: prints what the kernel sees, and ends.

use crate::{apic, clock, events, idle, page, println, smp, start_info, thread, xen};
use alloc::string::String;
use ebb_guest_hypercall::{call, memory, version};
use ebb_guest_logic::args::Args;

fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..end]).unwrap_or("?")
}

/// Runs the workload.
pub fn run(args: Args<'static>) -> Result<(), String> {
    let info = start_info::get();
    let hypervisor = xen::hypervisor();
    println!("hello: arguments: {}", args.text());
    let found = version::version().map_err(|errno| alloc::format!("xen_version: {errno}"))?;
    let extra = version::extraversion().unwrap_or([0; 16]);
    println!(
        "hello: Xen interface {}.{}{} at CPUID {:#x}, features {:#x}, calls through {:?}",
        found >> 16,
        found & 0xFFFF,
        text(&extra),
        hypervisor.base,
        hypervisor.features,
        call::gate()
    );
    println!("hello: feature map {:?}", version::features(0));
    println!("hello: start info version {}, flags {:#x}, {} modules", info.version, info.flags, info.modules.len());
    for entry in &info.memory_map {
        println!("hello: memory {:#012x}-{:#012x} type {}", entry.start, entry.end, entry.kind);
    }
    println!(
        "hello: {} pages of RAM, {} free, {} free 2 MiB extents; reservation {:?} of at most {:?}",
        page::ram_pages(),
        page::free_pages(),
        page::free_extents(),
        memory::current_reservation(),
        memory::maximum_reservation()
    );
    println!(
        "hello: {} of {} vCPUs online, {}, events by {}, upcalls by {}",
        smp::online(),
        smp::possible(),
        if apic::is_x2apic() { "x2APIC" } else { "xAPIC" },
        if events::is_fifo() { "FIFO" } else { "2-level" },
        if events::by_apic() { "APIC vector" } else { "callback vector" },
    );
    let (seconds, nanoseconds) = clock::wall();
    println!("hello: TSC {} kHz, wall clock {seconds}.{nanoseconds:09}", clock::tsc_khz());
    let before = clock::now();
    thread::sleep(10_000_000);
    println!("hello: slept {} us for 10000 us, idle by {}", (clock::now() - before) / 1000, idle::way());
    for cpu in 0..smp::online() {
        let handle = thread::spawn("greeter", Some(cpu), move || println!("hello: from vCPU {cpu}"))?;
        handle.join();
    }
    println!("hello: done");
    Ok(())
}
