//! XenStore from inside: against the domain's store, or one of its own where the machine has none.

use super::local_store::{self, client, control};
use super::{Outcome, Stop, Test};
use crate::xenstore::{self, Client, agent};
use crate::{balloon, check, check_eq, clock, page, smp, thread};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use ebb_guest_hypercall::{Errno, memory};
use ebb_xenbus::Error;
use spin::Mutex;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("xenstore-nodes", nodes),
    ("xenstore-permissions", permissions),
    ("xenstore-watch", watch),
    ("xenstore-transaction", transaction),
    ("xenstore-quota", quota),
    ("xenstore-threads", threads),
    ("xenstore-target", target),
];

const SECOND: u64 = 1_000_000_000;

impl From<Error> for Stop {
    /// A request that must succeed did not.
    fn from(error: Error) -> Self {
        Self::Failure(format!("a request that must succeed: {error}"))
    }
}

fn refused<T>(errno: Errno) -> Result<T, Error> {
    Err(Error::Refused(errno))
}

/// A place of the test's own.
fn place(name: &str) -> Result<(&'static Client, alloc::string::String), Stop> {
    let client = client()?;
    let path = format!("data/test-{name}");
    client.store().remove(&path)?;
    client.store().make(&path)?;
    Ok((client, path))
}

fn nodes() -> Outcome {
    let (client, base) = place("nodes")?;
    let store = client.store();
    let path = format!("{base}/a/b");
    for length in [0, 1, 100, 1000, 1900] {
        let value: Vec<u8> = (0..length).map(|n| (n * 7) as u8).collect();
        store.write(&path, &value)?;
        check!(store.read(&path)? == value, "a value of {length} bytes came back different");
    }
    store.make(&format!("{base}/c"))?;
    check_eq!(store.list(&base)?, [b"a".to_vec(), b"c".to_vec()], "the list of children");
    check_eq!(store.read(&format!("{base}/none")), refused(Errno::ENOENT), "reading what is not there");
    check_eq!(store.write(&format!("{base}//x"), b""), refused(Errno::EINVAL), "a doubled slash");
    check_eq!(store.write(&format!("{base}/c"), &[0; 4090]), Err(Error::TooLong), "a value of 4090 bytes");
    store.remove(&format!("{base}/a"))?;
    check_eq!(store.exists(&path)?, false, "a node below one that was removed");
    store.remove(&format!("{base}/a"))?;
    check_eq!(store.remove(&format!("{base}/a/b")), refused(Errno::ENOENT), "removing below what is not there");
    Ok(store.remove(&base)?)
}

fn permissions() -> Outcome {
    let (client, base) = place("permissions")?;
    let store = client.store();
    check_eq!(store.write("memory/target", b"1"), refused(Errno::EACCES), "writing our own target");
    check_eq!(store.remove("memory"), refused(Errno::EACCES), "removing what we may only read");
    check_eq!(store.write("/local/domain/0/x", b""), refused(Errno::EACCES), "writing another domain's home");
    check_eq!(store.list("/"), refused(Errno::EACCES), "listing the root");
    let before = store.permissions(&base)?;
    let owner = before.first().and_then(|entry| core::str::from_utf8(&entry[1..]).ok()).unwrap_or("?");
    let private = format!("n{owner}");
    store.set_permissions(&base, &[&private, "r0"])?;
    check_eq!(store.permissions(&base)?, [private.clone().into_bytes(), b"r0".to_vec()], "the permissions set");
    check_eq!(store.set_permissions(&base, &["n0"]), refused(Errno::EPERM), "giving a node away");
    check_eq!(store.set_permissions(&base, &["x1"]), refused(Errno::EINVAL), "no permission");
    Ok(store.remove(&base)?)
}

fn watch() -> Outcome {
    let (client, base) = place("watch")?;
    let store = client.store();
    let watch = client.watch(&base)?;
    let next = |what: &str| match watch.next(clock::now() + 300 * SECOND) {
        Some(path) => Ok(path),
        None => Err(Stop::Failure(format!("no event for {what}"))),
    };
    check_eq!(next("the watch itself")?, base.as_bytes(), "the first event");
    let path = format!("{base}/x/y");
    store.write(&path, b"")?;
    check_eq!(next("a write")?, path.as_bytes(), "the event of a write");
    store.remove(&format!("{base}/x"))?;
    check_eq!(next("a removal")?, format!("{base}/x").into_bytes(), "the event of a removal");
    // Many at once: none is lost, equal ones may be merged.
    for n in 0..50 {
        store.write(&format!("{base}/many{n}"), b"")?;
    }
    let mut seen = [false; 50];
    while seen.contains(&false) {
        let path = next("one of many")?;
        let number = path.strip_prefix(format!("{base}/many").as_bytes());
        let number = number.and_then(|text| core::str::from_utf8(text).ok()?.parse::<usize>().ok());
        match number.and_then(|number| seen.get_mut(number)) {
            Some(seen) => *seen = true,
            None => return Err(Stop::Failure(format!("an event for {}", path.escape_ascii()))),
        }
    }
    drop(watch);
    check_eq!(store.unwatch(&base, "never"), refused(Errno::ENOENT), "removing a watch that was never set");
    Ok(store.remove(&base)?)
}

