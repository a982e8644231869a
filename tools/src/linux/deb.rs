//! Package files of Linux (`.deb`): the kernel and the modules in them.
//!
//! Debian's packages hold both; Ubuntu's `linux-image-<release>` has the kernel alone, and its modules
//! are in `linux-modules-<release>`. Nothing is installed: `dpkg-deb` gives the files as a stream.

use std::fs;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::linux::image;

/// How a package file begins.
const MAGIC: &[u8] = b"!<arch>\ndebian-binary";
/// How the name of a module's file ends; packed ones are told by their content.
const ENDINGS: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// Where `apt-get`, `apt-cache` and `dpkg-deb` are.
#[derive(Clone, Debug, Default)]
pub struct Programs(
    /// Their directory, if it is not one of the path.
    pub Option<PathBuf>,
);

impl Programs {
    /// One of them, to be started.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        match &self.0 {
            Some(directory) => Command::new(directory.join(program)),
            None => Command::new(program),
        }
    }
}

/// A kernel's module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// What it was asked for by.
    pub name: String,
    /// Its ELF file.
    pub elf: Vec<u8>,
}

/// What a package file has of the modules that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modules {
    /// All of them, in that order.
    Here(Vec<Module>),
    /// It has a kernel and no module at all: those of this release are in a package of their own.
    Elsewhere(
        /// As in `vmlinuz-<release>`.
        String,
    ),
}

/// Whether the file is a package.
#[must_use]
pub fn is_package(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == MAGIC
}

/// The kernel in a package file, `boot/vmlinuz-*`.
///
/// # Errors
/// It has none, or cannot be opened.
pub fn kernel(programs: &Programs, deb: &Path) -> Result<Vec<u8>> {
    let mut found = None;
    open(programs, deb, &mut |path, file| {
        if release(path).is_none() {
            return Ok(ControlFlow::Continue(()));
        }
        found = Some(contents(file)?);
        Ok(ControlFlow::Break(()))
    })?;
    found.ok_or_else(|| anyhow!("has no file boot/vmlinuz-*")).with_context(|| format!("in {}", deb.display()))
}

/// The modules called `names` in a package file.
///
/// # Errors
/// It has modules, but not all of these; one is damaged; or it has neither modules nor a kernel.
pub fn modules(programs: &Programs, deb: &Path, names: &[&str]) -> Result<Modules> {
    let mut found = vec![None; names.len()];
    let (mut kernel, mut has_any) = (None, false);
    open(programs, deb, &mut |path, file| {
        kernel = kernel.take().or_else(|| release(path).map(str::to_owned));
        if let Some(module) = module(path) {
            has_any = true;
            for (place, _) in found.iter_mut().zip(names).filter(|(place, name)| place.is_none() && same(name, module))
            {
                *place = Some(contents(file)?);
            }
        }
        let complete = has_any && found.iter().all(Option::is_some);
        Ok(if complete { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    match kernel {
        Some(release) if !has_any => return Ok(Modules::Elsewhere(release)),
        _ if !has_any => bail!("{} has neither a kernel nor modules", deb.display()),
        _ => {}
    }
    let unpack = |(name, file): (&&str, Option<Vec<u8>>)| {
        let file = file.ok_or_else(|| anyhow!("{} has no module `{name}`", deb.display()))?;
        let elf = image::module(file).map_err(|problem| anyhow!("module `{name}` of {} {problem}", deb.display()))?;
        Ok(Module { name: (*name).to_owned(), elf })
    };
    names.iter().zip(found).map(unpack).collect::<Result<_>>().map(Modules::Here)
}

/// The package file beside `deb` with the modules of the kernel `release`: the one of the same version, or else the last.
#[must_use]
pub fn beside(deb: &Path, release: &str) -> Option<PathBuf> {
    let version = |path: &Path| Some(path.file_name()?.to_str()?.split_once('_')?.1.to_owned());
    let start = format!("{}_", modules_package(release));
    let directory = match deb.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let files = fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .filter(|path| path.extension().is_some_and(|e| e == "deb"))
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with(&start)))
        .max_by_key(|path| (version(path) == version(deb), path.clone()))
}

/// The package with the modules of the kernel `release`, where the kernel's has none.
#[must_use]
pub fn modules_package(release: &str) -> String {
    format!("linux-modules-{release}")
}

/// The kernel's release, if this is its file.
fn release(path: &str) -> Option<&str> {
    path.strip_prefix("boot/vmlinuz-")
}

/// The module's name, if this is its file.
fn module(path: &str) -> Option<&str> {
    path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
    let name = path.rsplit('/').next()?;
    ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))
}

/// Whether Linux takes two modules' names for one.
fn same(one: &str, other: &str) -> bool {
    one.replace('_', "-") == other.replace('_', "-")
}

fn contents(file: &mut dyn Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Is shown a file, its path without a slash in front; says whether to go on.
type Look<'l> = dyn FnMut(&str, &mut dyn Read) -> Result<ControlFlow<()>> + 'l;

/// Shows `look` the files of a package, in their order, until it has seen enough.
fn open(programs: &Programs, deb: &Path, look: &mut Look<'_>) -> Result<()> {
    let mut child = programs
        .command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let end = child.stdout.take().map_or(Ok(ControlFlow::Continue(())), |tar| walk(tar, look));
    // It is ended, not waited for, when the rest of the package is of no interest.
    if !matches!(end, Ok(ControlFlow::Continue(()))) {
        let _ = child.kill();
    }
    let status = child.wait()?;
    let has_seen_enough = end.with_context(|| format!("in {}", deb.display()))?.is_break();
    if !has_seen_enough && !status.success() {
        bail!("{} is no whole package: dpkg-deb cannot open it", deb.display());
    }
    Ok(())
}

/// As [`open`], for the tar file in a package.
fn walk(tar: impl Read, look: &mut Look<'_>) -> Result<ControlFlow<()>> {
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.to_string_lossy().into_owned();
        if look(path.trim_start_matches("./"), &mut entry)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    // The padding behind a tar file's end: who writes it must not find the pipe closed.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink())?;
    Ok(ControlFlow::Continue(()))
}
