//! Every interleaving of a vCPU's sleeps, wake-ups, pauses, parks and switches on two CPUs.
//!
//! The actors take one atomic step at a time, in every possible order, over the real steps of [`Word`]. At each state
//! the vCPU must be in at most one queue and on at most one CPU; where nothing can move any more, nothing it should be
//! awake for may be pending. The same search must find a fault that is put in on purpose, else it proves nothing.

use std::collections::HashSet;
use std::vec::Vec;

use super::state::{Change, Placement, Sleep, Word};

/// A mistake put into the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// The sleeper looks for events before it changes its word, and not after.
    LooksFirst,
    /// The vCPU is queued when it leaves its CPU, not when its context is saved.
    QueuedUnsaved,
    /// The poller enters itself in the mask after it has looked at the ports.
    MaskLate,
    /// The waker changes the word before the event is visible.
    WakesFirst,
    /// A vCPU is parked and entered as parked in two steps, not under one lock.
    ParkedUnseen,
}

/// Where a CPU is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Cpu {
    Idle,
    Guest,
    /// About to change the word to this sleep.
    FallsAsleep(Sleep),
    /// About to look for what would end this sleep.
    Looks(Sleep),
    /// About to enter itself in the mask (with the fault only).
    LateMask,
    /// About to end the sleep itself.
    WakesItself,
    /// To decide whether the vCPU goes on.
    Exit,
    Leaves,
    Saves,
    /// About to park the vCPU that it has entered as parked (with the fault only).
    Parks,
    /// About to put the vCPU, which it has made Queued, in a queue.
    Enqueues(bool),
}

/// Where somebody is who wakes or pauses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Other {
    Start,
    Middle,
    Enqueues,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    word: Word,
    /// An event the vCPU takes whenever it runs, or that ends any sleep.
    event: bool,
    /// A masked port, that ends polls only.
    port: bool,
    mask: bool,
    queued: u8,
    cpus: [Cpu; 2],
    /// Raises `event`.
    sender: Other,
    /// Raises `port`.
    port_sender: Other,
    /// Pauses and unpauses.
    pauser: Other,
    /// Whether the domain has run time, and whether this vCPU is among those that wait for it. Both under one lock.
    funded: bool,
    parked: bool,
    /// Gives run time, and takes the park back.
    releaser: Other,
    /// How often run time still ends.
    shortages: u8,
    /// Sleeps and yields the guest still does: keeps the search finite and lets it come to rest.
    sleeps: u8,
}

const START: State = State {
    word: Word::NEW,
    event: false,
    port: false,
    mask: false,
    queued: 0,
    cpus: [Cpu::Idle; 2],
    sender: Other::Start,
    port_sender: Other::Start,
    pauser: Other::Start,
    funded: true,
    parked: false,
    releaser: Other::Start,
    shortages: 2,
    sleeps: 3,
};

/// What a CPU does, and what it is about to do after that.
type CpuStep<'a> = &'a dyn Fn(&mut State) -> Cpu;

impl State {
    fn apply(&mut self, step: impl Fn(Word) -> Word) -> Change {
        let before = self.word;
        self.word = step(before);
        Change { before, after: self.word }
    }

    /// What `schedule` does for the vCPU it goes on with.
    fn end_poll(&mut self) {
        if self.word.is_poller() {
            self.mask = false;
            self.word = self.word.poll_ended();
        }
    }

