//! The I/O APICs, for the one device interrupt that Ebb takes: the console's (Intel 82093AA data sheet).
//!
//! All other lines stay masked, and what firmware left open is masked. Used by the boot processor alone, at boot.
#![allow(unsafe_code, reason = "I/O APIC registers")]

use crate::acpi::{self, IsaLine};
use crate::memory::paging::Access;
use crate::{apic, memory};

const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const VERSION: u32 = 1;
/// Two registers for each line.
const REDIRECTION: u32 = 0x10;

const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const DELIVERY_MODE: u32 = 7 << 8;
/// Delivery modes fixed and lowest priority: ordinary interrupts. Others (SMI, NMI) are the firmware's business.
const ORDINARY: u32 = 1;

/// One I/O APIC, mapped.
struct IoApic {
    registers: *mut u8,
    first: u32,
    lines: u32,
}

impl IoApic {
    fn open(entry: &acpi::IoApicEntry) -> Option<Self> {
        let registers = memory::map_mmio(entry.address, 0x20, Access::Uncached).ok()?;
        let mut this = Self { registers, first: entry.first, lines: 0 };
        this.lines = (this.read(VERSION) >> 16 & 0xff) + 1;
        Some(this)
    }

    fn select(&self, register: u32) {
        // SAFETY: the page is the I/O APIC's, mapped for good; selecting a register has no effect by itself.
        unsafe { self.registers.add(SELECT).cast::<u32>().write_volatile(register) };
    }

    fn read(&self, register: u32) -> u32 {
        self.select(register);
        // SAFETY: as above; reading a register of these has no effect.
        unsafe { self.registers.add(WINDOW).cast::<u32>().read_volatile() }
    }

    fn write(&self, register: u32, value: u32) {
        self.select(register);
        // SAFETY: as above; entries written are masked or deliver to a vector with a handler.
        unsafe { self.registers.add(WINDOW).cast::<u32>().write_volatile(value) };
    }

    fn mask_all(&self) {
        for line in 0..self.lines {
            let low = self.read(REDIRECTION + 2 * line);
            if (low & DELIVERY_MODE) >> 8 <= ORDINARY {
                self.write(REDIRECTION + 2 * line, low | MASKED);
            }
        }
    }

    /// Delivers `line` to this processor as `vector`.
    fn route(&self, line: u32, how: IsaLine, vector: u8) {
        let polarity = if how.active_low { ACTIVE_LOW } else { 0 };
        let trigger = if how.level { LEVEL } else { 0 };
        self.write(REDIRECTION + 2 * line, MASKED);
        self.write(REDIRECTION + 2 * line + 1, apic::own_id() << 24);
        self.write(REDIRECTION + 2 * line, u32::from(vector) | polarity | trigger);
    }
}

/// Masks all lines but the ISA interrupt `line`, which this processor gets as `vector`.
///
/// # Errors
/// Why it cannot have it.
pub(crate) fn route_isa(line: u8, vector: u8) -> Result<(), &'static str> {
    let info = acpi::info().ok_or("no ACPI")?;
    let how = info.isa_lines[usize::from(line)];
    // Without interrupt remapping an entry holds 8 bits of an APIC id.
    if apic::own_id() > 0xfe {
        return Err("the boot processor's APIC id is too large for the I/O APIC");
    }
    let mut routed = Err("no I/O APIC has its line");
    for io_apic in info.io_apics.iter().filter_map(IoApic::open) {
        io_apic.mask_all();
        if (io_apic.first..io_apic.first + io_apic.lines).contains(&how.global) {
            io_apic.route(how.global - io_apic.first, how, vector);
            routed = Ok(());
        }
    }
    routed
}
