//! A waiter does not spin behind a sleeper who has been kicked and does not get up, and spins on where nobody sleeps.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use ebb_locks::{Large, Platform, RawTicketLock, WaitKey, WaitTable};

const THRESHOLD: u32 = 1 << 20;
const PATIENCE: u32 = 16;

/// What a CPU does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    asleep: bool,
    kicked: bool,
    /// It gets up when it is kicked; otherwise a kick is only noted, as without a processor to run on.
    has_processor: bool,
}

struct Machine {
    lock: RawTicketLock<Large>,
    waits: WaitTable<3>,
    looks: [AtomicU32; 3],
    states: Mutex<[State; 3]>,
    changed: Condvar,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: RawTicketLock::new(Large::new(0)),
            waits: WaitTable::new(),
            looks: Default::default(),
            states: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn change(&self, cpu: usize, change: impl FnOnce(&mut State)) {
        change(&mut self.states.lock().unwrap()[cpu]);
        self.changed.notify_all();
    }

    fn wait_until(&self, cpu: usize, mut condition: impl FnMut(State) -> bool) {
        let mut states = self.states.lock().unwrap();
        while !condition(states[cpu]) {
            states = self.changed.wait(states).unwrap();
        }
    }

    fn looks(&self, cpu: usize) -> u32 {
        self.looks[cpu].load(Ordering::SeqCst)
    }

    /// The CPU takes the lock and gives it back, on a thread of its own.
    fn start(self: &Arc<Self>, number: usize) -> thread::JoinHandle<()> {
        let cpu = Cpu { machine: self.clone(), number };
        thread::spawn(move || {
            let ticket = cpu.machine.lock.lock(&cpu);
            cpu.machine.lock.unlock(&cpu, ticket);
        })
    }
}

struct Cpu {
    machine: Arc<Machine>,
    number: usize,
}

impl Platform for Cpu {
    type Interrupts = ();

    fn spin_threshold(&self) -> u32 {
        // The first to wait goes to sleep early, the one behind it would spin for long.
        if self.number == 1 { 1 } else { THRESHOLD }
    }

    fn patience(&self) -> u32 {
        PATIENCE
    }

    fn relax(&self) {
        self.machine.looks[self.number].fetch_add(1, Ordering::SeqCst);
        thread::yield_now();
    }

    fn can_block(&self) -> bool {
        true
    }

    fn interrupts_off(&self) {}

    fn interrupts_restore(&self, (): ()) {}

    fn publish(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        self.machine.waits.publish(self.number, key)
    }

    fn waiter(&self, key: WaitKey) -> Option<usize> {
        self.machine.waits.waiter(key)
    }

    fn clear_kick(&self) {
        self.machine.change(self.number, |state| state.kicked = false);
    }

    fn block(&self, (): &()) {
        self.machine.change(self.number, |state| state.asleep = true);
        self.machine.wait_until(self.number, |state| state.kicked && state.has_processor);
        self.machine.change(self.number, |state| state.asleep = false);
    }

    fn kick(&self, cpu: usize) {
        self.machine.change(cpu, |state| state.kicked = true);
    }

    fn kick_self(&self) {
        self.kick(self.number);
    }
}

#[test]
fn nobody_spins_behind_a_sleeper_without_a_processor() {
    let machine = Machine::new();
    let holder = Cpu { machine: machine.clone(), number: 0 };
    let ticket = machine.lock.lock(&holder);
    let first = machine.start(1);
    machine.wait_until(1, |state| state.asleep);
    machine.lock.unlock(&holder, ticket);
    // It is the first one's turn, which was kicked and has no processor.
    machine.wait_until(1, |state| state.asleep && state.kicked);
    let second = machine.start(2);
    machine.wait_until(2, |state| state.asleep);
    assert_eq!(machine.looks(2), PATIENCE, "looks behind a sleeper");
    machine.change(2, |state| state.has_processor = true);
    machine.change(1, |state| state.has_processor = true);
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn a_waiter_spins_on_behind_one_who_is_awake_or_not_to_be_woken_yet() {
    let machine = Machine::new();
    let holder = Cpu { machine: machine.clone(), number: 0 };
    let ticket = machine.lock.lock(&holder);
    let first = machine.start(1);
    machine.wait_until(1, |state| state.asleep);
    // The holder is awake, though the next one sleeps.
    let second = machine.start(2);
    while machine.looks(2) < 20 * PATIENCE {
        assert!(!machine.states.lock().unwrap()[2].asleep);
        thread::yield_now();
    }
    machine.change(1, |state| state.has_processor = true);
    machine.change(2, |state| state.has_processor = true);
    machine.lock.unlock(&holder, ticket);
    first.join().unwrap();
    second.join().unwrap();
}
