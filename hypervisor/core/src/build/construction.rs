//! A domain under construction: begun in one short step that finds every mistake and claims the memory, then carried on
//! in bounded steps, so that a domain that is built again while others run keeps no CPU for long.
//!
//! A step clears or maps at most [`STEP_CLEAR`] frames, copies at most [`STEP_COPY`] bytes, or takes one extent: of any
//! size when all free memory is clear, else of 2 MiB at most (and what clearing that on demand costs). Taking apart what
//! failed is bounded in the same way.
//!
//! Locking: a construction belongs to whoever holds it; nobody else can reach its memory. Those that are carried on by
//! any CPU lie in [`Hypervisor::constructions`] between two steps.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use shared_abi::memory::E820Entry;
use shared_abi::trace_stream::{DomainBuild, Kind};
use shared_abi::xen::{DomId, Gfn};
use zerocopy::IntoBytes;

use super::image::Image;
use super::layout::{self, ACPI_PAGE, Layout, RSDP_ADDRESS};
use super::{BuildError, LEAF_ORDERS, MAX_ORDER, StartOfDay, acpi};
use crate::domain::{Domain, DomainConfig};
use crate::heap::{Extent, Owner};
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, MachineAddress, PAGE_SHIFT, PAGE_SIZE};
use crate::memory::DomainMemory;
use crate::vcpu::Vcpu;

/// Frames cleared in one step.
const STEP_CLEAR: u64 = 256;
/// Bytes copied in one step.
const STEP_COPY: usize = 256 << 10;
/// Entries given back in one step when it has failed.
const STEP_RELEASE: usize = 64;
/// The largest extent while there is memory that is not cleared: clearing it on demand is then bounded.
const BOUNDED_ORDER: u32 = 9;

/// Where a construction stands.
enum Stage {
    /// Waiting for the claim: transcendent memory gives way a little at each step.
    Claim,
    /// Backing the plan's run `run` of RAM, of which `done` frames have memory. `limit`: extents of a higher order could
    /// not be had. `clear`: frames that may still be cleared beforehand for its sake.
    Populate { run: usize, done: u64, limit: u32, clear: u64 },
    /// Copying: `piece` is the next, of which `done` bytes are there.
    Copy { piece: usize, done: usize },
    /// It failed; what was taken goes back.
    Failed(BuildError),
}

impl Stage {
    /// After the claim.
    fn first(pages: u64, bounded: bool) -> Self {
        Self::Populate { run: 0, done: 0, limit: MAX_ORDER, clear: if bounded { 2 * pages } else { 0 } }
    }
}

/// A domain under construction. It must be carried on to its end.
#[must_use = "a construction holds memory until it is carried on to its end"]
pub struct Construction<M: Machine> {
    pub(crate) id: DomId,
    pub(super) config: DomainConfig,
    pub(super) entry: u32,
    pub(super) layout: Layout,
    pub(crate) memory: DomainMemory<M>,
    pub(super) vcpus: Box<[Vcpu<M>]>,
    /// Frames that are not the domain's own: shared_info's, then the ACPI tables'.
    pub(super) special: Vec<Extent>,
    /// What is copied in, and to which guest-physical address.
    pieces: Vec<(u64, Cow<'static, [u8]>)>,
    stage: Stage,
    /// Others run meanwhile, so that each step must be short.
    bounded: bool,
}

/// What a step has led to.
pub enum Progress<M: Machine> {
    /// Another step should follow.
    More(Box<Construction<M>>),
    /// The domain, which waits to be started.
    Built(Arc<Domain<M>>),
    /// It could not be built; everything has been given back.
    Failed(BuildError),
}

impl<M: Machine> Hypervisor<M> {
    /// Begins to build a domain: finds what is wrong, reserves an id, claims the memory. `bounded`: other domains run
    /// meanwhile; without it, memory is cleared in extents as large as they come.
    ///
    /// # Errors
    /// What is wrong, naming the field of the configuration.
    pub fn begin_domain(&self, config: DomainConfig, bounded: bool) -> Result<Box<Construction<M>>, BuildError> {
        let id = self.reserve_id(config.privileged)?;
        let (pages, clean) = (config.memory >> PAGE_SHIFT, self.heap.ledger().free);
        let record = DomainBuild { domid: id, clean, pages, ..DomainBuild::default() };
        self.machine.trace(Kind::DOMAIN_BUILD.0, record.as_bytes());
        let begun = self.check_and_begin(id, config, bounded);
        if begun.is_err() {
            self.give_up_id(id);
        }
        begun
    }

