//! A directed yield: one vCPU that waits runs next, out of its turn.

use super::{RunQueue, Taken, take};
use crate::hypervisor::{CpuAttention, Hypervisor, PerCpu};
use crate::machine::{CpuId, Machine};
use crate::sched::Departure;
use crate::sched::cap::Touched;
use crate::sched::state::{Placement, Word};
use crate::vcpu::VcpuRef;

impl<M: Machine> RunQueue<M> {
    /// Names a vCPU to be next, if it waits here and is at most `lead` of virtual time ahead of the first. Without that
    /// bound a domain could have one vCPU do the work and others hand their turns to it, and get more than its share.
    fn name_next(&mut self, vcpu: &VcpuRef<M>, lead: u64) -> bool {
        let Some(head) = self.head() else { return false };
        let Some(entry) = self.waiting.iter().find(|entry| entry.vcpu == *vcpu) else { return false };
        if entry.vtime.since(head) > lead.cast_signed() {
            return false;
        }
        self.favoured = Some(vcpu.clone());
        true
    }

    /// Takes the vCPU that was named to be next out of the queue, if one was and it is still there.
    pub(super) fn take_favoured(&mut self, cpu: CpuId, now: u64, touched: &mut Touched) -> Option<Taken<M>> {
        let favoured = self.favoured.take()?;
        let index = self.waiting.iter().position(|entry| entry.vcpu == favoured)?;
        let entry = self.waiting.remove(index)?;
        take(entry, cpu, now, touched)
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Makes `current`, which runs here, give way to `sibling`, if that waits for a CPU, may use this one, and is not far
    /// ahead of who waits here. Its virtual time stays what it is.
    pub(in crate::sched) fn favour(&self, current: &VcpuRef<M>, sibling: &VcpuRef<M>) -> bool {
        let cpu = self.cpu();
        let word = sibling.sched.state();
        if sibling == current || word.placement() != Placement::Queued || !word.is_runnable() {
            return false;
        }
        if !sibling.sched.may_run_on(cpu.id) || sibling.sched.cpu() != cpu.id && !self.fetch(cpu, sibling) {
            return false;
        }
        let config = &self.sched_config;
        let domain = &sibling.domain().sched;
        let slice = config.policy.charge(config.timeslice_ns, domain.weight(), domain.wanting());
        if !cpu.sched.queue.lock().name_next(sibling, slice) {
            return false;
        }
        current.sched.word.update(Word::yielded);
        cpu.raise(CpuAttention::RESCHEDULE);
        true
    }

    /// Brings a vCPU from another CPU's queue to this one's. False when it is not there any more, or somebody works on
    /// that queue.
    fn fetch(&self, cpu: &PerCpu<M>, vcpu: &VcpuRef<M>) -> bool {
        let Some(other) = self.cpus.get(vcpu.sched.cpu().index()) else { return false };
        let Some(mut queue) = other.sched.queue.try_lock() else { return false };
        let Some(index) = queue.waiting.iter().position(|entry| entry.vcpu == *vcpu) else { return false };
        let Some(entry) = queue.waiting.remove(index) else { return false };
        let lag = entry.vtime.since(queue.floor);
        other.sched.publish(&queue);
        drop(queue);
        let now = self.machine.now();
        vcpu.sched.depart(Departure { vtime: entry.vtime, lag, at: now, rotates: false });
        self.enqueue(cpu, entry.vcpu, now);
        true
    }
}
