//! Kernel threads: cooperative, each on its own stack with a guard page, one run queue for all vCPUs.
//!
//! The scheduler's lock is held across a switch and released by whoever runs next, so that no other vCPU can pick a
//! thread up before its stack pointer is saved. A wake-up before the sleep is remembered in the thread's token.
//!
//! Locking: `SCHEDULER` is a leaf but for the timer's hypercall. Interrupt handlers take it.
#![allow(unsafe_code)] // Stacks and switching between them.

use crate::lock::{Guard, IrqLock};
use crate::percpu::{self, MAX_CPUS};
use crate::{clock, cpu, events, idle, mutex, page, paging, timer};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb_guest_logic::frames::BLOCK_ORDER;
use ebb_guest_logic::queue::{RunQueue, Sleepers};
use shared_abi::xen::PAGE_SIZE;

/// Threads there can be at one time.
pub const MAX_THREADS: usize = 48;
/// Bytes of a stack, its guard page included.
const STACK: u64 = 32 * 1024;
/// `percpu.current` while no thread runs.
pub const IDLE: u32 = u32::MAX;

type Entry = Box<dyn FnOnce() + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Runnable,
    Running,
    Parked,
}

struct Thread {
    state: State,
    generation: u32,
    stack_pointer: u64,
    pinned: Option<u16>,
    /// An unpark that came before the park.
    token: bool,
    entry: Option<Entry>,
    name: &'static str,
    joiner: Option<ThreadId>,
}

struct Scheduler {
    threads: [Thread; MAX_THREADS],
    run: RunQueue<MAX_THREADS>,
    sleepers: Sleepers<MAX_THREADS>,
    /// Lowest address of the stacks: first those of threads, then those of other vCPUs' idle contexts.
    stacks: u64,
}

static SCHEDULER: IrqLock<Scheduler> = IrqLock::new(Scheduler {
    threads: [const {
        Thread {
            state: State::Free,
            generation: 0,
            stack_pointer: 0,
            pinned: None,
            token: false,
            entry: None,
            name: "",
            joiner: None,
        }
    }; MAX_THREADS],
    run: RunQueue::new(),
    sleepers: Sleepers::new(),
    stacks: 0,
});

/// vCPUs that wait without work, and that nobody has kicked yet.
static IDLE_CPUS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn switch_stack(save: *mut u64, load: u64);
    fn thread_start();
}

/// A thread, for as long as it lives: a later one in its slot has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId {
    slot: u16,
    generation: u32,
}

impl ThreadId {
    /// As a number that is not 0.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot) << 1 | 1
    }

    /// Back from the number; `None` from 0.
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits & 1 == 1).then_some(Self { slot: (bits >> 1 & 0x7FFF) as u16, generation: (bits >> 32) as u32 })
    }
}

/// Waits for a thread's end.
#[derive(Debug)]
#[must_use]
pub struct JoinHandle(ThreadId);

impl JoinHandle {
    /// The thread.
    pub fn id(&self) -> ThreadId {
        self.0
    }

    /// Has it ended?
    pub fn is_finished(&self) -> bool {
        !SCHEDULER.lock().is_alive(self.0)
    }

    /// Waits until it has ended.
    pub fn join(self) {
        let waiter = current();
        loop {
            let mut scheduler = SCHEDULER.lock();
            if !scheduler.is_alive(self.0) {
                return;
            }
            scheduler.threads[usize::from(self.0.slot)].joiner = Some(waiter);
            drop(scheduler);
            park_until(u64::MAX);
        }
    }
}

impl Scheduler {
    fn is_alive(&self, id: ThreadId) -> bool {
        let thread = &self.threads[usize::from(id.slot)];
        thread.generation == id.generation && thread.state != State::Free
    }

    /// Queues a parked thread; where it may run.
    fn make_runnable(&mut self, slot: u16) -> Option<u16> {
        let thread = &mut self.threads[usize::from(slot)];
        thread.state = State::Runnable;
        let pinned = thread.pinned;
        self.run.push(slot, pinned);
        pinned
    }

    fn unpark(&mut self, id: ThreadId) -> Option<Option<u16>> {
        if !self.is_alive(id) {
            return None;
        }
        let thread = &mut self.threads[usize::from(id.slot)];
        thread.token = true;
        if thread.state != State::Parked {
            return None;
        }
        self.sleepers.remove(id.slot);
        Some(self.make_runnable(id.slot))
    }
}

/// Reserves the stacks, with their guard pages.
pub fn init() -> Result<(), &'static str> {
    const { assert!(MAX_THREADS + MAX_CPUS <= ((PAGE_SIZE << BLOCK_ORDER) / STACK) as usize) };
    let stacks = page::take(BLOCK_ORDER).ok_or("no memory for stacks")? * PAGE_SIZE;
    for index in 0..(MAX_THREADS + MAX_CPUS) as u64 {
        // SAFETY: the extent was just taken; the lowest page of each stack is never used.
        unsafe { paging::unmap_page(stacks + index * STACK)? };
    }
    SCHEDULER.lock().stacks = stacks;
    Ok(())
}

