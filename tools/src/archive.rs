//! Boot archives: a ustar file whose first member, `ebb.cfg`, lists the domains, followed by the
//! images it names. The same domains and images give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;

use crate::config::{self, ConfigError, Domain};
use crate::library::Source;
use crate::{image, linux};

/// The member that lists the domains.
pub const CONFIG_MEMBER: &str = "ebb.cfg";
/// Longest name of a member that fits a ustar header's name field.
const MEMBER_NAME_MAX: usize = 100;

/// Domains and the images they name, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    /// The domains; `kernel` and `ramdisk` name members.
    pub domains: Vec<Domain>,
    /// Each image once, by member name.
    pub images: BTreeMap<String, Vec<u8>>,
}

/// How strictly images are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Kernels must be PVH kernels or bzImages with one in them, and everything must fit its domain.
    Images,
    /// Images are taken as they are, to give the hypervisor something to refuse.
    Nothing,
}

impl Archive {
    /// Packs `domains`, whose images `load` reads.
    ///
    /// # Errors
    /// The first domain and field that are wrong.
    pub fn build<'d>(
        domains: &'d [Domain],
        check: Check,
        mut load: impl FnMut(Source<'_>) -> io::Result<Vec<u8>>,
    ) -> Result<Self, ConfigError> {
        config::check_all(domains)?;
        let mut archive = Self::default();
        // Member name of each image already packed.
        let mut packed = BTreeMap::new();
        for domain in domains {
            let mut add = |field: &str, source: Source<'d>| {
                let path = source.name();
                let err = |problem: String| ConfigError::new(&domain.name, field, problem);
                if let Some(member) = packed.get(&source) {
                    return Ok(String::clone(member));
                }
                let mut bytes = load(source).map_err(|e| err(format!("cannot read {path}: {e}")))?;
                if field == "kernel" && check == Check::Images {
                    bytes = linux::image::elf(bytes).map_err(|problem| err(format!("{path} {problem}")))?;
                }
                let member = archive.member_name(path).ok_or_else(|| err(format!("{path} has no usable file name")))?;
                archive.images.insert(member.clone(), bytes);
                packed.insert(source, member.clone());
                Ok(member)
            };
            let kernel = add("kernel", Source::Image(&domain.kernel))?;
            let ramdisk = domain.ramdisk.as_deref().map(|name| Source::ramdisk(name, &domain.kernel));
            let ramdisk = ramdisk.map(|source| add("ramdisk", source)).transpose()?;
            let packed_domain = Domain { kernel, ramdisk, ..domain.clone() };
            if check == Check::Images {
                archive.check_images(&packed_domain, &domain.kernel)?;
            }
            archive.domains.push(packed_domain);
        }
        Ok(archive)
    }

    /// A free member name made from the path's last part.
    fn member_name(&self, path: &str) -> Option<String> {
        let name = Path::new(path).file_name()?.to_str()?;
        let free = |name: &String| name != CONFIG_MEMBER && !self.images.contains_key(name);
        let candidates = std::iter::once(name.to_owned()).chain((2..).map(|n| format!("{n}-{name}")));
        candidates.take(1000).find(free).filter(|name| name.len() <= MEMBER_NAME_MAX)
    }

    fn check_images(&self, domain: &Domain, kernel_path: &str) -> Result<(), ConfigError> {
        let info = image::check_kernel(&self.images[&domain.kernel], domain.memory)
            .map_err(|problem| ConfigError::new(&domain.name, "kernel", format!("{kernel_path} {problem}")))?;
        if let Some(ramdisk) = &domain.ramdisk {
            let size = self.images[ramdisk].len() as u64;
            if info.end + size > domain.memory.bytes() {
                let problem = format!("{ramdisk} ({size} bytes) does not fit beside the kernel in {}", domain.memory);
                return Err(ConfigError::new(&domain.name, "ramdisk", problem));
            }
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        write_members(out, &config::format(&self.domains), &self.images)
    }

    /// The archive as bytes.
    ///
    /// # Errors
    /// None that memory can give; the type is the writer's.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.write(&mut out)?;
        Ok(out)
    }
}

