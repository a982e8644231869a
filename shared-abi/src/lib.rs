//! The Xen ABI: numbers, structures, errno values and layouts that the hypervisor, the guests and the host tool share.
//!
//! Modules are named after Xen's public headers, items after Xen's names in full words, fields exactly as Xen's.
//! Layouts are those of a 64-bit guest; what a 32-bit guest sees is in [`compat`]. Every layout is asserted at the foot
//! of its file, and `tests/xen_headers` compares sizes, offsets and constants with Xen's own headers.
//!
//! Conventions:
//! - Numbers that come from the other side are open newtypes or plain integers, so an unknown value survives a round trip.
//! - Structures have no implicit padding and no invalid bit pattern: they derive zerocopy's `FromBytes` and `IntoBytes`.
//!   `zerocopy::FromZeros::new_zeroed()` makes an empty one of each. Padding fields are public so that struct literals work.
//! - A C union is an array of its size with typed accessors.
//! - C field names that are Rust keywords get a trailing underscore (`in_`, `ref_`, `type_`).
//!
//! Specification: Xen's public headers, 4.17 level; tmem as in the last tree that had it (2019). Not Xen's:
//! [`trace_stream`], [`guest_event`], [`size`], [`tmem_settings`] and [`mod@bench`], which are Ebb's own.
#![no_std]
#![forbid(unsafe_code)]

pub mod arch_x86;
pub mod bench;
pub mod callback;
pub mod domctl;
pub mod elfnote;
pub mod event_channel;
pub mod exit_reason;
pub mod features;
pub mod grant_table;
pub mod guest_event;
pub mod hvm;
pub mod io;
pub mod memory;
pub mod physdev;
pub mod sched;
pub mod size;
pub mod sysctl;
pub mod tmem;
pub mod tmem_settings;
pub mod trace;
pub mod trace_stream;
pub mod vcpu;
pub mod version;
pub mod xen;

pub use hvm::start_info;
pub use xen::{Errno, compat, errno, hypercall};
