//! One CPU's scheduling: its run queue, the choice of what runs next, and where a vCPU that becomes runnable goes.
//!
//! A queue is ordered by virtual time (see `policy.rs`). A vCPU that becomes runnable goes to the CPU it ran on last
//! if that is idle, else to an idle one it may use, else back to where it was; a CPU that runs out of work takes a
//! waiting vCPU from another, and one whose slice has ended moves on to a CPU that is not busier. That keeps every CPU
//! busy and lets vCPUs that do not divide evenly among the CPUs take turns.
//!
//! Locking: `RunQueue` is under its CPU's `RUN_QUEUE` lock, never two at a time. The state word ([`super::state`])
//! changes without it; an entry whose vCPU may no longer run is dropped when it is met.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use shared_abi::trace_stream::{Kind, VcpuSwitch};
use shared_abi::xen::DomId;
use zerocopy::IntoBytes;

use super::Departure;
use super::heap::{IndexedHeap, Ranked};
use super::policy::VirtualTime;
use super::state::{Change, Placement, Word};
use crate::hypervisor::{CpuAttention, Hypervisor, PerCpu};
use crate::locks::{Mutex, MutexGuard, rank};
use crate::machine::{CpuId, Machine};
use crate::vcpu::VcpuRef;

/// No slice runs: nothing waits.
pub(crate) const NO_DEADLINE: u64 = u64::MAX;

/// A vCPU that waits for its turn.
struct Waiting<M: Machine> {
    vtime: VirtualTime,
    /// Orders equals by arrival.
    sequence: u64,
    vcpu: VcpuRef<M>,
}

impl<M: Machine> Ranked for Waiting<M> {
    fn precedes(&self, other: &Self) -> bool {
        match self.vtime.since(other.vtime) {
            0 => self.sequence < other.sequence,
            lead => lead < 0,
        }
    }
}

/// What a CPU's `RUN_QUEUE` lock protects.
struct RunQueue<M: Machine> {
    waiting: IndexedHeap<Waiting<M>>,
    sequence: u64,
    /// No vCPU here is behind this by more than its credit. Never goes back.
    floor: VirtualTime,
    current: Option<VcpuRef<M>>,
    /// Virtual time of `current`, up to `charged_at`.
    vtime: VirtualTime,
    charged_at: u64,
    /// When `current` was chosen over another.
    chosen_at: u64,
}

/// The scheduler's part of a physical CPU.
pub struct CpuSched<M: Machine> {
    queue: Mutex<RunQueue<M>, { rank::RUN_QUEUE }>,
    /// vCPUs that run or wait here. Written under the lock, read anywhere as a hint.
    load: AtomicU32,
    /// Nothing runs here. Written by this CPU.
    idle: AtomicBool,
    /// When the current slice ends. Written under the lock.
    slice_end: AtomicU64,
}

impl<M: Machine> RunQueue<M> {
    /// Brings the virtual time of what runs up to `now`.
    fn charge(&mut self, hv: &Hypervisor<M>, now: u64) {
        if let Some(current) = &self.current {
            let ran = now.saturating_sub(self.charged_at);
            let domain = &current.domain().sched;
            let charge = hv.sched_config.policy.charge(ran, domain.weight(), domain.wanting());
            self.vtime = VirtualTime(self.vtime.0.wrapping_add(charge));
        }
        self.charged_at = now;
    }

    /// Advances the floor to the least virtual time here.
    fn raise_floor(&mut self) {
        let head = self.waiting.peek().map(|entry| entry.vtime);
        let running = self.current.is_some().then_some(self.vtime);
        let least = match (head, running) {
            (Some(head), Some(running)) if running.precedes(head) => running,
            (Some(head), _) => head,
            (None, Some(running)) => running,
            (None, None) => return,
        };
        self.floor = self.floor.later(least);
    }

    /// Drops entries at the head that may no longer run, and says where the head then is.
    fn head(&mut self) -> Option<VirtualTime> {
        while let Some(entry) = self.waiting.peek() {
            let change = entry.vcpu.sched.word.update(Word::prune);
            if change.after.placement() == Placement::Queued {
                return Some(entry.vtime);
            }
            entry.vcpu.account(change);
            self.waiting.pop();
        }
        None
    }

    /// Whether what runs must give way to the head.
    fn gives_way(&mut self, hv: &Hypervisor<M>, word: Word, slice_end: u64, now: u64) -> bool {
        let Some(head) = self.head() else { return false };
        if word.has_yielded() {
            return true;
        }
        if now >= slice_end {
            return !self.vtime.precedes(head);
        }
        now.saturating_sub(self.chosen_at) >= hv.sched_config.ratelimit_ns
            && hv.sched_config.policy.preempts(&hv.sched_config, head, self.vtime)
    }

