//! `tmem.h`: `tmem_op`, 64-bit layout. Error numbers 1000 and 1001 are [`crate::Errno::EFROZEN`] and
//! [`crate::Errno::EEMPTY`]. The control interface is in [`crate::sysctl`].

use crate::xen::Gfn;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `TMEM_SPEC_VERSION`: the version in a pool's flags.
pub const SPEC_VERSION: u32 = 1;

/// `TMEM_NEW_POOL`: make a pool; its id is returned.
pub const NEW_POOL: u32 = 1;
/// `TMEM_DESTROY_POOL`: destroy it.
pub const DESTROY_POOL: u32 = 2;
/// `TMEM_PUT_PAGE`: store a page.
pub const PUT_PAGE: u32 = 4;
/// `TMEM_GET_PAGE`: get it back.
pub const GET_PAGE: u32 = 5;
/// `TMEM_FLUSH_PAGE`: forget a page.
pub const FLUSH_PAGE: u32 = 6;
/// `TMEM_FLUSH_OBJECT`: forget all pages of an object.
pub const FLUSH_OBJECT: u32 = 7;
/// `TMEM_AUTH`: through the control interface instead.
pub const AUTH: u32 = 101;
/// `TMEM_RESTORE_NEW`: through the control interface instead.
pub const RESTORE_NEW: u32 = 102;

/// `TMEM_POOL_PERSIST`: pages stay until flushed.
pub const POOL_PERSIST: u32 = 1;
/// `TMEM_POOL_SHARED`: pages are shared by the pool's UUID.
pub const POOL_SHARED: u32 = 2;
/// `TMEM_POOL_PRECOMPRESSED`: pages come compressed.
pub const POOL_PRECOMPRESSED: u32 = 4;
/// `TMEM_POOL_PAGESIZE_SHIFT`: where the page size is in the flags.
pub const POOL_PAGESIZE_SHIFT: u32 = 4;
/// `TMEM_POOL_PAGESIZE_MASK`: its width; 0 means 4 KiB.
pub const POOL_PAGESIZE_MASK: u32 = 0xf;
/// `TMEM_POOL_VERSION_SHIFT`: where the version is in the flags.
pub const POOL_VERSION_SHIFT: u32 = 24;
/// `TMEM_POOL_VERSION_MASK`: its width.
pub const POOL_VERSION_MASK: u32 = 0xff;
/// `TMEM_POOL_RESERVED_BITS`: must be 0.
pub const POOL_RESERVED_BITS: u32 = 0x00ff_ff00;

/// `TMEM_CLIENT_COMPRESS`: the client's pages are compressed.
pub const CLIENT_COMPRESS: u32 = 1;
/// `TMEM_CLIENT_FROZEN`: the client is frozen.
pub const CLIENT_FROZEN: u32 = 2;

/// Pools of a domain.
pub const MAX_POOLS_PER_DOMAIN: u32 = 16;
/// Shared pools of the machine.
pub const MAX_SHARED_POOLS: u32 = 16;

/// `struct xen_tmem_oid`: an object's name, 192 bits.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct TmemOid {
    /// The words.
    pub oid: [u64; 3],
}

/// `struct tmem_op` for all operations but [`NEW_POOL`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TmemOp {
    /// The operation.
    pub cmd: u32,
    /// The pool.
    pub pool_id: i32,
    /// `u.gen.oid`: the object.
    pub oid: TmemOid,
    /// `u.gen.index`: the page in the object.
    pub index: u32,
    /// `u.gen.tmem_offset`: obsolete.
    pub tmem_offset: u32,
    /// `u.gen.pfn_offset`: obsolete.
    pub pfn_offset: u32,
    /// `u.gen.len`: obsolete.
    pub len: u32,
    /// `u.gen.cmfn`: the guest's page.
    pub cmfn: Gfn,
}

/// The beginning of `struct tmem_op` for [`NEW_POOL`]; bytes from 32 on mean nothing then.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TmemNewPool {
    /// [`NEW_POOL`].
    pub cmd: u32,
    /// Nothing.
    pub pool_id: i32,
    /// `u.creat.uuid`: of a shared pool.
    pub uuid: [u64; 2],
    /// `u.creat.flags`: `TMEM_POOL_*`.
    pub flags: u32,
    /// `u.creat.arg1`: nothing (clients leave garbage here).
    pub arg1: u32,
}

impl TmemOp {
    /// The same argument read as [`NEW_POOL`]'s.
    pub fn as_new_pool(&self) -> TmemNewPool {
        let [_, uuid_low, uuid_high, flags, ..]: [u64; 7] = zerocopy::transmute!(*self);
        TmemNewPool {
            cmd: self.cmd,
            pool_id: self.pool_id,
            uuid: [uuid_low, uuid_high],
            flags: flags as u32,
            arg1: (flags >> 32) as u32,
        }
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<TmemOid>() == 24);
    assert!(size_of::<TmemOp>() == 56);
    assert!(offset_of!(TmemOp, pool_id) == 4);
    assert!(offset_of!(TmemOp, oid) == 8);
    assert!(offset_of!(TmemOp, index) == 32);
    assert!(offset_of!(TmemOp, tmem_offset) == 36);
    assert!(offset_of!(TmemOp, pfn_offset) == 40);
    assert!(offset_of!(TmemOp, len) == 44);
    assert!(offset_of!(TmemOp, cmfn) == 48);
    assert!(size_of::<TmemNewPool>() == 32);
    assert!(offset_of!(TmemNewPool, flags) == 24);
    assert!(offset_of!(TmemNewPool, arg1) == 28);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_argument_is_read_in_both_ways() {
        let new = TmemNewPool { cmd: NEW_POOL, pool_id: -1, uuid: [3, 4], flags: 0x0100_0001, arg1: 0xdead };
        let mut op = TmemOp::default();
        op.as_mut_bytes()[..size_of::<TmemNewPool>()].copy_from_slice(new.as_bytes());
        assert_eq!(op.as_new_pool(), new);
        assert_eq!((op.cmd, op.pool_id, op.oid.oid[0]), (NEW_POOL, -1, 3));
    }
}
