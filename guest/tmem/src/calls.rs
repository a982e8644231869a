//! The calls that both need, as a border for tests and for kernels.

use shared_abi::tmem::{POOL_PERSIST, POOL_SHARED, POOL_VERSION_SHIFT, SPEC_VERSION, TmemOid};
use shared_abi::xen::{Errno, Gfn};

/// A pool of this guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolId(pub u32);

/// A shared pool's name.
pub type Uuid = [u64; 2];

/// Flags of a private ephemeral pool, version 1.
pub const EPHEMERAL_POOL: u32 = SPEC_VERSION << POOL_VERSION_SHIFT;
/// Flags of a shared ephemeral pool.
pub const SHARED_POOL: u32 = EPHEMERAL_POOL | POOL_SHARED;
/// Flags of a persistent pool.
pub const PERSISTENT_POOL: u32 = EPHEMERAL_POOL | POOL_PERSIST;

/// `tmem_op`. Success is exactly 1 there; anything else that is no error is a no.
pub trait Calls {
    /// Makes a pool.
    ///
    /// # Errors
    /// What the hypervisor answers; `ENOSYS` where there is no transcendent memory.
    fn new_pool(&mut self, uuid: Uuid, flags: u32) -> Result<PoolId, Errno>;
    /// Destroys a pool with all in it.
    fn destroy_pool(&mut self, pool: PoolId);
    /// Puts a page of the guest's.
    ///
    /// # Errors
    /// What the hypervisor answers.
    fn put(&mut self, pool: PoolId, oid: TmemOid, index: u32, page: Gfn) -> Result<(), Errno>;
    /// Gets a page into a page of the guest's, which is unchanged unless this is true.
    fn get(&mut self, pool: PoolId, oid: TmemOid, index: u32, page: Gfn) -> bool;
    /// Forgets a page. When it returns, the page is gone.
    fn flush_page(&mut self, pool: PoolId, oid: TmemOid, index: u32);
    /// Forgets all pages of an object.
    fn flush_object(&mut self, pool: PoolId, oid: TmemOid);
}
