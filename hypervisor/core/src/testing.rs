//! A machine for host tests: memory in an allocation, a clock that the test sets, CPUs that are threads (or one thread
//! in turn), and records of what the core asked for.
//!
//! Used by unit tests as `crate::testing` and by integration tests through `#[path = "../src/testing.rs"]`, which is
//! why it names the crate `ebb_core`.
//!
//! Unsafe: words of different widths at the same address, as real memory has them, cannot be had from safe types. The
//! code is that of [`Ram`] only, is never built into the hypervisor, and runs under miri.
#![allow(unsafe_code, dead_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::boxed::Box;
use std::cell::Cell;
use std::fmt;
use std::string::{String, ToString};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use ebb_core::domain::{Domain, DomainConfig, OnReboot};
use ebb_core::heap::{FrameInfo, HeapConfig};
use ebb_core::hypercall::{Call, GuestPaging, Next, Width};
use ebb_core::hypervisor::{Config, Hypervisor};
use ebb_core::machine::{ControlMasks, CpuId, Level, Machine, MachineAddress, PAGE_SIZE, Speaker, TscScale};
use ebb_core::memory::DomainMemory;
use ebb_core::p2m::npt::Npt;
use ebb_core::vcpu::{Vcpu, VcpuRef};
use shared_abi::memory::{E820_RAM, E820Entry};
use shared_abi::xen::{DomId, Gfn, Mfn, VcpuId};

/// RAM from machine address 0.
pub struct Ram {
    base: *mut u8,
    layout: Layout,
}

// SAFETY: the memory is reached through atomics only, and lives as long as the value.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    fn new(frames: u64) -> Self {
        let layout = Layout::from_size_align(frames as usize * PAGE_SIZE, PAGE_SIZE).expect("a size");
        // SAFETY: the size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        assert!(!base.is_null(), "no memory for the fake machine");
        Self { base, layout }
    }

    /// A pointer to `size` bytes, aligned to `size`.
    fn word(&self, address: MachineAddress, size: usize) -> *mut u8 {
        let at = usize::try_from(address.0).expect("an address");
        assert!(at % size == 0 && at + size <= self.layout.size(), "access to {at:#x}, no RAM or misaligned");
        // SAFETY: inside the allocation by the assertion.
        unsafe { self.base.add(at) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.base, self.layout) }
    }
}

/// The machine's memory map.
pub const MEMORY_MAP: [E820Entry; 2] = [
    E820Entry { addr: 0, size: 0x9_f000, type_: E820_RAM },
    E820Entry { addr: 0x10_0000, size: 0x7ff0_0000, type_: E820_RAM },
];

/// What a machine was asked to put on its console.
pub type ConsoleOutput = (Speaker, Vec<u8>);
/// What a test does at a kick.
pub type KickHook = Box<dyn FnMut(CpuId) + Send>;
/// A trace record: CPU, kind, payload.
pub type TraceRecord = (CpuId, u16, Vec<u8>);

std::thread_local! {
    static THIS_CPU: Cell<u16> = const { Cell::new(0) };
    static HELD: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
}

/// Makes this thread CPU `cpu` of whatever machine it works on.
pub fn set_cpu(cpu: u16) {
    THIS_CPU.with(|this| this.set(cpu));
}

/// The machine.
pub struct FakeMachine {
    ram: Ram,
    cpus: u16,
    now: AtomicU64,
    /// Number of kicks, by CPU.
    pub kicks: Box<[AtomicU64]>,
    /// The armed deadline, by CPU.
    pub timers: Box<[Mutex<Option<u64>>]>,
    /// Console output.
    pub console: Mutex<Vec<ConsoleOutput>>,
    /// What was typed on the console and not read.
    pub typed: Mutex<Vec<u8>>,
    /// Trace records.
    pub traced: Mutex<Vec<TraceRecord>>,
    /// The hypervisor's log.
    pub logged: Mutex<Vec<(Level, String)>>,
    /// What `interrupt_waiting` answers.
    pub interrupt: AtomicBool,
    /// Frames cleared by `zero`.
    pub zeroed: AtomicU64,
    /// Loads and stores of words, as a measure of work.
    pub accesses: AtomicU64,
    /// Called at a kick, on the CPU that kicks.
    pub on_kick: Mutex<Option<KickHook>>,
}

/// Nanoseconds since 1970 at the fake machine's boot.
pub const WALL_CLOCK_BASE: u64 = 1_700_000_000_000_000_000;