/// The top of the stack for another vCPU's idle context.
pub fn cpu_stack_top(cpu: usize) -> u64 {
    SCHEDULER.lock().stacks + (MAX_THREADS + cpu + 1) as u64 * STACK
}

/// The calling thread.
pub fn current() -> ThreadId {
    let slot = percpu::own().current.load(Ordering::Relaxed);
    assert_ne!(slot, IDLE, "the idle context is no thread");
    ThreadId { slot: slot as u16, generation: SCHEDULER.lock().threads[slot as usize].generation }
}

/// Starts a thread, tied to a vCPU if `pinned`.
pub fn spawn(
    name: &'static str,
    pinned: Option<usize>,
    entry: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle, &'static str> {
    let entry: Entry = Box::new(entry);
    let mut scheduler = SCHEDULER.lock();
    let slot = scheduler.threads.iter().position(|thread| thread.state == State::Free).ok_or("too many threads")?;
    let top = scheduler.stacks + (slot as u64 + 1) * STACK;
    let thread = &mut scheduler.threads[slot];
    thread.generation = thread.generation.wrapping_add(1);
    thread.pinned = pinned.map(|cpu| cpu as u16);
    thread.token = false;
    thread.entry = Some(entry);
    thread.name = name;
    thread.joiner = None;
    thread.stack_pointer = first_frame(top, slot as u64);
    let id = ThreadId { slot: slot as u16, generation: thread.generation };
    let place = scheduler.make_runnable(id.slot);
    drop(scheduler);
    kick_for(place);
    Ok(JoinHandle(id))
}

/// Lays out what `switch_stack` pops: six registers and the return to `thread_start`, with the slot in rbx.
fn first_frame(top: u64, slot: u64) -> u64 {
    // Two words more than are popped: the stack is aligned as a call wants it.
    let frame = [0, 0, 0, 0, slot, 0, thread_start as *const () as u64, 0, 0];
    let place = top - size_of_val(&frame) as u64;
    // SAFETY: the stack of a free slot is nobody's, and mapped.
    unsafe {
        core::ptr::with_exposed_provenance_mut::<[u64; 9]>(place as usize).write(frame);
    }
    place
}

/// A new thread's first Rust function; `interrupt.s` calls it.
pub extern "C" fn thread_main(slot: u64) -> ! {
    let entry = {
        // SAFETY: this vCPU took the lock to switch here, in a context that waits until it is switched to again.
        unsafe { SCHEDULER.force_unlock() };
        let mut scheduler = SCHEDULER.lock();
        scheduler.threads[slot as usize].entry.take()
    };
    cpu::interrupts_on();
    if let Some(entry) = entry {
        entry();
    }
    exit()
}

/// Ends the calling thread.
pub fn exit() -> ! {
    mutex::thread_ends();
    let slot = percpu::own().current.load(Ordering::Relaxed) as usize;
    let mut scheduler = SCHEDULER.lock();
    let joiner = scheduler.threads[slot].joiner.take();
    scheduler.threads[slot].state = State::Free;
    let place = joiner.and_then(|joiner| scheduler.unpark(joiner));
    if let Some(place) = place {
        kick_for(place);
    }
    switch_away(scheduler);
    unreachable!("a thread that ended was resumed");
}

/// Gives the vCPU to the next runnable thread.
pub fn yield_now() {
    let slot = percpu::own().current.load(Ordering::Relaxed) as u16;
    let mut scheduler = SCHEDULER.lock();
    scheduler.make_runnable(slot);
    switch_away(scheduler);
}

/// Sleeps until [`unpark`] or until system time `deadline` (ns; `u64::MAX`: for ever). May return early.
/// True when it was unparked, even before this call.
pub fn park_until(deadline: u64) -> bool {
    let slot = percpu::own().current.load(Ordering::Relaxed) as u16;
    assert_ne!(u32::from(slot), IDLE & 0xFFFF, "the idle context cannot park");
    let mut scheduler = SCHEDULER.lock();
    let thread = &mut scheduler.threads[usize::from(slot)];
    if core::mem::take(&mut thread.token) {
        return true;
    }
    thread.state = State::Parked;
    if deadline != u64::MAX {
        scheduler.sleepers.insert(deadline, slot);
        timer::arm(deadline);
    }
    switch_away(scheduler);
    core::mem::take(&mut SCHEDULER.lock().threads[usize::from(slot)].token)
}

/// Wakes a thread, or lets its next park return at once. For interrupt handlers too.
pub fn unpark(id: ThreadId) {
    let place = SCHEDULER.lock().unpark(id);
    if let Some(place) = place {
        kick_for(place);
    }
}

