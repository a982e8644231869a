//! Copies to and from guests: every paging mode, rights, reserved bits, accessed and dirty, page crossings, and that a
//! remembered walk is never served stale.

#[path = "../src/testing.rs"]
mod testing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ebb_core::hypercall::{Call, GuestPaging, Width};
use ebb_core::vcpu::VcpuRef;
use ebb_core::{Domain, Hypervisor};
use proptest::prelude::*;
use shared_abi::xen::{Errno, Gfn, GuestHandle};
use testing::{FakeMachine, domain, hypervisor, peek, poke, vcpu};

type Hv = Hypervisor<FakeMachine>;
type Dom = Arc<Domain<FakeMachine>>;

const P: u64 = 1;
const W: u64 = 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;

const CR0_PG: u64 = 1 << 31 | 1;
const CR0_WP: u64 = 1 << 16;
const PAE: u64 = 1 << 5;
const LA57: u64 = 1 << 12;
const PSE: u64 = 1 << 4;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;

/// The frame of the top table; the tables below follow it.
const TOP: u64 = 0x10;

fn long(levels: u64) -> GuestPaging {
    let cr4 = PAE | if levels == 5 { LA57 } else { 0 };
    GuestPaging { cr0: CR0_PG | CR0_WP, cr3: TOP << 12, cr4, efer: LMA | NXE, cpl: 0, interrupts: true }
}

fn call<'a>(hv: &'a Hv, current: &'a VcpuRef<FakeMachine>, paging: GuestPaging) -> Call<'a, FakeMachine> {
    Call { hv, current, args: [0; 5], width: Width::Bits64, paging }
}

fn world() -> (Hv, Dom) {
    let hv = hypervisor(1, 4096);
    let d = domain(&hv, 1, 1024, 2);
    (hv, d)
}

fn entry(hv: &Hv, d: &Dom, table: u64, index: u64, value: u64) {
    poke(hv, d, (table << 12) + 8 * index, &value.to_le_bytes());
}

fn entry_of(hv: &Hv, d: &Dom, table: u64, index: u64) -> u64 {
    u64::from_le_bytes(peek(hv, d, (table << 12) + 8 * index))
}

/// Long-mode tables at TOP, TOP+1, … that lead the path of index `path` to `leaf`.
fn map(hv: &Hv, d: &Dom, path: &[u64], leaf: u64) {
    for (depth, index) in path[..path.len() - 1].iter().enumerate() {
        let next = (TOP + depth as u64 + 1) << 12;
        entry(hv, d, TOP + depth as u64, *index, next | P | W);
    }
    entry(hv, d, TOP + path.len() as u64 - 1, path[path.len() - 1], leaf);
}

fn address(path: &[u64]) -> u64 {
    let raw = path.iter().fold(0, |address, index| address << 9 | index) << 12;
    let shift = 64 - (12 + 9 * path.len() as u32);
    ((raw << shift) as i64 >> shift) as u64
}

fn read(call: &Call<'_, FakeMachine>, address: u64) -> Result<u64, Errno> {
    call.read_guest::<u64>(address)
}

#[test]
fn four_and_five_levels() {
    for levels in [4, 5] {
        let (hv, d) = world();
        let path = &[0x1ff, 0x100, 3, 4, 5][..levels];
        map(&hv, &d, path, 300 << 12 | P | W);
        poke(&hv, &d, (300 << 12) + 8, &77u64.to_le_bytes());
        let v = vcpu(&d, 0);
        let c = call(&hv, &v, long(levels as u64));
        let at = address(path);
        assert_eq!(read(&c, at + 8), Ok(77));
        assert_eq!(c.guest_frame_of(at + 8), Ok((Gfn(300), 8)));
        assert_eq!(read(&c, at & 0x0000_ffff_ffff_ffff), Err(Errno::EFAULT), "not canonical");
        assert_eq!(read(&c, at + 0x1000), Err(Errno::EFAULT), "not present");
        c.write_guest(at + 16, &99u64).unwrap();
        assert_eq!(peek::<8>(&hv, &d, (300 << 12) + 16), 99u64.to_le_bytes());
    }
}