    fn check_and_begin(
        &self,
        id: DomId,
        config: DomainConfig,
        bounded: bool,
    ) -> Result<Box<Construction<M>>, BuildError> {
        layout::check(&config)?;
        let image = Image::parse(config.kernel)?;
        let layout = layout::plan(&config, &image, StartOfDay::size(&config))?;
        let pages = config.memory >> PAGE_SHIFT;
        self.heap.account(id).set_maximum(config.max_memory >> PAGE_SHIFT);
        let claimed = self.heap.claim(id, pages).is_ok();
        if !claimed && !self.take_back_for_claim(pages) {
            return Err(self.too_little(pages));
        }
        let vcpus = self.new_vcpus(config.vcpus).ok_or("vcpus: no memory for their state")?;
        let memory = DomainMemory::new(self, id, config.max_memory >> PAGE_SHIFT)
            .ok_or("memory: none left for its page tables")?;
        let segments = image.segments.into_iter().map(|segment| (segment.address, Cow::Borrowed(segment.bytes)));
        let ramdisk = config.ramdisk.map(|bytes| (layout.ramdisk, Cow::Borrowed(bytes)));
        let start_of_day = (layout.start_info, Cow::Owned(StartOfDay::new(&config, &layout).bytes));
        let pieces = segments.chain(ramdisk).chain([start_of_day]).collect();
        let stage = if claimed { Stage::first(pages, bounded) } else { Stage::Claim };
        let (special, entry) = (Vec::new(), image.entry);
        Ok(Box::new(Construction { id, config, entry, layout, memory, vcpus, special, pieces, stage, bounded }))
    }

    /// Carries on one of the constructions that lie here, if there is one. A load when there is none.
    pub(crate) fn construction_step(&self) -> bool {
        let taken = self.constructions.lock().pop_front();
        let Some(construction) = taken else { return false };
        let name = construction.config.name.clone();
        let result = match construction.step(self) {
            Progress::More(construction) => {
                self.constructions.lock().push_back(construction);
                return true;
            }
            Progress::Built(domain) => self.start_domain(&domain),
            Progress::Failed(why) => Err(why),
        };
        self.restarted(&name, result);
        true
    }
}

impl<M: Machine> Construction<M> {
    /// One bounded step.
    pub fn step(mut self: Box<Self>, hv: &Hypervisor<M>) -> Progress<M> {
        let result = match self.stage {
            Stage::Claim => self.claim(hv),
            Stage::Populate { run, done, limit, clear } => self.populate(hv, run, done, limit, clear),
            Stage::Copy { piece, done } if piece < self.pieces.len() => self.copy(hv, piece, done),
            Stage::Copy { .. } => match self.complete(hv) {
                Ok(()) => return Progress::Built(hv.assemble(*self)),
                Err(why) => Err(why),
            },
            Stage::Failed(_) => return self.take_apart(hv),
        };
        match result {
            Ok(stage) => self.stage = stage,
            Err(why) => self.stage = Stage::Failed(why),
        }
        Progress::More(self)
    }

    fn claim(&self, hv: &Hypervisor<M>) -> Result<Stage, BuildError> {
        let pages = self.config.memory >> PAGE_SHIFT;
        if hv.heap.claim(self.id, pages).is_ok() {
            return Ok(Stage::first(pages, self.bounded));
        }
        if hv.take_back_for_claim(pages) { Ok(Stage::Claim) } else { Err(hv.too_little(pages)) }
    }

