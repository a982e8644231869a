//! Time and instructions per put, get and flush, by kind of page, beside a copy of a page and LZ4 by itself.
//!
//! `cargo bench -p ebb-tmem` (`make bench-tmem`) prints tables. Times are this machine's; the ratios are what is worth
//! comparing. The working set is larger than a cache. Instructions are counted by valgrind, if there is one, in runs
//! of this program with one stage more each; they repeat exactly, and do not depend on what else the machine does.
//!
//! Unsafe: the frames are plain memory here, as they are in a hypervisor, so that copies are the machine's own.
#![allow(unsafe_code, reason = "frames that are plain memory")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::hint::black_box;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use ebb_tmem::{
    Charge, ClientId, Config, Fault, Frame, Frames, GuestPage, Handle, PAGE_SIZE, Page, Scratch, Shortage, Store,
};

/// Pages of the working set: 64 MiB.
const PAGES: u32 = 16384;
const FRAMES: usize = PAGES as usize * 5 / 4;

struct Memory {
    base: *mut u8,
    layout: Layout,
    free: Mutex<Vec<u32>>,
}

// SAFETY: the memory lives as long as the value, and the store hands each frame to one user at a time; words that
// several look at are reached as atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Self {
        let layout = Layout::from_size_align(FRAMES * PAGE_SIZE, PAGE_SIZE).expect("a size");
        // SAFETY: the size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        assert!(!base.is_null());
        Self { base, layout, free: Mutex::new((0..FRAMES as u32).rev().collect()) }
    }

    fn at(&self, frame: u32, offset: usize, length: usize) -> *mut u8 {
        assert!((frame as usize) < FRAMES && offset + length <= PAGE_SIZE);
        // SAFETY: inside the allocation, by the assertion.
        unsafe { self.base.add(frame as usize * PAGE_SIZE + offset) }
    }

    fn bytes(&self, frame: u32, offset: usize, length: usize) -> &[u8] {
        // SAFETY: inside the allocation (`at`); the store lets nobody write to a frame that it reads by bytes.
        unsafe { std::slice::from_raw_parts(self.at(frame, offset, length), length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.base, self.layout) }
    }
}

impl Frames for Memory {
    fn allocate(&self, charge: Charge) -> Result<Frame, Shortage> {
        let frame = self.allocate_any(charge)?;
        // SAFETY: a frame that has just been allocated is nobody else's.
        unsafe { std::ptr::write_bytes(self.at(frame.number(), 0, PAGE_SIZE), 0, PAGE_SIZE) }
        Ok(frame)
    }
    fn allocate_any(&self, _charge: Charge) -> Result<Frame, Shortage> {
        self.free.lock().unwrap().pop().map(Frame::new).ok_or(Shortage::Memory)
    }
    fn free(&self, frame: Frame, _charge: Charge) {
        // A hypervisor clears freed frames when it is idle.
        self.free.lock().unwrap().push(frame.into_number());
    }
    fn word(&self, frame: u32, index: usize) -> &AtomicU64 {
        // SAFETY: inside the allocation and aligned; metadata is reached as words only.
        unsafe { AtomicU64::from_ptr(self.at(frame, index * 8, 8).cast()) }
    }
    fn read(&self, frame: u32, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.bytes(frame, offset, bytes.len()));
    }
    fn write(&self, frame: u32, offset: usize, bytes: &[u8]) {
        // SAFETY: inside the allocation (`at`); the store writes to a frame before others know it, or under a lock.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(frame, offset, bytes.len()), bytes.len()) }
    }
    fn equal(&self, frame: u32, offset: usize, bytes: &[u8]) -> bool {
        self.bytes(frame, offset, bytes.len()) == bytes
    }
}

struct Guest<'a>(&'a std::cell::RefCell<Box<[Page]>>, usize);

