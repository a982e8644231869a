//! `tmem_op` and its control calls, as guests make them.

use shared_abi::hypercall as number;
use shared_abi::memory::{CLAIM_PAGES, MemoryReservation, POPULATE_PHYSMAP};
use shared_abi::sysctl::{self, Sysctl, TmemClient, TmemControl, TmemPoolInfo};
use shared_abi::tmem::{TmemNewPool, TmemOid};
use shared_abi::tmem_settings::TmemSettings;
use shared_abi::xen::GuestHandle;
use std::sync::Arc;
use std::vec::Vec;
use zerocopy::IntoBytes;

use super::*;
use crate::heap::Ledger;
use crate::hypercall::Next;
use crate::machine::PAGE_SIZE;
use crate::testing::{self, FakeMachine, UNPAGED, domain_config, domain_of, hypervisor, peek, poke};
use crate::vcpu::VcpuRef;

const PERSISTENT: u32 = 0x0100_0001;
const EPHEMERAL: u32 = 0x0100_0000;
/// Where the argument is put, and where buffers are.
const ARGUMENT: u64 = 0x1000;
const BUFFER: u64 = 0x2000;

struct World {
    hv: Hypervisor<FakeMachine>,
    domains: Vec<Arc<Domain<FakeMachine>>>,
    vcpus: Vec<VcpuRef<FakeMachine>>,
}

impl World {
    /// A machine of so many frames with two domains of 64 pages, at most 256, the first of them privileged.
    fn new(frames: u64) -> Self {
        Self::with(frames, TmemSettings::default())
    }

    /// ... with these settings for the second domain.
    fn with(frames: u64, settings: TmemSettings) -> Self {
        let hv = hypervisor(1, frames);
        let domains: Vec<_> = (0..2)
            .map(|id| {
                let mut config = domain_config(&std::format!("d{id}"), 64, 256, 1);
                config.privileged = id == 0;
                if id == 1 {
                    config.tmem = settings;
                }
                domain_of(&hv, id, config)
            })
            .collect();
        let vcpus = domains.iter().map(|domain| testing::vcpu(domain, 0)).collect();
        Self { hv, domains, vcpus }
    }

    fn tmem(&self, domain: usize, op: &TmemOp) -> i64 {
        poke(&self.hv, &self.domains[domain], ARGUMENT, op.as_bytes());
        testing::hypercall(&self.hv, &self.vcpus[domain], number::TMEM_OP, [ARGUMENT, 0, 0, 0, 0])
    }

    fn new_pool(&self, domain: usize, flags: u32) -> i64 {
        let wish = TmemNewPool { cmd: abi::NEW_POOL, pool_id: -1, uuid: [1, 2], flags, arg1: 0xdead_beef };
        let mut op = TmemOp::new_zeroed();
        op.as_mut_bytes()[..size_of::<TmemNewPool>()].copy_from_slice(wish.as_bytes());
        self.tmem(domain, &op)
    }

    fn page(&self, domain: usize, cmd: u32, pool: i32, index: u32, gfn: u64) -> i64 {
        let oid = TmemOid { oid: [3, 4, 5] };
        self.tmem(domain, &TmemOp { cmd, pool_id: pool, oid, index, cmfn: Gfn(gfn), ..TmemOp::default() })
    }

