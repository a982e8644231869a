//! Why a guest left to the hypervisor, whatever the processor's vendor: the index of a counter in
//! [`crate::trace_stream::DomainExits`].

/// A neutral reason for an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitReason {
    /// A physical interrupt.
    Interrupt,
    /// A physical NMI.
    Nmi,
    /// The guest could take what waited to be injected.
    Window,
    /// A hypercall.
    Hypercall,
    /// CPUID.
    Cpuid,
    /// HLT.
    Halt,
    /// PAUSE in a loop.
    Pause,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// XSETBV.
    SetXcr,
    /// MOV to CR4.
    WriteCr4,
    /// WBINVD, INVD.
    CacheControl,
    /// An instruction that is undefined here.
    Undefined,
    /// An instruction that is forbidden here.
    Forbidden,
    /// IN, OUT.
    Io,
    /// A guest-physical address without memory: a device's page, or nothing.
    NestedFault,
    /// An exception that is watched.
    Exception,
    /// The guest's triple fault.
    TripleFault,
    /// A state that could not be entered.
    InvalidState,
    /// Anything else.
    Unknown,
}

impl ExitReason {
    /// Every reason, in the order of the numbers.
    pub const ALL: [ExitReason; 20] = [
        ExitReason::Interrupt,
        ExitReason::Nmi,
        ExitReason::Window,
        ExitReason::Hypercall,
        ExitReason::Cpuid,
        ExitReason::Halt,
        ExitReason::Pause,
        ExitReason::ReadMsr,
        ExitReason::WriteMsr,
        ExitReason::SetXcr,
        ExitReason::WriteCr4,
        ExitReason::CacheControl,
        ExitReason::Undefined,
        ExitReason::Forbidden,
        ExitReason::Io,
        ExitReason::NestedFault,
        ExitReason::Exception,
        ExitReason::TripleFault,
        ExitReason::InvalidState,
        ExitReason::Unknown,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// A word for tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Nmi => "nmi",
            Self::Window => "window",
            Self::Hypercall => "hypercall",
            Self::Cpuid => "cpuid",
            Self::Halt => "halt",
            Self::Pause => "pause",
            Self::ReadMsr => "rdmsr",
            Self::WriteMsr => "wrmsr",
            Self::SetXcr => "xsetbv",
            Self::WriteCr4 => "cr4",
            Self::CacheControl => "cache",
            Self::Undefined => "undefined",
            Self::Forbidden => "forbidden",
            Self::Io => "port",
            Self::NestedFault => "nested-fault",
            Self::Exception => "exception",
            Self::TripleFault => "triple-fault",
            Self::InvalidState => "invalid-state",
            Self::Unknown => "unknown",
        }
    }
}

const _: () = {
    let mut index = 0;
    while index < ExitReason::COUNT {
        assert!(ExitReason::ALL[index] as usize == index);
        index += 1;
    }
};
