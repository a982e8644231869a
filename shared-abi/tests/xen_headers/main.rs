//! Compares the ABI with Xen's own public headers (Debian's libxen-dev): the size of every structure, offset and size of
//! every field, and every constant.
//!
//! The rows ([`constants`], [`structures`]) name each Rust item and its C spelling once. For the 64-bit layout a C program
//! prints the values; for the 32-bit one the compiler checks static assertions, so no 32-bit library is needed. [`claims`]
//! checks that no item is left out.
//!
//! The control interfaces (domctl, sysctl) change with Xen's version: with headers of another level than ours their rows,
//! and those of things that newer headers have extended, are left out, and a line says so. `EBB_XEN_HEADERS=<dir>` uses `<dir>/xen/xen.h`; `EBB_SKIP_XEN_HEADERS=1` skips.

mod claims;
mod constants;
mod structures;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use shared_abi::{domctl, grant_table, hvm, io, sysctl, tmem, xen};

/// One comparison.
pub struct Row {
    /// The Rust item: `module::ITEM` or `module::Type.field`.
    pub rust: String,
    /// What it is in C, an expression.
    pub c: String,
    /// Its value here.
    pub value: i64,
}

/// A constant's value, as C prints it when cast to `long long`.
pub trait Value {
    /// The value.
    fn value(self) -> i64;
}

macro_rules! integer_values {
    ($($type:ty),*) => { $(impl Value for $type { fn value(self) -> i64 { self as i64 } })* };
}

macro_rules! newtype_values {
    ($($type:ty),*) => { $(impl Value for $type { fn value(self) -> i64 { self.0 as i64 } })* };
}

macro_rules! flag_values {
    ($($type:ty),*) => { $(impl Value for $type { fn value(self) -> i64 { self.bits() as i64 } })* };
}

integer_values!(u8, u16, u32, u64, usize, i16, i32);
newtype_values!(xen::DomId, xen::Virq, grant_table::GrantRef, grant_table::GrantStatus, io::xs_wire::MessageType);
flag_values!(
    shared_abi::arch_x86::EmulationFlags,
    shared_abi::arch_x86::cpuid::HvmFeatures,
    shared_abi::features::Features,
    domctl::CreateFlags,
    domctl::InfoFlags,
    grant_table::EntryFlags,
    grant_table::MapFlags,
    sysctl::PhysCapabilities
);

impl Value for xen::Errno {
    fn value(self) -> i64 {
        self.number()
    }
}

/// The size of the field that `get` returns.
pub const fn field_size<T, F>(_get: fn(T) -> F) -> usize {
    size_of::<F>()
}

