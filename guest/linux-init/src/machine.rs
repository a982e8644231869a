//! A virtual machine inside this one: QEMU under this kernel's KVM, with Ebb in it.
//!
//! Its serial ports are this machine's. The code that QEMU exits with is said; what QEMU itself says comes out only when
//! it failed: every code is odd that Ebb causes by `isa-debug-exit`, 0 is a machine that was powered off or reset, and 1
//! is QEMU's own failure.

use std::fs;
use std::process::{Command, Stdio};

use crate::job::Failed;
use crate::report::say;

/// Where QEMU's messages go.
const MESSAGES: &str = "/tmp/machine";

/// Runs the command in `/machine`, a word in each line, to its end.
pub fn run() -> Result<(), Failed> {
    let command = fs::read_to_string("/machine")?;
    let mut words = command.lines();
    let program = words.next().ok_or_else(|| Failed("/machine is empty".into()))?;
    let messages = fs::File::create(MESSAGES)?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(messages.try_clone()?).stderr(messages);
    let status = command.status()?;
    if let Some(code) = status.code().filter(|code| *code == 0 || *code > 1 && code & 1 == 1) {
        // The tool looks for this line.
        say(&format!("machine: exit code {code}"));
        return Ok(());
    }
    for line in fs::read_to_string(MESSAGES)?.lines() {
        say(&format!("machine: {line}"));
    }
    Err(Failed(format!("{program}: {status}")))
}
