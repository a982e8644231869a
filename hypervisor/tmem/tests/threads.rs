//! Two threads on one store: every page that comes back says who put it, where, and when.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Guest, Machine, Random, set_cpu};
use ebb_tmem::{ClientId, Config, Error, Handle, Kind, PAGE_SIZE, Page, Progress, Scratch, Store};

const ROUNDS: u64 = if cfg!(miri) { 16 } else { 40_000 };
/// Pages that are put at most between two other calls that get in the way.
const BETWEEN: u64 = if cfg!(miri) { 2 } else { 60 };

/// A page that says what it is, in a form that does or does not compress.
fn label(thread: u64, handle: &Handle, version: u64, random: bool) -> Page {
    let mut page = [0; PAGE_SIZE];
    let mut noise = Random(version.wrapping_mul(4) + thread + 1);
    for chunk in page.chunks_mut(32) {
        let words = [thread, handle.oid[0] << 32 | u64::from(handle.index), version];
        for (word, place) in words.iter().zip(chunk.chunks_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        if random {
            chunk[24..].copy_from_slice(&noise.next().to_le_bytes());
        }
    }
    page
}

fn version_of(page: &Page) -> u64 {
    u64::from_le_bytes(page[16..24].try_into().unwrap())
}

/// Puts, gets and flushes under handles that only this thread uses (in objects that both use).
fn own_pages(store: &Store, machine: &Machine, client: ClientId, thread: u64, stop: &AtomicBool) {
    set_cpu(thread as usize);
    let tmem = store.on(machine);
    let mut scratch = Scratch::try_new().expect("memory");
    let mut random = Random(77 + thread);
    let mut last = std::collections::BTreeMap::new();
    for version in 1..ROUNDS {
        let index = (random.below(32) * 2 + thread) as u32;
        let pool = random.below(2) as u32;
        let handle = Handle { pool, oid: [random.below(3), 0, 0], index };
        let key = (pool, handle.oid[0], index);
        match random.below(10) {
            0..5 => {
                let page = label(thread, &handle, version, random.below(2) == 0);
                match tmem.put(client, &handle, &Guest::new(page), &mut scratch) {
                    Ok(()) => drop(last.insert(key, page)),
                    Err(Error::NoMemory | Error::NoSpace) => drop(last.remove(&key)),
                    Err(error) => panic!("{error:?}"),
                }
            }
            5..9 => {
                let guest = Guest::empty();
                match tmem.get(client, &handle, &guest, &mut scratch) {
                    Ok(true) => {
                        let expected = last.get(&key).expect("a page that is not there");
                        let found = guest.page();
                        assert!(found == *expected, "version {} for {}", version_of(&found), version_of(expected));
                        if pool == 1 {
                            last.remove(&key);
                        }
                    }
                    Ok(false) | Err(Error::Empty) => {
                        assert!(pool == 1 || !last.contains_key(&key), "a persistent page is lost");
                        last.remove(&key);
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            _ => {
                let found = tmem.flush_page(client, &handle).unwrap();
                let expected = last.remove(&key).is_some();
                assert!(found == expected || pool == 1);
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
}

/// Gets in the way: reclaims, compacts, makes and destroys pools of another client.
fn meddle(store: &Store, machine: &Machine, client: ClientId, stop: &AtomicBool) {
    let tmem = store.on(machine);
    let mut scratch = Scratch::try_new().expect("memory");
    let mut random = Random(3);
    set_cpu(ebb_tmem::LANES - 1);
    while !stop.load(Ordering::Relaxed) {
        let pool = tmem.new_pool(client, 0x0100_0000, [0, 0]).unwrap();
        for index in 0..random.below(BETWEEN) as u32 {
            let handle = Handle { pool, oid: [u64::from(index % 5), 0, 0], index };
            let page = label(9, &handle, random.next(), index % 2 == 0);
            let _ = tmem.put(client, &handle, &Guest::new(page), &mut scratch);
        }
        tmem.reclaim(random.below(8), 20);
        let _ = tmem.compact(4);
        if random.below(3) == 0 {
            while tmem.destroy_client(client, 9) == Progress::More {}
        } else {
            while tmem.destroy_pool(client, pool, 9) == (true, Progress::More) {}
        }
        std::thread::yield_now();
    }
}

#[test]
fn two_threads_of_one_client_and_a_meddler() {
    let ways: &[_] = if cfg!(miri) {
        &[(false, true), (true, false)]
    } else {
        &[(false, false), (false, true), (true, false), (true, true)]
    };
    for (compress, deduplicate) in ways.iter().copied() {
        let machine = Machine::new(260);
        let store = Store::new(Config { clients: 4, seed: 9, compress, deduplicate });
        let (client, other) = (ClientId(1), ClientId(3));
        let tmem = store.on(&machine);
        assert_eq!(tmem.new_pool(client, 0x0100_0001, [0, 0]), Ok(0));
        assert_eq!(tmem.new_pool(client, 0x0100_0000, [0, 0]), Ok(1));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| own_pages(&store, &machine, client, 0, &AtomicBool::new(false)));
            scope.spawn(|| own_pages(&store, &machine, client, 1, &stop));
            scope.spawn(|| meddle(&store, &machine, other, &stop));
        });
        tmem.audit();
        for kind in [Kind::Ephemeral, Kind::Persistent] {
            assert_eq!(store.account(client).unwrap().frames(kind), machine.charged(client, kind));
        }
        [client, other].iter().for_each(|id| while tmem.destroy_client(*id, 50) == Progress::More {});
        assert_eq!(machine.free_frames(), 260);
    }
}

/// Both threads use the same handles: a page found is some page that was put there, whole.
#[test]
fn two_threads_on_the_same_handles() {
    let machine = Machine::new(200);
    let store = Store::new(Config { clients: 1, seed: 1, compress: !cfg!(miri), deduplicate: true });
    let client = ClientId(0);
    store.on(&machine).new_pool(client, 0x0100_0000, [0, 0]).unwrap();
    store.on(&machine).new_pool(client, 0x0100_0001, [0, 0]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, machine) = (&store, &machine);
            scope.spawn(move || {
                set_cpu(thread as usize);
                let tmem = store.on(machine);
                let mut scratch = Scratch::try_new().expect("memory");
                let mut random = Random(thread + 11);
                for version in 1..ROUNDS / 2 {
                    let index = random.below(4) as u32;
                    let handle = Handle { pool: random.below(2) as u32, oid: [0; 3], index };
                    // Both put equal pages at times, so contents are shared and let go of in all orders.
                    let page = label(5, &handle, version % 5, version.is_multiple_of(2));
                    match random.below(4) {
                        0 | 1 => tmem.put(client, &handle, &Guest::new(page), &mut scratch).unwrap(),
                        2 => {
                            let guest = Guest::empty();
                            if tmem.get(client, &handle, &guest, &mut scratch) == Ok(true) {
                                let found = guest.page();
                                let version = version_of(&found);
                                let possible = [true, false].map(|random| label(5, &handle, version, random) == found);
                                assert!(version < 5 && possible.contains(&true), "a page that nobody put");
                            }
                        }
                        _ => drop(tmem.flush_page(client, &handle).unwrap()),
                    }
                }
            });
        }
    });
    store.on(&machine).audit();
    while store.on(&machine).destroy_client(client, 50) == Progress::More {}
    assert_eq!(machine.free_frames(), 200);
}
