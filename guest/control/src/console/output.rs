//! One stream out of many consoles: whole lines, each marked with its domain as `(dN) `.
//!
//! Each console gathers its line. A line leaves in one write when it ends, when it is too long, or when it has waited
//! long enough (a prompt). A line that left without its end is open: if the same console goes on, so does the line; if
//! another one has something to print, the line is ended first, and goes on marked as a new one.

use super::lines::{Filter, Shown};
use crate::machine::Machine;
use alloc::format;
use alloc::vec::Vec;
use shared_abi::xen::DomId;

/// Bytes of a line that are gathered before it leaves unended.
const LINE_MAX: usize = 512;
/// How long an unended line waits, ns.
pub const LINE_WAIT: u64 = 300_000_000;

/// The stream.
#[derive(Debug, Default)]
pub struct Output {
    /// Whose line is open.
    open: Option<DomId>,
}

impl Output {
    /// Prints a part of a line of `domain`'s, and its end.
    fn part<M: Machine>(&mut self, machine: &mut M, domain: DomId, text: &[u8], end: bool) {
        let mut bytes = Vec::with_capacity(text.len() + 12);
        if self.open != Some(domain) {
            if self.open.is_some() {
                bytes.push(b'\n');
            }
            bytes.extend_from_slice(format!("(d{}) ", domain.0).as_bytes());
        }
        bytes.extend_from_slice(text);
        if end {
            bytes.push(b'\n');
        }
        self.open = (!end).then_some(domain);
        machine.print(&bytes);
    }

    /// Prints a line of our own.
    pub fn say<M: Machine>(&mut self, machine: &mut M, own: DomId, text: &str) {
        self.part(machine, own, format!("control: {text}").as_bytes(), true);
    }

    /// Prints a line as ours, without a word before it.
    pub fn answer<M: Machine>(&mut self, machine: &mut M, own: DomId, text: &str) {
        self.part(machine, own, text.as_bytes(), true);
    }
}

/// The line that a console gathers.
#[derive(Debug)]
pub struct Line {
    domain: DomId,
    filter: Filter,
    text: Vec<u8>,
    /// When it must leave, if it is not empty.
    due: u64,
}

impl Line {
    /// Nothing yet, of `domain`.
    pub fn new(domain: DomId) -> Self {
        Self { domain, filter: Filter::default(), text: Vec::new(), due: u64::MAX }
    }

    /// Takes bytes and prints the lines that are whole.
    pub fn take<M: Machine>(&mut self, bytes: &[u8], machine: &mut M, out: &mut Output) {
        for byte in bytes {
            match self.filter.next(*byte) {
                Shown::Nothing => {}
                Shown::Byte(byte) => {
                    if self.text.is_empty() {
                        self.due = machine.now().saturating_add(LINE_WAIT);
                    }
                    self.text.push(byte);
                    if self.text.len() >= LINE_MAX {
                        self.leave(machine, out, false);
                    }
                }
                Shown::Backspace => {
                    self.text.pop();
                }
                Shown::Newline => self.leave(machine, out, true),
            }
        }
        if self.text.is_empty() {
            self.due = u64::MAX;
        }
    }

    fn leave<M: Machine>(&mut self, machine: &mut M, out: &mut Output, end: bool) {
        out.part(machine, self.domain, &self.text, end);
        self.text.clear();
        self.due = u64::MAX;
    }

    /// When [`flush_due`](Self::flush_due) has something to do.
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Prints a line that has waited long enough.
    pub fn flush_due<M: Machine>(&mut self, machine: &mut M, out: &mut Output) {
        if machine.now() >= self.due {
            self.leave(machine, out, false);
        }
    }

    /// The console's end: ends its line.
    pub fn finish<M: Machine>(&mut self, machine: &mut M, out: &mut Output) {
        if !self.text.is_empty() || out.open == Some(self.domain) {
            self.leave(machine, out, true);
        }
    }
}
