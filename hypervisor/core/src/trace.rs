//! Samples for the trace stream: the ledger, and each domain's figures, at one instant.

use shared_abi::trace_stream::{
    DomainSample, HostSample, Kind, NAME_SIZE, STATE_BLOCKED, STATE_BUILDING, STATE_DYING, STATE_RUNNING,
};
use zerocopy::IntoBytes;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::lifecycle::State;
use crate::machine::Machine;
use crate::sched;

/// A name in the fixed form of trace records.
pub fn name_bytes(name: &str) -> [u8; NAME_SIZE] {
    let mut bytes = [0; NAME_SIZE];
    let length = name.len().min(NAME_SIZE - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

impl<M: Machine> Hypervisor<M> {
    /// Emits a sample of the machine and one of each domain.
    pub fn emit_samples(&self) {
        if self.machine.trace_enabled(Kind::HOST_SAMPLE.0) {
            let ledger = self.heap.ledger();
            let sample = HostSample {
                free: ledger.free,
                scrubbing: ledger.scrubbing,
                domains: ledger.domains,
                hypervisor: ledger.hypervisor,
                claimed: ledger.claimed,
                tmem_ephemeral: ledger.tmem_ephemeral,
                tmem_persistent: ledger.tmem_persistent,
                total: ledger.total,
            };
            self.machine.trace(Kind::HOST_SAMPLE.0, sample.as_bytes());
        }
        if self.machine.trace_enabled(Kind::DOMAIN_SAMPLE.0) {
            let now = self.machine.now();
            for domain in self.each_domain() {
                self.machine.trace(Kind::DOMAIN_SAMPLE.0, sample_of(self, &domain, now).as_bytes());
            }
        }
    }
}

fn sample_of<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, now: u64) -> DomainSample {
    let (runtime_ns, runnable_ns) = sched::domain_times(domain, now);
    let sum = |figure: fn(&crate::Vcpu<M>) -> u64| domain.vcpus.iter().map(figure).sum();
    let state = match domain.lifecycle.state() {
        State::Building => STATE_BUILDING,
        State::Running if domain.sched.wanting() == 0 => STATE_BLOCKED,
        State::Running => STATE_RUNNING,
        State::Ending | State::Gone => STATE_DYING,
    };
    DomainSample {
        domid: domain.id,
        state,
        vcpus: domain.vcpus.iter().filter(|vcpu| vcpu.sched.state().is_up()).count() as u32,
        current: domain.memory.current(),
        maximum: domain.memory.maximum(),
        runtime_ns,
        runnable_ns,
        events: domain.events.sent.load(core::sync::atomic::Ordering::Relaxed),
        hypercalls: sum(|vcpu| vcpu.counters.hypercalls()),
        exits: sum(|vcpu| vcpu.counters.exits()),
        name: name_bytes(&domain.config.name),
        tmem_ephemeral: hv.tmem_frames(domain.id, ebb_tmem::Kind::Ephemeral),
        tmem_persistent: hv.tmem_frames(domain.id, ebb_tmem::Kind::Persistent),
        tables: domain.memory.p2m.read().tables(),
    }
}
