//! A domain: its identity, and the part each module keeps of it.
//!
//! A domain is built whole (memory, vCPUs, events) before it is entered into the table, so nobody sees half of one.
//! Its parts have locks of their own; there is no lock over the domain.

use alloc::boxed::Box;
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use shared_abi::tmem_settings::TmemSettings;
use shared_abi::xen::DomId;

use crate::domctl::Control;
use crate::evtchn::DomainEvents;
use crate::grant::DomainGrants;
use crate::hvm::HvmParameters;
use crate::lifecycle::Lifecycle;
use crate::machine::Machine;
use crate::memory::DomainMemory;
use crate::sched::DomainSched;
use crate::vcpu::Vcpu;

/// Most vCPUs a domain may have.
pub const MAX_VCPUS: usize = 64;

/// What happens when a domain asks for a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReboot {
    /// It is built again from its configuration.
    Restart,
    /// It ends.
    Destroy,
}

/// What a domain is built from.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// Its name, at most 15 bytes are shown in samples.
    pub name: String,
    /// Bytes of memory it starts with.
    pub memory: u64,
    /// Most bytes of memory it may ever hold.
    pub max_memory: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Share of CPU time relative to others (256 is the default).
    pub weight: u16,
    /// Most CPU time, in per cent of one physical CPU; 0: no limit.
    pub cap: u16,
    /// Its transcendent memory.
    pub tmem: TmemSettings,
    /// Whether it may govern others.
    pub privileged: bool,
    /// What a reboot means.
    pub on_reboot: OnReboot,
    /// The kernel's command line.
    pub arguments: String,
    /// The kernel image. Boot modules stay in memory, so that a domain can be built again.
    pub kernel: &'static [u8],
    /// The ramdisk, if there is one.
    pub ramdisk: Option<&'static [u8]>,
}

/// Tells a domain from every other that is or was: ids come back, births do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth(u64);

impl Birth {
    /// That of a domain that is made now.
    pub fn now() -> Self {
        static BIRTHS: AtomicU64 = AtomicU64::new(1);
        Self(BIRTHS.fetch_add(1, Ordering::Relaxed))
    }

    /// As a number, never 0.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A domain.
pub struct Domain<M: Machine> {
    /// Its number.
    pub id: DomId,
    /// Which domain of this number it is.
    pub birth: Birth,
    /// What it was built from.
    pub config: DomainConfig,
    /// Its memory: nested page table, reservation, maximum.
    pub memory: DomainMemory<M>,
    /// Its event channels.
    pub events: DomainEvents,
    /// Its grant table, and what it has mapped of others'.
    pub grants: DomainGrants<M>,
    /// Its HVM parameters.
    pub hvm: HvmParameters,
    /// What the scheduler keeps for the domain as a whole: weight, pollers, watchdogs.
    pub sched: DomainSched,
    /// What its governors have done to it.
    pub control: Control,
    /// Running, shut down, dying.
    pub lifecycle: Lifecycle,
    /// Its vCPUs; the number never changes.
    pub vcpus: Box<[Vcpu<M>]>,
}

impl<M: Machine> Domain<M> {
    /// Whether it may govern other domains. Privilege comes from the boot configuration and from nothing else.
    pub fn is_privileged(&self) -> bool {
        self.config.privileged
    }
}