    /// Fills a page with something that no other call fills one with.
    fn fill(&self, domain: usize, gfn: u64, number: u64) {
        let bytes: Vec<u8> = (0..PAGE_SIZE as u64 / 8)
            .flat_map(|word| (number << 32 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        poke(&self.hv, &self.domains[domain], gfn << 12, &bytes);
    }

    fn contents(&self, domain: usize, gfn: u64) -> [u8; PAGE_SIZE] {
        peek(&self.hv, &self.domains[domain], gfn << 12)
    }

    fn control(&self, domain: usize, op: TmemControl) -> i64 {
        let mut request = Sysctl { cmd: sysctl::TMEM_OP, ..Sysctl::new_zeroed() };
        request.interface_version = sysctl::INTERFACE_VERSION;
        request.set_payload(&op);
        poke(&self.hv, &self.domains[domain], ARGUMENT, request.as_bytes());
        testing::hypercall(&self.hv, &self.vcpus[domain], number::SYSCTL, [ARGUMENT, 0, 0, 0, 0])
    }

    fn ledger(&self) -> Ledger {
        let ledger = self.hv.heap.ledger();
        assert!(ledger.adds_up(), "{ledger:?}");
        self.hv.audit_tmem();
        self.hv.audit_memory().unwrap();
        ledger
    }
}

fn code(errno: Errno) -> i64 {
    errno.to_return()
}

#[test]
fn a_guest_puts_and_gets_pages() {
    let w = World::new(1000);
    assert_eq!(w.page(1, abi::PUT_PAGE, 0, 0, 8), code(Errno::ENODEV), "no pool yet");
    assert_eq!(w.new_pool(1, PERSISTENT), 0);
    assert_eq!(w.new_pool(1, EPHEMERAL), 1);
    assert_eq!(w.page(1, abi::GET_PAGE, 0, 0, 9), code(Errno::EEMPTY));
    let before = w.domains[1].memory.current();
    for pool in 0..2 {
        w.fill(1, 8, 100 + pool as u64);
        assert_eq!(w.page(1, abi::PUT_PAGE, pool, 7, 8), 1);
        let put = w.contents(1, 8);
        w.fill(1, 8, 5);
        assert_eq!(w.page(1, abi::GET_PAGE, pool, 7, 9), 1);
        assert_eq!(w.contents(1, 9), put);
        assert_eq!(w.page(1, abi::GET_PAGE, pool, 6, 9), if pool == 0 { 0 } else { code(Errno::EEMPTY) });
        assert_eq!(w.contents(1, 9), put, "a miss writes nothing");
    }
    assert_eq!(w.page(1, abi::GET_PAGE, 0, 7, 9), 1, "persistent pages stay");
    let ledger = w.ledger();
    assert_eq!(w.domains[1].memory.current(), before + ledger.tmem_persistent, "they are charged");
    assert_eq!(ledger.tmem_ephemeral, 0);
    assert_eq!(w.page(1, abi::FLUSH_PAGE, 0, 7, 0), 1);
    assert_eq!(w.page(1, abi::FLUSH_PAGE, 0, 7, 0), 1);
    assert_eq!(w.page(1, abi::FLUSH_OBJECT, 0, 0, 0), 1);
    assert_eq!(w.page(1, abi::DESTROY_POOL, 0, 0, 0), 1);
    assert_eq!(w.page(1, abi::DESTROY_POOL, 0, 0, 0), 0);
    assert_eq!(w.page(1, abi::PUT_PAGE, 0, 7, 8), code(Errno::ENODEV));
    assert_eq!(w.ledger().tmem_persistent, 0);
}

#[test]
fn a_32_bit_guest_has_a_shorter_argument() {
    let w = World::new(1000);
    let hypercall = |op: &[u8]| {
        // At the end of the memory it has: only what the structure has can be read.
        let address = (64 << 12) - op.len() as u64;
        poke(&w.hv, &w.domains[1], address, op);
        let args = [address | 0xffff_ffff_0000_0000, 0, 0, 0, 0];
        w.hv.hypercall(&w.vcpus[1], u64::from(number::TMEM_OP), args, Width::Bits32, UNPAGED)
    };
    let wish = TmemNewPool { cmd: abi::NEW_POOL, flags: PERSISTENT, ..TmemNewPool::default() };
    let mut op = TmemOp32::new_zeroed();
    op.as_mut_bytes()[..size_of::<TmemNewPool>()].copy_from_slice(wish.as_bytes());
    assert_eq!(hypercall(op.as_bytes()), Next::Return(0));
    w.fill(1, 8, 1);
    let op = TmemOp32 { cmd: abi::PUT_PAGE, index: 9, cmfn: 8, ..TmemOp32::default() };
    assert_eq!(hypercall(op.as_bytes()), Next::Return(1));
    assert_eq!(w.page(1, abi::GET_PAGE, 0, 9, 9), 0, "another object");
    let get = TmemOp32 { cmd: abi::GET_PAGE, index: 9, cmfn: 9, ..TmemOp32::default() };
    assert_eq!(hypercall(get.as_bytes()), Next::Return(1));
    assert_eq!(w.contents(1, 9), w.contents(1, 8));
}

#[test]
fn commands_that_are_none_are_refused() {
    let w = World::new(1000);
    w.new_pool(1, PERSISTENT);
    for cmd in [0, abi::AUTH, abi::RESTORE_NEW] {
        assert_eq!(w.page(1, cmd, 0, 0, 8), code(Errno::EOPNOTSUPP));
    }
    for cmd in [3, 8, 9, 10, 11, 100, 103, u32::MAX] {
        assert_eq!(w.page(1, cmd, 0, 0, 8), code(Errno::ENOSYS), "{cmd}");
    }
    for pool in [1, 15, 16, -1, i32::MIN, i32::MAX] {
        for cmd in [abi::PUT_PAGE, abi::GET_PAGE, abi::FLUSH_PAGE, abi::FLUSH_OBJECT] {
            assert_eq!(w.page(1, cmd, pool, 0, 8), code(Errno::ENODEV), "{pool}");
        }
        assert_eq!(w.page(1, abi::DESTROY_POOL, pool, 0, 0), 0);
    }
    for flags in [0, 0x0200_0000, 0x0100_0003, 0x0100_0010, 0x0100_0004] {
        assert_eq!(w.new_pool(1, flags), code(Errno::EPERM));
    }
    let nowhere = [0xfff_f000, 0, 0, 0, 0];
    assert_eq!(testing::hypercall(&w.hv, &w.vcpus[1], number::TMEM_OP, nowhere), code(Errno::EFAULT));
}

#[test]
fn a_page_that_is_not_mapped_changes_nothing() {
    let w = World::new(1000);
    w.new_pool(1, PERSISTENT);
    w.new_pool(1, EPHEMERAL);
    for pool in 0..2 {
        w.fill(1, 8, 1);
        assert_eq!(w.page(1, abi::PUT_PAGE, pool, 0, 8), 1);
        for gfn in [64, 1 << 40, u64::MAX, u64::MAX >> 12, 1 << 52] {
            assert_eq!(w.page(1, abi::PUT_PAGE, pool, 0, gfn), code(Errno::EFAULT), "{gfn:#x}");
            assert_eq!(w.page(1, abi::GET_PAGE, pool, 0, gfn), code(Errno::EFAULT));
        }
        assert_eq!(w.page(1, abi::GET_PAGE, pool, 0, 9), 1);
        assert_eq!(w.contents(1, 9), w.contents(1, 8));
    }
    w.ledger();
}

#[test]
fn persistent_pages_stop_at_the_maximum() {
    let w = World::new(2000);
    w.new_pool(1, PERSISTENT);
    let mut put = 0;
    loop {
        w.fill(1, 8, u64::from(put));
        let result = w.page(1, abi::PUT_PAGE, 0, put, 8);
        if result != 1 {
            assert_eq!(result, code(Errno::ENOMEM));
            break;
        }
        put += 1;
    }
    assert_eq!(w.domains[1].memory.current(), 256, "charged up to the maximum");
    assert!(put > 150, "{put} pages");
    assert_eq!(w.ledger().tmem_persistent, 192);
    assert_eq!(w.page(1, abi::DESTROY_POOL, 0, 0, 0), 1);
    assert_eq!(w.domains[1].memory.current(), 64);
}

/// Fills the machine with ephemeral pages of domain 0.
fn fill_machine(w: &World) {
    assert_eq!(w.new_pool(0, EPHEMERAL), 0);
    w.hv.tmem.account(ClientId(0)).unwrap().set_limits(0, u64::MAX);
    for index in 0..500 {
        w.fill(0, 8, u64::from(index));
        assert_eq!(w.page(0, abi::PUT_PAGE, 0, index, 8), 1);
    }
    assert!(w.ledger().tmem_ephemeral > 200);
}

#[test]
fn memory_that_a_domain_may_have_is_taken_back() {
    let w = World::new(420);
    fill_machine(&w);
    let before = w.ledger();
    let gfns: Vec<u64> = (64..164).collect();
    poke(&w.hv, &w.domains[1], BUFFER, gfns.as_bytes());
    let reservation = MemoryReservation {
        extent_start: GuestHandle::new(BUFFER),
        nr_extents: 100,
        domid: DomId::SELF,
        ..MemoryReservation::new_zeroed()
    };
    poke(&w.hv, &w.domains[1], ARGUMENT, reservation.as_bytes());
    let args = [u64::from(POPULATE_PHYSMAP), ARGUMENT, 0, 0, 0];
    assert_eq!(testing::hypercall(&w.hv, &w.vcpus[1], number::MEMORY_OP, args), 100);
    let after = w.ledger();
    assert!(after.tmem_ephemeral + 60 < before.tmem_ephemeral, "{before:?} {after:?}");
    assert_eq!(w.contents(1, 100), [0; PAGE_SIZE], "what domain 0 had put is not to be seen");
    // And for a claim.
    let claim = MemoryReservation { nr_extents: 250, domid: DomId(1), ..MemoryReservation::new_zeroed() };
    poke(&w.hv, &w.domains[0], ARGUMENT, claim.as_bytes());
    let args = [u64::from(CLAIM_PAGES), ARGUMENT, 0, 0, 0];
    assert_eq!(testing::hypercall(&w.hv, &w.vcpus[0], number::MEMORY_OP, args), 0);
    assert!(w.ledger().claimed >= 86);
}

#[test]
fn a_domain_that_ends_takes_its_pools_along() {
    let w = World::new(1500);
    for domain in 0..2 {
        w.new_pool(domain, PERSISTENT);
        w.new_pool(domain, EPHEMERAL);
        for index in 0..100 {
            for pool in 0..2 {
                w.fill(domain, 8, u64::from(index) << 1 | pool as u64);
                assert_eq!(w.page(domain, abi::PUT_PAGE, pool, index, 8), 1);
            }
        }
    }
    let mut steps = 0;
    while !end_some(&w.hv, &w.domains[1], 16) {
        steps += 1;
        assert!(steps < 100);
    }
    assert!(steps >= 12, "{steps}: in bounded steps");
    assert_eq!(w.hv.tmem_frames(DomId(1), ebb_tmem::Kind::Persistent), 0);
    assert_eq!(w.hv.tmem_frames(DomId(1), ebb_tmem::Kind::Ephemeral), 0);
    let left = w.ledger();
    assert_eq!(left.tmem_persistent, w.hv.tmem_frames(DomId(0), ebb_tmem::Kind::Persistent));
    assert_eq!(w.page(0, abi::GET_PAGE, 0, 50, 9), 1, "others' pools stay");
}

#[test]
fn control_is_for_the_privileged() {
    let w = World::new(1000);
    w.new_pool(1, PERSISTENT);
    w.fill(1, 8, 1);
    w.page(1, abi::PUT_PAGE, 0, 0, 8);
    let op = TmemControl { cli_id: 1, buf: GuestHandle::new(BUFFER), len: 4096, ..TmemControl::new_zeroed() };
    for cmd in 0..40 {
        assert_eq!(w.control(1, TmemControl { cmd, ..op }), code(Errno::EPERM));
    }
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_FREEZE, ..op }), 0);
    assert_eq!(w.page(1, abi::PUT_PAGE, 0, 1, 8), code(Errno::EFROZEN));
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_GET_CLIENT_INFO, ..op }), 0);
    let info: TmemClient = zerocopy::transmute!(peek::<20>(&w.hv, &w.domains[0], BUFFER));
    assert_eq!((info.version, info.maxpools, info.nr_pools, info.flags, info.weight), (1, 16, 1, 1, 256));
    let wish = TmemClient { weight: 77, flags: sysctl::TMEM_CLIENT_FLAG_COMPRESS, ..info };
    poke(&w.hv, &w.domains[0], BUFFER, wish.as_bytes());
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_SET_CLIENT_INFO, ..op }), 0);
    assert_eq!(w.hv.tmem.account(ClientId(1)).unwrap().weight(), 77);
    for (wish, errno) in
        [(TmemClient { version: 2, ..info }, Errno::EOPNOTSUPP), (TmemClient { maxpools: 17, ..info }, Errno::ERANGE)]
    {
        poke(&w.hv, &w.domains[0], BUFFER, wish.as_bytes());
        assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_SET_CLIENT_INFO, ..op }), code(errno));
    }
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_THAW, cli_id: 0xffff, ..op }), 0);
    assert_eq!(w.page(1, abi::PUT_PAGE, 0, 1, 8), 1);
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_GET_POOLS, len: 16, ..op }), 1);
    let pool: TmemPoolInfo = zerocopy::transmute!(peek::<32>(&w.hv, &w.domains[0], BUFFER));
    assert_eq!((pool.flags, pool.id, pool.n_pages, pool.uuid), (PERSISTENT, 0, 2, [1, 2]));
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_LIST, arg: 1, ..op }), 0);
    let text = peek::<4096>(&w.hv, &w.domains[0], BUFFER);
    let text = std::str::from_utf8(text.split(|byte| *byte == 0).next().unwrap()).unwrap();
    assert!(text.contains("C=CI:1,ww:77,co:1,fr:0,"), "{text}");
    for cmd in [sysctl::TMEM_FREEZE, sysctl::TMEM_GET_CLIENT_INFO, sysctl::TMEM_DESTROY, sysctl::TMEM_GET_POOLS] {
        assert_eq!(w.control(0, TmemControl { cmd, cli_id: 9, ..op }), code(Errno::ENOENT));
    }
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_FREEZE, pad: 1, ..op }), code(Errno::EINVAL));
    assert_eq!(w.control(0, TmemControl { cmd: 99, ..op }), code(Errno::ENOSYS));
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_RESTORE_BEGIN, cli_id: 9, ..op }), code(Errno::ENOENT));
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_DESTROY, ..op }), 0);
    assert_eq!(w.ledger().tmem_persistent, 0);
}

