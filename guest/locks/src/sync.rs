//! The laboratory's atomics, which a model checker replaces (`tests/lab.rs` includes the modules beside another one).

pub(crate) use core::sync::atomic::{AtomicU32, Ordering};
