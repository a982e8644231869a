//! `xen_version`.
#![allow(unsafe_code)] // Commands without a structure.

use crate::call::{call, command};
use shared_abi::features::Features;
use shared_abi::hypercall::XEN_VERSION;
use shared_abi::version as abi;
use shared_abi::xen::{DomainHandle, Errno};

/// The version: major in bits 16 up, minor below. The cheapest hypercall there is.
pub fn version() -> Result<u32, Errno> {
    // SAFETY: the operation has no argument.
    unsafe { call(XEN_VERSION, [u64::from(abi::VERSION), 0, 0, 0, 0]) }.map(|version| version as u32)
}

/// The page size, bytes.
pub fn pagesize() -> Result<u64, Errno> {
    // SAFETY: the operation has no argument.
    unsafe { call(XEN_VERSION, [u64::from(abi::PAGESIZE), 0, 0, 0, 0]) }.map(|size| size as u64)
}

/// What follows the version, NUL-terminated.
pub fn extraversion() -> Result<abi::ExtraVersion, Errno> {
    let mut text = [0; 16];
    command(XEN_VERSION, u64::from(abi::EXTRAVERSION), &mut text).map(|_| text)
}

/// What guests are supported, NUL-terminated, into `text`.
pub fn capabilities(text: &mut abi::CapabilitiesInfo) -> Result<(), Errno> {
    command(XEN_VERSION, u64::from(abi::CAPABILITIES), text).map(drop)
}

/// The change the hypervisor was built from, NUL-terminated.
pub fn changeset() -> Result<abi::ChangesetInfo, Errno> {
    let mut text = [0; 64];
    command(XEN_VERSION, u64::from(abi::CHANGESET), &mut text).map(|_| text)
}

/// Who built the hypervisor, and how.
pub fn compile_info(info: &mut abi::CompileInfo) -> Result<(), Errno> {
    command(XEN_VERSION, u64::from(abi::COMPILE_INFO), info).map(drop)
}

/// Features of submap `index`.
pub fn features(index: u32) -> Result<Features, Errno> {
    let mut info = abi::FeatureInfo { submap_idx: index, submap: 0 };
    command(XEN_VERSION, u64::from(abi::GET_FEATURES), &mut info)?;
    Ok(Features::from_bits_retain(info.submap))
}

/// The domain's UUID.
pub fn guest_handle() -> Result<DomainHandle, Errno> {
    let mut handle = [0; 16];
    command(XEN_VERSION, u64::from(abi::GUEST_HANDLE), &mut handle).map(|_| handle)
}

/// The hypervisor's command line, NUL-terminated. Privileged domains only.
pub fn commandline(text: &mut abi::CommandLine) -> Result<(), Errno> {
    command(XEN_VERSION, u64::from(abi::COMMANDLINE), text).map(drop)
}