#[test]
fn a_control_domain_flushes_and_moves_pages() {
    let w = World::new(420);
    fill_machine(&w);
    let op = TmemControl { cli_id: 0xffff, buf: GuestHandle::new(BUFFER), ..TmemControl::new_zeroed() };
    let held = w.ledger().tmem_ephemeral;
    let freed = w.control(0, TmemControl { cmd: sysctl::TMEM_FLUSH, arg: 41, ..op });
    assert!((44..=48).contains(&freed), "{freed} KiB for 41");
    assert_eq!(w.ledger().tmem_ephemeral, held - freed as u64 / 4);
    // Out of domain 1's pool, page by page, and back in.
    w.new_pool(1, PERSISTENT);
    w.fill(1, 8, 1234);
    assert_eq!(w.page(1, abi::PUT_PAGE, 0, 3, 8), 1);
    let one = TmemControl { cli_id: 1, len: 32 + 4096, ..op };
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_SAVE_BEGIN, arg: 1, ..one }), 0);
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_SAVE_GET_NEXT_PAGE, ..one }), 1);
    let name: sysctl::TmemHandle = zerocopy::transmute!(peek::<32>(&w.hv, &w.domains[0], BUFFER));
    assert_eq!((name.pool_id, name.index, name.oid.oid), (0, 3, [3, 4, 5]));
    let saved: [u8; 4064] = peek(&w.hv, &w.domains[0], BUFFER + 32);
    assert_eq!(saved, w.contents(1, 8)[..4064]);
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_SAVE_GET_NEXT_PAGE, ..one }), code(Errno::EPERM));
    assert_eq!(w.page(1, abi::FLUSH_PAGE, 0, 3, 0), code(Errno::EFROZEN));
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_SAVE_GET_NEXT_INV, ..one }), 1);
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_SAVE_GET_NEXT_INV, ..one }), 0);
    assert_eq!(w.control(0, TmemControl { cmd: sysctl::TMEM_SAVE_END, ..one }), 0);
    let back = TmemControl {
        cmd: sysctl::TMEM_RESTORE_PUT_PAGE,
        buf: GuestHandle::new(BUFFER + 32),
        len: 4096,
        arg: 3,
        oid: name.oid,
        ..one
    };
    assert_eq!(w.control(0, back), 1);
    assert_eq!(w.page(1, abi::GET_PAGE, 0, 3, 9), 1);
    assert_eq!(w.contents(1, 9), w.contents(1, 8));
}

