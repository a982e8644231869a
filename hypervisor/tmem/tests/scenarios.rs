//! What the store promises, one promise a test.

mod common;

use common::{Guest, Machine, Random, page_of};
use ebb_tmem::{
    ClientId, Config, Error, Fault, GuestPage, Handle, Kind, NO_UUID, PAGE_SIZE, Page, Progress, Scratch, Store, Tmem,
};

const PERSISTENT: u32 = 0x0100_0001;
const EPHEMERAL: u32 = 0x0100_0000;
const SHARED: u32 = 0x0100_0002;
const A: ClientId = ClientId(0);
const B: ClientId = ClientId(1);
const UUID: [u64; 2] = [1, 2];

fn store(compress: bool) -> Store {
    Store::new(Config { clients: 4, seed: 0x5eed, compress, deduplicate: true })
}

fn at(pool: u32, index: u32) -> Handle {
    Handle { pool, oid: [1, 2, 3], index }
}

struct Tester<'a> {
    tmem: Tmem<'a, Machine>,
    scratch: Scratch,
}

impl<'a> Tester<'a> {
    fn new(store: &'a Store, machine: &'a Machine) -> Self {
        Self { tmem: store.on(machine), scratch: Scratch::try_new().expect("memory") }
    }

    fn put(&mut self, client: ClientId, handle: Handle, page: Page) -> Result<(), Error> {
        self.tmem.put(client, &handle, &Guest::new(page), &mut self.scratch)
    }

    fn get(&mut self, client: ClientId, handle: Handle) -> Result<Option<Page>, Error> {
        let guest = Guest::empty();
        let found = self.tmem.get(client, &handle, &guest, &mut self.scratch)?;
        Ok(found.then(|| guest.page()))
    }

    fn destroy(&self, client: ClientId) {
        while self.tmem.destroy_client(client, 100) == Progress::More {}
    }
}

#[test]
fn a_linux_client_is_served_as_it_expects() {
    let (machine, store) = (Machine::new(200), store(false));
    let mut t = Tester::new(&store, &machine);
    // At swapon and at mount; the bytes after the flags are garbage that never comes here.
    assert_eq!(t.tmem.new_pool(A, PERSISTENT, [0, 0]), Ok(0));
    assert_eq!(t.tmem.new_pool(A, EPHEMERAL, [0, 0]), Ok(1));
    let slots = if cfg!(miri) { 18 } else { 64 };
    let swap = |offset: u64| Handle { pool: 0, oid: [offset & 15, 0, 0], index: (offset >> 4) as u32 };
    assert_eq!(t.get(A, swap(0)), Err(Error::Empty));
    for offset in 0..slots {
        assert_eq!(t.put(A, swap(offset), page_of(3, offset)), Ok(()));
    }
    for offset in (0..slots).rev() {
        // A swap slot is read, maybe several times, and then invalidated.
        assert_eq!(t.get(A, swap(offset)), Ok(Some(page_of(3, offset))));
        assert_eq!(t.get(A, swap(offset)), Ok(Some(page_of(3, offset))));
        assert_eq!(t.tmem.flush_page(A, &swap(offset)), Ok(true));
        assert_eq!(t.tmem.flush_page(A, &swap(offset)), Ok(false), "results of flushes are ignored");
    }
    // swapoff: the whole area.
    for offset in 0..slots {
        assert_eq!(t.put(A, swap(offset), page_of(2, offset)), Ok(()));
    }
    for object in 0..16 {
        while t.tmem.flush_object(A, 0, [object, 0, 0], 3).unwrap() == Progress::More {}
    }
    assert_eq!(t.get(A, swap(5)), Err(Error::Empty));
    // ext4: the object is the inode, the index the page.
    let file = |inode: u64, page: u32| Handle { pool: 1, oid: [inode, 0, 0], index: page };
    assert_eq!(t.put(A, file(1234, 0), page_of(3, 1)), Ok(()));
    assert_eq!(t.put(A, file(1234, u32::MAX), page_of(3, 2)), Ok(()));
    assert_eq!(t.get(A, file(1234, 0)), Ok(Some(page_of(3, 1))));
    assert_eq!(t.get(A, file(1234, 0)), Ok(None), "an exclusive get");
    assert_eq!(t.get(A, file(1235, u32::MAX)), Ok(None));
    assert_eq!(t.tmem.flush_object(A, 1, [1234, 0, 0], 100), Ok(Progress::Done), "truncate");
    // umount.
    assert_eq!(t.tmem.destroy_pool(A, 1, 100), (true, Progress::Done));
    assert_eq!(t.put(A, file(1, 0), page_of(0, 0)), Err(Error::NoPool));
    t.tmem.audit();
    t.destroy(A);
    assert_eq!(machine.free_frames(), 200);
}

