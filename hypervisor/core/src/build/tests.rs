//! Whole domains, built on the fake machine.

use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;
use shared_abi::memory::{E820_ACPI, E820_RAM, E820_RESERVED};
use shared_abi::xen::Gfn;
use zerocopy::FromBytes;

use super::image::{ElfFile, elf64};
use super::*;
use crate::domain::OnReboot;
use crate::heap::{Extent, Ledger, Owner};
use crate::machine::{MachineAddress, PAGE_SIZE};
use crate::p2m::FrameKind;
use crate::testing::{self, FakeMachine, HYPERVISOR_FRAMES};
use crate::vcpu::Interruptibility;

type Hv = Hypervisor<FakeMachine>;

const MIB: u64 = 1 << 20;
const PAGES_PER_MIB: u64 = 256;
const FREE: Interruptibility = Interruptibility { interrupts: true, nmi: true, occupied: false };

/// A machine of `mib` MiB whose memory is full of something.
fn machine(mib: u64) -> Hv {
    let hv = testing::hypervisor(2, mib * PAGES_PER_MIB);
    for frame in HYPERVISOR_FRAMES..mib * PAGES_PER_MIB {
        hv.machine.write(MachineAddress(frame * PAGE_SIZE as u64 + 0x123), &[0xa5; 9]);
    }
    hv
}

fn config(memory: u64, kernel: Vec<u8>) -> DomainConfig {
    DomainConfig {
        name: "test".to_string(),
        memory,
        max_memory: memory,
        vcpus: 2,
        weight: 256,
        cap: 0,
        tmem: Default::default(),
        privileged: false,
        on_reboot: OnReboot::Destroy,
        arguments: String::new(),
        kernel: kernel.leak(),
        ramdisk: None,
    }
}

fn small_kernel() -> Vec<u8> {
    elf64(0x10_0000, b"code", 0x2000, 0x10_0000)
}

/// Guest-physical memory, across pages.
fn memory(hv: &Hv, domain: &Domain<FakeMachine>, address: u64, length: usize) -> Vec<u8> {
    (0..length as u64).flat_map(|offset| testing::peek::<1>(hv, domain, address + offset)).collect()
}

fn read<T: FromBytes>(hv: &Hv, domain: &Domain<FakeMachine>, address: u64) -> T {
    T::read_from_bytes(&memory(hv, domain, address, size_of::<T>())).unwrap()
}

fn start_state(domain: &Domain<FakeMachine>) -> StartState {
    domain.vcpus[0].start.lock().expect("a state to start from")
}

fn start_info(hv: &Hv, domain: &Domain<FakeMachine>) -> StartInfo {
    read(hv, domain, start_state(domain).general[3])
}

fn c_string(hv: &Hv, domain: &Domain<FakeMachine>, address: u64) -> String {
    let bytes = (address..).map(|at| testing::peek::<1>(hv, domain, at)[0]).take_while(|byte| *byte != 0);
    String::from_utf8(bytes.collect()).unwrap()
}

/// How many leaves of each order map the domain's own memory.
fn leaves(hv: &Hv, domain: &Domain<FakeMachine>) -> [usize; 3] {
    let mut counts = [0; 3];
    let p2m = domain.memory.p2m.read();
    let mut from = Gfn(0);
    while let Some((gfn, order)) = p2m.next_mapped(&hv.machine, from) {
        if p2m.lookup(&hv.machine, gfn).unwrap().kind == FrameKind::Ram {
            counts[order as usize / 9] += 1;
        }
        from = Gfn(gfn.0 + (1 << order));
    }
    counts
}

/// What must be as before when nothing is left of a domain.
fn books(hv: &Hv) -> (u64, Ledger) {
    let ledger = hv.heap.ledger();
    assert!(ledger.adds_up());
    let free = ledger.free + ledger.scrubbing;
    (free, Ledger { free: 0, scrubbing: 0, ..ledger })
}

fn build_error(hv: &Hv, config: DomainConfig) -> String {
    match hv.build_domain(config) {
        Ok(domain) => panic!("domain {} was built", domain.id.0),
        Err(why) => why.to_string(),
    }
}

