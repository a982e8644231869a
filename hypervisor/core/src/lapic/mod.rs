//! A vCPU's local APIC, as a model: registers, priorities, the timer's arithmetic. No hardware, no locks, no clock of
//! its own: time comes in as nanoseconds.
//!
//! [`access`] connects it to guests (xAPIC page, x2APIC MSRs), [`ipi`] to other vCPUs, [`entry`] to what is injected.
//! There are no devices and no I/O APIC, so everything is edge-triggered.
//!
//! Specification: AMD64 Architecture Programmer's Manual volume 2, chapter 16; Intel SDM volume 3, chapter 11.

pub mod access;
pub mod entry;
pub mod ipi;

use ipi::Icr;

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

/// The timer. One tick of the undivided clock is a nanosecond.
#[derive(Clone, Copy, Debug)]
struct Timer {
    initial: u32,
    divide: u32,
    /// When the running count began (ns).
    started: u64,
    running: bool,
}

impl Timer {
    /// log2 of the divisor.
    fn shift(self) -> u32 {
        // Bits 0, 1 and 3 count 2, 4, … 128; the last code is 1.
        ((self.divide & 3 | self.divide >> 1 & 4) + 1) & 7
    }

    fn period(self) -> u64 {
        u64::from(self.initial) << self.shift()
    }

    fn current(self, now: u64, periodic: bool) -> u32 {
        let elapsed = now.saturating_sub(self.started);
        let period = self.period();
        if !self.running || period == 0 || (!periodic && elapsed >= period) {
            return 0;
        }
        ((period - elapsed % period) >> self.shift()) as u32
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
            timer: Timer { initial: 0, divide: 0, started: 0, running: false },
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
        self.timer = Timer { initial: 0, divide: 0, started: 0, running: false };
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

    /// Notes an interrupt. `false` when it cannot come: the APIC is off, or the vector is not legal.
    pub fn set_irr(&mut self, vector: u8) -> bool {
        if !self.software_enabled() {
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

    /// Reads a register by number; unknown ones read as 0 and are noted as an error.
    pub fn read(&mut self, number: u32, now: u64) -> u32 {
        match number {
            register::ID => if self.is_x2apic() { self.id } else { self.id << 24 },
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
            register::INITIAL_COUNT => self.timer.initial,
            register::CURRENT_COUNT => self.timer.current(now, self.is_periodic()),
            register::DIVIDE => self.timer.divide,
            _ => {
                self.errors |= ESR_ILLEGAL_REGISTER;
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
            register::SVR => return self.write_svr(value),
            register::ESR => self.esr = core::mem::take(&mut self.errors),
            register::ICR => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & !Icr::PENDING);
                return self.send();
            }
            register::ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            register::LVT_TIMER..=register::LVT_ERROR => return self.write_lvt(number, value, now),
            register::INITIAL_COUNT => {
                self.timer.initial = value;
                self.timer.started = now;
                self.timer.running = value != 0;
                return Effect::Timer(self.deadline());
            }
            register::DIVIDE => {
                let current = self.timer.current(now, self.is_periodic());
                self.timer.divide = value & 0b1011;
                // The count goes on from where it is, at the new speed.
                let remaining = u64::from(self.timer.initial.saturating_sub(current)) << self.timer.shift();
                self.timer.started = now.saturating_sub(remaining);
                return Effect::Timer(self.deadline());
            }
            register::ID | register::VERSION => {}
            _ => self.errors |= ESR_ILLEGAL_REGISTER,
        }
        Effect::None
    }

    /// Sets the whole ICR (x2APIC) and sends.
    fn write_icr(&mut self, value: u64) -> Effect {
        self.icr = value & !u64::from(Icr::PENDING);
        self.send()
    }

    fn send(&mut self) -> Effect {
        let icr = Icr::new(self.icr, self.is_x2apic());
        if icr.has_illegal_vector() {
            self.errors |= ESR_SEND_ILLEGAL_VECTOR;
            return Effect::None;
        }
        Effect::Ipi(icr)
    }

    fn write_svr(&mut self, value: u32) -> Effect {
        self.svr = value & SVR_WRITABLE;
        if self.svr & SVR_ENABLED == 0 {
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
        Effect::None
    }

    fn write_lvt(&mut self, number: u32, value: u32, now: u64) -> Effect {
        let index = (number - register::LVT_TIMER) as usize;
        let was_periodic = self.is_periodic();
        let mut entry = value & LVT_WRITABLE[index];
        if self.svr & SVR_ENABLED == 0 {
            entry |= LVT_MASKED;
        }
        self.lvt[index] = entry;
        if number != register::LVT_TIMER || was_periodic == self.is_periodic() {
            return Effect::None;
        }
        // A count that already ended does not begin again by a change of mode.
        if !was_periodic && self.timer.current(now, false) == 0 {
            self.timer.running = false;
        }
        Effect::Timer(self.deadline())
    }

    fn deadline(&self) -> Option<u64> {
        (self.timer.running && self.timer.period() > 0).then(|| self.timer.started.saturating_add(self.timer.period()))
    }

    /// The timer's deadline has come: notes its interrupt. Whether one is to be delivered, and the next deadline.
    pub fn timer_expired(&mut self, now: u64) -> (bool, Option<u64>) {
        match self.deadline() {
            Some(deadline) if deadline <= now => {}
            other => return (false, other),
        }
        if self.is_periodic() {
            // Periods that were missed are lost, as when interrupts are off too long.
            let period = self.timer.period();
            self.timer.started = now - (now - self.timer.started) % period;
        } else {
            self.timer.running = false;
        }
        let entry = self.lvt[0];
        let delivered = entry & LVT_MASKED == 0 && self.set_irr(entry as u8);
        (delivered, self.deadline())
    }
}

/// Cluster in the upper half, one bit of 16 in the lower.
const fn x2apic_ldr(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

#[cfg(test)]
mod tests;
