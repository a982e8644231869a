//! `xen.h`: the identifiers and calls everything else is built from.
//!
//! The identifier types ([`DomId`], [`VcpuId`], [`Port`], [`Gfn`], [`Mfn`], [`Pfn`]) are distinct in release builds too:
//! a guest's frame number cannot be passed where a machine's is wanted.

pub mod compat;
pub mod errno;
pub mod hypercall;
pub mod shared_info;

use core::fmt;
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use errno::Errno;
pub use shared_info::{
    ArchSharedInfo, ArchVcpuInfo, SharedInfo, VcpuInfo, VcpuTimeInfo, shared_info_offset, vcpu_info_offset,
};

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A domain's number as it travels in the ABI; values from [`DomId::FIRST_RESERVED`] on are not domains.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DomId(pub u16);

impl DomId {
    /// `DOMID_FIRST_RESERVED`: no domain has this number or a greater one.
    pub const FIRST_RESERVED: DomId = DomId(0x7FF0);
    /// `DOMID_SELF`: the calling domain.
    pub const SELF: DomId = DomId(0x7FF0);
    /// `DOMID_IO`: owner of memory-mapped I/O pages.
    pub const IO: DomId = DomId(0x7FF1);
    /// `DOMID_XEN`: owner of the hypervisor's own pages.
    pub const XEN: DomId = DomId(0x7FF2);
    /// `DOMID_COW`: owner of shared (copy-on-write) pages.
    pub const COW: DomId = DomId(0x7FF3);
    /// `DOMID_INVALID`: no domain.
    pub const INVALID: DomId = DomId(0x7FF4);
    /// `DOMID_IDLE`: the idle domain.
    pub const IDLE: DomId = DomId(0x7FFF);
    /// `DOMID_MASK`: the bits of a domain number.
    pub const MASK: u16 = 0x7FFF;

    /// Whether this is not the number of an ordinary domain (reserved, or out of the 15 bits).
    pub const fn is_special(self) -> bool {
        self.0 >= Self::FIRST_RESERVED.0
    }

    /// Whether this means the calling domain.
    pub const fn is_self(self) -> bool {
        self.0 == Self::SELF.0
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}

impl fmt::Debug for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SELF => f.write_str("DomId(SELF)"),
            Self::IO => f.write_str("DomId(IO)"),
            Self::XEN => f.write_str("DomId(XEN)"),
            Self::COW => f.write_str("DomId(COW)"),
            Self::INVALID => f.write_str("DomId(INVALID)"),
            Self::IDLE => f.write_str("DomId(IDLE)"),
            DomId(other) => write!(f, "DomId({other})"),
        }
    }
}

/// Declares a 32-bit identifier that prints in decimal.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
        )]
        pub struct $name(pub u32);

        impl $name {
            /// The number as an index.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id_type!(
    /// The number of a vCPU within its domain.
    VcpuId,
    "v"
);
id_type!(
    /// `evtchn_port_t`: a port of a domain. Port 0 is never valid.
    Port,
    "p"
);
id_type!(
    /// `VIRQ_*`: the number of a virtual interrupt line.
    Virq,
    "virq"
);

