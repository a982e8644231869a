//! The audit: looks at every frame of the machine and says whether each has exactly one owner, whether the p2ms, the
//! frame records, the charges and the ledger tell the same story. For tests and debugging, on a machine that stands
//! still: nothing may allocate, free or map meanwhile.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use shared_abi::xen::{DomId, Mfn};

use crate::heap::{Ledger, Owner};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::memory::DomainMemory;
use crate::p2m::{FrameKind, Piece};

/// Finds in the making.
struct Audit<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    /// Whether a frame has been accounted for.
    seen: Vec<bool>,
    found: Ledger,
    error: Option<String>,
}

impl<M: Machine> Hypervisor<M> {
    /// Checks everything there is to know about memory.
    ///
    /// # Errors
    /// The first contradiction found, in words.
    pub fn audit_memory(&self) -> Result<(), String> {
        let ledger = self.heap.ledger();
        if !ledger.adds_up() {
            return Err(format!("the ledger does not add up: {ledger:?}"));
        }
        let seen = alloc::vec![false; self.heap.frame_count() as usize];
        let mut audit = Audit { hv: self, seen, found: Ledger::default(), error: None };
        let mut free = 0;
        self.heap.each_free(|first, order| {
            free += 1 << order;
            audit.mark(first, order, "free");
        });
        for domain in self.each_domain() {
            audit.domain(domain.id, &domain.memory);
        }
        // Those that are built, or taken apart again, between two steps.
        for construction in self.constructions.lock().iter() {
            audit.domain(construction.id, &construction.memory);
        }
        audit.rest(&ledger);
        audit.compare("free pages", free, ledger.free + ledger.scrubbing);
        audit.compare("domains' pages", audit.found.domains, ledger.domains);
        audit.error.map_or(Ok(()), Err)
    }
}

impl<M: Machine> Audit<'_, M> {
    fn fail(&mut self, error: String) {
        self.error.get_or_insert(error);
    }

    fn compare(&mut self, what: &str, found: u64, expected: u64) {
        if found != expected {
            self.fail(format!("{what}: {found} found, {expected} expected"));
        }
    }

    fn mark(&mut self, first: u32, order: u32, what: &str) {
        for frame in first as usize..first as usize + (1 << order) {
            if core::mem::replace(&mut self.seen[frame], true) {
                self.fail(format!("frame {frame:#x} ({what}) has two owners"));
            }
        }
    }

    fn owned(&mut self, mfn: Mfn, order: u32, owner: Owner, what: &str) {
        let record = self.hv.heap.owner_of(mfn.0 as u32);
        if record != Some((owner, order)) {
            self.fail(format!("frame {:#x} ({what}): {owner:?} order {order} expected, recorded {record:?}", mfn.0));
        }
        self.mark(mfn.0 as u32, order, what);
    }

    fn domain(&mut self, id: DomId, memory: &DomainMemory<M>) {
        let mut pieces = Vec::new();
        memory.p2m.read().inspect(self.hv.frames(), &mut |piece| pieces.push(piece));
        let mut pages = 0;
        let mut tables = 0u64;
        for piece in pieces {
            match piece {
                Piece::Table { table, counted, present } => {
                    tables += 1;
                    self.owned(table, 0, Owner::PageTable, "page table");
                    self.compare("entries of a page table", u64::from(counted), u64::from(present));
                }
                Piece::Leaf { gfn, leaf, order } if leaf.kind == FrameKind::Ram => {
                    pages += 1 << order;
                    self.owned(leaf.mfn, order, Owner::Domain(id), &format!("gfn {:#x} of {}", gfn.0, id));
                }
                Piece::Leaf { .. } => {}
            }
        }
        let counted = memory.p2m.read().tables();
        self.compare("tables of a p2m", tables.saturating_sub(1), counted);
        let mut unmapped = Vec::new();
        memory.each_unmapped(self.hv, |mfn, order| unmapped.push((mfn, order)));
        for (mfn, order) in unmapped {
            pages += 1 << order;
            self.owned(mfn, order, Owner::Domain(id), "unmapped");
        }
        pages += self.orphans(id);
        pages += self.hv.tmem_frames(id, ebb_tmem::Kind::Persistent);
        self.compare("charge of a domain", memory.current(), pages);
    }

    /// Frames of a domain's that only pins keep.
    fn orphans(&mut self, domain: DomId) -> u64 {
        let heap = &self.hv.heap;
        let orphans: Vec<u32> = (0..heap.frame_count() as u32)
            .filter(|mfn| heap.is_orphan(*mfn) && heap.owner_of(*mfn) == Some((Owner::Domain(domain), 0)))
            .collect();
        for mfn in &orphans {
            self.mark(*mfn, 0, "orphan");
        }
        orphans.len() as u64
    }

    /// What no domain in the table accounts for: the hypervisor's blocks, and orphans of domains that are gone.
    fn rest(&mut self, ledger: &Ledger) {
        let heap = &self.hv.heap;
        for mfn in 0..heap.frame_count() as u32 {
            let Some((owner, order)) = heap.owner_of(mfn) else { continue };
            let pages = 1 << order;
            match owner {
                Owner::Domain(_) => self.found.domains += pages,
                Owner::Hypervisor | Owner::PageTable => self.found.hypervisor += pages,
                Owner::TmemEphemeral(_) => self.found.tmem_ephemeral += pages,
                Owner::TmemPersistent(_) => self.found.tmem_persistent += pages,
            }
            if self.seen[mfn as usize] {
                continue;
            }
            match owner {
                Owner::Domain(_) if heap.is_orphan(mfn) => {}
                Owner::Domain(_) | Owner::PageTable => {
                    self.fail(format!("frame {mfn:#x} is lost: {owner:?} order {order}"));
                }
                _ => {}
            }
            self.mark(mfn, order, "the hypervisor's");
        }
        self.compare("ephemeral pages", self.found.tmem_ephemeral, ledger.tmem_ephemeral);
        self.compare("persistent pages", self.found.tmem_persistent, ledger.tmem_persistent);
        let outside = ledger.hypervisor.checked_sub(self.found.hypervisor);
        if outside.is_none() {
            self.fail(format!("{} hypervisor pages found, {} in the ledger", self.found.hypervisor, ledger.hypervisor));
        }
    }
}