    fn cpu_steps(&self, cpu: usize, fault: Fault, next: &mut Vec<State>) {
        let mut go = |change: CpuStep<'_>| {
            let mut state = *self;
            state.cpus[cpu] = change(&mut state);
            next.push(state);
        };
        match self.cpus[cpu] {
            Cpu::Idle if self.queued > 0 => go(&|state| {
                state.queued -= 1;
                if !state.funded {
                    state.park();
                }
                let change = state.apply(Word::take);
                if change.after.placement() != Placement::Running {
                    return Cpu::Idle;
                }
                state.end_poll();
                Cpu::Guest
            }),
            Cpu::Idle => {}
            Cpu::Guest => self.guest_steps(fault, &mut go),
            Cpu::FallsAsleep(sleep) => go(&|state| {
                state.apply(|word| word.sleep(sleep));
                if fault == Fault::LooksFirst { Cpu::Exit } else { Cpu::Looks(sleep) }
            }),
            Cpu::Looks(sleep) => go(&|state| {
                let ready = state.event || sleep == Sleep::Poll && state.port;
                match fault {
                    Fault::LooksFirst if ready => Cpu::Guest,
                    Fault::LooksFirst => Cpu::FallsAsleep(sleep),
                    _ if ready => Cpu::WakesItself,
                    Fault::MaskLate if sleep == Sleep::Poll => Cpu::LateMask,
                    _ => Cpu::Exit,
                }
            }),
            Cpu::LateMask => go(&|state| {
                state.mask = true;
                Cpu::Exit
            }),
            Cpu::WakesItself => go(&|state| {
                assert!(!state.apply(Word::wake).must_enqueue());
                state.end_poll();
                Cpu::Guest
            }),
            Cpu::Exit => go(&|state| {
                if state.word.is_runnable() {
                    state.apply(Word::stay);
                    state.end_poll();
                    Cpu::Guest
                } else {
                    Cpu::Leaves
                }
            }),
            Cpu::Leaves => go(&|state| {
                let leave = |word: Word| match fault {
                    Fault::QueuedUnsaved => word.saved().leave(),
                    _ => word.leave(),
                };
                let change = state.apply(leave);
                let saved = change.after.placement() != Placement::Saving;
                if change.must_enqueue() {
                    Cpu::Enqueues(saved)
                } else if saved {
                    Cpu::Idle
                } else {
                    Cpu::Saves
                }
            }),
            Cpu::Saves => go(&|state| {
                if state.apply(Word::saved).must_enqueue() { Cpu::Enqueues(true) } else { Cpu::Idle }
            }),
            Cpu::Parks => go(&|state| {
                state.apply(Word::park);
                Cpu::Leaves
            }),
            Cpu::Enqueues(_) => go(&|state| {
                state.queued += 1;
                // With the fault the context is still here.
                if fault == Fault::QueuedUnsaved { Cpu::Saves } else { Cpu::Idle }
            }),
        }
    }

    /// What may come next where the guest runs.
    fn guest_steps(&self, fault: Fault, go: &mut dyn FnMut(CpuStep<'_>)) {
        // An interrupt is taken as soon as it is there; so is a kick for a pause.
        if self.event {
            go(&|state| {
                state.event = false;
                Cpu::Guest
            });
            return;
        }
        if !self.word.is_runnable() {
            go(&|_| Cpu::Exit);
        }
        // Its grant ends, and there is no other.
        if !self.funded && self.word.is_runnable() {
            go(&|state| {
                if fault == Fault::ParkedUnseen {
                    state.parked = true;
                    return Cpu::Parks;
                }
                state.park();
                Cpu::Leaves
            });
        }
        if self.sleeps == 0 {
            // The last sleep is one that only events end.
            go(&|_| Cpu::FallsAsleep(Sleep::Event));
            return;
        }
        for sleep in [Sleep::Event, Sleep::Poll] {
            go(&|state| {
                state.sleeps -= 1;
                state.fall_asleep(sleep, fault)
            });
        }
        // Its slice ends, with the context saved before or after the choice.
        go(&|state| {
            state.sleeps -= 1;
            Cpu::Leaves
        });
        go(&|state| {
            state.sleeps -= 1;
            state.apply(Word::saved);
            Cpu::Leaves
        });
    }

    /// What a CPU does under the pool's lock when it finds that empty.
    fn park(&mut self) {
        self.parked = true;
        self.apply(Word::park);
    }

    fn fall_asleep(&mut self, sleep: Sleep, fault: Fault) -> Cpu {
        self.end_poll();
        if sleep == Sleep::Poll && fault != Fault::MaskLate {
            self.mask = true;
        }
        if fault == Fault::LooksFirst { Cpu::Looks(sleep) } else { Cpu::FallsAsleep(sleep) }
    }

    /// One that makes `raise` true, then wakes by `wake`. `LAST` tells a Start from nothing more to do.
    fn waker_steps(&self, fault: Fault, which: fn(&mut State) -> &mut Other, port: bool, next: &mut Vec<State>) {
        let mut state = *self;
        let at = *which(&mut state);
        let raise = |state: &mut State| if port { state.port = true } else { state.event = true };
        let wake = |state: &mut State| {
            if port {
                state.mask && state.apply(Word::wake_poller).must_enqueue()
            } else {
                state.apply(Word::wake).must_enqueue()
            }
        };
        let wakes_first = fault == Fault::WakesFirst;
        *which(&mut state) = match at {
            Other::Start if wakes_first => {
                if wake(&mut state) {
                    state.queued += 1;
                }
                Other::Middle
            }
            Other::Middle if wakes_first => {
                raise(&mut state);
                Other::Done
            }
            Other::Start => {
                raise(&mut state);
                Other::Middle
            }
            Other::Middle => {
                if wake(&mut state) {
                    Other::Enqueues
                } else {
                    Other::Done
                }
            }
            Other::Enqueues => {
                state.queued += 1;
                Other::Done
            }
            Other::Done => return,
        };
        next.push(state);
    }

    fn pauser_steps(&self, next: &mut Vec<State>) {
        let mut state = *self;
        state.pauser = match self.pauser {
            Other::Start => {
                state.apply(Word::pause);
                Other::Middle
            }
            Other::Middle => {
                if state.apply(Word::unpause).must_enqueue() {
                    Other::Enqueues
                } else {
                    Other::Done
                }
            }
            Other::Enqueues => {
                state.queued += 1;
                Other::Done
            }
            Other::Done => return,
        };
        next.push(state);
    }

    /// Run time ends at any time, and comes back when somebody is parked. The lock covers the look at the mask, not the
    /// step of the word.
    fn releaser_steps(&self, next: &mut Vec<State>) {
        if self.shortages > 0 && self.funded {
            next.push(State { funded: false, shortages: self.shortages - 1, ..*self });
        }
        let mut state = *self;
        state.releaser = match self.releaser {
            Other::Start if self.parked => {
                state.parked = false;
                state.funded = true;
                Other::Middle
            }
            Other::Middle if state.apply(Word::unpark).must_enqueue() => Other::Enqueues,
            Other::Middle => Other::Start,
            Other::Enqueues => {
                state.queued += 1;
                Other::Start
            }
            Other::Start | Other::Done => return,
        };
        next.push(state);
    }

    fn successors(&self, fault: Fault) -> Vec<State> {
        let mut next = Vec::new();
        self.cpu_steps(0, fault, &mut next);
        self.cpu_steps(1, fault, &mut next);
        self.waker_steps(fault, |state| &mut state.sender, false, &mut next);
        self.waker_steps(fault, |state| &mut state.port_sender, true, &mut next);
        self.pauser_steps(&mut next);
        self.releaser_steps(&mut next);
        next
    }

    /// What must hold at every state.
    fn complaint(&self) -> Option<&'static str> {
        // A CPU that is past `Leaves` in the right protocol has the context until `Saves` is done.
        let holds = |cpu: &&Cpu| !matches!(cpu, Cpu::Idle | Cpu::Enqueues(true));
        if self.cpus.iter().filter(holds).count() > 1 {
            return Some("two CPUs have it");
        }
        if self.queued > 1 {
            return Some("it is queued twice");
        }
        if self.queued == 1 && self.word.placement() != Placement::Queued {
            return Some("it is in a queue and does not know");
        }
        None
    }

    /// What must hold where nothing moves any more.
    fn final_complaint(&self) -> Option<&'static str> {
        if self.word.is_parked() {
            Some("it is parked and nobody will release it")
        } else if self.event {
            Some("an event waits and nobody will look")
        } else if self.port && self.word.is_blocked() && self.word.is_poller() {
            Some("a polled port is pending and nobody will look")
        } else if !self.word.is_blocked() || self.word.placement() != Placement::Off {
            Some("it should be asleep")
        } else {
            None
        }
    }
}

