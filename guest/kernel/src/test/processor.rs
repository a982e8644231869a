//! The processor that a guest sees: CPUID, MSRs, exceptions, XCR0.
#![allow(unsafe_code)] // Writes to registers that must be refused, or are put back.

use super::{Outcome, Test};
use crate::fixup::{self, Fault};
use crate::{check, check_eq, cpu, interrupt, percpu, println, thread, xen};
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("cpuid-leaves", leaves),
    ("cpuid-osxsave", osxsave),
    ("cr4-policy", cr4_policy),
    ("msr-unknown", unknown_msr),
    ("msr-efer", efer),
    ("msr-speculation", speculation),
    ("exception-delivery", exceptions),
    ("xcr0-policy", xcr0),
];

const GENERAL_PROTECTION: Fault = Fault { vector: 13, error: 0 };
const MSR_EFER: u32 = 0xC000_0080;
const CR4_OSXSAVE: u64 = 1 << 18;

fn leaves() -> Outcome {
    let one = __cpuid(1);
    check!(one.ecx & 1 << 31 != 0, "the hypervisor bit is not set");
    check!(one.ecx & 1 << 5 == 0, "VMX is shown");
    check!(one.edx & 1 << 9 != 0, "there is no local APIC");
    check!(__cpuid(0x8000_0001).ecx & 1 << 2 == 0, "SVM is shown");
    check!(__cpuid(0x8000_0001).edx & 1 << 29 != 0, "long mode is not shown");
    check!(__cpuid(0).eax >= 1, "there is no leaf 1");
    let base = xen::hypervisor().base;
    check!(__cpuid(base).eax >= base + 4, "there is no leaf base+4");
    let features = __cpuid_count(base + 4, 0);
    if features.eax & ebb_guest_hypercall::cpuid::FEATURE_VCPU_ID != 0 {
        // Interrupts off: the two are read on the same vCPU.
        let interrupts = cpu::interrupts_off();
        let (told, known) = (__cpuid_count(base + 4, 0).ebx, percpu::id());
        if interrupts {
            cpu::interrupts_on();
        }
        check_eq!(told as usize, known, "the vCPU's number by CPUID");
    }
    Ok(())
}

fn osxsave() -> Outcome {
    if __cpuid(1).ecx & 1 << 26 == 0 {
        return Err(super::Stop::Skip("there is no XSAVE".into()));
    }
    let shown = || __cpuid(1).ecx & 1 << 27 != 0;
    let cr4 = cpu::cr4();
    // SAFETY: the kernel itself uses no extended state; the register is put back.
    let (without, with) = unsafe {
        cpu::set_cr4(cr4 & !CR4_OSXSAVE);
        let without = shown();
        cpu::set_cr4(cr4 | CR4_OSXSAVE);
        let with = shown();
        cpu::set_cr4(cr4);
        (without, with)
    };
    check!(!without && with, "OSXSAVE is {without} with CR4.OSXSAVE off and {with} with it on");
    Ok(())
}

