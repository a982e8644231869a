//! `ebb trace`: a recorded trace in a form that people or other tools read.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::trace::export::{Format, export};

/// The options of `ebb trace`.
#[derive(Args, Debug)]
pub struct Trace {
    /// The recorded trace
    #[arg(default_value = "out/trace.bin")]
    input: PathBuf,

    /// The form to write
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,

    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Trace {
    /// Writes the trace.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn run(&self) -> Result<ExitCode> {
        let bytes = fs::read(&self.input).with_context(|| format!("cannot read {}", self.input.display()))?;
        let foreign = match &self.output {
            Some(path) => {
                let file = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                write(&bytes, self.format, BufWriter::new(file))?
            }
            None => write(&bytes, self.format, BufWriter::new(io::stdout().lock()))?,
        };
        if foreign > 0 {
            eprintln!("ebb: {foreign} bytes of {} are not part of a trace", self.input.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write(bytes: &[u8], format: Format, mut out: impl Write) -> Result<u64> {
    let done = export(bytes, format, &mut out).and_then(|foreign| out.flush().map(|()| foreign));
    match done {
        // A reader such as `head` that has seen enough is no failure.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => Ok(other?),
    }
}
