//! The consoles together; see the module above.
#![allow(unsafe_code, reason = "the console's lock can be broken by a panic, and video memory is mapped")]

use super::screen::Screen;
use super::serial::Serial;
use crate::boot::info::{BootInfo, Display};
use crate::memory;
use crate::memory::layout::{BOOT_MAPPED, DIRECT_MAP_BASE, LOW_MEMORY_END};
use crate::memory::paging::Access;
use crate::options::{Level, Options};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};
use spin::Mutex;

struct Console {
    serial: Serial,
    /// A guest's line is unfinished: the domain whose it is.
    open_line: Option<u16>,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console { serial: Serial::new(), open_line: None });
/// Locked only by who holds `CONSOLE`; apart from it so that its cells are not in the image's file.
static SCREEN: Mutex<Screen> = Mutex::new(Screen::new());
static COM2: Mutex<Serial> = Mutex::new(Serial::new());
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// COM2's first port.
const COM2_PORT: u16 = 0x2f8;
/// VGA's text cells.
const VGA_TEXT: u64 = 0xb_8000;

impl Console {
    fn write(&mut self, bytes: &[u8]) {
        self.serial.write_text(bytes);
        SCREEN.lock().write(bytes);
    }

    /// Ends an unfinished line, so that something else can begin.
    fn end_line(&mut self) {
        if self.open_line.take().is_some() {
            self.write(b"\n");
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

/// Opens what the options ask for, while the boot page tables are active.
pub(crate) fn init(options: &Options, info: Option<&BootInfo>) {
    LEVEL.store(options.log_level as u8, Ordering::Relaxed);
    let mut console = CONSOLE.lock();
    if options.serial_console {
        console.serial.open(options.com1_port, options.com1_baud);
    }
    if options.screen_console
        && let Some((display, address, size)) = display_of(info)
        && address + size <= BOOT_MAPPED
    {
        // SAFETY: entry.S mapped the low 4 GiB at the direct map's base; `remap_screen` follows the page tables.
        unsafe { SCREEN.lock().attach(display, (DIRECT_MAP_BASE + address) as *mut u8) };
    }
    drop(console);
    if options.trace {
        COM2.lock().open(COM2_PORT, 115_200);
    }
}

/// The display, its address and size. Under multiboot2 without any word about it, and under PVH, VGA's text mode is
/// assumed: writing there is harmless when it is not shown.
fn display_of(info: Option<&BootInfo>) -> Option<(Display, u64, u64)> {
    let display = info.and_then(|info| info.display).unwrap_or(Display::Text { address: VGA_TEXT });
    let (address, size) = match display {
        Display::Text { address } => (address, 80 * 25 * 2),
        Display::Pixels { address, pitch, height, .. } => (address, u64::from(pitch) * u64::from(height)),
    };
    address.checked_add(size)?;
    Some((display, address, size))
}

/// The final page tables are active: the screen's memory is mapped there. Between the switch and this call nothing is
/// printed to a framebuffer (memory::init prints nothing after the switch).
pub(crate) fn remap_screen(info: &BootInfo) {
    let mapped = display_of(Some(info)).and_then(|(_, address, size)| {
        if address + size <= LOW_MEMORY_END {
            return Some(memory::phys_to_virt(address));
        }
        memory::map_mmio(address, size, Access::WriteCombining).ok()
    });
    let _console = CONSOLE.lock();
    let mut screen = SCREEN.lock();
    match mapped {
        // SAFETY: the low megabyte is in the direct map; anything else was mapped just now, whole.
        Some(base) => unsafe { screen.rebase(base) },
        None => screen.detach(),
    }
}

/// One line of the hypervisor's own, if `level` is to be shown; use the macros `error!`, `warn!`, `info!`, `debug!`.
pub fn log(level: Level, text: fmt::Arguments<'_>) {
    if level as u8 > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let word = match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info | Level::Debug => "",
    };
    let mut console = CONSOLE.lock();
    console.end_line();
    // Writing never fails.
    let _ = writeln!(console, "(ebb) {word}{text}");
}

/// One line of a report, always shown and without a word in front.
pub fn report(text: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    console.end_line();
    let _ = writeln!(console, "(ebb) {text}");
}

/// [`report`] from where the lock may be held by what was interrupted: false when it is not free within a moment.
pub(crate) fn try_report(text: fmt::Arguments<'_>) -> bool {
    let console = (0..10_000).find_map(|_| {
        core::hint::spin_loop();
        CONSOLE.try_lock()
    });
    let Some(mut console) = console else { return false };
    console.end_line();
    let _ = writeln!(console, "(ebb) {text}");
    true
}

/// True when there is a serial port for text.
pub(super) fn serial_is_open() -> bool {
    CONSOLE.lock().serial.is_open()
}

/// What a privileged domain says, as it is: without a prefix, and any bytes. It may still be cut where somebody else
/// begins a line.
pub fn raw_text(domain: u16, bytes: &[u8]) {
    let mut console = CONSOLE.lock();
    if console.open_line != Some(domain) {
        console.end_line();
    }
    console.write(bytes);
    console.open_line = if bytes.last() == Some(&b'\n') { None } else { Some(domain) };
}

/// Text of a guest, any bytes: each line gets the prefix `(dN) `, and a line may come in pieces.
///
/// Bytes that are not printable ASCII, tab or newline are shown as `?`, so that a guest cannot send control sequences to
/// the terminal; carriage returns are dropped.
pub fn guest_text(domain: u16, bytes: &[u8]) {
    let mut console = CONSOLE.lock();
    for &byte in bytes {
        if byte == b'\r' {
            continue;
        }
        if console.open_line != Some(domain) {
            console.end_line();
            let _ = write!(console, "(d{domain}) ");
            console.open_line = Some(domain);
        }
        match byte {
            b'\n' => {
                console.write(b"\n");
                console.open_line = None;
            }
            b'\t' | 0x20..=0x7e => console.write(&[byte]),
            _ => console.write(b"?"),
        }
    }
}

/// Writes trace bytes to COM2: as many as its FIFO takes now (at most 16), without waiting; returns how many.
pub fn com2_write(bytes: &[u8]) -> usize {
    COM2.lock().write_now(bytes)
}

/// True when there is a COM2 and `trace=com2` was given.
pub fn com2_is_open() -> bool {
    COM2.lock().is_open()
}

/// Waits, bounded, until both serial ports have sent everything.
pub fn flush() {
    let mut console = CONSOLE.lock();
    console.end_line();
    console.serial.flush();
    drop(console);
    COM2.lock().flush();
}

/// Makes the console usable for a panic: if its lock is not free within a moment, it is taken away from its holder,
/// which has been stopped or is this processor itself.
pub(crate) fn break_lock() {
    break_one(&CONSOLE);
    break_one(&SCREEN);
    break_one(&COM2);
}

fn break_one<T>(lock: &Mutex<T>) {
    let free = (0..100_000).any(|_| {
        core::hint::spin_loop();
        lock.try_lock().is_some()
    });
    if !free {
        // SAFETY: the holder never goes on (the other processors have been stopped by NMI, and this one panics), so no
        // two guards are used at the same time. The state behind the lock is plain data without invariants that a
        // half-written line could break.
        unsafe { lock.force_unlock() }
    }
}

/// Prints a line at level error.
#[macro_export]
macro_rules! error {
    ($($text:tt)*) => { $crate::console::log($crate::options::Level::Error, format_args!($($text)*)) };
}

/// Prints a line at level warn.
#[macro_export]
macro_rules! warn {
    ($($text:tt)*) => { $crate::console::log($crate::options::Level::Warn, format_args!($($text)*)) };
}

/// Prints a line at level info.
#[macro_export]
macro_rules! info {
    ($($text:tt)*) => { $crate::console::log($crate::options::Level::Info, format_args!($($text)*)) };
}

/// Prints a line at level debug.
#[macro_export]
macro_rules! debug {
    ($($text:tt)*) => { $crate::console::log($crate::options::Level::Debug, format_args!($($text)*)) };
}
