//! The console's round trip: a line typed at the machine comes back changed, so that the terminal's own echo cannot be
//! taken for the answer.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};

use crate::job::Failed;
use crate::report::say;

/// Answers lines of `hvc0` until `quit`.
pub fn answer() -> Result<(), Failed> {
    let mut out = File::options().write(true).open("/dev/hvc0")?;
    let input = BufReader::new(File::open("/dev/hvc0")?);
    say("echoing");
    for line in input.lines() {
        let line = line?;
        if line == "quit" {
            return Ok(());
        }
        let turned: String = line.chars().rev().collect();
        // One write, begun on a line of its own: what was typed may have been echoed without an end.
        out.write_all(format!("\necho {} {turned}\n", line.len()).as_bytes())?;
    }
    Err(Failed("the console was closed".into()))
}