/// Makes the rows of constants: `module { RUST = "C", ... }`.
#[macro_export]
macro_rules! constants {
    ($(#[$doc:meta])* $name:ident: $($($module:ident)::+ { $($rust:ident = $c:literal),* $(,)? })*) => {
        $(#[$doc])*
        pub fn $name() -> Vec<$crate::Row> {
            let mut rows = Vec::new();
            $({
                use shared_abi::$($module)::+ as module;
                let prefix = [$(stringify!($module)),+].join("::");
                $(rows.push($crate::Row {
                    rust: format!("{prefix}::{}", stringify!($rust)),
                    c: $c.to_string(),
                    value: $crate::Value::value(module::$rust),
                });)*
            })*
            rows
        }
    };
}

/// Makes the rows of structures: `module::Type = "C type" { field, field = "C field", ... }`.
#[macro_export]
macro_rules! structures {
    (@c $field:ident) => { stringify!($field) };
    (@c $field:ident $c:literal) => { $c };
    ($(#[$doc:meta])* $name:ident:
        $($($path:ident)::+ = $type:literal { $($field:ident $(= $c:literal)?),* $(,)? })*) => {
        $(#[$doc])*
        pub fn $name() -> Vec<$crate::Row> {
            let mut rows = Vec::new();
            $({
                use shared_abi::$($path)::+ as Type;
                let rust = [$(stringify!($path)),+].join("::");
                rows.push($crate::Row { rust: rust.clone(), c: format!("sizeof({})", $type), value: size_of::<Type>() as i64 });
                $(
                    let field = $crate::structures!(@c $field $($c)?);
                    let rust_field = format!("{rust}.{}", stringify!($field));
                    rows.push($crate::Row {
                        rust: rust_field.clone(),
                        c: format!("offsetof({}, {field})", $type),
                        value: core::mem::offset_of!(Type, $field) as i64,
                    });
                    rows.push($crate::Row {
                        rust: rust_field,
                        c: format!("sizeof((({} *)0)->{field})", $type),
                        value: $crate::field_size(|it: Type| it.$field) as i64,
                    });
                )*
            })*
            rows
        }
    };
}

/// What is neither a constant nor a whole structure in C.
fn expressions() -> Vec<Row> {
    use core::mem::offset_of;
    let row = |rust: &str, c: &str, value: usize| Row { rust: rust.into(), c: c.into(), value: value as i64 };
    let shared = xen::shared_info_offset::VCPU_INFO_STRIDE;
    vec![
        row("io::ring::SharedRingHeader", "offsetof(struct ebb_sring, ring)", size_of::<io::ring::SharedRingHeader>()),
        row(
            "io::ring::SharedRingHeader.req_event",
            "offsetof(struct ebb_sring, req_event)",
            offset_of!(io::ring::SharedRingHeader, req_event),
        ),
        row(
            "io::ring::SharedRingHeader.rsp_prod",
            "offsetof(struct ebb_sring, rsp_prod)",
            offset_of!(io::ring::SharedRingHeader, rsp_prod),
        ),
        row(
            "io::ring::SharedRingHeader.rsp_event",
            "offsetof(struct ebb_sring, rsp_event)",
            offset_of!(io::ring::SharedRingHeader, rsp_event),
        ),
        row("io::ring::entries", "__CONST_RING_SIZE(ebb, 4096)", io::ring::entries(4096, 12) as usize),
        row("io::console::IN_SIZE", "sizeof(((struct xencons_interface *)0)->in)", io::console::IN_SIZE as usize),
        row("io::console::OUT_SIZE", "sizeof(((struct xencons_interface *)0)->out)", io::console::OUT_SIZE as usize),
        row(
            "hvm::start_info::VERSION_0_SIZE",
            "offsetof(struct hvm_start_info, memmap_paddr)",
            hvm::start_info::VERSION_0_SIZE,
        ),
        row("hvm::XENTRACE_EXTRA_BYTES", "sizeof(((struct xen_hvm_xentrace *)0)->extra)", hvm::XENTRACE_EXTRA_BYTES),
        row("xen::shared_info_offset::VCPU_INFO_STRIDE", "offsetof(struct shared_info, vcpu_info[1])", shared),
        row(
            "grant_table::ENTRIES_PER_FRAME_V1",
            "4096 / sizeof(struct grant_entry_v1)",
            grant_table::ENTRIES_PER_FRAME_V1 as usize,
        ),
        row(
            "memory::memf_address_bits",
            "XENMEMF_get_address_bits(0x12345)",
            shared_abi::memory::memf_address_bits(0x12345) as usize,
        ),
        row("hvm::params::CallbackVia", "HVM_PARAM_CALLBACK_IRQ_TYPE_MASK >> 56", 0xff),
    ]
}

/// The other arm of tmem's union, which is shorter than the whole.
fn tmem_expressions() -> Vec<Row> {
    use core::mem::offset_of;
    let row = |field: &str, c: &str, value: usize| Row {
        rust: format!("tmem::TmemNewPool.{field}"),
        c: format!("offsetof(struct tmem_op, {c})"),
        value: value as i64,
    };
    vec![
        row("pool_id", "pool_id", offset_of!(tmem::TmemNewPool, pool_id)),
        row("uuid", "u.creat.uuid", offset_of!(tmem::TmemNewPool, uuid)),
        row("flags", "u.creat.flags", offset_of!(tmem::TmemNewPool, flags)),
        row("arg1", "u.creat.arg1", offset_of!(tmem::TmemNewPool, arg1)),
    ]
}

/// Headers that every program includes, in an order that works.
const HEADERS: &[&str] = &[
    "xen.h",
    "errno.h",
    "memory.h",
    "event_channel.h",
    "sched.h",
    "vcpu.h",
    "trace.h",
    "version.h",
    "features.h",
    "elfnote.h",
    "grant_table.h",
    "physdev.h",
    "callback.h",
    "nmi.h",
    "tmem.h",
    "hvm/hvm_op.h",
    "hvm/params.h",
    "hvm/hvm_vcpu.h",
    "arch-x86/cpuid.h",
    "arch-x86/hvm/start_info.h",
    "io/ring.h",
    "io/console.h",
    "io/xs_wire.h",
];

/// Whose headers a program sees.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// The tools': the current interface, with the control calls.
    Tools,
    /// A guest's of the last interface that had tmem.
    Tmem,
    /// A guest's of an old interface.
    Legacy,
}

/// Where `xen/xen.h` is.
fn include_directory() -> PathBuf {
    std::env::var_os("EBB_XEN_HEADERS").map_or_else(|| PathBuf::from("/usr/include"), PathBuf::from)
}

/// Fails with the line to type when the compiler or the headers are not there; `false` when the test shall be skipped.
fn is_ready() -> bool {
    if std::env::var_os("EBB_SKIP_XEN_HEADERS").is_some_and(|value| value == "1") {
        eprintln!("skipped: EBB_SKIP_XEN_HEADERS=1");
        return false;
    }
    let header = include_directory().join("xen/xen.h");
    let has_compiler = Command::new("cc").arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(
        has_compiler && header.exists(),
        "a C compiler and Xen's headers ({}) are needed; type:\n    sudo apt-get install -y gcc libc6-dev libxen-dev\n\
         or set EBB_SKIP_XEN_HEADERS=1",
        header.display()
    );
    true
}

fn prelude(view: View) -> String {
    let mut text = String::from("#include <stddef.h>\n#include <stdint.h>\n");
    text.push_str(match view {
        View::Tools => "#define __XEN_TOOLS__ 1\n",
        View::Tmem => "#define __XEN_INTERFACE_VERSION__ 0x00040e00\n",
        View::Legacy => "#define __XEN_INTERFACE_VERSION__ 0x00040400\n",
    });
    for header in HEADERS {
        writeln!(text, "#include <xen/{header}>").unwrap();
    }
    if view == View::Tools {
        text.push_str("#include <xen/domctl.h>\n#include <xen/sysctl.h>\n");
    }
    text.push_str("struct ebb_message { uint32_t words[3]; };\n");
    text.push_str("DEFINE_RING_TYPES(ebb, struct ebb_message, struct ebb_message);\n");
    text
}

/// Writes `source` and runs the compiler on it.
fn compile(name: &str, source: &str, arguments: &[&str]) -> (PathBuf, Output) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = directory.join(format!("{name}.c"));
    let program = directory.join(name);
    fs::write(&file, source).expect("the source can be written");
    let output = Command::new("cc")
        .args(["-std=gnu11", "-w", "-I"])
        .arg(include_directory())
        .args(arguments)
        .arg(&file)
        .arg("-o")
        .arg(&program)
        .output()
        .expect("the compiler starts");
    (program, output)
}

/// The values of C expressions, by a program that prints them.
fn evaluate(name: &str, view: View, expressions: &[&str]) -> Vec<i64> {
    let mut source = prelude(view);
    source.push_str("#include <stdio.h>\nint main(void) {\n");
    for expression in expressions {
        writeln!(source, "    printf(\"%lld\\n\", (long long)({expression}));").unwrap();
    }
    source.push_str("    return 0;\n}\n");
    let (program, output) = compile(name, &source, &[]);
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(&program).output().expect("the program runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("numbers");
    let values: Vec<i64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(values.len(), expressions.len());
    values
}

/// Compares rows with what C says and lists every difference.
fn compare(name: &str, view: View, rows: &[Row]) {
    assert!(!rows.is_empty());
    let expressions: Vec<&str> = rows.iter().map(|row| row.c.as_str()).collect();
    let mut differences = String::new();
    for (row, c_value) in rows.iter().zip(evaluate(name, view, &expressions)) {
        if row.value != c_value {
            writeln!(differences, "{} is {:#x}, but {} is {c_value:#x}", row.rust, row.value, row.c).unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    println!("{name}: {} comparisons", rows.len());
}

fn is_tmem(row: &Row) -> bool {
    row.rust.starts_with("tmem::") || row.rust.starts_with("xen::compat::TmemOp32") || is_tmem_errno(row)
}

fn is_tmem_errno(row: &Row) -> bool {
    row.c == "EFROZEN" || row.c == "EEMPTY"
}

/// Whether a row's value goes with Xen's version: the control interfaces, and what newer headers extend at its end.
fn is_of_version(row: &Row) -> bool {
    const INTERFACES: &[&str] = &["domctl::", "sysctl::", "arch_x86::ArchDomainConfig", "arch_x86::EmulationFlags"];
    const EXTENDED: &[&str] = &[
        "arch_x86::MSR_RELAXED",
        "elfnote::MAX",
        "io::console::ConsoleInterface",
        "io::xs_wire::DomainInterface",
        "io::xs_wire::MessageType::COUNT",
    ];
    EXTENDED.contains(&row.rust.as_str()) || INTERFACES.iter().any(|prefix| row.rust.starts_with(prefix))
}

/// Whether the headers are of Xen 4.17, which is our level.
fn headers_are_of_our_version(name: &str) -> bool {
    let versions = evaluate(name, View::Tools, &["XEN_DOMCTL_INTERFACE_VERSION", "XEN_SYSCTL_INTERFACE_VERSION"]);
    let ours = [i64::from(domctl::INTERFACE_VERSION), i64::from(sysctl::INTERFACE_VERSION)];
    if versions != ours {
        println!(
            "the headers' control interfaces are {versions:x?}, ours {ours:x?}: rows that go with them are left out"
        );
    }
    versions == ours
}

/// Rows for the tools' view: all but tmem's and, with other headers than 4.17's, what goes with the version.
fn for_tools(rows: Vec<Row>, same_version: bool) -> Vec<Row> {
    rows.into_iter().filter(|row| !is_tmem(row) && (same_version || !is_of_version(row))).collect()
}

#[test]
fn constants_are_xens() {
    if is_ready() {
        let same_version = headers_are_of_our_version("versions_for_constants");
        compare("constants", View::Tools, &for_tools(constants::current(), same_version));
        compare("legacy_constants", View::Legacy, &constants::legacy());
        let tmem: Vec<Row> = constants::current().into_iter().filter(is_tmem).collect();
        compare("tmem_constants", View::Tmem, &tmem);
    }
}

#[test]
fn structures_are_laid_out_as_xens() {
    if is_ready() {
        let same_version = headers_are_of_our_version("versions_for_structures");
        let mut rows = for_tools(structures::long(), same_version);
        rows.extend(expressions());
        compare("structures", View::Tools, &rows);
        let mut tmem: Vec<Row> = structures::long().into_iter().filter(is_tmem).collect();
        tmem.extend(tmem_expressions());
        compare("tmem_structures", View::Tmem, &tmem);
    }
}

/// 64-bit structures that a 32-bit guest lays out in the same way: those without a twin in `compat`.
fn same_in_32_bit() -> Vec<Row> {
    let twins: BTreeSet<String> =
        structures::compat().iter().map(|row| type_name(&row.rust).trim_end_matches("32").to_string()).collect();
    // A callback's address is a segment and an offset there; only paravirtual guests have them.
    let excepted = |name: &str| twins.contains(name) || name == "CallbackRegister";
    structures::long().into_iter().filter(|row| !excepted(type_name(&row.rust))).collect()
}

/// `Type` of `module::Type.field`.
fn type_name(rust: &str) -> &str {
    let path = rust.split('.').next().unwrap_or(rust);
    path.rsplit("::").next().unwrap_or(path)
}

#[test]
fn a_32_bit_guest_sees_the_layouts_of_compat() {
    if !is_ready() {
        return;
    }
    let same_version = headers_are_of_our_version("versions_for_compat");
    let mut rows = structures::compat();
    rows.extend(same_in_32_bit());
    rows.push(Row {
        rust: "event_channel::TWO_LEVEL_NR_CHANNELS_32".into(),
        c: "EVTCHN_2L_NR_CHANNELS".into(),
        value: i64::from(shared_abi::event_channel::TWO_LEVEL_NR_CHANNELS_32),
    });
    let (tmem, others): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_tmem);
    assert_32_bit("compat", View::Tools, &for_tools(others, same_version));
    assert_32_bit("compat_tmem", View::Tmem, &tmem);
}

/// Has the 32-bit compiler check that each row's expression has its value.
fn assert_32_bit(name: &str, view: View, rows: &[Row]) {
    assert!(!rows.is_empty());
    let mut source = prelude(view);
    for Row { rust, c, value } in rows {
        writeln!(source, "_Static_assert(({c}) == {value}, \"{rust} is {value}\");").unwrap();
    }
    let (_, output) = compile(name, &source, &["-m32", "-ffreestanding", "-fsyntax-only"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{name}: {} comparisons", rows.len());
}
