//! Cleancache and frontswap against the real store: what comes back, what does not, and what a failing hypervisor does.

mod common;

use std::rc::Rc;

use common::{Host, HostCalls, NoTmem, Ram};
use ebb_guest_tmem::{Cleancache, Frontswap, Lost, SlotId};
use ebb_tmem::Kind;
use shared_abi::tmem::TmemOid;
use shared_abi::xen::{Errno, Gfn};

const FILE: TmemOid = TmemOid { oid: [7, 0, 0] };
const PAGE: Gfn = Gfn(0);
const ABSENT: Gfn = Gfn(1);

fn guest(host: &Rc<Host>, client: u16) -> HostCalls {
    let ram = Rc::new(Ram::default());
    ram.0.borrow_mut().extend([Some(Box::new([0; 512])), None]);
    HostCalls::new(host, client, &ram)
}

fn set(calls: &HostCalls, value: u64) {
    calls.ram.0.borrow_mut()[0].as_mut().unwrap().fill(value);
}

fn value(calls: &HostCalls) -> u64 {
    let pages = calls.ram.0.borrow();
    let page = pages[0].as_ref().unwrap();
    assert!(page.iter().all(|word| *word == page[0]));
    page[0]
}

fn slot(offset: u32) -> SlotId {
    SlotId { area: 0, offset }
}

#[test]
fn a_clean_page_comes_back_once() {
    let host = Host::new(100);
    let mut calls = guest(&host, 1);
    let mut cache = Cleancache::new();
    let fs = cache.mount(&mut calls, None).unwrap();
    set(&calls, 5);
    cache.put_page(&mut calls, fs, FILE, 3, PAGE);
    set(&calls, 0);
    assert!(cache.get_page(&mut calls, fs, FILE, 3, PAGE));
    assert_eq!(value(&calls), 5);
    assert!(!cache.get_page(&mut calls, fs, FILE, 3, PAGE), "a private get takes it out");
    let stats = cache.stats();
    assert_eq!((stats.puts, stats.succ_gets, stats.failed_gets), (1, 1, 1));
}

#[test]
fn what_was_invalidated_does_not_come_back() {
    let host = Host::new(100);
    let mut calls = guest(&host, 1);
    let mut cache = Cleancache::new();
    let (fs, other) = (cache.mount(&mut calls, None).unwrap(), cache.mount(&mut calls, None).unwrap());
    for index in 0..10 {
        cache.put_page(&mut calls, fs, FILE, index, PAGE);
    }
    cache.put_page(&mut calls, other, FILE, 0, PAGE);
    cache.invalidate_page(&mut calls, fs, FILE, 4);
    assert!(!cache.get_page(&mut calls, fs, FILE, 4, PAGE));
    assert!(cache.get_page(&mut calls, fs, FILE, 5, PAGE));
    cache.invalidate_file(&mut calls, fs, FILE);
    assert!((0..10).all(|index| !cache.get_page(&mut calls, fs, FILE, index, PAGE)));
    assert!(cache.get_page(&mut calls, other, FILE, 0, PAGE), "another file system is untouched");
    cache.put_page(&mut calls, fs, FILE, 0, PAGE);
    cache.unmount(&mut calls, fs);
    let fs = cache.mount(&mut calls, None).unwrap();
    assert!(!cache.get_page(&mut calls, fs, FILE, 0, PAGE));
    cache.unmount(&mut calls, fs);
    cache.unmount(&mut calls, other);
    assert_eq!(host.tmem(1, Kind::Ephemeral), 0);
    host.audit();
}

#[test]
fn a_shared_file_system_is_seen_by_both_and_flushed_for_both() {
    let host = Host::new(100);
    host.store.on(&host.machine).share_freely(true);
    let (mut one, mut two) = (guest(&host, 1), guest(&host, 2));
    let mut caches = [Cleancache::new(), Cleancache::new()];
    let uuid = [0x1234, 0x5678];
    let fs_one = caches[0].mount(&mut one, Some(uuid)).unwrap();
    let fs_two = caches[1].mount(&mut two, Some(uuid)).unwrap();
    set(&one, 9);
    caches[0].put_page(&mut one, fs_one, FILE, 0, PAGE);
    assert!(caches[1].get_page(&mut two, fs_two, FILE, 0, PAGE));
    assert_eq!(value(&two), 9);
    assert!(caches[1].get_page(&mut two, fs_two, FILE, 0, PAGE), "a shared get leaves it there");
    caches[1].invalidate_page(&mut two, fs_two, FILE, 0);
    assert!(!caches[0].get_page(&mut one, fs_one, FILE, 0, PAGE));
    host.audit();
}

#[test]
fn an_older_page_never_survives_a_put_that_failed() {
    let host = Host::new(100);
    let mut calls = guest(&host, 1);
    let mut cache = Cleancache::new();
    let fs = cache.mount(&mut calls, None).unwrap();
    set(&calls, 1);
    cache.put_page(&mut calls, fs, FILE, 0, PAGE);
    // The source is not mapped: the hypervisor keeps what it has, and cleancache must not.
    cache.put_page(&mut calls, fs, FILE, 0, ABSENT);
    assert!(!cache.get_page(&mut calls, fs, FILE, 0, PAGE));
    let mut swap = Frontswap::new(&mut calls);
    swap.swap_on(&mut calls, 0, 64);
    assert!(swap.store(&mut calls, slot(0), PAGE));
    assert!(!swap.store(&mut calls, slot(0), ABSENT));
    assert!(!swap.has(slot(0)));
    assert_eq!(swap.load(&mut calls, slot(0), PAGE), Ok(false), "the swap device has it");
    assert_eq!(host.tmem(1, Kind::Persistent), 0, "and nothing was left behind");
}

