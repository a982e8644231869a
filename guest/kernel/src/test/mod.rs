//! The tests that run inside a guest: `test=all`, or names and groups with commas between (`test=smp,memory-exchange`).
//!
//! A test's name starts with its group. What a test finds wrong is a failure of the hypervisor; an error is the test's
//! own; a skip says what is missing. Each outcome goes to the console and, as `TestResult`, into the trace. The domain
//! powers off when nothing failed and crashes otherwise.

mod apic;
mod balloon;
mod clock;
mod console;
mod events;
mod events_fifo;
mod fpu;
mod hvm;
pub mod local_store;
mod locks;
mod memory;
mod memory_map;
mod multicall;
mod privilege;
mod processor;
mod sched;
mod smp;
mod trace_buffers;
mod vcpu;
mod version;
mod xenstore;

use crate::{println, start_info, thread, trace};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use ebb_guest_hypercall::{Errno, call, version as xen_version};
use shared_abi::guest_event::{OUTCOME_ERROR, OUTCOME_FAILURE, OUTCOME_SKIP, OUTCOME_SUCCESS, TestResult};
use shared_abi::hvm::start_info::SIF_PRIVILEGED;
use spin::Mutex;

/// Why a test did not succeed.
#[derive(Debug)]
pub enum Stop {
    /// Something is missing that the test needs.
    Skip(String),
    /// The test is broken.
    Error(String),
    /// The hypervisor is broken.
    Failure(String),
}

/// What a test gives.
pub type Outcome = Result<(), Stop>;

impl From<&str> for Stop {
    /// What the kernel itself could not do is the test's error.
    fn from(why: &str) -> Self {
        Self::Error(why.into())
    }
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Error(why)
    }
}

impl From<Errno> for Stop {
    /// A call that must succeed did not.
    fn from(errno: Errno) -> Self {
        Self::Failure(format!("a call that must succeed gave {errno}"))
    }
}

/// Fails the test with a message unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::test::Stop::Failure(alloc::format!($($message)+)));
        }
    };
}

/// Fails the test unless two values are equal, showing both.
#[macro_export]
macro_rules! check_eq {
    ($found:expr, $expected:expr, $what:expr) => {{
        let (found, expected) = (&$found, &$expected);
        if *found != *expected {
            return Err($crate::test::Stop::Failure(alloc::format!("{}: {found:?} instead of {expected:?}", $what)));
        }
    }};
}

/// A test's function.
pub type Run = fn() -> Outcome;

/// A test: its name, which starts with its group's, and its function.
pub type Test = (&'static str, Run);

/// The groups, in the order in which they run. A test's number is its place.
const GROUPS: &[&[Test]] = &[
    version::TESTS,
    privilege::TESTS,
    processor::TESTS,
    fpu::TESTS,
    clock::TESTS,
    console::TESTS,
    multicall::TESTS,
    memory::TESTS,
    memory_map::TESTS,
    events::TESTS,
    events_fifo::TESTS,
    sched::TESTS,
    vcpu::TESTS,
    hvm::TESTS,
    apic::TESTS,
    smp::TESTS,
    locks::TESTS,
    balloon::TESTS,
    xenstore::TESTS,
    trace_buffers::TESTS,
];

fn all() -> impl Iterator<Item = (u16, &'static str, Run)> {
    GROUPS.iter().flat_map(|group| group.iter()).enumerate().map(|(index, (name, run))| (index as u16 + 1, *name, *run))
}

/// Does `word` of the argument mean the test? A group is what stands before a dash, or several.
fn means(word: &str, name: &str) -> bool {
    word == "all" || word == name || name.strip_prefix(word).is_some_and(|rest| rest.starts_with('-'))
}

/// May this domain use the control interfaces?
pub fn is_privileged() -> bool {
    start_info::get().flags & SIF_PRIVILEGED != 0
}

/// Is this Ebb, not Xen? For the few places where Ebb promises more.
pub fn is_ebb() -> bool {
    xen_version::extraversion().is_ok_and(|text| text.windows(3).any(|part| part == b"ebb"))
}

/// A call with numbers, for arguments that the typed wrappers cannot express.
#[allow(unsafe_code)] // Wrong arguments are the point.
fn wrong_call(number: u32, args: [u64; 5]) -> Result<i64, Errno> {
    // SAFETY: tests pass arguments that must be refused, or addresses of their own.
    unsafe { call::call(number, args) }
}

/// Runs a test in a thread that stays on `cpu`.
fn on_vcpu(cpu: usize, test: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    let result: Arc<Mutex<Option<Outcome>>> = Arc::default();
    let place = result.clone();
    thread::spawn("test", Some(cpu), move || *place.lock() = Some(test()))?.join();
    let outcome = result.lock().take();
    outcome.unwrap_or(Err(Stop::Error("the thread gave no result".into())))
}

/// Runs the tests that `names` means.
pub fn run(names: &str) -> Result<(), String> {
    if let Some(unknown) = names.split(',').find(|word| !all().any(|(_, name, _)| means(word, name))) {
        println!("test {unknown}: error: there is no such test");
        return Err(format!("there is no test {unknown}"));
    }
    let mut counts = [0u32; 4];
    for (id, name, run) in all().filter(|(_, name, _)| names.split(',').any(|word| means(word, name))) {
        let (outcome, text, why) = match run() {
            Ok(()) => (OUTCOME_SUCCESS, "success", String::new()),
            Err(Stop::Skip(why)) => (OUTCOME_SKIP, "skip", why),
            Err(Stop::Error(why)) => (OUTCOME_ERROR, "error", why),
            Err(Stop::Failure(why)) => (OUTCOME_FAILURE, "failure", why),
        };
        let separator = if why.is_empty() { "" } else { ": " };
        println!("test {name}: {text}{separator}{why}");
        counts[usize::from(outcome)] += 1;
        trace::report(&TestResult { id, outcome });
    }
    println!("tests: {} success, {} skip, {} error, {} failure", counts[0], counts[1], counts[2], counts[3]);
    if counts[2] + counts[3] > 0 {
        return Err(String::from("not all tests succeeded"));
    }
    Ok(())
}