impl Virq {
    /// `VIRQ_TIMER`: a vCPU's timer. Per vCPU.
    pub const TIMER: Virq = Virq(0);
    /// `VIRQ_DEBUG`: request to dump debug information. Per vCPU.
    pub const DEBUG: Virq = Virq(1);
    /// `VIRQ_CONSOLE`: bytes received on the emergency console. Privileged.
    pub const CONSOLE: Virq = Virq(2);
    /// `VIRQ_DOM_EXC`: a domain changed state (shut down or died). Privileged.
    pub const DOM_EXC: Virq = Virq(3);
    /// `VIRQ_TBUF`: a trace buffer has records available. Privileged.
    pub const TBUF: Virq = Virq(4);
    /// `VIRQ_DEBUGGER`: a domain has paused for debugging. Privileged.
    pub const DEBUGGER: Virq = Virq(6);
    /// `VIRQ_XENOPROF`: a profiling sample is available. Per vCPU.
    pub const XENOPROF: Virq = Virq(7);
    /// `VIRQ_CON_RING`: bytes written to the console ring. Privileged.
    pub const CON_RING: Virq = Virq(8);
    /// `VIRQ_PCPU_STATE`: a physical CPU's state changed. Privileged.
    pub const PCPU_STATE: Virq = Virq(9);
    /// `VIRQ_MEM_EVENT`: a memory event has occurred. Privileged.
    pub const MEM_EVENT: Virq = Virq(10);
    /// `VIRQ_ARGO`: an inter-domain message is available.
    pub const ARGO: Virq = Virq(11);
    /// `VIRQ_ENOMEM`: the host is low on memory. Privileged.
    pub const ENOMEM: Virq = Virq(12);
    /// `VIRQ_XENPMU`: a performance counter interrupt. Per vCPU.
    pub const XENPMU: Virq = Virq(13);
    /// `VIRQ_ARCH_0`: the first architecture-specific line (on x86: machine check).
    pub const ARCH_0: Virq = Virq(16);
    /// `NR_VIRQS`: lines from this number on do not exist.
    pub const COUNT: u32 = 24;

    /// Whether each vCPU has its own copy of the line. Such a binding cannot be moved to another vCPU.
    pub const fn is_per_vcpu(self) -> bool {
        matches!(self, Self::TIMER | Self::DEBUG | Self::XENOPROF | Self::XENPMU)
    }
}

