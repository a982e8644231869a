//! Debian's and Ubuntu's packages of Linux: fetched through apt, unpacked, and kept in a cache.
//!
//! Nothing of the system is changed and no privilege is needed: the package is downloaded, not
//! installed. Where the system's package lists are missing or name a package that is gone, fresh
//! lists are fetched into the cache. What is kept is the ELF file that a domain starts from, and the
//! package for its modules; once they are there, no network is needed. Where only the ELF file is
//! (older versions of this program kept no more), its package is fetched again when modules are asked for.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};

use crate::linux::deb::{self, Module, Modules, Programs};
use crate::linux::image;

/// Packages that stand for the distribution's current kernel, best first: Debian's two, then
/// Ubuntu's. Those made for virtual machines are small and have what they need built in.
pub const CANDIDATES: [&str; 5] =
    ["linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual", "linux-image-generic", "linux-image-kvm"];

/// How the name of a kept kernel ends.
const KEPT: &str = ".vmlinux";
/// How the name of a package file ends, as apt names it.
const DEB: &str = "_amd64.deb";

/// A kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its ELF file.
    pub path: PathBuf,
    /// The package with its version, as in `linux-image-6.1.0-56-cloud-amd64_6.1.192-2`.
    pub package: String,
}

impl Kernel {
    /// Where its package is kept, if it is: after its [`modules`] were asked for, it is.
    #[must_use]
    pub fn deb(&self) -> PathBuf {
        self.path.with_file_name(format!("{}{DEB}", self.package))
    }

    /// Its package and version as apt takes them.
    fn for_apt(&self) -> String {
        // In names of files, apt writes an epoch's colon so.
        self.package.replacen('_', "=", 1).replace("%3a", ":")
    }
}

/// Gives the kernel of the first of `packages` that is there, from the cache or through apt; `say`
/// is told what happens, a line at a time.
///
/// # Errors
/// It is neither in the cache nor to be had; one line says what to do.
pub fn kernel(packages: &[&str], say: &mut dyn FnMut(&str)) -> Result<Kernel> {
    Store::new(cache_directory()?).kernel(packages, say)
}

/// The modules called `names` of [`kernel`], in that order.
///
/// # Errors
/// As [`kernel`], and where its packages have no such module.
pub fn modules(packages: &[&str], names: &[&str], say: &mut dyn FnMut(&str)) -> Result<Vec<Module>> {
    Store::new(cache_directory()?).modules(packages, names, say)
}

/// The kernel in the package file `deb`, as it is packed there.
///
/// # Errors
/// It has none.
pub fn kernel_in(deb: &Path) -> Result<Vec<u8>> {
    deb::kernel(&Programs::default(), deb)
}

/// The modules called `names` of the kernel in the package file `deb`: from this file, or from the `linux-modules-*.deb`
/// of the same release that lies beside it.
///
/// # Errors
/// There is no such module or no such file.
pub fn modules_in(deb: &Path, names: &[&str]) -> Result<Vec<Module>> {
    modules_of(&Programs::default(), deb, names, |release| {
        bail!("{} has no modules, and no {}_*.deb lies beside it", deb.display(), deb::modules_package(release))
    })
}

/// As [`modules_in`]; `other` gets the package for a release where none lies beside `deb`.
fn modules_of(
    programs: &Programs,
    deb: &Path,
    names: &[&str],
    other: impl FnOnce(&str) -> Result<PathBuf>,
) -> Result<Vec<Module>> {
    let release = match deb::modules(programs, deb, names)? {
        Modules::Here(modules) => return Ok(modules),
        Modules::Elsewhere(release) => release,
    };
    let other = deb::beside(deb, &release).map_or_else(|| other(&release), Ok)?;
    match deb::modules(programs, &other, names)? {
        Modules::Here(modules) => Ok(modules),
        Modules::Elsewhere(_) => bail!("{} has no modules", other.display()),
    }
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
    programs: Programs,
}

