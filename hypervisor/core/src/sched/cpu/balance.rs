//! Which CPU a vCPU waits on, and how one that has nothing to run gets something.
//!
//! Locking: one queue's lock at a time; another CPU's queue is tried, not waited for, when this CPU looks for work.

use core::sync::atomic::{Ordering, fence};

use super::{CpuSched, RunQueue, Taken, take};
use crate::hypervisor::{CpuAttention, Hypervisor, PerCpu};
use crate::locks::{MutexGuard, rank};
use crate::machine::{CpuId, Machine};
use crate::sched::Departure;
use crate::sched::cap::Touched;
use crate::sched::state::Placement;
use crate::vcpu::VcpuRef;

impl<M: Machine> Hypervisor<M> {
    /// Puts a vCPU that has just become [`Placement::Queued`] on a queue.
    pub(super) fn place(&self, vcpu: &VcpuRef<M>, now: u64) {
        let target = self.pick_cpu(vcpu);
        self.enqueue(target, vcpu.clone(), now);
        // A CPU that went idle while we looked did not see our entry unless we see its flag now.
        if self.cpus.len() > 1 {
            fence(Ordering::SeqCst);
            if target.sched.load() > 1
                && let Some(idle) = self.free_cpu_for(vcpu, target.id)
            {
                self.poke(idle, CpuAttention::RESCHEDULE);
            }
        }
    }

    /// After its affinity changed: moves a vCPU that waits where it may not run, and lets a CPU that is free fetch one
    /// that waits. One on its way to a queue at this moment is missed; it moves when it is placed the next time.
    pub(in crate::sched) fn relocate(&self, vcpu: &VcpuRef<M>) {
        let Some(cpu) = self.cpus.get(vcpu.sched.cpu().index()) else { return };
        if vcpu.sched.may_run_on(cpu.id) {
            if vcpu.sched.state().placement() == Placement::Queued
                && let Some(free) = self.free_cpu_for(vcpu, cpu.id)
            {
                self.poke(free, CpuAttention::RESCHEDULE);
            }
            return;
        }
        let now = self.machine.now();
        let mut queue = cpu.sched.queue.lock();
        let Some(index) = queue.waiting.iter().position(|entry| entry.vcpu == *vcpu) else { return };
        if let Some(entry) = queue.waiting.remove(index) {
            let lag = entry.vtime.since(queue.floor);
            vcpu.sched.depart(Departure { vtime: entry.vtime, lag, at: now, rotates: false });
            cpu.sched.publish(&queue);
            drop(queue);
            self.place(&entry.vcpu, now);
        }
    }

    /// Where a vCPU should wait.
    fn pick_cpu(&self, vcpu: &VcpuRef<M>) -> &PerCpu<M> {
        let sched = &vcpu.sched;
        let rotates = sched.take_rotates();
        let home = self.cpus.get(sched.cpu().index()).unwrap_or(&self.cpus[0]);
        if self.cpus.len() == 1 {
            return home;
        }
        let at_home = sched.may_run_on(home.id);
        if at_home && home.sched.is_free() {
            return home;
        }
        if let Some(idle) = self.free_cpu_for(vcpu, home.id) {
            return idle;
        }
        if at_home && !rotates {
            return home;
        }
        let others = self.cpus.iter().filter(|cpu| cpu.id != home.id && sched.may_run_on(cpu.id));
        match others.min_by_key(|cpu| cpu.sched.load()) {
            Some(other) if !at_home || other.sched.load() <= home.sched.load() => other,
            _ => home,
        }
    }

    /// A free CPU that `vcpu` may use, looked for from `start` on.
    fn free_cpu_for(&self, vcpu: &VcpuRef<M>, start: CpuId) -> Option<&PerCpu<M>> {
        let (before, after) = self.cpus.split_at(start.index().min(self.cpus.len()));
        after.iter().chain(before).find(|cpu| cpu.sched.is_free() && vcpu.sched.may_run_on(cpu.id))
    }

    /// Takes a waiting vCPU from the busiest other CPU, to run it here.
    pub(super) fn steal(&self, cpu: &PerCpu<M>, now: u64, touched: &mut Touched) -> Option<VcpuRef<M>> {
        if self.cpus.len() == 1 {
            return None;
        }
        // Our idle flag is up: whoever queues a vCPU from now on sees it, and we see what was queued before.
        fence(Ordering::SeqCst);
        let (before, after) = self.cpus.split_at(cpu.id.index());
        for victim in after.iter().skip(1).chain(before) {
            // What alone is on a CPU runs there or is about to.
            if victim.sched.load() <= 1 {
                continue;
            }
            let Some(queue) = victim.sched.queue.try_lock() else {
                // Somebody works on it; look again once that is done.
                cpu.raise(CpuAttention::RESCHEDULE);
                continue;
            };
            if let Some((stolen, lag)) = self.take_from(&victim.sched, queue, cpu.id, now, touched) {
                let vcpu = stolen.vcpu.clone();
                let mut queue = cpu.sched.queue.lock();
                let lag = self.sched_config.policy.entry_lag(&self.sched_config, lag, 0);
                let vtime = queue.floor.offset(lag);
                queue.install(Taken { vtime, ..stolen }, now);
                cpu.sched.publish(&queue);
                cpu.sched.set_slice(self, &queue, now, true);
                cpu.sched.idle.store(false, Ordering::SeqCst);
                return Some(vcpu);
            }
        }
        None
    }

    /// Takes the first vCPU that may run on `thief` out of another CPU's queue, with its lag there.
    fn take_from(
        &self,
        victim: &CpuSched<M>,
        mut queue: MutexGuard<'_, RunQueue<M>, { rank::RUN_QUEUE }>,
        thief: CpuId,
        now: u64,
        touched: &mut Touched,
    ) -> Option<(Taken<M>, i64)> {
        queue.head();
        loop {
            let index = queue.waiting.iter().position(|entry| entry.vcpu.sched.may_run_on(thief))?;
            let entry = queue.waiting.remove(index)?;
            let lag = entry.vtime.since(queue.floor);
            let taken = take(entry, thief, now, touched);
            victim.publish(&queue);
            if let Some(taken) = taken {
                return Some((taken, lag));
            }
        }
    }
}