impl GuestPage<Memory> for Guest<'_> {
    fn read(&self, page: &mut Page) -> Result<(), Fault> {
        page.copy_from_slice(&self.0.borrow()[self.1]);
        Ok(())
    }
    fn read_frame(&self, frames: &Memory, frame: u32) -> Result<(), Fault> {
        frames.write(frame, 0, &self.0.borrow()[self.1]);
        Ok(())
    }
    fn write(&self, page: &Page) -> Result<(), Fault> {
        self.0.borrow_mut()[self.1].copy_from_slice(page);
        Ok(())
    }
    fn write_frame(&self, frames: &Memory, frame: u32) -> Result<(), Fault> {
        frames.read(frame, 0, &mut self.0.borrow_mut()[self.1]);
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pages {
    Zero,
    Equal,
    Compressible,
    Random,
}

/// Pages of the guest: a quarter of the working set, so that they are not all in a cache either.
const OWN: u32 = PAGES / 4;

/// The guest's pages.
fn pages(kind: Pages, count: u32) -> Box<[Page]> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let page = |number: usize| {
        let mut page = [0; PAGE_SIZE];
        match kind {
            Pages::Zero => {}
            Pages::Equal => page.fill(7),
            Pages::Compressible => {
                for chunk in page.chunks_mut(64) {
                    chunk[..16].fill(number as u8);
                    chunk[16..24].copy_from_slice(&next().to_le_bytes());
                }
            }
            Pages::Random => page.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&next().to_le_bytes())),
        }
        page
    };
    (0..count as usize).map(page).collect()
}

/// Nanoseconds per round of `work` over the working set, the best of five.
fn time(mut work: impl FnMut(u32)) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        (0..PAGES).for_each(&mut work);
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(PAGES));
    }
    best
}

fn handle(pool: u32, index: u32) -> Handle {
    Handle { pool, oid: [u64::from(index % 64), 0, 0], index: index / 64 }
}

/// Puts, gets and flushes of one kind of page: nanoseconds each.
fn measure(kind: Pages, compress: bool, deduplicate: bool) -> [f64; 3] {
    let memory = Memory::new();
    let store = Store::new(Config { clients: 1, seed: 1, compress, deduplicate });
    let (tmem, client) = (store.on(&memory), ClientId(0));
    tmem.new_pool(client, 0x0100_0001, [0, 0]).expect("a pool");
    let guest = std::cell::RefCell::new(pages(kind, OWN));
    let mut scratch = Scratch::try_new().expect("memory");
    let slot = |index: u32| Guest(&guest, (index as usize * 7) % (OWN as usize));
    let mut best = [f64::MAX; 3];
    for _ in 0..5 {
        let mut step = |which: usize, work: &mut dyn FnMut(u32)| {
            let start = Instant::now();
            (0..PAGES).for_each(work);
            let each = start.elapsed().as_secs_f64() * 1e9 / f64::from(PAGES);
            best[which] = best[which].min(each);
        };
        step(0, &mut |index| tmem.put(client, &handle(0, index), &slot(index), &mut scratch).expect("room"));
        step(1, &mut |index| {
            assert!(tmem.get(client, &handle(0, index), &slot(index), &mut scratch).expect("a pool"), "a page");
        });
        step(2, &mut |index| assert!(tmem.flush_page(client, &handle(0, index)).expect("a pool")));
    }
    best
}

/// The time of a plain copy of a page out of one large area into another, and of LZ4 both ways.
fn rooflines() -> (f64, [f64; 2]) {
    let source = pages(Pages::Random, OWN);
    let mut target: Box<[Page]> = vec![[0; PAGE_SIZE]; PAGES as usize].into_boxed_slice();
    let copy = time(|index| target[index as usize].copy_from_slice(&source[(index as usize * 7) % source.len()]));
    black_box(&target);
    let source = pages(Pages::Compressible, OWN);
    let mut table = lz4_flex::block::CompressTable::small();
    let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(PAGE_SIZE)];
    let mut lengths = vec![0; PAGES as usize];
    let slot = |index: u32| (index as usize * 7) % source.len();
    let pack = time(|index| {
        let length = lz4_flex::block::compress_into_with_table(&source[slot(index)], &mut packed, &mut table);
        lengths[index as usize] = length.expect("room");
    });
    let compressed: Vec<Vec<u8>> = source
        .iter()
        .map(|page| {
            let length = lz4_flex::block::compress_into_with_table(page, &mut packed, &mut table).expect("room");
            packed[..length].to_vec()
        })
        .collect();
    let mut page = [0; PAGE_SIZE];
    let unpack = time(|index| {
        lz4_flex::block::decompress_into(&compressed[slot(index)], &mut page).expect("a page");
    });
    black_box(page);
    (copy, [pack, unpack])
}