#[test]
fn everything_is_where_the_start_info_says() {
    let (code, data): (Vec<u8>, Vec<u8>) =
        ((0..9000_u32).map(|i| i as u8 ^ 0x5a).collect(), (0..5000_u32).map(|i| (i / 7) as u8).collect());
    for (wide, machine_type) in [(true, 62), (false, 62), (false, 3)] {
        let hv = machine(64);
        let before = books(&hv);
        // The second segment starts in the middle of a page, ends in another, and has a bss.
        let segments = [(0x10_0000, &code[..], code.len() as u64), (0x20_0ff0, &data[..], 0x6000)];
        let kernel = ElfFile::with_entry(wide, machine_type, &segments, 0x10_0010).bytes();
        let ramdisk: &'static [u8] = (0..70_001_u32).map(|i| (i * 31 / 5) as u8).collect::<Vec<_>>().leak();
        let arguments = "workload=idle -- with=\"quotes\"".to_string();
        let config = DomainConfig { arguments, ramdisk: Some(ramdisk), ..config(16 * MIB, kernel) };
        let domain = hv.build_domain(config).unwrap();

        assert_eq!(memory(&hv, &domain, 0x10_0000, code.len()), code);
        assert_eq!(memory(&hv, &domain, 0x20_0ff0, data.len()), data);
        let (bss, end) = (0x20_0ff0 + data.len() as u64, 0x20_6ff0);
        assert!(memory(&hv, &domain, bss, (end - bss) as usize).iter().all(|byte| *byte == 0));
        let info = start_info(&hv, &domain);
        assert_eq!((info.magic, info.version, info.flags, info.nr_modules), (MAGIC, 1, 0, 1));
        assert_eq!(start_info(&hv, &domain).cmdline_paddr % 8, 0);
        assert_eq!(c_string(&hv, &domain, info.cmdline_paddr), "workload=idle -- with=\"quotes\"");
        let module: ModlistEntry = read(&hv, &domain, info.modlist_paddr);
        assert_eq!((module.size, module.cmdline_paddr), (70_001, 0));
        assert!(module.paddr >= end && module.paddr.is_multiple_of(4096));
        assert_eq!(memory(&hv, &domain, module.paddr, ramdisk.len()), ramdisk);
        assert!(start_state(&domain).general[3] >= module.paddr + module.size);
        assert_eq!(start_state(&domain), StartState::pvh(0x10_0010, start_state(&domain).general[3] as u32));
        assert_eq!(domain.memory.current(), 16 * PAGES_PER_MIB);
        hv.abandon_domain(&domain);
        assert_eq!(books(&hv), before);
    }
}

#[test]
fn nothing_of_what_was_in_memory_shows() {
    let hv = machine(32);
    let domain = hv.build_domain(config(8 * MIB, small_kernel())).unwrap();
    for page in 0..8 * PAGES_PER_MIB {
        assert_eq!(testing::peek::<9>(&hv, &domain, page * 4096 + 0x123), [0; 9], "page {page:#x}");
    }
    hv.abandon_domain(&domain);
}

#[test]
fn the_memory_map_is_the_one_the_guest_can_ask_for() {
    let hv = machine(64);
    let domain = hv.build_domain(config(16 * MIB, small_kernel())).unwrap();
    let info = start_info(&hv, &domain);
    let map: Vec<MemmapTableEntry> = (0..u64::from(info.memmap_entries))
        .map(|index| read(&hv, &domain, info.memmap_paddr + index * size_of::<MemmapTableEntry>() as u64))
        .collect();
    let flat: Vec<(u64, u64, u32)> = map.iter().map(|entry| (entry.addr, entry.size, entry.type_)).collect();
    assert_eq!(
        flat,
        [
            (0, 0xa_0000, E820_RAM),
            (0xa_0000, 0x6_0000, E820_RESERVED),
            (0x10_0000, 15 * MIB, E820_RAM),
            (0xfc00_0000, 0x1000, E820_ACPI),
            (0xfeff_8000, 0x8000, E820_RESERVED),
        ]
    );
    let e820 = domain.memory.e820.get().unwrap();
    let e820: Vec<(u64, u64, u32)> = e820.iter().map(|entry| (entry.addr, entry.size, entry.type_)).collect();
    assert_eq!(e820, flat);
    // All RAM is there, and where the map has none, none is.
    for gfn in 0..16 * PAGES_PER_MIB {
        assert!(domain.memory.translate(&hv.machine, Gfn(gfn)).is_some_and(|(_, writable)| writable));
    }
    for address in [16 * MIB, 0xc000_0000, 0xfefff << 12, 0xfeffc << 12, 0xfee0_0000, 1 << 32] {
        assert_eq!(domain.memory.translate(&hv.machine, Gfn(address >> 12)), None, "{address:#x}");
    }
    hv.abandon_domain(&domain);
}

