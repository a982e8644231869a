//! Instructions, counted by valgrind, if there is one, in runs of this program with one stage more each. They repeat
//! exactly, and do not depend on what else the machine does.

use std::process::Command;

use crate::ROWS;
use crate::keeper::{Copied, Keeper, Kept, Packed, Pages, Thread};

/// Pages of each stage.
const COUNTED: usize = 512;
/// Stages: each does what those before it do.
const STAGES: [&str; 4] = ["nothing", "put", "get", "flush"];
/// After the rows, the rooflines.
const ROOFLINES: [&str; 2] = ["memcpy", "LZ4"];

/// What a child does under valgrind.
pub fn run(row: usize, stage: usize) {
    let (kind, keeper): (_, Box<dyn Keeper>) = match ROWS.get(row) {
        Some((_, kind, compress, deduplicate)) => (*kind, Box::new(Kept::new(COUNTED, *compress, *deduplicate))),
        None if row == ROWS.len() => (Pages::Random, Box::new(Copied::new(COUNTED))),
        None => (Pages::Compressible, Box::new(Packed::new(COUNTED))),
    };
    let mut thread = Thread::new(kind, COUNTED, COUNTED, 0);
    let steps: [fn(&dyn Keeper, &mut Thread, usize); 3] = [
        |keeper, thread, index| keeper.put(thread, index),
        |keeper, thread, index| keeper.get(thread, index),
        |keeper, thread, index| keeper.flush(thread, index),
    ];
    for step in &steps[..stage] {
        (0..COUNTED).for_each(|index| step(&*keeper, &mut thread, index));
    }
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
        *each = pair[1].saturating_sub(pair[0]) / COUNTED as u64;
    }
    Some(each)
}

/// Prints the table.
pub fn print() {
    println!("\n{:<34} {:>7} {:>7} {:>7}", "instructions", STAGES[1], STAGES[2], STAGES[3]);
    for (row, name) in ROWS.iter().map(|(name, ..)| *name).chain(ROOFLINES).enumerate() {
        let Some([put, get, flush]) = count(row) else { return println!("not counted: there is no valgrind") };
        println!("{name:<34} {put:>7} {get:>7} {flush:>7}");
    }
}