/// Put and get pairs a second, by threads that share one client.
fn throughput(threads: u32, compress: bool) -> f64 {
    let memory = Memory::new();
    let store = Store::new(Config { clients: 1, seed: 1, compress, deduplicate: false });
    store.on(&memory).new_pool(ClientId(0), 0x0100_0001, [0, 0]).expect("a pool");
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (store, memory) = (&store, &memory);
            scope.spawn(move || {
                let tmem = store.on(memory);
                let kind = if compress { Pages::Compressible } else { Pages::Random };
                let guest = std::cell::RefCell::new(pages(kind, OWN));
                let mut scratch = Scratch::try_new().expect("memory");
                for round in 0..4 {
                    for index in (thread..PAGES).step_by(threads as usize) {
                        let slot = Guest(&guest, (index as usize * 7 + round) % (OWN as usize));
                        let handle = handle(0, index);
                        tmem.put(ClientId(0), &handle, &slot, &mut scratch).expect("room");
                        assert!(tmem.get(ClientId(0), &handle, &slot, &mut scratch).expect("a pool"));
                    }
                }
            });
        }
    });
    4.0 * f64::from(PAGES) / start.elapsed().as_secs_f64()
}

/// Kinds of pages, whether they are compressed, and whether equal ones are found.
const ROWS: [(&str, Pages, bool, bool); 7] = [
    ("zero", Pages::Zero, false, true),
    ("equal, deduplicated", Pages::Equal, false, true),
    ("random, not deduplicated", Pages::Random, false, false),
    ("random, deduplication on", Pages::Random, false, true),
    ("compressible, compressed", Pages::Compressible, true, false),
    ("compressible, compressed, dedup.", Pages::Compressible, true, true),
    ("random, compression tried", Pages::Random, true, false),
];
/// Pages of each stage whose instructions are counted.
const COUNTED: u32 = 512;
/// Stages of a counted run of a row, and of one of the rooflines (row `ROWS.len()`): each does what those before it do.
const STAGES: [&str; 4] = ["nothing", "put", "get", "flush"];

/// What a child does under valgrind.
fn counted_run(row: usize, stage: usize) {
    let Some((_, kind, compress, deduplicate)) = ROWS.get(row).copied() else { return counted_roofline(stage) };
    let memory = Memory::new();
    let store = Store::new(Config { clients: 1, seed: 1, compress, deduplicate });
    let (tmem, client) = (store.on(&memory), ClientId(0));
    tmem.new_pool(client, 0x0100_0001, [0, 0]).expect("a pool");
    let guest = std::cell::RefCell::new(pages(kind, COUNTED));
    let mut scratch = Scratch::try_new().expect("memory");
    let slot = |index: u32| Guest(&guest, index as usize);
    let all = || (0..COUNTED).map(|index| (handle(0, index), slot(index)));
    if stage >= 1 {
        all().for_each(|(handle, slot)| tmem.put(client, &handle, &slot, &mut scratch).expect("room"));
    }
    if stage >= 2 {
        all().for_each(|(handle, slot)| {
            assert!(tmem.get(client, &handle, &slot, &mut scratch).expect("a pool"), "a page");
        });
    }
    if stage >= 3 {
        all().for_each(|(handle, _)| assert!(tmem.flush_page(client, &handle).expect("a pool")));
    }
}

