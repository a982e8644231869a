//! Time and instructions per put, get and flush, by kind of page, beside `memcpy` and LZ4 by themselves.
//!
//! `cargo bench -p ebb-tmem` (`make bench-tmem`) prints tables. Times are this machine's; the ratios are what is worth
//! comparing. All pages are put, then all are got, then all are flushed, and the working set is larger than a core's
//! caches. What is compared runs in turn, several times over, and the median of the ratios counts; times are of the
//! threads' own processor time, so that other programs on the machine disturb less. Instructions are counted by
//! valgrind ([`counted`]).

mod counted;
mod keeper;
mod memory;

use std::sync::Barrier;

use keeper::{Apart, Copied, Keeper, Kept, Packed, Pages, Thread};
use rustix::time::{ClockId, clock_gettime};

/// Pages of the working set: 64 MiB.
const PAGES: usize = 16384;
/// Pages of the guest: a quarter of it, so that they are not all in a cache either.
const OWN: usize = PAGES / 4;
/// Times that each thing is measured.
const ROUNDS: usize = 11;

/// Kinds of pages, whether they are compressed, and whether equal ones are found.
pub const ROWS: [(&str, Pages, bool, bool); 7] = [
    ("zero", Pages::Zero, false, true),
    ("equal, deduplicated", Pages::Equal, false, true),
    ("random, not deduplicated", Pages::Random, false, false),
    ("random, deduplication on", Pages::Random, false, true),
    ("compressible, compressed", Pages::Compressible, true, false),
    ("compressible, compressed, dedup.", Pages::Compressible, true, true),
    ("random, compression tried", Pages::Random, true, false),
];

/// Nanoseconds of this thread's processor time.
fn now() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds per put, get and flush, by threads that each have their part of the names.
fn pass(keeper: &dyn Keeper, threads: &mut [Thread]) -> [f64; 3] {
    let (count, barrier) = (threads.len(), Barrier::new(threads.len()));
    let work = |number: usize, thread: &mut Thread| {
        memory::set_thread(number);
        let mut step = |work: fn(&dyn Keeper, &mut Thread, usize)| {
            barrier.wait();
            let start = now();
            (number..PAGES).step_by(count).for_each(|index| work(keeper, thread, index));
            (now() - start) * count as f64 / PAGES as f64
        };
        [
            step(|keeper, thread, index| keeper.put(thread, index)),
            step(|keeper, thread, index| keeper.get(thread, index)),
            step(|keeper, thread, index| keeper.flush(thread, index)),
        ]
    };
    let mut sums = [0.0; 3];
    std::thread::scope(|scope| {
        let running = threads.iter_mut().enumerate().map(|(number, thread)| scope.spawn(move || work(number, thread)));
        let running: Vec<_> = running.collect();
        for each in running {
            let times = each.join().expect("a thread");
            sums.iter_mut().zip(times).for_each(|(sum, time)| *sum += time / count as f64);
        }
    });
    sums
}

/// What a kind of page is compared with.
fn roofline(kind: Pages) -> (&'static str, Box<dyn Keeper>) {
    match kind {
        Pages::Compressible => ("LZ4", Box::new(Packed::new(PAGES))),
        _ => ("memcpy", Box::new(Copied::new(PAGES))),
    }
}

fn threads(kind: Pages, count: usize) -> Vec<Thread> {
    (0..count).map(|number| Thread::new(kind, OWN, PAGES, number)).collect()
}

/// A row: one thread, against the roofline, and against what else there is to compare it with: two copies more for LZ4,
/// or copies that do not overlap.
fn row(name: &str, kind: Pages, compress: bool, deduplicate: bool) {
    let (store, (what, roof)) = (Kept::new(PAGES, compress, deduplicate), roofline(kind));
    let packed = kind == Pages::Compressible;
    let other: Box<dyn Keeper> = if packed { Box::new(Copied::new(PAGES)) } else { Box::new(Apart::new(PAGES)) };
    let mut threads = threads(kind, 1);
    let (mut times, mut ratios, mut beside) = ([const { Vec::new() }; 5], Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let [other_put, other_get, _] = pass(&*other, &mut threads);
        let [roof_put, roof_get, _] = pass(&*roof, &mut threads);
        let [put, get, flush] = pass(&store, &mut threads);
        times.iter_mut().zip([put, get, flush, roof_put, roof_get]).for_each(|(list, time)| list.push(time));
        ratios.push((roof_put + roof_get) / (put + get));
        let more = if packed { roof_put + roof_get } else { 0.0 };
        beside.push((more + other_put + other_get) / (put + get));
    }
    let [put, get, flush, roof_put, roof_get] = times.map(median);
    print!(
        "{name:<34} {put:>7.0} {get:>7.0} {flush:>7.0}   {:>5.2} of {what} ({roof_put:.0}, {roof_get:.0})",
        median(ratios)
    );
    println!("; {:.2} of {}", median(beside), if packed { "it and two copies" } else { "copies one by one" });
}

/// How much more two threads do than one: the store, and the roofline.
fn scaling(name: &str, kind: Pages, compress: bool, deduplicate: bool) {
    let (store, (what, roof)) = (Kept::new(PAGES, compress, deduplicate), roofline(kind));
    let mut threads = threads(kind, memory::THREADS);
    let (mut of_store, mut of_roof) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut times = |keeper: &dyn Keeper| {
            let [one, two] = [1, 2].map(|count| pass(keeper, &mut threads[..count])).map(|[put, get, _]| put + get);
            2.0 * one / two
        };
        of_roof.push(times(&*roof));
        of_store.push(times(&store));
    }
    println!("{name:<34} {:>5.2} times; {what} {:.2} times", median(of_store), median(of_roof));
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--counted") {
        let number = |index: usize| arguments[at + index].parse().expect("a number");
        return counted::run(number(1), number(2));
    }
    // A word of a row's name leaves the others out, and the counting.
    let only = arguments.iter().skip(1).find(|argument| !argument.starts_with('-'));
    let rows = || ROWS.into_iter().filter(|row| only.is_none_or(|word| row.0.contains(word.as_str())));
    println!(
        "{:<34} {:>7} {:>7} {:>7}   put+get against (put, get)",
        "nanoseconds of one thread", "put", "get", "flush"
    );
    for (name, kind, compress, deduplicate) in rows() {
        row(name, kind, compress, deduplicate);
    }
    println!("\nput+get of two threads on one pool, against one thread");
    for (name, kind, compress, deduplicate) in rows() {
        scaling(name, kind, compress, deduplicate);
    }
    if only.is_none() {
        counted::print();
    }
}
