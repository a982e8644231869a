//! What is typed on COM1: taken by the receiver's interrupt, kept until a privileged domain reads it.
//!
//! The handler empties the UART and makes a note; it runs only where interrupts are open, so never under a lock of this
//! processor. What nobody reads fills a bounded queue, and what comes then is dropped, the newest first. The port's
//! data and status registers are read without the console's lock: reading disturbs no writer.
//!
//! A port has an interrupt line when it is one of the four that PCs have; input needs that and an I/O APIC.
//! Specification: National Semiconductor PC16550D.
#![allow(unsafe_code, reason = "a UART's ports, and a function behind an atomic pointer")]

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicPtr, AtomicU16, Ordering};

use spin::Mutex;

use crate::interrupts::CONSOLE_VECTOR;
use crate::options::options;
use crate::{debug, instr, io_apic};

/// Bytes kept for a reader.
const CAPACITY: usize = 1024;
/// Bytes taken by one interrupt; a line that brings more has another.
const MOST: usize = 256;

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const LINE_STATUS: u16 = 5;
const RECEIVED: u8 = 1 << 0;
const DATA_READY: u8 = 1 << 0;

static TYPED: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());
/// The UART's first port; 0 while there is no input.
static PORT: AtomicU16 = AtomicU16::new(0);
/// A `fn()` that is told when something has come.
static LISTENER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// The interrupt line of a PC's serial port.
fn line_of(port: u16) -> Option<u8> {
    match port {
        0x3f8 | 0x3e8 => Some(4),
        0x2f8 | 0x2e8 => Some(3),
        _ => None,
    }
}

/// Opens the input, if the console has a serial port. On the boot processor, which will take the interrupts.
pub(crate) fn init() {
    let port = options().com1_port;
    if !super::serial_is_open() {
        return;
    }
    let Some(line) = line_of(port) else {
        debug!("no console input: which interrupt line port {port:#x} has is not known");
        return;
    };
    TYPED.lock().reserve_exact(CAPACITY);
    if let Err(why) = io_apic::route_isa(line, CONSOLE_VECTOR) {
        debug!("no console input: {why}");
        return;
    }
    PORT.store(port, Ordering::Release);
    // SAFETY: the console has this UART in use; its receiver may now interrupt, which has a handler.
    unsafe { instr::outb(port + INTERRUPT_ENABLE, RECEIVED) };
}

/// Has `listener` called, by the handler, whenever something was typed. It may only make a note.
pub fn listen(listener: fn()) {
    LISTENER.store(listener as *mut (), Ordering::Release);
}

/// The interrupt: takes what has come.
pub(crate) fn receive() {
    let port = PORT.load(Ordering::Acquire);
    if port == 0 {
        return;
    }
    let mut typed = TYPED.lock();
    for _ in 0..MOST {
        // SAFETY: reading the status and the received byte of the console's UART, which nothing else receives from.
        let byte = unsafe {
            if instr::inb(port + LINE_STATUS) & DATA_READY == 0 {
                break;
            }
            instr::inb(port + DATA)
        };
        if typed.len() < CAPACITY {
            typed.push_back(byte);
        }
    }
    drop(typed);
    // The line may be wired to interrupt on its edge only. If more has come meanwhile, this makes another edge.
    // SAFETY: as in `init`.
    unsafe {
        instr::outb(port + INTERRUPT_ENABLE, 0);
        instr::outb(port + INTERRUPT_ENABLE, RECEIVED);
    }
    let listener = LISTENER.load(Ordering::Acquire);
    if !listener.is_null() {
        // SAFETY: `listen` stored a `fn()`.
        let listener = unsafe { core::mem::transmute::<*mut (), fn()>(listener) };
        listener();
    }
}

/// Takes what was typed: as much as there is and fits.
pub fn read(bytes: &mut [u8]) -> usize {
    let mut typed = TYPED.lock();
    let count = typed.len().min(bytes.len());
    for (place, byte) in bytes.iter_mut().zip(typed.drain(..count)) {
        *place = byte;
    }
    count
}
