//! The main thread: does what the command line asks for, then ends the domain.

use crate::xenstore::{self, agent};
use crate::{bench, control, panic, println, start_info, test, workload};

/// The main thread's function.
pub fn main() {
    let args = start_info::args();
    if let Err(why) = xenstore::start() {
        println!("guest: no XenStore: {why}");
    }
    if args.flag("unpause")
        && let Err(why) = control::release::start()
    {
        println!("guest: nobody is unpaused: {why}");
    }
    let outcome = if let Some(name) = args.get("workload") {
        agent::start().map_err(Into::into).and_then(|()| workload::run(name, args))
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
    agent::end();
}