/// Stage 1 copies pages, 2 compresses them too, 3 decompresses them too.
fn counted_roofline(stage: usize) {
    let source = pages(Pages::Compressible, COUNTED);
    let mut target = vec![[0; PAGE_SIZE]; COUNTED as usize];
    let mut table = lz4_flex::block::CompressTable::small();
    let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(PAGE_SIZE)];
    let mut lengths = Vec::with_capacity(COUNTED as usize);
    if stage >= 1 {
        source.iter().zip(&mut target).for_each(|(from, to)| to.copy_from_slice(black_box(from)));
    }
    if stage >= 2 {
        for page in &source {
            let length = lz4_flex::block::compress_into_with_table(page, &mut packed, &mut table);
            lengths.push(length.expect("room"));
        }
    }
    if let (3.., Some(length)) = (stage, lengths.last()) {
        for page in &mut target {
            lz4_flex::block::decompress_into(&packed[..*length], page).expect("a page");
        }
    }
    black_box(&target);
}

/// Instructions that a child executes, if valgrind can tell.
fn instructions(row: usize, stage: usize) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let arguments = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let numbers = [row, stage].map(|number| number.to_string());
    let mut child = Command::new("valgrind");
    child.args(arguments).arg(program).arg("--counted").args(numbers);
    let output = child.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split_once("Collected : "))?;
    line.1.trim().parse().ok()
}

/// Instructions per page of each stage but the first.
fn count(row: usize) -> Option<[u64; 3]> {
    let totals: Vec<u64> = (0..STAGES.len()).map(|stage| instructions(row, stage)).collect::<Option<_>>()?;
    let mut each = [0; 3];
    for (each, pair) in each.iter_mut().zip(totals.windows(2)) {
        *each = pair[1].saturating_sub(pair[0]) / u64::from(COUNTED);
    }
    Some(each)
}

fn count_all() {
    let Some([copy, pack, unpack]) = count(ROWS.len()) else {
        println!("\ninstructions: not counted, there is no valgrind");
        return;
    };
    println!("\ninstructions: copy of a page {copy}; LZ4 compress {pack}, decompress {unpack}");
    println!("{:<34} {:>7} {:>7} {:>7}", "instructions", STAGES[1], STAGES[2], STAGES[3]);
    for (row, (name, ..)) in ROWS.iter().enumerate() {
        if let Some([put, get, flush]) = count(row) {
            println!("{name:<34} {put:>7} {get:>7} {flush:>7}");
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--counted") {
        let number = |index: usize| arguments[at + index].parse().expect("a number");
        return counted_run(number(1), number(2));
    }
    let (copy, lz4) = rooflines();
    println!("copy of a page {copy:.0} ns; LZ4 compress {:.0} ns, decompress {:.0} ns", lz4[0], lz4[1]);
    println!("{:<34} {:>7} {:>7} {:>7}   put+get against", "ns", "put", "get", "flush");
    for (name, kind, compress, deduplicate) in ROWS {
        let [put, get, flush] = measure(kind, compress, deduplicate);
        let lz4 = lz4[0] + lz4[1];
        let (what, roof) = match kind {
            Pages::Compressible => ("LZ4 by itself", lz4),
            _ => ("two copies", 2.0 * copy),
        };
        print!("{name:<34} {put:>7.0} {get:>7.0} {flush:>7.0}   {:.2} of {what}", roof / (put + get));
        match kind {
            Pages::Compressible => println!(", {:.2} of LZ4 and two copies", (lz4 + 2.0 * copy) / (put + get)),
            _ => println!(),
        }
    }
    for compress in [false, true] {
        let best = |threads| (0..5).map(|_| throughput(threads, compress)).fold(0.0, f64::max);
        let [one, two] = [1, 2].map(best);
        let what = if compress { "compressed" } else { "raw" };
        println!("{what}: {one:.0} pairs a second with one thread, {two:.0} with two ({:.2} times)", two / one);
    }
    count_all();
}
