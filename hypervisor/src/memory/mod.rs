//! Physical memory: who uses what until the core takes over, the page tables, the heap.
//!
//! [`init`] reads the loader's map, keeps the image, modules and firmware out of it, builds the final address space
//! (layout.rs) and fills the heap. What is left is [`free_ranges`]; after [`seal`] no early allocation is possible and
//! those ranges belong to whoever took them.
//!
//! Locking: one lock, taken at boot and for [`map_mmio`]; never on an exit path.

pub mod layout;
pub mod ranges;

#[cfg(target_os = "none")]
pub mod clear;
#[cfg(target_os = "none")]
pub mod heap;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub use machine::*;
