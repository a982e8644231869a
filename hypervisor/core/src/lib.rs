//! Ebb's policy core: domains, frame ownership, nested page tables, every hypercall, event channels, vCPU states,
//! the scheduler, timers, the local APIC model and the CPUID policy.
//!
//! The core sees the machine only through [`machine::Machine`]; it never names a vendor, touches no register and
//! contains no unsafe code. The machine calls the core at a few points, all methods of [`Hypervisor`]: at boot
//! (`new`, `build_domain`), at each exit (`hypercall`, the emulation helpers), before each entry
//! (`prepare_entry`), and when it has nothing to run (`schedule`, `idle_work`).
//!
//! Errors: [`shared_abi::xen::Errno`] is a guest's mistake and goes back to the guest. A bug of ours is a panic; no
//! guest input may reach one.
//!
//! Locking: see [`locks`].
#![no_std]
// Forbidden in what is built into the hypervisor; the fake machine of the tests needs it for its memory.
#![cfg_attr(not(test), forbid(unsafe_code))]

extern crate alloc;
// `testing` is also included by integration tests, and names this crate as they do.
#[cfg(test)]
extern crate self as ebb_core;
#[cfg(test)]
extern crate std;

pub mod build;
pub mod clock;
pub mod console;
pub mod cpuid;
pub mod domain;
pub mod domctl;
pub mod evtchn;
pub mod grant;
pub mod guest_memory;
pub mod heap;
pub mod hvm;
pub mod hypercall;
pub mod hypervisor;
pub mod lapic;
pub mod lifecycle;
pub mod locks;
pub mod machine;
pub mod memory;
pub mod multicall;
pub mod p2m;
pub mod report;
pub mod runstate;
pub mod sched;
pub mod speculation;
pub mod sysctl;
#[cfg(test)]
pub mod testing;
pub mod timer;
pub mod tmem;
pub mod trace;
pub mod trace_buffers;
pub mod vcpu;
pub mod vcpu_op;
pub mod version;
pub mod vm_assist;

pub use domain::Domain;
pub use hypervisor::Hypervisor;
pub use machine::Machine;
pub use vcpu::{Vcpu, VcpuRef};