/// Writes an archive of `config` and `images` as they are.
///
/// # Errors
/// What `out` answers.
pub fn write_members(out: impl Write, config: &str, images: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    let first = std::iter::once((CONFIG_MEMBER, config.as_bytes()));
    for (name, bytes) in first.chain(images.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))) {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, bytes)?;
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::elf64;
    use crate::size::Size;
    use std::io::Read;

    fn files(source: Source<'_>) -> io::Result<Vec<u8>> {
        if let Source::WithModules { name, kernel } = source {
            return Ok(format!("{name} for {kernel}").into_bytes());
        }
        match source.name() {
            "/a/guest.elf" | "/b/guest.elf" => Ok(elf64(&[(0x10_0000, 0x1000)], Some(0x10_0000))),
            "/a/bzImage" => Ok(linux::image::tests::good()),
            "/a/bad.elf" => Ok(b"no kernel".to_vec()),
            "/a/initrd" => Ok(vec![7; 3000]),
            "/a/huge" => Ok(vec![7; 8 << 20]),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn domain(name: &str, kernel: &str, ramdisk: Option<&str>) -> Domain {
        Domain { ramdisk: ramdisk.map(str::to_owned), ..Domain::new(name, Size::mib(8), kernel) }
    }

    #[test]
    fn an_archive_can_be_read_back() {
        let domains = [
            domain("a", "/a/guest.elf", Some("/a/initrd")),
            domain("b", "/b/guest.elf", None),
            domain("c", "/a/guest.elf", None),
        ];
        let archive = Archive::build(&domains, Check::Images, files).unwrap();
        let bytes = archive.to_bytes().unwrap();
        assert_eq!(bytes, Archive::build(&domains, Check::Images, files).unwrap().to_bytes().unwrap());
        assert_eq!(&bytes[257..262], b"ustar");

        let mut reader = tar::Archive::new(bytes.as_slice());
        let mut members = Vec::new();
        for entry in reader.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            members.push((name, content));
        }
        let names: Vec<_> = members.iter().map(|m| m.0.as_str()).collect();
        assert_eq!(names, ["ebb.cfg", "2-guest.elf", "guest.elf", "initrd"]);
        let read = config::parse(std::str::from_utf8(&members[0].1).unwrap()).unwrap();
        assert_eq!(read, archive.domains);
        let kernels: Vec<_> = read.iter().map(|d| d.kernel.as_str()).collect();
        assert_eq!(kernels, ["guest.elf", "2-guest.elf", "guest.elf"]);
    }

    #[test]
    fn a_bzimage_is_unpacked() {
        let archive = Archive::build(&[domain("a", "/a/bzImage", None)], Check::Images, files).unwrap();
        assert!(archive.images["bzImage"].starts_with(b"\x7fELF"));
    }

    #[test]
    fn a_disk_with_modules_is_one_for_each_kernel() {
        let disk = Some("ebb-init+m");
        let domains =
            [domain("a", "/a/guest.elf", disk), domain("b", "/b/guest.elf", disk), domain("c", "/b/guest.elf", disk)];
        let archive = Archive::build(&domains, Check::Images, files).unwrap();
        let content =
            |nth: usize| archive.domains[nth].ramdisk.as_ref().map(|member| archive.images[member].as_slice());
        assert_eq!(content(0), Some(b"ebb-init+m for /a/guest.elf".as_slice()));
        assert_eq!(content(1), Some(b"ebb-init+m for /b/guest.elf".as_slice()));
        assert_eq!(archive.domains[1].ramdisk, archive.domains[2].ramdisk);
        assert_eq!(archive.images.len(), 4);
    }

    #[test]
    fn mistakes_name_domain_and_field() {
        for (d, expected) in [
            (domain("a", "/none", None), "domain `a`: kernel: cannot read /none"),
            (
                domain("a", "/a/bad.elf", None),
                "domain `a`: kernel: /a/bad.elf is neither an ELF file nor a Linux bzImage",
            ),
            (domain("a", "/a/guest.elf", Some("/none")), "domain `a`: ramdisk: cannot read /none"),
            (domain("a", "/a/guest.elf", Some("/a/huge")), "domain `a`: ramdisk: huge (8388608 bytes) does not fit"),
        ] {
            let error = Archive::build(&[d], Check::Images, files).unwrap_err().to_string();
            assert!(error.starts_with(expected), "got: {error}\nwant: {expected}");
        }
        Archive::build(&[domain("a", "/a/bad.elf", None)], Check::Nothing, files).unwrap();
    }
}
