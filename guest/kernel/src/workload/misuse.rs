//! `misuse`: breaks one rule of the mutex (`rule=`), watched. The kernel ends with a report that names it.
#![allow(unsafe_code)] // Some rules cannot be broken otherwise.

use crate::mutex::{self, Kernel, Watched};
use crate::{events, page, println, thread};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use ebb_guest_hypercall::{VcpuId, event_channel};
use ebb_guest_logic::args::Args;
use ebb_mutex::{Checked, RawMutex};
use shared_abi::xen::PAGE_SIZE;

type Raw = RawMutex<Kernel, Checked>;

const RULES: &[(&str, fn())] = &[
    ("owner", unlock_by_another),
    ("unlock", unlock_twice),
    ("recursion", lock_twice),
    ("exit", end_holding),
    ("free", free_held),
    ("reinit", initialise_held),
    ("zeroed", lock_nothing),
    ("interrupt", lock_in_handler),
    ("deadlock", wait_in_circle),
];

/// Breaks the rule that `rule=` names.
pub fn run(args: Args<'static>) -> Result<(), String> {
    let name = args.get("rule").unwrap_or("recursion");
    let (_, breaks) = RULES.iter().find(|(known, _)| *known == name).ok_or("there is no such rule")?;
    println!("misuse: breaking {name}");
    breaks();
    Err(alloc::format!("the rule {name} was broken and nobody noticed"))
}

fn raw(name: &'static str) -> &'static mut Raw {
    Box::leak(Box::new(RawMutex::new(Kernel, Checked::new(name))))
}

fn in_thread(work: impl FnOnce() + Send + 'static) {
    if let Ok(thread) = thread::spawn("culprit", None, work) {
        thread.join();
    }
}

fn unlock_by_another() {
    let lock: &'static Raw = raw("owned");
    lock.lock();
    in_thread(|| lock.unlock());
}

fn unlock_twice() {
    let lock = raw("unlocked");
    lock.lock();
    lock.unlock();
    lock.unlock();
}

fn lock_twice() {
    let lock = mutex::watched("recursive", 0u32);
    let _first = lock.lock();
    let _second = lock.lock();
}

fn end_holding() {
    static LOCK: Watched<u32> = mutex::watched("forgotten", 0);
    in_thread(|| core::mem::forget(LOCK.lock()));
}

fn free_held() {
    let Some(page) = page::take(0) else { return };
    let place = core::ptr::with_exposed_provenance_mut::<Raw>((page * PAGE_SIZE) as usize);
    // SAFETY: the page was just taken, and is larger than a mutex and aligned for one.
    unsafe {
        place.write(RawMutex::new(Kernel, Checked::new("in a page")));
        (*place).lock();
    }
    mutex::give_watched(page);
}

fn initialise_held() {
    let lock = raw("anew");
    lock.lock();
    lock.reset();
}

fn lock_nothing() {
    let memory: &'static mut Raw = raw("cleared");
    // SAFETY: none but that all of a mutex's words may be zero and its name an empty one of nobody: the mistake under
    // test; the report does not look at the name of a mutex that was not made.
    unsafe {
        let place = core::ptr::from_mut(memory);
        core::ptr::write_bytes(place.cast::<u8>(), 0, size_of::<Raw>());
        (*place).lock();
    }
}

fn lock_in_handler() {
    static LOCK: Watched<u32> = mutex::watched("of threads", 0);
    let Ok(port) = event_channel::bind_ipi(VcpuId(0)) else { return };
    let Ok(port) = events::EventPort::new(port) else { return };
    events::call_at(&port, || drop(LOCK.lock()));
    let _ = event_channel::send(port.port());
    port.wait(1, 5_000_000_000);
}

/// Three threads, three mutexes: each has one and wants the next.
fn wait_in_circle() {
    static READY: AtomicU32 = AtomicU32::new(0);
    let locks: [&'static Raw; 3] = [raw("alpha"), raw("beta"), raw("gamma")];
    let names = ["first", "second", "third"];
    let threads: Vec<_> = (0..3)
        .filter_map(|number| {
            let work = move || {
                locks[number].lock();
                READY.fetch_add(1, Ordering::SeqCst);
                while READY.load(Ordering::SeqCst) < 3 {
                    thread::yield_now();
                }
                locks[(number + 1) % 3].lock();
            };
            thread::spawn(names[number], None, work).ok()
        })
        .collect();
    threads.into_iter().for_each(thread::JoinHandle::join);
}
