//! Selfballooning and frontswap-selfshrinking: the two control loops by which a guest gives memory back that it does not
//! need, and takes it again before it hurts.
//!
//! Both are plain functions of their inputs: no clock, no allocation, no `unsafe`, nothing remembered but what
//! [`SelfShrink`] counts. A kernel reads its figures, calls them once every [`Tunables::interval_ns`], hands
//! [`Step::target`] to its balloon and the result of [`SelfShrink::step`] to its frontswap. Between two steps it calls
//! [`relief`] when an allocation finds too little: release comes before everything else.
//!
//! What a caller may rely on (property tests in `tests/`):
//!
//! - **Convergence.** With inputs that stay the same, current comes to within uphysteresis - 1 pages of the goal from
//!   below, and to within downhysteresis - 1 from above; then the target stays.
//! - **No oscillation.** A step never crosses the goal, except where the floor lies above it.
//! - **The floor holds.** No target lies below [`Inputs::floor`], whatever the tunables: with a guest that admits no
//!   commitment that [`Inputs::may_commit`] refuses, everything committed has a place in memory or on the swap device
//!   even when the host never gives a page back.
//! - **No division by zero, no overflow, no panic** for any input; a tunable that divides cannot become zero.
//!
//! Specification: Linux's `drivers/xen/xen-selfballoon.c` (2.6.39 to 5.2) for the formulas, names and defaults.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod balloon;
mod shrink;
mod tunables;

pub use balloon::{Inputs, Step, Why, relief, step};
pub use shrink::SelfShrink;
pub use tunables::{Boot, SetError, Tunables};
