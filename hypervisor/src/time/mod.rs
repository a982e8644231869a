//! Time: nanoseconds since boot from the TSC, and each processor's one-shot timer.
//!
//! The TSC is calibrated once against ACPI's PM timer (or the PIT) over 10 ms; each further processor's TSC is compared
//! with the boot processor's and corrected if it is visibly off ([`sync`]).

pub mod scale;

#[cfg(target_os = "none")]
mod calibrate;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
pub mod sync;
#[cfg(target_os = "none")]
pub use machine::*;
