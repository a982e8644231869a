//! Building domains: from a configuration to a vCPU that waits at the kernel's PVH entry.
//!
//! Everything that can be wrong with an image, a ramdisk or a size is found before any frame is taken. Memory is
//! claimed in one piece first, so that a domain that does not fit fails at once and whole; what was taken is given
//! back on every error. The work is done by a [`construction::Construction`], step by step.
//!
//! Specification: Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.

pub mod acpi;
pub mod construction;
pub mod image;
pub mod layout;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use shared_abi::hvm::start_info::{MAGIC, MemmapTableEntry, ModlistEntry, SIF_PRIVILEGED, StartInfo};
use shared_abi::trace::SCHED_DOM_ADD;
use shared_abi::trace_stream::{DomainStart, Kind};
use shared_abi::xen::{DomId, VcpuId, Virq};
use zerocopy::IntoBytes;

use crate::cpuid::apic_id;
use crate::domain::{Birth, Domain, DomainConfig};
use crate::domctl::Control;
use crate::evtchn::{self, DomainEvents};
use crate::grant::{self, DomainGrants};
use crate::hvm::HvmParameters;
use crate::hypervisor::{Hypervisor, MAX_DOMAINS};
use crate::lifecycle::Lifecycle;
use crate::machine::Machine;
use crate::sched::{self, DomainSched};
use crate::vcpu::{Attention, StartState, Vcpu, VcpuRef};

use construction::{Construction, Progress};
use layout::{Layout, RSDP_ADDRESS};

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

impl BuildError {
    /// There was enough, but some of it went to page tables or other domains meanwhile.
    fn fell_short(config: &DomainConfig, pages: u64) -> Self {
        Self(alloc::format!("memory: {} MiB wanted, {pages} pages short", config.memory >> 20))
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
            rsdp_paddr: RSDP_ADDRESS,
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
        let mut construction = self.begin_domain(config, false)?;
        loop {
            construction = match construction.step(self) {
                Progress::More(construction) => construction,
                Progress::Built(domain) => return Ok(domain),
                Progress::Failed(why) => return Err(why),
            };
        }
    }

    /// Makes a domain of a construction that has everything.
    fn assemble(&self, construction: Construction<M>) -> Arc<Domain<M>> {
        let Construction { id, config, entry, layout, memory, vcpus, special, .. } = construction;
        let sched = DomainSched::new(config.weight, config.cap);
        let domain = Arc::new(Domain {
            id,
            birth: Birth::now(),
            config,
            memory,
            events: DomainEvents::new(),
            grants: DomainGrants::new(),
            hvm: HvmParameters::new(),
            sched,
            control: Control::new(),
            lifecycle: Lifecycle::new(),
            vcpus,
        });
        // The first special frame is shared_info's.
        evtchn::attach_shared_info(self, &domain, special[0].first());
        domain.lifecycle.keep(special);
        if let Some(vcpu) = VcpuRef::new(&domain, VcpuId(0)) {
            *vcpu.start.lock() = Some(StartState::pvh(entry, layout.start_info as u32));
            vcpu.raise(Attention::START);
        }
        domain
    }

    fn too_little(&self, pages: u64) -> BuildError {
        let ledger = self.heap.ledger();
        let free = (ledger.free + ledger.scrubbing).saturating_sub(ledger.claimed);
        BuildError(alloc::format!("memory: {} MiB wanted, {} MiB free on this machine", pages >> 8, free >> 8))
    }

    fn new_vcpus(&self, count: u32) -> Option<Box<[Vcpu<M>]>> {
        (0..count)
            .map(VcpuId)
            .map(|id| Some(Vcpu::new(id, apic_id(id), self.machine.new_vcpu_state()?)))
            .collect::<Option<Vec<_>>>()
            .map(Vec::into_boxed_slice)
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
        self.record(SCHED_DOM_ADD, &[u32::from(domain.id.0)]);
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