/// Searches all interleavings; the first complaint, or how many states there are.
fn explore(fault: Fault) -> Result<usize, (&'static str, State)> {
    let mut start = START;
    assert!(start.apply(|word| word.initialised().up()).must_enqueue());
    start.queued = 1;
    let mut seen = HashSet::from([start]);
    let mut open = Vec::from([start]);
    while let Some(state) = open.pop() {
        if let Some(complaint) = state.complaint() {
            return Err((complaint, state));
        }
        let next = state.successors(fault);
        if next.is_empty()
            && let Some(complaint) = state.final_complaint()
        {
            return Err((complaint, state));
        }
        open.extend(next.into_iter().filter(|state| seen.insert(*state)));
    }
    Ok(seen.len())
}

#[test]
fn no_interleaving_loses_a_wake_up_or_runs_it_twice() {
    let states = explore(Fault::None).expect("the protocol holds");
    assert!(states > 5_000, "only {states} states: the model does not move");
}

#[test]
fn the_search_finds_faults() {
    for fault in [Fault::LooksFirst, Fault::QueuedUnsaved, Fault::MaskLate, Fault::WakesFirst, Fault::ParkedUnseen] {
        assert!(explore(fault).is_err(), "{fault:?} was not found");
    }
}

#[test]
fn a_deaf_vcpu_sleeps_through_events() {
    let running = Word::NEW.up().take();
    let asleep = running.sleep(Sleep::Deaf).leave().saved();
    assert_eq!(asleep.wake(), asleep);
    assert_eq!(asleep.wake_poller(), asleep);
    assert_eq!(asleep.wake_deaf().placement(), Placement::Queued);
    assert!(!asleep.wake_deaf().is_deaf());
}

