//! Non-maskable interrupts that are not the order to stop: a button, a watchdog, failing hardware.
//!
//! They come at any instruction of Ebb's, locks in hand. The handler only notes what it finds; the CPU's loop reports it
//! when it comes by, with what the machine is doing. `nmi=panic` makes each the end with a report at once: that is for a
//! hypervisor that hangs and does not come by. The note names the instruction all the same, if the console is free.
#![allow(unsafe_code)] // The port of the sources.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::cpu::{MAX_CPUS, this_cpu};
use crate::interrupts::Frame;
use crate::options::{OnNmi, options};
use crate::{console, instr, machine_check, panic, time, virt};

/// Bits of port 0x61: memory or bus, and an extension card; and those that acknowledge them.
const PORT: u16 = 0x61;
const MEMORY: u8 = 1 << 7;
const CARD: u8 = 1 << 6;
const CONTROL: u8 = 0x0f;
const ACKNOWLEDGE_MEMORY: u8 = 1 << 2;
const ACKNOWLEDGE_CARD: u8 = 1 << 3;

/// There was an NMI to report: what every kick looks at.
static ANY: AtomicBool = AtomicBool::new(false);
/// NMIs since boot.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// What the handler leaves for the loop of its CPU.
struct Note {
    waiting: AtomicBool,
    /// Where the last NMI was: an instruction of Ebb's, or 0 in a guest.
    place: AtomicU64,
    /// What port 0x61 said.
    source: AtomicU8,
}

static NOTES: [Note; MAX_CPUS] =
    [const { Note { waiting: AtomicBool::new(false), place: AtomicU64::new(0), source: AtomicU8::new(0) } }; MAX_CPUS];
/// When the last long report was made, ns.
static REPORTED: AtomicU64 = AtomicU64::new(0);

/// Reports that are made without a pause between them; after that only the 2^n-th NMI has one.
const FIRST: u64 = 64;
/// Nanoseconds between two long reports.
const PAUSE: u64 = 1_000_000_000;

/// An NMI, taken by the hypervisor (`frame`) or found as a VM exit (`None`).
pub fn taken(frame: Option<&Frame>) {
    if panic::stop_requested() {
        instr::halt_forever();
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let source = source();
    let in_guest = frame.is_none_or(|frame| virt::any::is_world_switch(frame.rip));
    match options().on_nmi {
        OnNmi::Ignore => return,
        OnNmi::Panic => panic::unexpected_nmi(frame.filter(|_| !in_guest)),
        OnNmi::Report => {}
    }
    let cpu = this_cpu();
    let place = if in_guest { 0 } else { frame.map_or(0, |frame| frame.rip) };
    if !in_guest && (number < FIRST || number.is_power_of_two()) {
        // The loop may be far. Without a free console there is only the report.
        console::try_report(format_args!("NMI {number} on CPU {} at {place:#x}", cpu.id().0));
    }
    let note = note();
    note.place.store(place, Ordering::Relaxed);
    note.source.store(source, Ordering::Relaxed);
    note.waiting.store(true, Ordering::Release);
    ANY.store(true, Ordering::Release);
    // So that the loop comes by.
    cpu.note_kick();
}

/// What the board says; acknowledged, so that the next one is heard.
fn source() -> u8 {
    // SAFETY: the port's input bits have no effect; what is acknowledged was only kept for us. The timer's bits stay.
    unsafe {
        let source = instr::inb(PORT);
        let mut acknowledge = 0;
        if source & MEMORY != 0 {
            acknowledge |= ACKNOWLEDGE_MEMORY;
        }
        if source & CARD != 0 {
            acknowledge |= ACKNOWLEDGE_CARD;
        }
        if acknowledge != 0 {
            instr::outb(PORT, source & CONTROL | acknowledge);
            instr::outb(PORT, source & CONTROL & !acknowledge);
        }
        source
    }
}

/// Whether there ever was an NMI to report: then [`report`] is to be called after kicks.
#[inline(always)]
pub fn any() -> bool {
    ANY.load(Ordering::Relaxed)
}

/// This CPU's note.
fn note() -> &'static Note {
    &NOTES[this_cpu().id().index()]
}

/// Reports the NMIs noted on this CPU, if any: a line, what the machine is doing, and what the CPU's banks have recorded.
#[cold]
pub fn report() {
    let note = note();
    if !note.waiting.swap(false, Ordering::Acquire) {
        return;
    }
    let (number, place) = (COUNT.load(Ordering::Relaxed), note.place.load(Ordering::Relaxed));
    if number >= FIRST && !number.is_power_of_two() {
        return;
    }
    let cause = match note.source.load(Ordering::Relaxed) & (MEMORY | CARD) {
        0 => "of unknown source",
        MEMORY => "from memory or the bus (SERR)",
        _ => "from an extension card (IOCHK)",
    };
    let cpu = this_cpu().id().0;
    if place == 0 {
        crate::warn!("NMI {number} {cause}, on CPU {cpu} in a guest");
    } else {
        crate::warn!("NMI {number} {cause}, on CPU {cpu} in Ebb at {place:#x}");
    }
    machine_check::report("seen at an NMI");
    let now = time::now_ns();
    let last = REPORTED.load(Ordering::Relaxed);
    let long_ago = last == 0 || now.saturating_sub(last) >= PAUSE;
    if long_ago && REPORTED.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        panic::describe_machine();
    }
}
