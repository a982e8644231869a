//! The vendor border: what a virtualisation extension must offer, and the neutral form of its exits.
//!
//! `svm` and `vmx` implement [`Backend`] and [`VirtualCpu`], file by file alike. They translate; they decide nothing.
//! Everything above is over [`any`], which chooses once, at boot; the run loop and the hypercall are generic over
//! [`VirtualCpu`].

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use ebb_core::hypercall::{GuestPaging, Width};
use ebb_core::p2m::EntryFormat;
use ebb_core::sched::pause::Window;
use ebb_core::vcpu::{EntryPlan, ExitReason, Interruptibility, StartState};
use shared_abi::xen::Mfn;

pub mod any;
mod asid;
pub mod cell;
pub mod fpu;
mod page;
pub mod speculation;
pub mod svm;
pub mod vmx;

/// Bits of CR4 that guests may set.
static OFFERED_CR4: AtomicU64 = AtomicU64::new(0);

/// Says which bits of CR4 guests may set. Before any vCPU exists.
pub fn offer_cr4(bits: u64) {
    OFFERED_CR4.store(bits, Ordering::Relaxed);
}

/// Bits of CR4 that guests may set.
pub fn offered_cr4() -> u64 {
    OFFERED_CR4.load(Ordering::Relaxed)
}

/// Numbers of the general registers, as instructions encode them.
pub mod register {
    /// Accumulator.
    pub const RAX: usize = 0;
    /// Counter.
    pub const RCX: usize = 1;
    /// Data.
    pub const RDX: usize = 2;
    /// Base.
    pub const RBX: usize = 3;
    /// Stack pointer.
    pub const RSP: usize = 4;
    /// Source index.
    pub const RSI: usize = 6;
    /// Destination index.
    pub const RDI: usize = 7;
    /// First register with a number for a name.
    pub const R8: usize = 8;
    /// Used for the fourth argument of hypercalls.
    pub const R10: usize = 10;
}

/// Exceptions that are injected or looked at, by vector.
pub mod vector {
    /// #DB.
    pub const DEBUG: u8 = 1;
    /// #UD.
    pub const UNDEFINED_OPCODE: u8 = 6;
    /// #GP.
    pub const GENERAL_PROTECTION: u8 = 13;
    /// #PF.
    pub const PAGE_FAULT: u8 = 14;
    /// #AC.
    pub const ALIGNMENT_CHECK: u8 = 17;
    /// #MC.
    pub const MACHINE_CHECK: u8 = 18;
}

/// A virtualisation extension of one vendor.
pub trait Backend: Sized + Send + Sync + 'static {
    /// Its name, for people.
    const NAME: &'static str;
    /// The instruction by which its guests call the hypervisor.
    const HYPERCALL_INSTRUCTION: [u8; 3];
    /// Whether an NMI that ended a guest is still to be taken by the hypervisor's handler right after the exit.
    const NMI_STAYS_PENDING: bool;
    /// What guests read from IA32_MISC_ENABLE, where the vendor has it: kernels do before they can take a fault.
    const MISC_ENABLE: Option<u64>;
    /// Its nested page-table format.
    type Format: EntryFormat;
    /// Its state for a vCPU.
    type Vcpu: VirtualCpu;

    /// Whether this machine has what Ebb needs; otherwise one line that says what is missing.
    fn probe() -> Result<(), &'static str>;
    /// Turns the extension on, on the CPU this runs on.
    fn enable_this_cpu() -> Result<(), &'static str>;
    /// State for a new vCPU, or `None` when memory is short.
    fn new_vcpu() -> Option<Self::Vcpu>;
}

/// What an exit was about, in neutral terms. Register values are read through [`VirtualCpu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmExit {
    /// A physical interrupt waits to be taken.
    ExternalInterrupt,
    /// A physical NMI came.
    Nmi,
    /// The guest can now take the interrupt or NMI that waited.
    Window,
    /// VMMCALL or VMCALL.
    Hypercall,
    /// CPUID.
    Cpuid,
    /// HLT.
    Halt,
    /// A spin loop was noticed, or PAUSE.
    Pause,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// XSETBV.
    SetXcr,
    /// A write to CR4, with the privilege for it. The instruction is to be decoded.
    WriteCr4,
    /// WBINVD, INVD: nothing to do, no guest has a device.
    CacheControl,
    /// An instruction no guest may use here.
    Undefined,
    /// An instruction that faults by policy (RDPMC).
    Forbidden,
    /// IN or OUT.
    Io(IoAccess),
    /// An access that the nested tables do not allow.
    NestedFault(NestedFault),
    /// An exception that is only watched and goes back to the guest.
    Exception {
        /// Which.
        vector: u8,
        /// Its error code.
        error: Option<u32>,
    },
    /// Shutdown: the guest's triple fault.
    TripleFault,
    /// The vCPU's state could not be entered: a guest cannot cause this by itself on purpose, the report says why.
    InvalidState,
    /// An exit without a meaning here; the raw reason.
    Unknown(u64),
}

