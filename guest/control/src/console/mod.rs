//! A domain's console: the back end of its ring.
//!
//! Output is taken in bounded amounts: [`ROUND`] bytes in one turn, so that consoles share the way out evenly, and
//! [`ALLOWANCE`] bytes in a [`PERIOD`], so that a flood cannot have all our time; a guest that prints more waits for its
//! ring. Input that does not fit in the ring is lost: a guest that does not read costs nothing. A guest that writes
//! nonsense to its indexes loses its console, and nothing else.

pub mod input;
pub mod lines;
pub mod output;

use crate::machine::{Machine, Signal};
use ebb_ring::{Consumer, Layout, Producer};
use output::{Line, Output};
use shared_abi::xen::DomId;

/// Bytes taken from a console in one turn.
pub const ROUND: usize = 256;
/// Bytes taken from a console in a period.
pub const ALLOWANCE: usize = 64 * 1024;
/// The period, ns.
pub const PERIOD: u64 = 100_000_000;

/// What a console wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// An event will come.
    Nothing,
    /// Another turn, after the others'.
    Turn,
    /// A turn at this time (ns).
    At(u64),
}

impl Wish {
    /// The one of two that comes first.
    pub fn most_urgent(self, other: Wish) -> Wish {
        match (self, other) {
            (Wish::Turn, _) | (_, Wish::Turn) => Wish::Turn,
            (Wish::At(one), Wish::At(two)) => Wish::At(one.min(two)),
            (Wish::Nothing, wish) | (wish, Wish::Nothing) => wish,
        }
    }
}

/// The console was closed because the guest's indexes make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// A console.
pub struct Console<M: Machine> {
    page: M::Page,
    signal: M::Signal,
    from: Consumer,
    to: Producer,
    line: Line,
    closed: bool,
    /// Bytes that may be taken before `renewal`.
    allowance: usize,
    /// When the allowance is full again, ns.
    renewal: u64,
    /// Input was lost since the guest last took some.
    losing: bool,
}

impl<M: Machine> Console<M> {
    /// The console of `domain` in its ring's page.
    pub fn new(domain: DomId, page: M::Page, signal: M::Signal) -> Self {
        let from = Consumer::attach(Layout::CONSOLE_OUTPUT, &page);
        let to = Producer::attach(Layout::CONSOLE_INPUT, &page);
        let line = Line::new(domain);
        Self { page, signal, from, to, line, closed: false, allowance: ALLOWANCE, renewal: 0, losing: false }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes at most [`ROUND`] bytes and prints what is whole.
    pub fn turn(&mut self, machine: &mut M, out: &mut Output) -> Result<Wish, Closed> {
        if self.closed {
            return Ok(Wish::Nothing);
        }
        let now = machine.now();
        if now >= self.renewal {
            self.allowance = ALLOWANCE;
            self.renewal = now.saturating_add(PERIOD);
        }
        let mut bytes = [0; ROUND];
        let room = self.allowance.min(ROUND);
        let Ok(count) = self.from.read(&self.page, &mut bytes[..room]) else {
            self.close(machine, out);
            return Err(Closed);
        };
        self.allowance -= count;
        self.line.take(&bytes[..count], machine, out);
        if count > 0 {
            // The guest may wait for room. A channel that is gone is the end of the domain, which is told elsewhere.
            let _ = self.signal.send();
        }
        match self.from.available(&self.page) {
            Ok(0) => Ok(Wish::Nothing),
            Ok(_) if self.allowance == 0 => Ok(Wish::At(self.renewal)),
            Ok(_) => Ok(Wish::Turn),
            Err(_) => {
                self.close(machine, out);
                Err(Closed)
            }
        }
    }

    fn close(&mut self, machine: &mut M, out: &mut Output) {
        self.closed = true;
        self.line.finish(machine, out);
    }

    /// Gives the guest what was typed; what does not fit is lost. True when this is the first loss since the guest last
    /// read.
    pub fn type_in(&mut self, bytes: &[u8]) -> bool {
        if self.closed || bytes.is_empty() {
            return false;
        }
        let written = self.to.write(&self.page, bytes).unwrap_or(0);
        if written > 0 {
            let _ = self.signal.send();
        }
        let lost = written < bytes.len();
        let first = lost && !self.losing;
        self.losing = lost;
        first
    }

    /// When the line that was begun must be printed, ns.
    pub fn line_due(&self) -> u64 {
        self.line.due()
    }

    /// Prints a line that was begun long enough ago.
    pub fn flush_line(&mut self, machine: &mut M, out: &mut Output) {
        self.line.flush_due(machine, out);
    }

    /// The domain's end: prints what is left in the ring, which is at most the ring's size.
    pub fn finish(mut self, machine: &mut M, out: &mut Output) {
        let mut bytes = [0; Layout::CONSOLE_OUTPUT.size()];
        if !self.closed
            && let Ok(count) = self.from.read(&self.page, &mut bytes)
        {
            self.line.take(&bytes[..count], machine, out);
        }
        self.line.finish(machine, out);
    }
}
