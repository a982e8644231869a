//! Building domains: from a configuration to a vCPU that waits at the kernel's PVH entry.
//!
//! Everything that can be wrong with an image, a ramdisk or a size is found before any frame is taken. Memory is
//! claimed in one piece first, so that a domain that does not fit fails at once and whole; what was taken is given
//! back on every error.
//!
//! Specification: Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.

pub mod acpi;
pub mod image;
pub mod layout;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use shared_abi::hvm::start_info::{MAGIC, MemmapTableEntry, ModlistEntry, SIF_PRIVILEGED, StartInfo};
use shared_abi::memory::E820Entry;
use shared_abi::trace_stream::{DomainStart, Kind};
use shared_abi::xen::{DomId, Gfn, VcpuId, Virq};
use zerocopy::IntoBytes;

use crate::cpuid::apic_id;
use crate::domain::{Domain, DomainConfig};
use crate::domctl::Control;
use crate::evtchn::{self, DomainEvents};
use crate::grant::{self, DomainGrants};
use crate::heap::{Extent, Owner};
use crate::hvm::HvmParameters;
use crate::hypervisor::{Hypervisor, MAX_DOMAINS};
use crate::lifecycle::Lifecycle;
use crate::machine::{Machine, MachineAddress, PAGE_SHIFT, PAGE_SIZE};
use crate::memory::DomainMemory;
use crate::sched::{self, DomainSched};
use crate::vcpu::{Attention, StartState, Vcpu, VcpuRef};

use image::Image;
use layout::{ACPI_PAGE, Layout};

/// Largest extent used for a guest's memory: 1 GiB.
const MAX_ORDER: u32 = 18;
/// The orders that are one entry of a page table, largest first.
const LEAF_ORDERS: [u32; 3] = [18, 9, 0];
/// Entries given back at a time when a build fails.
const RELEASE_BUDGET: usize = 512;

/// Why a domain could not be built, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError(String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for BuildError {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// The start-of-day pages: everything `ebx` leads to, as bytes for one address.
struct StartOfDay {
    bytes: Vec<u8>,
}

impl StartOfDay {
    /// Bytes needed for this configuration.
    fn size(config: &DomainConfig) -> u64 {
        const MAX_MAP: usize = 8;
        let fixed = size_of::<StartInfo>() + size_of::<ModlistEntry>() + MAX_MAP * size_of::<MemmapTableEntry>();
        (fixed + config.arguments.len() + 1) as u64
    }

