//! The state of all domains as text, for a panic report or an NMI: what each vCPU does and waits for.
//!
//! Written where anything may be wrong, so it takes no lock that it cannot have at once.

use core::fmt;

use crate::evtchn;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::timer::Kind;

impl<M: Machine> Hypervisor<M> {
    /// Calls `line` with a line for each CPU, each domain and each of its vCPUs.
    pub fn describe(&self, line: &mut dyn FnMut(fmt::Arguments<'_>)) {
        let now = self.machine.now();
        line(format_args!("time {now} ns"));
        for cpu in &self.cpus {
            line(format_args!("cpu {}: {:?}, idle {}", cpu.id.0, cpu.attention(), cpu.sched.is_idle()));
        }
        for domain in self.each_domain_now() {
            line(format_args!(
                "domain {} ({}): {:?}, {} of {} pages, {} events",
                domain.id.0,
                domain.config.name,
                domain.lifecycle.state(),
                domain.memory.current(),
                domain.memory.maximum(),
                domain.events.sent.load(core::sync::atomic::Ordering::Relaxed)
            ));
            for vcpu in domain.vcpus.iter() {
                let timer = |kind| vcpu.timers.deadline(kind).unwrap_or(0);
                line(format_args!(
                    "  vcpu {}: {:?} on cpu {}, {:?}, upcall {}, {} exits, timers {} {} {} {}",
                    vcpu.id.0,
                    vcpu.sched.state(),
                    vcpu.sched.cpu().0,
                    vcpu.attention(),
                    evtchn::upcall_pending(self, vcpu),
                    vcpu.counters.exits(),
                    timer(Kind::Singleshot),
                    timer(Kind::Periodic),
                    timer(Kind::Poll),
                    timer(Kind::Lapic)
                ));
            }
        }
    }
}
