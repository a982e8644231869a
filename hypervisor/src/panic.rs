//! The end of the machine by a bug of ours: a report worth reading, all processors stopped, status 0x12.
//!
//! The report says what failed and where, what each processor was doing, the registers when an exception was the cause,
//! and the calls on the stack: words on it that point behind a call instruction in the text. (Frame pointers would cost
//! every function for the sake of this page; the check for a call keeps most stale words out.)
//! `addr2line -e ebb-hypervisor ADDRESS` turns an address into a line.
#![allow(unsafe_code, reason = "reads the stack, and breaks things on purpose for panic-test=")]

use crate::cpu::{self, PerCpu};
use crate::interrupts::{Frame, exception_name};
use crate::memory::layout::{IMAGE_BASE, STACKS_BASE};
use crate::options::{PanicTest, options};
use crate::{apic, console, error, instr, memory, power, time};
use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A line of the report, whatever the log level.
macro_rules! report {
    ($($text:tt)*) => { console::report(format_args!($($text)*)) };
}

/// Calls shown.
const MAX_CALLS: usize = 24;

/// The processor that panics, plus 1.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// NMIs now mean: stop.
static STOP: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let stack: u64;
    // SAFETY: reads the stack pointer.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
    let place = info.location().map(|place| (place.file(), place.line()));
    match place {
        Some((file, line)) => die(format_args!("{} at {file}:{line}", info.message()), None, stack),
        None => die(format_args!("{}", info.message()), None, stack),
    }
}

/// An exception that nobody expected.
pub(crate) fn exception(frame: &Frame) -> ! {
    let name = exception_name(frame.vector);
    let address = instr::cr2();
    // A double fault next to a guard page, or a page fault in one, is a stack overflow.
    let guard = match frame.vector {
        8 => cpu::guard_page_of(address).or_else(|| cpu::guard_page_of(frame.rsp.wrapping_sub(8))),
        14 => cpu::guard_page_of(address),
        _ => None,
    };
    match (guard, frame.vector) {
        (Some(stack), _) => die(format_args!("overflow of {stack} ({name} at {address:#x})"), Some(frame), frame.rsp),
        (None, 14) => {
            let kind = if frame.error & 2 != 0 { "write" } else { "read" };
            let kind = if frame.error & 16 != 0 { "fetch" } else { kind };
            die(format_args!("page fault: {kind} at {address:#x}"), Some(frame), frame.rsp)
        }
        _ => die(format_args!("{name} (error code {:#x})", frame.error), Some(frame), frame.rsp),
    }
}

/// A machine check that cannot be survived.
pub(crate) fn machine_check(cause: fmt::Arguments<'_>, frame: Option<&Frame>) -> ! {
    die(cause, frame, frame.map_or(0, |frame| frame.rsp))
}

/// What each processor, domain and vCPU does, in lines: for a machine that goes on.
pub(crate) fn describe_machine() {
    for cpu in cpu::all() {
        report!("{}", Activity(cpu));
    }
    if let Some(describe) = DESCRIBE.get() {
        describe(&mut |line| report!("{line}"));
    }
}

/// An NMI that ends the machine (`nmi=panic`): the report shows what the machine was doing.
pub(crate) fn unexpected_nmi(frame: Option<&Frame>) -> ! {
    match frame {
        Some(frame) => die(format_args!("non-maskable interrupt"), Some(frame), frame.rsp),
        None => die(format_args!("non-maskable interrupt while in a guest"), None, 0),
    }
}

/// True when an NMI is the order to stop.
pub(crate) fn stop_requested() -> bool {
    STOP.load(Ordering::Acquire)
}

/// Adds lines to a report: what the rooms above know.
pub type Describe = fn(line: &mut dyn FnMut(fmt::Arguments<'_>));
static DESCRIBE: spin::Once<Describe> = spin::Once::new();

/// Has `describe` called in every report from now on. Once.
pub fn add_to_reports(describe: Describe) {
    DESCRIBE.call_once(|| describe);
}

/// Reports, stops everything, ends.
fn die(cause: fmt::Arguments<'_>, frame: Option<&Frame>, stack: u64) -> ! {
    instr::cli();
    let cpu = cpu::this_cpu();
    let me = u32::from(cpu.id().0) + 1;
    match OWNER.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(owner) if owner == me => {
            // A panic in the report: no second report, it might not end either.
            console::break_lock();
            error!("panic while reporting a panic: {cause}");
            finish();
        }
        Err(_) => instr::halt_forever(),
    }
    stop_others(cpu);
    console::break_lock();
    error!("PANIC on CPU {}: {cause}", cpu.id().0);
    report!("Ebb {}, up {} ms, cr3 {:#x}", env!("CARGO_PKG_VERSION"), time::now_ns_or_zero() / 1_000_000, instr::cr3());
    for cpu in cpu::all() {
        report!("{}", Activity(cpu));
    }
    if let Some(frame) = frame {
        print_registers(frame);
    }
    print_calls(frame.map(|frame| frame.rip), stack);
    if let Some(describe) = DESCRIBE.get() {
        describe(&mut |line| report!("{line}"));
    }
    finish();
}

fn finish() -> ! {
    console::flush();
    power::debug_exit(power::status::PANIC);
    error!("halted");
    power::halt();
}

/// Stops every other processor by NMI.
fn stop_others(this: &PerCpu) {
    STOP.store(true, Ordering::Release);
    for other in cpu::all().iter().filter(|other| other.id() != this.id() && other.is_online()) {
        apic::send_nmi(other.apic_id());
    }
    time::rough_delay_us(1000);
}

/// What a processor was doing, in words.
struct Activity<'a>(&'a PerCpu);

