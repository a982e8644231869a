//! Physical processors: the per-CPU area, descriptor tables, stacks, idling.
//!
//! Each processor's [`PerCpu`] is found through its GS base, which is set before any other Rust code runs there and
//! never changes while the hypervisor runs (a guest's GS base is loaded and saved by the world switch, with NMIs held
//! off). Fields that other processors read or write are atomics; the rest belong to the processor alone.
#![allow(unsafe_code, reason = "descriptor tables, control registers, the GS base")]

pub mod start;

use crate::interrupts;
use crate::memory::paging::MapError;
use crate::{instr, memory, time};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use raw_cpuid::FeatureInfo;
use x86::bits64::task::TaskStateSegment;
use x86::dtables::DescriptorTablePointer;
use x86::msr::{IA32_EFER, IA32_GS_BASE, IA32_PAT};

/// Processors beyond this number stay stopped.
pub const MAX_CPUS: usize = 64;

/// Selectors of the hypervisor's descriptor table.
pub const CODE_SELECTOR: u16 = 0x08;
/// Data and stack.
pub const DATA_SELECTOR: u16 = 0x10;
/// The task state segment (VMX wants a non-zero TR).
pub const TSS_SELECTOR: u16 = 0x18;

/// Interrupt stacks, numbers as in a gate's IST field.
pub const IST_NMI: u8 = 1;
/// See [`IST_NMI`].
pub const IST_DOUBLE_FAULT: u8 = 2;
/// See [`IST_NMI`].
pub const IST_MACHINE_CHECK: u8 = 3;

const MAIN_STACK_PAGES: u64 = 8;
const IST_STACK_PAGES: u64 = 4;

/// Index of a physical processor, dense from 0 (the boot processor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u16);

impl CpuId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// What a processor is doing, for the panic report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// Starting up.
    Boot = 0,
    /// Nothing to run.
    Idle = 1,
    /// In the scheduler or other work of its own.
    Scheduler = 2,
    /// Inside a guest, or on the way in or out.
    Guest = 3,
    /// Handling a guest's exit.
    Exit = 4,
}

/// Descriptor table and task state of one processor.
struct Tables {
    gdt: [u64; 5],
    tss: TaskStateSegment,
}

/// What [`PerCpu::set_packed_activity`] takes.
pub const fn pack_activity(doing: Doing, domain: u16, vcpu: u16, exit: u16) -> u64 {
    (doing as u64) << 48 | (domain as u64) << 32 | (vcpu as u64) << 16 | exit as u64
}

/// One processor's own area.
#[repr(C, align(64))]
pub struct PerCpu {
    /// Address of this area: what GS:0 holds.
    this: AtomicPtr<PerCpu>,
    id: AtomicU32,
    apic_id: AtomicU32,
    acpi_id: AtomicU32,
    online: AtomicBool,
    kicked: AtomicBool,
    timer: AtomicBool,
    doing: AtomicU64,
    stack_top: AtomicU64,
    tsc_adjust: AtomicI64,
    timer_deadline: AtomicU64,
    /// Ranks of the core's locks that are held here; kept only where debug assertions are on.
    held_ranks: AtomicU64,
    slots: [AtomicPtr<()>; 4],
    tables: UnsafeCell<Tables>,
}

// SAFETY: everything but `tables` is atomic; `tables` is written by the processor that starts this one, before it
// runs, and afterwards only by the processor itself (the hardware marks the TSS busy).
unsafe impl Sync for PerCpu {}

impl PerCpu {
    const fn new() -> Self {
        Self {
            this: AtomicPtr::new(core::ptr::null_mut()),
            id: AtomicU32::new(0),
            apic_id: AtomicU32::new(0),
            acpi_id: AtomicU32::new(0),
            online: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            timer: AtomicBool::new(false),
            doing: AtomicU64::new(0),
            stack_top: AtomicU64::new(0),
            tsc_adjust: AtomicI64::new(0),
            timer_deadline: AtomicU64::new(0),
            held_ranks: AtomicU64::new(0),
            slots: [const { AtomicPtr::new(core::ptr::null_mut()) }; 4],
            tables: UnsafeCell::new(Tables { gdt: [0; 5], tss: TaskStateSegment::new() }),
        }
    }

