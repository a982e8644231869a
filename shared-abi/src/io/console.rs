//! `io/console.h`: the ring of the Xen console, one page. Accessed in place by both sides.

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes from the back end to the guest that the ring holds.
pub const IN_SIZE: u32 = 1024;
/// Bytes from the guest to the back end that the ring holds.
pub const OUT_SIZE: u32 = 2048;

/// `struct xencons_interface`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ConsoleInterface {
    /// `in`: to the guest.
    pub in_: [u8; IN_SIZE as usize],
    /// From the guest.
    pub out: [u8; OUT_SIZE as usize],
    /// Consumed by the guest.
    pub in_cons: u32,
    /// Produced for it.
    pub in_prod: u32,
    /// Consumed by the back end.
    pub out_cons: u32,
    /// Produced by the guest.
    pub out_prod: u32,
}

/// Offset of `in`.
pub const IN: usize = offset_of!(ConsoleInterface, in_);
/// Offset of `out`.
pub const OUT: usize = offset_of!(ConsoleInterface, out);
/// Offset of `in_cons`.
pub const IN_CONS: usize = offset_of!(ConsoleInterface, in_cons);
/// Offset of `in_prod`.
pub const IN_PROD: usize = offset_of!(ConsoleInterface, in_prod);
/// Offset of `out_cons`.
pub const OUT_CONS: usize = offset_of!(ConsoleInterface, out_cons);
/// Offset of `out_prod`.
pub const OUT_PROD: usize = offset_of!(ConsoleInterface, out_prod);

const _: () = {
    assert!(size_of::<ConsoleInterface>() == 3088);
    assert!(OUT == 1024 && IN_CONS == 3072 && OUT_PROD == 3084);
};