#[test]
fn large_pages() {
    let (hv, d) = world();
    let v = vcpu(&d, 0);
    let c = call(&hv, &v, long(4));
    // 2 MiB at guest-physical 2 MiB.
    map(&hv, &d, &[0, 0, 7], 0x20_0000 | P | W | PS);
    poke(&hv, &d, 0x20_0000 + 0x5678, &5u64.to_le_bytes());
    assert_eq!(read(&c, (7 << 21) + 0x5678), Ok(5));
    entry(&hv, &d, TOP + 2, 7, 0x20_2000 | P | W | PS);
    assert_eq!(read(&c, (7 << 21) + 0x5678), Err(Errno::EFAULT), "a reserved address bit");
    // 1 GiB at 0.
    map(&hv, &d, &[0, 9], P | W | PS);
    assert_eq!(read(&c, (9 << 30) + 0x20_5678), Ok(5));
    // Large at the top level is reserved.
    entry(&hv, &d, TOP, 1, P | W | PS);
    assert_eq!(read(&c, 1 << 39), Err(Errno::EFAULT));
}

#[test]
fn pae_and_two_levels() {
    let (hv, d) = world();
    let v = vcpu(&d, 0);
    poke(&hv, &d, (300 << 12) + 4, &77u32.to_le_bytes());
    // PAE: four top entries anywhere 32-byte aligned; they have no rights and no accessed bit.
    let pae =
        GuestPaging { cr0: CR0_PG | CR0_WP, cr3: (TOP << 12) + 0x20, cr4: PAE, efer: 0, cpl: 0, interrupts: true };
    poke(&hv, &d, (TOP << 12) + 0x20 + 8, &((TOP + 1) << 12 | P).to_le_bytes());
    entry(&hv, &d, TOP + 1, 2, (TOP + 2) << 12 | P | W);
    entry(&hv, &d, TOP + 2, 3, 300 << 12 | P | W);
    let at = 1 << 30 | 2 << 21 | 3 << 12;
    let c = call(&hv, &v, pae);
    assert_eq!(c.read_guest::<u32>(at + 4), Ok(77));
    c.write_guest(at + 8, &78u32).unwrap();
    assert_eq!(u64::from_le_bytes(peek(&hv, &d, (TOP << 12) + 0x28)), (TOP + 1) << 12 | P, "not marked");
    assert_eq!(entry_of(&hv, &d, TOP + 2, 3), 300 << 12 | P | W | A | D);
    entry(&hv, &d, TOP + 2, 3, 300 << 12 | P | W | NX);
    assert_eq!(c.read_guest::<u32>(at + 4), Err(Errno::EFAULT), "no-execute is reserved without NXE");
    assert_eq!(c.read_guest::<u32>(1 << 32 | at), Err(Errno::EFAULT), "beyond 4 GiB");

    // Two levels of 32-bit entries, and a 4 MiB page.
    let two = GuestPaging { cr0: CR0_PG | CR0_WP, cr3: (TOP + 5) << 12, cr4: PSE, efer: 0, cpl: 0, interrupts: true };
    let small = |table: u64, index: u64, value: u32| poke(&hv, &d, (table << 12) + 4 * index, &value.to_le_bytes());
    small(TOP + 5, 1, ((TOP as u32 + 6) << 12) | 3);
    small(TOP + 6, 2, 300 << 12 | 3);
    small(TOP + 5, 2, 0x83);
    let c = call(&hv, &v, two);
    assert_eq!(c.read_guest::<u32>((1 << 22) + (2 << 12) + 4), Ok(77));
    assert_eq!(c.read_guest::<u32>((2 << 22) + (300 << 12) + 4), Ok(77));
    small(TOP + 5, 2, 0x83 | 1 << 13);
    assert_eq!(c.read_guest::<u32>((2 << 22) + (300 << 12) + 4), Err(Errno::EFAULT), "above 4 GiB there is nothing");
    let no_pse = GuestPaging { cr4: 0, ..two };
    small(TOP + 5, 3, ((TOP as u32 + 6) << 12) | 0x83);
    assert_eq!(call(&hv, &v, no_pse).read_guest::<u32>((3 << 22) + (2 << 12) + 4), Ok(77), "PS is ignored");
}

