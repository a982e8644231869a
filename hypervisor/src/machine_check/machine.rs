//! The banks of the CPU this runs on.
#![allow(unsafe_code)] // Writes to machine-check registers.

use core::fmt;

use super::{Record, is_survivable};
use crate::cpu::this_cpu;
use crate::interrupts::Frame;
use crate::{console, instr, panic};

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
/// The first of a bank's four registers: control, status, address, further information.
const BANK: u32 = 0x400;
const CAP_HAS_CTL: u64 = 1 << 8;
const MCE_AND_MCA: u32 = 1 << 7 | 1 << 14;

/// Banks of this CPU: 0 where there is no machine-check architecture.
fn banks() -> u32 {
    if raw_cpuid::cpuid!(1).edx & MCE_AND_MCA != MCE_AND_MCA {
        return 0;
    }
    // Some emulators say they have it and have no registers.
    instr::rdmsr_safe(MCG_CAP).map_or(0, |capability| capability as u32 & 0xff)
}

fn record(bank: u32) -> Option<Record> {
    Record::read(bank, |place| instr::rdmsr_safe(BANK + 4 * bank + place))
}

fn records() -> impl Iterator<Item = Record> {
    (0..banks()).filter_map(record)
}

/// Reports what the banks have had since before Ebb, clears them, and has errors reported from now on.
pub fn enable_this_cpu() {
    report("left over from before");
    let all_on = |register| {
        // SAFETY: the bits turn reports of errors on, for which there is a handler (CR4.MCE is set).
        unsafe { instr::wrmsr_safe(register, u64::MAX) };
    };
    if instr::rdmsr_safe(MCG_CAP).is_some_and(|capability| banks() > 0 && capability & CAP_HAS_CTL != 0) {
        all_on(MCG_CTL);
    }
    // Bank 0's control belongs to the firmware on Intel's first processors of family 6, none of which has VMX.
    (0..banks()).for_each(|bank| all_on(BANK + 4 * bank));
}

/// Reports and clears what this CPU's banks have recorded. For places where a line may be printed.
pub fn report(when: &str) {
    for record in records() {
        console::report(format_args!("machine check on CPU {}, {when}: {record}", this_cpu().id().0));
        clear(&record);
    }
}

fn clear(record: &Record) {
    // SAFETY: the bank is there, and zero is what its status takes.
    unsafe { instr::wrmsr_safe(BANK + 4 * record.bank + 1, 0) };
}

/// All records of this CPU.
struct Records;

impl fmt::Display for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        records().try_for_each(|record| write!(f, "; {record}"))
    }
}

/// A machine-check exception, in Ebb (`frame`) or in a guest. Returns when Ebb can go on.
pub fn exception(frame: Option<&Frame>) {
    let status = instr::rdmsr_safe(MCG_STATUS).unwrap_or(0);
    let place = if frame.is_some() { "in Ebb" } else { "in a guest" };
    if !is_survivable(status, records()) {
        panic::machine_check(format_args!("machine check {place} (status {status:#x}){Records}"), frame);
    }
    // What was interrupted may have the console in its hands: then the record stays for the next look.
    for record in records() {
        let line = format_args!("machine check on CPU {}, {place}: {record}", this_cpu().id().0);
        if console::try_report(line) {
            clear(&record);
        }
    }
    // SAFETY: zero ends the exception; until then another one would reset the machine.
    unsafe { instr::wrmsr_safe(MCG_STATUS, 0) };
}
