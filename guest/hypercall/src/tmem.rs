//! `tmem_op`: transcendent memory.
//!
//! Success is exactly 1, as Linux's driver has it: everything else that is no error is a no.
#![allow(unsafe_code)] // Calls that read and write the guest's pages.

use crate::call::call;
use shared_abi::hypercall::TMEM_OP;
use shared_abi::tmem::{
    DESTROY_POOL, FLUSH_OBJECT, FLUSH_PAGE, GET_PAGE, NEW_POOL, PUT_PAGE, TmemNewPool, TmemOid, TmemOp,
};
use shared_abi::xen::{Errno, Gfn};
use zerocopy::IntoBytes;

/// Makes the call as it stands.
///
/// # Safety
/// A [`GET_PAGE`] may write to its page: nobody else uses it.
pub unsafe fn operate(op: &TmemOp) -> Result<i64, Errno> {
    let address = core::ptr::from_ref(op).expose_provenance() as u64;
    // SAFETY: the structure is only read; what becomes of pages is the caller's contract.
    unsafe { call(TMEM_OP, [address, 0, 0, 0, 0]) }
}

/// A call that writes to no page of the guest's.
fn harmless(op: &TmemOp) -> Result<i64, Errno> {
    assert_ne!(op.cmd, GET_PAGE, "a get writes");
    // SAFETY: it is not a get.
    unsafe { operate(op) }
}

/// Makes a pool; its number.
pub fn new_pool(uuid: [u64; 2], flags: u32) -> Result<u32, Errno> {
    let new = TmemNewPool { cmd: NEW_POOL, pool_id: 0, uuid, flags, arg1: 0 };
    let mut op = TmemOp::default();
    op.as_mut_bytes()[..size_of::<TmemNewPool>()].copy_from_slice(new.as_bytes());
    harmless(&op).map(|pool| pool as u32)
}

/// Destroys a pool; whether there was one.
pub fn destroy_pool(pool: u32) -> Result<bool, Errno> {
    harmless(&TmemOp { cmd: DESTROY_POOL, pool_id: pool as i32, ..Default::default() }).map(|result| result == 1)
}

fn page_op(cmd: u32, pool: u32, oid: TmemOid, index: u32, cmfn: Gfn) -> TmemOp {
    TmemOp { cmd, pool_id: pool as i32, oid, index, cmfn, ..Default::default() }
}

/// Puts a page.
pub fn put(pool: u32, oid: TmemOid, index: u32, page: Gfn) -> Result<bool, Errno> {
    harmless(&page_op(PUT_PAGE, pool, oid, index, page)).map(|result| result == 1)
}

/// Gets a page; whether it was there.
///
/// # Safety
/// The caller holds the page, and nothing refers to its contents.
pub unsafe fn get(pool: u32, oid: TmemOid, index: u32, page: Gfn) -> Result<bool, Errno> {
    // SAFETY: only this page is written to, which is the caller's.
    unsafe { operate(&page_op(GET_PAGE, pool, oid, index, page)) }.map(|result| result == 1)
}

/// Forgets a page.
pub fn flush_page(pool: u32, oid: TmemOid, index: u32) -> Result<bool, Errno> {
    harmless(&page_op(FLUSH_PAGE, pool, oid, index, Gfn(0))).map(|result| result == 1)
}

/// Forgets an object's pages.
pub fn flush_object(pool: u32, oid: TmemOid) -> Result<bool, Errno> {
    harmless(&page_op(FLUSH_OBJECT, pool, oid, 0, Gfn(0))).map(|result| result == 1)
}
