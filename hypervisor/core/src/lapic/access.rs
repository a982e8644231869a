//! The guest's ways to its local APIC: the xAPIC page, the x2APIC MSRs, CR8, the base register.

use super::ipi::Icr;
use super::{APIC_DEFAULT_BASE, Effect, Fault, GP, Lapic, SVR_WRITABLE, register};
use crate::hypervisor::Hypervisor;
use crate::locks::{MutexGuard, rank};
use crate::machine::Machine;
use crate::timer;
use crate::vcpu::{Attention, VcpuRef};

/// First x2APIC MSR.
const MSR_FIRST: u32 = 0x800;

impl<M: Machine> Hypervisor<M> {
    /// Reads the xAPIC page. `offset` is a multiple of 4; only the first word of each 16 bytes is a register.
    pub fn apic_mmio_read(&self, vcpu: &VcpuRef<M>, offset: u32) -> u32 {
        if offset & 0xc != 0 {
            return 0;
        }
        let mut lapic = vcpu.lapic.lock();
        let value = lapic.read(offset >> 4, self.machine.now());
        // Reading what is no register may have raised the error interrupt.
        if lapic.deliverable().is_some() {
            vcpu.raise(Attention::LAPIC);
        }
        value
    }

    /// Writes the xAPIC page.
    pub fn apic_mmio_write(&self, vcpu: &VcpuRef<M>, offset: u32, value: u32) {
        if offset & 0xc != 0 {
            return;
        }
        let mut lapic = vcpu.lapic.lock();
        let effect = lapic.write(offset >> 4, value, self.machine.now());
        self.finish_write(vcpu, lapic, effect);
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
                lapic.self_ipi(value as u8);
                Effect::None
            }
            _ => lapic.write(number, value as u32, self.machine.now()),
        };
        self.finish_write(vcpu, lapic, effect);
        Ok(())
    }

    /// What follows a write by the vCPU that runs here. The timer is set under the APIC's lock, so that it always ends
    /// up as the registers say, whichever CPU serves an expiry meanwhile.
    fn finish_write(&self, vcpu: &VcpuRef<M>, lapic: MutexGuard<'_, Lapic, { rank::LAPIC }>, effect: Effect) {
        if let Effect::Timer(deadline) = effect {
            timer::set_lapic_timer(self, vcpu, deadline);
        }
        // The priority may be lower now, or an interrupt has been added.
        let waiting = lapic.deliverable().is_some();
        drop(lapic);
        if waiting {
            vcpu.raise(Attention::LAPIC);
        }
        if let Effect::Ipi(icr) = effect {
            self.send_ipi(vcpu, icr);
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
        let mut lapic = vcpu.lapic.lock();
        let effect = lapic.set_base(value)?;
        self.finish_write(vcpu, lapic, effect);
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
        let mut lapic = vcpu.lapic.lock();
        lapic.set_tpr(tpr);
        self.finish_write(vcpu, lapic, Effect::None);
    }

    /// An interrupt for a vCPU's APIC, from anywhere.
    pub fn lapic_set_irr(&self, vcpu: &VcpuRef<M>, vector: u8) {
        if vcpu.lapic.lock().set_irr(vector) {
            self.announce_interrupt(vcpu);
        }
    }

    fn announce_interrupt(&self, vcpu: &VcpuRef<M>) {
        vcpu.raise(Attention::LAPIC);
        self.notify_vcpu(vcpu);
    }

    /// The time given to [`timer::set_lapic_timer`] has come.
    pub fn lapic_timer_expired(&self, vcpu: &VcpuRef<M>) {
        let mut lapic = vcpu.lapic.lock();
        let (delivered, next) = lapic.timer_expired(self.machine.now());
        if next.is_some() {
            // Under the lock: the guest may be setting another time on its own CPU.
            timer::set_lapic_timer(self, vcpu, next);
        }
        drop(lapic);
        if delivered {
            self.announce_interrupt(vcpu);
        }
    }

    /// The vCPU has been given a state to start from by `VCPUOP_initialise`: start-up IPIs no longer concern it.
    pub fn forget_start_up(&self, vcpu: &VcpuRef<M>) {
        vcpu.lapic.lock().waits_for_sipi = false;
    }
}

fn is_readable(number: u32) -> bool {
    matches!(
        number,
        register::ID
            | register::VERSION
            | register::TPR
            | register::PPR
            | register::LDR
            | register::SVR
            | register::ISR..=0x27
            | register::ESR
            | register::ICR
            | register::LVT_TIMER..=register::CURRENT_COUNT
            | register::DIVIDE
    )
}

/// Whether an x2APIC register can be written with this value: reserved bits fault.
fn is_writable(number: u32, value: u64) -> bool {
    let reserved: u64 = match number {
        register::TPR | register::SELF_IPI => !0xff,
        register::EOI | register::ESR => !0,
        register::SVR => !u64::from(SVR_WRITABLE),
        register::ICR => !(0xffff_ffff_0000_0000 | u64::from(Icr::WRITABLE)),
        register::LVT_TIMER..=register::LVT_ERROR => !0xffff_ffff | u64::from(Lapic::lvt_reserved(number)),
        register::INITIAL_COUNT => !0xffff_ffff,
        register::DIVIDE => !0b1011,
        _ => return false,
    };
    value & reserved == 0
}