fn transaction() -> Outcome {
    let (client, base) = place("transaction")?;
    let store = client.store();
    let (x, y) = (format!("{base}/x"), format!("{base}/y"));
    store.write(&x, b"1")?;
    // Another writer gets in between twice: the third attempt sees what it wrote.
    let tries = Cell::new(0);
    let sum = store.transaction(|inside| {
        tries.set(tries.get() + 1);
        let value = inside.read_number(&x)?;
        if tries.get() <= 2 {
            store.write(&x, format!("{}", value + 10).as_bytes())?;
        }
        inside.write(&y, format!("{}", value + 1).as_bytes())?;
        check_hidden(&store, &y, tries.get())?;
        Ok(value)
    })?;
    check_eq!((sum, tries.get()), (21, 3), "what the transaction read, and how often it was tried");
    check_eq!(store.read_number(&y)?, 22, "what it wrote");
    let failed = store.transaction(|inside| {
        inside.remove(&x)?;
        inside.read(&format!("{base}/none"))
    });
    check_eq!(failed, refused(Errno::ENOENT), "a transaction that fails");
    check_eq!(store.read_number(&x)?, 21, "what a failed transaction removed");
    Ok(store.remove(&base)?)
}

/// What a transaction wrote is not to be seen outside of it.
fn check_hidden(store: &ebb_xenbus::Store<'_, Client>, path: &str, attempt: u32) -> Result<(), Error> {
    match store.exists(path)? {
        false => Ok(()),
        true => {
            crate::println!("attempt {attempt}: a transaction's write is seen before its end");
            Err(Error::Malformed)
        }
    }
}

fn quota() -> Outcome {
    let (client, base) = place("quota")?;
    let store = client.store();
    check_eq!(store.write(&base, &[0; 3000]), refused(Errno::ENOSPC), "a node of 3000 bytes");
    let (mut made, mut why) = (0, None);
    // Below several nodes, so that no list of names gets too long.
    while made < 5000 && why.is_none() {
        why = store.write(&format!("{base}/{}/{made}", made / 100), b"").err();
        made += 1;
    }
    check_eq!(why, Some(Error::Refused(Errno::ENOSPC)), format!("after {made} nodes"));
    // Full, and still served.
    store.write(&base, b"still here")?;
    store.remove(&base)?;
    store.write(&base, b"again")?;
    let mut watches = Vec::new();
    let refusal = loop {
        match client.watch(&base) {
            Ok(watch) if watches.len() < 1000 => watches.push(watch),
            Ok(_) => return Err(Stop::Failure("a thousand watches and no end".into())),
            Err(why) => break why,
        }
    };
    check_eq!(refusal, Error::Refused(Errno::E2BIG), format!("after {} watches", watches.len()));
    drop(watches);
    drop(client.watch(&base)?);
    Ok(store.remove(&base)?)
}

/// Every vCPU's thread gets its own replies.
fn threads() -> Outcome {
    let (client, base) = place("threads")?;
    let results: Arc<Mutex<Vec<Result<(), Error>>>> = Arc::default();
    let mut handles = Vec::new();
    for number in 0..smp::online().max(4) {
        let (results, path) = (results.clone(), format!("{base}/{number}"));
        let work = move || {
            let store = client.store();
            for round in 0..100 {
                let value = format!("{number}-{round}").into_bytes();
                store.write(&path, &value)?;
                if store.read(&path)? != value {
                    return Err(Error::Malformed);
                }
            }
            Ok(())
        };
        let run = move || {
            let result = work();
            results.lock().push(result);
        };
        handles.push(thread::spawn("client", Some(number % smp::online()), run)?);
    }
    let count = handles.len();
    handles.into_iter().for_each(thread::JoinHandle::join);
    check_eq!(*results.lock(), alloc::vec![Ok(()); count], "what the threads got");
    Ok(client.store().remove(&base)?)
}

/// The balloon follows `memory/target`, as a control domain sets it.
fn target() -> Outcome {
    if xenstore::client().is_some() {
        return Err(Stop::Skip("the targets of a real store are not ours to set".into()));
    }
    let client = local_store::local()?;
    let start = balloon::stats().current;
    let reserved = memory::current_reservation()?;
    let less = 600.min(page::free_pages() / 2);
    if less < 100 {
        return Err(Stop::Skip("there is too little free memory".into()));
    }
    // It follows for the rest of the kernel's life, to the full size in the end.
    let _ = thread::spawn("target", None, move || agent::complain("memory", agent::follow_target(client)))?;
    for round in 0..3 {
        let wanted = start - less - round;
        set_target(wanted)?;
        reach(wanted)?;
        check_eq!(reserved - memory::current_reservation()?, less + round, "pages that the domain gave");
        set_target(start)?;
        reach(start)?;
        check_eq!(memory::current_reservation()?, reserved, "pages that the domain has again");
    }
    let free = client.store().read_number("data/memory/free")?;
    check!(free > 0 && free <= 4 * start, "the domain reports {free} KiB as free");
    Ok(())
}

fn set_target(pages: u64) -> Outcome {
    let kib = format!("{}", 4 * pages);
    control(|server| server.write(b"/local/domain/7/memory/target", kib.as_bytes()))??;
    Ok(())
}

fn reach(pages: u64) -> Outcome {
    let deadline = clock::now() + 300 * SECOND;
    while balloon::stats().current != pages || balloon::stats().target != pages {
        check!(clock::now() < deadline, "the balloon does not get to {pages}: {:?}", balloon::stats());
        thread::sleep(2_000_000);
    }
    Ok(())
}
