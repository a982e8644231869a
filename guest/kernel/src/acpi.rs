//! The little of ACPI that a guest needs: the MADT's local APICs.
//!
//! Tables are read byte by byte through the identity map; each is mapped before it is read, its length is bounded and
//! its checksum must be right.
#![allow(unsafe_code)] // Reading physical memory.

use crate::{paging, start_info};
use arrayvec::ArrayVec;

/// A processor as the MADT tells.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    /// ACPI processor number: Xen's vCPU number.
    pub acpi_id: u32,
    /// Its local APIC's number.
    pub apic_id: u32,
    /// May be started.
    pub enabled: bool,
}

/// A table's bytes must be fewer.
const MAX_TABLE: u32 = 64 * 1024;

fn byte(address: u64) -> u8 {
    // SAFETY: the caller mapped the table; firmware memory is plain memory.
    unsafe { core::ptr::with_exposed_provenance::<u8>(address as usize).read_volatile() }
}

fn number(address: u64, bytes: u64) -> u64 {
    (0..bytes).rev().fold(0, |value, offset| value << 8 | u64::from(byte(address + offset)))
}

/// Maps a table and checks it; its length.
fn table(address: u64) -> Result<u64, &'static str> {
    paging::map_firmware(address, 36)?;
    let length = number(address + 4, 4) as u32;
    if !(36..=MAX_TABLE).contains(&length) {
        return Err("an ACPI table has a strange length");
    }
    paging::map_firmware(address, u64::from(length))?;
    let sum = (0..u64::from(length)).fold(0u8, |sum, offset| sum.wrapping_add(byte(address + offset)));
    if sum == 0 { Ok(u64::from(length)) } else { Err("an ACPI table's checksum is wrong") }
}

/// The address of the MADT.
fn madt() -> Result<u64, &'static str> {
    let rsdp = start_info::get().rsdp;
    if rsdp == 0 {
        return Err("there is no RSDP");
    }
    paging::map_firmware(rsdp, 36)?;
    if number(rsdp, 8) != u64::from_le_bytes(*b"RSD PTR ") {
        return Err("the RSDP's signature is wrong");
    }
    let xsdt = number(rsdp + 24, 8);
    let length = table(xsdt)?;
    for place in (36..length).step_by(8) {
        let address = number(xsdt + place, 8);
        paging::map_firmware(address, 36)?;
        if number(address, 4) == u64::from(u32::from_le_bytes(*b"APIC")) {
            table(address)?;
            return Ok(address);
        }
    }
    Err("there is no MADT")
}

/// The processors.
pub fn processors() -> Result<ArrayVec<Processor, 128>, &'static str> {
    let madt = madt()?;
    let end = madt + number(madt + 4, 4);
    let mut found = ArrayVec::new();
    let mut entry = madt + 44;
    while entry + 2 <= end {
        let (kind, length) = (byte(entry), u64::from(byte(entry + 1)));
        if length < 2 || entry + length > end {
            return Err("the MADT has a broken entry");
        }
        let processor = match (kind, length) {
            (0, 8..) => Some(Processor {
                acpi_id: byte(entry + 2).into(),
                apic_id: byte(entry + 3).into(),
                enabled: byte(entry + 4) & 1 != 0,
            }),
            (9, 16..) => Some(Processor {
                acpi_id: number(entry + 12, 4) as u32,
                apic_id: number(entry + 4, 4) as u32,
                enabled: number(entry + 8, 4) & 1 != 0,
            }),
            _ => None,
        };
        if let Some(processor) = processor
            && found.try_push(processor).is_err()
        {
            break;
        }
        entry += length;
    }
    Ok(found)
}
