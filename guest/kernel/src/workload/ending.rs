//! The workloads that end a domain in some way, or misbehave without end: each must harm nobody else.
#![allow(unsafe_code)] // They break their own kernel on purpose.

use crate::{clock, interrupt, page, paging, panic, percpu, print, println, thread};
use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicU32, Ordering};
use ebb_guest_hypercall::{Gfn, Port, VcpuId, event_channel, memory, vcpu};
use ebb_guest_logic::args::Args;
use shared_abi::vcpu::{RUNSTATE_RUNNABLE, RUNSTATE_RUNNING};
use shared_abi::xen::PAGE_SIZE;

/// The time at which `duration=` (ms, 0 or absent: never) has passed.
fn deadline(args: Args<'static>) -> Result<u64, String> {
    let duration = args.number("duration", 0).map_err(|bad| format!("{}={} is no number", bad.key, bad.value))?;
    Ok(if duration == 0 { u64::MAX } else { clock::now() + duration * 1_000_000 })
}

/// `spin`: uses its processor without a pause, on every vCPU, for `duration=` ms or for ever; then says how much of that
/// time it had a processor, as the hypervisor counts it.
pub fn spin(args: Args<'static>) -> Result<(), String> {
    let until = deadline(args)?;
    println!("spin: starting");
    let start = clock::now();
    let before = Shares::now()?;
    let others: alloc::vec::Vec<_> = (1..crate::smp::online())
        .map(|cpu| thread::spawn("spinner", Some(cpu), move || burn(until)))
        .collect::<Result<_, _>>()?;
    burn(until);
    others.into_iter().for_each(thread::JoinHandle::join);
    let passed = (clock::now() - start).max(1);
    let after = Shares::now()?;
    println!(
        "spin: {} vCPUs ran {} and waited {} per mille of {} ms",
        crate::smp::online(),
        (after.running - before.running) * 1000 / passed,
        (after.waiting - before.waiting) * 1000 / passed,
        passed / 1_000_000
    );
    println!("spin: done");
    Ok(())
}

/// Where the time of all vCPUs went, in nanoseconds.
struct Shares {
    running: u64,
    waiting: u64,
}

impl Shares {
    fn now() -> Result<Self, String> {
        let mut shares = Self { running: 0, waiting: 0 };
        for cpu in 0..crate::smp::online() {
            let info = vcpu::runstate(VcpuId(cpu as u32)).map_err(|errno| format!("runstate: {errno}"))?;
            shares.running += info.time[RUNSTATE_RUNNING as usize];
            shares.waiting += info.time[RUNSTATE_RUNNABLE as usize];
        }
        Ok(shares)
    }
}

fn burn(until: u64) {
    while clock::now() < until {
        // No PAUSE: an emulator that counts instructions takes a thousand times as long for one.
        for number in 0..10_000 {
            core::hint::black_box(number);
        }
    }
}

/// `tripleflt`: faults without an interrupt table.
pub fn triple_fault(_: Args<'static>) -> Result<(), String> {
    println!("tripleflt: now");
    interrupt::forget_table();
    let _ = crate::fixup::undefined();
    Err("still running after a triple fault".into())
}

/// `flood-console`: prints as fast as it can, `lines=` lines (default 10000) or for `duration=` ms.
pub fn flood_console(args: Args<'static>) -> Result<(), String> {
    let until = deadline(args)?;
    let lines = args.number("lines", 10_000).unwrap_or(10_000);
    for line in 0..lines {
        if clock::now() >= until {
            break;
        }
        println!("flood: line {line} ...............................................................");
        // A very long line, and bytes that a terminal would obey.
        if line % 100 == 0 {
            (0..64).for_each(|_| print!("flood: no end of this line \x1b[2J\x07\0"));
        }
    }
    println!("\nflood: done");
    Ok(())
}

/// `send-loop`: sends events to itself, to masked ports and to ports it does not have, for `duration=` ms or for ever.
pub fn send_loop(args: Args<'static>) -> Result<(), String> {
    let until = deadline(args)?;
    println!("send-loop: starting");
    let own = Port(percpu::own().kick_port.load(Ordering::Relaxed));
    let mut sent = 0u64;
    while clock::now() < until {
        for number in 0..1000u32 {
            let _ = event_channel::send(if number % 3 == 0 { Port(number) } else { own });
            sent += 1;
        }
    }
    println!("send-loop: done, {sent} events");
    Ok(())
}

/// `unmap-all`: empties its own page-table root and flushes the TLB, so that nothing is mapped, not even handlers.
pub fn unmap_all(_: Args<'static>) -> Result<(), String> {
    println!("unmap-all: now");
    // SAFETY: none: the kernel ends here, by the triple fault that follows.
    unsafe {
        page::words(paging::root() / PAGE_SIZE).fill(0);
        crate::cpu::set_cr3(paging::root());
    }
    Err("still running with nothing mapped".into())
}

/// `free-page-tables`: gives the page of its own page-table root to the hypervisor.
pub fn free_page_tables(_: Args<'static>) -> Result<(), String> {
    println!("free-page-tables: now");
    let root = Gfn(paging::root() / PAGE_SIZE);
    // SAFETY: none: the kernel ends here, one way or another.
    let freed = unsafe { memory::decrease_reservation(&[root], 0) };
    // SAFETY: reloading the same root flushes the TLB.
    unsafe { crate::cpu::set_cr3(root.0 * PAGE_SIZE) };
    Err(format!("still running after its page tables were freed ({freed:?})"))
}

/// `crash`: panics.
pub fn crash(_: Args<'static>) -> Result<(), String> {
    panic!("on purpose: workload=crash");
}

/// `stack-overflow`: runs over the guard page of its stack.
pub fn stack_overflow(_: Args<'static>) -> Result<(), String> {
    println!("stack-overflow: now");
    Err(format!("still running after {}", panic::overflow_stack(1000)))
}

/// `reboot`: asks to be started anew, after `after=` ms.
pub fn reboot(args: Args<'static>) -> Result<(), String> {
    thread::sleep(args.number("after", 0).unwrap_or(0) * 1_000_000);
    println!("reboot: now");
    panic::reboot();
}

/// `idle-forever`: does nothing, for `duration=` ms or for ever.
pub fn idle_forever(args: Args<'static>) -> Result<(), String> {
    println!("idle-forever: starting");
    thread::sleep_until(deadline(args)?);
    Ok(())
}

/// `halt`: halts all vCPUs with interrupts off, which ends a domain as well as a power-off.
pub fn halt(_: Args<'static>) -> Result<(), String> {
    println!("halt: now");
    // This thread stays on its vCPU: it neither sleeps nor yields from here on.
    let own = percpu::id();
    let others = (0..crate::smp::online()).filter(|cpu| *cpu != own);
    for cpu in others.clone() {
        let _ = thread::spawn("halter", Some(cpu), || {
            HALTED.fetch_add(1, Ordering::Release);
            halt_for_ever()
        })?;
    }
    let others = others.count();
    while (HALTED.load(Ordering::Acquire) as usize) < others {
        core::hint::spin_loop();
    }
    halt_for_ever()
}

/// vCPUs whose halt is certain.
static HALTED: AtomicU32 = AtomicU32::new(0);

fn halt_for_ever() -> ! {
    loop {
        crate::cpu::interrupts_off();
        crate::cpu::halt();
    }
}
