//! The ACPI tables of a guest: RSDP, XSDT, hardware-reduced FADT, DSDT without code, MADT with the local APICs.
//!
//! Specification: ACPI 6.5, chapter 5. There is no hardware to describe beyond processors; a kernel learns from these
//! tables that there is no I/O APIC, no PM timer and no fixed hardware.

use alloc::vec::Vec;

use shared_abi::xen::VcpuId;

use crate::cpuid::apic_id;
use crate::lapic::APIC_DEFAULT_BASE;

/// Tables, ready to be copied.
pub struct Tables {
    /// Their bytes, for the address they were made for.
    pub bytes: Vec<u8>,
    /// The root pointer, which may lie anywhere.
    pub root: [u8; RSDP_SIZE],
}

const HEADER: usize = 36;
const RSDP_SIZE: usize = 36;
const FADT_SIZE: usize = 276;
const FADT_FLAGS: usize = 112;
const FADT_BOOT_FLAGS: usize = 109;
const FADT_MINOR: usize = 131;
const FADT_X_DSDT: usize = 140;
/// No VGA, no CMOS clock, no legacy devices or 8042 (their bits clear).
const BOOT_FLAGS: u16 = 1 << 2 | 1 << 5;
/// WBINVD works, every processor has C1, power and sleep buttons are no fixed hardware; hardware-reduced ACPI.
const FEATURES: u32 = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 20;
/// MADT: the machine has no 8259 (bit 0 clear).
const MADT_FLAGS: u32 = 0;
const PROCESSOR_ENABLED: u32 = 1;

/// The tables for `vcpus` processors, at `address`.
pub fn tables(address: u64, vcpus: u32) -> Tables {
    let mut bytes = Vec::new();
    let mut place = |table: Vec<u8>| {
        let at = bytes.len().next_multiple_of(16);
        bytes.resize(at, 0);
        bytes.extend_from_slice(&table);
        address + at as u64
    };
    let dsdt = place(finish(table(b"DSDT", 2, HEADER)));
    let fadt = place(fadt(dsdt));
    let madt = place(madt(vcpus));
    let mut xsdt = table(b"XSDT", 1, HEADER);
    xsdt.extend_from_slice(&fadt.to_le_bytes());
    xsdt.extend_from_slice(&madt.to_le_bytes());
    let xsdt = place(finish(xsdt));
    Tables { bytes, root: rsdp(xsdt) }
}

fn table(signature: &[u8; 4], revision: u8, size: usize) -> Vec<u8> {
    let mut bytes = alloc::vec![0; size];
    bytes[..4].copy_from_slice(signature);
    bytes[8] = revision;
    bytes[10..16].copy_from_slice(b"Ebb   ");
    bytes[16..24].copy_from_slice(b"PVH     ");
    bytes[24..28].copy_from_slice(&1_u32.to_le_bytes());
    bytes[28..32].copy_from_slice(b"EBB ");
    bytes[32..36].copy_from_slice(&1_u32.to_le_bytes());
    bytes
}

/// Fills in length and checksum.
fn finish(mut table: Vec<u8>) -> Vec<u8> {
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    table[9] = checksum(&table);
    table
}

/// The byte that makes the sum zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut bytes = table(b"FACP", 6, FADT_SIZE);
    bytes[40..44].copy_from_slice(&(dsdt as u32).to_le_bytes());
    bytes[FADT_BOOT_FLAGS..FADT_BOOT_FLAGS + 2].copy_from_slice(&BOOT_FLAGS.to_le_bytes());
    bytes[FADT_FLAGS..FADT_FLAGS + 4].copy_from_slice(&FEATURES.to_le_bytes());
    bytes[FADT_MINOR] = 5;
    bytes[FADT_X_DSDT..FADT_X_DSDT + 8].copy_from_slice(&dsdt.to_le_bytes());
    finish(bytes)
}

fn madt(vcpus: u32) -> Vec<u8> {
    let mut bytes = table(b"APIC", 5, HEADER);
    bytes.extend_from_slice(&(APIC_DEFAULT_BASE as u32).to_le_bytes());
    bytes.extend_from_slice(&MADT_FLAGS.to_le_bytes());
    for vcpu in 0..vcpus {
        // Type 0, processor local APIC: processor uid (the vCPU's number), APIC id, flags.
        bytes.extend_from_slice(&[0, 8, vcpu as u8, apic_id(VcpuId(vcpu)) as u8]);
        bytes.extend_from_slice(&PROCESSOR_ENABLED.to_le_bytes());
    }
    finish(bytes)
}

fn rsdp(xsdt: u64) -> [u8; RSDP_SIZE] {
    let mut bytes = [0; RSDP_SIZE];
    bytes[..8].copy_from_slice(b"RSD PTR ");
    bytes[9..15].copy_from_slice(b"Ebb   ");
    bytes[15] = 2;
    bytes[20..24].copy_from_slice(&(RSDP_SIZE as u32).to_le_bytes());
    bytes[24..32].copy_from_slice(&xsdt.to_le_bytes());
    bytes[8] = checksum(&bytes[..20]);
    bytes[32] = checksum(&bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    #[test]
    fn every_table_is_found_and_sums_to_zero() {
        let base = 0xfc00_0000;
        let tables = tables(base, 4);
        let bytes = &tables.bytes;
        let sum = |range: &[u8]| range.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        let root = &tables.root;
        assert_eq!((&root[..8], sum(&root[..20]), sum(&root[..36])), (&b"RSD PTR "[..], 0, 0));
        let xsdt = word(root, 24) - base as usize;
        assert_eq!(&bytes[xsdt..xsdt + 4], b"XSDT");
        for (entry, signature) in [b"FACP", b"APIC"].into_iter().enumerate() {
            let at = word(bytes, xsdt + HEADER + entry * 8) - base as usize;
            assert_eq!(&bytes[at..at + 4], signature);
            assert_eq!(sum(&bytes[at..at + word(bytes, at + 4)]), 0);
        }
        assert!(bytes.len() < 4096);
    }

    #[test]
    fn the_tables_of_the_largest_domain_fit_their_page() {
        assert!(tables(0xfc00_0000, crate::domain::MAX_VCPUS as u32).bytes.len() <= 4096);
    }
}
