//! Reading the tables with the crate `acpi`; see the module above.
#![allow(unsafe_code, reason = "ACPI tables are physical memory")]

use super::s5::{self, SleepTypes};
use crate::cpu::MAX_CPUS;
use crate::memory::paging::Access;
use crate::{memory, warn};
use ::acpi::address::{AddressSpace, GenericAddress};
use ::acpi::fadt::Fadt;
use ::acpi::madt::{Madt, MadtEntry};
use ::acpi::sdt::SdtHeader;
use ::acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use arrayvec::ArrayVec;
use core::ptr::NonNull;
use spin::Once;

/// A table larger than this is not believed.
const MAX_TABLE: u64 = 16 << 20;

/// I/O APICs beyond this number are not used.
const MAX_IO_APICS: usize = 8;

/// A processor in the MADT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuEntry {
    /// Of its local APIC.
    pub apic_id: u32,
    /// ACPI's processor id.
    pub acpi_id: u32,
}

/// An I/O APIC in the MADT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicEntry {
    /// Its registers' physical address.
    pub address: u64,
    /// The number of its first line among all.
    pub first: u32,
}

/// How an interrupt of the ISA bus reaches the I/O APICs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IsaLine {
    /// The line's number among those of all I/O APICs.
    pub global: u32,
    /// Active low instead of high.
    pub active_low: bool,
    /// Level instead of edge.
    pub level: bool,
}

/// A register of fixed hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// An I/O port.
    Port(u16),
    /// A physical address.
    Memory(u64),
}

/// Power-off by PM1 control registers.
#[derive(Clone, Copy, Debug)]
pub struct PowerOff {
    /// PM1a_CNT.
    pub control_a: u16,
    /// PM1b_CNT.
    pub control_b: Option<u16>,
    /// What to write into SLP_TYP.
    pub types: SleepTypes,
    /// Port and value that switch from legacy to ACPI mode, if the firmware has SMIs.
    pub enable: Option<(u16, u8)>,
}

/// Everything read.
#[derive(Clone, Debug, Default)]
pub struct AcpiInfo {
    /// Enabled processors in the MADT's order.
    pub cpus: ArrayVec<CpuEntry, MAX_CPUS>,
    /// Enabled processors for which `cpus` had no room.
    pub more_cpus: usize,
    /// Processors that are not enabled now (sockets for later).
    pub disabled_cpus: usize,
    /// The local APIC pin, 0 or 1, to which NMIs are wired.
    pub nmi_lint: Option<u8>,
    /// The I/O APICs.
    pub io_apics: ArrayVec<IoApicEntry, MAX_IO_APICS>,
    /// The ISA bus's interrupts.
    pub isa_lines: [IsaLine; 16],
    /// The PM timer: 3.579545 MHz, at least 24 bits.
    pub pm_timer: Option<Register>,
    /// How to switch off.
    pub power_off: Option<PowerOff>,
    /// The reset register and what to write.
    pub reset: Option<(Register, u8)>,
}

static INFO: Once<AcpiInfo> = Once::new();

/// What the tables said; empty before [`init`].
pub fn info() -> Option<&'static AcpiInfo> {
    INFO.get()
}

/// Gives the crate the direct map.
#[derive(Clone)]
struct DirectMap;

/// What the crate sees where memory cannot be read: a header with no signature, which it rejects.
#[repr(align(16))]
struct Nothing([u8; 64]);
static NOTHING: Nothing = Nothing([0; 64]);

