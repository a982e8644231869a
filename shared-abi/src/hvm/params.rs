//! `hvm/params.h`: the parameters of [`super::SET_PARAM`] and [`super::GET_PARAM`].

/// `HVM_PARAM_CALLBACK_IRQ`: how upcalls are delivered: see [`CallbackVia`].
pub const CALLBACK_IRQ: u32 = 0;
/// `HVM_PARAM_STORE_PFN`: gfn of XenStore's ring.
pub const STORE_PFN: u32 = 1;
/// `HVM_PARAM_STORE_EVTCHN`: port of XenStore's ring.
pub const STORE_EVTCHN: u32 = 2;
/// `HVM_PARAM_PAE_ENABLED`: PAE is allowed.
pub const PAE_ENABLED: u32 = 4;
/// `HVM_PARAM_IOREQ_PFN`: gfn of the request page.
pub const IOREQ_PFN: u32 = 5;
/// `HVM_PARAM_BUFIOREQ_PFN`: gfn of the buffered request page.
pub const BUFIOREQ_PFN: u32 = 6;
/// `HVM_PARAM_VIRIDIAN`: Hyper-V enlightenments.
pub const VIRIDIAN: u32 = 9;
/// `HVM_PARAM_TIMER_MODE`: `HVMPTM_*`.
pub const TIMER_MODE: u32 = 10;
/// `HVM_PARAM_HPET_ENABLED`: there is an HPET.
pub const HPET_ENABLED: u32 = 11;
/// `HVM_PARAM_IDENT_PT`: identity page table for real mode on old machines.
pub const IDENT_PT: u32 = 12;
/// `HVM_PARAM_DM_DOMAIN`: domain of the device model (removed).
pub const DM_DOMAIN: u32 = 13;
/// `HVM_PARAM_ACPI_S_STATE`: sleep state.
pub const ACPI_S_STATE: u32 = 14;
/// `HVM_PARAM_VM86_TSS`: TSS for real mode on old machines.
pub const VM86_TSS: u32 = 15;
/// `HVM_PARAM_VPT_ALIGN`: align periodic timers.
pub const VPT_ALIGN: u32 = 16;
/// `HVM_PARAM_CONSOLE_PFN`: gfn of the console's ring.
pub const CONSOLE_PFN: u32 = 17;
/// `HVM_PARAM_CONSOLE_EVTCHN`: port of the console's ring.
pub const CONSOLE_EVTCHN: u32 = 18;
/// `HVM_PARAM_ACPI_IOPORTS_LOCATION`: where ACPI ports are.
pub const ACPI_IOPORTS_LOCATION: u32 = 19;
/// `HVM_PARAM_MEMORY_EVENT_CR0`: introspection (removed).
pub const MEMORY_EVENT_CR0: u32 = 20;
/// `HVM_PARAM_MEMORY_EVENT_CR3`: introspection (removed).
pub const MEMORY_EVENT_CR3: u32 = 21;
/// `HVM_PARAM_MEMORY_EVENT_CR4`: introspection (removed).
pub const MEMORY_EVENT_CR4: u32 = 22;
/// `HVM_PARAM_MEMORY_EVENT_INT3`: introspection (removed).
pub const MEMORY_EVENT_INT3: u32 = 23;
/// `HVM_PARAM_NESTEDHVM`: nested virtualisation (removed).
pub const NESTEDHVM: u32 = 24;
/// `HVM_PARAM_MEMORY_EVENT_SINGLE_STEP`: introspection (removed).
pub const MEMORY_EVENT_SINGLE_STEP: u32 = 25;
/// `HVM_PARAM_BUFIOREQ_EVTCHN`: port of buffered requests.
pub const BUFIOREQ_EVTCHN: u32 = 26;
/// `HVM_PARAM_PAGING_RING_PFN`: gfn of the paging ring.
pub const PAGING_RING_PFN: u32 = 27;
/// `HVM_PARAM_MONITOR_RING_PFN`: gfn of the monitor ring.
pub const MONITOR_RING_PFN: u32 = 28;
/// `HVM_PARAM_SHARING_RING_PFN`: gfn of the sharing ring.
pub const SHARING_RING_PFN: u32 = 29;
/// `HVM_PARAM_MEMORY_EVENT_MSR`: introspection (removed).
pub const MEMORY_EVENT_MSR: u32 = 30;
/// `HVM_PARAM_TRIPLE_FAULT_REASON`: `SHUTDOWN_*` reason of a triple fault.
pub const TRIPLE_FAULT_REASON: u32 = 31;
/// `HVM_PARAM_IOREQ_SERVER_PFN`: first gfn for request servers.
pub const IOREQ_SERVER_PFN: u32 = 32;
/// `HVM_PARAM_NR_IOREQ_SERVER_PAGES`: and how many.
pub const NR_IOREQ_SERVER_PAGES: u32 = 33;
/// `HVM_PARAM_VM_GENERATION_ID_ADDR`: address of the generation id.
pub const VM_GENERATION_ID_ADDR: u32 = 34;
/// `HVM_PARAM_ALTP2M`: alternate physical maps.
pub const ALTP2M: u32 = 35;
/// `HVM_PARAM_X87_FIP_WIDTH`: width of saved x87 pointers.
pub const X87_FIP_WIDTH: u32 = 36;
/// `HVM_PARAM_VM86_TSS_SIZED`: the same with a size.
pub const VM86_TSS_SIZED: u32 = 37;
/// `HVM_PARAM_MCA_CAP`: machine-check capabilities.
pub const MCA_CAP: u32 = 38;
/// `HVM_NR_PARAMS`: parameters from this number on do not exist.
pub const COUNT: u32 = 39;