#[test]
fn reasons_not_to_run_add_up() {
    let word = Word::NEW.pause().pause();
    assert_eq!(word.up().placement(), Placement::Off);
    let word = word.up().unpause();
    assert_eq!(word.placement(), Placement::Off);
    assert_eq!(word.unpause().placement(), Placement::Queued);
    assert_eq!(word.down().unpause().placement(), Placement::Off);
    // Queued and paused: dropped when met, queued again when unpaused.
    let queued = Word::NEW.up();
    let dropped = queued.pause().take();
    assert_eq!(dropped.placement(), Placement::Off);
    assert_eq!(dropped.unpause().placement(), Placement::Queued);
    // Queued, paused and unpaused while it waits: still queued once.
    let change = Change { before: queued.pause(), after: queued.pause().unpause() };
    assert!(!change.must_enqueue());
}

#[test]
fn a_parked_vcpu_keeps_its_place_in_life() {
    let parked = Word::NEW.up().take().park();
    assert!(parked.is_parked() && !parked.is_runnable() && parked.wants_cpu());
    let off = parked.leave().saved();
    assert_eq!(off.placement(), Placement::Off);
    // What else happens to it changes its word and does not queue it; the release does, if nothing else is in the way.
    let asleep = Word::NEW.up().take().sleep(Sleep::Event).leave().saved().park();
    assert_eq!(asleep.wake().placement(), Placement::Off);
    assert_eq!(asleep.wake().unpark().placement(), Placement::Queued);
    assert_eq!(asleep.unpark().placement(), Placement::Off);
    assert_eq!(asleep.unpark().wake().placement(), Placement::Queued);
    assert_eq!(off.pause().unpark().placement(), Placement::Off);
    assert_eq!(off.pause().unpark().unpause().placement(), Placement::Queued);
    assert_eq!(off.pause().unpause().placement(), Placement::Off);
    assert_eq!(off.down().unpark().up().placement(), Placement::Queued);
}

#[test]
fn pauses_saturate() {
    let mut word = Word::NEW;
    for _ in 0..70_000 {
        word = word.pause();
    }
    assert!(word.is_paused() && word.is_down());
    assert_eq!(word.pause(), word);
}