#[test]
fn acpi_leads_to_every_processor() {
    let hv = machine(64);
    let domain = hv.build_domain(DomainConfig { vcpus: 5, ..config(16 * MIB, small_kernel()) }).unwrap();
    let word = |address: u64| u64::from(read::<u32>(&hv, &domain, address));
    let root = start_info(&hv, &domain).rsdp_paddr;
    // Where kernels look that search for it, too.
    assert_eq!((root, memory(&hv, &domain, root, 8)), (0xf_ffc0, b"RSD PTR ".to_vec()));
    let xsdt: u64 = read(&hv, &domain, root + 24);
    let entries: Vec<u64> =
        (0..(word(xsdt + 4) - 36) / 8).map(|index| read(&hv, &domain, xsdt + 36 + index * 8)).collect();
    let madt = *entries.iter().find(|table| memory(&hv, &domain, **table, 4) == b"APIC").unwrap();
    let processors = memory(&hv, &domain, madt + 44, (word(madt + 4) - 44) as usize);
    let expected: Vec<u8> = (0..5).flat_map(|vcpu| [0, 8, vcpu, vcpu * 2, 1, 0, 0, 0]).collect();
    assert_eq!(processors, expected);
    for (vcpu, entry) in domain.vcpus.iter().zip(processors.chunks(8)) {
        assert_eq!(vcpu.lapic.lock().read(crate::lapic::register::ID, 0) >> 24, u32::from(entry[3]));
    }
    hv.abandon_domain(&domain);
}

#[test]
fn memory_is_in_superpages() {
    let hv = machine(128);
    let domain = hv.build_domain(config(65 * MIB, small_kernel())).unwrap();
    assert_eq!(leaves(&hv, &domain), [256, 32, 0], "the odd MiB in small pages");
    hv.abandon_domain(&domain);
}

#[test]
fn memory_is_in_huge_pages_when_there_are_any() {
    // Of two GiB the second is whole.
    let hv = testing::hypervisor(1, 2 << 18);
    let domain = hv.build_domain(config((1 << 30) + 4 * MIB, small_kernel())).unwrap();
    assert_eq!(leaves(&hv, &domain), [0, 2, 1]);
    hv.abandon_domain(&domain);
}

#[test]
fn scattered_memory_is_used_too() {
    let hv = machine(64);
    // One frame of every 2 MiB is taken.
    let all: Vec<Extent> = core::iter::from_fn(|| hv.heap.allocate(&hv.machine, 0, Owner::Hypervisor)).collect();
    let (kept, rest): (Vec<Extent>, Vec<Extent>) = all.into_iter().partition(|extent| extent.first().0 % 512 == 77);
    rest.into_iter().for_each(|extent| hv.heap.free(extent));
    let before = books(&hv);
    let domain = hv.build_domain(config(16 * MIB, small_kernel())).unwrap();
    assert_eq!(leaves(&hv, &domain), [16 * PAGES_PER_MIB as usize, 0, 0]);
    hv.abandon_domain(&domain);
    assert_eq!(books(&hv), before);
    kept.into_iter().for_each(|extent| hv.heap.free(extent));
}

#[test]
fn too_little_memory_is_said_and_leaves_no_trace() {
    let hv = machine(32);
    let before = books(&hv);
    for _ in 0..300 {
        let why = build_error(&hv, config(64 * MIB, small_kernel()));
        assert!(why.starts_with("memory: 64 MiB wanted, 3"), "{why}");
    }
    assert_eq!(books(&hv), before);
    let table = hv.domain_table.lock();
    assert_eq!((table.alive, table.taken), (0, 0), "no id is used up");
    drop(table);
    // Around the limit: some sizes fit, some do not for want of page tables. Nothing is lost either way.
    let (mut built, mut refused) = (0, 0);
    for pages in (before.0 - 80..before.0 + 4).rev() {
        match hv.build_domain(config(pages << 12, small_kernel())) {
            Ok(domain) => {
                built += 1;
                assert_eq!(domain.memory.current(), pages);
                hv.abandon_domain(&domain);
            }
            Err(why) => {
                refused += 1;
                assert!(why.to_string().starts_with("memory: "), "{why}");
            }
        }
        assert_eq!(books(&hv), before, "{pages} pages");
    }
    assert!(built > 0 && refused > 4);
    assert!((0..128).all(|id| hv.heap.account(DomId(id)).maximum() == 0 && hv.heap.claimed_by(DomId(id)) == 0));
}

