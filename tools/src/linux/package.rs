//! Debian's and Ubuntu's packages of Linux: fetched through apt, unpacked, and kept in a cache.
//!
//! Nothing of the system is changed and no privilege is needed: the package is downloaded, not
//! installed. Where the system's package lists are missing or name a package that is gone, fresh
//! lists are fetched into the cache. What is kept is the ELF file that a domain starts from; once it
//! is there, no network is needed.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};

use crate::linux::image;

/// Packages that stand for the distribution's current kernel, best first: Debian's two, then
/// Ubuntu's. Those made for virtual machines are small and have what they need built in.
pub const CANDIDATES: [&str; 5] =
    ["linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual", "linux-image-generic", "linux-image-kvm"];

/// How the name of a kept kernel ends.
const KEPT: &str = ".vmlinux";

/// A kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its ELF file.
    pub path: PathBuf,
    /// The package with its version, as in `linux-image-6.1.0-56-cloud-amd64_6.1.192-2`.
    pub package: String,
}

/// Gives the kernel of the first of `packages` that is there, from the cache or through apt; `say`
/// is told what happens, a line at a time.
///
/// # Errors
/// It is neither in the cache nor to be had; one line says what to do.
pub fn kernel(packages: &[&str], say: &mut dyn FnMut(&str)) -> Result<Kernel> {
    Store::new(cache_directory()?).kernel(packages, say)
}

/// As [`kernel`], but always asks apt, so that a newer kernel replaces the one in the cache.
///
/// # Errors
/// As [`kernel`].
pub fn update(packages: &[&str], say: &mut dyn FnMut(&str)) -> Result<Kernel> {
    Store::new(cache_directory()?).fetch(packages, say)
}

/// Where kernels are kept: `$EBB_CACHE`, or `ebb` in the user's cache directory.
///
/// # Errors
/// There is no home.
pub fn cache_directory() -> Result<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("EBB_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("ebb")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/ebb")))
        .ok_or_else(|| anyhow!("there is no place to keep a Linux kernel: set EBB_CACHE to a directory"))
}

/// A cache of kernels and the programs that fill it.
struct Store {
    directory: PathBuf,
    /// Where `apt-get`, `apt-cache` and `dpkg-deb` are, if not in the path.
    programs: Option<PathBuf>,
}

/// Which package lists apt works with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// The system's.
    System,
    /// Our own, in the cache.
    Own,
}

impl Store {
    fn new(directory: PathBuf) -> Self {
        Self { directory, programs: None }
    }

    fn kernel(&self, packages: &[&str], say: &mut dyn FnMut(&str)) -> Result<Kernel> {
        match packages.iter().find_map(|package| self.kept(package)) {
            Some(kernel) => Ok(kernel),
            None => self.fetch(packages, say),
        }
    }

