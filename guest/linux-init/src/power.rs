//! How a machine ends.

use std::fs;
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

use crate::job::Failed;
use crate::report;

/// A way to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Off.
    PowerOff,
    /// Again from the start.
    Reboot,
    /// All processors stop.
    Halt,
}

/// Ends the machine. What is on the console is out by then: the log is written synchronously.
pub fn end(how: End) -> ! {
    let command = match how {
        End::PowerOff => RebootCommand::PowerOff,
        End::Reboot => RebootCommand::Restart,
        End::Halt => RebootCommand::Halt,
    };
    rustix::fs::sync();
    let refused = reboot(command);
    // It did not happen. There is no way on; the time limit of the test tells.
    report::failed("ending", &format!("{how:?}: {refused:?}"));
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Crashes the kernel as a person at a keyboard would.
pub fn crash() -> Result<(), Failed> {
    report::say("crashing");
    fs::write("/proc/sysrq-trigger", "c")?;
    Err(Failed("the kernel went on after sysrq-c".into()))
}