#[test]
fn a_domain_without_tmem_has_none() {
    let w = World::with(1000, TmemSettings { off: true, ..TmemSettings::default() });
    assert_eq!(w.new_pool(1, PERSISTENT), code(Errno::ENODEV));
    for cmd in [abi::PUT_PAGE, abi::GET_PAGE, abi::FLUSH_PAGE, abi::FLUSH_OBJECT, abi::DESTROY_POOL, 77] {
        assert_eq!(w.page(1, cmd, 0, 0, 8), code(Errno::ENODEV));
    }
    assert_eq!(w.new_pool(0, PERSISTENT), 0, "others have theirs");
}

#[test]
fn a_domain_begins_with_its_settings() {
    let settings =
        TmemSettings { weight: Some(3), compress: true, floor: Some(4), cap: Some(20), ..TmemSettings::default() };
    let w = World::with(1000, settings);
    w.new_pool(1, EPHEMERAL);
    let info = w.hv.tmem.on(&w.hv.machine_frames()).client_info(ClientId(1)).unwrap();
    assert_eq!((info.weight, info.compress), (3, true));
    assert_eq!(w.hv.tmem.account(ClientId(1)).unwrap().limits(), (4, 20));
    for index in 0..100 {
        w.fill(1, 8, 1000 + u64::from(index));
        assert_eq!(w.page(1, abi::PUT_PAGE, 0, index, 8), 1);
        assert!(w.ledger().tmem_ephemeral <= 20, "the oldest make room");
    }
    // What a governor sets later stays when there are further pools.
    w.hv.tmem.on(&w.hv.machine_frames()).set_client_info(Some(ClientId(1)), 9, false).unwrap();
    w.new_pool(1, PERSISTENT);
    let info = w.hv.tmem.on(&w.hv.machine_frames()).client_info(ClientId(1)).unwrap();
    assert_eq!((info.weight, info.compress), (9, false));
}
