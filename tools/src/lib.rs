//! The host side of Ebb: packs domains into boot archives and images, starts machines in QEMU,
//! follows their trace streams, and draws what happened.
//!
//! The `ebb` command is a thin layer over this library; the whole-machine tests use it as well, so
//! that both start machines in exactly the same way.

pub mod accel;
pub mod archive;
pub mod bench;
pub mod bochs;
pub mod bochs_bench;
pub mod cmd;
pub mod config;
pub mod contention;
pub mod control;
pub mod experiment;
pub mod image;
pub mod iso;
pub mod library;
pub mod linux;
pub mod machine_bench;
pub mod nested;
pub mod paths;
pub mod qemu;
pub mod report;
pub mod scenario;
pub mod session;
pub mod size;
pub mod tail;
pub mod trace;
pub mod trade_bench;
pub mod view;