/// Which package lists apt works with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// The system's.
    System,
    /// Our own, in the cache.
    Own,
}

/// What is done with apt: gets the lists to work with, the directory to work in, and whom to tell.
type Work<'w, T> = dyn FnMut(Lists, &Path, &mut dyn FnMut(&str)) -> Result<T> + 'w;

impl Store {
    fn new(directory: PathBuf) -> Self {
        Self { directory, programs: Programs::default() }
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

    fn modules(&self, packages: &[&str], names: &[&str], say: &mut dyn FnMut(&str)) -> Result<Vec<Module>> {
        let kernel = self.kernel(packages, say)?;
        let directory = kernel.path.parent().unwrap_or(&self.directory);
        if !kernel.deb().is_file() {
            self.fetch_file(&kernel.for_apt(), directory, say).with_context(|| {
                let package = directory.file_name().unwrap_or_default().display();
                format!("no modules for the kept kernel (`ebb kernel --update {package}` fetches another with its own)")
            })?;
        }
        modules_of(&self.programs, &kernel.deb(), names, |release| {
            self.fetch_file(&deb::modules_package(release), directory, say)
        })
    }

    fn fetch(&self, packages: &[&str], say: &mut dyn FnMut(&str)) -> Result<Kernel> {
        self.with_apt(say, &mut |lists, work, say| {
            let (meta, package) = packages
                .iter()
                .find_map(|meta| Some((*meta, self.resolve(lists, meta, work)?)))
                .ok_or_else(|| anyhow!("apt knows no package {}", packages.join(" or ")))?;
            let deb = self.download(&package, lists, work, say)?;
            let kernel = self.keep(meta, &deb)?;
            say(&format!("unpacked {} into {}", kernel.package, kernel.path.display()));
            Ok(kernel)
        })
    }

    /// Fetches the package that apt knows as `package` into `directory`.
    fn fetch_file(&self, package: &str, directory: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        self.with_apt(say, &mut |lists, work, say| {
            let deb = self.download(package, lists, work, say)?;
            let kept = directory.join(deb.file_name().unwrap_or_default());
            fs::rename(&deb, &kept).with_context(|| format!("cannot write {}", kept.display()))?;
            Ok(kept)
        })
    }

    /// Does `work` in a directory with the system's package lists, or else with fresh ones.
    fn with_apt<T>(&self, say: &mut dyn FnMut(&str), work: &mut Work<'_, T>) -> Result<T> {
        if self.command("apt-get").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            bail!("this machine has no apt to fetch a Linux kernel with; name one by its path");
        }
        let directory = self.directory.join("work");
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        // A directory per run, so that two at once do not mix; it takes everything with it.
        let directory = tempfile::tempdir_in(&directory)?;
        match work(Lists::System, directory.path(), say) {
            Ok(done) => Ok(done),
            Err(first) => {
                say(&format!("{first:#}; fetching fresh package lists"));
                self.refresh(directory.path())?;
                work(Lists::Own, directory.path(), say)
            }
        }
    }

