//! One CPU's scheduling: its run queue, the choice of what runs next, and (`balance.rs`) where a vCPU that becomes
//! runnable goes, and (`favour.rs`) who runs out of turn.
//!
//! A queue is ordered by virtual time (see `policy.rs`). A vCPU that becomes runnable goes to the CPU it ran on last
//! if that is idle, else to an idle one it may use, else back to where it was; a CPU that runs out of work takes a
//! waiting vCPU from another, and one whose slice has ended moves on to a CPU that is not busier. That keeps every CPU
//! busy and lets vCPUs that do not divide evenly among the CPUs take turns.
//!
//! Locking: `RunQueue` is under its CPU's `RUN_QUEUE` lock, never two at a time. The state word ([`super::state`])
//! changes without it; an entry whose vCPU may no longer run is dropped when it is met.

mod balance;
mod favour;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use shared_abi::trace;
use shared_abi::trace_stream::{Kind, VcpuSwitch};
use shared_abi::xen::DomId;
use zerocopy::IntoBytes;

use super::Departure;
use super::cap::{self, Funding, Grant, Touched};
use super::heap::{IndexedHeap, Ranked};
use super::policy::VirtualTime;
use super::state::{Change, Placement, Word};
use crate::hypervisor::{CpuAttention, Hypervisor, PerCpu};
use crate::locks::{Mutex, rank};
use crate::machine::{CpuId, Machine};
use crate::vcpu::{Vcpu, VcpuRef};

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
    /// Who runs next, if `current` yields, and it is still here.
    favoured: Option<VcpuRef<M>>,
    /// What `current` may run of its domain's cap, up to `charged_at`; none without a cap.
    grant: Option<Grant>,
}

/// A vCPU out of a queue, for this CPU to run.
struct Taken<M: Machine> {
    vcpu: VcpuRef<M>,
    vtime: VirtualTime,
    grant: Option<Grant>,
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
    /// When what runs has used up its grant. Written under the lock.
    grant_end: AtomicU64,
}