    /// Its number.
    #[inline(always)]
    pub fn id(&self) -> CpuId {
        CpuId(self.id.load(Ordering::Relaxed) as u16)
    }

    /// Its local APIC's id.
    #[inline(always)]
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Its id in ACPI's tables.
    pub fn acpi_id(&self) -> u32 {
        self.acpi_id.load(Ordering::Relaxed)
    }

    /// True once it runs.
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// Takes note of a kick; the kick's handler and exits for it call this.
    #[inline(always)]
    pub fn note_kick(&self) {
        self.kicked.store(true, Ordering::Release);
    }

    /// True once per kick (or several that came together).
    #[inline(always)]
    pub fn take_kick(&self) -> bool {
        self.kicked.load(Ordering::Relaxed) && self.kicked.swap(false, Ordering::Acquire)
    }

    /// True when a kick is noted and not yet taken.
    #[inline(always)]
    pub fn kick_pending(&self) -> bool {
        self.kicked.load(Ordering::Acquire)
    }

    /// Takes note that the timer fired; nothing is armed any more.
    #[inline(always)]
    pub fn note_timer(&self) {
        self.timer_deadline.store(0, Ordering::Relaxed);
        self.timer.store(true, Ordering::Release);
    }

    /// True once per firing of the timer.
    #[inline(always)]
    pub fn take_timer(&self) -> bool {
        self.timer.load(Ordering::Relaxed) && self.timer.swap(false, Ordering::Acquire)
    }

    /// True when the timer has fired and nobody has taken note.
    #[inline(always)]
    pub fn timer_pending(&self) -> bool {
        self.timer.load(Ordering::Acquire)
    }

    /// The deadline that is armed, in ns, 0 for none: `time::arm_timer`'s own.
    #[inline(always)]
    pub(crate) fn timer_deadline(&self) -> &AtomicU64 {
        &self.timer_deadline
    }

    /// What to add to this processor's TSC so that it agrees with the boot processor's.
    #[inline(always)]
    pub(crate) fn tsc_adjust(&self) -> &AtomicI64 {
        &self.tsc_adjust
    }

    /// Notes what the processor does, for a panic report: `domain`/`vcpu` of the guest concerned, and the exit's code.
    #[inline(always)]
    pub fn set_activity(&self, doing: Doing, domain: u16, vcpu: u16, exit: u16) {
        self.set_packed_activity(pack_activity(doing, domain, vcpu, exit));
    }

    /// [`PerCpu::set_activity`] with a value made beforehand.
    #[inline(always)]
    pub fn set_packed_activity(&self, packed: u64) {
        self.doing.store(packed, Ordering::Relaxed);
    }

    /// What [`PerCpu::set_activity`] noted: doing (a [`Doing`] as a number), domain, vCPU, exit code.
    pub fn activity(&self) -> (u8, u16, u16, u16) {
        let packed = self.doing.load(Ordering::Relaxed);
        ((packed >> 48) as u8, (packed >> 32) as u16, (packed >> 16) as u16, packed as u16)
    }

    /// What the core's check of the lock order keeps for this processor.
    pub fn held_ranks(&self) -> &AtomicU64 {
        &self.held_ranks
    }

    /// Pointers for the rooms above (0 and 1: virtualisation, 2 and 3: the glue to the core); null at first.
    #[inline(always)]
    pub fn slot(&self, index: usize) -> &AtomicPtr<()> {
        &self.slots[index]
    }

    /// The top of its main stack.
    pub fn stack_top(&self) -> u64 {
        self.stack_top.load(Ordering::Relaxed)
    }

    /// Linear addresses of its descriptor table and task state segment (VMX writes them into its host state).
    pub fn table_addresses(&self) -> (u64, u64) {
        let tables = self.tables.get();
        // SAFETY: only addresses within the static area are formed; nothing is read.
        unsafe { (core::ptr::addr_of!((*tables).gdt) as u64, core::ptr::addr_of!((*tables).tss) as u64) }
    }
}

