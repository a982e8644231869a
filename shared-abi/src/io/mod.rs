//! `io/`: the rings through which domains talk to each other.

pub mod console;
pub mod ring;
pub mod xs_wire;
