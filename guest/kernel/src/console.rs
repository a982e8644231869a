//! The console: `println!` to the hypervisor's `console_io`, or to port 0xe9 and COM1 where there is no hypervisor.
//!
//! A line is put together in a buffer and leaves in one hypercall, so lines of different vCPUs do not mix. The
//! hypervisor marks lines with the domain whose they are, except those of a privileged domain, which come out as they
//! are; such a domain marks its own.
#![allow(unsafe_code)] // Port writes.

use crate::cpu;
use crate::lock::IrqLock;
use core::fmt::{self, Write};
use ebb_guest_hypercall as hypercall;
use ebb_guest_hypercall::DomId;

/// Bytes in one write.
const CHUNK: usize = 256;

struct Line {
    bytes: [u8; CHUNK],
    length: usize,
    /// The domain to mark lines with.
    mark: Option<DomId>,
    begun: bool,
}

static LINE: IrqLock<Line> = IrqLock::new(Line { bytes: [0; CHUNK], length: 0, mark: None, begun: false });

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
        emit(&self.bytes[..self.length]);
        self.length = 0;
    }
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