#[test]
fn rights() {
    let (hv, d) = world();
    let v = vcpu(&d, 0);
    let path = [0, 0, 0, 5];
    map(&hv, &d, &path, 300 << 12 | P);
    let at = address(&path);
    let protected = call(&hv, &v, long(4));
    assert_eq!(read(&protected, at), Ok(0));
    assert_eq!(protected.write_guest(at, &1u64), Err(Errno::EFAULT));
    assert_eq!(entry_of(&hv, &d, TOP + 3, 5), 300 << 12 | P | A, "a refused write leaves no mark");
    let paging = GuestPaging { cr0: CR0_PG, ..long(4) };
    let open = call(&hv, &v, paging);
    assert_eq!(open.write_guest(at, &1u64), Ok(()), "the kernel without write protection");
    assert_eq!(protected.write_guest(at, &1u64), Err(Errno::EFAULT), "not remembered across CR0.WP");
    // A read-only table above counts too.
    map(&hv, &d, &path, 300 << 12 | P | W);
    entry(&hv, &d, TOP + 1, 0, (TOP + 2) << 12 | P);
    assert_eq!(protected.write_guest(at, &1u64), Err(Errno::EFAULT));
    // NX is reserved without NXE.
    entry(&hv, &d, TOP + 3, 5, 300 << 12 | P | W | NX);
    assert_eq!(read(&protected, at), Ok(1));
    let without = GuestPaging { efer: LMA, ..long(4) };
    assert_eq!(read(&call(&hv, &v, without), at), Err(Errno::EFAULT));
}

#[test]
fn the_tables_are_marked_as_a_processor_would() {
    let (hv, d) = world();
    let v = vcpu(&d, 0);
    let path = [0, 0, 0, 5];
    map(&hv, &d, &path, 300 << 12 | P | W);
    let c = call(&hv, &v, long(4));
    let at = address(&path);
    read(&c, at).unwrap();
    assert_eq!(entry_of(&hv, &d, TOP + 3, 5), 300 << 12 | P | W | A);
    assert_eq!(entry_of(&hv, &d, TOP, 0), (TOP + 1) << 12 | P | W | A);
    c.write_guest(at, &1u64).unwrap();
    assert_eq!(entry_of(&hv, &d, TOP + 3, 5), 300 << 12 | P | W | A | D);
    // The guest clears dirty: the next write sets it again, although the walk was remembered.
    entry(&hv, &d, TOP + 3, 5, 300 << 12 | P | W | A);
    c.write_guest(at, &2u64).unwrap();
    assert_eq!(entry_of(&hv, &d, TOP + 3, 5), 300 << 12 | P | W | A | D);
}

