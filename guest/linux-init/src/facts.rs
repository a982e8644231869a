//! What the kernel found, one line each.

use std::fs;

use crate::memory::Figures;
use crate::report::say;

/// The kernel's command line.
pub fn command_line() -> String {
    fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

/// Says everything.
pub fn say_all() {
    let uname = rustix::system::uname();
    let text = |s: &std::ffi::CStr| s.to_string_lossy().into_owned();
    say(&format!("uname {} {} {}", text(uname.sysname()), text(uname.release()), text(uname.machine())));
    say(&format!("clocksource {}", first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource")));
    say(&format!("cpus {}", cpus()));
    say(&format!("hypervisor {} {}", first_line("/sys/hypervisor/type"), version()));
    say(&format!("guest-type {}", first_line("/sys/hypervisor/guest_type")));
    say(&format!("console {}", first_line("/sys/class/tty/console/active")));
    match Figures::read() {
        Ok(figures) => say(&format!("meminfo {figures}")),
        Err(error) => crate::report::failed("reading meminfo", &error),
    }
    say(&format!("steal {}", crate::load::Times::read().map_or_else(|e| e.to_string(), |t| t.to_string())));
}

/// Processors online.
pub fn cpus() -> usize {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines().filter(|l| l.starts_with("cpu") && l.as_bytes().get(3).is_some_and(u8::is_ascii_digit)).count()
}

fn version() -> String {
    let part = |name: &str| first_line(&format!("/sys/hypervisor/version/{name}"));
    format!("{}.{}{}", part("major"), part("minor"), part("extra"))
}

/// A file's first line, or why there is none.
fn first_line(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.lines().next().unwrap_or("(empty)").to_owned(),
        Err(error) => format!("({error})"),
    }
}