    /// Takes the first vCPU that may run out of the queue; it is then `cpu`'s to run.
    fn take_first(&mut self, cpu: CpuId) -> Option<(VcpuRef<M>, VirtualTime)> {
        while let Some(entry) = self.waiting.pop() {
            if let Some(taken) = take(entry, cpu) {
                return Some(taken);
            }
        }
        None
    }

    /// Makes `vcpu` what runs here.
    fn install(&mut self, vcpu: VcpuRef<M>, vtime: VirtualTime, now: u64) {
        self.current = Some(vcpu);
        self.vtime = vtime;
        self.charged_at = now;
        self.chosen_at = now;
        self.raise_floor();
    }
}

/// Claims a vCPU taken out of a queue for `cpu`, unless it may no longer run.
fn take<M: Machine>(entry: Waiting<M>, cpu: CpuId) -> Option<(VcpuRef<M>, VirtualTime)> {
    let sched = &entry.vcpu.sched;
    // Before the word says Running: whoever sees that may kick the CPU named here.
    sched.set_cpu(cpu);
    let change = sched.word.update(Word::take);
    entry.vcpu.account(change);
    (change.after.placement() == Placement::Running).then_some((entry.vcpu, entry.vtime))
}

impl<M: Machine> VcpuRef<M> {
    /// Keeps the domain's count of vCPUs that want a CPU in step with a change of the word.
    pub(super) fn account(&self, change: Change) {
        self.domain().sched.account(change.wanting());
    }
}

impl<M: Machine> CpuSched<M> {
    /// A CPU with nothing to run.
    pub fn new(_id: CpuId) -> Self {
        Self {
            queue: Mutex::new(RunQueue {
                waiting: IndexedHeap::new(),
                sequence: 0,
                floor: VirtualTime(0),
                current: None,
                vtime: VirtualTime(0),
                charged_at: 0,
                chosen_at: 0,
            }),
            load: AtomicU32::new(0),
            idle: AtomicBool::new(true),
            slice_end: AtomicU64::new(NO_DEADLINE),
        }
    }

    /// When the current slice ends (nanoseconds), or [`u64::MAX`].
    pub(crate) fn slice_end(&self) -> u64 {
        self.slice_end.load(Ordering::Relaxed)
    }

    /// Whether nothing runs here.
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    /// Whether a vCPU put here would run at once: nothing runs and nothing waits.
    fn is_free(&self) -> bool {
        self.is_idle() && self.load() == 0
    }

    /// vCPUs that run or wait here: a hint.
    pub fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }

    /// Makes room for `total` waiting vCPUs. False when memory is short.
    pub(super) fn reserve(&self, total: usize) -> bool {
        self.queue.lock().waiting.reserve(total)
    }

    /// Publishes what other CPUs look at without the lock.
    fn publish(&self, queue: &RunQueue<M>) {
        let running = u32::from(queue.current.is_some());
        self.load.store(queue.waiting.len() as u32 + running, Ordering::Relaxed);
    }

    /// Chooses when the slice that runs now must end.
    fn set_slice(&self, hv: &Hypervisor<M>, queue: &RunQueue<M>, now: u64, fresh: bool) {
        let end = if queue.current.is_none() || queue.waiting.is_empty() {
            NO_DEADLINE
        } else {
            let running = self.slice_end();
            if fresh || running <= now || running == NO_DEADLINE { now + hv.sched_config.timeslice_ns } else { running }
        };
        self.slice_end.store(end, Ordering::Relaxed);
    }
}

/// What [`Hypervisor::schedule`] decided under the lock.
enum Choice<M: Machine> {
    /// Go on with the same.
    Stay(VcpuRef<M>),
    /// The first leaves, the second runs.
    Switch(Option<VcpuRef<M>>, Option<VcpuRef<M>>),
}

impl<M: Machine> Hypervisor<M> {
    /// The vCPU this CPU has chosen to run, if any.
    pub fn current(&self) -> Option<VcpuRef<M>> {
        self.cpu().sched.queue.lock().current.clone()
    }

    /// Whether this CPU, which runs `current`, must call [`Hypervisor::schedule`] before it enters the guest again.
    pub fn must_schedule(&self, current: &VcpuRef<M>) -> bool {
        self.cpu().attention().contains(CpuAttention::RESCHEDULE) || !current.sched.word.load().is_runnable()
    }

