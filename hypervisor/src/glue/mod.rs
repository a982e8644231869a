//! The hypervisor proper: the machine behind the core's [`Machine`] trait, the loop each processor runs, and the start.
//!
//! The hypervisor is one type on every machine; [`crate::virt::any`] knows which vendor's processor this is, and the
//! run loop is compiled for each.

use alloc::string::ToString;
use alloc::vec::Vec;

use ebb_core::cpuid::Policy;
use ebb_core::heap::HeapConfig;
use ebb_core::hypervisor::Config;
use ebb_core::sched::{SchedConfig, policy};
use ebb_core::speculation::Processor;
use ebb_core::{Hypervisor, VcpuRef};
use shared_abi::memory::E820Entry;

use shared_abi::trace_stream::{Initialised, Kind};
use zerocopy::IntoBytes;

use crate::boot::Boot;
use crate::boot::info::MemoryEntry;
use crate::exit::msr::StoredMsrs;
use crate::machine::refuse;
use crate::options::{Options, options};
use crate::virt::any::{self, AnyVcpu};
use crate::virt::cell::VcpuCell;
use crate::virt::{fpu, speculation};
use crate::{boot, config, cpu, info, instr, memory, time, warn};

mod machine;
mod memory_setup;
pub mod run;
mod trace_ring;
mod wall_clock;

/// The machine, for the core.
pub struct Glue {
    /// What guests see of the processor.
    pub policy: Policy,
    /// The firmware's memory map.
    memory_map: alloc::boxed::Box<[E820Entry]>,
}

/// A vCPU's state on the machine.
pub struct GuestCpu {
    /// Registers and control block.
    pub hw: AnyVcpu,
    /// MSRs that are only remembered.
    pub msrs: StoredMsrs,
}

/// A vCPU as the core holds it.
pub type Vcpu = VcpuRef<Glue>;
/// What [`ebb_core::Machine::VcpuState`] is here.
pub type VcpuState = VcpuCell<GuestCpu>;

/// Looks for a backend, builds the domains and runs them. The end of the boot processor's bring-up.
pub fn start(boot: &Boot) -> ! {
    if options().deterministic {
        time::repeat();
    }
    if options().poll_interrupts {
        any::poll_interrupts();
    }
    if let Err(why) = any::probe() {
        refuse(format_args!("{why}"));
    }
    let modules: alloc::vec::Vec<_> = boot::modules()
        .iter()
        .map(|module| config::Module { bytes: boot::module_bytes(module), line: module.line.as_str() })
        .collect();
    let configs = match config::domains(&modules) {
        Ok(configs) if configs.is_empty() => refuse(format_args!("no guests: give a boot archive or modules")),
        Ok(configs) => configs,
        Err(why) => refuse(format_args!("{why}")),
    };
    fpu::probe();
    crate::exit::prepare();
    let processor = Processor::new(host_cpuid, instr::rdmsr_safe);
    against_leaks(&processor);
    enable_this_cpu();
    let hv = create(boot, &processor);
    run::release_others(hv);
    let (ticks, waited) = crate::machine::ticks_since_start();
    trace_ring::record(Kind::INITIALISED.0, Initialised { ticks, waited, tsc: crate::time::rdtsc() }.as_bytes());
    let mut built = Vec::new();
    for config in configs {
        let name = config.name.clone();
        match hv.build_domain(config) {
            Ok(domain) => {
                info!(
                    "domain {} ({name}): {} MiB, {} vCPUs",
                    domain.id.0,
                    domain.config.memory >> 20,
                    domain.vcpus.len()
                );
                built.push(domain);
            }
            Err(why) => refuse(format_args!("domain {name}: {why}")),
        }
    }
    // Who governs comes first: the others then wait to be prepared.
    let (governors, others): (Vec<_>, Vec<_>) = built.into_iter().partition(|domain| domain.is_privileged());
    for domain in governors.iter().chain(&others) {
        if let Err(why) = hv.start_domain(domain) {
            refuse(format_args!("domain {}: {why}", domain.config.name));
        }
    }
    drop((governors, others));
    hv.open();
    run::processor(hv)
}

/// Turns virtualisation on, on this processor; without it the machine cannot go on.
fn enable_this_cpu() {
    fpu::enable_this_cpu();
    speculation::enable_this_cpu();
    crate::machine_check::enable_this_cpu();
    if let Err(why) = any::enable_this_cpu() {
        refuse(format_args!("processor {}: {why}", cpu::this_cpu().id().0));
    }
}

fn sched_config(options: &Options) -> SchedConfig {
    let default = SchedConfig::default();
    SchedConfig {
        timeslice_ns: u64::from(options.timeslice_us) * 1000,
        policy: policy::by_name(options.sched).unwrap_or(default.policy),
        ..default
    }
}

/// Decides what is done against leaks by speculation, and says so.
fn against_leaks(processor: &Processor) {
    let plan = processor.plan(options().speculation);
    info!("speculation: found {processor}; done: {plan}");
    if processor.lacks_microcode() {
        warn!("this processor may leak between domains, and has no flush against it: see docs/speculation.md");
    }
    speculation::set_up(plan);
}

fn create(boot: &Boot, processor: &Processor) -> &'static Hypervisor<Glue> {
    let options = options();
    let memory_setup::Frames { frames, ranges, hypervisor_frames } = memory_setup::take_memory();
    let policy = Policy::new(host_cpuid, fpu::supported_xcr0(), processor.capabilities(), machine::tsc_scale());
    crate::virt::offer_cr4(policy.cr4_mask());
    let memory_map = boot.info.memory.iter().map(to_e820).collect();
    let glue = Glue { policy, memory_map };
    let config = Config {
        heap: HeapConfig { frames, ranges, hypervisor_frames, zeroed: false },
        sched: sched_config(options),
        command_line: boot.info.command_line.to_string(),
        sample_period: u64::from(options.sample_ms.unwrap_or(if options.trace { 500 } else { 0 })) * 1_000_000,
    };
    // Nobody holds a lock of the core's yet.
    ebb_core::locks::HELD_RANKS.call_once(|| || cpu::this_cpu().held_ranks());
    let hv = Hypervisor::new(glue, config);
    trace_ring::start(&hv);
    info!("{}, {} MiB for guests", any::name(), memory::figures().free >> 20);
    alloc::boxed::Box::leak(alloc::boxed::Box::new(hv))
}

fn to_e820(entry: &MemoryEntry) -> E820Entry {
    E820Entry { addr: entry.start, size: entry.size, type_: entry.kind.to_e820() }
}

fn host_cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = raw_cpuid::cpuid!(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}
