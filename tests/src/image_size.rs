//! The size of the hypervisor as it is loaded: code, constants and initialised data, what a boot loader copies.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;

use crate::check::Outcome;
use crate::runner::Report;

/// The name of this case, for filters.
pub const NAME: &str = "image-size";
/// What it is about, for lists.
pub const SUMMARY: &str = "The hypervisor's image is smaller than 512 KiB";

/// What the image must stay below.
const LIMIT: u64 = 512 << 10;
/// Builds with other profiles are as large as they are.
const PROFILE: &str = "release";

/// Measures the image `hypervisor` and judges it. The figure is in the report's name.
pub fn report(hypervisor: &Path) -> Report {
    let profile = hypervisor.parent().and_then(Path::file_name);
    let (figure, outcome) = match loaded_size(hypervisor) {
        Err(error) => (String::new(), Outcome::Error(format!("{error:#}"))),
        Ok(size) => {
            let outcome = if size < LIMIT {
                Outcome::Pass
            } else if profile.is_some_and(|name| name != PROFILE) {
                Outcome::Skip(format!("only a {PROFILE} build is held to it"))
            } else {
                Outcome::Failure(vec![format!("{size} bytes are loaded, the limit is {LIMIT}")])
            };
            (format!(" {:.1} KiB", size as f64 / 1024.0), outcome)
        }
    };
    Report {
        name: format!("{NAME}{figure}"),
        outcome,
        last_lines: Vec::new(),
        seconds: 0.0,
        directory: PathBuf::from(hypervisor),
    }
}

/// Bytes of the file that are loaded.
fn loaded_size(path: &Path) -> Result<u64> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    size_in(&bytes).with_context(|| format!("{} is no ELF file", path.display()))
}

fn size_in(bytes: &[u8]) -> Result<u64> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes)?;
    let segments = file.segments().context("no program headers")?;
    Ok(segments.iter().filter(|segment| segment.p_type == PT_LOAD).map(|segment| segment.p_filesz).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with these segments: kind and size in the file.
    fn elf(segments: &[(u32, u64)]) -> Vec<u8> {
        let mut file = vec![0_u8; 64];
        file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        file[20] = 1;
        file[32] = 64;
        file[52] = 64;
        file[54] = 56;
        file[56] = segments.len() as u8;
        for (kind, size) in segments {
            let mut header = [0_u8; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[32..40].copy_from_slice(&size.to_le_bytes());
            // In memory it is larger: what is only cleared does not count.
            header[40..48].copy_from_slice(&(size + 4096).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file
    }

    #[test]
    fn what_is_loaded_counts() {
        assert_eq!(size_in(&elf(&[(PT_LOAD, 1000), (4, 77), (PT_LOAD, 24)])).unwrap(), 1024);
        assert!(size_in(b"no kernel").is_err());
    }

    #[test]
    fn only_release_builds_are_held_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let put = |profile: &str, size: u64| {
            let path = directory.path().join(profile);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("ebb-hypervisor"), elf(&[(PT_LOAD, size)])).unwrap();
            report(&path.join("ebb-hypervisor")).outcome
        };
        assert_eq!(put("release", LIMIT - 1), Outcome::Pass);
        assert!(matches!(put("release", LIMIT), Outcome::Failure(_)));
        assert!(matches!(put("checked", LIMIT), Outcome::Skip(_)));
        assert!(matches!(report(Path::new("/nowhere/ebb")).outcome, Outcome::Error(_)));
    }
}
