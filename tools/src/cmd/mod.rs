//! The subcommands of `ebb`, a file each, and what they share.

pub mod bench;
pub mod experiment;
pub mod iso;
pub mod kernel;
pub mod pack;
pub mod run;
pub mod trace;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use shared_abi::trace_stream::Kind;

use crate::archive::{Archive, Check};
use crate::config::{self, Domain};
use crate::library::{self, Library};
use crate::qemu::{DEBUG_EXIT_PORT, MachineEnd, Status};
use crate::scenario::Scenario;
use crate::session::SessionEnd;

/// Which builds of Ebb's programs to use.
#[derive(Args, Clone, Debug, Default)]
pub struct Programs {
    /// The hypervisor's ELF file [default: the one built beside this tool, or $EBB_HYPERVISOR]
    #[arg(long, value_name = "FILE")]
    pub hypervisor: Option<PathBuf>,

    /// The guest kernel for domains that name none [default: the one built beside this tool, or $EBB_GUEST]
    #[arg(long, value_name = "FILE")]
    pub guest: Option<PathBuf>,

    /// The init program in the RAM disk `ebb-init` [default: the one built beside this tool, or $EBB_LINUX_INIT]
    #[arg(long, value_name = "FILE")]
    pub linux_init: Option<PathBuf>,
}

impl Programs {
    /// Where images with a name are.
    #[must_use]
    pub fn library(&self) -> Library {
        Library::new(self.guest.clone(), self.linux_init.clone())
    }
}

/// Packs `domains`, reading their images from `library` and this host.
///
/// # Errors
/// The first domain and field that are wrong.
pub fn pack(domains: &[Domain], library: &Library, check: Check) -> Result<Archive> {
    Ok(Archive::build(domains, check, |image| library.load(image).map_err(|e| io::Error::other(format!("{e:#}"))))?)
}

/// Reads the domains to boot from a scenario (`.toml`) or a domain list (anything else, `ebb.cfg` by
/// habit). What a scenario makes itself goes into `library`.
///
/// # Errors
/// The first domain and field that are wrong.
pub fn read_domains(path: &Path, library: &mut Library) -> Result<Vec<Domain>> {
    if path.extension().is_some_and(|e| e == "toml") {
        return Ok(Scenario::load(path)?.to_boot(library)?);
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut domains = config::parse(&text).with_context(|| format!("in {}", path.display()))?;
    let base = path.parent().unwrap_or(Path::new(""));
    for domain in &mut domains {
        domain.kernel = library::resolve(base, &domain.kernel);
        domain.ramdisk = domain.ramdisk.as_deref().map(|image| library::resolve(base, image));
    }
    Ok(domains)
}

/// The records that a machine is asked for: all but those of every exit, switch, event and poll, which
/// would keep the port busy. A later `trace-mask=` overrides.
const WATCHED: [Kind; 8] = [
    Kind::START,
    Kind::HOST_SAMPLE,
    Kind::DOMAIN_SAMPLE,
    Kind::GUEST_EVENT,
    Kind::DOMAIN_END,
    Kind::LOST,
    Kind::END,
    Kind::DOMAIN_START,
];

/// The option that asks for the records that this tool watches, and for `more`.
#[must_use]
pub fn watched_records(more: &[Kind]) -> String {
    let mask = WATCHED.iter().chain(more).fold(0, |mask, kind| mask | kind.mask());
    format!("trace-mask={mask:#x}")
}

/// The hypervisor's command line for a machine that this tool watches.
#[must_use]
pub fn watched_options(more: &[&str], deterministic: bool) -> String {
    let mut options = format!("console=com1 trace=com2 {} debug-exit={DEBUG_EXIT_PORT:#x}", watched_records(&[]));
    if deterministic {
        options += " deterministic";
    }
    for part in more.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
        options += " ";
        options += part;
    }
    options
}

/// What `ebb` exits with; described in docs/tools.md.
#[must_use]
pub fn exit_code(end: SessionEnd) -> u8 {
    match end {
        SessionEnd::Machine(MachineEnd::Status(Status::OK)) => 0,
        SessionEnd::Machine(MachineEnd::Status(Status::DOMAIN_CRASHED)) => 3,
        SessionEnd::Machine(MachineEnd::Status(Status::PANIC)) => 4,
        SessionEnd::Machine(MachineEnd::Status(Status::CANNOT_START)) => 5,
        SessionEnd::TimedOut => 6,
        SessionEnd::Machine(_) => 7,
        // As a shell reports a program that SIGINT ended.
        SessionEnd::Interrupted => 130,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_put_together() {
        assert_eq!(
            watched_options(&["", " loglevel=debug "], true),
            "console=com1 trace=com2 trace-mask=0x8fe debug-exit=0xf4 deterministic loglevel=debug"
        );
    }

    #[test]
    fn each_end_has_its_code() {
        let status = |s| SessionEnd::Machine(MachineEnd::Status(s));
        let ends = [
            status(Status::OK),
            status(Status::DOMAIN_CRASHED),
            status(Status::PANIC),
            status(Status::CANNOT_START),
            SessionEnd::TimedOut,
            SessionEnd::Machine(MachineEnd::Off),
            SessionEnd::Interrupted,
        ];
        assert_eq!(ends.map(exit_code), [0, 3, 4, 5, 6, 7, 130]);
        assert_eq!(exit_code(SessionEnd::Machine(MachineEnd::Failed(None))), 7);
    }

    #[test]
    fn a_domain_list_is_read_beside_its_images() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ebb.cfg");
        fs::write(&path, "name=a memory=8M kernel=k\nname=b memory=8M kernel=ebb-guest\n").unwrap();
        let domains = read_domains(&path, &mut Library::default()).unwrap();
        assert_eq!(Path::new(&domains[0].kernel), dir.path().join("k"));
        assert_eq!(domains[1].kernel, library::GUEST);
        fs::write(&path, "name=a memory=8M\n").unwrap();
        let error = format!("{:#}", read_domains(&path, &mut Library::default()).unwrap_err());
        assert!(error.ends_with("domain `a`: kernel: is missing"), "{error}");
    }
}