#[test]
fn swapped_pages_stay_until_invalidated_and_a_full_host_refuses() {
    let host = Host::new(40);
    let mut calls = guest(&host, 1);
    let mut swap = Frontswap::new(&mut calls);
    swap.swap_on(&mut calls, 0, 1000);
    let mut stored = Vec::new();
    for offset in 0..1000 {
        set(&calls, u64::from(offset) + 100);
        if swap.store(&mut calls, slot(offset), PAGE) {
            stored.push(offset);
        }
    }
    assert!((20..40).contains(&stored.len()), "{} pages of 40 frames", stored.len());
    assert_eq!(swap.pages(), stored.len() as u64);
    assert_eq!(swap.stats().failed_stores, 1000 - stored.len() as u64);
    for round in 0..2 {
        for offset in 0..1000 {
            let there = swap.load(&mut calls, slot(offset), PAGE).unwrap();
            assert_eq!(there, stored.contains(&offset), "slot {offset}, round {round}");
            assert!(!there || value(&calls) == u64::from(offset) + 100);
        }
    }
    // A walk finds exactly them.
    let (mut walked, mut next) = (Vec::new(), Some(slot(0)));
    while let Some(found) = next.and_then(|from| swap.next_stored(from)) {
        walked.push(found.offset);
        next = Some(slot(found.offset + 1));
    }
    assert_eq!(walked, stored);
    for offset in &stored {
        swap.invalidate_page(&mut calls, slot(*offset));
    }
    assert_eq!((swap.pages(), host.tmem(1, Kind::Persistent)), (0, 0));
    host.audit();
}

#[test]
fn an_area_goes_as_a_whole_and_nothing_of_it_comes_back() {
    let host = Host::new(200);
    let mut calls = guest(&host, 1);
    let mut swap = Frontswap::new(&mut calls);
    swap.swap_on(&mut calls, 0, 64);
    swap.swap_on(&mut calls, 5, 64);
    let other = SlotId { area: 5, offset: 1 };
    (0..64).for_each(|offset| assert!(swap.store(&mut calls, slot(offset), PAGE)));
    assert!(swap.store(&mut calls, other, PAGE));
    assert_eq!(swap.next_stored(SlotId { area: 1, offset: 0 }), Some(other));
    swap.invalidate_area(&mut calls, 0);
    assert_eq!(swap.pages(), 1);
    assert!(!swap.store(&mut calls, slot(0), PAGE), "swapped off");
    swap.swap_on(&mut calls, 0, 64);
    assert_eq!(swap.load(&mut calls, slot(3), PAGE), Ok(false));
    assert_eq!(swap.load(&mut calls, other, PAGE), Ok(true));
    for bad in [SlotId { area: 0, offset: 64 }, SlotId { area: 31, offset: 0 }, SlotId { area: 255, offset: u32::MAX }]
    {
        assert!(!swap.store(&mut calls, bad, PAGE) && !swap.has(bad));
        assert_eq!(swap.load(&mut calls, bad, PAGE), Ok(false));
        swap.invalidate_page(&mut calls, bad);
    }
    swap.destroy(&mut calls);
    assert_eq!(host.tmem(1, Kind::Persistent), 0);
}

#[test]
fn a_broken_promise_is_told_not_hidden() {
    let host = Host::new(100);
    let mut calls = guest(&host, 1);
    let mut swap = Frontswap::new(&mut calls);
    swap.swap_on(&mut calls, 0, 64);
    assert!(swap.store(&mut calls, slot(0), PAGE));
    calls.broken = Some(Errno::EINVAL);
    assert_eq!(swap.load(&mut calls, slot(0), PAGE), Err(Lost));
    assert!(!swap.store(&mut calls, slot(1), PAGE));
    calls.broken = None;
    assert_eq!(swap.load(&mut calls, slot(0), PAGE), Ok(true), "a passing fault loses nothing");
}

#[test]
fn without_transcendent_memory_nothing_is_called() {
    let mut cache = Cleancache::new();
    let fs = cache.mount(&mut NoTmem, None).unwrap();
    cache.put_page(&mut NoTmem, fs, FILE, 0, PAGE);
    assert!(!cache.get_page(&mut NoTmem, fs, FILE, 0, PAGE) && !cache.has_pool(fs));
    cache.invalidate_page(&mut NoTmem, fs, FILE, 0);
    cache.invalidate_file(&mut NoTmem, fs, FILE);
    cache.unmount(&mut NoTmem, fs);
    let mut swap = Frontswap::new(&mut NoTmem);
    swap.swap_on(&mut NoTmem, 0, 64);
    assert!(!swap.store(&mut NoTmem, slot(0), PAGE));
    assert_eq!(swap.load(&mut NoTmem, slot(0), PAGE), Ok(false));
    swap.invalidate_page(&mut NoTmem, slot(0));
    swap.invalidate_area(&mut NoTmem, 0);
    swap.destroy(&mut NoTmem);
    for _ in 0..20 {
        cache.mount(&mut NoTmem, None);
    }
    assert_eq!(cache.mount(&mut NoTmem, None), None, "sixteen file systems");
}
