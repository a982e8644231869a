//! Hypercalls and event channels for a 64-bit Rust kernel that runs as a PVH (or HVM) guest of Xen or Ebb.
//!
//! A kernel adopts it in three steps:
//! 1. [`cpuid::find`] looks for the hypervisor; [`call::open_page`] (or [`call::open`]) makes hypercalls possible. Before
//!    that every call answers `-ENOSYS`.
//! 2. The typed wrappers ([`memory`], [`sched`], [`vcpu`], ...) return `Result<_, Errno>`. A wrapper is `unsafe` when a
//!    wrong argument could change memory that Rust believes in: giving pages away, mapping over them, or registering
//!    areas that the hypervisor writes to later.
//! 3. [`evtchn`] holds the two event-channel ABIs over shared pages ([`shared`]), and [`pvclock`] reads the clock.
//!
//! All shared pages are accessed as atomics, since the hypervisor writes to them at any time. The unsafe code is in
//! [`call`] (the trap), [`shared`] (turning addresses into references) and the thin wrappers around handles.
//!
//! Specification: Xen's public headers, 4.17.
#![cfg_attr(not(test), no_std)]

pub mod call;
pub mod console;
pub mod cpuid;
pub mod domctl;
pub mod event_channel;
pub mod evtchn;
pub mod grant_table;
pub mod hvm;
pub mod memory;
pub mod multicall;
pub mod pvclock;
pub mod sched;
pub mod shared;
pub mod sysctl;
pub mod timer;
pub mod tmem;
pub mod vcpu;
pub mod version;

pub use shared_abi::xen::{DomId, Errno, Gfn, Port, VcpuId, Virq};
