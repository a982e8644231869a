//! `version.h`: `xen_version`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XENVER_version`: major in bits 16 up, minor below. No argument.
pub const VERSION: u32 = 0;
/// `XENVER_extraversion`: [`ExtraVersion`].
pub const EXTRAVERSION: u32 = 1;
/// `XENVER_compile_info`: [`CompileInfo`].
pub const COMPILE_INFO: u32 = 2;
/// `XENVER_capabilities`: [`CapabilitiesInfo`].
pub const CAPABILITIES: u32 = 3;
/// `XENVER_changeset`: [`ChangesetInfo`].
pub const CHANGESET: u32 = 4;
/// `XENVER_platform_parameters`: [`PlatformParameters`].
pub const PLATFORM_PARAMETERS: u32 = 5;
/// `XENVER_get_features`: [`FeatureInfo`].
pub const GET_FEATURES: u32 = 6;
/// `XENVER_pagesize`: the page size in bytes. No argument.
pub const PAGESIZE: u32 = 7;
/// `XENVER_guest_handle`: the calling domain's UUID ([`crate::xen::DomainHandle`]).
pub const GUEST_HANDLE: u32 = 8;
/// `XENVER_commandline`: [`CommandLine`]. Privileged.
pub const COMMANDLINE: u32 = 9;
/// `XENVER_build_id`: [`BuildId`] and its bytes.
pub const BUILD_ID: u32 = 10;

/// The version Ebb reports, as the first operation returns it: 4.17.
pub const REPORTED_VERSION: u32 = 4 << 16 | 17;

/// `xen_extraversion_t`: NUL-terminated.
pub type ExtraVersion = [u8; 16];
/// `xen_capabilities_info_t`: NUL-terminated.
pub type CapabilitiesInfo = [u8; 1024];
/// `xen_changeset_info_t`: NUL-terminated.
pub type ChangesetInfo = [u8; 64];
/// `xen_commandline_t`: NUL-terminated.
pub type CommandLine = [u8; 1024];

/// `struct xen_compile_info`: NUL-terminated strings.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CompileInfo {
    /// The compiler's name.
    pub compiler: [u8; 64],
    /// Who.
    pub compile_by: [u8; 16],
    /// Where.
    pub compile_domain: [u8; 32],
    /// When.
    pub compile_date: [u8; 32],
}

/// `struct xen_platform_parameters`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PlatformParameters {
    /// Where the hypervisor's area starts (paravirtual guests).
    pub virt_start: u64,
}

/// `struct xen_feature_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct FeatureInfo {
    /// In: which 32 features.
    pub submap_idx: u32,
    /// Out: their bits ([`crate::features`]).
    pub submap: u32,
}

/// `struct xen_build_id`: the header; `len` bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BuildId {
    /// In: room. Out: bytes.
    pub len: u32,
}

const _: () = {
    assert!(size_of::<CompileInfo>() == 144);
    assert!(core::mem::offset_of!(CompileInfo, compile_date) == 112);
    assert!(size_of::<PlatformParameters>() == 8);
    assert!(size_of::<FeatureInfo>() == 8);
    assert!(size_of::<BuildId>() == 4);
};
