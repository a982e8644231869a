//! Random hypercalls from several domains on several CPUs: the core, driven through the fake machine as the real one
//! drives it, with arguments that are right, at the limits, or nonsense.
//!
//! Some domains are orderly, some wild. A wild one writes anything into every page it shares with the hypervisor, passes
//! any pointer and any page tables; an orderly one keeps to the ABI, and must then get everything it is owed whatever
//! the wild ones do. Domains are built, paused, ended and built again all the time, and memory is short.
//!
//! After every step (`check.rs`): each frame has one owner and the ledger adds up; event bindings fit together; every
//! vCPU is exactly where its state says; no vCPU runs that may not, or with stale translations; nobody who is owed a
//! kick, a wake-up, a timer or an event has missed it; runstate times add up to the time there has been; no lock is
//! held. At the end every vCPU that can run gets to run, then all domains end, all memory is back, nothing refers to
//! them any more.
//!
//! The seeds are fixed, so a failure comes again. `EBB_RANDOM_CASES` sets the number of cases, `EBB_RANDOM_SEED` (a
//! number) takes other ones.

#[path = "random_hypercalls/calls.rs"]
mod calls;
#[path = "random_hypercalls/check.rs"]
mod check;
#[path = "random_hypercalls/encode.rs"]
mod encode;
#[path = "random_hypercalls/guest.rs"]
mod guest;
#[path = "random_hypercalls/layout.rs"]
mod layout;
#[path = "random_hypercalls/newcomer.rs"]
mod newcomer;
#[path = "random_hypercalls/random_calls.rs"]
mod random_calls;
#[path = "random_hypercalls/steps.rs"]
mod steps;
#[path = "../src/testing.rs"]
mod testing;
#[path = "random_hypercalls/world.rs"]
mod world;

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ebb_core::{Domain, Hypervisor};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use steps::Step;
use testing::FakeMachine;
use world::World;

type Hv = Hypervisor<FakeMachine>;
type Dom = Arc<Domain<FakeMachine>>;

/// Cases without `EBB_RANDOM_CASES`: ten seconds or so.
const CASES: u32 = 50;
/// Most steps of a case.
const STEPS: usize = 800;

/// The step that was under way; as many as there are: the end.
static REACHED: AtomicUsize = AtomicUsize::new(0);

fn run(cpus: u8, wild_governor: bool, steps: &[Step]) {
    // A failing case is left as it is: what a panic interrupts cannot be taken apart.
    let mut world = ManuallyDrop::new(World::new(cpus, wild_governor));
    check::check(&world);
    for (number, step) in steps.iter().enumerate() {
        REACHED.store(number, Relaxed);
        world.apply(step);
        check::check(&world);
    }
    REACHED.store(steps.len(), Relaxed);
    world.check_progress();
    check::check(&world);
    world.finish(check::check);
    drop(ManuallyDrop::into_inner(world));
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_a_guest_does_upsets_the_core() {
    let config = Config {
        cases: environment("EBB_RANDOM_CASES").map_or(CASES, |cases| cases as u32),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Config::default()
    };
    let mut seed = [0xeb; 32];
    seed[..8].copy_from_slice(&environment("EBB_RANDOM_SEED").unwrap_or(0).to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let cases = (1..4u8, prop::bool::weighted(0.25), prop::collection::vec(steps::step(), 1..STEPS));
    // While a failure is made smaller it comes hundreds of times.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = runner.run(&cases, |(cpus, wild_governor, steps)| {
        run(cpus, wild_governor, &steps);
        Ok(())
    });
    std::panic::set_hook(report);
    match outcome {
        Ok(()) => {}
        Err(TestError::Abort(reason)) => panic!("{reason}"),
        Err(TestError::Fail(reason, (cpus, wild_governor, steps))) => {
            // Once more, for where it fails.
            let _ = std::panic::catch_unwind(|| run(cpus, wild_governor, &steps));
            let reached = REACHED.load(Relaxed);
            let steps: String = steps.iter().map(|step| format!("    {step:?}\n")).collect();
            panic!("{reason}\n{cpus} CPUs, wild governor: {wild_governor}, at step {reached} (from 0)\n{steps}");
        }
    }
}
