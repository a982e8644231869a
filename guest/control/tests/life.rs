//! Domains come, are prepared, end, are started anew; whatever fails on the way leaves nothing behind.

mod common;

use common::{Bench, MS};
use ebb_control::Next;
use shared_abi::hvm::params;
use shared_abi::io::xs_wire::MessageType;
use shared_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};
use shared_abi::xen::DomId;

#[test]
fn a_domain_is_prepared_and_then_runs() {
    let mut bench = Bench::new("", "");
    bench.built(1, "lin", 256);
    bench.settle();
    {
        let world = bench.world.borrow();
        let domain = &world.domains[&DomId(1)];
        assert_eq!(domain.pauses, 0);
        assert_eq!(domain.info.max_pages, 256 * 256 + 2);
        assert_eq!(domain.params[&params::CONSOLE_PFN], 0xfefff);
        assert_eq!(domain.params[&params::STORE_PFN], 0xfeffc);
        assert_ne!(domain.params[&params::CONSOLE_EVTCHN], domain.params[&params::STORE_EVTCHN]);
        assert_eq!(world.calls.last().unwrap(), "unpause 1", "everything is ready before it runs");
        assert_eq!(world.calls.iter().filter(|call| call.starts_with("unpause")).count(), 1);
        assert_eq!((world.mapped, world.bound), (2, 2));
    }
    assert_eq!(bench.node("/local/domain/1/memory/static-max").unwrap(), "262144");
    assert!(bench.printed().contains("(d0) control: domain 1 (lin) starts with 262144 KiB\n"));
}

#[test]
fn a_guest_reaches_xenstore() {
    let mut bench = Bench::new("", "");
    bench.built(1, "lin", 256);
    bench.settle();
    assert_eq!(bench.store(1, MessageType::READ, b"memory/target\0"), (MessageType::READ, b"262144".to_vec()));
    let refused = bench.store(1, MessageType::WRITE, b"memory/target\x00999");
    assert_eq!(refused, (MessageType::ERROR, b"EACCES\0".to_vec()));
    assert_eq!(bench.store(1, MessageType::WRITE, b"data/hello\0there").0, MessageType::WRITE);
    assert_eq!(bench.node("/local/domain/1/data/hello").unwrap(), "there");
}

#[test]
fn an_end_releases_everything_and_the_last_one_ends_the_machine() {
    let mut bench = Bench::new("", "");
    bench.built(1, "one", 16);
    bench.built(2, "two", 16);
    bench.settle();
    bench.print_from(1, b"last words");
    bench.shut_down(1, SHUTDOWN_POWEROFF);
    assert!(matches!(bench.settle(), Next::Wait(_)));
    let printed = bench.printed();
    assert!(printed.ends_with("(d1) last words\n(d0) control: domain 1 (one) powered off\n(d0) control: what is typed goes to domain 2 (two)\n"), "{printed}");
    assert_eq!(bench.node("/local/domain/1/name"), None);
    assert_eq!((bench.world.borrow().mapped, bench.world.borrow().bound), (2, 2));
    bench.gone(1);
    assert!(matches!(bench.settle(), Next::Wait(_)));
    bench.shut_down(2, SHUTDOWN_CRASH);
    assert!(matches!(bench.settle(), Next::Wait(_)), "it may still be taken apart");
    assert!(bench.printed().contains("domain 2 (two) crashed"));
    bench.assert_nothing_held();
    bench.gone(2);
    assert_eq!(bench.settle(), Next::End);
}

#[test]
fn stay_keeps_the_machine() {
    let mut bench = Bench::new("stay", "");
    bench.built(1, "one", 16);
    bench.settle();
    bench.gone(1);
    assert_eq!(bench.pass(60_000 * MS), Next::Wait(u64::MAX));
    bench.assert_nothing_held();
}

#[test]
fn without_any_domain_it_waits_a_little() {
    let mut bench = Bench::new("", "");
    assert!(matches!(bench.settle(), Next::Wait(due) if due < u64::MAX));
    assert_eq!(bench.pass(10_000 * MS), Next::End);
}

#[test]
fn a_domain_started_anew_is_a_new_domain() {
    let mut bench = Bench::new("", "");
    bench.built(1, "first", 16);
    bench.built(2, "again", 16);
    bench.settle();
    bench.type_in(b"\x012\r");
    bench.settle();
    assert_eq!(bench.store(2, MessageType::WRITE, b"data/mine\0x").0, MessageType::WRITE);
    bench.shut_down(2, SHUTDOWN_REBOOT);
    bench.settle();
    // The old one goes and the new one is there in the same moment.
    bench.gone(2);
    bench.built(3, "again", 16);
    bench.settle();
    assert_eq!(bench.node("/local/domain/2/data/mine"), None);
    assert_eq!(bench.node("/local/domain/3/data/mine"), None);
    assert_eq!(bench.node("/local/domain/3/name").unwrap(), "again");
    bench.type_in(b"hi");
    bench.settle();
    assert_eq!(bench.read_by(3), b"hi", "what is typed follows the name");
}

#[test]
fn domains_that_run_already_are_left_alone() {
    let mut bench = Bench::new("", "");
    bench.built_privileged(1, "driver");
    bench.built(2, "lin", 16);
    bench.settle();
    assert!(!bench.world.borrow().calls.iter().any(|call| call.split(' ').nth(1) == Some("1")));
    assert_eq!(bench.node("/local/domain/1/name"), None);
    bench.shut_down(2, SHUTDOWN_POWEROFF);
    bench.settle();
    bench.gone(2);
    assert_eq!(bench.settle(), Next::End, "only privileged domains remain");
}

#[test]
fn whatever_fails_the_domain_goes_and_nothing_stays() {
    let mut bench = Bench::new("", "");
    bench.built(1, "lin", 16);
    bench.settle();
    let calls = bench.world.borrow().calls.len();
    for failing in 0..calls {
        let mut bench = Bench::new("stay", "");
        bench.world.borrow_mut().fail_in = Some(failing);
        bench.built(1, "lin", 16);
        bench.settle();
        let printed = bench.printed();
        assert!(printed.contains("domain 1 (lin) cannot be prepared and is destroyed"), "call {failing}: {printed}");
        assert_eq!(bench.world.borrow().calls.last().unwrap(), "destroy 1");
        assert_eq!(bench.node("/local/domain/1/name"), None);
        bench.assert_nothing_held();
        bench.gone(1);
        bench.built(2, "next", 16);
        bench.settle();
        assert_eq!(bench.world.borrow().domains[&DomId(2)].pauses, 0, "the next one is served");
    }
    assert!(calls >= 14);
}

#[test]
fn the_end_of_a_reboot_is_not_the_last_ones_end() {
    let mut bench = Bench::new("", "");
    bench.built(1, "one", 16);
    bench.settle();
    bench.shut_down(1, SHUTDOWN_REBOOT);
    bench.settle();
    bench.gone(1);
    assert!(matches!(bench.settle(), Next::Wait(until) if until < u64::MAX), "it comes back, or not");
    // The same when nobody looked while it ended.
    bench.built(2, "one", 16);
    bench.settle();
    bench.gone(2);
    assert!(matches!(bench.settle(), Next::Wait(until) if until < u64::MAX), "it may come back");
    bench.built(3, "one", 16);
    bench.settle();
    bench.shut_down(3, SHUTDOWN_POWEROFF);
    bench.settle();
    bench.gone(3);
    assert_eq!(bench.settle(), Next::End);
}
