//! Ebb under Linux's KVM on a machine whose own KVM cannot nest: an emulated machine with SVM (QEMU) or VMX (Bochs) runs Linux, and Linux's
//! KVM and QEMU run Ebb. Everything between is the real thing: KVM's nested virtualisation, its interrupt controllers and
//! clocks, and the host's own QEMU, which goes into Linux's RAM disk with the libraries that it needs.
//!
//! The two serial ports are handed through, and the status that Ebb ends with is in its trace. Linux itself is quiet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::accel::{Accel, Emulator};
use crate::bochs;
use crate::iso;
use crate::library::{DEBIAN, Library, Source};
use crate::linux::initramfs::{Initramfs, Node};
use crate::linux::package;
use crate::qemu::{Boot, Machine, QEMU};
use crate::size::Size;

/// What Linux, its RAM disk and QEMU take beside the inner machine's memory.
const OVERHEAD: Size = Size::mib(512);
/// The emulated processor. QEMU's emulation does not tell KVM of its guest's XSETBV, so that KVM would put another XCR0
/// back under Ebb at any exit; without XSAVE there is nothing to tell.
const MODEL: &str = "EPYC,-xsave";
/// Where Ebb is in the RAM disk.
const HYPERVISOR: &str = "/hypervisor";
const ARCHIVE: &str = "/archive";
/// The firmware that QEMU loads for a kernel on its command line, in the directories where Debian and Ubuntu have it.
const FIRMWARE: [&str; 5] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin", "linuxboot.bin"];
const FIRMWARE_PLACES: [&str; 2] = ["/usr/share/seabios", "/usr/share/qemu"];

/// KVM, in the order in which it is loaded.
fn modules(emulator: Emulator) -> [&'static str; 3] {
    match emulator {
        Emulator::Qemu => ["irqbypass", "kvm", "kvm-amd"],
        Emulator::Bochs => ["irqbypass", "kvm", "kvm-intel"],
    }
}

/// The machine in which Linux runs `machine`.
///
/// # Errors
/// It does not start by PVH, or something of it, of Linux or of QEMU cannot be had.
pub fn outer(machine: &Machine, emulator: Emulator) -> Result<Machine> {
    let Boot::Pvh { hypervisor, archive, options } = &machine.boot else {
        bail!("under KVM in an emulated machine Ebb starts by PVH, not from a disc");
    };
    let inside = Machine {
        accel: Accel::Kvm,
        boot: Boot::Pvh {
            hypervisor: HYPERVISOR.into(),
            archive: archive.as_ref().map(|_| ARCHIVE.into()),
            options: options.clone(),
        },
        console: "/dev/ttyS0".into(),
        trace: "/dev/ttyS1".into(),
        ..machine.clone()
    };
    let library = Library::default();
    let disk = format!("ebb-init+{}", modules(emulator).join("+"));
    let mut ramdisk = library.load(Source::ramdisk(&disk, DEBIAN))?;
    ramdisk.extend(second_disk(&inside, hypervisor, archive.as_deref())?.to_bytes()?);
    let boot = boot(machine, emulator, &library, &ramdisk)?;
    let (accel, model) = match emulator {
        Emulator::Qemu => (Accel::Tcg, machine.cpu_model.clone().unwrap_or_else(|| MODEL.into())),
        Emulator::Bochs => (Accel::Bochs, bochs::model(machine.cpu_model.as_deref().unwrap_or(bochs::MODEL)).into()),
    };
    Ok(Machine {
        // Linux saves x87 registers, which QEMU's emulation of SVM stands on one processor only (docs/hardware.md).
        cpus: 1,
        memory: Size(machine.memory.bytes() + OVERHEAD.bytes()),
        accel,
        cpu_model: Some(model),
        boot,
        extra: Vec::new(),
        ..machine.clone()
    })
}

/// How the emulated machine starts Linux with this RAM disk.
fn boot(machine: &Machine, emulator: Emulator, library: &Library, ramdisk: &[u8]) -> Result<Boot> {
    let kernel = library.linux(DEBIAN)?.with_context(|| format!("{DEBIAN} names no package"))?;
    let jobs: Vec<String> = modules(emulator).iter().map(|name| format!("module:{name}")).collect();
    let options = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable ebb.run={},machine,poweroff",
        jobs.join(",")
    );
    let path = machine.messages.with_extension(if emulator == Emulator::Qemu { "cpio" } else { "iso" });
    match emulator {
        Emulator::Qemu => {
            fs::write(&path, ramdisk).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(Boot::Pvh { hypervisor: kernel.path, archive: Some(path), options })
        }
        Emulator::Bochs => {
            iso::build_linux(&path, &package::kernel_in(&kernel.deb())?, ramdisk, &options)?;
            Ok(Boot::LinuxDisc(path))
        }
    }
}

/// Ebb, QEMU with all that it needs, and the command that starts them.
fn second_disk(inside: &Machine, hypervisor: &Path, archive: Option<&Path>) -> Result<Initramfs> {
    let mut disk = Initramfs::new();
    add_file(&mut disk, HYPERVISOR, hypervisor)?;
    if let Some(archive) = archive {
        add_file(&mut disk, ARCHIVE, archive)?;
    }
    let qemu = find(QEMU)?;
    for path in std::iter::once(qemu.clone()).chain(libraries(&qemu)?).chain(firmware()?) {
        add_file(&mut disk, &path.to_string_lossy(), &path)?;
    }
    let mut command = vec![qemu.to_string_lossy().into_owned()];
    command.extend(inside.arguments());
    disk.add("machine", 0o644, Node::File(command.join("\n").into_bytes()));
    Ok(disk)
}

/// Adds the host's file `from` at `path`, with the directories it is in. One that is there already stays.
fn add_file(disk: &mut Initramfs, path: &str, from: &Path) -> Result<()> {
    let path = path.trim_start_matches('/');
    let parents: Vec<&Path> = Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
    for parent in parents.iter().rev() {
        disk.add(parent.to_string_lossy(), 0o755, Node::Directory);
    }
    let bytes = fs::read(from).with_context(|| from.display().to_string())?;
    disk.add(path, 0o755, Node::File(bytes));
    Ok(())
}

fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("{program} is missing"))
}

/// The shared libraries that `program` is started with, and what loads them, by the loader's own word.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(named_by_ldd(&String::from_utf8_lossy(&output.stdout)))
}

/// The files in what `ldd` prints: `name => /path (address)`, or `/path (address)` for the loader.
fn named_by_ldd(text: &str) -> Vec<PathBuf> {
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn firmware() -> Result<Vec<PathBuf>> {
    let place = |name: &&str| {
        FIRMWARE_PLACES
            .iter()
            .map(|place| Path::new(place).join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| anyhow!("QEMU's {name} is in none of {}", FIRMWARE_PLACES.join(", ")))
    };
    FIRMWARE.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_their_loader_are_found() {
        let text =
            "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/x/libz.so.1 (0x00007f)\n\t/lib64/ld.so (0x7f)\n";
        assert_eq!(named_by_ldd(text), [PathBuf::from("/lib/x/libz.so.1"), PathBuf::from("/lib64/ld.so")]);
    }

    #[test]
    fn a_file_brings_its_directories() {
        let mut disk = Initramfs::new();
        let file = tempfile::NamedTempFile::new().unwrap();
        add_file(&mut disk, "/a/b/c", file.path()).unwrap();
        let mut expected = Initramfs::new();
        expected.add("a", 0o755, Node::Directory);
        expected.add("a/b", 0o755, Node::Directory);
        expected.add("a/b/c", 0o755, Node::File(Vec::new()));
        assert_eq!(disk, expected);
    }
}