#[test]
fn what_others_have_claimed_is_not_taken() {
    let hv = machine(32);
    hv.heap.account(DomId(100)).set_maximum(20 * PAGES_PER_MIB);
    hv.heap.claim(DomId(100), 20 * PAGES_PER_MIB).unwrap();
    let why = build_error(&hv, config(16 * MIB, small_kernel()));
    assert!(why.starts_with("memory: 16 MiB wanted, 11 MiB free"), "{why}");
    let domain = hv.build_domain(config(8 * MIB, small_kernel())).unwrap();
    assert_eq!(hv.heap.claimed_by(DomId(100)), 20 * PAGES_PER_MIB);
    assert_eq!(hv.heap.claimed_by(domain.id), 0);
    hv.abandon_domain(&domain);
}

#[test]
fn each_mistake_names_its_field_and_costs_nothing() {
    let hv = machine(64);
    let before = hv.heap.ledger();
    let good = || config(16 * MIB, small_kernel());
    let at = |address, entry| elf64(address, b"code", 0x3000, entry);
    let cases = [
        ("vcpus: ", DomainConfig { vcpus: 0, ..good() }),
        ("vcpus: ", DomainConfig { vcpus: 65, ..good() }),
        ("memory: ", DomainConfig { memory: 16 * MIB + 1, ..good() }),
        ("memory: ", DomainConfig { memory: MIB, max_memory: MIB, ..good() }),
        ("memory: ", DomainConfig { memory: 1 << 45, max_memory: 1 << 45, ..good() }),
        ("memory: ", DomainConfig { memory: 1 << 39, max_memory: 1 << 39, ..good() }),
        ("maxmem: ", DomainConfig { max_memory: 8 * MIB, ..good() }),
        ("arguments: ", DomainConfig { arguments: "a\0b".to_string(), ..good() }),
        ("arguments: ", DomainConfig { arguments: "a".repeat(1 << 17), ..good() }),
        ("kernel: ", config(16 * MIB, b"not an image".to_vec())),
        ("kernel: ", config(16 * MIB, Vec::new())),
        ("kernel: ", config(16 * MIB, at(16 * MIB - 0x1000, 16 * MIB as u32))),
        ("kernel: ", config(16 * MIB, at(0x9_f000, 0x9_f000))),
        ("kernel: ", config(2048 * MIB, at(1024 * MIB, 1024 * MIB as u32))),
        ("memory: ", config(16 * MIB, at(16 * MIB - 0x3000, 16 * MIB as u32 - 0x3000))),
        ("ramdisk: ", DomainConfig { ramdisk: Some(std::vec![1; 15 << 20].leak()), ..good() }),
    ];
    for (field, config) in cases {
        let shown = std::format!("{} MiB, {} vCPUs", config.memory >> 20, config.vcpus);
        let why = build_error(&hv, config);
        assert!(why.starts_with(field), "{shown}: {why}");
    }
    assert_eq!(hv.heap.ledger(), before, "nothing was even cleared");
    assert_eq!(hv.domain_table.lock().taken, 0);
}

#[test]
fn a_truncated_kernel_costs_nothing() {
    let hv = machine(64);
    let before = hv.heap.ledger();
    let kernel = small_kernel();
    for length in 0..kernel.len() {
        let why = build_error(&hv, config(16 * MIB, kernel[..length].to_vec()));
        assert!(why.starts_with("kernel: "), "{length} bytes: {why}");
    }
    assert_eq!(hv.heap.ledger(), before);
}

