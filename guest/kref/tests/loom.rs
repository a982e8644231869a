//! The count under loom: who releases sees all that others did, nobody does so twice, and a lookup under the lock never
//! finds a released object.

#[path = "../src/kref.rs"]
#[allow(dead_code, unused_imports, missing_docs, clippy::all)]
mod kref;

/// Loom's atomics for the count.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};
}

use kref::Kref;
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

#[allow(unsafe_code)] // Loom's cell, which finds two at once and what is not ordered.
fn touch(cell: &UnsafeCell<u32>) {
    // SAFETY: who calls this has the object to itself; that this is so is what loom checks.
    cell.with_mut(|value| unsafe { *value += 1 });
}

#[test]
fn the_release_comes_after_every_use() {
    loom::model(|| {
        let object = Arc::new((Kref::new(), UnsafeCell::new(0), UnsafeCell::new(0)));
        object.0.get().unwrap();
        let other = object.clone();
        let worker = thread::spawn(move || {
            touch(&other.1);
            if other.0.put().unwrap() {
                touch(&other.1);
                touch(&other.2);
            }
        });
        touch(&object.2);
        if object.0.put().unwrap() {
            touch(&object.1);
            touch(&object.2);
        }
        worker.join().unwrap();
    });
}

#[test]
fn a_lookup_under_the_lock_finds_the_living() {
    loom::model(|| {
        let refs = Arc::new((Kref::new(), Mutex::new(true)));
        let put = |refs: &(Kref, Mutex<bool>)| {
            if let Some(mut present) = refs.0.put_lock(|| refs.1.lock().unwrap()).unwrap() {
                assert!(core::mem::take(&mut *present), "released twice");
            }
        };
        let other = refs.clone();
        let finder = thread::spawn(move || {
            let present = other.1.lock().unwrap();
            if *present {
                other.0.get().expect("in the table means alive");
                drop(present);
                put(&other);
            }
        });
        put(&refs);
        finder.join().unwrap();
        assert!(!*refs.1.lock().unwrap());
        assert_eq!(refs.0.count(), 0);
    });
}

#[test]
fn asking_finds_the_object_or_its_end() {
    loom::model(|| {
        let object = Arc::new((Kref::new(), UnsafeCell::new(0)));
        let other = object.clone();
        let asker = thread::spawn(move || {
            if other.0.get_unless_zero() && other.0.put().unwrap() {
                touch(&other.1);
            }
        });
        if object.0.put().unwrap() {
            touch(&object.1);
        }
        asker.join().unwrap();
        assert_eq!(object.0.count(), 0);
    });
}