impl VmExit {
    /// What the exit counts as.
    #[inline]
    pub fn reason(&self) -> ExitReason {
        match self {
            Self::ExternalInterrupt => ExitReason::Interrupt,
            Self::Nmi => ExitReason::Nmi,
            Self::Window => ExitReason::Window,
            Self::Hypercall => ExitReason::Hypercall,
            Self::Cpuid => ExitReason::Cpuid,
            Self::Halt => ExitReason::Halt,
            Self::Pause => ExitReason::Pause,
            Self::ReadMsr => ExitReason::ReadMsr,
            Self::WriteMsr => ExitReason::WriteMsr,
            Self::SetXcr => ExitReason::SetXcr,
            Self::WriteCr4 => ExitReason::WriteCr4,
            Self::CacheControl => ExitReason::CacheControl,
            Self::Undefined => ExitReason::Undefined,
            Self::Forbidden => ExitReason::Forbidden,
            Self::Io(_) => ExitReason::Io,
            Self::NestedFault(_) => ExitReason::NestedFault,
            Self::Exception { .. } => ExitReason::Exception,
            Self::TripleFault => ExitReason::TripleFault,
            Self::InvalidState => ExitReason::InvalidState,
            Self::Unknown(_) => ExitReason::Unknown,
        }
    }
}

/// One port access, or a string of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// Port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub repeated: bool,
    /// Address size in bytes, for string forms.
    pub address_size: u8,
    /// Bits of the segment used by OUTS: index as in [`VirtualCpu::segment_base`].
    pub segment: u8,
}

/// A nested page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedFault {
    /// Guest-physical address.
    pub address: u64,
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// The translation exists and forbids the access.
    pub present: bool,
    /// The processor was reading the guest's own page tables, not what the instruction names.
    pub table_walk: bool,
}

/// Bytes of the instruction that exited, when the hardware offers them.
#[derive(Clone, Copy, Debug, Default)]
pub struct InstructionBytes {
    /// The bytes.
    pub bytes: [u8; 15],
    /// How many are valid.
    pub length: usize,
}

/// Segments by their encoding in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum SegmentName {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

impl SegmentName {
    /// The segment with this number; numbers that do not exist mean the data segment.
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Es,
            1 => Self::Cs,
            2 => Self::Ss,
            4 => Self::Fs,
            5 => Self::Gs,
            _ => Self::Ds,
        }
    }
}

/// A vCPU's hardware state. Used only by the CPU that holds it (see [`cell::VcpuCell`]).
pub trait VirtualCpu: Send {
    /// Begins from `state`, with translations through the table at `nested_root`.
    fn start(&mut self, state: &StartState, nested_root: Mfn);
    /// Becomes the vCPU of this CPU: what is not switched at every entry is loaded.
    fn load(&mut self);
    /// Whether this machine can tell that a guest spins.
    fn has_pause_exits(&self) -> bool;
    /// Says how long the guest may spin before it exits, where the hardware can tell.
    fn set_pause_window(&mut self, window: Window);
    /// Stops being the vCPU of this CPU.
    fn unload(&mut self);
    /// Applies what must hold at the next entry, except `start`.
    fn prepare(&mut self, plan: &EntryPlan);
    /// [`VirtualCpu::prepare`] for an entry with nothing to inject and nothing to wait for.
    fn prepare_quiet(&mut self, flush_tlb: bool);
    /// [`VirtualCpu::prepare`] for an entry for which only an interrupt waits: it is injected if the guest can take it
    /// now, else there is an exit when it can.
    fn prepare_interrupt(&mut self, vector: u8, flush_tlb: bool);
    /// Runs the guest until an exit.
    fn run(&mut self) -> VmExit;

    /// A general register.
    fn general(&self, number: usize) -> u64;
    /// Changes a general register.
    fn set_general(&mut self, number: usize, value: u64);
    /// Instruction pointer.
    fn rip(&self) -> u64;
    /// The processor's own code of the last exit, for traces.
    fn exit_code(&self) -> u32;
    /// Changes the instruction pointer and ends the interrupt shadow.
    fn set_rip(&mut self, rip: u64);
    /// Steps over the instruction that exited; `length` is used when the hardware does not say (prefixes are then not
    /// counted: a guest that uses them where they mean nothing fools only itself).
    fn advance(&mut self, length: u64);
    /// Steps over the IN or OUT that exited.
    fn advance_io(&mut self);
    /// Flags.
    fn rflags(&self) -> u64;
    /// Changes the flags.
    fn set_rflags(&mut self, rflags: u64);
    /// Translation state.
    fn paging(&self) -> GuestPaging;
    /// Width of the code that runs.
    fn width(&self) -> Width;
    /// Base of a segment (0 in 64-bit mode except fs and gs).
    fn segment_base(&self, segment: SegmentName) -> u64;
    /// Bits of a code address and operand default: 16, 32 or 64.
    fn code_bits(&self) -> u32;
    /// Whether events can be taken now.
    fn interruptibility(&self) -> Interruptibility;
    /// Puts an exception before the guest at the next entry.
    fn inject_exception(&mut self, vector: u8, error: Option<u32>);
    /// Sets the address register that goes with a page fault (CR2).
    fn set_page_fault_address(&mut self, address: u64);
    /// The bytes of the instruction that caused a nested fault, if the hardware kept them.
    fn instruction_bytes(&self) -> InstructionBytes;
    /// Task priority as the guest last set it by CR8 (bits 7:4 of TPR), when that differs from what was set here.
    fn take_changed_tpr(&mut self) -> Option<u8>;
    /// Tells the hardware the task priority.
    fn set_tpr(&mut self, tpr: u8);
    /// Changes CR4, and drops translations where that makes them wrong. The value has been checked.
    fn set_cr4(&mut self, value: u64);
    /// An MSR whose value lives in the control block; `None` if this one does not.
    fn read_msr(&self, msr: u32) -> Option<u64>;
    /// Writes such an MSR. `false` if it does not live here.
    fn write_msr(&mut self, msr: u32, value: u64) -> bool;
    /// The XCR0 the guest runs with.
    fn xcr0(&self) -> u64;
    /// Changes it, now.
    fn set_xcr0(&mut self, value: u64);
    /// A report of the state, for people.
    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}
