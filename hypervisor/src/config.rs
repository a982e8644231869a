//! What domains to build: the lines of a boot archive's `ebb.cfg`, or of boot modules.
//!
//! One line is one domain (docs/command-line.md):
//! `name=web memory=64M maxmem=128M vcpus=2 weight=256 cap=150 tmem=compress privileged kernel=guest.elf
//! ramdisk=initrd.img on-reboot=restart -- arguments of the kernel`. Every mistake is one error that names the domain
//! and the field, before anything starts.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ebb_core::domain::{DomainConfig, MAX_VCPUS, OnReboot};
use shared_abi::size::bytes as size;
use shared_abi::tmem_settings::TmemSettings;

/// Name of the configuration inside a boot archive.
const CONFIGURATION: &str = "ebb.cfg";
/// Longest name of a domain.
const MAX_NAME: usize = 31;
/// The least memory a domain can start with.
const MIN_MEMORY: u64 = 4 << 20;
/// Where the magic of a ustar header is.
const USTAR_MAGIC: core::ops::Range<usize> = 257..262;

/// A boot module: its bytes and the text that came with it.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Contents.
    pub bytes: &'static [u8],
    /// Text.
    pub line: &'static str,
}

/// One domain's line, files still by name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DomainLine {
    name: String,
    memory: u64,
    max_memory: u64,
    vcpus: u32,
    weight: u16,
    cap: u16,
    tmem: TmemSettings,
    privileged: bool,
    on_reboot: OnReboot,
    kernel: Option<String>,
    ramdisk: Option<String>,
    arguments: String,
}

/// The domains that the boot modules describe, in order.
///
/// # Errors
/// One sentence that names what is wrong.
pub fn domains(modules: &[Module]) -> Result<Vec<DomainConfig>, String> {
    let mut all = Vec::new();
    let (ramdisks, kernels): (Vec<&Module>, Vec<&Module>) =
        modules.iter().partition(|module| ramdisk_owner(module.line).is_some());
    for module in kernels {
        if module.bytes.get(USTAR_MAGIC) == Some(b"ustar") {
            from_archive(module.bytes, &mut all)?;
        } else {
            let line = parse_line(module.line, &format!("d{}", all.len()))?;
            if line.kernel.is_some() || line.ramdisk.is_some() {
                return Err(format!("domain {}: kernel= and ramdisk= name files of a boot archive", line.name));
            }
            let mut owned = ramdisks.iter().filter(|ramdisk| ramdisk_owner(ramdisk.line) == Some(&line.name));
            let ramdisk = owned.next().map(|ramdisk| ramdisk.bytes);
            add(line, module.bytes, ramdisk, &mut all)?;
        }
    }
    for ramdisk in ramdisks {
        let owner = ramdisk_owner(ramdisk.line).unwrap_or_default();
        if !all.iter().any(|config: &DomainConfig| config.name == owner) {
            return Err(format!("ramdisk-for={owner}: there is no domain of this name"));
        }
    }
    Ok(all)
}

fn ramdisk_owner(line: &str) -> Option<&str> {
    line.split_whitespace().find_map(|word| word.strip_prefix("ramdisk-for="))
}

fn from_archive(bytes: &'static [u8], all: &mut Vec<DomainConfig>) -> Result<(), String> {
    let archive = tar_no_std::TarArchiveRef::new(bytes).map_err(|_| "the boot archive is damaged".to_string())?;
    let find = |wanted: &str| {
        archive.entries().find(|entry| entry.filename().as_str() == Ok(wanted)).map(|entry| entry.data())
    };
    let text = find(CONFIGURATION).ok_or_else(|| format!("the boot archive has no {CONFIGURATION}"))?;
    let text = core::str::from_utf8(text).map_err(|_| format!("{CONFIGURATION} is not UTF-8"))?;
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = parse_line(line, &format!("d{}", all.len()))?;
        let kernel = line.kernel.clone().ok_or_else(|| format!("domain {}: kernel= is missing", line.name))?;
        let missing = |name: &str| format!("domain {}: the boot archive has no {name}", line.name);
        let image = find(&kernel).ok_or_else(|| missing(&kernel))?;
        let ramdisk = match &line.ramdisk {
            Some(name) => Some(find(name).ok_or_else(|| missing(name))?),
            None => None,
        };
        add(line, image, ramdisk, all)?;
    }
    Ok(())
}

fn add(
    line: DomainLine,
    kernel: &'static [u8],
    ramdisk: Option<&'static [u8]>,
    all: &mut Vec<DomainConfig>,
) -> Result<(), String> {
    if all.iter().any(|other| other.name == line.name) {
        return Err(format!("domain {}: the name is used twice", line.name));
    }
    all.push(DomainConfig {
        name: line.name,
        memory: line.memory,
        max_memory: line.max_memory,
        vcpus: line.vcpus,
        weight: line.weight,
        cap: line.cap,
        tmem: line.tmem,
        privileged: line.privileged,
        on_reboot: line.on_reboot,
        arguments: line.arguments,
        kernel,
        ramdisk,
    });
    Ok(())
}

