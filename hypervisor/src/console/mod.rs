//! Text for people: the hypervisor's own lines `(ebb) ...`, the guests' `(dN) ...`, and what a privileged domain says as
//! it is, on COM1 and the screen; what is typed on COM1; and the raw byte sink for the trace on COM2.
//!
//! A line is written as a whole under one lock. A panic takes the lock away from whoever holds it
//! ([`break_lock`]), since that processor will not write any more. Waiting for a device is bounded.

pub mod grid;

#[cfg(target_os = "none")]
pub mod input;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod screen;
#[cfg(target_os = "none")]
mod serial;
#[cfg(target_os = "none")]
pub use machine::*;
