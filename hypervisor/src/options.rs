//! The hypervisor's command line: options separated by spaces, documented in docs/command-line.md.
//!
//! The parser is a pure function; an option it does not know, or a value with no sense, is reported through a
//! callback and leaves the default in place.

use ebb_core::speculation::Wanted;

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What stops the machine or a domain.
    Error = 0,
    /// What a person should look at.
    Warn = 1,
    /// Normal progress.
    Info = 2,
    /// For those who work on Ebb.
    Debug = 3,
}

/// What happens when the last domain has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// Power off.
    PowerOff,
    /// Stay, all processors halted.
    Halt,
    /// Start the machine again.
    Reboot,
}

/// What an NMI means that is not Ebb's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNmi {
    /// It is counted.
    Ignore,
    /// It is reported, and the machine goes on.
    Report,
    /// The machine ends with a report.
    Panic,
}

/// A fault made on purpose, to test the panic report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicTest {
    /// `panic!`.
    Rust,
    /// An undefined instruction.
    InvalidOpcode,
    /// A read of the unmapped page 0.
    PageFault,
    /// Recursion into the guard page: a double fault on its own stack.
    StackOverflow,
    /// A non-maskable interrupt to this processor.
    Nmi,
}

/// The options, with the defaults of [`Options::DEFAULT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Text to the serial port (`console=com1`).
    pub serial_console: bool,
    /// Text to the screen (`console=vga`).
    pub screen_console: bool,
    /// First I/O port of the console's UART (`com1=<port>[,<baud>]`).
    pub com1_port: u16,
    /// Its speed in baud.
    pub com1_baud: u32,
    /// Trace records to COM2 (`trace=com2`).
    pub trace: bool,
    /// Which kinds of records (`trace-mask=<hex>`), a bit per kind.
    pub trace_mask: u64,
    /// Period of samples in ms (`sample=<ms>`); `None`: 500 when tracing, else no samples.
    pub sample_ms: Option<u32>,
    /// At most this many processors (`maxcpus=N`).
    pub max_cpus: Option<u32>,
    /// The scheduler's time slice in µs (`timeslice=<us>`).
    pub timeslice_us: u32,
    /// The scheduling policy's name (`sched=`).
    pub sched: &'static str,
    /// Lines above this level are not printed (`loglevel=`).
    pub log_level: Level,
    /// Port of QEMU's isa-debug-exit device (`debug-exit=<port>`).
    pub debug_exit: Option<u16>,
    /// Look for interrupts at short intervals while a guest runs (`poll-interrupts`): Bochs' VMX loses their exits.
    pub poll_interrupts: bool,
    /// Do without pause-loop exits (`no-pause-exits`), to see what they are worth.
    pub no_pause_exits: bool,
    /// Stay with memory-mapped local APICs (`no-x2apic`).
    pub no_x2apic: bool,
    /// Use at most this many bytes of RAM (`memory-limit=<size>`).
    pub memory_limit: Option<u64>,
    /// The run shall repeat where instructions are counted (`deterministic`): `time::sleep`.
    pub deterministic: bool,
    /// Break on purpose (`panic-test=<kind>`).
    pub panic_test: Option<PanicTest>,
    /// `on-end=`.
    pub on_end: OnEnd,
    /// `nmi=`.
    pub on_nmi: OnNmi,
    /// What is done against leaks by speculation, where the processor needs it (`spec-ctrl=`).
    pub speculation: Wanted,
}

impl Options {
    /// What holds without any option.
    pub const DEFAULT: Self = Self {
        serial_console: true,
        screen_console: true,
        com1_port: 0x3f8,
        com1_baud: 115_200,
        trace: false,
        trace_mask: u64::MAX,
        sample_ms: None,
        max_cpus: None,
        timeslice_us: 5_000,
        sched: "credit",
        log_level: Level::Info,
        debug_exit: None,
        poll_interrupts: false,
        no_pause_exits: false,
        no_x2apic: false,
        memory_limit: None,
        deterministic: false,
        panic_test: None,
        on_end: OnEnd::PowerOff,
        on_nmi: OnNmi::Report,
        speculation: Wanted::ALL,
    };

    /// The period of samples in ms, 0 for none.
    pub fn sample_period_ms(&self) -> u32 {
        self.sample_ms.unwrap_or(if self.trace { 500 } else { 0 })
    }
}

