//! What a new domain is made of, and what its kernel would do first.

use std::sync::OnceLock;

use ebb_core::domain::{DomainConfig, OnReboot};
use shared_abi::event_channel as evt;
use shared_abi::vcpu as vcpu_abi;

use super::calls::{Event, GuestCall, Hvm, Vcpu as VcpuCall, Who};
use super::layout::{ARRAY_GFN, CONTROL_GFN, FIVE_LEVEL_TABLE, LEGACY_TABLE, PAE_TABLE, TABLES};
use super::steps::Newcomer;
use super::{Dom, Hv};

const PAGE: u64 = 4096;

/// Its configuration.
pub fn config_of(newcomer: &Newcomer) -> DomainConfig {
    DomainConfig {
        name: "test".into(),
        memory: newcomer.pages * PAGE,
        max_memory: (newcomer.pages + newcomer.more) * PAGE,
        vcpus: newcomer.vcpus,
        weight: newcomer.weight,
        cap: newcomer.cap,
        tmem: Default::default(),
        privileged: newcomer.privileged,
        on_reboot: if newcomer.restarts { OnReboot::Restart } else { OnReboot::Destroy },
        // A domain that is built again has the same habits.
        arguments: [
            if newcomer.tidy { "tidy" } else { "wild" },
            if newcomer.fifo { "fifo" } else { "2l" },
            if newcomer.wide { "64" } else { "32" },
        ]
        .join(" "),
        kernel: kernel(),
        ramdisk: None,
    }
}

/// What a new kernel calls: a callback, its other vCPUs, signals between them, a clock that ticks, and channels to the
/// domains there are.
pub fn first_calls(vcpus: u32, domains: u8) -> Vec<GuestCall> {
    let plain = |vcpu, call| GuestCall::Vcpu { vcpu, call };
    let mut calls = vec![GuestCall::Hvm(Hvm::Param { op: 0, whose: Who::Me, index: 0, value: 2 << 56 | 0xf3 })];
    for vcpu in 1..vcpus {
        calls.push(plain(vcpu, VcpuCall::Initialise { wide: true, valid: true }));
        calls.push(plain(vcpu, VcpuCall::Plain { op: vcpu_abi::UP }));
    }
    for vcpu in 0..vcpus {
        calls.push(GuestCall::Event(Event::BindIpi { vcpu }));
        calls.push(GuestCall::Event(Event::BindVirq { virq: 0, vcpu }));
    }
    for other in 0..domains {
        calls.push(GuestCall::Event(Event::AllocUnbound { whose: Who::Me, remote: Who::Alive(other) }));
        for port in 1..12 {
            calls.push(GuestCall::Event(Event::BindInterdomain { remote: Who::Alive(other), port }));
        }
    }
    calls.push(plain(0, VcpuCall::Periodic { period: 7_000_000 }));
    calls
}

/// The switch to the FIFO ABI.
pub fn fifo_calls(vcpus: u32) -> Vec<GuestCall> {
    let controls = (0..vcpus).map(|vcpu| Event::InitControl { gfn: CONTROL_GFN + u64::from(vcpu), offset: 0, vcpu });
    let unmask = (1..8).map(|port| Event::Port { op: evt::UNMASK, port });
    let array = Event::ExpandArray { gfn: ARRAY_GFN };
    // There are that many ports: two for each vCPU, and one at least for another domain.
    controls.chain([array]).chain(unmask.take(2 * vcpus as usize + 1)).map(GuestCall::Event).collect()
}

/// Page tables that map every address to itself, in each mode.
pub fn write_tables(hv: &Hv, domain: &Dom) {
    let put = |at: u64, value: u64| hv.write_physical(domain, at, &value.to_le_bytes()).expect("a page table");
    put(TABLES, TABLES + PAGE + 7);
    put(TABLES + PAGE, TABLES + 2 * PAGE + 7);
    put(PAE_TABLE, TABLES + 2 * PAGE + 1);
    put(FIVE_LEVEL_TABLE, TABLES + 7);
    for index in 0..512 {
        put(TABLES + 2 * PAGE + index * 8, index << 21 | 0x87);
    }
    for index in 0..1024_u64 {
        let entry = (index << 22 | 0x87) as u32;
        hv.write_physical(domain, LEGACY_TABLE + index * 4, &entry.to_le_bytes()).expect("a page table");
    }
}

/// A small kernel: nothing but a segment at 1 MiB and the note that names its entry.
fn kernel() -> &'static [u8] {
    static KERNEL: OnceLock<Vec<u8>> = OnceLock::new();
    KERNEL.get_or_init(|| {
        const HEADERS: u64 = 64 + 2 * 56;
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
        file.extend(1_u32.to_le_bytes());
        file.extend([0_u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
        file.extend(0_u32.to_le_bytes());
        file.extend([64_u16, 56, 2, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
        for (kind, offset, at, size) in [(4_u32, HEADERS, 0_u64, 20_u64), (1, HEADERS + 20, 0x10_0000, 4)] {
            file.extend([kind, 5].iter().flat_map(|word| word.to_le_bytes()));
            file.extend([offset, at, at, size, size, 4].iter().flat_map(|word| word.to_le_bytes()));
        }
        for word in [4_u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x10_0000] {
            file.extend(word.to_le_bytes());
        }
        file.extend(b"code");
        file
    })
}
