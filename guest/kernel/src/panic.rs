//! The end of the kernel by its own fault: a report on the console, then a shutdown as crashed.
#![allow(unsafe_code)] // Walking stacks.

use crate::console::print_anyway;
use crate::interrupt::{self, Frame};
use crate::{cpu, fixup, page, percpu};
use core::sync::atomic::{AtomicU32, Ordering};
use ebb_guest_hypercall as hypercall;
use shared_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};
use shared_abi::xen::PAGE_SIZE;

macro_rules! report {
    ($($argument:tt)*) => { print_anyway(format_args!("{}\n", format_args!($($argument)*))) };
}

/// 0: nobody has panicked; else the vCPU's number + 1, and bit 31 when it panicked again while reporting.
static PANICKING: AtomicU32 = AtomicU32::new(0);

/// Frames that a backtrace follows.
const DEPTH: usize = 24;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
}

/// Lets the first vCPU that panics report; others wait for the end. A panic inside the report ends at once.
fn enter() {
    cpu::interrupts_off();
    let own = percpu::id() as u32 + 1;
    match PANICKING.compare_exchange(0, own, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(first) if first == own => {
            report!("panic: again, while reporting the first");
            end(SHUTDOWN_CRASH);
        }
        Err(_) => loop {
            cpu::halt();
        },
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    enter();
    report!("panic: {info}");
    report!("  on vCPU {}, thread {}", percpu::id(), thread_name());
    backtrace(cpu::frame_pointer());
    end(SHUTDOWN_CRASH)
}

/// An exception that nobody expected.
pub fn exception(frame: &Frame) -> ! {
    enter();
    report!(
        "panic: {} (vector {}, error {:#x}) at {:#x}",
        interrupt::name(frame.vector),
        frame.vector,
        frame.error,
        frame.rip
    );
    if let Some(address) = interrupt::fault_address(frame) {
        report!("  fault address {address:#x}");
    }
    report!("  on vCPU {}, thread {}", percpu::id(), thread_name());
    report!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", frame.rax, frame.rbx, frame.rcx, frame.rdx);
    report!("  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}", frame.rsi, frame.rdi, frame.rbp, frame.rsp);
    report!("  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}", frame.r8, frame.r9, frame.r10, frame.r11);
    report!("  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}", frame.r12, frame.r13, frame.r14, frame.r15);
    report!(
        "  rflags {:08x} cs {:x} ss {:x} cr0 {:x} cr3 {:x} cr4 {:x}",
        frame.rflags,
        frame.cs,
        frame.ss,
        cpu::cr0(),
        cpu::cr3(),
        cpu::cr4()
    );
    backtrace(frame.rbp);
    candidates(frame.rsp);
    end(SHUTDOWN_CRASH)
}

fn thread_name() -> &'static str {
    // The thread table's lock may be held by whoever panicked.
    crate::thread::name_without_waiting()
}

fn in_text(address: u64) -> bool {
    ((&raw const __text_start).addr() as u64..(&raw const __text_end).addr() as u64).contains(&address)
}

/// Follows the chain of frame pointers, when the kernel was built with them.
fn backtrace(mut frame: u64) {
    for _ in 0..DEPTH {
        if frame == 0 || !frame.is_multiple_of(8) {
            return;
        }
        let (Ok(next), Ok(from)) = (fixup::read(frame), fixup::read(frame + 8)) else {
            return;
        };
        if !in_text(from) {
            return;
        }
        report!("  from {from:#x}");
        if next <= frame {
            return;
        }
        frame = next;
    }
}

/// What on the stack looks like return addresses, for a build without frame pointers.
fn candidates(stack: u64) {
    let mut shown = 0;
    for offset in 0..256 {
        let Ok(word) = fixup::read(stack + offset * 8) else {
            return;
        };
        if in_text(word) && shown < DEPTH {
            report!("  on the stack {word:#x}");
            shown += 1;
        }
    }
}

/// Ends the domain; where there is no hypervisor to ask, halts.
pub fn end(reason: u32) -> ! {
    cpu::interrupts_off();
    let _ = hypercall::sched::shutdown(reason);
    loop {
        cpu::halt();
    }
}

/// Ends the domain in order.
pub fn power_off() -> ! {
    end(SHUTDOWN_POWEROFF)
}

/// Asks to be started anew.
pub fn reboot() -> ! {
    end(SHUTDOWN_REBOOT)
}

/// Ends the domain as crashed, without a report.
pub fn crash() -> ! {
    end(SHUTDOWN_CRASH)
}

/// Ends by running over the stack's guard page: shows that the double fault's stack works.
#[inline(never)]
pub fn overflow_stack(depth: u64) -> u64 {
    let page = [depth; PAGE_SIZE as usize / 8];
    core::hint::black_box(&page);
    if depth == 0 { page::free_pages() } else { overflow_stack(depth - 1) + page[7] }
}
