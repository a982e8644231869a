//! A serial port for text: everything is written, but a port that does not take a byte in time is given up.
#![allow(unsafe_code, reason = "a UART's ports")]

use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};

/// Polls of a full transmitter before the port is given up. A poll takes a microsecond or so; a byte at 300 baud, 33 ms.
const PATIENCE: u32 = 200_000;

pub(super) struct Serial {
    uart: Option<Uart16550<PioBackend>>,
}

impl Serial {
    pub(super) const fn new() -> Self {
        Self { uart: None }
    }

    /// Takes the UART at `port` into use, if there is one.
    pub(super) fn open(&mut self, port: u16, baud: u32) {
        // SAFETY: the port is the PC's standard one or the user's choice; nothing else in the hypervisor uses it.
        let Ok(mut uart) = (unsafe { Uart16550::new_port(port) }) else {
            return;
        };
        let config = Config { baud_rate: BaudRate::from_integer(baud), ..Config::DEFAULT };
        self.uart = uart.init(config).is_ok().then_some(uart);
    }

    pub(super) fn is_open(&self) -> bool {
        self.uart.is_some()
    }

    /// Writes everything, with CR before LF.
    pub(super) fn write_text(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            match line.split_last() {
                Some((b'\n', text)) => {
                    self.write(text);
                    self.write(b"\r\n");
                }
                _ => self.write(line),
            }
        }
    }

    /// Writes everything.
    fn write(&mut self, mut bytes: &[u8]) {
        let Some(uart) = &mut self.uart else { return };
        let mut polls = 0;
        while !bytes.is_empty() {
            match uart.send_bytes(bytes) {
                0 if polls == PATIENCE => {
                    self.uart = None;
                    return;
                }
                0 => polls += 1,
                sent => {
                    bytes = &bytes[sent..];
                    polls = 0;
                }
            }
        }
    }

    /// Writes what the transmitter takes now, at most its FIFO (16 bytes); returns how many.
    pub(super) fn write_now(&mut self, bytes: &[u8]) -> usize {
        self.uart.as_mut().map_or(0, |uart| uart.send_bytes(bytes))
    }

    /// Waits until the last byte has left, bounded.
    pub(super) fn flush(&mut self) {
        let Some(uart) = &mut self.uart else { return };
        for _ in 0..PATIENCE {
            if uart.lsr().contains(uart_16550::spec::registers::LSR::TRANSMITTER_EMPTY) {
                return;
            }
        }
    }
}