/// Declares a frame number: 64-bit, printed in hexadecimal.
macro_rules! frame_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $name(pub u64);

        impl $name {
            /// The frame that holds byte address `address`.
            pub const fn from_address(address: u64) -> Self {
                Self(address >> PAGE_SHIFT)
            }

            /// The frame's first byte. Bits above 2^52 are lost: for a number from a guest use `checked_address`.
            pub const fn address(self) -> u64 {
                self.0 << PAGE_SHIFT
            }

            /// The frame's first byte, or `None` when the number is too large to have one.
            pub const fn checked_address(self) -> Option<u64> {
                if self.0 >> (u64::BITS - PAGE_SHIFT) == 0 { Some(self.0 << PAGE_SHIFT) } else { None }
            }

            /// The frame `frames` further on, or `None` on overflow.
            pub const fn checked_add(self, frames: u64) -> Option<Self> {
                match self.0.checked_add(frames) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Whether an extent of 2^`order` frames may start here. `order` below 64.
            pub const fn is_aligned(self, order: u32) -> bool {
                self.0 & ((1 << order) - 1) == 0
            }

            /// The start of the aligned extent of 2^`order` frames that holds this one. `order` below 64.
            pub const fn align_down(self, order: u32) -> Self {
                Self(self.0 & !((1 << order) - 1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

frame_type!(
    /// A guest frame number: a page of a domain's physical address space as the hypervisor names it.
    Gfn
);
frame_type!(
    /// A machine frame number: a page of the host.
    Mfn
);
frame_type!(
    /// A pseudo-physical frame number: a page as the guest's own kernel names it.
    Pfn
);

/// `XEN_GUEST_HANDLE(T)`: an address in the calling guest, where one or more `T` lie. Says nothing about validity.
#[repr(transparent)]
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GuestHandle<T: ?Sized> {
    address: u64,
    points_to: PhantomData<fn() -> T>,
}

impl<T: ?Sized> GuestHandle<T> {
    /// A handle to `address`.
    pub const fn new(address: u64) -> Self {
        Self { address, points_to: PhantomData }
    }

    /// The null handle.
    pub const fn null() -> Self {
        Self::new(0)
    }

    /// The address, unchecked.
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Whether the handle is null.
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// The same address seen as another type.
    pub const fn cast<U: ?Sized>(self) -> GuestHandle<U> {
        GuestHandle::new(self.address)
    }
}

impl<T> GuestHandle<T> {
    /// The handle of element `index` of the array here, or `None` when the address wraps.
    pub const fn element(self, index: u64) -> Option<Self> {
        let Some(offset) = index.checked_mul(size_of::<T>() as u64) else {
            return None;
        };
        match self.address.checked_add(offset) {
            Some(address) => Some(Self::new(address)),
            None => None,
        }
    }
}

impl<T: ?Sized> Clone for GuestHandle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for GuestHandle<T> {}

impl<T: ?Sized> Default for GuestHandle<T> {
    fn default() -> Self {
        Self::null()
    }
}

impl<T: ?Sized> PartialEq for GuestHandle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl<T: ?Sized> Eq for GuestHandle<T> {}

impl<T: ?Sized> fmt::Debug for GuestHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestHandle({:#x})", self.address)
    }
}

/// `struct multicall_entry`: one call of a batch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MulticallEntry {
    /// The hypercall's number.
    pub op: u64,
    /// Out: its return value.
    pub result: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// `xen_domain_handle_t`: a UUID that tools give to a domain.
pub type DomainHandle = [u8; 16];

/// `struct xenctl_bitmap`: a bitmap in the caller's memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CtlBitmap {
    /// Where the bytes are.
    pub bitmap: GuestHandle<u8>,
    /// How many bits are meant.
    pub nr_bits: u32,
    /// Padding.
    pub pad: u32,
}

/// `CONSOLEIO_*`: operations of `console_io`.
pub mod console_io {
    /// `CONSOLEIO_write`: write bytes to the console.
    pub const WRITE: u32 = 0;
    /// `CONSOLEIO_read`: read bytes from the console. Privileged.
    pub const READ: u32 = 1;
}

/// `VMASST_*`: operations and types of `vm_assist`.
pub mod vm_assist {
    /// `VMASST_CMD_enable`: switch an assist on.
    pub const ENABLE: u32 = 0;
    /// `VMASST_CMD_disable`: switch an assist off.
    pub const DISABLE: u32 = 1;
    /// `VMASST_TYPE_4gb_segments`: emulate 4 GiB segments (paravirtual guests).
    pub const TYPE_4GB_SEGMENTS: u32 = 0;
    /// `VMASST_TYPE_4gb_segments_notify`: notify of such emulation (paravirtual guests).
    pub const TYPE_4GB_SEGMENTS_NOTIFY: u32 = 1;
    /// `VMASST_TYPE_writable_pagetables`: writable page tables (paravirtual guests).
    pub const TYPE_WRITABLE_PAGETABLES: u32 = 2;
    /// `VMASST_TYPE_pae_extended_cr3`: PAE page directories above 4 GiB (paravirtual guests).
    pub const TYPE_PAE_EXTENDED_CR3: u32 = 3;
    /// `VMASST_TYPE_architectural_iopl`: IOPL as hardware has it (paravirtual guests).
    pub const TYPE_ARCHITECTURAL_IOPL: u32 = 4;
    /// `VMASST_TYPE_runstate_update_flag`: mark a runstate area while it is being updated.
    pub const TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;
    /// `VMASST_TYPE_m2p_strict`: no machine-to-physical table in user mode (paravirtual guests).
    pub const TYPE_M2P_STRICT: u32 = 32;
}

/// `XEN_HVM_DEBUGCONS_IOPORT`: bytes written here go to the console.
pub const HVM_DEBUGCONS_IOPORT: u16 = 0xe9;

const _: () = {
    assert!(size_of::<DomId>() == 2);
    assert!(size_of::<Port>() == 4);
    assert!(size_of::<Gfn>() == 8);
    assert!(size_of::<GuestHandle<u8>>() == 8 && align_of::<GuestHandle<u8>>() == 8);
    assert!(size_of::<MulticallEntry>() == 64);
    assert!(core::mem::offset_of!(MulticallEntry, result) == 8);
    assert!(core::mem::offset_of!(MulticallEntry, args) == 16);
    assert!(size_of::<CtlBitmap>() == 16);
    assert!(core::mem::offset_of!(CtlBitmap, nr_bits) == 8);
};