    /// Backs a piece of RAM by the largest extent that alignment and the heap allow; or clears memory beforehand, while
    /// there is not enough that is clear.
    fn populate(&self, hv: &Hypervisor<M>, run: usize, done: u64, limit: u32, clear: u64) -> Result<Stage, BuildError> {
        let Some(&(start, size)) = self.layout.ram.get(run) else {
            return Ok(Stage::Copy { piece: 0, done: 0 });
        };
        let (gfn, left) = ((start >> PAGE_SHIFT) + done, (size >> PAGE_SHIFT) - done);
        if left == 0 {
            return Ok(Stage::Populate { run: run + 1, done: 0, limit: MAX_ORDER, clear });
        }
        let ledger = hv.heap.ledger();
        if ledger.free < left && clear > 0 && hv.heap.scrub_some(&hv.machine, STEP_CLEAR) {
            return Ok(Stage::Populate { run, done, limit, clear: clear.saturating_sub(STEP_CLEAR) });
        }
        let bound = if ledger.scrubbing == 0 || !self.bounded { MAX_ORDER } else { BOUNDED_ORDER };
        let aligned = if gfn == 0 { MAX_ORDER } else { gfn.trailing_zeros() };
        let most = aligned.min(left.ilog2()).min(limit).min(bound);
        let order = LEAF_ORDERS.into_iter().find(|&order| order <= most).unwrap_or(0);
        // Single frames would make a step of each; a step's worth of them is taken at once.
        let count = if order == 0 { STEP_CLEAR.min(left).min(frames_to_boundary(gfn)) } else { 1 };
        for index in 0..count {
            if self.memory.populate(hv, Gfn(gfn + index), order).is_err() {
                let done = done + index;
                return match order {
                    0 => Err(BuildError::fell_short(&self.config, left - index)),
                    _ => Ok(Stage::Populate { run, done, limit: order - 1, clear }),
                };
            }
        }
        Ok(Stage::Populate { run, done: done + (count << order), limit, clear })
    }

    /// Copies a part of a piece.
    fn copy(&self, hv: &Hypervisor<M>, piece: usize, done: usize) -> Result<Stage, BuildError> {
        let (address, bytes) = &self.pieces[piece];
        let end = bytes.len().min(done + STEP_COPY);
        let mut at = done;
        while at < end {
            let to = address + at as u64;
            let gfn = Gfn(to >> PAGE_SHIFT);
            let offset = to as usize % PAGE_SIZE;
            let found = self.memory.lookup(&hv.machine, gfn).ok_or("kernel: a segment lies outside the memory")?;
            // What is mapped by one entry is contiguous.
            let frames_left = (1 << found.order) - (gfn.0 & ((1 << found.order) - 1));
            let length = (frames_left as usize * PAGE_SIZE - offset).min(end - at);
            hv.machine.write(MachineAddress::in_frame(found.mfn, offset), &bytes[at..at + length]);
            at += length;
        }
        Ok(if end == bytes.len() {
            Stage::Copy { piece: piece + 1, done: 0 }
        } else {
            Stage::Copy { piece, done: end }
        })
    }

    /// The hypervisor's own frames, and the memory map.
    fn complete(&mut self, hv: &Hypervisor<M>) -> Result<(), BuildError> {
        for _ in 0..2 {
            let frame = hv.heap.allocate(&hv.machine, 0, Owner::Hypervisor);
            self.special.push(frame.ok_or("memory: none left for its shared pages")?);
        }
        let acpi = self.special[1].first();
        let tables = acpi::tables(ACPI_PAGE, self.config.vcpus);
        hv.machine.write(MachineAddress::in_frame(acpi, 0), &tables.bytes);
        // In the domain's own memory: it may write over it, as a PC's kernel may over its BIOS' tables.
        let low = self.memory.lookup(&hv.machine, Gfn(RSDP_ADDRESS >> PAGE_SHIFT)).ok_or("memory: less than 1 MiB")?;
        let root = MachineAddress::in_frame(low.mfn, RSDP_ADDRESS as usize % PAGE_SIZE);
        hv.machine.write(root, &tables.root);
        self.memory
            .map_hypervisor_frame(hv, Gfn(ACPI_PAGE >> PAGE_SHIFT), acpi)
            .map_err(|_| "memory: none left for its page tables")?;
        self.memory.e820.call_once(|| {
            let entry = |entry: &layout::MapEntry| E820Entry { addr: entry.start, size: entry.size, type_: entry.kind };
            self.layout.map.iter().map(entry).collect()
        });
        // What the claim covered has been taken; anything left of it is rounding. Withdrawing cannot fail.
        let _ = hv.heap.claim(self.id, 0);
        Ok(())
    }

    /// Gives back a part of what a failed construction holds.
    fn take_apart(mut self: Box<Self>, hv: &Hypervisor<M>) -> Progress<M> {
        if !self.memory.release_all(hv, STEP_RELEASE) {
            return Progress::More(self);
        }
        self.special.drain(..).for_each(|extent| hv.heap.free(extent));
        hv.give_up_id(self.id);
        match self.stage {
            Stage::Failed(why) => Progress::Failed(why),
            _ => Progress::Failed("given up".into()),
        }
    }
}

/// Frames from `gfn` to where an extent of 2 MiB could begin.
fn frames_to_boundary(gfn: u64) -> u64 {
    (1 << BOUNDED_ORDER) - (gfn & ((1 << BOUNDED_ORDER) - 1))
}
