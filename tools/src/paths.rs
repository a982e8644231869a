//! Where the built programs are: beside the tool in cargo's target directory, unless told.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The hypervisor's file name.
pub const HYPERVISOR: &str = "ebb-hypervisor";
/// The guest's file name.
pub const GUEST: &str = "ebb-guest";
/// The file name of the init program for Linux.
pub const LINUX_INIT: &str = "ebb-linux-init";
/// Where cargo puts programs that run without an operating system.
const BARE: &str = "x86_64-unknown-none/release";
/// Where cargo puts static programs for Linux.
const MUSL: &str = "x86_64-unknown-linux-musl/release";

/// Finds the hypervisor: `given`, or the one built beside this tool.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn hypervisor(given: Option<&Path>) -> Result<PathBuf> {
    find(given, "EBB_HYPERVISOR", BARE, HYPERVISOR)
}

/// Finds Ebb's own guest: `given`, or the one built beside this tool.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn guest(given: Option<&Path>) -> Result<PathBuf> {
    find(given, "EBB_GUEST", BARE, GUEST)
}

/// Finds the init program for Linux: `given`, or the one built beside this tool.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn linux_init(given: Option<&Path>) -> Result<PathBuf> {
    find(given, "EBB_LINUX_INIT", MUSL, LINUX_INIT)
}

fn find(given: Option<&Path>, variable: &str, place: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = given.map(Path::to_owned).or_else(|| env::var_os(variable).map(PathBuf::from)) {
        if path.is_file() {
            return Ok(path);
        }
        bail!("{} is not a file", path.display());
    }
    let built = Path::new(place).join(name);
    // The tool is target/debug/ebb, or target/debug/deps/... when a test runs it.
    let me = env::current_exe()?;
    for directory in me.ancestors().skip(1) {
        let candidate = directory.join(&built);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} has not been built; type `make build`, or name the file in {variable}")
}