/// CR4 takes the bits of features that CPUID shows, and no other.
fn cr4_policy() -> Outcome {
    const PAE: u64 = 1 << 5;
    let (one, seven) = (__cpuid(1), __cpuid_count(7, 0));
    let offered = |bit: u32| match bit {
        0 | 1 => one.edx & 1 << 1 != 0,
        2 => one.edx & 1 << 4 != 0,
        3 => one.edx & 1 << 2 != 0,
        4 => one.edx & 1 << 3 != 0,
        5 => one.edx & 1 << 6 != 0,
        6 => one.edx & 1 << 7 != 0,
        7 => one.edx & 1 << 13 != 0,
        8 => true,
        9 => one.edx & 1 << 24 != 0,
        10 => one.edx & 1 << 25 != 0,
        11 => seven.ecx & 1 << 2 != 0,
        16 => seven.ebx & 1 << 0 != 0,
        18 => one.ecx & 1 << 26 != 0,
        20 => seven.ebx & 1 << 7 != 0,
        21 => seven.ebx & 1 << 20 != 0,
        // What a kernel may turn on only together with something else: five levels, PCIDs, protection keys.
        12 => seven.ecx & 1 << 16 != 0,
        17 => one.ecx & 1 << 17 != 0,
        22 => seven.ecx & 1 << 3 != 0,
        _ => false,
    };
    let cr4 = cpu::cr4();
    for bit in 0..64 {
        let changed = cr4 ^ 1 << bit;
        let alone = matches!(bit, 5 | 12 | 17 | 22);
        if cr4 & 1 << bit != 0 || alone && offered(bit) {
            continue;
        }
        // SAFETY: a feature more that the kernel does not use, or a refusal; the register is put back at once.
        let written = unsafe { fixup::set_cr4(changed) };
        let found = cpu::cr4();
        // SAFETY: the value that was there.
        unsafe { cpu::set_cr4(cr4) };
        let expected = if offered(bit) { Ok(()) } else { Err(GENERAL_PROTECTION) };
        check_eq!(written, expected, alloc::format!("setting bit {bit} of CR4"));
        check_eq!(found, if offered(bit) { changed } else { cr4 }, alloc::format!("CR4 after setting bit {bit}"));
    }
    // SAFETY: long mode cannot be without PAE; it stays as it is.
    check_eq!(unsafe { fixup::set_cr4(cr4 & !PAE) }, Err(GENERAL_PROTECTION), "clearing CR4.PAE in long mode");
    check_eq!(cpu::cr4(), cr4, "CR4 at the end");
    Ok(())
}

fn unknown_msr() -> Outcome {
    for number in [0x1234_5678, 0x4000_0ABC, 0xC000_FFFF, 0xC001_FFFF] {
        check_eq!(fixup::rdmsr(number), Err(GENERAL_PROTECTION), "reading an MSR that does not exist");
        // SAFETY: a write that is accepted would go to a register that does not exist.
        let written = unsafe { fixup::wrmsr(number, 1) };
        check_eq!(written, Err(GENERAL_PROTECTION), "writing an MSR that does not exist");
    }
    Ok(())
}

fn efer() -> Outcome {
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;
    const SVME: u64 = 1 << 12;
    let value = fixup::rdmsr(MSR_EFER).map_err(|_| super::Stop::Failure("EFER cannot be read".into()))?;
    check!(value & (LME | LMA) == LME | LMA, "EFER {value:#x} in long mode");
    check!(value & SVME == 0, "EFER.SVME is visible");
    for wrong in [value | SVME, value | 1 << 40, value & !LME] {
        // SAFETY: each of these must be refused; the old value stays.
        let written = unsafe { fixup::wrmsr(MSR_EFER, wrong) };
        check_eq!(written, Err(GENERAL_PROTECTION), alloc::format!("writing {wrong:#x} to EFER"));
    }
    // SAFETY: the value that is there.
    check_eq!(unsafe { fixup::wrmsr(MSR_EFER, value) }, Ok(()), "writing EFER back");
    Ok(())
}

/// The registers of speculation controls are those that CPUID shows, take the bits that it shows, and keep them.
fn speculation() -> Outcome {
    // They are each vCPU's own.
    super::on_vcpu(0, speculation_here)
}