impl FakeMachine {
    /// A machine of `cpus` CPUs and `frames` frames of memory. Its clock stands at 1 ms.
    pub fn new(cpus: u16, frames: u64) -> Self {
        ebb_core::locks::HELD_RANKS.call_once(|| || HELD.with(|held| *held));
        Self {
            ram: Ram::new(frames),
            cpus,
            now: AtomicU64::new(1_000_000),
            kicks: (0..cpus).map(|_| AtomicU64::new(0)).collect(),
            timers: (0..cpus).map(|_| Mutex::new(None)).collect(),
            console: Mutex::default(),
            typed: Mutex::default(),
            traced: Mutex::default(),
            logged: Mutex::default(),
            interrupt: AtomicBool::new(false),
            zeroed: AtomicU64::new(0),
            accesses: AtomicU64::new(0),
            on_kick: Mutex::new(None),
        }
    }

    /// Sets the clock, in nanoseconds since boot.
    pub fn set_now(&self, now: u64) {
        self.now.store(now, Ordering::SeqCst);
    }

    /// Moves the clock on.
    pub fn advance(&self, nanoseconds: u64) {
        self.now.fetch_add(nanoseconds, Ordering::SeqCst);
    }

    /// The deadline that is armed on a CPU.
    pub fn armed(&self, cpu: CpuId) -> Option<u64> {
        *self.timers[cpu.index()].lock().unwrap()
    }

    /// How often a CPU has been kicked.
    pub fn kicked(&self, cpu: CpuId) -> u64 {
        self.kicks[cpu.index()].load(Ordering::SeqCst)
    }

    /// What somebody has written to the console.
    pub fn console_of(&self, speaker: Speaker) -> Vec<u8> {
        let console = self.console.lock().unwrap();
        console.iter().filter(|(who, _)| *who == speaker).flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    /// The payloads of the trace records of one kind.
    pub fn traced_of(&self, kind: u16) -> Vec<Vec<u8>> {
        self.traced.lock().unwrap().iter().filter(|record| record.1 == kind).map(|record| record.2.clone()).collect()
    }
}

impl Machine for FakeMachine {
    type VcpuState = ();
    type Format = Npt;

    fn new_vcpu_state(&self) -> Option<()> {
        Some(())
    }

    fn control_masks(&self) -> ControlMasks {
        // What a processor with every feature of the CPUID policy allows.
        ControlMasks { cr4: 0x35_0fff, efer: 0x4901 }
    }

    fn word64(&self, address: MachineAddress) -> &AtomicU64 {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        // SAFETY: inside RAM and aligned, checked by `word`; reached through atomics only.
        unsafe { AtomicU64::from_ptr(self.ram.word(address, 8).cast()) }
    }

    fn word32(&self, address: MachineAddress) -> &AtomicU32 {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as for `word64`.
        unsafe { AtomicU32::from_ptr(self.ram.word(address, 4).cast()) }
    }

    fn word16(&self, address: MachineAddress) -> &AtomicU16 {
        // SAFETY: as for `word64`.
        unsafe { AtomicU16::from_ptr(self.ram.word(address, 2).cast()) }
    }

    fn byte(&self, address: MachineAddress) -> &AtomicU8 {
        // SAFETY: as for `word64`.
        unsafe { AtomicU8::from_ptr(self.ram.word(address, 1)) }
    }