#[test]
fn pools_are_made_only_as_the_interface_says() {
    let (machine, store) = (Machine::new(50), store(false));
    let t = Tester::new(&store, &machine);
    let refused = [
        0,                       // no version
        0x0200_0000,             // another one
        PERSISTENT | 2,          // persistent and shared
        EPHEMERAL | 1 << 4,      // pages of 8 KiB
        EPHEMERAL | 4,           // compressed already
        EPHEMERAL | 8,           // no such flag
        EPHEMERAL | 0x0000_0100, // reserved
        EPHEMERAL | 0x0080_0000,
    ];
    for flags in refused {
        assert_eq!(t.tmem.new_pool(A, flags, UUID), Err(Error::Permission), "{flags:#x}");
    }
    assert_eq!(t.tmem.new_pool(ClientId(4), EPHEMERAL, UUID), Err(Error::Invalid), "no such client");
    for pool in 0..16 {
        assert_eq!(t.tmem.new_pool(A, EPHEMERAL, UUID), Ok(pool));
    }
    assert_eq!(t.tmem.new_pool(A, EPHEMERAL, UUID), Err(Error::Permission), "no slot");
    for pool in [16, u32::MAX, 1 << 31] {
        assert_eq!(t.tmem.flush_page(A, &at(pool, 0)), Err(Error::NoPool));
        assert_eq!(t.tmem.destroy_pool(A, pool, 1), (false, Progress::Done));
    }
    assert_eq!(t.tmem.destroy_pool(A, 7, 1), (true, Progress::Done));
    assert_eq!(t.tmem.new_pool(A, PERSISTENT, UUID), Ok(7), "the first free slot");
    assert_eq!(machine.free_frames(), 50, "empty pools cost no frame");
}

