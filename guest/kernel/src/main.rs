//! Ebb's guest kernel: a small 64-bit SMP kernel that runs as a PVH domain on Ebb and on Xen, and the workloads, tests
//! and benchmarks that run on it.
//!
//! The command line chooses what to run: `workload=NAME`, `test=NAME[,NAME...]` or `bench`; see `docs/guest.md`.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
#![cfg(target_os = "none")]

extern crate alloc;

mod acpi;
mod apic;
mod balloon;
mod bench;
mod clock;
mod console;
mod control;
mod cpu;
mod event_loop;
mod events;
mod fixup;
mod heap;
mod idle;
mod interrupt;
mod lock;
mod mutex;
mod page;
mod paging;
mod panic;
mod percpu;
mod program;
mod pv;
mod reclaim;
mod selfballoon;
mod smp;
mod start_info;
mod test;
mod thread;
mod timer;
mod trace;
mod workload;
mod xen;
mod xenstore;

use ebb_guest_hypercall::DomId;

/// The boot processor's first Rust function: `asm/boot.s` calls it with the start info's physical address.
extern "C" fn kernel_main(start_info_address: u32) -> ! {
    percpu::init(0);
    if let Err(why) = start(u64::from(start_info_address)) {
        panic!("cannot start: {why}");
    }
    percpu::own().online.store(true, core::sync::atomic::Ordering::Release);
    let spawned = thread::spawn("main", None, program::main);
    if let Err(why) = spawned {
        panic!("cannot start: {why}");
    }
    thread::idle_loop()
}

/// Everything from the first instruction to the first thread, in the order of dependence.
fn start(start_info_address: u64) -> Result<(), &'static str> {
    interrupt::init_table();
    interrupt::init_cpu(0)?;
    xen::find()?;
    let info = start_info::parse(start_info_address)?;
    xen::choose_gate();
    if let (true, Some(domain)) = (test::is_privileged(), xen::hypervisor().domid) {
        console::mark_lines(DomId(domain as u16));
    }
    page::init(info, room_to_grow())?;
    paging::init(info, page::layout())?;
    page::open_high();
    thread::init()?;
    xen::map_shared_info()?;
    apic::choose()?;
    events::init()?;
    console::choose()?;
    smp::enable_features();
    apic::init_cpu()?;
    events::init_cpu()?;
    idle::choose(start_info::args().get("idle") == Some("block"));
    smp::start_all()
}

/// Pages that the domain may get beyond those it has.
fn room_to_grow() -> u64 {
    use ebb_guest_hypercall::memory::{current_reservation, maximum_reservation};
    match (current_reservation(), maximum_reservation()) {
        (Ok(current), Ok(maximum)) => maximum.saturating_sub(current),
        _ => 0,
    }
}