    fn read(&self, address: MachineAddress, bytes: &mut [u8]) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = self.byte(MachineAddress(address.0 + index as u64)).load(Ordering::Relaxed);
        }
    }

    fn write(&self, address: MachineAddress, bytes: &[u8]) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        for (index, byte) in bytes.iter().enumerate() {
            self.byte(MachineAddress(address.0 + index as u64)).store(*byte, Ordering::Relaxed);
        }
    }

    fn memory_map(&self) -> &[E820Entry] {
        &MEMORY_MAP
    }

    fn copy_frame(&self, from: Mfn, to: Mfn) {
        self.accesses.fetch_add(2, Ordering::Relaxed);
        for offset in (0..PAGE_SIZE).step_by(8) {
            let word = self.word64(MachineAddress::in_frame(from, offset)).load(Ordering::Relaxed);
            self.word64(MachineAddress::in_frame(to, offset)).store(word, Ordering::Relaxed);
        }
    }

    fn zero(&self, first: Mfn, order: u32) {
        self.zeroed.fetch_add(1 << order, Ordering::Relaxed);
        let start = first.0 * PAGE_SIZE as u64;
        for offset in (0..(PAGE_SIZE as u64) << order).step_by(8) {
            let word = self.ram.word(MachineAddress(start + offset), 8);
            // SAFETY: inside RAM and aligned, checked by `word`.
            let word = unsafe { AtomicU64::from_ptr(word.cast()) };
            // Memory that was never touched stays untouched: big machines cost little.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    fn tsc(&self) -> u64 {
        self.now() * 2
    }

    fn tsc_scale(&self) -> TscScale {
        // 2 GHz: ns = tsc / 2.
        TscScale { mul: 0x8000_0000, shift: 0, tsc_base: 0, ns_base: 0, khz: 2_000_000 }
    }

    fn wall_clock_base(&self) -> u64 {
        WALL_CLOCK_BASE
    }

    fn arm_timer(&self, deadline: Option<u64>) {
        *self.timers[self.this_cpu().index()].lock().unwrap() = deadline;
    }

    fn this_cpu(&self) -> CpuId {
        let cpu = THIS_CPU.with(Cell::get);
        assert!(cpu < self.cpus, "this thread is CPU {cpu} of {}", self.cpus);
        CpuId(cpu)
    }

    fn cpu_count(&self) -> usize {
        usize::from(self.cpus)
    }

    fn kick(&self, cpu: CpuId) {
        self.kicks[cpu.index()].fetch_add(1, Ordering::SeqCst);
        if let Some(hook) = &mut *self.on_kick.lock().unwrap() {
            hook(cpu);
        }
    }

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn interrupt_waiting(&self) -> bool {
        self.interrupt.load(Ordering::SeqCst)
    }

    fn console_write(&self, speaker: Speaker, bytes: &[u8]) {
        self.console.lock().unwrap().push((speaker, bytes.to_vec()));
    }

    fn console_read(&self, bytes: &mut [u8]) -> usize {
        let mut typed = self.typed.lock().unwrap();
        let count = typed.len().min(bytes.len());
        bytes[..count].copy_from_slice(&typed[..count]);
        typed.drain(..count);
        count
    }

    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.logged.lock().unwrap().push((level, line.to_string()));
    }

    fn trace(&self, kind: u16, payload: &[u8]) {
        self.traced.lock().unwrap().push((self.this_cpu(), kind, payload.to_vec()));
    }

    fn trace_enabled(&self, _kind: u16) -> bool {
        true
    }
}

/// Frames at the start of the fake machine's memory that the hypervisor occupies.
pub const HYPERVISOR_FRAMES: u64 = 16;

/// A hypervisor on a machine of `cpus` CPUs and `frames` frames, with dirty free memory.
pub fn hypervisor(cpus: u16, frames: u64) -> Hypervisor<FakeMachine> {
    hypervisor_of(cpus, frames, false)
}

/// A hypervisor on a machine whose free memory is known to be clear (`zeroed`), or not.
pub fn hypervisor_of(cpus: u16, frames: u64, zeroed: bool) -> Hypervisor<FakeMachine> {
    set_cpu(0);
    let machine = FakeMachine::new(cpus, frames);
    let records: Vec<FrameInfo> = (0..frames).map(|_| FrameInfo::default()).collect();
    let config = Config {
        heap: HeapConfig {
            frames: records.leak(),
            ranges: std::vec![(Mfn(HYPERVISOR_FRAMES), frames - HYPERVISOR_FRAMES)],
            hypervisor_frames: HYPERVISOR_FRAMES,
            zeroed,
        },
        sched: Default::default(),
        command_line: "testing".to_string(),
        sample_period: 0,
    };
    Hypervisor::new(machine, config)
}

/// A configuration for a domain of `pages` pages.
pub fn domain_config(name: &str, pages: u64, maximum: u64, vcpus: u32) -> DomainConfig {
    DomainConfig {
        name: name.to_string(),
        memory: pages * PAGE_SIZE as u64,
        max_memory: maximum * PAGE_SIZE as u64,
        vcpus,
        weight: 256,
        cap: 0,
        tmem: Default::default(),
        privileged: false,
        on_reboot: OnReboot::Destroy,
        arguments: String::new(),
        kernel: &[],
        ramdisk: None,
    }
}