impl AcpiHandler for DirectMap {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let virt = map_table(address as u64, size as u64).unwrap_or_else(|| {
            assert!(size <= NOTHING.0.len(), "an ACPI table of {size} bytes at {address:#x} cannot be mapped");
            NOTHING.0.as_ptr().cast_mut()
        });
        let virt = if size < size_of::<T>() { padded(virt, size, size_of::<T>()) } else { virt };
        let virt = NonNull::new(virt.cast::<T>()).expect("the direct map is not at 0");
        // SAFETY: `size` bytes, and no fewer than a `T` has, are readable there for good: firmware's tables, which nobody
        // writes, or our own copies and zeroes.
        unsafe { PhysicalMapping::new(address, virt, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// A copy, kept for good, of the `size` bytes of a table at `table`, with zeroes up to `whole`: the tables of older
/// versions end before the crate's structures do, and memory may end there, too.
fn padded(table: *const u8, size: usize, whole: usize) -> *mut u8 {
    // In words, for the alignment.
    let copy = alloc::vec![0_u64; whole.div_ceil(8)].leak().as_mut_ptr().cast::<u8>();
    // SAFETY: `size` bytes are readable at `table` (map_table), and the copy has at least as many.
    unsafe { copy.copy_from_nonoverlapping(table, size) };
    copy
}

/// An address through which firmware's `size` bytes at physical `address` can be read.
fn map_table(address: u64, size: u64) -> Option<*mut u8> {
    if address == 0 || size > MAX_TABLE {
        return None;
    }
    if memory::is_mapped(address, size) {
        return Some(memory::phys_to_virt(address));
    }
    // Some firmware puts tables into memory it calls reserved.
    memory::map_mmio(address, size, Access::Read).ok()
}

/// Reads everything from the root pointer at physical `rsdp`, or searched for in the BIOS's area when 0.
pub(crate) fn init(rsdp: u64) -> &'static AcpiInfo {
    INFO.call_once(|| {
        let mut info = AcpiInfo::default();
        let rsdp = if rsdp == 0 { search_rsdp() } else { Some(rsdp) };
        match rsdp {
            // SAFETY: the loader says, or the search has found, that an RSDP is there; the handler checks the range.
            Some(address) => match unsafe { AcpiTables::from_rsdp(DirectMap, address as usize) } {
                Ok(tables) => read_tables(&tables, &mut info),
                Err(error) => warn!("ACPI tables unusable: {error:?}"),
            },
            None => warn!("no ACPI: one CPU, and no power-off"),
        }
        info
    })
}

/// Searches 0xe0000..0x100000 and the first KiB of the EBDA, on 16-byte steps (ACPI 6.5, 5.2.5.1).
fn search_rsdp() -> Option<u64> {
    let at = |address: u64| {
        let bytes = memory::phys_to_virt(address).cast::<[u8; 20]>();
        // SAFETY: the first MiB is in the direct map; `address` is below it by at least 20 bytes.
        unsafe { bytes.read() }
    };
    // SAFETY: the BIOS data area is in the direct map.
    let ebda = u64::from(unsafe { memory::phys_to_virt(0x40e).cast::<u16>().read_unaligned() }) << 4;
    let ebda = if (0x8_0000..0xa_0000 - 1024).contains(&ebda) { ebda..ebda + 1008 } else { 0..0 };
    ebda.chain(0xe_0000..0xf_ffe0).step_by(16).find(|&address| {
        let bytes = at(address);
        bytes.starts_with(b"RSD PTR ") && bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
    })
}

fn read_tables(tables: &AcpiTables<DirectMap>, info: &mut AcpiInfo) {
    match tables.find_table::<Madt>() {
        Ok(madt) => read_madt(&madt, info),
        Err(error) => warn!("no MADT, one CPU: {error:?}"),
    }
    match tables.find_table::<Fadt>() {
        Ok(fadt) => read_fadt(tables, &fadt, info),
        Err(error) => warn!("no FADT, no power-off: {error:?}"),
    }
}

fn read_madt(madt: &PhysicalMapping<DirectMap, Madt>, info: &mut AcpiInfo) {
    // The crate's iterator trusts the entries' lengths; it is only run over a table whose entries fill it exactly.
    if !entries_are_sound(madt) {
        warn!("MADT malformed, one CPU");
        return;
    }
    // Without a word about it, a line has its own number, is active high and edge-triggered.
    for (number, line) in (0..).zip(&mut info.isa_lines) {
        line.global = number;
    }
    for entry in madt.get().entries() {
        let (apic_id, acpi_id, flags) = match entry {
            MadtEntry::LocalApic(entry) => (entry.apic_id.into(), entry.processor_id.into(), entry.flags),
            MadtEntry::LocalX2Apic(entry) => (entry.x2apic_id, entry.processor_uid, entry.flags),
            MadtEntry::LocalApicNmi(entry) => {
                info.nmi_lint = Some(entry.nmi_line);
                continue;
            }
            MadtEntry::IoApic(entry) => {
                let (address, first) = (entry.io_apic_address.into(), entry.global_system_interrupt_base);
                // More than there is room for are left out; their lines then cannot be used.
                let _ = info.io_apics.try_push(IoApicEntry { address, first });
                continue;
            }
            MadtEntry::InterruptSourceOverride(entry) => {
                if let Some(line) = info.isa_lines.get_mut(usize::from(entry.irq)) {
                    // MPS INTI flags (ACPI 6.5, table 5.26): 3 is active low, and level.
                    let (active_low, level) = (entry.flags & 3 == 3, entry.flags >> 2 & 3 == 3);
                    *line = IsaLine { global: entry.global_system_interrupt, active_low, level };
                }
                continue;
            }
            _ => continue,
        };
        // A processor may have both kinds of entry.
        if info.cpus.iter().any(|cpu| cpu.apic_id == apic_id) {
            continue;
        }
        if flags & 1 == 0 {
            info.disabled_cpus += 1;
        } else if info.cpus.try_push(CpuEntry { apic_id, acpi_id }).is_err() {
            info.more_cpus += 1;
        }
    }
}

/// True when the entries after the MADT's fixed part have sensible lengths that end where the table ends.
fn entries_are_sound(madt: &PhysicalMapping<DirectMap, Madt>) -> bool {
    const FIXED: usize = 44;
    // SAFETY: the mapping covers the whole table.
    let bytes =
        unsafe { core::slice::from_raw_parts(madt.virtual_start().as_ptr().cast::<u8>(), madt.region_length()) };
    let mut rest = bytes.get(FIXED..).unwrap_or(&[]);
    while let &[kind, length, ..] = rest {
        let least = match kind {
            0 => 8,
            1 => 12,
            2 => 10,
            4 => 6,
            9 => 16,
            _ => 2,
        };
        if length < least || rest.len() < length.into() {
            return false;
        }
        rest = &rest[length.into()..];
    }
    rest.is_empty()
}

fn read_fadt(tables: &AcpiTables<DirectMap>, fadt: &Fadt, info: &mut AcpiInfo) {
    info.pm_timer = fadt.pm_timer_block().ok().flatten().and_then(register);
    let flags = fadt.flags;
    if flags.supports_system_reset_via_fadt() {
        let value = fadt.reset_value;
        info.reset = fadt.reset_register().ok().and_then(register).map(|register| (register, value));
    }
    let control_a = fadt.pm1a_control_block().ok().and_then(register);
    let control_b = fadt.pm1b_control_block().ok().flatten().and_then(register);
    if let (Some(Register::Port(control_a)), Some(types)) = (control_a, sleep_types(tables)) {
        let control_b = match control_b {
            Some(Register::Port(port)) => Some(port),
            _ => None,
        };
        let (smi, value) = (fadt.smi_cmd_port, fadt.acpi_enable);
        let enable = u16::try_from(smi).ok().filter(|&port| port != 0 && value != 0).map(|port| (port, value));
        info.power_off = Some(PowerOff { control_a, control_b, types, enable });
    }
}

fn register(address: GenericAddress) -> Option<Register> {
    match address.address_space {
        AddressSpace::SystemIo => u16::try_from(address.address).ok().filter(|&port| port != 0).map(Register::Port),
        AddressSpace::SystemMemory if address.address != 0 => Some(Register::Memory(address.address)),
        _ => None,
    }
}

fn sleep_types(tables: &AcpiTables<DirectMap>) -> Option<SleepTypes> {
    let dsdt = tables.dsdt().ok().into_iter();
    dsdt.chain(tables.ssdts()).find_map(|table| {
        let length = u64::from(table.length);
        let start = map_table(table.address as u64, length)?;
        // SAFETY: all of the range is mapped, and firmware's tables do not change.
        s5::find(unsafe { core::slice::from_raw_parts(start, length as usize) })
    })
}

impl Register {
    /// An address through which a memory register can be used.
    pub fn map(address: u64) -> Option<*mut u8> {
        if memory::is_mapped(address, 8) {
            return Some(memory::phys_to_virt(address));
        }
        memory::map_mmio(address, 8, Access::Uncached).ok()
    }
}

const _: () = assert!(size_of::<SdtHeader>() == 36);