static CPUS: [PerCpu; MAX_CPUS] = [const { PerCpu::new() }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// The processor this code runs on.
#[inline(always)]
pub fn this_cpu() -> &'static PerCpu {
    let address: *const PerCpu;
    // SAFETY: GS:0 holds the address of this processor's static area (see `adopt`) from before any caller can run.
    // Nothing here ever moves to another processor, so the value may be cached.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) address, options(pure, nomem, nostack, preserves_flags));
        &*address
    }
}

/// Processors that run, numbered 0 to this.
#[inline(always)]
pub fn cpu_count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// A running processor's area.
///
/// # Panics
/// When there is no such processor.
#[inline(always)]
pub fn by_id(id: CpuId) -> &'static PerCpu {
    assert!(id.index() < cpu_count(), "no processor {}", id.0);
    &CPUS[id.index()]
}

/// All running processors.
pub fn all() -> &'static [PerCpu] {
    &CPUS[..cpu_count()]
}

/// First of all on a processor: makes `CPUS[index]` its own.
pub(crate) fn adopt(index: usize) {
    let area = &CPUS[index];
    area.this.store(core::ptr::from_ref(area).cast_mut(), Ordering::Relaxed);
    area.id.store(index as u32, Ordering::Relaxed);
    // SAFETY: GS base is ours to set; the area is static.
    unsafe { instr::wrmsr(IA32_GS_BASE, core::ptr::from_ref(area) as u64) };
}

/// Control registers and descriptor tables of this processor, whose stacks [`make_stacks`] has made.
pub(crate) fn init_tables() {
    let cpu = this_cpu();
    // SAFETY: before this processor takes any interrupt, nothing reads its tables.
    let tables = unsafe { &mut *cpu.tables.get() };
    let tss = core::ptr::addr_of!(tables.tss) as u64;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    tables.gdt = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        // Available 64-bit TSS, present.
        limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
    ];
    // SAFETY: the table is static and has flat code and data at the selectors loaded; GS, whose base matters, is not
    // reloaded.
    unsafe {
        x86::dtables::lgdt(&DescriptorTablePointer::new(&tables.gdt));
        core::arch::asm!(
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ss, {data:x}",
            "mov ds, {data:x}",
            "mov es, {data:x}",
            code = const CODE_SELECTOR as u64,
            scratch = out(reg) _,
            data = in(reg) u32::from(DATA_SELECTOR),
        );
        x86::task::load_tr(x86::segmentation::SegmentSelector::from_raw(TSS_SELECTOR));
    }
    interrupts::load();
    init_registers();
}

/// CR0, CR4, EFER, PAT as the hypervisor wants them on every processor.
fn init_registers() {
    const CR0_MP: u64 = 1 << 1;
    const CR0_EM: u64 = 1 << 2;
    const CR0_TS: u64 = 1 << 3;
    const CR0_NE: u64 = 1 << 5;
    const CR0_WP: u64 = 1 << 16;
    const CR0_CACHES_OFF: u64 = 0x6000_0000;
    const CR4_PAE: u64 = 1 << 5;
    const CR4_MCE: u64 = 1 << 6;
    const CR4_OSFXSR: u64 = 1 << 9;
    const CR4_OSXMMEXCPT: u64 = 1 << 10;
    const CR4_OSXSAVE: u64 = 1 << 18;
    const EFER_NXE: u64 = 1 << 11;
    /// Entries 0 to 3 as after reset, 4 to 7 the same but 5: write-combining.
    const PAT: u64 = 0x0007_0106_0007_0406;
    let features = raw_cpuid::CpuId::new().get_feature_info();
    let offered = |has: fn(&FeatureInfo) -> bool, bit| if features.as_ref().is_some_and(has) { bit } else { 0 };
    let cr4 = CR4_PAE
        | CR4_OSFXSR
        | CR4_OSXMMEXCPT
        | offered(FeatureInfo::has_mce, CR4_MCE)
        | offered(FeatureInfo::has_xsave, CR4_OSXSAVE);
    // SAFETY: paging stays on with the same tables; write protection is what the mappings expect; the FPU bits only
    // allow instructions that the hypervisor uses to switch guests; PAT entry 5 is used by no mapping that exists yet.
    unsafe {
        instr::set_cr0(instr::cr0() & !(CR0_EM | CR0_TS | CR0_CACHES_OFF) | CR0_MP | CR0_NE | CR0_WP);
        instr::set_cr4(cr4);
        instr::wrmsr(IA32_EFER, instr::rdmsr(IA32_EFER) | EFER_NXE);
        instr::wrmsr(IA32_PAT, PAT);
    }
}

