//! Starts Bochs as Ebb's machine: it emulates Intel's VMX with EPT, and AMD's SVM with what QEMU's lacks.
//!
//! It boots discs only, through its BIOS. Time counts instructions: a run repeats. What it is told here and why is in
//! docs/hardware.md; Debian packages it as bochs, bochsbios and vgabios.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::qemu::{Boot, Firmware, Machine, MachineEnd};

/// The program.
pub const BOCHS: &str = "bochs-bin";
/// Its BIOS and its graphics card's.
const BIOS: [&str; 2] = ["/usr/share/bochs/BIOS-bochs-latest", "/usr/share/vgabios/vgabios.bin"];
/// SeaBIOS and its own for the graphics card.
const SEABIOS: [&str; 2] = ["/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/vgabios-stdvga.bin"];
/// The model of processor when none is named.
pub const MODEL: &str = "corei7_skylake_x";
/// Short names of the models that Ebb is tried with.
const MODELS: [(&str, &str); 6] = [
    ("skylake_x", MODEL),
    ("icelake_u", "corei7_icelake_u"),
    ("haswell", "corei7_haswell_4770"),
    ("ivy_bridge", "corei7_ivy_bridge_3770k"),
    ("sandy_bridge", "corei7_sandy_bridge_2600k"),
    ("ryzen", "ryzen"),
];
/// Millions of instructions in a second of each processor, unless a machine needs another number: waits are short.
pub const MHZ: u32 = 100;
/// The hypervisor's option with which it works around the interrupts that Bochs loses.
pub const OPTION: &str = "poll-interrupts";
/// The most memory that it boots with, bytes.
const MOST_MEMORY: u64 = 2 << 30;

/// Why it cannot be used here, if so.
#[must_use]
pub fn missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut needed = vec![std::env::split_paths(&path).map(|d| d.join(BOCHS)).find(|p| p.is_file())];
    needed.extend(BIOS.iter().map(|file| Some(PathBuf::from(file)).filter(|p| p.is_file())));
    let absent = needed.iter().any(Option::is_none);
    absent.then(|| "Bochs is missing (Debian: bochs, bochsbios, vgabios)".into())
}

/// The model that a name or a short name means; Bochs knows more, by their own names.
#[must_use]
pub fn model(name: &str) -> &str {
    MODELS.iter().find(|(short, _)| *short == name).map_or(name, |(_, model)| model)
}

/// Starts `machine`. Nothing can be typed on it.
///
/// # Errors
/// It does not boot from a disc by a BIOS, has too much memory, or Bochs cannot be started.
pub fn start(machine: &Machine) -> io::Result<Child> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
    let Some((path, firmware @ (Firmware::Bios | Firmware::Seabios))) = machine.boot.disc() else {
        return Err(invalid("Bochs starts Ebb from a disc, by a BIOS"));
    };
    if machine.keyboard || machine.memory.bytes() > MOST_MEMORY {
        return Err(invalid("under Bochs nothing can be typed, and there is no more than 2G of memory"));
    }
    let (settings, script) = (beside(machine, "bochsrc"), beside(machine, "bochs.debugger"));
    fs::write(&settings, configuration(machine, path, firmware)?)?;
    // Debian's build stops in its debugger: do there what is wanted, go on, and leave when the machine has ended.
    let commands = machine.extra.iter().map(String::as_str).chain(["c", "q", ""]);
    fs::write(&script, commands.collect::<Vec<_>>().join("\n"))?;
    let messages = File::create(&machine.messages)?;
    Command::new(BOCHS)
        .arg("-q")
        .arg("-f")
        .arg(&settings)
        .arg("-rc")
        .arg(&script)
        .stdin(Stdio::null())
        .stdout(messages.try_clone()?)
        .stderr(messages)
        .spawn()
}

/// What its exit and its messages tell. It ends in the same way for all ends; ACPI's soft power-off is one that it
/// names.
#[must_use]
pub fn end(status: ExitStatus, messages: &str) -> MachineEnd {
    if messages.contains("ACPI control: soft power off") { MachineEnd::Off } else { MachineEnd::Failed(status.code()) }
}

fn beside(machine: &Machine, name: &str) -> PathBuf {
    machine.messages.with_file_name(name)
}

fn configuration(machine: &Machine, disc: &Path, firmware: Firmware) -> io::Result<String> {
    let model = machine.cpu_model.as_deref().unwrap_or(MODEL);
    let (cpus, mhz, mib) = (machine.cpus, machine.mhz, machine.memory.to_mib());
    let absolute = |path: &Path| std::path::absolute(path).map(|path| path.display().to_string());
    let (disc, console, trace) = (absolute(disc)?, absolute(&machine.console)?, absolute(&machine.trace)?);
    let log = absolute(&beside(machine, "bochs.log"))?;
    let ([bios, vga], options) =
        if firmware == Firmware::Seabios { (SEABIOS, "") } else { (BIOS, ", options=fastboot") };
    // Linux itself, which is not ours, reads registers that Bochs lacks before it can take a fault.
    let ignore = u8::from(matches!(machine.boot, Boot::LinuxDisc(_)));
    Ok(format!(
        "config_interface: textconfig\n\
         display_library: rfb, options=\"timeout=0\"\n\
         plugin_ctrl: speaker=0\n\
         cpu: model={model}, count={cpus}, ips={mhz}000000, reset_on_triple_fault=0, ignore_bad_msrs={ignore}\n\
         clock: sync=none, time0=946684800\n\
         memory: guest={mib}, host={mib}\n\
         romimage: file={bios}{options}\n\
         vgaromimage: file={vga}\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path={disc}, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=file, dev={console}\n\
         com2: enabled=1, mode=file, dev={trace}\n\
         log: {log}\n\
         panic: action=fatal\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn models_have_short_names() {
        assert_eq!((model("skylake_x"), model("ryzen"), model("tigerlake")), (MODEL, "ryzen", "tigerlake"));
    }

    #[test]
    fn a_power_off_is_told_from_a_failure() {
        let status = ExitStatus::from_raw(1 << 8);
        assert_eq!(end(status, "[ACPI  ] ACPI control: soft power off\n"), MachineEnd::Off);
        assert_eq!(end(status, "[CPU0  ] >>PANIC<< exception(): 3rd (13) exception\n"), MachineEnd::Failed(Some(1)));
    }
}
