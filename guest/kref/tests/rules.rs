//! The three rules, and the mistakes their text warns of, each as it shows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use ebb_kref::{Kref, Misuse, SATURATED};

/// An object, and whether it was released.
struct Object {
    refs: Kref,
    released: AtomicU32,
}

impl Object {
    fn new() -> Arc<Self> {
        Arc::new(Self { refs: Kref::new(), released: AtomicU32::new(0) })
    }

    fn put(&self) -> bool {
        self.refs.put_with(|| assert_eq!(self.released.fetch_add(1, Ordering::SeqCst), 0)).unwrap()
    }

    fn released(&self) -> u32 {
        self.released.load(Ordering::SeqCst)
    }
}

#[test]
fn the_last_put_releases_once() {
    let object = Object::new();
    object.refs.get().unwrap();
    assert!(!object.put());
    assert_eq!(object.released(), 0);
    assert!(object.put());
    assert_eq!(object.released(), 1);
}

#[test]
fn first_rule_get_before_handing_on() {
    for _ in 0..200 {
        let object = Object::new();
        object.refs.get().unwrap();
        let other = object.clone();
        let worker = thread::spawn(move || other.put());
        let mine = object.put();
        let theirs = worker.join().unwrap();
        assert!(mine ^ theirs, "one of them, not both, had the last");
        assert_eq!(object.released(), 1);
    }
}

#[test]
fn first_mistake_get_after_handing_on() {
    // The thread got the pointer without a reference of its own and has put the only one before the get.
    let object = Object::new();
    let other = object.clone();
    thread::spawn(move || other.put()).join().unwrap();
    assert_eq!(object.refs.get(), Err(Misuse::GetAfterRelease));
    assert!(object.refs.count() >= SATURATED);
    assert!(!object.put(), "the object is not released a second time");
    assert_eq!(object.released(), 1);
}

#[test]
fn second_mistake_a_put_too_many() {
    let object = Object::new();
    assert!(object.put());
    assert_eq!(object.refs.put(), Err(Misuse::PutAfterRelease));
    assert_eq!(object.refs.put(), Ok(false), "stuck, so that nobody releases it again");
    assert_eq!(object.released(), 1);
}

#[test]
fn no_get_after_the_end_by_those_who_ask() {
    let refs = Kref::new();
    assert!(refs.get_unless_zero());
    assert!(!refs.put().unwrap());
    assert!(refs.put().unwrap());
    assert!(!refs.get_unless_zero());
    assert_eq!(refs.count(), 0);
    assert!(refs.init(), "the place may be used again");
    assert!(!refs.init());
}

/// Rule 3: a table whose lock keeps the last put away from lookups.
#[test]
fn third_rule_lookups_under_the_lock_of_the_last_put() {
    let table: Arc<Mutex<HashMap<u32, Arc<Object>>>> = Arc::default();
    let over = Arc::new(AtomicBool::new(false));
    let finder = {
        let (table, over) = (table.clone(), over.clone());
        thread::spawn(move || {
            let mut found = 0;
            while !over.load(Ordering::SeqCst) {
                let guard = table.lock().unwrap();
                let Some(object) = guard.get(&1).cloned() else {
                    continue;
                };
                object.refs.get().expect("in the table means alive");
                drop(guard);
                assert_eq!(object.released(), 0);
                put_from_table(&table, &object);
                found += 1;
            }
            found
        })
    };
    for _ in 0..500 {
        let object = Object::new();
        table.lock().unwrap().insert(1, object.clone());
        put_from_table(&table, &object);
        while table.lock().unwrap().contains_key(&1) {
            thread::yield_now();
        }
    }
    over.store(true, Ordering::SeqCst);
    finder.join().unwrap();
}

fn put_from_table(table: &Mutex<HashMap<u32, Arc<Object>>>, object: &Object) {
    if let Some(mut guard) = object.refs.put_lock(|| table.lock().unwrap()).unwrap() {
        guard.remove(&1);
        drop(guard);
        object.released.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn third_mistake_a_lookup_without_the_lock() {
    // Found in the table, but the last put came before the get: the count says so instead of coming to life.
    let object = Object::new();
    let found = object.clone();
    assert!(object.put());
    assert_eq!(found.refs.get(), Err(Misuse::GetAfterRelease));
}

#[test]
fn the_lock_is_not_taken_while_others_hold_the_object() {
    let refs = Kref::new();
    refs.get().unwrap();
    assert!(refs.put_lock(|| -> u32 { panic!("not the last") }).unwrap().is_none());
    assert_eq!(refs.put_lock(|| 7).unwrap(), Some(7));
    assert_eq!(refs.put_lock(|| 7), Err(Misuse::PutAfterRelease));
}

#[test]
fn counts_saturate_and_never_wrap() {
    let refs = Kref::with(AtomicU32::new(SATURATED - 2));
    refs.get().unwrap();
    assert_eq!(refs.count(), SATURATED - 1);
    for _ in 0..3 {
        refs.get().unwrap();
        assert!(refs.count() > SATURATED);
    }
    for _ in 0..10 {
        assert_eq!(refs.put(), Ok(false));
        assert!(refs.put_lock(|| ()).unwrap().is_none());
        assert!(refs.get_unless_zero());
        assert!(refs.count() >= SATURATED, "it stays stuck");
    }
    let edge = Kref::with(AtomicU32::new(SATURATED - 1));
    assert!(edge.get_unless_zero());
    assert!(edge.count() > SATURATED);
    let last = Kref::with(AtomicU32::new(u32::MAX));
    last.get().unwrap();
    assert_eq!(last.put(), Ok(false));
    assert!(last.count() >= SATURATED);
}
