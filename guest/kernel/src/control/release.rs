//! The argument `unpause`: lets every domain that waits to be prepared run as it is, without console ring and XenStore.
//! For tests of a privileged domain that is no control domain.

use super::machine::{Calls, waits};
use crate::{println, thread};
use ebb_control::Machine;

/// Waits for the first of them, and has a thread look after those that are built later.
pub fn start() -> Result<(), &'static str> {
    let mut calls = Calls::new()?;
    while !unpause_all(&mut calls) {
        thread::park_until(u64::MAX);
    }
    thread::spawn("unpause", None, move || run(calls)).map(drop)
}

fn run(mut calls: Calls) {
    calls.wake_me();
    loop {
        unpause_all(&mut calls);
        thread::park_until(u64::MAX);
    }
}

/// Whether somebody waited.
fn unpause_all(calls: &mut Calls) -> bool {
    let list = calls.domains().unwrap_or_default();
    let waiting = list.iter().filter(|info| waits(info));
    for info in waiting.clone() {
        if let Err(errno) = calls.unpause(info.domain) {
            println!("unpause: domain {}: {errno}", info.domain.0);
        }
    }
    waiting.count() > 0
}