/// Parses `line`; calls `complain` with each option that was not understood.
pub fn parse(line: &str, mut complain: impl FnMut(&str)) -> Options {
    let mut options = Options::DEFAULT;
    for word in line.split_ascii_whitespace() {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        if apply(&mut options, key, value).is_none() {
            complain(word);
        }
    }
    options
}

/// Applies one option; `None` when key or value is not understood, with `options` as they were.
fn apply(options: &mut Options, key: &str, value: Option<&str>) -> Option<()> {
    match (key, value) {
        ("poll-interrupts", None) => options.poll_interrupts = true,
        ("no-pause-exits", None) => options.no_pause_exits = true,
        ("no-x2apic", None) => options.no_x2apic = true,
        ("deterministic", None) => options.deterministic = true,
        ("console", Some(value)) => (options.serial_console, options.screen_console) = parse_consoles(value)?,
        ("com1", Some(value)) => (options.com1_port, options.com1_baud) = parse_uart(value, options.com1_baud)?,
        ("trace", Some("com2")) => options.trace = true,
        ("trace", Some("none")) => options.trace = false,
        ("trace-mask", Some(value)) => options.trace_mask = parse_hex(value)?,
        ("sample", Some(value)) => options.sample_ms = Some(parse_u32(value)?),
        ("maxcpus", Some(value)) => options.max_cpus = Some(parse_u32(value).filter(|&n| n > 0)?),
        ("timeslice", Some(value)) => options.timeslice_us = parse_u32(value).filter(|&us| us >= 100)?,
        ("sched", Some(name)) => options.sched = ebb_core::sched::policy::by_name(name)?.name(),
        ("loglevel", Some(value)) => options.log_level = parse_level(value)?,
        ("debug-exit", Some(value)) => options.debug_exit = Some(u16::try_from(parse_number(value)?).ok()?),
        ("memory-limit", Some(value)) => options.memory_limit = Some(parse_size(value)?),
        ("panic-test", Some(value)) => options.panic_test = Some(parse_panic_test(value)?),
        ("nmi", Some(value)) => options.on_nmi = parse_on_nmi(value)?,
        ("spec-ctrl", Some(value)) => options.speculation = Wanted::parse(value)?,
        ("on-end", Some(value)) => options.on_end = parse_on_end(value)?,
        _ => return None,
    }
    Some(())
}

fn parse_consoles(value: &str) -> Option<(bool, bool)> {
    let (mut serial, mut screen) = (false, false);
    for name in value.split(',') {
        match name {
            "com1" => serial = true,
            "vga" => screen = true,
            "none" => {}
            _ => return None,
        }
    }
    Some((serial, screen))
}

fn parse_uart(value: &str, default_baud: u32) -> Option<(u16, u32)> {
    let (port, baud) = value.split_once(',').unwrap_or((value, ""));
    let port = u16::try_from(parse_number(port)?).ok().filter(|&port| port != 0 && port <= 0xfff8)?;
    let baud = if baud.is_empty() { default_baud } else { parse_u32(baud)? };
    (1..=115_200).contains(&baud).then_some((port, baud))
}

fn parse_level(value: &str) -> Option<Level> {
    Some(match value {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "info" => Level::Info,
        "debug" => Level::Debug,
        _ => return None,
    })
}

fn parse_panic_test(value: &str) -> Option<PanicTest> {
    Some(match value {
        "rust" => PanicTest::Rust,
        "ud" => PanicTest::InvalidOpcode,
        "pagefault" => PanicTest::PageFault,
        "stack" => PanicTest::StackOverflow,
        "nmi" => PanicTest::Nmi,
        _ => return None,
    })
}

fn parse_on_nmi(value: &str) -> Option<OnNmi> {
    Some(match value {
        "ignore" => OnNmi::Ignore,
        "report" => OnNmi::Report,
        "panic" => OnNmi::Panic,
        _ => return None,
    })
}

fn parse_on_end(value: &str) -> Option<OnEnd> {
    Some(match value {
        "poweroff" => OnEnd::PowerOff,
        "halt" => OnEnd::Halt,
        "reboot" => OnEnd::Reboot,
        _ => return None,
    })
}

/// Decimal, or hexadecimal with 0x.
fn parse_number(value: &str) -> Option<u64> {
    match value.strip_prefix("0x") {
        Some(digits) => parse_hex(digits),
        None => parse_digits(value, 10),
    }
}