impl fmt::Display for Activity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (doing, domain, vcpu, exit) = self.0.activity();
        write!(f, "CPU {} (APIC id {}): ", self.0.id().0, self.0.apic_id())?;
        match doing {
            0 => write!(f, "booting"),
            1 => write!(f, "idle"),
            2 => write!(f, "in the scheduler"),
            3 => write!(f, "in d{domain} vCPU {vcpu}, last exit {exit:#x}"),
            4 => write!(f, "handling exit {exit:#x} of d{domain} vCPU {vcpu}"),
            other => write!(f, "unknown ({other})"),
        }
    }
}

fn print_registers(f: &Frame) {
    report!("rip {:016x} rflags {:08x} cs {:04x} rsp {:016x} ss {:04x}", f.rip, f.rflags, f.cs, f.rsp, f.ss);
    report!("rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", f.rax, f.rbx, f.rcx, f.rdx);
    report!("rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", f.rsi, f.rdi, f.rbp, f.r8);
    report!("r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", f.r9, f.r10, f.r11, f.r12);
    report!("r13 {:016x} r14 {:016x} r15 {:016x} cr2 {:016x}", f.r13, f.r14, f.r15, instr::cr2());
}

/// The calls that led here: `rip`, then return addresses on the stack from `stack` up.
fn print_calls(rip: Option<u64>, stack: u64) {
    if let Some(rip) = rip {
        report!("at     {rip:#018x}");
    }
    let mut shown = 0;
    let mut address = (stack + 7) & !7;
    // An overflown stack's pointer is in the guard page: start behind it.
    if cpu::guard_page_of(address).is_some() {
        address = (address | 0xfff) + 1;
    }
    let end = stack_end(address);
    while address < end && shown < MAX_CALLS {
        // SAFETY: `stack_end` makes sure that the address is on a mapped stack.
        let word = unsafe { (address as *const u64).read() };
        if follows_call(word) {
            report!("called {word:#018x}");
            shown += 1;
        }
        address += 8;
    }
}

/// Where the stack that `address` is on ends, or `address` itself when it is on none.
fn stack_end(address: u64) -> u64 {
    if (STACKS_BASE..IMAGE_BASE).contains(&address) {
        // Pages of a stack follow each other; the page behind its last one is a guard page or the next area.
        let mut end = (address | 0xfff) + 1;
        while cpu::is_stack_page(end) {
            end += 0x1000;
        }
        return if cpu::is_stack_page(address) { end } else { address };
    }
    let boot_stack = memory::boot_stack_range();
    if boot_stack.contains(&address) { boot_stack.end } else { address }
}

/// True when `word` points into the text right behind a call: `e8 rel32`, or `ff /2` of 2 to 7 bytes.
fn follows_call(word: u64) -> bool {
    let text = memory::text_range();
    if word < text.start + 7 || word > text.end {
        return false;
    }
    // SAFETY: the seven bytes before `word` are in the text.
    let before = unsafe { ((word - 7) as *const [u8; 7]).read() };
    before[2] == 0xe8 || (2..=7).any(|size| before[7 - size] == 0xff && before[8 - size] >> 3 & 7 == 2)
}

/// Breaks on purpose, as `panic-test=` asks.
pub(crate) fn run_test() {
    match options().panic_test {
        None => {}
        Some(PanicTest::Rust) => panic!("panic-test=rust"),
        // SAFETY: the exception ends the machine, which is what the option asks for.
        Some(PanicTest::InvalidOpcode) => unsafe { core::arch::asm!("ud2") },
        Some(PanicTest::PageFault) => {
            // SAFETY: as above: page 0 is never mapped.
            unsafe { core::arch::asm!("mov {0}, [{0}]", inout(reg) 0x10u64 => _) }
        }
        Some(PanicTest::StackOverflow) => {
            core::hint::black_box(recurse(core::hint::black_box(1)));
        }
        Some(PanicTest::Nmi) => {
            apic::send_nmi(cpu::this_cpu().apic_id());
            time::delay_us(1000);
        }
    }
}

/// Uses up the stack.
#[inline(never)]
#[expect(unconditional_recursion, reason = "that is the test")]
fn recurse(depth: u64) -> u64 {
    let room = core::hint::black_box([depth; 32]);
    recurse(depth + 1) + room[(depth % 32) as usize]
}
