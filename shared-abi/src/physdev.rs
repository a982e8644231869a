//! `physdev.h`: the numbers of `physdev_op`. A PVH guest has no physical devices; its calls are told apart and refused.

/// `PHYSDEVOP_IRQ_UNMASK_NOTIFY`: obsolete.
pub const IRQ_UNMASK_NOTIFY: u32 = 4;
/// `PHYSDEVOP_irq_status_query`: whether an interrupt needs an end.
pub const IRQ_STATUS_QUERY: u32 = 5;
/// `PHYSDEVOP_set_iopl`: I/O privilege level.
pub const SET_IOPL: u32 = 6;
/// `PHYSDEVOP_set_iobitmap`: I/O permission bitmap.
pub const SET_IOBITMAP: u32 = 7;
/// `PHYSDEVOP_apic_read`: read an I/O APIC.
pub const APIC_READ: u32 = 8;
/// `PHYSDEVOP_apic_write`: write an I/O APIC.
pub const APIC_WRITE: u32 = 9;
/// `PHYSDEVOP_alloc_irq_vector`: a vector for an interrupt.
pub const ALLOC_IRQ_VECTOR: u32 = 10;
/// `PHYSDEVOP_free_irq_vector`: give it back.
pub const FREE_IRQ_VECTOR: u32 = 11;
/// `PHYSDEVOP_eoi`: end of an interrupt.
pub const EOI: u32 = 12;
/// `PHYSDEVOP_map_pirq`: map an interrupt.
pub const MAP_PIRQ: u32 = 13;
/// `PHYSDEVOP_unmap_pirq`: unmap it.
pub const UNMAP_PIRQ: u32 = 14;
/// `PHYSDEVOP_manage_pci_add`: a PCI device is there.
pub const MANAGE_PCI_ADD: u32 = 15;
/// `PHYSDEVOP_manage_pci_remove`: it is gone.
pub const MANAGE_PCI_REMOVE: u32 = 16;
/// `PHYSDEVOP_pirq_eoi_gmfn_v1`: page of interrupts that need an end.
pub const PIRQ_EOI_GMFN_V1: u32 = 17;
/// `PHYSDEVOP_restore_msi`: restore MSI after sleep.
pub const RESTORE_MSI: u32 = 19;
/// `PHYSDEVOP_manage_pci_add_ext`: a PCI device is there, with more detail.
pub const MANAGE_PCI_ADD_EXT: u32 = 20;
/// `PHYSDEVOP_setup_gsi`: trigger and polarity of a line.
pub const SETUP_GSI: u32 = 21;
/// `PHYSDEVOP_get_free_pirq`: a free interrupt number.
pub const GET_FREE_PIRQ: u32 = 23;
/// `PHYSDEVOP_pci_mmcfg_reserved`: report a configuration space.
pub const PCI_MMCFG_RESERVED: u32 = 24;
/// `PHYSDEVOP_pci_device_add`: a PCI device is there.
pub const PCI_DEVICE_ADD: u32 = 25;
/// `PHYSDEVOP_pci_device_remove`: it is gone.
pub const PCI_DEVICE_REMOVE: u32 = 26;
/// `PHYSDEVOP_restore_msi_ext`: restore MSI after sleep.
pub const RESTORE_MSI_EXT: u32 = 27;
/// `PHYSDEVOP_pirq_eoi_gmfn_v2`: the same, with automatic unmasking.
pub const PIRQ_EOI_GMFN_V2: u32 = 28;
/// `PHYSDEVOP_dbgp_op`: debug port.
pub const DBGP_OP: u32 = 29;
/// `PHYSDEVOP_prepare_msix`: prepare MSI-X.
pub const PREPARE_MSIX: u32 = 30;
/// `PHYSDEVOP_release_msix`: release MSI-X.
pub const RELEASE_MSIX: u32 = 31;
