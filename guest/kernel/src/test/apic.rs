//! The virtual local APIC, in the mode that the kernel chose (`apic=x` for the other).

use super::{Outcome, Stop, Test, on_vcpu};
use crate::apic::{self, register};
use crate::fixup::{self, Fault};
use crate::{acpi, check, check_eq, clock, cpu, percpu, smp};
use core::sync::atomic::Ordering;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("apic-registers", || on_vcpu(0, registers)),
    ("apic-timer-oneshot", || on_vcpu(0, oneshot)),
    ("apic-timer-periodic", || on_vcpu(0, periodic)),
    ("apic-self-ipi", || on_vcpu(0, self_ipi)),
    ("apic-priority", || on_vcpu(0, priority)),
    ("apic-ipi", ipi),
    ("apic-madt", madt),
];

const MS: u64 = 1_000_000;
const VECTOR: u8 = 0xE0;
const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
/// Divide by 16.
const DIVIDE_16: u32 = 3;

fn taken() -> u64 {
    percpu::own().apic_interrupts.load(Ordering::SeqCst)
}

/// Waits for `count` interrupts in all, spinning.
fn wait_for(count: u64, ns: u64) -> bool {
    let end = clock::now() + ns;
    while taken() < count {
        if clock::now() > end {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

fn registers() -> Outcome {
    let version = apic::read(register::VERSION);
    check!((0x10..0x20).contains(&(version & 0xFF)), "version {version:#x}");
    check!(version >> 16 & 0xFF >= 3, "version {version:#x} has too few LVT entries");
    apic::write(register::TPR, 0x20);
    check_eq!(apic::read(register::TPR), 0x20, "the task priority");
    apic::write(register::TPR, 0);
    let lvt = LVT_MASKED | 0x55;
    apic::write(register::LVT_TIMER, lvt);
    check_eq!(apic::read(register::LVT_TIMER), lvt, "the timer's entry");
    apic::write(register::TIMER_DIVIDE, DIVIDE_16);
    check_eq!(apic::read(register::TIMER_DIVIDE), DIVIDE_16, "the timer's divisor");
    if apic::is_x2apic() {
        let fault = Err(Fault { vector: 13, error: 0 });
        check_eq!(fixup::rdmsr(0x800 + 0x31), fault, "the second half of the command register");
        check_eq!(fixup::rdmsr(0x800 + 0x04), fault, "a register that does not exist");
        check_eq!(fixup::rdmsr(0x800 + register::EOI), fault, "reading a register that can only be written");
    } else {
        check_eq!(apic::read(register::ID) & 0x00FF_FFFF, 0, "the lower bits of the number");
    }
    Ok(())
}

fn set_timer(mode: u32, count: u32) {
    apic::write(register::TIMER_DIVIDE, DIVIDE_16);
    apic::write(register::LVT_TIMER, mode | u32::from(VECTOR));
    apic::write(register::TIMER_INITIAL, count);
}

fn oneshot() -> Outcome {
    let before = taken();
    set_timer(0, 100_000);
    check!(wait_for(before + 1, 5_000 * MS), "the timer did not fire");
    check_eq!(apic::read(register::TIMER_CURRENT), 0, "the count of a timer that fired");
    clock::spin(5 * MS);
    check_eq!(taken(), before + 1, "interrupts of a timer that fires once");
    set_timer(LVT_MASKED, 10_000);
    clock::spin(20 * MS);
    check_eq!(taken(), before + 1, "interrupts of a masked timer");
    set_timer(0, u32::MAX);
    let (first, second) = (apic::read(register::TIMER_CURRENT), apic::read(register::TIMER_CURRENT));
    check!(second <= first && first > 0, "the count went from {first} to {second}");
    apic::write(register::TIMER_INITIAL, 0);
    check_eq!(apic::read(register::TIMER_CURRENT), 0, "the count of a stopped timer");
    Ok(())
}

fn periodic() -> Outcome {
    let before = taken();
    set_timer(LVT_PERIODIC, 200_000);
    let came = wait_for(before + 5, 10_000 * MS);
    apic::write(register::TIMER_INITIAL, 0);
    check!(came, "{} of 5 interrupts came", taken() - before);
    let stopped = taken();
    clock::spin(20 * MS);
    check!(taken() <= stopped + 1, "a stopped timer fires");
    Ok(())
}

fn self_ipi() -> Outcome {
    let own = apic::id();
    for round in 1..=20 {
        let before = taken();
        if apic::is_x2apic() && round % 2 == 0 {
            apic::write(register::SELF_IPI, VECTOR.into());
        } else {
            apic::send_vector(own, VECTOR);
        }
        check!(wait_for(before + 1, 1_000 * MS), "interrupt {round} to self did not come");
    }
    // Two vectors while interrupts are off: both come, the higher one first, and nothing stays in service.
    let before = taken();
    let interrupts = cpu::interrupts_off();
    apic::send_vector(own, VECTOR);
    apic::send_vector(own, VECTOR + 1);
    let pending = apic::read(register::IRR + u32::from(VECTOR) / 32);
    if interrupts {
        cpu::interrupts_on();
    }
    check!(pending & 3 == 3, "request bits {pending:#x} instead of the two that were sent");
    check!(wait_for(before + 2, 1_000 * MS), "{} of 2 interrupts came", taken() - before);
    for index in 0..8 {
        check_eq!(apic::read(register::ISR + index), 0, "what is in service");
    }
    Ok(())
}

fn priority() -> Outcome {
    let before = taken();
    apic::write(register::TPR, 0xF0);
    apic::send_vector(apic::id(), VECTOR);
    clock::spin(MS);
    let early = taken() - before;
    apic::write(register::TPR, 0);
    check_eq!(early, 0, "interrupts below the task priority");
    check!(wait_for(before + 1, 1_000 * MS), "lowering the task priority did not deliver");
    Ok(())
}

fn ipi() -> Outcome {
    if smp::online() < 2 {
        return Err(Stop::Skip("it takes two vCPUs".into()));
    }
    let processors = acpi::processors()?;
    for cpu in 0..smp::online() {
        let number =
            processors.iter().find(|processor| processor.acpi_id == cpu as u32).ok_or("the MADT lacks a vCPU")?.apic_id;
        let other = percpu::of(cpu).ok_or("no such vCPU")?;
        for round in 0..20 {
            let before = other.apic_interrupts.load(Ordering::SeqCst);
            apic::send_vector(number, VECTOR + 2);
            let end = clock::now() + 2_000 * MS;
            while other.apic_interrupts.load(Ordering::SeqCst) == before {
                check!(clock::now() < end, "interrupt {round} for vCPU {cpu} did not come");
                let _ = ebb_guest_hypercall::sched::yield_now();
            }
        }
    }
    Ok(())
}

fn madt() -> Outcome {
    let processors = acpi::processors().map_err(|why| Stop::Failure(why.into()))?;
    for cpu in 0..smp::possible() {
        let entry = processors.iter().find(|processor| processor.acpi_id == cpu as u32);
        check!(entry.is_some_and(|processor| processor.enabled), "the MADT lacks vCPU {cpu}");
    }
    Ok(())
}
