//! The guest's ways to its local APIC: the xAPIC page, the x2APIC MSRs, CR8, the base register.

use super::{APIC_DEFAULT_BASE, Effect, Fault, GP, register};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::timer;
use crate::vcpu::{Attention, VcpuRef};

/// First x2APIC MSR.
const MSR_FIRST: u32 = 0x800;
/// Number of register slots.
const SLOTS: u32 = 0x40;

impl<M: Machine> Hypervisor<M> {
    /// Reads the xAPIC page. `offset` is a multiple of 4; only the first word of each 16 bytes is a register.
    pub fn apic_mmio_read(&self, vcpu: &VcpuRef<M>, offset: u32) -> u32 {
        if offset & 0xc != 0 {
            return 0;
        }
        vcpu.lapic.lock().read(offset >> 4, self.machine.now())
    }

    /// Writes the xAPIC page.
    pub fn apic_mmio_write(&self, vcpu: &VcpuRef<M>, offset: u32, value: u32) {
        if offset & 0xc != 0 || offset >> 4 == register::SELF_IPI {
            return;
        }
        let mut lapic = vcpu.lapic.lock();
        let effect = lapic.write(offset >> 4, value, self.machine.now());
        drop(lapic);
        self.after_write(vcpu, effect);
    }

    /// Reads an x2APIC MSR.
    ///
    /// # Errors
    /// #GP when the APIC is not in x2APIC mode, or there is no such register, or it cannot be read.
    pub fn apic_msr_read(&self, vcpu: &VcpuRef<M>, msr: u32) -> Result<u64, Fault> {
        let number = msr.wrapping_sub(MSR_FIRST);
        let mut lapic = vcpu.lapic.lock();
        if !lapic.is_x2apic() || !is_readable(number) {
            return Err(GP);
        }
        if number == register::ICR {
            return Ok(lapic.icr);
        }
        Ok(u64::from(lapic.read(number, self.machine.now())))
    }

    /// Writes an x2APIC MSR.
    ///
    /// # Errors
    /// #GP when the APIC is not in x2APIC mode, there is no such register, it cannot be written, or reserved bits are
    /// set.
    pub fn apic_msr_write(&self, vcpu: &VcpuRef<M>, msr: u32, value: u64) -> Result<(), Fault> {
        let number = msr.wrapping_sub(MSR_FIRST);
        let mut lapic = vcpu.lapic.lock();
        if !lapic.is_x2apic() || !is_writable(number, value) {
            return Err(GP);
        }
        let effect = match number {
            register::ICR => lapic.write_icr(value),
            register::SELF_IPI => {
                drop(lapic);
                self.lapic_set_irr(vcpu, value as u8);
                return Ok(());
            }
            _ => lapic.write(number, value as u32, self.machine.now()),
        };
        drop(lapic);
        self.after_write(vcpu, effect);
        Ok(())
    }

    fn after_write(&self, vcpu: &VcpuRef<M>, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Timer(deadline) => timer::set_lapic_timer(self, vcpu, deadline),
            Effect::Ipi(icr) => self.send_ipi(vcpu, icr),
        }
        self.look_again(vcpu);
    }

    /// After anything that may have lowered the priority: an interrupt that waited may come now.
    fn look_again(&self, vcpu: &VcpuRef<M>) {
        if vcpu.lapic.lock().deliverable().is_some() {
            vcpu.raise(Attention::LAPIC);
        }
    }

    /// The APIC base register.
    pub fn apic_base(&self, vcpu: &VcpuRef<M>) -> u64 {
        vcpu.lapic.lock().base()
    }

    /// Writes the APIC base register.
    ///
    /// # Errors
    /// #GP for what the register does not allow.
    pub fn set_apic_base(&self, vcpu: &VcpuRef<M>, value: u64) -> Result<(), Fault> {
        let effect = vcpu.lapic.lock().set_base(value)?;
        self.after_write(vcpu, effect);
        Ok(())
    }

    /// Where the xAPIC page answers, if it does.
    pub fn apic_window(&self, vcpu: &VcpuRef<M>) -> Option<u64> {
        let lapic = vcpu.lapic.lock();
        (lapic.is_enabled() && !lapic.is_x2apic()).then_some(APIC_DEFAULT_BASE)
    }

    /// Whether the APIC is on, for CPUID.
    pub fn apic_enabled(&self, vcpu: &VcpuRef<M>) -> bool {
        vcpu.lapic.lock().is_enabled()
    }

    /// Task priority.
    pub fn tpr(&self, vcpu: &VcpuRef<M>) -> u8 {
        vcpu.lapic.lock().tpr()
    }

    /// The guest changed its task priority (CR8).
    pub fn set_tpr(&self, vcpu: &VcpuRef<M>, tpr: u8) {
        vcpu.lapic.lock().set_tpr(tpr);
        self.look_again(vcpu);
    }

    /// An interrupt for a vCPU's APIC, from anywhere.
    pub fn lapic_set_irr(&self, vcpu: &VcpuRef<M>, vector: u8) {
        if vcpu.lapic.lock().set_irr(vector) {
            vcpu.raise(Attention::LAPIC);
            self.notify_vcpu(vcpu);
        }
    }

    /// The time given to [`timer::set_lapic_timer`] has come.
    pub fn lapic_timer_expired(&self, vcpu: &VcpuRef<M>) {
        let (delivered, next) = vcpu.lapic.lock().timer_expired(self.machine.now());
        if next.is_some() {
            timer::set_lapic_timer(self, vcpu, next);
        }
        if delivered {
            vcpu.raise(Attention::LAPIC);
            self.notify_vcpu(vcpu);
        }
    }

    /// The vCPU was started by `VCPUOP_initialise` and `VCPUOP_up`: start-up IPIs no longer concern it.
    pub fn forget_start_up(&self, vcpu: &VcpuRef<M>) {
        vcpu.lapic.lock().waits_for_sipi = false;
    }
}

fn is_readable(number: u32) -> bool {
    number < SLOTS
        && matches!(number, register::ID | register::VERSION | register::TPR | register::PPR | register::LDR | register::SVR
            | register::ISR..=0x27 | register::ESR | register::ICR | register::LVT_TIMER..=register::CURRENT_COUNT
            | register::DIVIDE)
}

/// Whether an x2APIC register can be written with this value: reserved bits fault.
fn is_writable(number: u32, value: u64) -> bool {
    let allowed: u64 = match number {
        register::TPR | register::SELF_IPI => 0xff,
        register::EOI | register::ESR => 0,
        register::SVR => 0x1ff,
        register::ICR => 0xffff_ffff_000c_dfff,
        register::LVT_TIMER..=register::LVT_ERROR => 0x0007_ffff,
        register::INITIAL_COUNT => 0xffff_ffff,
        register::DIVIDE => 0b1011,
        _ => return false,
    };
    value & !allowed == 0
}