/// A domain with `config.memory` bytes from gfn 0 on, in the table, its vCPUs down.
pub fn domain_of(hv: &Hypervisor<FakeMachine>, id: u16, config: DomainConfig) -> Arc<Domain<FakeMachine>> {
    let id = DomId(id);
    let pages = config.memory / PAGE_SIZE as u64;
    let memory = DomainMemory::new(hv, id, config.max_memory / PAGE_SIZE as u64).expect("memory for the p2m");
    let mut gfn = 0;
    while gfn < pages {
        let superpage = gfn % 512 == 0 && pages - gfn >= 512 && memory.populate(hv, Gfn(gfn), 9).is_ok();
        if !superpage {
            memory.populate(hv, Gfn(gfn), 0).expect("memory for the domain");
        }
        gfn += if superpage { 512 } else { 1 };
    }
    let vcpus = (0..config.vcpus).map(|vcpu| Vcpu::new(VcpuId(vcpu), 2 * vcpu, ())).collect();
    let domain = Arc::new(Domain {
        id,
        birth: ebb_core::domain::Birth::now(),
        memory,
        events: ebb_core::evtchn::DomainEvents::new(),
        grants: ebb_core::grant::DomainGrants::new(),
        hvm: ebb_core::hvm::HvmParameters::new(),
        sched: ebb_core::sched::DomainSched::new(config.weight, config.cap),
        control: ebb_core::domctl::Control::new(),
        lifecycle: ebb_core::lifecycle::Lifecycle::new(),
        config,
        vcpus,
    });
    hv.set_domain(id, Some(domain.clone()));
    domain
}

/// An unprivileged domain of `pages` pages, at most twice that, with `vcpus` vCPUs.
pub fn domain(hv: &Hypervisor<FakeMachine>, id: u16, pages: u64, vcpus: u32) -> Arc<Domain<FakeMachine>> {
    domain_of(hv, id, domain_config(&std::format!("test{id}"), pages, 2 * pages, vcpus))
}

/// A domain's vCPU.
pub fn vcpu(domain: &Arc<Domain<FakeMachine>>, id: u32) -> VcpuRef<FakeMachine> {
    VcpuRef::new(domain, VcpuId(id)).expect("a vCPU of that number")
}

/// Paging off: addresses in hypercall arguments are guest-physical (32 bits).
pub const UNPAGED: GuestPaging = GuestPaging { cr0: 0x11, cr3: 0, cr4: 0, efer: 0, cpl: 0, interrupts: true };

/// A hypercall of `current`'s with 64-bit arguments and paging off, for calling one function of the core.
pub fn call<'a>(
    hv: &'a Hypervisor<FakeMachine>,
    current: &'a VcpuRef<FakeMachine>,
    args: [u64; 5],
) -> Call<'a, FakeMachine> {
    Call { hv, current, args, width: Width::Bits64, paging: UNPAGED }
}

/// A whole hypercall, with its continuations, through the table: what ends up in rax.
pub fn hypercall(
    hv: &Hypervisor<FakeMachine>,
    current: &VcpuRef<FakeMachine>,
    number: impl TryInto<u64, Error: fmt::Debug>,
    args: [u64; 5],
) -> i64 {
    let number = number.try_into().expect("a number");
    let mut args = args;
    for _ in 0..1_000_000 {
        match hv.hypercall(current, number, args, Width::Bits64, UNPAGED) {
            Next::Return(value) => return value,
            Next::Again(next) => args = next,
        }
    }
    panic!("hypercall {number} does not end");
}

/// Writes into a domain's memory at a guest-physical address, inside one page.
pub fn poke(hv: &Hypervisor<FakeMachine>, domain: &Domain<FakeMachine>, address: u64, bytes: &[u8]) {
    hv.machine.write(machine_address(hv, domain, address), bytes);
}

/// Reads a domain's memory at a guest-physical address, inside one page.
pub fn peek<const N: usize>(hv: &Hypervisor<FakeMachine>, domain: &Domain<FakeMachine>, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    hv.machine.read(machine_address(hv, domain, address), &mut bytes);
    bytes
}

/// Where a guest-physical address is.
pub fn machine_address(hv: &Hypervisor<FakeMachine>, domain: &Domain<FakeMachine>, address: u64) -> MachineAddress {
    let gfn = Gfn(address / PAGE_SIZE as u64);
    let (mfn, _) = domain.memory.translate(&hv.machine, gfn).expect("a mapped address");
    MachineAddress::in_frame(mfn, address as usize % PAGE_SIZE)
}