    fn new(config: &DomainConfig, layout: &Layout) -> Self {
        let modules_at = layout.start_info + size_of::<StartInfo>() as u64;
        let map_at = modules_at + size_of::<ModlistEntry>() as u64;
        let command_line_at = map_at + (layout.map.len() * size_of::<MemmapTableEntry>()) as u64;
        let info = StartInfo {
            magic: MAGIC,
            version: 1,
            flags: if config.privileged { SIF_PRIVILEGED } else { 0 },
            nr_modules: u32::from(config.ramdisk.is_some()),
            modlist_paddr: if config.ramdisk.is_some() { modules_at } else { 0 },
            cmdline_paddr: command_line_at,
            rsdp_paddr: ACPI_PAGE,
            memmap_paddr: map_at,
            memmap_entries: layout.map.len() as u32,
            reserved: 0,
        };
        let module = ModlistEntry {
            paddr: layout.ramdisk,
            size: config.ramdisk.map_or(0, |bytes| bytes.len() as u64),
            cmdline_paddr: 0,
            reserved: 0,
        };
        let mut bytes = Vec::new();
        bytes.extend_from_slice(info.as_bytes());
        bytes.extend_from_slice(module.as_bytes());
        for entry in &layout.map {
            let entry = MemmapTableEntry { addr: entry.start, size: entry.size, type_: entry.kind, reserved: 0 };
            bytes.extend_from_slice(entry.as_bytes());
        }
        bytes.extend_from_slice(config.arguments.as_bytes());
        bytes.push(0);
        Self { bytes }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Builds a domain; its vCPUs wait until [`Hypervisor::start_domain`].
    ///
    /// # Errors
    /// What is wrong, naming the field of the configuration.
    pub fn build_domain(&self, config: DomainConfig) -> Result<Arc<Domain<M>>, BuildError> {
        layout::check(&config)?;
        let image = Image::parse(config.kernel)?;
        let layout = layout::plan(&config, &image, StartOfDay::size(&config))?;
        let id = self.reserve_id(config.privileged)?;
        let result = self.build(id, config, &image, &layout);
        if result.is_err() {
            self.give_up_id(id);
        }
        result
    }

    fn build(
        &self,
        id: DomId,
        config: DomainConfig,
        image: &Image<'_>,
        layout: &Layout,
    ) -> Result<Arc<Domain<M>>, BuildError> {
        let pages = config.memory >> PAGE_SHIFT;
        self.heap.account(id).set_maximum(config.max_memory >> PAGE_SHIFT);
        while self.heap.claim(id, pages).is_err() {
            if !self.take_back_for_claim(pages) {
                return Err(self.too_little(pages));
            }
        }
        let vcpus = self.new_vcpus(config.vcpus).ok_or("vcpus: no memory for their state")?;
        let memory = DomainMemory::new(self, id, config.max_memory >> PAGE_SHIFT)
            .ok_or("memory: none left for its page tables")?;
        let mut special = Vec::new();
        if let Err(why) = self.fill(&memory, &config, image, layout, &mut special) {
            while !memory.release_all(self, RELEASE_BUDGET) {}
            special.into_iter().for_each(|extent| self.heap.free(extent));
            return Err(why);
        }
        // What the claim covered has been taken; anything left of it is rounding.
        let _ = self.heap.claim(id, 0);
        let weight = config.weight;
        let domain = Arc::new(Domain {
            id,
            config,
            memory,
            events: DomainEvents::new(),
            grants: DomainGrants::new(),
            hvm: HvmParameters::new(),
            sched: DomainSched::new(weight),
            control: Control::new(),
            lifecycle: Lifecycle::new(),
            vcpus,
        });
        // The first special frame is shared_info's.
        evtchn::attach_shared_info(self, &domain, special[0].first());
        domain.lifecycle.keep(special);
        if let Some(vcpu) = VcpuRef::new(&domain, VcpuId(0)) {
            *vcpu.start.lock() = Some(StartState::pvh(image.entry, layout.start_info as u32));
            vcpu.raise(Attention::START);
        }
        Ok(domain)
    }

    fn too_little(&self, pages: u64) -> BuildError {
        let ledger = self.heap.ledger();
        let free = (ledger.free + ledger.scrubbing).saturating_sub(ledger.claimed);
        BuildError(alloc::format!("memory: {} MiB wanted, {} MiB free on this machine", pages >> 8, free >> 8))
    }

    /// There was enough, but some of it went to page tables or other domains meanwhile.
    fn fell_short(config: &DomainConfig, pages: u64) -> BuildError {
        BuildError(alloc::format!("memory: {} MiB wanted, {pages} pages short", config.memory >> 20))
    }

    fn new_vcpus(&self, count: u32) -> Option<Box<[Vcpu<M>]>> {
        (0..count)
            .map(VcpuId)
            .map(|id| Some(Vcpu::new(id, apic_id(id), self.machine.new_vcpu_state()?)))
            .collect::<Option<Vec<_>>>()
            .map(Vec::into_boxed_slice)
    }

    /// Gives the domain its memory and puts everything into it. Frames that are not its own (shared_info first, then
    /// the ACPI tables' page) are added to `special`.
    fn fill(
        &self,
        memory: &DomainMemory<M>,
        config: &DomainConfig,
        image: &Image<'_>,
        layout: &Layout,
        special: &mut Vec<Extent>,
    ) -> Result<(), BuildError> {
        for &(start, size) in &layout.ram {
            self.populate_run(memory, start >> PAGE_SHIFT, size >> PAGE_SHIFT)
                .map_err(|missing| Self::fell_short(config, missing))?;
        }
        for segment in &image.segments {
            self.write_new(memory, segment.address, segment.bytes)?;
        }
        if let Some(ramdisk) = config.ramdisk {
            self.write_new(memory, layout.ramdisk, ramdisk)?;
        }
        self.write_new(memory, layout.start_info, &StartOfDay::new(config, layout).bytes)?;
        for _ in 0..2 {
            let frame = self.heap.allocate(&self.machine, 0, Owner::Hypervisor);
            special.push(frame.ok_or("memory: none left for its shared pages")?);
        }
        let acpi = special[1].first();
        let tables = acpi::tables(ACPI_PAGE, config.vcpus);
        self.machine.write(MachineAddress::in_frame(acpi, 0), &tables.bytes);
        memory
            .map_hypervisor_frame(self, Gfn(ACPI_PAGE >> PAGE_SHIFT), acpi)
            .map_err(|_| "memory: none left for its page tables")?;
        memory.e820.call_once(|| {
            let entry = |entry: &layout::MapEntry| E820Entry { addr: entry.start, size: entry.size, type_: entry.kind };
            layout.map.iter().map(entry).collect()
        });
        Ok(())
    }

    /// Backs `count` frames from `gfn` on, in the largest extents that alignment and the heap allow. An error is the
    /// number of frames that could not be had.
    fn populate_run(&self, memory: &DomainMemory<M>, mut gfn: u64, mut count: u64) -> Result<(), u64> {
        let mut limit = MAX_ORDER;
        while count > 0 {
            let aligned = if gfn == 0 { MAX_ORDER } else { gfn.trailing_zeros() };
            let order =
                LEAF_ORDERS.into_iter().find(|&order| order <= aligned.min(count.ilog2()).min(limit)).unwrap_or(0);
            match memory.populate(self, Gfn(gfn), order) {
                Ok(()) => {
                    gfn += 1 << order;
                    count -= 1 << order;
                }
                Err(_) if order > 0 => limit = order - 1,
                Err(_) => return Err(count),
            }
        }
        Ok(())
    }

    /// Copies into a domain that does not run yet.
    fn write_new(&self, memory: &DomainMemory<M>, address: u64, bytes: &[u8]) -> Result<(), BuildError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let gfn = Gfn(at >> PAGE_SHIFT);
            let offset = at as usize % PAGE_SIZE;
            let found = memory.lookup(&self.machine, gfn).ok_or("kernel: a segment lies outside the memory")?;
            // What is mapped by one entry is contiguous.
            let frames_left = (1 << found.order) - (gfn.0 & ((1 << found.order) - 1));
            let room = frames_left as usize * PAGE_SIZE - offset;
            let length = room.min(bytes.len() - done);
            self.machine.write(MachineAddress::in_frame(found.mfn, offset), &bytes[done..done + length]);
            done += length;
        }
        Ok(())
    }

    /// Enters a built domain into the table and lets it run; beside a privileged domain, an unprivileged one waits to be
    /// unpaused.
    ///
    /// # Errors
    /// No memory for the scheduler's queues; the domain is gone then.
    pub fn start_domain(&self, domain: &Arc<Domain<M>>) -> Result<(), BuildError> {
        if !sched::admit(self, domain) {
            self.abandon_domain(domain);
            return Err("vcpus: no memory for the scheduler's queues".into());
        }
        // Whoever governs prepares the others first: as Xen's createdomain leaves a domain, it is paused once.
        let governed =
            !domain.is_privileged() && self.each_domain().any(|one| one.is_privileged() && one.lifecycle.is_running());
        if governed {
            domain.control.pause_new(self, domain);
        }
        self.set_domain(domain.id, Some(domain.clone()));
        domain.lifecycle.started();
        let name = crate::trace::name_bytes(&domain.config.name);
        let record = DomainStart { domid: domain.id, name, ..DomainStart::default() };
        self.machine.trace(Kind::DOMAIN_START.0, record.as_bytes());
        if let Some(vcpu) = VcpuRef::new(domain, VcpuId(0)) {
            sched::set_up(self, &vcpu);
        }
        evtchn::raise_global_virq(self, Virq::DOM_EXC);
        Ok(())
    }

    /// Takes apart a domain that was built and will not be started.
    pub fn abandon_domain(&self, domain: &Arc<Domain<M>>) {
        evtchn::close_all(self, domain);
        while !domain.memory.release_all(self, RELEASE_BUDGET) {}
        grant::release_table(self, domain);
        domain.lifecycle.free_kept(&self.heap);
        self.give_up_id(domain.id);
    }

    /// An id for a new domain: the next one that is free, so that the id of one that ended is not used again soon.
    /// Guests take 0 for the control domain, so it goes to a privileged one or to nobody.
    fn reserve_id(&self, privileged: bool) -> Result<DomId, BuildError> {
        const GUESTS: u16 = MAX_DOMAINS as u16 - 1;
        let mut table = self.domain_table.lock();
        let first = table.next_id;
        let others = (0..GUESTS).map(|index| first.wrapping_add(index) % GUESTS + 1);
        let mut candidates = privileged.then_some(0).into_iter().chain(others).map(DomId);
        let id = candidates.find(|&id| {
            // Pages may outlive their domain: pinned by others.
            table.taken >> id.0 & 1 == 0 && self.find_domain(id).is_none() && self.heap.account(id).current() == 0
        });
        let id = id.ok_or("there are too many domains")?;
        table.taken |= 1 << id.0;
        table.alive += 1;
        if id.0 != 0 {
            table.next_id = id.0 % GUESTS;
        }
        Ok(id)
    }

    /// Takes back what a failed attempt to build a domain left of it: its id, its claim.
    fn give_up_id(&self, id: DomId) {
        // Withdrawing a claim cannot fail.
        let _ = self.heap.claim(id, 0);
        self.release_id(id);
    }

    /// Takes back an id, with the domain it stood for.
    pub fn release_id(&self, id: DomId) {
        self.set_domain(id, None);
        self.heap.account(id).set_maximum(0);
        let mut table = self.domain_table.lock();
        table.alive -= 1;
        table.taken &= !(1 << id.0);
    }
}

#[cfg(test)]
mod tests;
