//! What Ebb needs of ACPI: the processors and I/O APICs (MADT), the PM timer, power-off and reset (FADT, `\_S5`).
//!
//! Tables are read once at boot, through the direct map or, where firmware calls their memory reserved, a read-only
//! mapping. A machine without usable ACPI still boots on one processor and cannot switch itself off.

pub mod s5;

#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
pub use machine::*;
