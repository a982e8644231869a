//! Lines for the test runner, written to the kernel's log: one write is one whole line on the console, whoever else
//! prints at that time, and it comes out even when `hvc0` is not there (then by the early console).

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

use rustix::mount::{MountFlags, mount};

use crate::job::Failed;

static LOG: OnceLock<File> = OnceLock::new();

/// Mounts what everything else reads, and opens the log.
pub fn set_up() -> Result<(), Failed> {
    for (source, target, kind) in [("proc", "/proc", "proc"), ("sysfs", "/sys", "sysfs"), ("dev", "/dev", "devtmpfs")] {
        fs::create_dir_all(target)?;
        mount(source, target, kind, MountFlags::empty(), None)?;
    }
    // Without this the kernel drops all but ten lines of every five seconds.
    fs::write("/proc/sys/kernel/printk_devkmsg", "on\n")?;
    let log = OpenOptions::new().write(true).open("/dev/kmsg")?;
    // It cannot be set already: this runs once.
    let _ = LOG.set(log);
    Ok(())
}

/// Writes one line. `<1>` is above every usual console log level, `quiet` included.
pub fn say(line: &str) {
    if let Some(mut log) = LOG.get() {
        // A failure to log leaves nothing to report it to; the test misses the line and fails.
        let _ = log.write_all(format!("<1>init: {line}\n").as_bytes());
    }
}

/// Says that something failed and why.
pub fn failed(what: &str, why: &dyn Display) {
    say(&format!("failed {what}: {why}"));
}
