//! The console: `println!` to the hypervisor's `console_io`, to the console ring with the argument `console=ring`, or to
//! port 0xe9 and COM1 where there is no hypervisor.
//!
//! A line is put together in a buffer and leaves in one hypercall, so lines of different vCPUs do not mix. The
//! hypervisor marks lines with the domain whose they are, except those of a privileged domain, which come out as they
//! are; such a domain marks its own. A ring whose other end does not take anything for a while, or breaks it, is left
//! for `console_io`: what was printed is not lost.
#![allow(unsafe_code)] // Port writes, the ring's page.

use crate::lock::IrqLock;
use crate::xenstore::{self, RingPage};
use crate::{clock, cpu, start_info};
use core::fmt::{self, Write};
use ebb_guest_hypercall as hypercall;
use ebb_guest_hypercall::{DomId, Port, event_channel, sched};
use ebb_ring::{Layout, Producer};
use shared_abi::hvm::params::{CONSOLE_EVTCHN, CONSOLE_PFN};

/// Bytes in one write.
const CHUNK: usize = 256;

/// How long a full ring is waited for.
const PATIENCE: u64 = 20_000_000_000;

struct Line {
    bytes: [u8; CHUNK],
    length: usize,
    /// The domain to mark lines with.
    mark: Option<DomId>,
    begun: bool,
    ring: Option<Ring>,
}

static LINE: IrqLock<Line> = IrqLock::new(Line { bytes: [0; CHUNK], length: 0, mark: None, begun: false, ring: None });

/// Marks lines from now on as those of `domain`.
pub fn mark_lines(domain: DomId) {
    LINE.lock().mark = Some(domain);
}

impl Line {
    fn put(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
        if byte == b'\n' || self.length == CHUNK {
            self.flush();
        }
    }

    /// What stands at a line's beginning.
    fn begin(&mut self) {
        if let Some(domain) = self.mark {
            self.begun = true;
            // Writing to the buffer does not fail.
            let _ = write!(self, "(d{}) ", domain.0);
        }
    }

    fn flush(&mut self) {
        let mut bytes = &self.bytes[..self.length];
        if let Some(ring) = &mut self.ring {
            match ring.write(bytes) {
                Ok(()) => bytes = &[],
                Err(rest) => {
                    bytes = rest;
                    self.ring = None;
                }
            }
        }
        if !bytes.is_empty() {
            emit(bytes);
        }
        self.length = 0;
    }
}

/// The guest's end of the console ring's output.
struct Ring {
    page: &'static RingPage,
    output: Producer,
    port: Port,
}

impl Ring {
    /// Puts all bytes in, waiting for room; the rest when the other end does not work.
    fn write<'b>(&mut self, mut bytes: &'b [u8]) -> Result<(), &'b [u8]> {
        let mut full_since = None;
        while !bytes.is_empty() {
            match self.output.write(self.page, bytes) {
                Err(_) => return Err(bytes),
                Ok(0) => {
                    let now = clock::now();
                    if now > *full_since.get_or_insert(now) + PATIENCE || sched::yield_now().is_err() {
                        return Err(bytes);
                    }
                }
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    full_since = None;
                    event_channel::send(self.port).map_err(|_| bytes)?;
                }
            }
        }
        Ok(())
    }
}

/// Goes over to the console ring where the arguments ask for it and there is one.
pub fn choose() -> Result<(), &'static str> {
    if start_info::args().get("console") != Some("ring") {
        return Ok(());
    }
    if let Some((gfn, port)) = xenstore::ring_of(CONSOLE_PFN, CONSOLE_EVTCHN) {
        let page = xenstore::map_ring(gfn)?;
        let output = Producer::attach(Layout::CONSOLE_OUTPUT, page);
        LINE.lock().ring = Some(Ring { page, output, port });
    }
    Ok(())
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if !self.begun {
                self.begin();
            }
            self.begun = byte != b'\n';
            self.put(byte);
        }
        Ok(())
    }
}

/// Sends bytes out by whatever way there is.
fn emit(bytes: &[u8]) {
    if hypercall::call::is_open() && hypercall::console::write(bytes).is_ok() {
        return;
    }
    for byte in bytes {
        // SAFETY: the debug port and the serial port's data register only print.
        unsafe {
            cpu::outb(0xe9, *byte);
            cpu::outb(0x3f8, *byte);
        }
    }
}

/// For `print!` and `println!`.
pub fn print(arguments: fmt::Arguments<'_>) {
    // Writing to the buffer does not fail.
    let _ = LINE.lock().write_fmt(arguments);
}

/// Prints when the kernel is in ruins: no lock is waited for for ever.
pub fn print_anyway(arguments: fmt::Arguments<'_>) {
    for _ in 0..100_000 {
        if let Some(mut line) = LINE.try_lock() {
            let _ = line.write_fmt(arguments);
            return;
        }
        core::hint::spin_loop();
    }
    let _ = Raw.write_fmt(arguments);
}

/// Straight to the output.
struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        emit(text.as_bytes());
        Ok(())
    }
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(format_args!($($argument)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($argument)*))) };
}
