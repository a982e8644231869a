//! Starts QEMU as Ebb's machine and tells what its end means.
//!
//! COM1 (console) and COM2 (trace) are written to files: a file always takes what it is given, so
//! the machine never waits for its observer and a counted run repeats. What is typed goes into COM1
//! through a FIFO beside the console's file, if the machine was started with one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::accel::Accel;
use crate::bochs;
use crate::nested;
use crate::size::Size;

/// The emulator's program.
pub const QEMU: &str = "qemu-system-x86_64";
/// UEFI firmware as Debian and Ubuntu install it.
pub const OVMF: &str = "/usr/share/ovmf/OVMF.fd";
/// The I/O port of `isa-debug-exit`.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// How the machine gets its software.
#[derive(Clone, Debug)]
pub enum Boot {
    /// QEMU loads the hypervisor by its PVH entry.
    Pvh {
        /// The hypervisor.
        hypervisor: PathBuf,
        /// The boot archive, if any.
        archive: Option<PathBuf>,
        /// The hypervisor's command line.
        options: String,
    },
    /// A disc with GRUB, under the firmware named.
    Iso {
        /// The image.
        path: PathBuf,
        /// Who starts it.
        firmware: Firmware,
    },
    /// A disc with GRUB that starts Linux under the emulator's own BIOS.
    LinuxDisc(PathBuf),
}

impl Boot {
    /// The disc that is booted from and its firmware, if it is one.
    pub(crate) fn disc(&self) -> Option<(&Path, Firmware)> {
        match self {
            Self::Pvh { .. } => None,
            Self::Iso { path, firmware } => Some((path, *firmware)),
            Self::LinuxDisc(path) => Some((path, Firmware::Bios)),
        }
    }
}

/// The machine's firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// The emulator's own BIOS: SeaBIOS for QEMU.
    Bios,
    /// SeaBIOS, for Bochs too: it leaves to Ebb what Bochs' own BIOS locks.
    Seabios,
    /// OVMF.
    Uefi,
}

/// A machine to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Physical processors.
    pub cpus: u32,
    /// Physical memory.
    pub memory: Size,
    /// What runs it.
    pub accel: Accel,
    /// Processor model; the default has SVM.
    pub cpu_model: Option<String>,
    /// Whether time counts instructions.
    pub deterministic: bool,
    /// Millions of instructions in a second of each of Bochs' processors, which is what their TSC counts; QEMU's have
    /// 1000 when time counts instructions.
    pub mhz: u32,
    /// Its software.
    pub boot: Boot,
    /// File for COM1.
    pub console: PathBuf,
    /// Whether something will be typed on COM1.
    pub keyboard: bool,
    /// File for COM2.
    pub trace: PathBuf,
    /// File for QEMU's own messages and its machine protocol's answers.
    pub messages: PathBuf,
    /// Further arguments for QEMU; for Bochs, commands for its debugger, which are done before it goes on to the end.
    pub extra: Vec<String>,
}

impl Machine {
    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut push = |list: &[&str]| args.extend(list.iter().map(|s| (*s).to_owned()));
        push(&["-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-qmp", "stdio"]);
        push(&["-smp", &self.cpus.to_string(), "-m", &self.memory.to_mib().to_string()]);
        let model = self.cpu_model.as_deref();
        match self.accel {
            Accel::Kvm => push(&["-accel", "kvm", "-cpu", model.unwrap_or("host")]),
            Accel::Tcg | Accel::Bochs | Accel::Nested(_) => push(&["-accel", "tcg", "-cpu", model.unwrap_or("EPYC")]),
        }
        if self.deterministic {
            push(&["-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm"]);
            // What RDRAND and RDSEED give: Linux places itself and lays out memory by them.
            push(&["-seed", "1"]);
        }
        push(&["-device", &format!("isa-debug-exit,iobase={DEBUG_EXIT_PORT:#x},iosize=0x4")]);
        for (id, path) in [("console", &self.console), ("trace", &self.trace)] {
            // A pipe reads from the file of its name with `.in` added and writes to the one with `.out`.
            let kind = match id {
                _ if path.starts_with("/dev") => "serial",
                "console" if self.keyboard => "pipe",
                _ => "file",
            };
            // A comma in a path is written twice in QEMU's option syntax.
            let path = path.to_string_lossy().replace(',', ",,");
            push(&["-chardev", &format!("{kind},id={id},path={path}"), "-serial", &format!("chardev:{id}")]);
        }
        if let Boot::Pvh { hypervisor, archive, options } = &self.boot {
            push(&["-vga", "none", "-kernel", &hypervisor.to_string_lossy(), "-append", options]);
            if let Some(archive) = archive {
                push(&["-initrd", &archive.to_string_lossy()]);
            }
        }
        if let Some((path, firmware)) = self.boot.disc() {
            let path = path.to_string_lossy().replace(',', ",,");
            push(&["-vga", "std", "-boot", "d", "-drive", &format!("file={path},media=cdrom,readonly=on")]);
            if firmware == Firmware::Uefi {
                push(&["-bios", OVMF]);
            }
        }
        args.extend(self.extra.iter().cloned());
        args
    }

    /// Starts the machine.
    ///
    /// # Errors
    /// A file cannot be created or QEMU cannot be started.
    pub fn start(&self) -> io::Result<Running> {
        for path in [&self.console, &self.trace] {
            File::create(path)?;
        }
        if let Accel::Nested(emulator) = self.accel {
            return nested::outer(self, emulator).map_err(io::Error::other)?.start();
        }
        let messages = self.messages.clone();
        if self.accel == Accel::Bochs {
            let child = bochs::start(self)?;
            return Ok(Running { child, control: None, keyboard: None, messages, understand: bochs::end });
        }
        let keyboard = if self.keyboard { Some(Keyboard::create(&self.console)?) } else { None };
        let output = File::create(&self.messages)?;
        let mut child = Command::new(QEMU)
            .args(self.arguments())
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let mut control = child.stdin.take();
        if let Some(control) = &mut control {
            // From then on QEMU writes its events among its messages, the reason of the machine's end too.
            control.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        }
        Ok(Running { child, control, keyboard, messages, understand: MachineEnd::of })
    }
}