fn speculation_here() -> Outcome {
    const SPEC_CTRL: u32 = 0x48;
    const ARCH_CAPABILITIES: u32 = 0x10a;
    let (intel, amd) = (__cpuid_count(7, 0).edx, amd_speculation());
    let shown = |in_intel: u32, in_amd: u32| intel & 1 << in_intel != 0 || amd & 1 << in_amd != 0;
    let bits = [shown(26, 14), shown(27, 15), shown(31, 24)];
    let takes = bits.iter().enumerate().fold(0, |mask, (bit, &there)| mask | u64::from(there) << bit);
    check_eq!(fixup::rdmsr(SPEC_CTRL), if takes == 0 { Err(GENERAL_PROTECTION) } else { Ok(0) }, "SPEC_CTRL at first");
    for value in [1, 2, 4, 7, 8, 1 << 7, 1 << 32, 1 << 63 | 1, takes, 0] {
        let before = fixup::rdmsr(SPEC_CTRL);
        let expected = if takes != 0 && value & !takes == 0 { Ok(()) } else { Err(GENERAL_PROTECTION) };
        // SAFETY: the register restricts predictions and nothing else.
        let written = unsafe { fixup::wrmsr(SPEC_CTRL, value) };
        check_eq!(written, expected, alloc::format!("writing {value:#x} to SPEC_CTRL"));
        // Others have the processor meanwhile.
        thread::sleep(2_000_000);
        let after = if expected.is_ok() { Ok(value) } else { before };
        check_eq!(fixup::rdmsr(SPEC_CTRL), after, alloc::format!("SPEC_CTRL after {value:#x}"));
    }
    command(0x49, "PRED_CMD", shown(26, 12))?;
    command(0x10b, "FLUSH_CMD", intel & 1 << 28 != 0)?;
    let capabilities = fixup::rdmsr(ARCH_CAPABILITIES);
    check_eq!(capabilities.is_ok(), intel & 1 << 29 != 0, "whether ARCH_CAPABILITIES is there");
    // SAFETY: the register can only be read.
    check_eq!(unsafe { fixup::wrmsr(ARCH_CAPABILITIES, 0) }, Err(GENERAL_PROTECTION), "writing ARCH_CAPABILITIES");
    println!("speculation controls: SPEC_CTRL {takes:#x}, ARCH_CAPABILITIES {:#x}", capabilities.unwrap_or(0));
    Ok(())
}

/// AMD's bits, if there is such a leaf.
fn amd_speculation() -> u32 {
    if __cpuid(0x8000_0000).eax >= 0x8000_0008 { __cpuid(0x8000_0008).ebx } else { 0 }
}

/// A register that takes one command, or is not there.
fn command(number: u32, name: &str, is_there: bool) -> Outcome {
    check_eq!(fixup::rdmsr(number), Err(GENERAL_PROTECTION), alloc::format!("reading {name}"));
    for value in [0, 1, 2, 1 << 32 | 1] {
        let expected = if is_there && value <= 1 { Ok(()) } else { Err(GENERAL_PROTECTION) };
        // SAFETY: forgetting predictions, or writing back a cache, changes no state.
        let written = unsafe { fixup::wrmsr(number, value) };
        check_eq!(written, expected, alloc::format!("writing {value:#x} to {name}"));
    }
    Ok(())
}

fn exceptions() -> Outcome {
    check_eq!(fixup::undefined(), Err(Fault { vector: 6, error: 0 }), "UD2");
    check_eq!(fixup::read(0x18), Err(Fault { vector: 14, error: 0 }), "reading through a null pointer");
    check_eq!(cpu::cr2(), 0x18, "the fault's address");
    check_eq!(fixup::read(1 << 63), Err(GENERAL_PROTECTION), "reading a non-canonical address");
    // SAFETY: page 0 is not mapped.
    let written = unsafe { fixup::write(0x20, 1) };
    check_eq!(written, Err(Fault { vector: 14, error: 2 }), "writing through a null pointer");
    check_eq!(interrupt::stray(), 0, "interrupts on vectors that nobody asked for");
    Ok(())
}

fn xcr0() -> Outcome {
    if __cpuid(1).ecx & 1 << 26 == 0 {
        return Err(super::Stop::Skip("there is no XSAVE".into()));
    }
    let offered = u64::from(__cpuid_count(0xD, 0).eax);
    check!(offered & 3 == 3, "leaf 0xD does not offer x87 and SSE");
    // SAFETY: the kernel uses no extended state.
    let set = |value| unsafe { fixup::xsetbv(value) };
    check_eq!(set(0), Err(GENERAL_PROTECTION), "XCR0 without x87");
    check_eq!(set(offered | 1 << 62), Err(GENERAL_PROTECTION), "XCR0 with a bit that is not offered");
    check_eq!(set(offered), Ok(()), "XCR0 with all that is offered");
    let size = __cpuid_count(0xD, 0);
    check!(size.ebx <= size.ecx && size.ebx >= 576, "area sizes {} and {}", size.ebx, size.ecx);
    check_eq!(set(1), Ok(()), "XCR0 with x87 alone");
    check_eq!(__cpuid_count(0xD, 0).ebx, 576, "the area's size for x87 alone");
    check_eq!(set(offered), Ok(()), "XCR0 with all that is offered, again");
    Ok(())
}