/// Reads one line. `default_name` is used when it gives none.
fn parse_line(text: &str, default_name: &str) -> Result<DomainLine, String> {
    let (settings, arguments) = match text.split_once("--") {
        Some((settings, arguments)) if settings.is_empty() || settings.ends_with(char::is_whitespace) => {
            (settings, arguments.trim())
        }
        _ => (text, ""),
    };
    let words: Vec<&str> = settings.split_whitespace().collect();
    let name = words.iter().find_map(|word| word.strip_prefix("name=")).unwrap_or(default_name);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        return Err(format!("domain \"{name}\": name: letters, digits, '-', '_' and '.', at most {MAX_NAME}"));
    }
    let mut line = DomainLine {
        name: name.to_string(),
        memory: 0,
        max_memory: 0,
        vcpus: 1,
        weight: 256,
        cap: 0,
        tmem: TmemSettings::default(),
        privileged: false,
        on_reboot: OnReboot::Restart,
        kernel: None,
        ramdisk: None,
        arguments: arguments.to_string(),
    };
    for word in words {
        setting(&mut line, word).map_err(|why| format!("domain {name}: {word}: {why}"))?;
    }
    if line.max_memory == 0 {
        line.max_memory = line.memory;
    }
    check(&line).map_err(|why| format!("domain {name}: {why}"))?;
    Ok(line)
}

fn setting(line: &mut DomainLine, word: &str) -> Result<(), &'static str> {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    match key {
        "name" => {}
        "memory" => line.memory = size(value)?,
        "maxmem" => line.max_memory = size(value)?,
        "vcpus" => line.vcpus = value.parse().map_err(|_| "not a number")?,
        "weight" => line.weight = value.parse().map_err(|_| "not a number from 1 to 65535")?,
        "cap" => line.cap = value.parse().map_err(|_| "not a number of per cents")?,
        "tmem" => line.tmem = TmemSettings::parse(value)?,
        "privileged" if value.is_empty() => line.privileged = true,
        "kernel" => line.kernel = Some(value.to_string()),
        "ramdisk" => line.ramdisk = Some(value.to_string()),
        "on-reboot" => {
            line.on_reboot = match value {
                "restart" => OnReboot::Restart,
                "destroy" => OnReboot::Destroy,
                _ => return Err("restart or destroy"),
            };
        }
        _ => return Err("no such setting"),
    }
    Ok(())
}

fn check(line: &DomainLine) -> Result<(), String> {
    if line.memory < MIN_MEMORY {
        return Err(format!("memory: at least {} MiB", MIN_MEMORY >> 20));
    }
    if line.max_memory < line.memory {
        return Err("maxmem: less than memory".to_string());
    }
    if !(1..=MAX_VCPUS as u32).contains(&line.vcpus) {
        return Err(format!("vcpus: from 1 to {MAX_VCPUS}"));
    }
    if line.weight == 0 {
        return Err("weight: from 1 to 65535".to_string());
    }
    let most = 100 * line.vcpus;
    if u32::from(line.cap) > most {
        return Err(format!("cap: from 0 (none) to {most}, 100 for each vCPU"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_line_is_read() {
        let text = "name=web memory=64M maxmem=128 vcpus=2 weight=512 cap=150 tmem=weight:3,compress privileged kernel=g.elf on-reboot=destroy -- a=b -- c";
        let line = parse_line(text, "d0").unwrap();
        assert_eq!((line.name.as_str(), line.memory, line.max_memory), ("web", 64 << 20, 128 << 20));
        assert_eq!((line.vcpus, line.weight, line.cap, line.privileged), (2, 512, 150, true));
        assert_eq!(line.tmem, TmemSettings { weight: Some(3), compress: true, ..TmemSettings::default() });
        assert_eq!(line.on_reboot, OnReboot::Destroy);
        assert_eq!(line.kernel.as_deref(), Some("g.elf"));
        assert_eq!(line.arguments, "a=b -- c");
    }

    #[test]
    fn defaults_and_names() {
        let line = parse_line("memory=8", "d3").unwrap();
        assert_eq!((line.name.as_str(), line.memory, line.max_memory, line.vcpus), ("d3", 8 << 20, 8 << 20, 1));
    }

    #[test]
    fn mistakes_name_the_domain_and_the_field() {
        for (text, part) in [
            ("name=a", "memory"),
            ("name=a memory=1M", "at least"),
            ("name=a memory=64M maxmem=32M", "maxmem"),
            ("name=a memory=64M vcpus=0", "vcpus"),
            ("name=a memory=64M vcpus=65", "vcpus"),
            ("name=a memory=64M weight=0", "weight"),
            ("name=a memory=64M weight=70000", "weight"),
            ("name=a memory=64M vcpus=2 cap=201", "cap: from 0"),
            ("name=a memory=64M cap=half", "cap"),
            ("name=a memory=64M tmem=much", "tmem=much: off, or"),
            ("name=a memory=99999999999999999999", "memory"),
            ("name=a memory=99999999G", "memory"),
            ("name=a memory=6500K on-reboot=never", "on-reboot"),
            ("name=a memory=64M colour=red", "colour"),
            ("name=a/b memory=64M", "name"),
        ] {
            let error = parse_line(text, "d0").unwrap_err();
            assert!(error.contains("domain") && error.contains('a') && error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn modules_without_an_archive() {
        let kernel = Module { bytes: b"kernel", line: "name=a memory=8M -- x" };
        let ramdisk = Module { bytes: b"ramdisk", line: "ramdisk-for=a" };
        let all = domains(&[kernel, ramdisk]).unwrap();
        assert_eq!((all.len(), all[0].kernel, all[0].ramdisk), (1, &b"kernel"[..], Some(&b"ramdisk"[..])));
        let lost = Module { bytes: b"", line: "ramdisk-for=b" };
        assert!(domains(&[kernel, lost]).unwrap_err().contains("ramdisk-for=b"));
        assert!(domains(&[kernel, kernel]).unwrap_err().contains("twice"));
    }
}
