//! The ways the machine ends: a status for QEMU, power-off by ACPI, reset.
#![allow(unsafe_code, reason = "ports of the chipset")]

use crate::acpi::{self, PowerOff, Register};
use crate::options::options;
use crate::{console, error, instr, time};

/// Statuses of `debug-exit`: QEMU ends with `status << 1 | 1`.
pub mod status {
    /// Every domain ended well.
    pub const OK: u8 = 0x10;
    /// A domain crashed.
    pub const DOMAIN_CRASHED: u8 = 0x11;
    /// The hypervisor panicked.
    pub const PANIC: u8 = 0x12;
    /// The hypervisor cannot run here, or has nothing to run.
    pub const CANNOT_START: u8 = 0x13;
}

/// Ends the machine for good with a status: by `debug-exit=` if given (it works only in QEMU), else by ACPI, else by
/// halting. Output is flushed first. Other processors need not have stopped.
pub fn power_off(status: u8) -> ! {
    console::flush();
    debug_exit(status);
    if let Some(power_off) = acpi::info().and_then(|info| info.power_off.as_ref()) {
        acpi_power_off(power_off);
    }
    error!("the machine does not switch itself off; it is safe to do so by hand");
    console::flush();
    instr::halt_forever();
}

/// Starts the machine again: ACPI's reset register, the chipset's port, the keyboard controller, a triple fault.
pub fn reboot() -> ! {
    console::flush();
    if let Some((register, value)) = acpi::info().and_then(|info| info.reset) {
        match register {
            // SAFETY: the machine is reset; nothing after that matters.
            Register::Port(port) => unsafe { instr::outb(port, value) },
            Register::Memory(address) => {
                if let Some(register) = Register::map(address) {
                    // SAFETY: as above; the register was mapped just now.
                    unsafe { register.write_volatile(value) };
                }
            }
        }
        time::rough_delay_us(10_000);
    }
    // SAFETY: each of these resets the machine or does nothing.
    unsafe {
        instr::outb(0xcf9, 0x02);
        time::rough_delay_us(100);
        instr::outb(0xcf9, 0x06);
        time::rough_delay_us(10_000);
        instr::outb(0x64, 0xfe);
        time::rough_delay_us(10_000);
        // An empty descriptor table makes any exception a triple fault.
        let empty = [0u16; 5];
        core::arch::asm!("lidt [{}]", "ud2", in(reg) &empty, options(noreturn));
    }
}

/// Stops without switching off (`on-end=halt`, and the end of a panic without `debug-exit=`).
pub fn halt() -> ! {
    console::flush();
    instr::halt_forever();
}

/// Writes `status` to QEMU's isa-debug-exit device, if the command line names its port.
pub(crate) fn debug_exit(status: u8) {
    if let Some(port) = options().debug_exit {
        // SAFETY: the user says that this is the device's port.
        unsafe { instr::outl(port, status.into()) };
    }
}

fn acpi_power_off(power_off: &PowerOff) {
    const SCI_ENABLE: u16 = 1;
    const SLEEP_TYPE_SHIFT: u16 = 10;
    const SLEEP_ENABLE: u16 = 1 << 13;
    const SLEEP_MASK: u16 = 7 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;
    // SAFETY: the ports come from the FADT; the sequence is ACPI's own for entering S5 (ACPI 6.5, 16.1.6).
    unsafe {
        if let Some((port, value)) = power_off.enable
            && instr::inw(power_off.control_a) & SCI_ENABLE == 0
        {
            instr::outb(port, value);
            for _ in 0..3000 {
                if instr::inw(power_off.control_a) & SCI_ENABLE != 0 {
                    break;
                }
                time::rough_delay_us(100);
            }
        }
        let value =
            |port: u16, sleep_type: u8| instr::inw(port) & !SLEEP_MASK | u16::from(sleep_type) << SLEEP_TYPE_SHIFT;
        let a = value(power_off.control_a, power_off.types.a);
        let b = power_off.control_b.map(|port| (port, value(port, power_off.types.b)));
        instr::outw(power_off.control_a, a | SLEEP_ENABLE);
        if let Some((port, value)) = b {
            instr::outw(port, value | SLEEP_ENABLE);
        }
    }
    time::rough_delay_us(1_000_000);
}