/// `HVM_PARAM_CALLBACK_TYPE_GSI`: upcalls by an emulated interrupt line.
pub const CALLBACK_TYPE_GSI: u8 = 0;
/// `HVM_PARAM_CALLBACK_TYPE_PCI_INTX`: upcalls by an emulated PCI interrupt.
pub const CALLBACK_TYPE_PCI_INTX: u8 = 1;
/// `HVM_PARAM_CALLBACK_TYPE_VECTOR`: upcalls by a vector.
pub const CALLBACK_TYPE_VECTOR: u8 = 2;

/// The value of [`CALLBACK_IRQ`], taken apart: the type is in the highest byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackVia {
    /// No upcalls (value 0: line 0 is never meant).
    None,
    /// An interrupt line.
    Gsi(u32),
    /// A PCI device's pin.
    PciIntx {
        /// Domain (segment).
        domain: u16,
        /// Bus.
        bus: u8,
        /// Device and function.
        devfn: u8,
        /// Pin: 0 to 3.
        intx: u8,
    },
    /// A vector, the same on every vCPU.
    Vector(u8),
    /// A type that is not known.
    Unknown(u64),
}

impl CallbackVia {
    /// Takes a parameter's value apart.
    pub const fn from_param(value: u64) -> Self {
        match (value >> 56) as u8 {
            CALLBACK_TYPE_GSI => match value as u32 {
                0 => Self::None,
                gsi => Self::Gsi(gsi),
            },
            CALLBACK_TYPE_PCI_INTX => Self::PciIntx {
                domain: (value >> 32) as u16,
                bus: (value >> 16) as u8,
                devfn: (value >> 8) as u8,
                intx: value as u8 & 3,
            },
            CALLBACK_TYPE_VECTOR => Self::Vector(value as u8),
            _ => Self::Unknown(value),
        }
    }

    /// The parameter's value.
    pub const fn to_param(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Gsi(gsi) => gsi as u64,
            Self::PciIntx { domain, bus, devfn, intx } => {
                (CALLBACK_TYPE_PCI_INTX as u64) << 56
                    | (domain as u64) << 32
                    | (bus as u64) << 16
                    | (devfn as u64) << 8
                    | (intx & 3) as u64
            }
            Self::Vector(vector) => (CALLBACK_TYPE_VECTOR as u64) << 56 | vector as u64,
            Self::Unknown(value) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callback_via_round_trips() {
        let pin = CallbackVia::PciIntx { domain: 0, bus: 2, devfn: 0x18, intx: 1 };
        for via in [CallbackVia::None, CallbackVia::Gsi(9), pin, CallbackVia::Vector(0xf3)] {
            assert_eq!(CallbackVia::from_param(via.to_param()), via);
        }
        // What Linux writes.
        assert_eq!(CallbackVia::from_param(0x0200_0000_0000_00f3), CallbackVia::Vector(0xf3));
        assert_eq!(CallbackVia::from_param(u64::MAX), CallbackVia::Unknown(u64::MAX));
    }
}