    /// Chooses what this CPU runs next; `None`: nothing. See the module's contract.
    pub fn schedule(&self) -> Option<VcpuRef<M>> {
        let cpu = self.cpu();
        let now = self.machine.now();
        cpu.withdraw(CpuAttention::RESCHEDULE);
        let mut queue = cpu.sched.queue.lock();
        queue.charge(self, now);
        let choice = self.choose(cpu, &mut queue, now);
        cpu.sched.publish(&queue);
        cpu.sched.idle.store(queue.current.is_none(), Ordering::SeqCst);
        drop(queue);
        let next = match choice {
            Choice::Stay(vcpu) => {
                vcpu.sched.word.update(Word::stay);
                Some(vcpu)
            }
            Choice::Switch(previous, next) => {
                if let Some(previous) = &previous {
                    self.leave(previous, now);
                }
                let next = next.or_else(|| self.steal(cpu, now));
                if let Some(next) = &next {
                    next.runstate.refresh(&self.machine, &next.sched, now);
                }
                self.trace_switch(previous.as_ref(), next.as_ref());
                next
            }
        };
        if let Some(vcpu) = &next {
            super::end_poll(self, vcpu);
        }
        self.rearm_timer(cpu);
        next
    }

    /// The choice itself.
    fn choose(&self, cpu: &PerCpu<M>, queue: &mut RunQueue<M>, now: u64) -> Choice<M> {
        let slice_end = cpu.sched.slice_end();
        let word = queue.current.as_ref().map(|current| current.sched.word.load());
        let at_home = queue.current.as_ref().is_some_and(|current| current.sched.may_run_on(cpu.id));
        let may_stay = at_home && word.is_some_and(Word::is_runnable);
        let next = match word {
            Some(word) if may_stay && !queue.gives_way(self, word, slice_end, now) => None,
            _ => queue.take_first(cpu.id),
        };
        if next.is_none() && may_stay {
            cpu.sched.set_slice(self, queue, now, false);
            queue.raise_floor();
            if let Some(current) = &queue.current {
                return Choice::Stay(current.clone());
            }
        }
        let previous = queue.current.take();
        let (vtime, chosen_at) = (queue.vtime, queue.chosen_at);
        let chosen = next.map(|(vcpu, vtime)| {
            queue.install(vcpu.clone(), vtime, now);
            vcpu
        });
        if let Some(previous) = &previous {
            let departure = Departure {
                vtime,
                // Against the floor as it is without it, to which it will come back.
                lag: vtime.since(queue.floor),
                at: now,
                rotates: now.saturating_sub(chosen_at) >= self.sched_config.timeslice_ns,
            };
            previous.sched.depart(departure);
        }
        cpu.sched.set_slice(self, queue, now, true);
        Choice::Switch(previous, chosen)
    }

    /// A vCPU stops running here. From now on its context is the only thing that ties it to this CPU.
    fn leave(&self, vcpu: &VcpuRef<M>, now: u64) {
        let change = vcpu.sched.word.update(Word::leave);
        vcpu.account(change);
        vcpu.runstate.refresh(&self.machine, &vcpu.sched, now);
        if change.must_enqueue() {
            self.place(vcpu, now);
        }
    }

    /// The machine has saved `vcpu`'s context and holds no part of it any more: another CPU may run it.
    pub fn context_saved(&self, vcpu: &VcpuRef<M>) {
        let change = vcpu.sched.word.update(Word::saved);
        vcpu.account(change);
        if change.must_enqueue() {
            self.place(vcpu, self.machine.now());
        }
    }

    /// Applies a step to a vCPU's word, and queues it if that made it runnable.
    pub(super) fn step(&self, vcpu: &VcpuRef<M>, step: impl Fn(Word) -> Word) -> Change {
        let change = vcpu.sched.word.update(step);
        if change.before == change.after {
            return change;
        }
        vcpu.account(change);
        let now = self.machine.now();
        vcpu.runstate.refresh(&self.machine, &vcpu.sched, now);
        if change.must_enqueue() {
            self.place(vcpu, now);
        }
        change
    }

