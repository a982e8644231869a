//! Initial RAM disks: cpio archives of the `newc` kind, as Linux unpacks them
//! (Documentation/driver-api/early-userspace/buffer-format.rst). The same entries give the same bytes.

use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};

/// One thing in an initial RAM disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file.
    File(Vec<u8>),
    /// A symbolic link to this path.
    Symlink(String),
    /// A character device with its numbers.
    Device {
        /// The driver's number.
        major: u32,
        /// The device's number.
        minor: u32,
    },
}

/// An initial RAM disk being put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Initramfs {
    entries: Vec<(String, u32, Node)>,
}

impl Initramfs {
    /// One with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What most init programs need: `/dev/console`, `/dev/null`, the directories to mount on, and
    /// `init` as `/init`, which is also what Linux starts when XenStore asks for an orderly end.
    #[must_use]
    pub fn with_init(init: Vec<u8>) -> Self {
        let mut this = Self::new();
        for directory in ["dev", "proc", "run", "sbin", "sys", "tmp"] {
            this.add(directory, 0o755, Node::Directory);
        }
        this.add("dev/console", 0o600, Node::Device { major: 5, minor: 1 });
        this.add("dev/null", 0o666, Node::Device { major: 1, minor: 3 });
        this.add("init", 0o755, Node::File(init));
        for program in ["poweroff", "reboot", "halt"] {
            this.add(format!("sbin/{program}"), 0o777, Node::Symlink("../init".into()));
        }
        this
    }

    /// This and the kernel's modules `/modules/NAME.ko`, given as names and files.
    #[must_use]
    pub fn with_modules(mut self, modules: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        self.add("modules", 0o755, Node::Directory);
        for (name, file) in modules {
            self.add(format!("modules/{name}.ko"), 0o644, Node::File(file));
        }
        self
    }

    /// Adds `node` at `path`, without a slash in front, after the directories it is in.
    pub fn add(&mut self, path: impl Into<String>, permissions: u32, node: Node) {
        self.entries.push((path.into(), permissions, node));
    }

    /// The archive.
    ///
    /// # Errors
    /// A file of 4 GiB or more.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        for (index, (path, permissions, node)) in self.entries.iter().enumerate() {
            let entry = Builder::new(path).ino(index as u32 + 1).mode(*permissions);
            let (entry, content): (_, &[u8]) = match node {
                Node::Directory => (entry.set_mode_file_type(ModeFileType::Directory).nlink(2), &[]),
                Node::File(bytes) => (entry.set_mode_file_type(ModeFileType::Regular), bytes),
                Node::Symlink(target) => (entry.set_mode_file_type(ModeFileType::Symlink), target.as_bytes()),
                Node::Device { major, minor } => {
                    (entry.set_mode_file_type(ModeFileType::Char).rdev_major(*major).rdev_minor(*minor), &[])
                }
            };
            let size = u32::try_from(content.len())
                .map_err(|_| io::Error::other(format!("{path} is too large for an initial RAM disk")))?;
            let mut writer = entry.write(&mut out, size);
            writer.write_all(content)?;
            writer.finish()?;
        }
        trailer(&mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;

    #[test]
    fn an_archive_can_be_read_back() {
        let mut disk = Initramfs::with_init(vec![7; 1001]);
        disk = disk.with_modules([("m".to_owned(), vec![1, 2])]);
        let bytes = disk.to_bytes().unwrap();
        assert_eq!(bytes, disk.to_bytes().unwrap());
        assert_eq!(&bytes[..6], b"070701");

        let mut rest = bytes.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry();
            let (name, mode, device) =
                (entry.name().to_owned(), entry.mode(), (entry.rdev_major(), entry.rdev_minor()));
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            rest = reader.finish().unwrap();
            seen.push((name, mode, device, content));
        }
        assert_eq!(seen[0], ("dev".into(), 0o040_755, (0, 0), vec![]));
        assert_eq!(seen[6], ("dev/console".into(), 0o020_600, (5, 1), vec![]));
        assert_eq!(seen[8], ("init".into(), 0o100_755, (0, 0), vec![7; 1001]));
        assert_eq!(seen[9], ("sbin/poweroff".into(), 0o120_777, (0, 0), b"../init".to_vec()));
        assert_eq!(seen[12], ("modules".into(), 0o040_755, (0, 0), vec![]));
        assert_eq!(seen[13], ("modules/m.ko".into(), 0o100_644, (0, 0), vec![1, 2]));
        assert_eq!(seen.len(), 14);
    }
}