    /// The newest kernel kept for `package`.
    fn kept(&self, package: &str) -> Option<Kernel> {
        let newest = fs::read_dir(self.directory.join(package))
            .ok()?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                let time = entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                Some((time, name.strip_suffix(KEPT)?.to_owned(), entry.path()))
            })
            .max()?;
        Some(Kernel { package: newest.1, path: newest.2 })
    }

    fn fetch(&self, packages: &[&str], say: &mut dyn FnMut(&str)) -> Result<Kernel> {
        if self.command("apt-get").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            bail!("this machine has no apt to fetch a Linux kernel with; name one by its path");
        }
        let work = self.directory.join("work");
        fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
        // A directory per run, so that two at once do not mix; it takes everything with it.
        let work = tempfile::tempdir_in(&work)?;
        match self.fetch_with(Lists::System, packages, work.path(), say) {
            Ok(kernel) => Ok(kernel),
            Err(first) => {
                say(&format!("{first:#}; fetching fresh package lists"));
                self.refresh(work.path())?;
                self.fetch_with(Lists::Own, packages, work.path(), say)
            }
        }
    }

    fn fetch_with(&self, lists: Lists, packages: &[&str], work: &Path, say: &mut dyn FnMut(&str)) -> Result<Kernel> {
        let (meta, package) = packages
            .iter()
            .find_map(|meta| Some((*meta, self.resolve(lists, meta, work)?)))
            .ok_or_else(|| anyhow!("apt knows no package {}", packages.join(" or ")))?;
        say(&format!("fetching {package} through apt, once"));
        run(self.apt("apt-get", lists, work).args(["-q", "download"]).arg(&package))?;
        let deb = downloaded(work)?;
        let kernel = self.keep(meta, &deb)?;
        say(&format!("unpacked {} into {}", kernel.package, kernel.path.display()));
        Ok(kernel)
    }

    /// The package with the kernel itself that `meta` stands for, if apt knows it.
    fn resolve(&self, lists: Lists, meta: &str, work: &Path) -> Option<String> {
        let text = run(self.apt("apt-cache", lists, work).args(["depends", meta])).ok()?;
        if is_kernel(meta) {
            return Some(meta.to_owned());
        }
        // Lines such as `  Depends: linux-image-6.1.0-56-cloud-amd64`, with a bar before an alternative.
        text.lines()
            .filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "))
            .find(|name| is_kernel(name))
            .map(str::to_owned)
    }

    /// Fetches package lists of our own.
    fn refresh(&self, work: &Path) -> Result<()> {
        for directory in ["lists/partial", "apt/archives/partial"] {
            fs::create_dir_all(work.join(directory))?;
        }
        run(self.apt("apt-get", Lists::Own, work).args(["-q", "update"])).map(drop)
    }

    /// Unpacks the kernel in the package file `deb` and keeps it for `meta`.
    fn keep(&self, meta: &str, deb: &Path) -> Result<Kernel> {
        let stem = deb.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let package = stem.strip_suffix("_amd64").unwrap_or(stem).to_owned();
        let elf = self
            .bzimage(deb)
            .and_then(|file| image::elf(file).map_err(|problem| anyhow!("its kernel {problem}")))
            .with_context(|| format!("in {}", deb.display()))?;
        let directory = self.directory.join(meta);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let path = directory.join(format!("{package}{KEPT}"));
        // Under its name only when it is whole.
        let mut file = tempfile::NamedTempFile::new_in(&directory)?;
        std::io::Write::write_all(&mut file, &elf)?;
        file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Kernel { path, package })
    }

    /// The file `boot/vmlinuz-*` of a package.
    fn bzimage(&self, deb: &Path) -> Result<Vec<u8>> {
        let mut child = self
            .command("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(deb)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start dpkg-deb")?;
        let found = child.stdout.take().map_or(Ok(None), find_kernel);
        // It is ended, not waited for, when the rest of the package is of no interest.
        let _ = child.kill();
        child.wait()?;
        found?.ok_or_else(|| anyhow!("has no file boot/vmlinuz-*"))
    }

    /// An apt program that works with `lists` and downloads into `work`.
    fn apt(&self, program: &str, lists: Lists, work: &Path) -> Command {
        let mut command = self.command(program);
        // As root apt would hand downloads to a user who cannot write here, and say so.
        command.env("LC_ALL", "C").current_dir(work).args(["-o", "APT::Sandbox::User="]);
        if lists == Lists::Own {
            for (option, directory) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "apt")] {
                let mut value = OsString::from(format!("{option}="));
                value.push(work.join(directory));
                command.arg("-o").arg(value);
            }
        }
        command
    }

    fn command(&self, program: &str) -> Command {
        match &self.programs {
            Some(directory) => Command::new(directory.join(program)),
            None => Command::new(program),
        }
    }
}

/// Whether a package of this name holds a kernel itself, as in `linux-image-6.1.0-56-amd64`.
fn is_kernel(name: &str) -> bool {
    name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The package file in `work`.
fn downloaded(work: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(work)?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|e| e == "deb")).context("apt-get downloaded no package")
}

