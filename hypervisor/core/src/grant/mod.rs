//! Grant tables, version 1: pages that a domain lets another one map or copy.
//!
//! - [`table`]: the granter's side: entries, and what is in use of them.
//! - [`maptrack`]: the user's side: handles for mappings.
//! - [`map`], [`copy`]: the operations on pages; [`op`]: the hypercall.
//!
//! A mapping holds its granter's structures (not its life), the entry's use holds a pin on the page, and so does the
//! page-table entry. So a granter that removes the page, or ends, leaves it charged to itself until the last user has
//! let go; and a user that ends lets go in its teardown. A mapping's marks in the granter's entry are cleared only after
//! no CPU can reach the page through it.
//!
//! Xen's rules, with these differences: memory found where a page is mapped is given back to the host (as everywhere in
//! Ebb); a mapping must be unmapped where it was mapped; `dev_bus_addr` is the guest-physical address of the mapping,
//! since a guest has no other bus; `cache_flush` takes such an address, and is offered (Xen refuses it to HVM domains).
//!
//! Locking: the table's and the mappings' lock both have rank GRANT, and nobody holds two of that rank. Under the
//! table's lock the p2m of its domain may be locked.
//!
//! Specification: Xen 4.17's `grant_table.h` and what its hypervisor answers to an HVM domain.

mod active;
mod copy;
mod map;
mod maptrack;
mod op;
mod table;

use shared_abi::grant_table::GrantRef;
use shared_abi::xen::{DomId, Errno, Gfn};

use crate::domain::Domain;
use crate::heap::PinnedFrame;
use crate::hypervisor::Hypervisor;
use crate::locks::{Mutex, rank};
use crate::machine::Machine;
pub(crate) use map::release_mappings;
use maptrack::Maptrack;
pub use op::grant_table_op;
pub use table::MAX_FRAMES;
use table::Table;

/// A domain's grants, given and taken.
pub struct DomainGrants<M: Machine> {
    table: Mutex<Table, { rank::GRANT }>,
    maptrack: Mutex<Maptrack<M>, { rank::GRANT }>,
}

impl<M: Machine> DomainGrants<M> {
    /// An empty table (it gets frames when someone asks for them), and nothing mapped.
    pub const fn new() -> Self {
        Self { table: Mutex::new(Table::new()), maptrack: Mutex::new(Maptrack::new()) }
    }

    /// Entries of its table in use.
    pub fn in_use(&self) -> u32 {
        self.table.lock().in_use()
    }

    /// Grants of others' it has mapped. Takes time for many.
    pub fn mapped(&self) -> usize {
        self.maptrack.lock().mapped()
    }
}

impl<M: Machine> Default for DomainGrants<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes an entry of `domain`'s table on its behalf: `to` may map `gfn`. For the reserved entries of the console and
/// XenStore, before the domain runs.
///
/// # Errors
/// `EINVAL` outside the table or when the domain ends, `ENOMEM`.
pub fn permit<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    gref: GrantRef,
    to: DomId,
    gfn: Gfn,
) -> Result<(), Errno> {
    let mut table = domain.grants.table.lock();
    table.grow(hv, 1)?;
    table.permit(hv, gref, to, gfn)
}

/// Maps frame `index` of `domain`'s table at `gfn` of its memory; the table grows as far as that needs.
///
/// # Errors
/// `EINVAL` for an index beyond the limit or a bad gfn, `ENOMEM`.
pub(crate) fn map_table_frame<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    index: u64,
    gfn: Gfn,
) -> Result<(), Errno> {
    let index = table_index(index)?;
    let mut table = domain.grants.table.lock();
    grow_for(&mut table, hv, index)?;
    table.map(hv, domain, index, gfn)
}

/// A frame of `domain`'s table for another domain to map; the table grows as far as that needs.
///
/// # Errors
/// `EINVAL` for an index beyond the limit, or when the table cannot grow so far.
pub(crate) fn pin_table_frame<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    index: u64,
) -> Result<PinnedFrame, Errno> {
    let index = table_index(index)?;
    let mut table = domain.grants.table.lock();
    grow_for(&mut table, hv, index)?;
    table.pin(hv, index)
}

fn table_index(index: u64) -> Result<u32, Errno> {
    u32::try_from(index).ok().filter(|index| *index < MAX_FRAMES).ok_or(Errno::EINVAL)
}

/// As on Xen, a table that cannot grow is an invalid index.
fn grow_for<M: Machine>(table: &mut Table, hv: &Hypervisor<M>, index: u32) -> Result<(), Errno> {
    table.grow(hv, index + 1).map_err(|_| Errno::EINVAL)
}

/// Gives the table of a domain back, after its memory.
pub(crate) fn release_table<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>) {
    domain.grants.table.lock().close(hv);
}