/// What is typed on COM1, through a FIFO. It never waits: what the machine does not take yet is kept.
#[derive(Debug)]
struct Keyboard {
    fifo: File,
    untaken: Vec<u8>,
}

impl Keyboard {
    /// Makes the two files that QEMU's pipe opens for `console`: the FIFO, and another name for the console's file.
    fn create(console: &Path) -> io::Result<Self> {
        let beside = |suffix: &str| {
            let mut name = OsString::from(console);
            name.push(suffix);
            PathBuf::from(name)
        };
        let (input, output) = (beside(".in"), beside(".out"));
        for path in [&input, &output] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        mknodat(CWD, &input, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        symlink(std::path::absolute(console)?, &output)?;
        // Open for both directions, a FIFO opens before the other side is there and never ends.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let fifo = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&input)?;
        Ok(Self { fifo, untaken: Vec::new() })
    }

    /// Hands on `bytes` after what is kept, as far as the FIFO takes it now.
    fn type_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.untaken.extend_from_slice(bytes);
        while !self.untaken.is_empty() {
            match self.fifo.write(&self.untaken) {
                Ok(count) => drop(self.untaken.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How long QEMU may take to quit when asked.
const QUIT_TIME: Duration = Duration::from_secs(3);

/// A machine that runs; dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// QEMU's machine protocol, to ask it to quit.
    control: Option<ChildStdin>,
    keyboard: Option<Keyboard>,
    /// Where the emulator's messages and events are.
    messages: PathBuf,
    /// What its exit status and its messages mean.
    understand: fn(ExitStatus, &str) -> MachineEnd,
}

impl Running {
    /// Types `bytes` on COM1 of a machine with a keyboard; without one nothing happens. To be called again now and
    /// then, with nothing, for what the machine did not take at once.
    ///
    /// # Errors
    /// The system's.
    pub fn type_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.keyboard.as_mut().map_or(Ok(()), |keyboard| keyboard.type_bytes(bytes))
    }

    /// Gives QEMU's monitor a command; another machine has none, and nothing happens.
    ///
    /// # Errors
    /// The system's.
    pub fn tell_monitor(&mut self, command: &str) -> io::Result<()> {
        let Some(control) = &mut self.control else { return Ok(()) };
        let arguments = serde_json::json!({ "command-line": command });
        writeln!(control, "{}", serde_json::json!({ "execute": "human-monitor-command", "arguments": arguments }))
    }

    /// The machine's end, if it has come.
    ///
    /// # Errors
    /// The system's.
    pub fn poll(&mut self) -> io::Result<Option<MachineEnd>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        // The messages only tell ends with the same status apart; without them it is the commonest one.
        Ok(Some((self.understand)(status, &fs::read_to_string(&self.messages).unwrap_or_default())))
    }

    /// Ends the machine now and waits for it: asks QEMU to quit, and kills it if it does not.
    pub fn stop(&mut self) {
        if let Some(mut control) = self.control.take()
            && control.write_all(b"{\"execute\":\"quit\"}\n").is_ok()
        {
            let deadline = Instant::now() + QUIT_TIME;
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        // Both fail only when it has already ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the end of a machine's emulator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEnd {
    /// The hypervisor wrote a status to the debug port.
    Status(Status),
    /// The machine powered itself off; without a debug port also the good end.
    Off,
    /// The machine was reset, by a triple fault perhaps.
    Reset,
    /// QEMU itself failed, with this exit code if it had one.
    Failed(Option<i32>),
}

impl MachineEnd {
    /// What QEMU's exit status and its messages (with the events of its machine protocol) tell.
    fn of(status: ExitStatus, messages: &str) -> Self {
        match status.code() {
            Some(0) if messages.contains("\"reason\": \"host-signal\"") => Self::Failed(None),
            Some(0) if messages.contains("\"reason\": \"guest-reset\"") => Self::Reset,
            Some(0) => Self::Off,
            // isa-debug-exit ends QEMU with (value << 1) | 1; QEMU's own failures are 1.
            Some(code) if code & 1 == 1 && code > 1 => Self::Status(Status((code >> 1) as u8)),
            code => Self::Failed(code),
        }
    }
}

impl std::fmt::Display for MachineEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Off => f.write_str("the machine powered off"),
            Self::Reset => f.write_str("the machine was reset"),
            Self::Failed(Some(code)) => write!(f, "QEMU failed with exit code {code}"),
            Self::Failed(None) => f.write_str("QEMU was ended by a signal"),
        }
    }
}

/// A status that the hypervisor ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// Every domain ended well.
    pub const OK: Self = Self(0x10);
    /// A domain crashed; the hypervisor is fine.
    pub const DOMAIN_CRASHED: Self = Self(0x11);
    /// The hypervisor stopped on a bug of its own.
    pub const PANIC: Self = Self(0x12);
    /// This machine or its modules cannot start Ebb.
    pub const CANNOT_START: Self = Self(0x13);
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::OK => f.write_str("all domains ended well"),
            Self::DOMAIN_CRASHED => f.write_str("a domain crashed"),
            Self::PANIC => f.write_str("the hypervisor panicked"),
            Self::CANNOT_START => f.write_str("Ebb could not start"),
            Self(other) => write!(f, "unknown status {other:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_end_is_understood() {
        let with = |messages: &str| MachineEnd::of(ExitStatus::from_raw(0), messages);
        assert_eq!(
            with(r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#),
            MachineEnd::Reset
        );
        assert_eq!(
            with(r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}"#),
            MachineEnd::Failed(None)
        );
        assert_eq!(
            with(r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#),
            MachineEnd::Off
        );
        let of = |code: i32| MachineEnd::of(ExitStatus::from_raw(code << 8), "");
        assert_eq!(of(0), MachineEnd::Off);
        assert_eq!(of(1), MachineEnd::Failed(Some(1)));
        assert_eq!(of(33), MachineEnd::Status(Status::OK));
        assert_eq!(of(35), MachineEnd::Status(Status::DOMAIN_CRASHED));
        assert_eq!(of(37), MachineEnd::Status(Status::PANIC));
        assert_eq!(of(39), MachineEnd::Status(Status::CANNOT_START));
        assert_eq!(MachineEnd::of(ExitStatus::from_raw(9), ""), MachineEnd::Failed(None));
    }

    #[test]
    fn a_counted_machine_never_follows_the_wall_clock() {
        let machine = Machine {
            cpus: 2,
            memory: Size::mib(256),
            accel: Accel::Tcg,
            cpu_model: None,
            deterministic: true,
            mhz: bochs::MHZ,
            boot: Boot::Pvh { hypervisor: "h".into(), archive: Some("a,b".into()), options: "console=com1".into() },
            console: "c,d".into(),
            keyboard: false,
            trace: "t".into(),
            messages: "m".into(),
            extra: vec!["-S".into()],
        };
        let args = machine.arguments();
        let after = |flag: &str| args.iter().position(|a| a == flag).map(|i| args[i + 1].as_str());
        assert_eq!((after("-icount"), after("-seed")), (Some("shift=0,sleep=off"), Some("1")));
        assert_eq!(after("-rtc"), Some("base=2026-01-01,clock=vm"));
        assert_eq!(after("-initrd"), Some("a,b"));
        assert_eq!(after("-chardev"), Some("file,id=console,path=c,,d"));
        assert_eq!(args.last().map(String::as_str), Some("-S"));
    }

    #[test]
    fn what_is_typed_waits_in_the_fifo() {
        use std::io::Read;
        let directory = tempfile::tempdir().unwrap();
        let console = directory.path().join("console.log");
        File::create(&console).unwrap();
        // Twice: what an earlier run has left is replaced.
        drop(Keyboard::create(&console).unwrap());
        let mut keyboard = Keyboard::create(&console).unwrap();
        fs::write(directory.path().join("console.log.out"), "(ebb) hello").unwrap();
        assert_eq!(fs::read(&console).unwrap(), b"(ebb) hello");

        // More than any FIFO holds.
        let text = vec![b'x'; 3 << 20];
        keyboard.type_bytes(&text).unwrap();
        assert!(!keyboard.untaken.is_empty());
        let mut machine = File::open(directory.path().join("console.log.in")).unwrap();
        let (mut taken, mut buffer) = (0, vec![0; 1 << 16]);
        while taken < text.len() {
            keyboard.type_bytes(b"").unwrap();
            taken += machine.read(&mut buffer).unwrap();
        }
        assert!(keyboard.untaken.is_empty());
    }
}
