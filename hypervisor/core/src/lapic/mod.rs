//! A vCPU's local APIC, as a model: registers, priorities, the timer's arithmetic. No hardware, no locks, no clock of
//! its own: time comes in as nanoseconds.
//!
//! [`access`] connects it to guests (xAPIC page, x2APIC MSRs), [`ipi`] to other vCPUs, [`entry`] to what is injected.
//! There are no devices and no I/O APIC, so everything is edge-triggered.
//!
//! Locking: one lock of rank LAPIC around it. [`crate::vcpu::Attention::LAPIC`] is raised after, and withdrawn only
//! under, that lock: see [`entry`].
//!
//! Specification: AMD64 Architecture Programmer's Manual volume 2, chapter 16; Intel SDM volume 3, chapter 11.

pub mod access;
pub mod entry;
pub mod ipi;
mod timer;

use ipi::Icr;
use timer::Timer;

/// Where the xAPIC page is. It cannot be moved.
pub const APIC_DEFAULT_BASE: u64 = 0xfee0_0000;

/// An exception that a guest's instruction meets by policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// #GP with this error code.
    GeneralProtection(u32),
    /// #UD.
    UndefinedOpcode,
}

/// #GP(0).
pub const GP: Fault = Fault::GeneralProtection(0);

/// Register numbers: offset in the page divided by 16, and MSR number minus 0x800.
pub mod register {
    #![allow(missing_docs)]
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT_TIMER: u32 = 0x32;
    pub const LVT_ERROR: u32 = 0x37;
    pub const INITIAL_COUNT: u32 = 0x38;
    pub const CURRENT_COUNT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
/// Integrated APIC, version 0x14, last LVT entry 5.
const VERSION_VALUE: u32 = 5 << 16 | 0x14;
const SVR_ENABLED: u32 = 1 << 8;
const SVR_WRITABLE: u32 = 0x1ff;
const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
const LVT_COUNT: usize = 6;
/// Bits of each LVT entry that can be written: vector and mask, then delivery mode where there is one, pin polarity and
/// trigger for the two pins; the timer has its periodic bit.
const LVT_WRITABLE: [u32; LVT_COUNT] = [0x300ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];
/// Bits of an LVT entry that only the APIC changes, and always reads as 0 here: delivery status, and the pins' remote
/// IRR. Writing them is no error.
const LVT_STATUS: [u32; LVT_COUNT] = [1 << 12, 1 << 12, 1 << 12, 0x5000, 0x5000, 1 << 12];
const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;
/// Vectors below this cannot come through an APIC.
const FIRST_VECTOR: u8 = 16;

/// What a write asks of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The timer's deadline changed: arm it for this time (ns), or stop it.
    Timer(Option<u64>),
    /// Send an interprocessor interrupt.
    Ipi(Icr),
}

/// A set of 256 vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8) {
        self.0[usize::from(vector / 32)] |= 1 << (vector % 32);
    }

    fn clear(&mut self, vector: u8) {
        self.0[usize::from(vector / 32)] &= !(1 << (vector % 32));
    }

    fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some((index * 32) as u8 + word.ilog2() as u8)
    }
}

/// A local APIC.
#[derive(Debug)]
pub struct Lapic {
    id: u32,
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    esr: u32,
    /// Errors noted since ESR was last written.
    errors: u32,
    lvt: [u32; LVT_COUNT],
    icr: u64,
    timer: Timer,
    irr: Vectors,
    isr: Vectors,
    /// INIT was received (or the processor never ran): a start-up IPI starts it.
    waits_for_sipi: bool,
}

impl Lapic {
    /// An APIC after power-on. The one with id 0 belongs to the boot processor.
    pub fn new(id: u32) -> Self {
        let mut lapic = Self {
            id,
            base: APIC_DEFAULT_BASE | BASE_ENABLED | if id == 0 { BASE_BSP } else { 0 },
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            esr: 0,
            errors: 0,
            lvt: [0; LVT_COUNT],
            icr: 0,
            timer: Timer::default(),
            irr: Vectors::default(),
            isr: Vectors::default(),
            waits_for_sipi: id != 0,
        };
        lapic.reset();
        lapic
    }

    /// What INIT does: everything but the id and the base register.
    fn reset(&mut self) {
        self.tpr = 0;
        self.ldr = if self.is_x2apic() { x2apic_ldr(self.id) } else { 0 };
        self.dfr = u32::MAX;
        self.svr = 0xff;
        self.esr = 0;
        self.errors = 0;
        self.lvt = [LVT_MASKED; LVT_COUNT];
        self.icr = 0;
        self.timer = Timer::default();
        self.irr = Vectors::default();
        self.isr = Vectors::default();
    }