fn parse_hex(value: &str) -> Option<u64> {
    parse_digits(value.strip_prefix("0x").unwrap_or(value), 16)
}

/// Digits only: `from_str_radix` alone would take a sign.
fn parse_digits(value: &str, radix: u32) -> Option<u64> {
    if value.is_empty() || !value.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(value, radix).ok()
}

fn parse_u32(value: &str) -> Option<u32> {
    u32::try_from(parse_number(value)?).ok()
}

/// A size in bytes: a number with K, M or G; a plain number is MiB.
pub fn parse_size(value: &str) -> Option<u64> {
    let (digits, shift) = match value.as_bytes().last()? {
        b'k' | b'K' => (&value[..value.len() - 1], 10),
        b'm' | b'M' => (&value[..value.len() - 1], 20),
        b'g' | b'G' => (&value[..value.len() - 1], 30),
        _ => (value, 20),
    };
    let number = parse_digits(digits, 10)?;
    number.checked_mul(1 << shift)
}

#[cfg(target_os = "none")]
mod global {
    use super::Options;
    use spin::Once;

    static OPTIONS: Once<Options> = Once::new();

    /// The options of this boot, the defaults until the command line has been parsed.
    pub fn options() -> &'static Options {
        OPTIONS.get().unwrap_or(&Options::DEFAULT)
    }

    /// Sets them, once.
    pub(crate) fn set(options: Options) {
        OPTIONS.call_once(|| options);
    }
}
#[cfg(target_os = "none")]
pub use global::options;
#[cfg(target_os = "none")]
pub(crate) use global::set;

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn parsed(line: &str) -> (Options, Vec<String>) {
        let mut complaints = Vec::new();
        let options = parse(line, |word| complaints.push(word.to_string()));
        (options, complaints)
    }

    #[test]
    fn empty_is_default() {
        assert_eq!(parsed("  "), (Options::DEFAULT, Vec::new()));
    }

    #[test]
    fn every_option_is_understood() {
        let line = "console=com1,vga com1=0x2f8,9600 trace=com2 trace-mask=3f sample=100 maxcpus=2 timeslice=1000 \
                    sched=rr loglevel=debug debug-exit=0xf4 poll-interrupts no-pause-exits no-x2apic memory-limit=512M \
                    deterministic panic-test=stack on-end=halt spec-ctrl=no-l1d,no-verw nmi=panic";
        let (options, complaints) = parsed(line);
        assert_eq!(complaints, Vec::<String>::new());
        let expected = Options {
            serial_console: true,
            screen_console: true,
            com1_port: 0x2f8,
            com1_baud: 9600,
            trace: true,
            trace_mask: 0x3f,
            sample_ms: Some(100),
            max_cpus: Some(2),
            timeslice_us: 1000,
            sched: "rr",
            log_level: Level::Debug,
            debug_exit: Some(0xf4),
            poll_interrupts: true,
            no_pause_exits: true,
            no_x2apic: true,
            memory_limit: Some(512 << 20),
            deterministic: true,
            panic_test: Some(PanicTest::StackOverflow),
            on_end: OnEnd::Halt,
            on_nmi: OnNmi::Panic,
            speculation: Wanted { l1d: false, verw: false, ..Wanted::ALL },
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn nonsense_is_reported_and_changes_nothing() {
        let line = "frobnicate maxcpus=0 maxcpus=-1 maxcpus com1=0 com1=0x3f8,0 debug-exit=0x10000 memory-limit=G \
                    memory-limit=99999999999999G timeslice=+500 loglevel=loud sched=fifo console=com7 spec-ctrl=on nmi=dom0 =";
        let (options, complaints) = parsed(line);
        assert_eq!(options, Options::DEFAULT);
        assert_eq!(complaints.len(), line.split_ascii_whitespace().count());
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64M"), Some(64 << 20));
        assert_eq!(parse_size("64"), Some(64 << 20));
        assert_eq!(parse_size("4k"), Some(4096));
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size(""), None);
        assert_eq!(parse_size("é"), None);
    }

    #[test]
    fn sample_period_depends_on_tracing() {
        assert_eq!(parsed("").0.sample_period_ms(), 0);
        assert_eq!(parsed("trace=com2").0.sample_period_ms(), 500);
        assert_eq!(parsed("trace=com2 sample=20").0.sample_period_ms(), 20);
    }
}