#[test]
fn copies_cross_pages_and_stop_at_holes() {
    let (hv, d) = world();
    let v = vcpu(&d, 0);
    let c = call(&hv, &v, long(4));
    map(&hv, &d, &[0, 0, 0, 5], 300 << 12 | P | W);
    entry(&hv, &d, TOP + 3, 6, 200 << 12 | P | W);
    let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let at = 5 << 12 | 0xe00;
    assert_eq!(c.write_guest_bytes(at, &data), Err(Errno::EFAULT), "the third page is not there");
    assert_eq!(c.write_guest_bytes(at, &data[..4000]), Ok(()));
    assert_eq!(peek::<512>(&hv, &d, (300 << 12) + 0xe00), data[..512]);
    assert_eq!(peek::<512>(&hv, &d, 200 << 12), data[512..1024]);
    let mut back = vec![0; 4000];
    c.read_guest_bytes(at, &mut back).unwrap();
    assert_eq!(back, data[..4000]);
    assert_eq!(c.read_guest_bytes(u64::MAX - 3, &mut back[..8]), Err(Errno::EFAULT), "wraps");
    assert_eq!(c.read_guest_bytes(12345, &mut []), Ok(()), "nothing can always be read");
    // Arrays.
    let handle = GuestHandle::<u32>::new(6 << 12);
    c.write_element(handle, 3, &0xabcd_ef01).unwrap();
    assert_eq!(c.read_element(handle, 3), Ok(0xabcd_ef01));
    assert_eq!(c.read_element(handle, u64::MAX / 4), Err(Errno::EFAULT));
    assert_eq!(c.read_element(handle, u64::MAX), Err(Errno::EFAULT));
    let mut four = [0; 4];
    c.read_elements(handle, 0, &mut four).unwrap();
    assert_eq!(four[3], 0xabcd_ef01);
}