    /// The file of `package`, downloaded into `work`.
    fn download(&self, package: &str, lists: Lists, work: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        say(&format!("fetching {package} through apt, once"));
        run(self.apt("apt-get", lists, work).args(["-q", "download"]).arg(package))?;
        downloaded(work)
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

    /// Unpacks the kernel in the package file `deb` and keeps both for `meta`.
    fn keep(&self, meta: &str, deb: &Path) -> Result<Kernel> {
        let stem = deb.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let package = stem.strip_suffix("_amd64").unwrap_or(stem).to_owned();
        let elf = image::elf(deb::kernel(&self.programs, deb)?)
            .map_err(|problem| anyhow!("in {}: its kernel {problem}", deb.display()))?;
        let directory = self.directory.join(meta);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let path = directory.join(format!("{package}{KEPT}"));
        // Under its name only when it is whole.
        let mut file = tempfile::NamedTempFile::new_in(&directory)?;
        std::io::Write::write_all(&mut file, &elf)?;
        file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let kernel = Kernel { path, package };
        fs::rename(deb, kernel.deb()).with_context(|| format!("cannot write {}", kernel.deb().display()))?;
        Ok(kernel)
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
        self.programs.command(program)
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
    use crate::linux::image::tests::{good, xz};
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

        /// Programs that behave as apt's do, and a package with `kernel` as Ubuntu makes it.
        fn with_apt(kernel: &[u8], lists: &str) -> Self {
            Self::with_packages(lists, &package(&[("boot/vmlinuz-6.8.0-45-generic", kernel)]))
        }

        /// The same; the kernel's package has these contents.
        fn with_packages(lists: &str, image: &[u8]) -> Self {
            let this = Self::new();
            fs::create_dir(this.path("pool")).unwrap();
            fs::write(this.path("pool/linux-image-6.8.0-45-generic"), image).unwrap();
            let modules =
                package(&[("lib/modules/6.8.0-45-generic/kernel/drivers/xen/xen-evtchn.ko", b"\x7fELF events")]);
            fs::write(this.path("pool/linux-modules-6.8.0-45-generic"), modules).unwrap();
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
                    "case \"$*\" in --version|*update) exit;; *' download '*) ;; *) exit 100;; esac\n\
                     for word; do package=$word; done\n\
                     cp {}/${{package%=6.8.0-45.45}} ${{package%=6.8.0-45.45}}_6.8.0-45.45_amd64.deb",
                    this.path("pool").display()
                ),
            );
            this.program("dpkg-deb", "test \"$1\" = --fsys-tarfile; cat \"$2\"");
            this
        }

        fn store(&self) -> Store {
            Store { directory: self.path("cache"), programs: Programs(Some(self.path("bin"))) }
        }

