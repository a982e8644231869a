//! The images that names stand for, where a scenario or a list of domains expects a path.
//!
//! | name | what it is |
//! |---|---|
//! | `ebb-guest` | Ebb's own guest |
//! | `ebb-init` | an initial RAM disk with Ebb's init program for Linux |
//! | `ebb-init+<module>` | the same with `/modules/<module>.ko` of the domain's own kernel; `+` and more may follow |
//! | `debian` | the distribution's current Linux: the first package of [`package::CANDIDATES`] that is there |
//! | `debian-cloud` | the one of Debian's package `linux-image-cloud-amd64` |
//! | `package:<name>` | the one of that package |
//!
//! A kernel's path may also be that of a package file (`linux-image-*.deb`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::image::guest_os;
use crate::linux::deb::{self, Module};
use crate::linux::image;
use crate::linux::initramfs::Initramfs;
use crate::linux::package::{self, Kernel};
use crate::paths;

/// Ebb's own guest.
pub const GUEST: &str = "ebb-guest";
/// The built-in initial RAM disk for Linux.
pub const LINUX_INIT: &str = "ebb-init";
/// The distribution's Linux.
pub const DEBIAN: &str = "debian";
/// Debian's Linux for virtual machines.
const DEBIAN_CLOUD: &str = "debian-cloud";
/// Before the name of a package.
const PACKAGE: &str = "package:";

/// An image of a domain, with all that its content depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source<'a> {
    /// A kernel, or a RAM disk that is the same for every kernel: a name or a path.
    Image(&'a str),
    /// The built-in RAM disk with modules of a kernel.
    WithModules {
        /// `ebb-init` and the modules.
        name: &'a str,
        /// The kernel, a name or a path.
        kernel: &'a str,
    },
}

impl<'a> Source<'a> {
    /// The RAM disk `name` of a domain with this kernel.
    #[must_use]
    pub fn ramdisk(name: &'a str, kernel: &'a str) -> Self {
        if modules(name).is_some() { Self::WithModules { name, kernel } } else { Self::Image(name) }
    }

    /// The name or the path as it was written.
    #[must_use]
    pub fn name(self) -> &'a str {
        let (Self::Image(name) | Self::WithModules { name, .. }) = self;
        name
    }
}

/// Whether `image` is such a name and no path.
#[must_use]
pub fn is_name(image: &str) -> bool {
    image == GUEST || image == LINUX_INIT || modules(image).is_some() || packages(image).is_some()
}

/// The modules in the RAM disk `image`, with a `+` between them, if it is the built-in one with modules.
fn modules(image: &str) -> Option<&str> {
    image.strip_prefix(LINUX_INIT)?.strip_prefix('+')
}

/// Whether a domain with this kernel runs Linux from a package.
#[must_use]
pub fn is_packaged_linux(image: &str) -> bool {
    packages(image).is_some()
}

/// `image` as a path that starts at `base`, or as it is when it is a name.
#[must_use]
pub fn resolve(base: &Path, image: &str) -> String {
    if is_name(image) { image.to_owned() } else { base.join(image).to_string_lossy().into_owned() }
}

/// The packages whose kernel `image` stands for, best first.
fn packages(image: &str) -> Option<Vec<&str>> {
    match image {
        DEBIAN => Some(package::CANDIDATES.to_vec()),
        DEBIAN_CLOUD => Some(vec!["linux-image-cloud-amd64"]),
        _ => image.strip_prefix(PACKAGE).filter(|name| !name.is_empty()).map(|name| vec![name]),
    }
}

/// Where the images are.
#[derive(Clone, Debug, Default)]
pub struct Library {
    /// Ebb's own guest, if not the one built beside this program.
    guest: Option<PathBuf>,
    /// Ebb's init program for Linux, if not the one built beside this program.
    linux_init: Option<PathBuf>,
    /// Images that were made here.
    made: BTreeMap<String, Vec<u8>>,
}

impl Library {
    /// With these programs, where they are not the ones built beside this one.
    #[must_use]
    pub fn new(guest: Option<PathBuf>, linux_init: Option<PathBuf>) -> Self {
        Self { guest, linux_init, made: BTreeMap::new() }
    }

    /// The image that `source` stands for. What happens meanwhile is said on the standard error output.
    ///
    /// # Errors
    /// It cannot be had; the message says what to do.
    pub fn load(&self, source: Source<'_>) -> Result<Vec<u8>> {
        match source {
            Source::Image(image) => self.read(image),
            Source::WithModules { name, kernel } => {
                let names: Vec<&str> = modules(name).unwrap_or_default().split('+').collect();
                let modules = self.modules(kernel, &names)?;
                Ok(self.init()?.with_modules(modules.into_iter().map(|module| (module.name, module.elf))).to_bytes()?)
            }
        }
    }

