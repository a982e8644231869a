//! Every rule of the debug build, broken on purpose: the report names the lock, the owner and both places.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crate::kernel::{Kernel, as_interrupt, sit};
use ebb_mutex::{Checked, Mutex, RawMutex, TaskId};

type Watched<T> = Mutex<T, &'static Kernel, Checked>;

fn watched(kernel: &'static Kernel, name: &'static str) -> Arc<Watched<u32>> {
    Arc::new(Mutex::new(0, kernel, Checked::new(name)))
}

fn raw(kernel: &'static Kernel, name: &'static str) -> &'static RawMutex<&'static Kernel, Checked> {
    Box::leak(Box::new(RawMutex::new(kernel, Checked::new(name))))
}

/// The report of what breaks a rule.
fn report(breaks: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(breaks)).expect_err("the rule was not enforced");
    payload.downcast_ref::<String>().expect("a report").clone()
}

#[track_caller]
fn says(report: &str, parts: &[&str]) {
    for part in parts {
        assert!(report.contains(part), "`{part}` is missing in:\n{report}");
    }
}

fn on_thread<R: Send + 'static>(number: u16, work: impl FnOnce() -> R + Send + 'static) -> R {
    let run = move || {
        sit(number);
        work()
    };
    thread::spawn(run).join().expect("the thread ends well")
}

#[test]
fn only_the_owner_unlocks() {
    let lock = raw(Kernel::new(), "log");
    lock.lock();
    let line = format!("rules.rs:{}", line!() - 1);
    let text = on_thread(1, move || report(|| lock.unlock()));
    says(&text, &["mutex `log`", "does not hold it", "by thread 1 `writer` at", "owner thread 0 `main`", &line]);
}

#[test]
fn no_double_unlock() {
    let lock = raw(Kernel::new(), "twice");
    lock.lock();
    lock.unlock();
    says(&report(|| lock.unlock()), &["mutex `twice`", "double unlock", "rules.rs"]);
}

#[test]
fn no_recursion() {
    let mutex = watched(Kernel::new(), "inode");
    let _guard = mutex.lock();
    let first = format!("rules.rs:{}", line!() - 1);
    let text = report(|| drop(mutex.lock()));
    let second = format!("rules.rs:{}", line!() - 1);
    says(&text, &["mutex `inode`", "self-recursion", "owner thread 0 `main`", &first, &second]);
}

#[test]
fn initialised_by_its_constructor_only() {
    let lock: Box<[u64; 16]> = Box::new([0; 16]);
    const { assert!(size_of::<Zeroed>() <= size_of::<[u64; 16]>()) };
    // A mutex that was only cleared: what the constructor would have written is not there.
    let zeroed = Zeroed::over(lock);
    says(&report(|| zeroed.lock()), &["never initialised"]);
}

/// A raw mutex in memory that was cleared but for the kernel it needs to report.
type Zeroed = RawMutex<&'static Kernel, Checked>;

trait Over {
    fn over(memory: Box<[u64; 16]>) -> &'static Zeroed;
}

impl Over for Zeroed {
    #[allow(unsafe_code)] // The mistake under test.
    fn over(_: Box<[u64; 16]>) -> &'static Zeroed {
        let lock = Box::leak(Box::new(RawMutex::new(Kernel::new(), Checked::new("stale"))));
        let bytes = core::ptr::from_mut(lock).cast::<u8>();
        let made = 0x6d75_7478u32.to_ne_bytes();
        for offset in (0..size_of::<Zeroed>()).step_by(align_of::<u32>()) {
            // SAFETY: inside the leaked lock; before the mark there are whole words, and the mark is an atomic integer.
            unsafe {
                if core::slice::from_raw_parts(bytes.add(offset), 4) == made {
                    bytes.add(offset).cast::<[u8; 4]>().write([0; 4]);
                    return lock;
                }
            }
        }
        panic!("a lock without the mark")
    }
}

#[test]
fn no_thread_ends_holding() {
    let kernel = Kernel::new();
    let mutex = watched(kernel, "forgotten");
    core::mem::forget(mutex.lock());
    let text = report(|| ebb_mutex::Supervisor::registry(&kernel).task_ends(&kernel, TaskId(0)));
    says(&text, &["mutex `forgotten`", "a thread that ends", "owner thread 0 `main`, locked at", "rules.rs"]);
    on_thread(1, move || ebb_mutex::Supervisor::registry(&kernel).task_ends(&kernel, TaskId(1)));
    core::mem::forget(mutex);
}

