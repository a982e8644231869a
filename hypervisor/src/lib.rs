//! Ebb's machine side: boot, memory, processors, interrupts, time, consoles.
//!
//! Modules without hardware access (parsing, range arithmetic, time scaling) are compiled on the host too and tested
//! there by `cargo test`; the others exist only for the machine (`target_os = "none"`).
//!
//! Rules: interrupts are off in the hypervisor except at the one point [`cpu::idle`] and while a guest runs; each
//! processor has one stack; handlers for the kick and the timer only note that they happened.
#![no_std]

#[cfg(test)]
extern crate std;

extern crate alloc;

pub mod boot;
pub mod config;
pub mod features;
pub mod options;

pub mod acpi;
pub mod console;
pub mod instruction_form;
pub mod machine_check;
pub mod memory;
pub mod time;
pub mod xsave_area;

#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod exit;
#[cfg(target_os = "none")]
pub mod glue;
#[cfg(target_os = "none")]
pub mod instr;
#[cfg(target_os = "none")]
pub mod interrupts;
#[cfg(target_os = "none")]
pub mod io_apic;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
pub mod nmi;
#[cfg(target_os = "none")]
pub mod panic;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod virt;
