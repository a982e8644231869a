//! The way in: entry points, boot protocols, and what the loader left in memory.
//!
//! `entry.S` brings the processor into 64-bit mode; the parsers turn either protocol's structure into a
//! [`info::BootInfo`]; on the machine the result is kept for good and read through [`info()`] and [`modules()`].

pub mod info;
pub mod multiboot2;
pub mod pvh;

use info::{BootError, BootInfo, PhysicalMemory};

/// Reads the loader's structure at `address` by the protocol that `magic` names.
///
/// # Errors
/// [`BootError`] when the protocol is unknown or the structure unusable.
pub fn parse(memory: &impl PhysicalMemory, magic: u32, address: u64) -> Result<BootInfo, BootError> {
    match magic {
        pvh::START_MAGIC => pvh::parse(memory, address),
        multiboot2::MAGIC => multiboot2::parse(memory, address),
        other => Err(BootError::UnknownProtocol(other)),
    }
}

#[cfg(target_os = "none")]
mod machine {
    #![allow(unsafe_code, reason = "entry code in assembly, and physical memory read through the boot page tables")]

    use super::info::{BootInfo, Module, PhysicalMemory};
    use crate::memory::layout::{BOOT_MAPPED, DIRECT_MAP_BASE};
    use spin::Once;

    core::arch::global_asm!(include_str!("entry.S"));

    static INFO: Once<BootInfo> = Once::new();

    /// The machine as handed to `run`: everything is up and the guests are still to be made.
    pub struct Boot {
        /// What the loader said.
        pub info: &'static BootInfo,
        /// Processors that run.
        pub cpus: usize,
    }

    /// Physical memory below [`BOOT_MAPPED`], through the boot page tables' direct map.
    pub(crate) struct BootMemory;

    impl PhysicalMemory for BootMemory {
        fn bytes(&self, address: u64, size: u64) -> Option<&[u8]> {
            let end = address.checked_add(size)?;
            if address == 0 || end > BOOT_MAPPED {
                return None;
            }
            // SAFETY: entry.S mapped all of 0..BOOT_MAPPED at DIRECT_MAP_BASE readable, and this type is used only
            // while those tables are active. Nobody writes the loader's structures; where the range is not RAM the
            // bytes read are meaningless but the read is harmless.
            Some(unsafe { core::slice::from_raw_parts((DIRECT_MAP_BASE + address) as *const u8, size as usize) })
        }
    }

    /// Keeps the parsed information for good.
    pub(crate) fn keep(info: BootInfo) -> &'static BootInfo {
        INFO.call_once(|| info)
    }

    /// What the loader said.
    ///
    /// # Panics
    /// Before `machine::bring_up` has parsed it.
    pub fn info() -> &'static BootInfo {
        INFO.get().expect("boot information is read first")
    }

    /// The loader's modules: physical range and line.
    pub fn modules() -> &'static [Module] {
        &info().modules
    }

    /// A module's contents, through the direct map. They stay where they are until the machine ends.
    pub fn module_bytes(module: &Module) -> &'static [u8] {
        let start = crate::memory::phys_to_virt(module.start);
        // SAFETY: memory::init keeps the modules' ranges out of everything it hands out and maps them in the direct
        // map, so the bytes are readable and never written for the rest of the machine's life.
        unsafe { core::slice::from_raw_parts(start, module.size as usize) }
    }
}
#[cfg(target_os = "none")]
pub use machine::*;
