//! `callback.h`: callbacks of paravirtual guests. For PVH guests see [`crate::hvm::params::CallbackVia`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `CALLBACKOP_register`: register a callback.
pub const REGISTER: u32 = 0;
/// `CALLBACKOP_unregister`: remove one.
pub const UNREGISTER: u32 = 1;

/// `CALLBACKTYPE_event`: events.
pub const TYPE_EVENT: u16 = 0;
/// `CALLBACKTYPE_failsafe`: a return to the guest failed.
pub const TYPE_FAILSAFE: u16 = 1;
/// `CALLBACKTYPE_syscall`: SYSCALL.
pub const TYPE_SYSCALL: u16 = 2;
/// `CALLBACKTYPE_nmi`: NMI.
pub const TYPE_NMI: u16 = 4;
/// `CALLBACKTYPE_sysenter`: SYSENTER.
pub const TYPE_SYSENTER: u16 = 5;
/// `CALLBACKTYPE_syscall32`: SYSCALL of 32-bit code.
pub const TYPE_SYSCALL32: u16 = 7;
/// `CALLBACKF_mask_events`: mask events during the callback.
pub const FLAG_MASK_EVENTS: u16 = 1 << 0;

/// `struct callback_register`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CallbackRegister {
    /// `type`: `CALLBACKTYPE_*`.
    pub type_: u16,
    /// `CALLBACKF_*`.
    pub flags: u16,
    /// Padding.
    pub pad: u32,
    /// Where.
    pub address: u64,
}

/// `struct callback_unregister`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CallbackUnregister {
    /// `type`: `CALLBACKTYPE_*`.
    pub type_: u16,
    /// Padding.
    pub _unused: u16,
}

const _: () = {
    assert!(size_of::<CallbackRegister>() == 16);
    assert!(core::mem::offset_of!(CallbackRegister, address) == 8);
    assert!(size_of::<CallbackUnregister>() == 4);
};
