//! What goes where, one promise at a time.

mod common;

use std::rc::Rc;

use common::host::{Host, HostCalls};
use common::{CONFIG, Guest, Pages, guest};
use ebb_guest_tmem::{Calls, PoolId, Uuid};
use ebb_reclaim::{Config, Contents, Failure, FileId, Memory};
use ebb_tmem::Kind;
use shared_abi::tmem::TmemOid;
use shared_abi::xen::{Errno, Gfn};

/// A guest of 60 pages with a file of 30 of which all are in cleancache.
fn with_file_put(host: &Rc<Host>) -> (Guest, FileId) {
    let config = Config { contents: Contents { zero: 0, compressible: 0 }, ..CONFIG };
    let mut guest = guest(host, 1, 60, 60, config);
    let mount = guest.mount(None).unwrap();
    let file = guest.create(mount, 30);
    (0..30).for_each(|page| assert!(guest.read(0, file, page).is_ok()));
    assert_eq!(guest.reclaim(0, 30).unwrap().0, 30);
    assert_eq!((guest.cleancache().puts, guest.figures().file), (30, 0));
    (guest, file)
}

/// Whether cleancache has anything.
fn pages_there(host: &Host) -> bool {
    host.tmem(1, Kind::Ephemeral) > 0
}

#[test]
fn a_miss_is_served_by_cleancache_and_not_by_the_disk() {
    let host = Host::new(200);
    let (mut guest, file) = with_file_put(&host);
    let reads = guest.stats().file_disk_reads;
    (0..30).for_each(|page| assert_eq!(guest.read(5, file, page), Ok(5), "no time passes"));
    assert_eq!((guest.stats().file_disk_reads, guest.cleancache().succ_gets), (reads, 30));
    assert!(!pages_there(&host), "and they are in one place");
}

#[test]
fn overwriting_flushes_at_once() {
    let host = Host::new(200);
    let (mut guest, file) = with_file_put(&host);
    (0..30).for_each(|page| assert!(guest.write(0, file, page).is_ok()));
    assert!(!pages_there(&host));
    assert_eq!(guest.stats().file_disk_writes, 30 - CONFIG.dirty, "beyond the limit they are written at once");
}

#[test]
fn truncation_and_invalidation_flush() {
    for truncate in [true, false] {
        let host = Host::new(200);
        let (mut guest, file) = with_file_put(&host);
        if truncate {
            guest.truncate(file, 3).unwrap();
            assert_eq!(guest.read(0, file, 3), Err(Failure::OutOfRange));
            guest.write(0, file, 3).unwrap();
            assert_eq!(guest.len(file), 4);
        } else {
            guest.invalidate(file);
        }
        assert!(!pages_there(&host));
    }
}

#[test]
fn a_shared_file_system_is_read_from_the_disk_once() {
    let host = Host::new(300);
    host.store.on(&host.machine).share_freely(true);
    let uuid = Some([11, 22]);
    let [mut one, mut two] = [1, 2].map(|client| guest(&host, client, 60, 60, CONFIG));
    let files = [&mut one, &mut two].map(|guest| {
        let mount = guest.mount(uuid).unwrap();
        guest.create(mount, 30)
    });
    (0..30).for_each(|page| assert!(one.read(0, files[0], page).is_ok()));
    one.reclaim(0, 30).unwrap();
    (0..30).for_each(|page| assert!(two.read(0, files[1], page).is_ok()));
    assert_eq!((one.stats().file_disk_reads, two.stats().file_disk_reads), (30, 0));
    assert_eq!(two.stats().verified, 30);
}

#[test]
fn swapped_pages_go_to_frontswap_first_and_come_back_by_shrinking() {
    let host = Host::new(80);
    let mut guest = guest(&host, 1, 60, 60, Config { swap: 200, ..CONFIG });
    let region = guest.map(120);
    guest.resize(region, 120).unwrap();
    (0..120).for_each(|page| assert!(guest.touch(0, region, page, true).is_ok()));
    let (figures, stats) = (guest.figures(), guest.stats());
    assert!(figures.frontswap > 0 && stats.swap_disk_writes > 0, "20 frames are not enough: {figures:?} {stats:?}");
    assert_eq!(stats.swap_outs, figures.frontswap + stats.swap_disk_writes);
    assert_eq!(guest.shrink_frontswap(0, 0, 100).unwrap().0, 0, "there is no room to bring them back");
    guest.resize(region, 10).unwrap();
    guest.resize(region, 100).unwrap();
    guest.audit();
    // With room, the shrink stops at its target.
    let there = guest.figures().frontswap;
    if there > 0 {
        assert_eq!(guest.shrink_frontswap(0, there - 1, 100).unwrap().0, 1);
    }
    (0..100).for_each(|page| assert!(guest.touch(0, region, page, false).is_ok()));
    guest.unmap(region).unwrap();
    assert_eq!((guest.figures().swap_used, guest.figures().frontswap), (0, 0));
    assert_eq!(host.tmem(1, Kind::Persistent), 0);
    host.audit();
}