/// The kernel in the tar file of a package.
fn find_kernel(tar: impl Read) -> Result<Option<Vec<u8>>> {
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if path.trim_start_matches("./").starts_with("boot/vmlinuz-") && entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Runs `command` and gives what it printed; a failure carries its last words.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        bail!("{name} failed: {}", last.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::image::tests::good;
    use std::os::unix::fs::PermissionsExt;

    /// A machine whose apt knows `linux-image-virtual` once its lists are fresh enough.
    struct Machine {
        dir: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let this = Self { dir: tempfile::tempdir().unwrap() };
            fs::create_dir(this.path("bin")).unwrap();
            this
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn program(&self, name: &str, script: &str) {
            let path = self.path("bin").join(name);
            fs::write(
                &path,
                format!("#!/bin/sh\nset -eu\necho \"{name} $*\" >> {}\n{script}\n", self.path("log").display()),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        /// Programs that behave as apt's do, and a package with `kernel`.
        fn with_apt(kernel: &[u8], lists: &str) -> Self {
            let this = Self::new();
            let mut tar = tar::Builder::new(Vec::new());
            for (name, bytes) in [("./usr/share/doc/x", b"x".as_slice()), ("./boot/vmlinuz-6.8.0-45-generic", kernel)] {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                header.set_cksum();
                tar.append_data(&mut header, name, bytes).unwrap();
            }
            fs::write(this.path("package"), tar.into_inner().unwrap()).unwrap();
            this.program(
                "apt-cache",
                &format!(
                    "case \"$*\" in {lists}) ;; *) exit 100;; esac\n\
                     case \"$*\" in *'depends linux-image-virtual') ;; *) exit 100;; esac\n\
                     printf 'linux-image-virtual\\n |Depends: linux-base\\n  Depends: linux-image-6.8.0-45-generic\\n'"
                ),
            );
            this.program(
                "apt-get",
                &format!(
                    "case \"$*\" in --version|*update) exit;; *' download linux-image-6.8.0-45-generic') ;; *) exit 100;; esac\n\
                     cp {} linux-image-6.8.0-45-generic_6.8.0-45.45_amd64.deb",
                    this.path("package").display()
                ),
            );
            this.program("dpkg-deb", "test \"$1\" = --fsys-tarfile; cat \"$2\"");
            this
        }

        fn store(&self) -> Store {
            Store { directory: self.path("cache"), programs: Some(self.path("bin")) }
        }

        fn log(&self) -> String {
            fs::read_to_string(self.path("log")).unwrap_or_default()
        }
    }

    #[test]
    fn a_package_is_fetched_once() {
        let machine = Machine::with_apt(&good(), "*");
        let mut said = Vec::new();
        let kernel = machine.store().kernel(&CANDIDATES, &mut |line| said.push(line.to_owned())).unwrap();
        assert_eq!(kernel.package, "linux-image-6.8.0-45-generic_6.8.0-45.45");
        assert_eq!(fs::read(&kernel.path).unwrap(), image::elf(good()).unwrap());
        assert!(said[0].starts_with("fetching linux-image-6.8.0-45-generic through apt"), "{said:?}");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(!machine.log().contains("update"), "{}", machine.log());
        assert_eq!(fs::read_dir(machine.path("cache/work")).unwrap().count(), 0);

        // Offline from now on.
        fs::remove_dir_all(machine.path("bin")).unwrap();
        let again = machine.store().kernel(&CANDIDATES, &mut |line| panic!("{line}")).unwrap();
        assert_eq!(again, kernel);
        assert!(machine.store().kernel(&["linux-image-amd64"], &mut |_| {}).is_err());
    }

    #[test]
    fn old_lists_are_replaced_by_our_own() {
        let machine = Machine::with_apt(&good(), "*Dir::State::Lists=*");
        let mut said = Vec::new();
        machine.store().kernel(&CANDIDATES, &mut |line| said.push(line.to_owned())).unwrap();
        assert!(said[0].ends_with("or linux-image-kvm; fetching fresh package lists"), "{said:?}");
        assert!(machine.log().contains("-q update"), "{}", machine.log());
    }

    #[test]
    fn what_cannot_be_had_is_said_in_a_line() {
        let error = |machine: &Machine| {
            let text = format!("{:#}", machine.store().kernel(&CANDIDATES, &mut |_| {}).unwrap_err());
            assert_eq!(text.lines().count(), 1);
            text
        };
        assert!(error(&Machine::new()).starts_with("this machine has no apt"));
        assert!(
            error(&Machine::with_apt(&good(), "never")).starts_with("apt knows no package linux-image-cloud-amd64")
        );

        let machine = Machine::with_apt(&good(), "*");
        machine.program("apt-get", "case \"$*\" in --version) ;; *) echo 'E: no network' >&2; exit 100;; esac");
        assert!(error(&machine).ends_with("apt-get failed: E: no network"));

        let machine = Machine::with_apt(b"no kernel", "*");
        let text = error(&machine);
        assert!(text.ends_with("its kernel is neither an ELF file nor a Linux bzImage"), "{text}");
        assert!(machine.store().kept("linux-image-virtual").is_none());
    }

    #[test]
    fn a_broken_package_is_refused() {
        assert!(find_kernel(b"no tar file at all, nothing like one".as_slice()).map_or(true, |found| found.is_none()));
        assert!(find_kernel([].as_slice()).unwrap().is_none());
    }
}
