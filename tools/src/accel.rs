//! Chooses what runs the machine: KVM where it can run a hypervisor inside a guest, else QEMU's
//! own emulation.
//!
//! Nested SVM or VMX is believed only after a machine with it has been created.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::bochs::BOCHS;
use crate::qemu::QEMU;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AccelChoice {
    /// KVM if it can nest, else TCG.
    #[default]
    Auto,
    /// The processor's own virtualisation, nested.
    Kvm,
    /// QEMU's emulation; works everywhere.
    Tcg,
    /// Linux's KVM in an emulated machine with SVM: slow, but it is KVM, whatever this processor can do.
    Nested,
    /// The same with VMX, in Bochs: slower.
    NestedVmx,
}

/// What runs the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// Linux's KVM with nested SVM or VMX.
    Kvm,
    /// QEMU's emulation.
    Tcg,
    /// Bochs, for tests and measurements.
    Bochs,
    /// Linux's KVM in an emulated machine.
    Nested(Emulator),
}

/// What emulates the machine in which Linux's KVM nests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulator {
    /// QEMU, with SVM.
    Qemu,
    /// Bochs, with VMX.
    Bochs,
}

impl Accel {
    /// The program that is started for it.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Kvm | Self::Tcg | Self::Nested(Emulator::Qemu) => QEMU,
            Self::Bochs | Self::Nested(Emulator::Bochs) => BOCHS,
        }
    }
}

/// Decides, and says why in a sentence.
///
/// # Errors
/// KVM was demanded and cannot run Ebb; the sentence says why.
pub fn choose(choice: AccelChoice, deterministic: bool) -> Result<(Accel, String), String> {
    if deterministic {
        return match choice {
            AccelChoice::Kvm | AccelChoice::Nested | AccelChoice::NestedVmx => {
                Err("instruction-counted time needs --accel tcg".into())
            }
            _ => Ok((Accel::Tcg, "TCG, time counted in instructions".into())),
        };
    }
    match choice {
        AccelChoice::Tcg => Ok((Accel::Tcg, "TCG, as asked".into())),
        AccelChoice::Nested => Ok((Accel::Nested(Emulator::Qemu), "KVM of a Linux in TCG, as asked".into())),
        AccelChoice::NestedVmx => Ok((Accel::Nested(Emulator::Bochs), "KVM of a Linux in Bochs, as asked".into())),
        AccelChoice::Kvm => nested().map(|vendor| (Accel::Kvm, format!("KVM with nested {}", vendor.name))),
        AccelChoice::Auto => Ok(match nested() {
            Ok(vendor) => (Accel::Kvm, format!("KVM with nested {}", vendor.name)),
            Err(why) => (Accel::Tcg, format!("TCG, since {why}")),
        }),
    }
}

/// What a processor's virtualisation is called, and where.
struct Vendor {
    name: &'static str,
    /// In `/proc/cpuinfo`.
    flag: &'static str,
    module: &'static str,
    /// QEMU's model with what Ebb needs enforced.
    model: &'static str,
}

const VENDORS: [Vendor; 2] = [
    Vendor { name: "SVM", flag: "svm", module: "kvm_amd", model: "host,+svm,+npt,enforce" },
    Vendor { name: "VMX", flag: "vmx", module: "kvm_intel", model: "host,+vmx,+vmx-ept,enforce" },
];

fn nested() -> Result<&'static Vendor, String> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|e| format!("/dev/kvm cannot be used ({e})"))?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let vendor = VENDORS
        .iter()
        .find(|vendor| has_flag(&cpuinfo, vendor.flag))
        .ok_or("this processor offers neither SVM nor VMX")?;
    let parameter = format!("/sys/module/{}/parameters/nested", vendor.module);
    let nested = fs::read_to_string(parameter).unwrap_or_default();
    if !matches!(nested.trim(), "1" | "Y") {
        return Err(format!("{} does not nest (load it with nested=1)", vendor.module));
    }
    try_machine(vendor).map(|()| vendor)
}

/// Whether the first processor in the text of `/proc/cpuinfo` has `flag`.
fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .is_some_and(|(_, flags)| flags.split_whitespace().any(|f| f == flag))
}

/// Creates a stopped machine with its virtualisation enforced and asks it to quit.
fn try_machine(vendor: &Vendor) -> Result<(), String> {
    let failed = |what: String| format!("a trial machine with nested {} failed ({what})", vendor.name);
    let mut child = Command::new(QEMU)
        .args(["-accel", "kvm", "-cpu", vendor.model, "-machine", "q35", "-m", "64"])
        .args(["-nodefaults", "-display", "none", "-S", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A machine that has already failed closes its input; its status below tells.
        let _ = stdin.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(failed(status.to_string())),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed("no answer".into()));
            }
            Err(e) => return Err(failed(e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words_of_the_flags_line() {
        let text = "model name\t: svm\nflags\t\t: fpu svm_lock sse\nflags\t\t: svm\n";
        assert!(!has_flag(text, "svm"));
        assert!(has_flag(text, "sse"));
        assert!(!has_flag("", "svm"));
    }

    #[test]
    fn counted_time_is_never_kvm() {
        assert_eq!(choose(AccelChoice::Auto, true).unwrap().0, Accel::Tcg);
        assert!(choose(AccelChoice::Kvm, true).is_err());
    }
}
