//! Disc images with GRUB that start Ebb under BIOS and UEFI, from a disc or a stick.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::archive::Archive;
use crate::config::Domain;

/// How the domains travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modules {
    /// One boot archive.
    #[default]
    Archive,
    /// One GRUB module per kernel and ramdisk.
    Separate,
}

/// Writes an image to `output`.
///
/// # Errors
/// A word cannot be written in GRUB's language, or `grub-mkrescue` fails.
pub fn build(
    output: &Path,
    hypervisor: &Path,
    archive: &Archive,
    modules: Modules,
    options: &str,
    menu_seconds: u32,
) -> Result<()> {
    let staging = tempfile::tempdir().context("cannot make a temporary directory")?;
    let boot = staging.path().join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::copy(hypervisor, boot.join("ebb-hypervisor"))
        .with_context(|| format!("cannot copy {}", hypervisor.display()))?;
    match modules {
        Modules::Archive if archive.domains.is_empty() => {}
        Modules::Archive => fs::write(boot.join("ebb.tar"), archive.to_bytes()?)?,
        Modules::Separate => {
            for (name, bytes) in &archive.images {
                fs::write(boot.join(name), bytes)?;
            }
        }
    }
    fs::write(boot.join("grub/grub.cfg"), grub_cfg(&archive.domains, modules, options, menu_seconds)?)?;
    write_image(output, staging.path())
}

/// Writes an image to `output` that starts Linux by a BIOS: `kernel` is a bzImage.
///
/// # Errors
/// A word cannot be written in GRUB's language, or `grub-mkrescue` fails.
pub fn build_linux(output: &Path, kernel: &[u8], ramdisk: &[u8], options: &str) -> Result<()> {
    let staging = tempfile::tempdir().context("cannot make a temporary directory")?;
    let boot = staging.path().join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::write(boot.join("vmlinuz"), kernel)?;
    fs::write(boot.join("initrd"), ramdisk)?;
    let options = words(options)?;
    let text = format!(
        "set timeout=0\nmenuentry 'Linux' {{\n  linux /boot/vmlinuz {options}\n  initrd /boot/initrd\n  boot\n}}\n"
    );
    fs::write(boot.join("grub/grub.cfg"), text)?;
    write_image(output, staging.path())
}

/// Makes the image of what lies in `staging`.
fn write_image(output: &Path, staging: &Path) -> Result<()> {
    if let Some(parent) = output.parent() {
        fs::create_dir_all(parent)?;
    }
    let result = Command::new("grub-mkrescue")
        .args(["--locales=", "--fonts=", "--themes=", "-o"])
        .arg(output)
        .arg(staging)
        .output()
        .context(
            "cannot start grub-mkrescue (Debian: grub-common, grub-pc-bin, grub-efi-amd64-bin, xorriso, mtools)",
        )?;
    if !result.status.success() {
        bail!("grub-mkrescue failed:\n{}", String::from_utf8_lossy(&result.stderr));
    }
    Ok(())
}

/// GRUB's menu.
fn grub_cfg(domains: &[Domain], modules: Modules, options: &str, menu_seconds: u32) -> Result<String> {
    let mut text = format!(
        "set timeout={menu_seconds}\nset timeout_style=countdown\nif [ \"$grub_platform\" = efi ]; then insmod all_video; fi\nmenuentry 'Ebb' {{\n"
    );
    text += &format!("  multiboot2 /boot/ebb-hypervisor {}\n", words(options)?);
    match modules {
        Modules::Archive if domains.is_empty() => {}
        Modules::Archive => text += "  module2 /boot/ebb.tar\n",
        Modules::Separate => {
            for domain in domains {
                text += &format!(
                    "  module2 {} {}\n",
                    word(&format!("/boot/{}", domain.kernel))?,
                    words(&domain.module_line())?
                );
                if let Some(ramdisk) = &domain.ramdisk {
                    let path = word(&format!("/boot/{ramdisk}"))?;
                    text += &format!("  module2 {path} {}\n", word(&format!("ramdisk-for={}", domain.name))?);
                }
            }
        }
    }
    text += "  boot\n}\n";
    Ok(text)
}

fn words(text: &str) -> Result<String> {
    text.split_whitespace().map(word).collect::<Result<Vec<_>>>().map(|words| words.join(" "))
}

/// A word between single quotes, in which GRUB changes nothing. When it puts the command line
/// together it writes a backslash before quotes and backslashes, so those cannot be passed.
fn word(text: &str) -> Result<String> {
    if text.contains(['\'', '"', '\\']) {
        bail!("`{text}` cannot pass through GRUB: it has a quote or a backslash");
    }
    Ok(format!("'{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Size;

    #[test]
    fn modules_carry_their_domains() {
        let mut domain = Domain::new("web", Size::mib(64), "guest.elf");
        domain.ramdisk = Some("initrd".into());
        domain.args = "workload=tide a=$b".into();
        let text = grub_cfg(&[domain], Modules::Separate, "console=com1,vga", 0).unwrap();
        for line in [
            "  multiboot2 /boot/ebb-hypervisor 'console=com1,vga'",
            "  module2 '/boot/guest.elf' 'name=web' 'memory=64M' 'maxmem=64M' 'vcpus=1' 'weight=256' '--' 'workload=tide' 'a=$b'",
            "  module2 '/boot/initrd' 'ramdisk-for=web'",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_grub_would_change_is_refused() {
        for options in ["a\\b", "it's", "say=\"x\""] {
            assert!(grub_cfg(&[], Modules::Archive, options, 0).is_err());
        }
        assert!(!grub_cfg(&[], Modules::Archive, "x", 0).unwrap().contains("module2"));
    }
}