    /// Whether it is on at all (APIC base register).
    pub fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0
    }

    /// Whether it is in x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    fn software_enabled(&self) -> bool {
        self.is_enabled() && self.svr & SVR_ENABLED != 0
    }

    /// The APIC base register.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Writes the APIC base register.
    ///
    /// # Errors
    /// #GP for reserved bits, another address, and the transitions the manuals forbid.
    pub fn set_base(&mut self, value: u64) -> Result<Effect, Fault> {
        if value & !(BASE_ENABLED | BASE_X2APIC | BASE_BSP) != APIC_DEFAULT_BASE {
            return Err(GP);
        }
        let (enabled, x2) = (value & BASE_ENABLED != 0, value & BASE_X2APIC != 0);
        let forbidden = (x2 && !enabled) || (self.is_x2apic() && enabled && !x2) || (!self.is_enabled() && x2);
        if forbidden {
            return Err(GP);
        }
        let was_enabled = self.is_enabled();
        self.base = value & !BASE_BSP | self.base & BASE_BSP;
        if x2 {
            self.ldr = x2apic_ldr(self.id);
        }
        if was_enabled && !enabled {
            self.reset();
            return Ok(Effect::Timer(None));
        }
        Ok(Effect::None)
    }

    /// Task priority.
    pub fn tpr(&self) -> u8 {
        self.tpr
    }

    /// Sets the task priority.
    pub fn set_tpr(&mut self, tpr: u8) {
        self.tpr = tpr;
    }

    fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service { self.tpr } else { in_service }
    }

    /// Notes an interrupt. `false` when none comes of it: the APIC is off, or the vector is not legal.
    pub fn set_irr(&mut self, vector: u8) -> bool {
        if !self.software_enabled() {
            return false;
        }
        if vector < FIRST_VECTOR {
            return self.note_error(ESR_RECEIVE_ILLEGAL_VECTOR);
        }
        self.irr.set(vector);
        true
    }

    /// Notes an error. Whether an interrupt came of it: the first of its kind since ESR was written has one, if the
    /// guest wants it.
    fn note_error(&mut self, error: u32) -> bool {
        let entry = self.lvt_entry(register::LVT_ERROR);
        let first = self.errors & error == 0;
        self.errors |= error;
        let vector = entry as u8;
        if !first || entry & LVT_MASKED != 0 || !self.software_enabled() {
            return false;
        }
        if vector < FIRST_VECTOR {
            self.errors |= ESR_RECEIVE_ILLEGAL_VECTOR;
            return false;
        }
        self.irr.set(vector);
        true
    }

    /// The interrupt to be delivered next, if priorities allow one.
    pub fn deliverable(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (self.software_enabled() && vector & 0xf0 > self.ppr() & 0xf0).then_some(vector)
    }

    /// Moves an interrupt into service.
    pub fn accept(&mut self, vector: u8) {
        self.irr.clear(vector);
        self.isr.set(vector);
    }

    fn eoi(&mut self) {
        if let Some(vector) = self.isr.highest() {
            self.isr.clear(vector);
        }
    }

    fn lvt_entry(&self, register: u32) -> u32 {
        self.lvt[(register - register::LVT_TIMER) as usize]
    }

    fn is_periodic(&self) -> bool {
        self.lvt[0] & LVT_PERIODIC != 0
    }

    fn timer_masked(&self) -> bool {
        self.lvt[0] & LVT_MASKED != 0
    }

    /// Reads a register by number; unknown ones read as 0 and are noted as an error.
    pub fn read(&mut self, number: u32, now: u64) -> u32 {
        match number {
            register::ID => {
                if self.is_x2apic() {
                    self.id
                } else {
                    self.id << 24
                }
            }
            register::VERSION => VERSION_VALUE,
            register::TPR => u32::from(self.tpr),
            register::PPR => u32::from(self.ppr()),
            register::EOI => 0,
            register::LDR => self.ldr,
            register::DFR => self.dfr,
            register::SVR => self.svr,
            register::ISR..=0x17 => self.isr.0[(number - register::ISR) as usize],
            register::TMR..=0x1f => 0,
            register::IRR..=0x27 => self.irr.0[(number - register::IRR) as usize],
            register::ESR => self.esr,
            register::ICR => self.icr as u32,
            register::ICR_HIGH => (self.icr >> 32) as u32,
            register::LVT_TIMER..=register::LVT_ERROR => self.lvt_entry(number),
            register::INITIAL_COUNT => self.timer.initial(),
            register::CURRENT_COUNT => self.timer.current(now, self.is_periodic()),
            register::DIVIDE => self.timer.divide(),
            _ => {
                self.note_error(ESR_ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes a register by number.
    pub fn write(&mut self, number: u32, value: u32, now: u64) -> Effect {
        match number {
            register::TPR => self.tpr = value as u8,
            register::EOI => self.eoi(),
            register::LDR => self.ldr = value & 0xff00_0000,
            register::DFR => self.dfr = value | 0x0fff_ffff,
            register::SVR => return self.write_svr(value, now),
            register::ESR => self.esr = core::mem::take(&mut self.errors),
            register::ICR => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & Icr::WRITABLE);
                return self.send();
            }
            register::ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            register::LVT_TIMER..=register::LVT_ERROR => return self.write_lvt(number, value, now),
            register::INITIAL_COUNT => {
                self.settle_timer(now);
                self.timer.start(value, now);
                return Effect::Timer(self.deadline());
            }
            register::DIVIDE => {
                self.settle_timer(now);
                self.timer.set_divide(value, now);
                return Effect::Timer(self.deadline());
            }
            // Read-only.
            register::ID | register::VERSION | register::PPR | register::ISR..=0x27 | register::CURRENT_COUNT => {}
            _ => {
                self.note_error(ESR_ILLEGAL_REGISTER);
            }
        }
        Effect::None
    }

    /// Sets the whole ICR (x2APIC) and sends.
    fn write_icr(&mut self, value: u64) -> Effect {
        self.icr = value & (u64::from(Icr::WRITABLE) | !0xffff_ffff);
        self.send()
    }

    /// Sends the caller `vector` (x2APIC's short form); a vector no APIC accepts is an error of the sender.
    fn self_ipi(&mut self, vector: u8) -> bool {
        if vector < FIRST_VECTOR { self.note_error(ESR_SEND_ILLEGAL_VECTOR) } else { self.set_irr(vector) }
    }

    fn send(&mut self) -> Effect {
        let icr = Icr::new(self.icr, self.is_x2apic());
        if icr.has_illegal_vector() {
            self.note_error(ESR_SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        Effect::Ipi(icr)
    }

    /// Turning the APIC off by software masks all entries; the count goes on, and its interrupt does not come.
    fn write_svr(&mut self, value: u32, now: u64) -> Effect {
        self.settle_timer(now);
        self.svr = value & SVR_WRITABLE;
        if self.svr & SVR_ENABLED == 0 {
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
        Effect::Timer(self.deadline())
    }

    fn write_lvt(&mut self, number: u32, value: u32, now: u64) -> Effect {
        let index = (number - register::LVT_TIMER) as usize;
        let mut entry = value & LVT_WRITABLE[index];
        if self.svr & SVR_ENABLED == 0 {
            entry |= LVT_MASKED;
        }
        if number != register::LVT_TIMER {
            self.lvt[index] = entry;
            return Effect::None;
        }
        // What ended under the old entry is done with by its rules.
        self.settle_timer(now);
        self.timer.align(now);
        self.lvt[index] = entry;
        Effect::Timer(self.deadline())
    }

    /// When the timer's interrupt is due: never for one that is masked.
    fn deadline(&self) -> Option<u64> {
        if self.timer_masked() { None } else { self.timer.deadline() }
    }

    /// Brings the timer up to `now`: a count that has reached zero is stopped, or begins again, and its interrupt is
    /// noted unless it is masked. Whether one was.
    fn settle_timer(&mut self, now: u64) -> bool {
        let ended = self.timer.settle(now, self.is_periodic());
        ended && !self.timer_masked() && self.set_irr(self.lvt[0] as u8)
    }

    /// The timer's deadline may have come: notes its interrupt. Whether one is to be delivered, and the next deadline.
    pub fn timer_expired(&mut self, now: u64) -> (bool, Option<u64>) {
        let delivered = self.settle_timer(now);
        (delivered, self.deadline())
    }

    /// Bits that mean nothing in the LVT entry `number`: setting one faults in x2APIC mode.
    fn lvt_reserved(number: u32) -> u32 {
        let index = (number - register::LVT_TIMER) as usize;
        !(LVT_WRITABLE[index] | LVT_STATUS[index])
    }
}

/// Cluster in the upper half, one bit of 16 in the lower.
const fn x2apic_ldr(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

#[cfg(test)]
mod tests;
