//! The I/O and MSR permission maps, the same for every guest: every port exits, and every MSR but those whose value
//! VMLOAD and VMSAVE exchange (plus TSC_AUX, which is switched with the vCPU).

use alloc::boxed::Box;

use crate::memory;
use crate::virt::page::Page;

/// MSRs a guest reads and writes without an exit.
const FREE: [u32; 11] = [
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0100, // FS base
    0xc000_0101, // GS base
    0xc000_0102, // kernel GS base
    0xc000_0103, // TSC_AUX
];

struct Maps {
    io: u64,
    msr: u64,
}

static MAPS: spin::Once<Maps> = spin::Once::new();

/// Makes the maps, once.
pub fn prepare() {
    MAPS.call_once(|| {
        let io = Box::leak(Page::run(3, 0xff));
        let msr = Box::leak(Page::run(2, 0xff));
        for number in FREE {
            let (byte, shift) = position(number);
            msr[byte / 4096].0[byte % 4096] &= !(3 << shift);
        }
        Maps { io: memory::virt_to_phys(io.as_ptr()), msr: memory::virt_to_phys(msr.as_ptr()) }
    });
}

/// Physical addresses of the I/O map and the MSR map.
pub fn addresses() -> (u64, u64) {
    let maps = MAPS.get().expect("permission maps are made by probe");
    (maps.io, maps.msr)
}

/// Where an MSR's two bits are: byte and shift.
fn position(msr: u32) -> (usize, u32) {
    let (base, index) = match msr {
        0..=0x1fff => (0, msr),
        0xc000_0000..=0xc000_1fff => (0x800, msr - 0xc000_0000),
        _ => (0x1000, msr - 0xc001_0000),
    };
    (base + index as usize / 4, index % 4 * 2)
}
