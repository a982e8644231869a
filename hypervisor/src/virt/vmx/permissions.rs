//! The MSR permission map, the same for every guest: every MSR exits but those that the control structure or
//! [`super::vcpu`] switches.

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

static MAP: spin::Once<u64> = spin::Once::new();

/// Makes the map, once.
pub fn prepare() {
    MAP.call_once(|| {
        let [page] = Box::leak(Page::run(1, 0xff)) else { unreachable!("one page") };
        for number in FREE {
            let (base, index) = if number < 0x2000 { (0, number) } else { (0x400, number - 0xc000_0000) };
            let byte = base + index as usize / 8;
            let bit = 1_u8 << (index % 8);
            // Reads in the lower half of the page, writes in the upper.
            page.0[byte] &= !bit;
            page.0[byte + 0x800] &= !bit;
        }
        memory::virt_to_phys(page)
    });
}

/// Its physical address.
pub fn address() -> u64 {
    *MAP.get().expect("the permission map is made by probe")
}