    /// Puts a vCPU that has just become [`Placement::Queued`] on a queue.
    fn place(&self, vcpu: &VcpuRef<M>, now: u64) {
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
    pub(super) fn relocate(&self, vcpu: &VcpuRef<M>) {
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

    /// Puts a vCPU on `cpu`'s queue and makes that CPU look, if it must.
    fn enqueue(&self, cpu: &PerCpu<M>, vcpu: VcpuRef<M>, now: u64) {
        let config = &self.sched_config;
        let sched = &cpu.sched;
        let mut queue = sched.queue.lock();
        queue.charge(self, now);
        queue.raise_floor();
        let left = vcpu.sched.departure();
        let away = now.saturating_sub(left.at);
        let lag = if vcpu.sched.cpu() == cpu.id {
            config.policy.entry_lag(config, left.lag, away)
        } else {
            config.policy.migration_lag(config, left.vtime.since(queue.floor), left.lag, away)
        };
        let vtime = queue.floor.offset(lag);
        let sequence = queue.sequence;
        queue.sequence += 1;
        vcpu.sched.set_cpu(cpu.id);
        queue.waiting.push(Waiting { vtime, sequence, vcpu });
        sched.publish(&queue);
        let reason = self.reason_to_look(sched, &queue, vtime, now);
        drop(queue);
        if reason == CpuAttention::TIMER && cpu.id == self.machine.this_cpu() {
            self.rearm_timer(cpu);
        } else if !reason.is_empty() {
            self.poke(cpu, reason);
        }
    }

    /// What a CPU must do about a newcomer at `vtime`: choose again, set its timer for a slice that ends earlier, or
    /// nothing.
    fn reason_to_look(&self, sched: &CpuSched<M>, queue: &RunQueue<M>, vtime: VirtualTime, now: u64) -> CpuAttention {
        let config = &self.sched_config;
        let Some(current) = &queue.current else { return CpuAttention::RESCHEDULE };
        if !current.sched.word.load().is_runnable() {
            return CpuAttention::RESCHEDULE;
        }
        let mut end = sched.slice_end();
        if end == NO_DEADLINE {
            end = queue.chosen_at + config.timeslice_ns;
        }
        if config.policy.preempts(config, vtime, queue.vtime) {
            end = end.min(queue.chosen_at + config.ratelimit_ns);
        }
        if end <= now {
            // The slice counts as ended: the choice then goes by virtual time alone.
            sched.slice_end.store(now, Ordering::Relaxed);
            CpuAttention::RESCHEDULE
        } else if end != sched.slice_end() {
            sched.slice_end.store(end, Ordering::Relaxed);
            CpuAttention::TIMER
        } else {
            CpuAttention::empty()
        }
    }

    /// Notes reasons for a CPU and makes it look, if it is another one.
    pub(crate) fn poke(&self, cpu: &PerCpu<M>, reasons: CpuAttention) {
        cpu.raise(reasons);
        if cpu.id != self.machine.this_cpu() {
            self.machine.kick(cpu.id);
        }
    }

    /// Takes a waiting vCPU from the busiest other CPU, to run it here.
    fn steal(&self, cpu: &PerCpu<M>, now: u64) -> Option<VcpuRef<M>> {
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
            if let Some(stolen) = self.take_from(&victim.sched, queue, cpu.id) {
                let (vcpu, lag) = stolen;
                let mut queue = cpu.sched.queue.lock();
                let lag = self.sched_config.policy.entry_lag(&self.sched_config, lag, 0);
                let vtime = queue.floor.offset(lag);
                queue.install(vcpu.clone(), vtime, now);
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
    ) -> Option<(VcpuRef<M>, i64)> {
        queue.head();
        loop {
            let index = queue.waiting.iter().position(|entry| entry.vcpu.sched.may_run_on(thief))?;
            let entry = queue.waiting.remove(index)?;
            let lag = entry.vtime.since(queue.floor);
            let taken = take(entry, thief);
            victim.publish(&queue);
            if let Some((vcpu, _)) = taken {
                return Some((vcpu, lag));
            }
        }
    }

    /// Ends the slice on this CPU if its time is up. Part of the timer's work.
    pub(crate) fn check_slice(&self, cpu: &PerCpu<M>, now: u64) {
        if now >= cpu.sched.slice_end() {
            cpu.raise(CpuAttention::RESCHEDULE);
        }
    }

    /// Makes `vcpu` let others go first, if others wait on this CPU.
    pub(super) fn yield_here(&self, vcpu: &VcpuRef<M>) {
        let cpu = self.cpu();
        if cpu.sched.load() > 1 {
            vcpu.sched.word.update(Word::yielded);
            cpu.raise(CpuAttention::RESCHEDULE);
        } else {
            // Who yields usually waits for another vCPU, on another CPU: a sibling thread of this core, or, where an
            // emulator runs all CPUs in turns, the next one.
            self.machine.relax();
        }
    }

    fn trace_switch(&self, previous: Option<&VcpuRef<M>>, next: Option<&VcpuRef<M>>) {
        if !self.machine.trace_enabled(Kind::VCPU_SWITCH.0) {
            return;
        }
        let name = |vcpu: Option<&VcpuRef<M>>| match vcpu {
            Some(vcpu) => (vcpu.domain().id, vcpu.id.0 as u16),
            None => (DomId::IDLE, 0),
        };
        let (prev_domid, prev_vcpu) = name(previous);
        let (next_domid, next_vcpu) = name(next);
        let record = VcpuSwitch { prev_domid, prev_vcpu, next_domid, next_vcpu };
        self.machine.trace(Kind::VCPU_SWITCH.0, record.as_bytes());
    }
}
