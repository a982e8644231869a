//! The scheduler, timers and runstates on a fake machine.

#[path = "../src/testing.rs"]
mod testing;

#[path = "scheduler/caps.rs"]
mod caps;
#[path = "scheduler/cases.rs"]
mod cases;
#[path = "scheduler/pauses.rs"]
mod pauses;
#[path = "scheduler/random.rs"]
mod random;
#[path = "scheduler/sim.rs"]
mod sim;
#[path = "scheduler/threads.rs"]
mod threads;
#[path = "scheduler/timers.rs"]
mod timers;
