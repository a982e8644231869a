//! One machine from its start to its end: follows its console and its trace, shows both, and keeps
//! what they said.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::accel::Accel;
use crate::qemu::{Machine, MachineEnd, Status};
use crate::report;
use crate::tail::{Lines, Tail};
use crate::trace::model::Model;
use crate::trace::stream::Stream;
use crate::view::View;

/// How often the machine is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The machine ended by itself.
    Machine(MachineEnd),
    /// It took longer than it was given and was stopped.
    TimedOut,
    /// A person stopped it.
    Interrupted,
}

/// What a session leaves behind.
#[derive(Debug)]
pub struct Session {
    /// How it ended.
    pub end: SessionEnd,
    /// What the trace added up to.
    pub model: Model,
    /// Every line of the console.
    pub console: Vec<String>,
    /// Bytes on the trace port that were not part of the stream.
    pub trace_damage: u64,
    /// How long it took on the wall clock.
    pub wall: Duration,
}

/// Runs `machine` until it ends, `timeout` has passed, or `interrupted` or the view says stop.
///
/// # Errors
/// The machine could not be started or its files not be read.
pub fn run(
    machine: &Machine,
    timeout: Option<Duration>,
    view: &mut dyn View,
    interrupted: &dyn Fn() -> bool,
) -> Result<Session> {
    let begun = Instant::now();
    let mut running = machine.start().with_context(|| format!("cannot start {}", machine.accel.program()))?;
    let mut watch = Watch::open(machine)?;
    let end = loop {
        let ended = running.poll()?;
        // What was written before the end is there now, so read once more after it.
        while watch.take(view)? && ended.is_some() {}
        let stop = view.tick(&watch.model)? || interrupted();
        running.type_bytes(&view.take_typed()).context("cannot type on the console")?;
        for command in view.take_commands() {
            running.tell_monitor(&command).context("cannot talk to QEMU's monitor")?;
        }
        match ended {
            _ if stop => break SessionEnd::Interrupted,
            Some(end) => break SessionEnd::Machine(end),
            None if timeout.is_some_and(|limit| begun.elapsed() >= limit) => {
                break SessionEnd::TimedOut;
            }
            None => thread::sleep(PERIOD),
        }
    };
    running.stop();
    while watch.take(view)? {}
    watch.finish(view)?;
    view.tick(&watch.model)?;
    view.finish()?;
    Ok(Session {
        end: end_of_emulator(machine.accel, end, &watch),
        model: watch.model,
        console: watch.console,
        trace_damage: watch.stream.skipped() + watch.stream.unfinished() as u64,
        wall: begun.elapsed(),
    })
}

/// The end of machines that have no port for a status and are powered off instead: Bochs' is in the trace; of one within a
/// Linux, Linux's init program says what QEMU ended with.
fn end_of_emulator(accel: Accel, end: SessionEnd, watch: &Watch) -> SessionEnd {
    let off = matches!(end, SessionEnd::Machine(MachineEnd::Off));
    match accel {
        Accel::Bochs if off => watch.model.end.map_or(end, |status| MachineEnd::Status(Status(status as u8)).into()),
        Accel::Nested(_) if off => watch.console.iter().rev().find_map(|line| nested_end(line)).unwrap_or(end),
        _ => end,
    }
}

/// What a line of Linux's init program says of the machine within.
fn nested_end(line: &str) -> Option<SessionEnd> {
    let (_, code) = line.split_once("init: machine: exit code ")?;
    match code.trim().parse().ok()? {
        0 => None,
        code => Some(MachineEnd::Status(Status(code >> 1)).into()),
    }
}

impl From<MachineEnd> for SessionEnd {
    fn from(end: MachineEnd) -> Self {
        Self::Machine(end)
    }
}

/// The machine's two outputs as they are followed.
struct Watch {
    console_tail: Tail,
    trace_tail: Tail,
    lines: Lines,
    stream: Stream,
    console: Vec<String>,
    model: Model,
}

impl Watch {
    fn open(machine: &Machine) -> io::Result<Self> {
        Ok(Self {
            console_tail: Tail::open(&machine.console)?,
            trace_tail: Tail::open(&machine.trace)?,
            lines: Lines::default(),
            stream: Stream::default(),
            console: Vec::new(),
            model: Model::default(),
        })
    }

    /// Takes what has come; false when nothing had.
    fn take(&mut self, view: &mut dyn View) -> io::Result<bool> {
        let console = self.console_tail.read()?;
        for line in self.lines.push(&console) {
            view.console(&line)?;
            self.console.push(line);
        }
        view.prompt(&self.lines.unfinished());
        let trace = self.trace_tail.read()?;
        let model = &mut self.model;
        self.stream.push(&trace, |header, record| model.apply(header, record));
        Ok(!console.is_empty() || !trace.is_empty())
    }

    fn finish(&mut self, view: &mut dyn View) -> io::Result<()> {
        if let Some(line) = self.lines.finish() {
            view.console(&line)?;
            self.console.push(line);
        }
        Ok(())
    }
}

/// A view that shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl View for Silent {
    fn console(&mut self, _line: &str) -> io::Result<()> {
        Ok(())
    }

    fn tick(&mut self, _model: &Model) -> io::Result<bool> {
        Ok(false)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names of the files a session writes into its directory.
#[derive(Clone, Debug)]
pub struct Files {
    /// The directory.
    pub directory: PathBuf,
}

impl Files {
    /// Makes the directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// A file in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes `run.csv` and `run.svg`.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write_reports(&self, model: &Model) -> Result<()> {
        let path = self.path("run.csv");
        let write = || {
            let mut out = BufWriter::new(fs::File::create(&path)?);
            report::csv::write(model, &mut out)?;
            out.flush()
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        report::plot::write(model, &self.path("run.svg"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_machine_within_is_read_from_its_line() {
        let end = |line| nested_end(line);
        assert_eq!(end("[   66.9] init: machine: exit code 33"), Some(MachineEnd::Status(Status::OK).into()));
        assert_eq!(end("[   66.9] init: machine: exit code 0"), None);
        assert_eq!(end("(d1) init: machine: exit code x"), None);
    }
}