/// Wakes whatever thread lives in a slot. The caller knows that it does.
pub fn unpark_slot(slot: u16) {
    let place = {
        let mut scheduler = SCHEDULER.lock();
        let generation = scheduler.threads[usize::from(slot)].generation;
        scheduler.unpark(ThreadId { slot, generation })
    };
    if let Some(place) = place {
        kick_for(place);
    }
}

/// Sleeps until system time `deadline`, ns.
pub fn sleep_until(deadline: u64) {
    while clock::now() < deadline {
        park_until(deadline);
    }
}

/// Sleeps for `ns`.
pub fn sleep(ns: u64) {
    sleep_until(clock::now().saturating_add(ns));
}

/// Wakes the threads whose time has come and sets this vCPU's timer to the next. Interrupts are off.
pub fn wake_due() {
    let now = clock::now();
    loop {
        let mut scheduler = SCHEDULER.lock();
        let Some(slot) = scheduler.sleepers.pop_due(now) else {
            if let Some(next) = scheduler.sleepers.next_deadline() {
                timer::arm(next);
            }
            return;
        };
        let place = scheduler.make_runnable(slot);
        drop(scheduler);
        kick_for(place);
    }
}

/// Sees to it that some vCPU looks at the run queue for a thread that may run at `place`.
fn kick_for(place: Option<u16>) {
    let own = percpu::id();
    let claim = |cpu: usize| IDLE_CPUS.fetch_and(!(1 << cpu), Ordering::SeqCst) & 1 << cpu != 0;
    match place {
        Some(cpu) => {
            if claim(usize::from(cpu)) && usize::from(cpu) != own {
                events::kick(usize::from(cpu));
            }
        }
        // An idle vCPU that took the interrupt looks at the queue by itself.
        None if claim(own) => {}
        None => loop {
            let idle = IDLE_CPUS.load(Ordering::SeqCst);
            if idle == 0 {
                return;
            }
            let cpu = idle.trailing_zeros() as usize;
            if claim(cpu) {
                events::kick(cpu);
                return;
            }
        },
    }
}

/// Leaves the calling thread, whose state says why, for the next one or the idle context; returns when it is resumed.
fn switch_away(mut scheduler: Guard<'_, Scheduler>) {
    let own = percpu::own();
    let slot = own.current.load(Ordering::Relaxed) as usize;
    let next = scheduler.run.pop(percpu::id() as u16).map(usize::from);
    if next == Some(slot) {
        scheduler.threads[slot].state = State::Running;
        return;
    }
    let load = match next {
        Some(next) => {
            scheduler.threads[next].state = State::Running;
            own.current.store(next as u32, Ordering::Relaxed);
            scheduler.threads[next].stack_pointer
        }
        None => {
            own.current.store(IDLE, Ordering::Relaxed);
            own.idle_stack.load(Ordering::Relaxed)
        }
    };
    let save = &raw mut scheduler.threads[slot].stack_pointer;
    // SAFETY: `load` was saved by `switch_stack` or laid out by `first_frame`, on a stack that nobody runs on; `save`
    // is in a static and protected by the lock, which stays held until the other side has been resumed.
    unsafe { switch_stack(save, load) };
    // Resumed: whoever switched here holds the lock for us, and the guard releases it.
}

/// The idle context of the calling vCPU: runs threads, waits when there is none. Never returns.
pub fn idle_loop() -> ! {
    let id = percpu::id();
    let own = percpu::own();
    loop {
        cpu::interrupts_off();
        let mut scheduler = SCHEDULER.lock();
        IDLE_CPUS.fetch_and(!(1 << id), Ordering::SeqCst);
        match scheduler.run.pop(id as u16) {
            Some(next) => {
                let thread = &mut scheduler.threads[usize::from(next)];
                thread.state = State::Running;
                let load = thread.stack_pointer;
                own.current.store(u32::from(next), Ordering::Relaxed);
                // SAFETY: as in `switch_away`; the idle context's stack pointer is this vCPU's own.
                unsafe { switch_stack(own.idle_stack.as_ptr(), load) };
                drop(scheduler);
            }
            None => {
                IDLE_CPUS.fetch_or(1 << id, Ordering::SeqCst);
                drop(scheduler);
                idle::wait();
            }
        }
    }
}

/// The name of a slot's thread, for reports.
pub fn name_of(slot: u16) -> &'static str {
    SCHEDULER.lock().threads.get(usize::from(slot)).map_or("(none)", |thread| thread.name)
}

/// The calling thread's name, for the panic report.
pub fn name_without_waiting() -> &'static str {
    let slot = percpu::own().current.load(Ordering::Relaxed);
    if slot == IDLE {
        return "(idle)";
    }
    SCHEDULER.try_lock().map_or("(unknown)", |scheduler| scheduler.threads[slot as usize].name)
}
