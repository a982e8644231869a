//! A hypervisor and guests to test the balloon against.
//!
//! [`Machine`] owns real frame numbers and each domain's mapping, runs short when its frames run out, and misbehaves as
//! [`Faults`] says, from a seed. [`Guest`] is a page allocator that knows which pages it has. [`Player`] is a guest with
//! its balloon, and compares all three views after every step.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

mod guest;
mod machine;
mod player;
mod random;

pub use guest::Guest;
pub use machine::{Faults, Machine};
pub use player::{Player, run_until_idle};
pub use random::Random;

pub const SECOND: u64 = 1_000_000_000;