/// Maps processor `index`'s stacks and enters them into its area and task state segment.
///
/// # Errors
/// [`MapError`] when there is no memory.
pub(crate) fn make_stacks(index: usize) -> Result<(), MapError> {
    let cpu = &CPUS[index];
    let page = memory::ranges::PAGE_SIZE;
    let mut offset = page;
    let top = memory::map_stack(index, offset, MAIN_STACK_PAGES)?;
    cpu.stack_top.store(top, Ordering::Relaxed);
    offset += MAIN_STACK_PAGES * page;
    for ist in [IST_NMI, IST_DOUBLE_FAULT, IST_MACHINE_CHECK] {
        // One page between two stacks stays unmapped.
        offset += page;
        let top = memory::map_stack(index, offset, IST_STACK_PAGES)?;
        offset += IST_STACK_PAGES * page;
        // The crate counts from 0. SAFETY: the processor does not run yet, or (the boot processor) has not loaded its tables yet.
        unsafe { (*cpu.tables.get()).tss.set_ist(usize::from(ist) - 1, top) };
    }
    Ok(())
}

/// The guard page's name when `address` lies in one of the stacks' guard pages.
pub(crate) fn guard_page_of(address: u64) -> Option<&'static str> {
    use memory::layout::{STACKS_BASE, STACKS_STRIDE};
    let page = memory::ranges::PAGE_SIZE;
    let offset = address.checked_sub(STACKS_BASE).filter(|&offset| offset / STACKS_STRIDE < MAX_CPUS as u64)?;
    let index = offset % STACKS_STRIDE / page;
    if index == 0 {
        return Some("the main stack");
    }
    let index = index.checked_sub(1 + MAIN_STACK_PAGES)?;
    let names = ["the NMI stack", "the double-fault stack", "the machine-check stack"];
    (index % (1 + IST_STACK_PAGES) == 0).then(|| names.get((index / (1 + IST_STACK_PAGES)) as usize).copied())?
}

/// True when `address` lies in a mapped page of some processor's stack.
pub(crate) fn is_stack_page(address: u64) -> bool {
    use memory::layout::{STACKS_BASE, STACKS_STRIDE};
    let page = memory::ranges::PAGE_SIZE;
    let Some(offset) = address.checked_sub(STACKS_BASE) else {
        return false;
    };
    let (cpu, index) = (offset / STACKS_STRIDE, offset % STACKS_STRIDE / page);
    let last = MAIN_STACK_PAGES + 3 * (1 + IST_STACK_PAGES);
    cpu < cpu_count() as u64 && index <= last && guard_page_of(address).is_none()
}

/// The named point where interrupts are on outside guests: waits for a kick, the timer or another interrupt. Returns
/// at once when a kick or the timer is noted already. The caller looks for work before and after.
pub fn idle() {
    let cpu = this_cpu();
    if cpu.kick_pending() || cpu.timer_pending() {
        return;
    }
    time::sleep();
}

/// Goes to the top of this processor's main stack and calls `next` there, for good.
///
/// # Safety
/// The stack is mapped and not in use; nothing on the present stack is needed any more.
pub(crate) unsafe fn switch_stack(next: extern "C" fn() -> !) -> ! {
    let top = this_cpu().stack_top();
    // SAFETY: the caller's promise. The top is 16-byte aligned, as `call` expects it.
    unsafe {
        core::arch::asm!("mov rsp, {top}", "xor ebp, ebp", "call {next}", "ud2", top = in(reg) top, next = in(reg) next,
            options(noreturn))
    }
}