#[test]
#[cfg_attr(miri, ignore = "many pages; the calls are in other tests too")]
fn many_pages_make_tables_grow_and_flushing_makes_them_shrink() {
    let (machine, store) = (Machine::new(2000), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    let pages = 30_000;
    for index in 0..pages {
        assert_eq!(t.put(A, at(0, index), page_of(0, 0)), Ok(()));
    }
    // 63 nodes to a frame, and 4 items or less to a bucket of 64 bytes.
    let held = machine.charged(A, Kind::Persistent);
    assert!(held <= u64::from(pages / 63 + pages / 256 + 10), "{held} frames for {pages} pages of zeros");
    t.tmem.audit();
    for index in (0..pages).step_by(97) {
        assert_eq!(t.get(A, at(0, index)), Ok(Some(page_of(0, 0))));
    }
    let mut left = u64::from(pages);
    while t.tmem.flush_object(A, 0, [1, 2, 3], 1000).unwrap() == Progress::More {
        left -= 1000;
        assert_eq!(t.tmem.pool_info(A, 0).unwrap().unwrap().pages, left);
    }
    t.tmem.audit();
    assert_eq!(machine.free_frames(), 2000);
}

#[test]
#[cfg_attr(miri, ignore = "many pages; the calls are in other tests too")]
fn contents_make_tables_grow_too() {
    let pages = 6000;
    let (machine, store) = (Machine::new(7000), store(true));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    for index in 0..pages {
        assert_eq!(t.put(A, at(0, index), page_of(1, u64::from(index))), Ok(()));
    }
    t.tmem.audit();
    for index in 0..pages {
        assert_eq!(t.get(A, at(0, index)), Ok(Some(page_of(1, u64::from(index)))), "{index}");
        t.tmem.flush_page(A, &at(0, index)).unwrap();
    }
    t.tmem.audit();
    assert_eq!(machine.free_frames(), 7000);
}

/// Pages that differ and that the filter cannot tell apart: kept all the same, and found equal as far as they are listed.
#[test]
fn pages_made_to_look_equal_are_kept_apart() {
    let (machine, store) = (Machine::new(300), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    // In one lane of words: neither the sum changes nor the sum of the sums.
    let alike = |number: u64| {
        let mut page = page_of(3, 5);
        for (word, change) in [(0, number), (4, number.wrapping_mul(2).wrapping_neg()), (8, number)] {
            let bytes = &mut page[word * 8..word * 8 + 8];
            let value = u64::from_le_bytes((&*bytes).try_into().unwrap()).wrapping_add(change);
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        page
    };
    let count = if cfg!(miri) { 10 } else { 20 };
    for round in 0..2 {
        for number in 0..count {
            t.put(A, at(0, round * count + number), alike(u64::from(number))).unwrap();
        }
    }
    let figures = t.tmem.vault_figures(A, Kind::Persistent).unwrap();
    assert_eq!((figures.raw, figures.deduplicated), (2 * u64::from(count) - 8, 8), "8 of them are compared");
    t.tmem.audit();
    for index in 0..2 * count {
        assert_eq!(t.get(A, at(0, index)), Ok(Some(alike(u64::from(index % count)))), "{index}");
    }
    // When listed ones go, there is room for others.
    (0..2 * count).for_each(|index| assert_eq!(t.tmem.flush_page(A, &at(0, index)), Ok(true)));
    (0..2).for_each(|index| t.put(A, at(0, index), alike(u64::from(count) - 1)).unwrap());
    assert_eq!(t.tmem.vault_figures(A, Kind::Persistent).unwrap().raw, 1);
    t.tmem.audit();
}

#[test]
fn equal_pages_are_kept_once_but_only_inside_a_client() {
    let (machine, store) = (Machine::new(300), store(false));
    let mut t = Tester::new(&store, &machine);
    for client in [A, B] {
        t.tmem.new_pool(client, PERSISTENT, UUID).unwrap();
        t.put(client, at(0, 0), page_of(3, 77)).unwrap();
    }
    assert_eq!(t.tmem.vault_figures(A, Kind::Persistent).unwrap().raw, 1);
    assert_eq!(t.tmem.vault_figures(B, Kind::Persistent).unwrap().raw, 1, "found another client's page");
    let before = machine.free_frames();
    let equal = if cfg!(miri) { 7 } else { 40 };
    for index in 1..equal {
        t.put(A, at(0, index), page_of(3, 77)).unwrap();
    }
    assert_eq!(machine.free_frames(), before, "so many equal pages in one frame");
    assert_eq!(t.tmem.vault_figures(A, Kind::Persistent).unwrap().deduplicated, u64::from(equal) - 1);
    // A page put over one of them does not change the others.
    t.put(A, at(0, 5), page_of(3, 78)).unwrap();
    assert_eq!(t.get(A, at(0, 4)), Ok(Some(page_of(3, 77))));
    assert_eq!(t.get(A, at(0, 5)), Ok(Some(page_of(3, 78))));
    t.tmem.set_deduplication(A, false).unwrap();
    t.put(A, at(0, 100), page_of(3, 77)).unwrap();
    assert_eq!(t.tmem.vault_figures(A, Kind::Persistent).unwrap().raw, 3);
    t.tmem.audit();
}

#[test]
#[cfg_attr(miri, ignore = "many pages; the calls are in other tests too")]
fn compressed_pages_are_packed_and_packs_are_compacted() {
    let (machine, store) = (Machine::new(1000), store(true));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    let pages = 400;
    for index in 0..pages {
        // A third of each page is random, so it takes about half.
        t.put(A, at(0, index), page_of(2, u64::from(index))).unwrap();
    }
    let full = t.tmem.vault_figures(A, Kind::Persistent).unwrap();
    assert_eq!((full.contents, full.raw), (u64::from(pages), 0));
    let bytes = full.pack_frames * PAGE_SIZE as u64;
    // Lots of just over half a frame leave just under half of each frame free, for smaller ones.
    assert!(full.pack_frames <= u64::from(pages) && full.packed_bytes > bytes / 3, "{full:?}");
    // Smaller ones go in between.
    for index in pages..2 * pages {
        t.put(A, at(0, index), page_of(1, u64::from(index))).unwrap();
    }
    let mixed = t.tmem.vault_figures(A, Kind::Persistent).unwrap();
    let dense = mixed.packed_bytes * 100 / (mixed.pack_frames * PAGE_SIZE as u64);
    assert!(dense >= 85, "{dense}% of the packs' frames is data");
    t.put(A, at(0, 5000), page_of(3, 1)).unwrap();
    assert_eq!(t.tmem.vault_figures(A, Kind::Persistent).unwrap().raw, 1, "what does not compress is raw");
    // Four of five go: what is left comes together.
    for index in (0..2 * pages).filter(|index| index % 5 != 0) {
        t.tmem.flush_page(A, &at(0, index)).unwrap();
    }
    assert!(t.tmem.compact(10_000));
    let loose = t.tmem.vault_figures(A, Kind::Persistent).unwrap();
    let frames = loose.packed_bytes / PAGE_SIZE as u64;
    assert!(loose.pack_frames <= 2 * frames + 8, "{loose:?}");
    t.tmem.audit();
    for index in (0..2 * pages).filter(|index| index % 5 == 0) {
        let kind = if index < pages { 2 } else { 1 };
        assert_eq!(t.get(A, at(0, index)), Ok(Some(page_of(kind, u64::from(index)))), "moved, and changed");
    }
    t.destroy(A);
    assert_eq!(machine.free_frames(), 1000);
}

#[test]
#[cfg_attr(miri, ignore = "many pages; the calls are in other tests too")]
fn eviction_is_fair_by_weight() {
    let (frames, rounds) = (1000, 5000);
    let (machine, store) = (Machine::new(frames), store(false));
    let mut t = Tester::new(&store, &machine);
    for client in [A, B] {
        t.tmem.new_pool(client, EPHEMERAL, UUID).unwrap();
    }
    store.account(A).unwrap().set_weight(300);
    store.account(B).unwrap().set_weight(100);
    for index in 0..rounds {
        // The one with the greater weight puts a fourth as much.
        for _ in 0..4 {
            assert_eq!(t.put(B, at(0, index), page_of(3, u64::from(index))), Ok(()));
        }
        assert_eq!(t.put(A, at(0, index), page_of(3, 1 << 40 | u64::from(index))), Ok(()));
    }
    let held = [A, B].map(|client| machine.charged(client, Kind::Ephemeral));
    assert_eq!(held.iter().sum::<u64>(), frames as u64);
    assert!((735..=765).contains(&held[0]), "{held:?}");
    t.tmem.audit();
    // The oldest go first: the youngest are all there.
    let young = rounds - 2;
    assert_eq!(t.get(B, at(0, young)), Ok(Some(page_of(3, u64::from(young)))));
    assert_eq!(t.get(B, at(0, 1)), Ok(None));
}

#[test]
#[cfg_attr(miri, ignore = "many pages; the calls are in other tests too")]
fn floors_hold_against_clients_and_not_against_the_machine() {
    let (machine, store) = (Machine::new(300), store(false));
    let mut t = Tester::new(&store, &machine);
    for client in [A, B] {
        t.tmem.new_pool(client, EPHEMERAL, UUID).unwrap();
    }
    store.account(A).unwrap().set_limits(80, u64::MAX);
    store.account(B).unwrap().set_limits(0, 150);
    for index in 0..100 {
        t.put(A, at(0, index), page_of(3, u64::from(index))).unwrap();
    }
    store.account(A).unwrap().set_weight(0);
    for index in 0..500 {
        t.put(B, at(0, index), page_of(3, 1 << 40 | u64::from(index))).unwrap();
        assert!(machine.charged(B, Kind::Ephemeral) <= 150, "the cap");
    }
    let squeezed = machine.take(1000);
    store.account(B).unwrap().set_limits(0, 1000);
    for index in 0..500 {
        t.put(B, at(0, index), page_of(3, 1 << 40 | u64::from(index))).unwrap();
        assert!(machine.charged(A, Kind::Ephemeral) >= 80, "the floor");
    }
    let (freed, more) = t.tmem.reclaim(1000, 10_000);
    assert!(!more && freed >= 200, "{freed}");
    assert_eq!(t.tmem.freeable(), 0, "what a domain is entitled to comes before floors");
    machine.give(squeezed);
    assert_eq!(machine.free_frames(), 300);
}

/// Frames that were freed above a cap that has become lower do not come back by way of what is counted ahead.
#[test]
#[cfg_attr(miri, ignore = "many pages; the calls are in other tests too")]
fn a_lower_cap_holds_for_frames_counted_before() {
    let (machine, store) = (Machine::new(300), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, EPHEMERAL, UUID).unwrap();
    (0..60).for_each(|index| t.put(A, at(0, index), page_of(3, u64::from(index))).unwrap());
    let account = store.account(A).unwrap();
    let held = account.frames(Kind::Ephemeral);
    account.set_limits(0, held - 20);
    (0..30).for_each(|index| assert_eq!(t.tmem.flush_page(A, &at(0, index)), Ok(true)));
    for index in 0..100 {
        t.put(A, at(0, 100 + index), page_of(3, u64::from(100 + index))).unwrap();
        let now = account.frames(Kind::Ephemeral);
        assert!(now <= held - 20, "{now} frames");
        assert_eq!(now, machine.charged(A, Kind::Ephemeral));
    }
    t.tmem.audit();
}

#[test]
fn persistent_pages_are_never_evicted() {
    let frames = if cfg!(miri) { 40 } else { 200 };
    let (machine, store) = (Machine::new(frames as usize), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    t.tmem.new_pool(B, EPHEMERAL, UUID).unwrap();
    for index in 0..frames * 3 / 4 {
        t.put(B, at(0, index), page_of(3, 1 << 40 | u64::from(index))).unwrap();
    }
    let mut kept = 0;
    while t.put(A, at(0, kept), page_of(3, u64::from(kept))) == Ok(()) {
        kept += 1;
    }
    assert_eq!(t.put(A, at(0, kept), page_of(3, 9999)), Err(Error::NoMemory));
    assert!(kept > frames - 20, "{kept} pages: it has not taken what the other could spare");
    assert_eq!(machine.charged(B, Kind::Ephemeral), 0);
    assert_eq!(t.put(B, at(0, 0), page_of(3, 5)), Err(Error::NoMemory));
    assert_eq!(t.tmem.reclaim(1, 100), (0, false));
    for index in 0..kept {
        assert_eq!(t.get(A, at(0, index)), Ok(Some(page_of(3, u64::from(index)))));
    }
    // A put over a page succeeds even now: the old one makes room.
    assert_eq!(t.put(A, at(0, 3), page_of(3, 4242)), Ok(()));
    assert_eq!(t.get(A, at(0, 3)), Ok(Some(page_of(3, 4242))));
    t.tmem.audit();
}

#[test]
fn a_put_that_cannot_replace_leaves_nothing_stale() {
    let (machine, store) = (Machine::new(200), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    // Two names of one content: losing one of them frees no frame.
    t.put(A, at(0, 0), page_of(3, 1)).unwrap();
    t.put(A, at(0, 1), page_of(3, 1)).unwrap();
    machine.take(1000);
    assert_eq!(t.put(A, at(0, 0), page_of(3, 2)), Err(Error::NoSpace));
    assert_eq!(t.get(A, at(0, 0)), Ok(None), "the old page");
    assert_eq!(t.get(A, at(0, 1)), Ok(Some(page_of(3, 1))));
    assert_eq!(t.put(A, at(0, 2), page_of(3, 2)), Err(Error::NoMemory));
    t.tmem.audit();
}

#[test]
fn a_maximum_refuses_and_zeros_cost_nothing() {
    let (machine, store) = (Machine::new(500), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    t.put(A, at(0, 0), page_of(0, 0)).unwrap();
    machine.set_maximum(A, machine.charged(A, Kind::Persistent) as usize);
    assert_eq!(t.put(A, at(0, 1), page_of(3, 0)), Err(Error::NoMemory));
    let zeros = if cfg!(miri) { 6 } else { 50 };
    for index in 0..zeros {
        assert_eq!(t.put(A, at(0, index), page_of(0, 0)), Ok(()));
    }
    assert_eq!(t.get(A, at(0, zeros - 1)), Ok(Some(page_of(0, 0))));
    t.tmem.audit();
}

#[test]
fn shared_pools_need_an_authorised_name() {
    let (machine, store) = (Machine::new(500), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.create_client(A).unwrap();
    t.tmem.create_client(B).unwrap();
    let c = ClientId(2);
    t.tmem.create_client(c).unwrap();
    assert_eq!(t.tmem.authorise(A, NO_UUID, true), Err(Error::Invalid));
    t.tmem.authorise(A, UUID, true).unwrap();
    t.tmem.authorise(B, UUID, true).unwrap();
    for client in [A, B, c] {
        assert_eq!(t.tmem.new_pool(client, SHARED, UUID), Ok(0));
    }
    let flags = |client| t.tmem.pool_info(client, 0).unwrap().unwrap().flags;
    assert_eq!((flags(A), flags(B)), (SHARED | 4, SHARED | 4));
    assert_eq!(flags(c), EPHEMERAL, "who is not authorised gets a private one");
    t.put(A, at(0, 1), page_of(3, 1)).unwrap();
    t.put(c, at(0, 1), page_of(3, 3)).unwrap();
    assert_eq!(t.get(B, at(0, 1)), Ok(Some(page_of(3, 1))));
    assert_eq!(t.get(B, at(0, 1)), Ok(Some(page_of(3, 1))), "a get of a shared page keeps it");
    assert_eq!(t.get(c, at(0, 1)), Ok(Some(page_of(3, 3))));
    assert!(machine.charged(A, Kind::Ephemeral) > 0 && machine.charged(B, Kind::Ephemeral) == 0);
    assert_eq!(t.tmem.flush_page(B, &at(0, 1)), Ok(true));
    assert_eq!(t.get(A, at(0, 1)), Err(Error::Empty));
    // The one who pays leaves.
    t.put(B, at(0, 2), page_of(3, 2)).unwrap();
    assert_eq!(t.tmem.destroy_pool(A, 0, 100), (true, Progress::Done));
    assert_eq!(machine.charged(A, Kind::Ephemeral), 0);
    assert_eq!(t.get(B, at(0, 2)), Err(Error::Empty));
    t.put(B, at(0, 2), page_of(3, 2)).unwrap();
    assert!(machine.charged(B, Kind::Ephemeral) > 0);
    // Sixteen names, and no more.
    t.tmem.share_freely(true);
    for name in 1..16 {
        assert!(t.tmem.new_pool(c, SHARED, [name, 0]).is_ok());
    }
    assert_eq!(t.tmem.new_pool(A, SHARED, [16, 0]), Err(Error::Permission), "no place for another name");
    t.tmem.audit();
    [A, B, c].iter().for_each(|client| t.destroy(*client));
    assert_eq!(machine.free_frames(), 500);
}

#[test]
fn a_frozen_client_replaces_and_flushes_but_adds_nothing() {
    let (machine, store) = (Machine::new(100), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    t.put(A, at(0, 0), page_of(3, 0)).unwrap();
    t.put(A, at(0, 1), page_of(3, 1)).unwrap();
    t.tmem.freeze(Some(A), true).unwrap();
    assert_eq!(t.put(A, at(0, 2), page_of(3, 2)), Err(Error::Frozen));
    assert_eq!(t.put(A, at(0, 0), page_of(3, 5)), Ok(()));
    assert_eq!(t.get(A, at(0, 0)), Ok(Some(page_of(3, 5))));
    assert_eq!(t.tmem.flush_page(A, &at(0, 1)), Err(Error::Frozen));
    assert_eq!(t.get(A, at(0, 1)), Ok(None), "flushed all the same");
    t.tmem.freeze(None, false).unwrap();
    assert_eq!(t.put(A, at(0, 2), page_of(3, 2)), Ok(()));
    assert_eq!(t.tmem.freeze(Some(B), true), Err(Error::NotFound));
}

#[test]
fn a_put_from_nowhere_changes_nothing() {
    let (machine, store) = (Machine::new(100), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    t.put(A, at(0, 0), page_of(3, 1)).unwrap();
    let free = machine.free_frames();
    for index in 0..2 {
        let result = t.tmem.put(A, &at(0, index), &Guest::unmapped(), &mut t.scratch);
        assert_eq!(result, Err(Error::Fault));
    }
    assert_eq!(machine.free_frames(), free);
    assert_eq!(t.get(A, at(0, 0)), Ok(Some(page_of(3, 1))));
}

#[test]
fn a_client_is_saved_and_restored_while_it_flushes() {
    let (machine, store) = (Machine::new(2000), store(true));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, EPHEMERAL, UUID).unwrap();
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    let mut random = Random(5);
    let handle = |n: u64| Handle { pool: 1, oid: [n % 7, n, 0], index: n as u32 };
    let pages = if cfg!(miri) { 20 } else { 300 };
    for n in 0..pages {
        t.put(A, handle(n), page_of((n % 4) as u8, n)).unwrap();
    }
    assert_eq!(t.tmem.save_begin(B, true), Err(Error::NotFound));
    t.tmem.save_begin(A, true).unwrap();
    assert_eq!(t.put(A, handle(pages), page_of(3, 0)), Err(Error::Frozen));
    // The other machine.
    let (machine2, store2) = (Machine::new(2000), self::store(false));
    let mut t2 = Tester::new(&store2, &machine2);
    t2.tmem.create_client(B).unwrap();
    assert_eq!(t2.tmem.create_client(B), Err(Error::Exists));
    assert_eq!(t2.tmem.new_pool_at(B, 1, PERSISTENT, UUID), Ok(1));
    assert_eq!(t2.tmem.new_pool_at(B, 1, PERSISTENT, UUID), Err(Error::Permission));
    let mut flushed = vec![false; pages as usize];
    let guest = Guest::unmapped();
    assert_eq!(t.tmem.save_next_page(A, 1, |_| guest, &mut t.scratch), Err(Error::Fault));
    loop {
        let guest = std::rc::Rc::new(Guest::empty());
        let Some(saved) = t.tmem.save_next_page(A, 1, |_| Shared(guest.clone()), &mut t.scratch).unwrap() else {
            break;
        };
        t2.tmem.restore_page(B, &saved, &Shared(guest), &mut t2.scratch).unwrap();
        let victim = random.below(pages);
        if !flushed[victim as usize] {
            flushed[victim as usize] = true;
            if victim.is_multiple_of(2) {
                assert_eq!(t.tmem.flush_page(A, &handle(victim)), Err(Error::Frozen));
            } else {
                assert_eq!(t.put(A, handle(victim), page_of(3, 1 << 50)), Err(Error::NoSpace), "a dup is refused");
            }
        }
    }
    assert_eq!(t.tmem.save_next_page(A, 0, |_| Guest::empty(), &mut t.scratch), Err(Error::NoPool));
    assert_eq!(t.tmem.save_next_flushed(A, |_| Err(Error::Fault)), Err(Error::Fault));
    while let Some(gone) = t.tmem.save_next_flushed(A, |_| Ok(())).unwrap() {
        t2.tmem.restore_flush(B, gone.pool, gone.oid, gone.index).unwrap();
    }
    for n in 0..pages {
        let expected = (!flushed[n as usize]).then(|| page_of((n % 4) as u8, n));
        assert_eq!(t2.get(B, handle(n)), Ok(expected), "{n}");
    }
    while t.tmem.save_end(A, 10).unwrap() == Progress::More {}
    assert_eq!(t.put(A, handle(pages), page_of(3, 0)), Ok(()), "thawed");
    t.tmem.audit();
    t2.tmem.audit();
    t.destroy(A);
    assert_eq!(machine.free_frames(), 2000);
}

/// A guest's page that two places know.
struct Shared(std::rc::Rc<Guest>);

impl GuestPage<Machine> for Shared {
    fn read(&self, page: &mut Page) -> Result<(), Fault> {
        self.0.read(page)
    }
    fn read_frame(&self, frames: &Machine, frame: u32) -> Result<(), Fault> {
        self.0.read_frame(frames, frame)
    }
    fn write(&self, page: &Page) -> Result<(), Fault> {
        self.0.write(page)
    }
    fn write_frame(&self, frames: &Machine, frame: u32) -> Result<(), Fault> {
        self.0.write_frame(frames, frame)
    }
}

#[test]
fn the_list_names_clients_and_pools() {
    let (machine, store) = (Machine::new(100), store(false));
    let mut t = Tester::new(&store, &machine);
    t.tmem.new_pool(A, PERSISTENT, UUID).unwrap();
    t.put(A, at(0, 0), page_of(3, 1)).unwrap();
    let mut text = String::new();
    t.tmem.list(None, true, &mut text).unwrap();
    assert!(text.contains("\nC=CI:0,ww:256,co:0,fr:0,") && text.contains("\nP=CI:0,PI:0,PT:PP,"), "{text}");
    assert!(text.contains(",Pc:1,ps:1,pt:1,"), "{text}");
    assert_eq!(t.tmem.list(Some(B), true, &mut text), Err(Error::NotFound));
}