        fn log(&self) -> String {
            fs::read_to_string(self.path("log")).unwrap_or_default()
        }
    }

    /// What stands for a package file: the tar file in it.
    fn package(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in [("usr/share/doc/x", b"x".as_slice())].iter().chain(files) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, format!("./{name}"), *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    /// One as Debian makes it: the kernel and its modules.
    fn whole_package() -> Vec<u8> {
        package(&[
            ("boot/vmlinuz-6.8.0-45-generic", &good()),
            ("usr/lib/modules/6.8.0-45-generic/modules.dep", b""),
            ("usr/lib/modules/6.8.0-45-generic/kernel/drivers/xen/xen-evtchn.ko.xz", &xz(b"\x7fELF events")),
            ("usr/lib/modules/6.8.0-45-generic/kernel/broken.ko", b"no module"),
            ("usr/lib/modules/6.8.0-45-generic/kernel/drivers/block/zram_x.ko", b"\x7fELF blocks"),
        ])
    }

    fn module(name: &str, elf: &[u8]) -> Module {
        Module { name: name.to_owned(), elf: elf.to_vec() }
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
        for image in [b"no tar file at all, nothing like one".as_slice(), &[], &whole_package()[..900]] {
            let machine = Machine::with_packages("*", image);
            assert!(machine.store().kernel(&CANDIDATES, &mut |_| {}).is_err());
        }
        let machine = Machine::with_apt(&good(), "*");
        machine.program("dpkg-deb", "exit 2");
        let error = format!("{:#}", machine.store().kernel(&CANDIDATES, &mut |_| {}).unwrap_err());
        assert!(error.ends_with("is no whole package: dpkg-deb cannot open it"), "{error}");
    }

    #[test]
    fn modules_come_from_the_kept_package() {
        let machine = Machine::with_packages("*", &whole_package());
        let kernel = machine.store().kernel(&CANDIDATES, &mut |_| {}).unwrap();
        let get = |names: &[&str]| machine.store().modules(&CANDIDATES, names, &mut |line| panic!("{line}"));
        // In the order asked for, under the names asked for.
        assert_eq!(
            get(&["zram-x", "xen-evtchn"]).unwrap(),
            [module("zram-x", b"\x7fELF blocks"), module("xen-evtchn", b"\x7fELF events")]
        );
        let error = |names: &[&str]| get(names).unwrap_err().to_string();
        assert!(error(&["xen-evtchn", "ghost"]).ends_with("_amd64.deb has no module `ghost`"));
        assert!(error(&["broken"]).ends_with("_amd64.deb is no ELF file"));

        // A cache from before packages were kept.
        fs::remove_file(kernel.deb()).unwrap();
        let mut said = Vec::new();
        machine.store().modules(&CANDIDATES, &["xen-evtchn"], &mut |line| said.push(line.to_owned())).unwrap();
        assert_eq!(said, ["fetching linux-image-6.8.0-45-generic=6.8.0-45.45 through apt, once"]);
        assert!(kernel.deb().is_file());

        fs::remove_file(kernel.deb()).unwrap();
        machine.program("apt-get", "case \"$*\" in --version) ;; *) echo 'E: it is gone' >&2; exit 100;; esac");
        let error = format!("{:#}", machine.store().modules(&CANDIDATES, &["x"], &mut |_| {}).unwrap_err());
        assert!(error.contains("(`ebb kernel --update linux-image-virtual` fetches another"), "{error}");
        assert!(error.ends_with("apt-get failed: E: it is gone"), "{error}");
    }

    #[test]
    fn modules_come_from_a_package_of_their_own() {
        let machine = Machine::with_apt(&good(), "*");
        let mut said = Vec::new();
        let mut get =
            |names: &[&str]| machine.store().modules(&CANDIDATES, names, &mut |line| said.push(line.to_owned()));
        let modules = [module("xen_evtchn", b"\x7fELF events")];
        assert_eq!(get(&["xen_evtchn"]).unwrap(), modules);
        assert_eq!(get(&["xen_evtchn"]).unwrap(), modules);
        assert!(get(&["ghost"]).unwrap_err().to_string().ends_with("_amd64.deb has no module `ghost`"));
        assert_eq!(said.iter().filter(|line| line.starts_with("fetching")).count(), 2, "{said:?}");
        assert!(said.contains(&"fetching linux-modules-6.8.0-45-generic through apt, once".to_owned()), "{said:?}");
    }

    #[test]
    fn modules_lie_beside_a_package_file() {
        let machine = Machine::with_apt(&good(), "*");
        let programs = machine.store().programs;
        let image = machine.path("pool/linux-image-unsigned-6.8.0-45-generic_6.8.0-45.45_amd64.deb");
        fs::rename(machine.path("pool/linux-image-6.8.0-45-generic"), &image).unwrap();
        assert_eq!(deb::kernel(&programs, &image).unwrap(), good());
        let get = || modules_of(&programs, &image, &["xen-evtchn"], |release| bail!("none for {release}"));
        assert_eq!(get().unwrap_err().to_string(), "none for 6.8.0-45-generic");
        // Of several the one of the same version counts, whatever comes last.
        let other = machine.path("pool/linux-modules-6.8.0-45-generic_6.8.0-45.46_amd64.deb");
        fs::write(&other, package(&[("lib/modules/x/xen-evtchn.ko", b"\x7fELF others")])).unwrap();
        assert_eq!(get().unwrap(), [module("xen-evtchn", b"\x7fELF others")]);
        let modules = machine.path("pool/linux-modules-6.8.0-45-generic");
        fs::rename(&modules, modules.with_file_name("linux-modules-6.8.0-45-generic_6.8.0-45.45_amd64.deb")).unwrap();
        assert_eq!(get().unwrap(), [module("xen-evtchn", b"\x7fELF events")]);
        assert!(!deb::is_package(&image), "the tests' packages are tar files only");
    }
}