#[test]
fn shrinking_brings_all_back_when_there_is_room() {
    let host = Host::new(200);
    let mut guest = guest(&host, 1, 60, 120, Config { swap: 200, ..CONFIG });
    let region = guest.map(80);
    guest.resize(region, 80).unwrap();
    (0..80).for_each(|page| assert!(guest.touch(0, region, page, true).is_ok()));
    let there = guest.figures().frontswap;
    assert!(there > 20);
    guest.source().grow(60);
    assert_eq!(guest.shrink_frontswap(0, there / 2, u64::MAX).unwrap().0, there - there / 2);
    assert_eq!(guest.shrink_frontswap(0, 0, u64::MAX).unwrap().0, there / 2);
    assert_eq!((guest.figures().frontswap, guest.stats().swap_disk_reads), (0, 0));
    guest.audit();
}

#[test]
fn a_page_that_is_not_given_back_is_told() {
    let host = Host::new(200);
    let mut guest = guest(&host, 1, 60, 60, Config { swap: 200, ..CONFIG });
    let region = guest.map(80);
    guest.resize(region, 80).unwrap();
    (0..80).for_each(|page| assert!(guest.touch(0, region, page, true).is_ok()));
    guest.calls().broken = Some(Errno::EINVAL);
    let outcomes: Vec<_> = (0..80).map(|page| guest.touch(0, region, page, false)).collect();
    assert!(outcomes.contains(&Err(Failure::Lost)), "{outcomes:?}");
    guest.audit();
    guest.calls().broken = None;
    (0..80).for_each(|page| assert!(guest.touch(0, region, page, false).is_ok()));
}

/// Gives the page of another index.
struct Liar(HostCalls);

impl Calls for Liar {
    fn new_pool(&mut self, uuid: Uuid, flags: u32) -> Result<PoolId, Errno> {
        self.0.new_pool(uuid, flags)
    }
    fn destroy_pool(&mut self, pool: PoolId) {
        self.0.destroy_pool(pool);
    }
    fn put(&mut self, pool: PoolId, oid: TmemOid, index: u32, page: Gfn) -> Result<(), Errno> {
        self.0.put(pool, oid, index, page)
    }
    fn get(&mut self, pool: PoolId, oid: TmemOid, index: u32, page: Gfn) -> bool {
        self.0.get(pool, oid, index ^ 1, page)
    }
    fn flush_page(&mut self, pool: PoolId, oid: TmemOid, index: u32) {
        self.0.flush_page(pool, oid, index);
    }
    fn flush_object(&mut self, pool: PoolId, oid: TmemOid) {
        self.0.flush_object(pool, oid);
    }
}

#[test]
fn a_wrong_page_is_noticed() {
    let host = Host::new(300);
    let pages = Pages::new(&host, 1, 60, 60);
    let calls = Liar(HostCalls::new(&host, 1, &pages.ram));
    let config = Config { swap: 200, contents: Contents { zero: 0, compressible: 8 }, ..CONFIG };
    let mut guest = Memory::new(pages, calls, config);
    let mount = guest.mount(None).unwrap();
    let file = guest.create(mount, 30);
    (0..30).for_each(|page| assert!(guest.read(0, file, page).is_ok()));
    guest.reclaim(0, 30).unwrap();
    assert!(matches!(guest.read(0, file, 7), Err(Failure::Wrong(_))));
    let region = guest.map(80);
    guest.resize(region, 80).unwrap();
    let touched: Result<Vec<_>, _> = (0..80).map(|page| guest.touch(0, region, page, true)).collect();
    assert!(touched.is_ok(), "what goes out is right: {touched:?}");
    let wrong = (0..80).filter(|page| matches!(guest.touch(0, region, *page, false), Err(Failure::Wrong(_))));
    assert!(wrong.count() > 0);
    guest.audit();
}
