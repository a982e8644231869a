//! The guest kernel's logic that needs no machine: argument parsing, the frame allocator, the run queue,
//! the page pattern and the shapes of the workloads. The kernel (`main.rs`) and the host tests share it.
//!
//! Nothing here is unsafe and nothing here knows an address: frames are numbers, threads are slots.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod args;
pub mod frames;
pub mod median;
pub mod pattern;
pub mod queue;
pub mod ranges;
pub mod rng;
pub mod target;
pub mod wave;