impl<M: Machine> RunQueue<M> {
    /// Brings the virtual time of what runs up to `now`.
    fn charge(&mut self, hv: &Hypervisor<M>, now: u64) {
        if let Some(current) = &self.current {
            let ran = now.saturating_sub(self.charged_at);
            let domain = &current.domain().sched;
            let charge = hv.sched_config.policy.charge(ran, domain.weight(), domain.wanting());
            self.vtime = VirtualTime(self.vtime.0.wrapping_add(charge));
            self.grant = self.grant.map(|grant| grant.after(ran));
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
    fn take_first(&mut self, cpu: CpuId, now: u64, touched: &mut Touched) -> Option<Taken<M>> {
        while let Some(entry) = self.waiting.pop() {
            if let Some(taken) = take(entry, cpu, now, touched) {
                return Some(taken);
            }
        }
        None
    }

    /// Makes a vCPU what runs here.
    fn install(&mut self, taken: Taken<M>, now: u64) {
        self.current = Some(taken.vcpu);
        self.vtime = taken.vtime;
        self.grant = taken.grant;
        self.charged_at = now;
        self.chosen_at = now;
        self.raise_floor();
    }

    /// Gives back what is left of the grant for what runs here.
    fn settle(&mut self, touched: &mut Touched) {
        if let Some(grant) = self.grant.take()
            && let Some(current) = &self.current
        {
            cap::give_back(current, grant, touched);
        }
    }

    /// Whether what runs here can pay for going on, by its domain's cap. If not, it has been parked.
    fn can_pay(&mut self, now: u64, touched: &mut Touched) -> bool {
        let Some(current) = &self.current else { return false };
        self.grant = match cap::fund(current, now, touched) {
            Funding::Uncapped => None,
            Funding::Granted(grant) => Some(grant),
            Funding::Parked => return false,
        };
        true
    }
}

/// Claims a vCPU taken out of a queue for `cpu`, unless it may no longer run, or not now because of a cap.
fn take<M: Machine>(entry: Waiting<M>, cpu: CpuId, now: u64, touched: &mut Touched) -> Option<Taken<M>> {
    let Waiting { vtime, vcpu, .. } = entry;
    let sched = &vcpu.sched;
    // Before the word says Running: whoever sees that may kick the CPU named here.
    sched.set_cpu(cpu);
    let grant = match cap::fund(&vcpu, now, touched) {
        Funding::Uncapped => None,
        Funding::Granted(grant) => Some(grant),
        // Should it have been released already, it asks again at once.
        Funding::Parked => Some(Grant::NONE),
    };
    let change = sched.word.update(Word::take);
    vcpu.account(change);
    if change.after.placement() == Placement::Running {
        return Some(Taken { vcpu, vtime, grant });
    }
    if let Some(grant) = grant {
        cap::give_back(&vcpu, grant, touched);
    }
    None
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
                favoured: None,
                grant: None,
            }),
            load: AtomicU32::new(0),
            idle: AtomicBool::new(true),
            slice_end: AtomicU64::new(NO_DEADLINE),
            grant_end: AtomicU64::new(NO_DEADLINE),
        }
    }

    /// When the current slice ends (nanoseconds), or [`u64::MAX`].
    fn slice_end(&self) -> u64 {
        self.slice_end.load(Ordering::Relaxed)
    }

    /// When this CPU must choose again (nanoseconds), or [`u64::MAX`]: the current slice ends, or the grant of a capped
    /// domain.
    pub(crate) fn choice_due(&self) -> u64 {
        self.slice_end().min(self.grant_end.load(Ordering::Relaxed))
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
        let grant_end = queue.grant.map_or(NO_DEADLINE, |grant| grant.end(queue.charged_at));
        self.grant_end.store(grant_end, Ordering::Relaxed);
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
        let mut touched = Touched::default();
        let choice = self.choose(cpu, &mut queue, now, &mut touched);
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
                let next = next.or_else(|| self.steal(cpu, now, &mut touched));
                if let Some(next) = &next {
                    self.refresh_runstate(next, next, now);
                }
                self.trace_switch(previous.as_ref(), next.as_ref());
                next
            }
        };
        if let Some(vcpu) = &next {
            super::end_poll(self, vcpu);
        }
        touched.release(self, now);
        self.rearm_timer(cpu);
        next
    }

    /// The choice itself.
    fn choose(&self, cpu: &PerCpu<M>, queue: &mut RunQueue<M>, now: u64, touched: &mut Touched) -> Choice<M> {
        let slice_end = cpu.sched.slice_end();
        queue.settle(touched);
        let current = queue.current.as_deref();
        let word = current.map(|current| current.sched.word.load());
        let at_home = current.is_some_and(|current| current.sched.may_run_on(cpu.id));
        let may_stay = at_home && word.is_some_and(Word::is_runnable);
        let leaves = !may_stay || word.is_some_and(|word| queue.gives_way(self, word, slice_end, now));
        let mut next = None;
        if leaves {
            next = queue.take_favoured(cpu.id, now, touched).or_else(|| queue.take_first(cpu.id, now, touched));
        }
        if next.is_none() && may_stay {
            if queue.can_pay(now, touched) {
                return self.stay(cpu, queue, now);
            }
            next = queue.take_first(cpu.id, now, touched);
        }
        let previous = queue.current.take();
        let (vtime, chosen_at) = (queue.vtime, queue.chosen_at);
        let chosen = next.map(|taken| {
            let vcpu = taken.vcpu.clone();
            queue.install(taken, now);
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

    /// The choice to go on with what runs.
    fn stay(&self, cpu: &PerCpu<M>, queue: &mut RunQueue<M>, now: u64) -> Choice<M> {
        cpu.sched.set_slice(self, queue, now, false);
        queue.raise_floor();
        queue.favoured = None;
        match &queue.current {
            Some(current) => Choice::Stay(current.clone()),
            None => Choice::Switch(None, None),
        }
    }

    /// A vCPU stops running here. From now on its context is the only thing that ties it to this CPU.
    fn leave(&self, vcpu: &VcpuRef<M>, now: u64) {
        let state: &Vcpu<M> = vcpu;
        let change = state.sched.word.update(Word::leave);
        vcpu.account(change);
        self.refresh_runstate(vcpu, state, now);
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
        let state: &Vcpu<M> = vcpu;
        let change = state.sched.word.update(step);
        if change.before == change.after {
            return change;
        }
        vcpu.account(change);
        if self.trace_buffers.are_on() && change.before.is_blocked() && !change.after.is_blocked() {
            self.record_vcpu(trace::SCHED_WAKE, vcpu);
        }
        let now = self.machine.now();
        self.refresh_runstate(vcpu, state, now);
        if change.must_enqueue() {
            self.place(vcpu, now);
        }
        change
    }

    /// Brings the runstate of `vcpu`, whose state is `state`, in line with its word.
    #[inline]
    fn refresh_runstate(&self, vcpu: &VcpuRef<M>, state: &Vcpu<M>, now: u64) {
        if self.trace_buffers.are_on() {
            self.record_runstate(vcpu, now);
        } else {
            state.runstate.refresh(&self.machine, &state.sched, now);
        }
    }

    /// Puts a vCPU on `cpu`'s queue and makes that CPU look, if it must.
    fn enqueue(&self, cpu: &PerCpu<M>, vcpu: VcpuRef<M>, now: u64) {
        let config = &self.sched_config;
        let sched = &cpu.sched;
        let mut queue = sched.queue.lock();
        queue.charge(self, now);
        queue.raise_floor();
        let whom = &vcpu.sched;
        let left = whom.departure();
        let away = now.saturating_sub(left.at);
        let lag = if whom.cpu() == cpu.id {
            config.policy.entry_lag(config, left.lag, away)
        } else {
            config.policy.migration_lag(config, left.vtime.since(queue.floor), left.lag, away)
        };
        let vtime = queue.floor.offset(lag);
        let sequence = queue.sequence;
        queue.sequence += 1;
        whom.set_cpu(cpu.id);
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

    /// Ends the slice on this CPU if its time is up, or the grant's. Part of the timer's work.
    pub(crate) fn check_slice(&self, cpu: &PerCpu<M>, now: u64) {
        if now >= cpu.sched.choice_due() {
            cpu.raise(CpuAttention::RESCHEDULE);
        }
    }

    /// Makes `vcpu` let others go first, if others wait on this CPU.
    pub(super) fn yield_here(&self, vcpu: &VcpuRef<M>) {
        self.record_vcpu(trace::SCHED_YIELD, vcpu);
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
        if self.trace_buffers.are_on() {
            self.record_switch(previous, next);
        }
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