#[test]
fn tables_where_there_is_no_memory() {
    let (hv, d) = world();
    let v = vcpu(&d, 0);
    for cr3 in [1 << 30, 0x000f_ffff_ffff_f000, 1 << 39] {
        let paging = GuestPaging { cr3, ..long(4) };
        assert_eq!(read(&call(&hv, &v, paging), 0x5000), Err(Errno::EFAULT));
    }
    map(&hv, &d, &[0, 0, 0, 5], (1 << 36) | P | W);
    assert_eq!(read(&call(&hv, &v, long(4)), 0x5000), Err(Errno::EFAULT));
    let mut bytes = [0; 8];
    assert_eq!(hv.read_physical(&d, 1 << 40, &mut bytes), Err(Errno::EFAULT));
    assert_eq!(hv.write_physical(&d, u64::MAX - 2, &bytes), Err(Errno::EFAULT));
    assert_eq!(hv.write_physical(&d, (1024 << 12) - 4, &bytes), Err(Errno::EFAULT));
    assert_eq!(hv.write_physical(&d, (512 << 12) - 4, &[1, 2, 3, 4, 5, 6, 7, 8]), Ok(()));
    hv.read_physical(&d, (512 << 12) - 4, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_remembered_walk_costs_a_load_per_level() {
    let (hv, d) = world();
    let v = vcpu(&d, 0);
    let c = call(&hv, &v, long(4));
    map(&hv, &d, &[0, 0, 0, 5], 300 << 12 | P | W);
    let cost = |address| {
        let before = hv.machine.accesses.load(Ordering::Relaxed);
        read(&c, address).unwrap();
        hv.machine.accesses.load(Ordering::Relaxed) - before
    };
    let first = cost(0x5000);
    let second = cost(0x5008);
    assert!(first > 15, "{first}");
    assert_eq!(second, 5, "four entries and the word itself");
}

#[test]
fn a_remembered_walk_is_never_stale() {
    let (hv, d) = world();
    let v = vcpu(&d, 0);
    let c = call(&hv, &v, long(4));
    map(&hv, &d, &[0, 0, 0, 5], 300 << 12 | P | W);
    poke(&hv, &d, 300 << 12, &1u64.to_le_bytes());
    poke(&hv, &d, 301 << 12, &2u64.to_le_bytes());
    assert_eq!(read(&c, 0x5000), Ok(1));
    entry(&hv, &d, TOP + 3, 5, 301 << 12 | P | W);
    assert_eq!(read(&c, 0x5000), Ok(2), "a leaf changed");
    entry(&hv, &d, TOP, 0, 0);
    assert_eq!(read(&c, 0x5000), Err(Errno::EFAULT), "the top changed");
    map(&hv, &d, &[0, 0, 0, 5], 300 << 12 | P | W);
    assert_eq!(read(&c, 0x5000), Ok(1));
    // The page goes from under it, and something else comes.
    d.memory.unmap_page(&hv, Gfn(300)).unwrap();
    assert_eq!(read(&c, 0x5000), Err(Errno::EFAULT));
    d.memory.populate(&hv, Gfn(300), 0).unwrap();
    assert_eq!(read(&c, 0x5000), Ok(0));
    // A table goes.
    d.memory.unmap_page(&hv, Gfn(TOP + 2)).unwrap();
    assert_eq!(read(&c, 0x5000), Err(Errno::EFAULT));
}

#[test]
fn a_remembered_walk_depends_on_its_tables_not_on_the_rest() {
    let (hv, d) = world();
    let v = vcpu(&d, 0);
    let c = call(&hv, &v, long(4));
    // The tables are in the first superpage, the page in the second.
    map(&hv, &d, &[0, 0, 0, 5], 600 << 12 | P | W);
    assert_eq!(read(&c, 0x5000), Ok(0));
    d.memory.populate(&hv, Gfn(3000), 0).unwrap();
    d.memory.unmap_page(&hv, Gfn(3000)).unwrap();
    let before = hv.machine.accesses.load(Ordering::Relaxed);
    assert_eq!(read(&c, 0x5000), Ok(0));
    assert_eq!(hv.machine.accesses.load(Ordering::Relaxed) - before, 5, "a loss elsewhere does not matter");
    d.memory.unmap_page(&hv, Gfn(TOP + 2)).unwrap();
    assert_eq!(read(&c, 0x5000), Err(Errno::EFAULT));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// A guest that does whatever it likes to its tables: a vCPU that remembers sees what one sees that never was here.
    #[test]
    fn remembered_and_fresh_walks_agree(
        steps in prop::collection::vec((0..6u8, 0..5u64, 0..8u64, 0..12u64, any::<bool>()), 1..200)
    ) {
        let (hv, d) = world();
        for gfn in 20..40u64 {
            poke(&hv, &d, gfn << 12, &gfn.to_le_bytes());
        }
        map(&hv, &d, &[0, 0, 0, 0], 20 << 12 | P | W);
        let v = vcpu(&d, 0);
        for (kind, table, index, target, write) in steps {
            let value = [target + 20, TOP + target % 5][usize::from(kind % 2)] << 12;
            match kind {
                0 | 1 => entry(&hv, &d, TOP + table, index, value | P | W),
                2 => entry(&hv, &d, TOP + table, index, value | P),
                3 => entry(&hv, &d, TOP + table, index, value),
                4 => {
                    let _ = d.memory.move_page(&hv, Gfn(20 + target), Gfn(40 + target));
                    let _ = d.memory.populate(&hv, Gfn(20 + target), 0);
                }
                _ => {}
            }
            let c = call(&hv, &v, long(4));
            let at = index << 12 | table << 21;
            if write {
                let seen = c.read_guest::<u64>(at);
                if c.write_guest(at, &seen.unwrap_or(0)).is_ok() {
                    prop_assert!(seen.is_ok());
                }
            }
            prop_assert_eq!(read(&c, at), domain_view(&hv, &d, at), "at {:#x}", at);
        }
    }
}

/// What a walk without a memory finds: for these registers nothing can be remembered, since no two calls have the same.
fn domain_view(hv: &Hv, d: &Dom, at: u64) -> Result<u64, Errno> {
    static UNIQUE: AtomicU64 = AtomicU64::new(1);
    let mut paging = long(4);
    paging.cr0 |= UNIQUE.fetch_add(1, Ordering::Relaxed) << 32;
    let mut bytes = [0; 8];
    match hv.read_virtual(&vcpu(d, 0), &paging, at, &mut bytes) {
        8 => Ok(u64::from_le_bytes(bytes)),
        _ => Err(Errno::EFAULT),
    }
}