#[test]
fn memory_of_a_held_one_is_not_freed() {
    let kernel = Kernel::new();
    let lock = raw(kernel, "page");
    lock.lock();
    let place = core::panic::Location::caller();
    let registry = ebb_mutex::Supervisor::registry(&kernel);
    registry.memory_ends(&kernel, 0x1000..0x2000, place);
    let text = report(|| registry.memory_ends(&kernel, lock.address() - 64..lock.address() + 64, place));
    says(&text, &["mutex `page`", "freed", "owner thread 0 `main`"]);
}

#[test]
fn a_held_one_is_not_dropped() {
    let kernel = Kernel::new();
    let mut place = Some(Mutex::new(0, kernel, Checked::new("dropped")));
    core::mem::forget(place.as_ref().unwrap().lock());
    says(&report(|| place = None), &["mutex `dropped`", "freed or initialised anew while held", "owner thread 0"]);
    core::mem::forget(place);
}

#[test]
fn a_held_one_is_not_initialised_anew() {
    let kernel = Kernel::new();
    let lock = Box::leak(Box::new(RawMutex::new(kernel, Checked::new("anew"))));
    lock.lock();
    says(&report(|| lock.reset()), &["mutex `anew`", "initialised anew while held", "owner thread 0 `main`"]);
    lock.unlock();
    lock.reset();
    assert!(lock.try_lock());
}

#[test]
#[allow(unsafe_code)] // The mistake under test.
fn two_holders_are_found() {
    let kernel = Kernel::new();
    let place = Box::into_raw(Box::new(RawMutex::new(kernel, Checked::new("overwritten"))));
    // SAFETY: the box was leaked above; it is overwritten as a careless kernel would, and used from here only.
    unsafe {
        (*place).lock();
        place.write(RawMutex::new(kernel, Checked::new("overwritten")));
    }
    let address = place.expose_provenance();
    let text = on_thread(2, move || {
        let place = core::ptr::with_exposed_provenance::<RawMutex<&'static Kernel, Checked>>(address);
        // SAFETY: as above.
        report(|| unsafe { (*place).lock() })
    });
    says(&text, &["mutex `overwritten`", "two holders", "owner thread 0 `main`", "by thread 2 `reader`"]);
}

#[test]
fn not_in_interrupt_handlers() {
    let mutex = watched(Kernel::new(), "irq");
    says(&as_interrupt(|| report(|| drop(mutex.lock()))), &["mutex `irq`", "interrupt handler"]);
    says(&as_interrupt(|| report(|| drop(mutex.try_lock()))), &["mutex `irq`", "interrupt handler"]);
}

#[test]
fn a_deadlock_of_three_is_told_whole() {
    let kernel = Kernel::new();
    let locks = ["alpha", "beta", "gamma"].map(|name| raw(kernel, name));
    let ready = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..3u16)
        .map(|number| {
            let ready = ready.clone();
            thread::spawn(move || {
                sit(number + 1);
                locks[usize::from(number)].lock();
                ready.fetch_add(1, Ordering::SeqCst);
                // The last one waits last, and finds the circle.
                let turn = if number == 2 { 2 } else { 0 };
                while ready.load(Ordering::SeqCst) < 3 || kernel.parks.load(Ordering::SeqCst) < turn {
                    thread::yield_now();
                }
                let wanted = locks[usize::from(number + 1) % 3];
                if number == 2 {
                    return report(|| wanted.lock());
                }
                wanted.lock();
                String::new()
            })
        })
        .collect();
    let text = threads.into_iter().next_back().unwrap().join().unwrap();
    says(&text, &["mutex `alpha`", "deadlock", "thread 3 `third` waits for mutex `alpha`"]);
    says(&text, &["thread 1 `writer` waits for mutex `beta`", "thread 2 `reader` waits for mutex `gamma`"]);
    says(&text, &["all mutexes held:", "thread 1 `writer`: mutex `alpha`", "held by thread 3 `third` since"]);
}

#[test]
fn all_held_are_listed() {
    let kernel = Kernel::new();
    let (outer, inner) = (watched(kernel, "outer"), watched(kernel, "inner"));
    let (_outer, _inner) = (outer.lock(), inner.lock());
    let text = report(|| drop(inner.lock()));
    says(&text, &["thread 0 `main`: mutex `outer`", "thread 0 `main`: mutex `inner`"]);
}
