//! The audit of event channels: looks at every port of every domain and says whether the bindings fit together. For
//! tests and debugging, on a machine that stands still: nothing may bind or close meanwhile.

use alloc::format;
use alloc::string::String;

use shared_abi::xen::{Port, VcpuId};

use super::port::Binding;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

impl<M: Machine> Hypervisor<M> {
    /// Checks that the two ends of each inter-domain binding name each other, that virtual interrupts and the ports they
    /// are bound to name each other, that each port signals a vCPU its domain has, and that ports are counted right.
    ///
    /// # Errors
    /// The first contradiction found, in words.
    pub fn audit_events(&self) -> Result<(), String> {
        for domain in self.each_domain() {
            self.audit_ports(&domain).map_err(|what| format!("event channels of {}: {what}", domain.id))?;
        }
        Ok(())
    }

    fn audit_ports(&self, domain: &Domain<M>) -> Result<(), String> {
        let mut bound = 0;
        for number in 0.. {
            let port = Port(number);
            let Some(entry) = domain.events.ports.get(port) else { break };
            let now = entry.load();
            if now.binding() == Binding::Free {
                continue;
            }
            bound += 1;
            if number == 0 {
                return Err("port 0 is bound".into());
            }
            let Some(vcpu) = domain.vcpus.get(now.vcpu().index()) else {
                return Err(format!("port {number} signals vCPU {}, of {}", now.vcpu().0, domain.vcpus.len()));
            };
            match now.binding() {
                Binding::Interdomain(remote, there) => self.audit_pair(domain, port, remote, there)?,
                Binding::Virq(virq) => {
                    let holder = if virq.is_per_vcpu() { vcpu } else { &domain.vcpus[0] };
                    let held = holder.events.virqs[virq.index()].load(core::sync::atomic::Ordering::SeqCst);
                    if held != number {
                        return Err(format!("port {number} has VIRQ {}, which is bound to port {held}", virq.0));
                    }
                }
                Binding::Free | Binding::Unbound(_) | Binding::Ipi => {}
            }
        }
        self.audit_virqs(domain)?;
        let counted = domain.events.book.lock().active;
        if bound != counted {
            return Err(format!("{bound} ports are bound, {counted} counted"));
        }
        Ok(())
    }

    fn audit_pair(
        &self,
        domain: &Domain<M>,
        port: Port,
        remote: shared_abi::xen::DomId,
        there: Port,
    ) -> Result<(), String> {
        let other = self.find_domain(remote).ok_or_else(|| format!("port {} names {remote}, who is gone", port.0))?;
        let binding = other.events.ports.get(there).map(|entry| entry.load().binding());
        if binding == Some(Binding::Interdomain(domain.id, port)) {
            return Ok(());
        }
        Err(format!("port {} names port {} of {remote}, which is {binding:?}", port.0, there.0))
    }

    /// Every bound line of every vCPU leads to a port that has it.
    fn audit_virqs(&self, domain: &Domain<M>) -> Result<(), String> {
        for (index, vcpu) in domain.vcpus.iter().enumerate() {
            for (line, slot) in vcpu.events.virqs.iter().enumerate() {
                let port = Port(slot.load(core::sync::atomic::Ordering::SeqCst));
                if port.0 == 0 {
                    continue;
                }
                let bound = domain.events.ports.get(port).map(|entry| entry.load());
                let fits = bound.is_some_and(|bound| match bound.binding() {
                    Binding::Virq(virq) => {
                        virq.index() == line && (!virq.is_per_vcpu() || bound.vcpu() == VcpuId(index as u32))
                    }
                    _ => false,
                });
                if !fits {
                    return Err(format!("VIRQ {line} of vCPU {index} leads to port {}: {bound:?}", port.0));
                }
            }
        }
        Ok(())
    }
}
