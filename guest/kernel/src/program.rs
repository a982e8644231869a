//! The main thread: does what the command line asks for, then ends the domain.

use crate::{panic, println, start_info, workload};

/// The main thread's function.
pub fn main() {
    let args = start_info::args();
    let outcome = match args.get("workload") {
        Some(name) => workload::run(name, args),
        None => workload::run("hello", args),
    };
    if let Err(why) = outcome {
        println!("guest: {why}");
        panic::crash();
    }
    panic::power_off();
}
