//! The control domain's logic: what a small hypervisor leaves to a privileged guest.
//!
//! It prepares each domain that the hypervisor has built (rings, event channels, parameters, its part of XenStore) and
//! lets it run; serves XenStore and the consoles; obeys a script; sets memory targets by a policy; ends the machine when
//! nobody is left. All of it is one state machine, [`Control`], that is stepped whenever an event came or its time has;
//! the machine is behind the trait [`Machine`].
//!
//! Guests are hostile. What a guest can make us do is bounded in each turn, what it can make us keep is bounded at all,
//! and whatever it does to its pages or its part of the tree hurts its own connection and nothing else.
//!
//! Modules: `machine` (the border), `control` (the whole), `domain` (one domain: preparation, links, record), `tree`
//! (XenStore's layout), `console` (rings, lines, keys), `script`, `policy`, `options`.
//!
//! Locking: none; one `&mut Control` at a time. Specification: Xen's `docs/misc/xenstore-paths.pandoc`, `io/console.h`,
//! and what libxl does when it creates a domain; `docs/control-domain.md` says where Ebb differs.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod console;
mod control;
pub mod domain;
mod machine;
mod options;
pub mod policy;
pub mod script;
pub mod tree;

pub use control::{Control, Next};
pub use machine::{Machine, Signal};
pub use options::{Options, PolicyKind};
