//! A bus with weak ordering, and the classic driver on it: unflushed it fails, flushed it never does.
//!
//! The model: each processor has a queue of posted writes to each device. The queue arrives in its own order, whenever
//! the bus likes; the queues of different processors have no order between them. A read waits for its processor's own
//! queue first.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use ebb_ordered_io::{Bus, Device, Flushed, ReadWrite, Register, Safe, WriteOnly};
use proptest::prelude::*;

const RING: Register<u32, ReadWrite> = Register::at(0);
const DOORBELL: Register<u32, WriteOnly> = Register::at(4);
const STATUS: Register<u32, Safe> = Register::at(8);

/// The device and the bus before it.
#[derive(Default)]
struct World {
    queues: [VecDeque<(usize, u32)>; 2],
    registers: [u32; 3],
    arrived: Vec<(usize, u32)>,
    safe_reads: usize,
}

impl World {
    fn arrive(&mut self, cpu: usize) {
        if let Some((offset, value)) = self.queues[cpu].pop_front() {
            self.registers[offset / 4] = value;
            self.arrived.push((offset, value));
        }
    }

    fn drain(&mut self, cpu: usize) {
        while !self.queues[cpu].is_empty() {
            self.arrive(cpu);
        }
    }
}

/// The way of one processor; the lock below switches between the two.
struct Way {
    world: Rc<RefCell<World>>,
    cpu: usize,
}

impl Bus<u32> for Way {
    fn load(&self, offset: usize) -> u32 {
        let mut world = self.world.borrow_mut();
        world.drain(self.cpu);
        world.safe_reads += usize::from(offset == STATUS.offset());
        world.registers[offset / 4]
    }

    fn store(&self, offset: usize, value: u32) {
        self.world.borrow_mut().queues[self.cpu].push_back((offset, value));
    }

    fn barrier(&self) {}
}

/// What the processors do, one step after the other; `Arrive` is the bus's.
#[derive(Clone, Copy, Debug)]
enum Step {
    Update(usize),
    Arrive(usize),
}

/// A lock's guard: exclusive use of the processor's view of the device.
type Held<'g> = &'g mut Device<Way>;

/// Each update locks, writes the next value to the ring register, rings, and unlocks. The last value must win, and the
/// values must arrive in order.
fn run(steps: &[Step], flushed: bool) -> (Vec<u32>, u32, usize) {
    let world = Rc::new(RefCell::new(World::default()));
    let mut views = [0, 1].map(|cpu| Device::new(Way { world: world.clone(), cpu }, STATUS));
    let mut next = 0;
    for step in steps {
        match *step {
            Step::Update(cpu) => {
                next += 1;
                let held: Held<'_> = &mut views[cpu];
                if flushed {
                    let device = Flushed::new(held);
                    device.write(RING, next);
                    device.write_relaxed(DOORBELL, next);
                } else {
                    held.write(RING, next);
                    held.write_relaxed(DOORBELL, next);
                }
            }
            Step::Arrive(cpu) => world.borrow_mut().arrive(cpu),
        }
    }
    let mut world = world.borrow_mut();
    // In the end everything arrives; the second processor's first, which no bus forbids.
    world.drain(1);
    world.drain(0);
    let rings = world.arrived.iter().filter(|(offset, _)| *offset == RING.offset()).map(|(_, value)| *value).collect();
    (rings, next, world.safe_reads)
}

fn is_right(outcome: &(Vec<u32>, u32, usize)) -> bool {
    outcome.0.iter().copied().eq(1..=outcome.1)
}

#[test]
fn the_unflushed_driver_fails() {
    // A, then B, both unlocked; B's write arrives first.
    let outcome = run(&[Step::Update(0), Step::Update(1)], false);
    assert_eq!(outcome.0, [2, 1], "the ring register has the older value in the end");
    assert!(!is_right(&outcome));
}

#[test]
fn the_flushed_driver_does_not() {
    let outcome = run(&[Step::Update(0), Step::Update(1)], true);
    assert!(is_right(&outcome), "{outcome:?}");
    assert_eq!(outcome.2, 2, "one safe read each");
}

#[test]
fn every_short_history_is_right_when_flushed_and_some_are_wrong_when_not() {
    let choices = [Step::Update(0), Step::Update(1), Step::Arrive(0), Step::Arrive(1)];
    let mut wrong = 0;
    for history in 0..4usize.pow(7) {
        let steps: Vec<Step> = (0..7).map(|place| choices[history / 4usize.pow(place) % 4]).collect();
        assert!(is_right(&run(&steps, true)), "{steps:?}");
        wrong += usize::from(!is_right(&run(&steps, false)));
    }
    assert!(wrong > 1000, "{wrong} of 16384 histories fail without the flush");
}

#[test]
fn a_guard_that_wrote_nothing_reads_nothing() {
    let world = Rc::new(RefCell::new(World::default()));
    let mut device = Device::new(Way { world: world.clone(), cpu: 0 }, STATUS);
    drop(Flushed::new(&mut device));
    assert_eq!(world.borrow().safe_reads, 0);
    // A read after the write has pushed it already.
    let guard = Flushed::new(&mut device);
    guard.write(RING, 1);
    assert_eq!(guard.read(RING), 1);
    drop(guard);
    assert_eq!(world.borrow().safe_reads, 0);
    Flushed::new(&mut device).write(RING, 2);
    assert_eq!((world.borrow().safe_reads, world.borrow().registers[0]), (1, 2));
}

proptest! {
    #[test]
    fn long_histories_are_right_when_flushed(choices in proptest::collection::vec((any::<bool>(), 0..2usize), 0..200)) {
        let step = |(update, cpu)| if update { Step::Update(cpu) } else { Step::Arrive(cpu) };
        let steps: Vec<Step> = choices.into_iter().map(step).collect();
        prop_assert!(is_right(&run(&steps, true)));
    }
}
