//! The main thread: does what the command line asks for, then ends the domain.

use crate::{bench, panic, println, start_info, test, workload};

/// The main thread's function.
pub fn main() {
    let args = start_info::args();
    let outcome = if let Some(name) = args.get("workload") {
        workload::run(name, args)
    } else if let Some(names) = args.get("test") {
        test::run(names)
    } else if args.flag("bench") || args.get("bench").is_some() {
        bench::run(args)
    } else {
        workload::run("hello", args)
    };
    if let Err(why) = outcome {
        println!("guest: {why}");
        panic::crash();
    }
    panic::power_off();
}
