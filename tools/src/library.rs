//! The images that names stand for, where a scenario or a list of domains expects a path.
//!
//! | name | what it is |
//! |---|---|
//! | `ebb-guest` | Ebb's own guest |
//! | `ebb-init` | an initial RAM disk with Ebb's init program for Linux |
//! | `debian` | the distribution's current Linux: the first package of [`package::CANDIDATES`] that is there |
//! | `debian-cloud` | the one of Debian's package `linux-image-cloud-amd64` |
//! | `package:<name>` | the one of that package |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::image::guest_os;
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

/// Whether `image` is such a name and no path.
#[must_use]
pub fn is_name(image: &str) -> bool {
    image == GUEST || image == LINUX_INIT || packages(image).is_some()
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

    /// The image that `image`, a name or a path, stands for. What happens meanwhile is said on the
    /// standard error output.
    ///
    /// # Errors
    /// It cannot be had; the message says what to do.
    pub fn read(&self, image: &str) -> Result<Vec<u8>> {
        if let Some(bytes) = self.made.get(image) {
            return Ok(bytes.clone());
        }
        let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
        match image {
            GUEST => read(&paths::guest(self.guest.as_deref())?),
            LINUX_INIT => {
                let init = read(&paths::linux_init(self.linux_init.as_deref())?)?;
                Ok(Initramfs::with_init(init).to_bytes()?)
            }
            _ => match self.linux(image)? {
                Some(kernel) => read(&kernel.path),
                None => Ok(fs::read(image)?),
            },
        }
    }

    /// Adds an image made here; `name` hides a file of that name.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.made.insert(name.to_owned(), bytes);
    }

    /// Whether the kernel `image` is Linux, as far as can be seen without fetching anything.
    #[must_use]
    pub fn is_linux(&self, image: &str) -> bool {
        packages(image).is_some()
            || (!is_name(image) && fs::read(image).is_ok_and(|file| image::is_bzimage(&file) || is_linux_elf(&file)))
    }

    /// The packaged kernel that `image` stands for, fetched if need be; none for other images.
    ///
    /// # Errors
    /// It cannot be had; the message says what to do.
    pub fn linux(&self, image: &str) -> Result<Option<Kernel>> {
        packages(image).map(|packages| package::kernel(&packages, &mut say)).transpose()
    }
}

fn is_linux_elf(file: &[u8]) -> bool {
    guest_os(file).is_some_and(|name| name == "linux")
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
        for name in ["ebb-guest", "ebb-init", "debian", "debian-cloud", "package:linux-image-amd64"] {
            assert_eq!(resolve(Path::new("/s"), name), name);
        }
        for (path, resolved) in
            [("debian.img", "/s/debian.img"), ("./debian", "/s/./debian"), ("package:", "/s/package:")]
        {
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
}