    /// The image that `image`, a name or a path, stands for, if no other image matters to it.
    ///
    /// # Errors
    /// As [`Library::load`].
    pub fn read(&self, image: &str) -> Result<Vec<u8>> {
        if let Some(bytes) = self.made.get(image) {
            return Ok(bytes.clone());
        }
        match image {
            GUEST => read(&paths::guest(self.guest.as_deref())?),
            LINUX_INIT => Ok(self.init()?.to_bytes()?),
            _ => match self.linux(image)? {
                Some(kernel) => read(&kernel.path),
                None if deb::is_package(Path::new(image)) => package::kernel_in(Path::new(image)),
                None => Ok(fs::read(image)?),
            },
        }
    }

    /// The built-in RAM disk.
    fn init(&self) -> Result<Initramfs> {
        Ok(Initramfs::with_init(read(&paths::linux_init(self.linux_init.as_deref())?)?))
    }

    /// The modules called `names` of `kernel`.
    fn modules(&self, kernel: &str, names: &[&str]) -> Result<Vec<Module>> {
        if let Some(bad) = names.iter().find(|name| name.is_empty() || name.contains('/')) {
            bail!("`{bad}` is no name of a module");
        }
        match packages(kernel) {
            Some(packages) => package::modules(&packages, names, &mut say),
            None if deb::is_package(Path::new(kernel)) => package::modules_in(Path::new(kernel), names),
            None => bail!(
                "modules need a kernel from a package (`{DEBIAN}`, `{PACKAGE}<name>` or a linux-image-*.deb), and \
                 {kernel} is none"
            ),
        }
    }

    /// Adds an image made here; `name` hides a file of that name.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.made.insert(name.to_owned(), bytes);
    }

    /// Whether the kernel `image` is Linux, as far as can be seen without fetching anything.
    #[must_use]
    pub fn is_linux(&self, image: &str) -> bool {
        packages(image).is_some() || (!is_name(image) && (deb::is_package(Path::new(image)) || is_linux_file(image)))
    }

    /// The packaged kernel that `image` stands for, fetched if need be; none for other images.
    ///
    /// # Errors
    /// It cannot be had; the message says what to do.
    pub fn linux(&self, image: &str) -> Result<Option<Kernel>> {
        packages(image).map(|packages| package::kernel(&packages, &mut say)).transpose()
    }
}

fn is_linux_file(path: &str) -> bool {
    let is_linux_elf = |file: &[u8]| guest_os(file).is_some_and(|name| name == "linux");
    fs::read(path).is_ok_and(|file| image::is_bzimage(&file) || is_linux_elf(&file))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// Says what happens while a kernel is being fetched.
pub fn say(line: &str) {
    eprintln!("linux: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for name in ["ebb-guest", "ebb-init", "ebb-init+x", "debian", "debian-cloud", "package:linux-image-amd64"] {
            assert_eq!(resolve(Path::new("/s"), name), name);
        }
        for (path, resolved) in [
            ("debian.img", "/s/debian.img"),
            ("./debian", "/s/./debian"),
            ("package:", "/s/package:"),
            ("ebb-init2", "/s/ebb-init2"),
        ] {
            assert_eq!(resolve(Path::new("/s"), path), resolved);
        }
        assert!(is_packaged_linux("debian") && !is_packaged_linux("ebb-init"));
    }

    #[test]
    fn the_built_in_disk_has_the_init_program() {
        let dir = tempfile::tempdir().unwrap();
        let init = dir.path().join("init");
        fs::write(&init, b"a program").unwrap();
        let library = Library { linux_init: Some(init), ..Library::default() };
        let disk = library.read(LINUX_INIT).unwrap();
        assert!(disk.windows(9).any(|bytes| bytes == b"a program"));
        assert!(library.read("/no/such/file").is_err());
    }

    #[test]
    fn modules_depend_on_the_kernel() {
        assert_eq!(Source::ramdisk("ebb-init", "/k"), Source::Image("ebb-init"));
        let disk = Source::ramdisk("ebb-init+a+b", "/k");
        assert_eq!((disk, disk.name()), (Source::WithModules { name: "ebb-init+a+b", kernel: "/k" }, "ebb-init+a+b"));
        for (name, problem) in [
            ("ebb-init+a", "modules need a kernel from a package (`debian`, `package:<name>` or a linux-image-*.deb)"),
            ("ebb-init+", "`` is no name of a module"),
            ("ebb-init+a++b", "`` is no name of a module"),
            ("ebb-init+../a", "`../a` is no name of a module"),
        ] {
            let error = Library::default().load(Source::ramdisk(name, "/k")).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{name}: {error}");
        }
    }
}