#[test]
fn ids_go_round_and_zero_is_for_the_privileged() {
    let hv = machine(16);
    let all: Vec<u16> = (0..127).map(|_| hv.reserve_id(false).unwrap().0).collect();
    assert_eq!(all, (1..128).collect::<Vec<_>>());
    assert!(hv.reserve_id(false).is_err());
    assert_eq!(hv.reserve_id(true), Ok(DomId(0)));
    assert!(hv.reserve_id(true).is_err());
    hv.release_id(DomId(40));
    assert_eq!(hv.reserve_id(true), Ok(DomId(40)), "any other will do");
    [3, 5, 0].into_iter().for_each(|id| hv.release_id(DomId(id)));
    assert_eq!(hv.reserve_id(false), Ok(DomId(3)));
    hv.release_id(DomId(3));
    assert_eq!(hv.reserve_id(false), Ok(DomId(5)), "not at once the one that was just given up");
    assert_eq!(hv.domain_table.lock().alive, 126);
    // Pages that somebody still pins keep the id.
    hv.release_id(DomId(9));
    hv.heap.account(DomId(9)).set_maximum(1);
    let page = hv.heap.allocate(&hv.machine, 0, Owner::Domain(DomId(9))).unwrap();
    assert_eq!(hv.reserve_id(false), Ok(DomId(3)));
    assert!(hv.reserve_id(false).is_err());
    hv.heap.free(page);
    assert_eq!(hv.reserve_id(false), Ok(DomId(9)));
}

#[test]
fn a_started_domain_runs_from_its_entry() {
    let hv = machine(64);
    let config =
        DomainConfig { privileged: true, name: "a name that is long".to_string(), ..config(16 * MIB, small_kernel()) };
    let domain = hv.build_domain(config).unwrap();
    assert_eq!(domain.id, DomId(0));
    assert_eq!(start_info(&hv, &domain).flags, SIF_PRIVILEGED);
    assert!(hv.find_domain(domain.id).is_none() && !domain.lifecycle.is_running(), "nobody sees it yet");
    let state = start_state(&domain);
    hv.start_domain(&domain).unwrap();
    let record = &hv.machine.traced_of(Kind::DOMAIN_START.0)[0];
    let record = DomainStart::read_from_bytes(record).unwrap();
    assert_eq!((record.domid, &record.name), (DomId(0), b"a name that is \0"));
    assert!(domain.lifecycle.is_running());
    let first = testing::vcpu(&domain, 0);
    // It was put where it would run at once.
    testing::set_cpu(first.sched.cpu().0);
    assert!(hv.schedule() == Some(first.clone()));
    assert!(domain.vcpus[1].sched.state().is_down(), "the others wait for their start");
    assert_eq!(hv.prepare_entry(&first, FREE).start, Some(state));
    assert_eq!(hv.prepare_entry(&first, FREE).start, None);
    testing::set_cpu(0);
    // It lives on when the machine goes.
    core::mem::forget(domain);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Any sizes and places: a domain that is as it should be, or an error that names a field; never a page lost.
    #[test]
    fn any_configuration_is_built_whole_or_not_at_all(
        megabytes in 1..24_u64,
        pages in 0..3_u64,
        address in 0..0x200_0000_u64,
        size in 4..0x10_0000_u64,
        ramdisk in proptest::option::of(0..300_000_usize),
        vcpus in 0..66_u32,
    ) {
        let hv = machine(20);
        let before = books(&hv);
        let memory = megabytes * MIB + (pages << 12);
        let kernel = elf64(address, b"code", size, address as u32);
        let ramdisk = ramdisk.map(|length| &*std::vec![7; length].leak());
        let config = DomainConfig { vcpus, ramdisk, ..config(memory, kernel) };
        match hv.build_domain(config) {
            Ok(domain) => {
                prop_assert_eq!(domain.memory.current(), memory >> 12);
                prop_assert_eq!(self::memory(&hv, &domain, address, 4), b"code");
                let info = start_info(&hv, &domain);
                prop_assert_eq!(info.magic, MAGIC);
                if let Some(bytes) = ramdisk {
                    let module: ModlistEntry = read(&hv, &domain, info.modlist_paddr);
                    prop_assert_eq!(self::memory(&hv, &domain, module.paddr, bytes.len()), bytes);
                }
                hv.abandon_domain(&domain);
            }
            Err(why) => {
                let why = why.to_string();
                let fields = ["memory: ", "kernel: ", "ramdisk: ", "vcpus: "];
                prop_assert!(fields.iter().any(|field| why.starts_with(field)), "{}", why);
            }
        }
        prop_assert_eq!(books(&hv), before);
        prop_assert_eq!(hv.domain_table.lock().taken, 0);
    }
}
