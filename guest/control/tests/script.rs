//! The script is obeyed at its times; policies set targets between whiles.

mod common;

use common::{Bench, MS};
use ebb_control::Next;
use shared_abi::hvm::params::STORE_EVTCHN;
use shared_abi::io::xs_wire::MessageType;
use shared_abi::sched::SHUTDOWN_REBOOT;
use shared_abi::xen::DomId;

fn calls(bench: &Bench, what: &str) -> Vec<String> {
    bench.world.borrow().calls.iter().filter(|call| call.starts_with(what)).cloned().collect()
}

#[test]
fn lines_are_obeyed_at_their_times() {
    let script = "at 1000 lin target 128M\nat 2000 lin target 512M\nat 2500 lin pause\nat 2600 lin unpause\n\
                  at 3000 lin sysrq c\nat 4000 lin poweroff\nat 5000 lin destroy\nat 1500 lin max-mem 300M\n";
    let mut bench = Bench::new("", script);
    bench.world.borrow_mut().now = 500 * MS;
    bench.built(1, "lin", 256);
    bench.pass(999 * MS);
    assert_eq!(bench.node("/local/domain/1/memory/target").unwrap(), "262144");
    bench.pass(2 * MS);
    assert_eq!(bench.node("/local/domain/1/memory/target").unwrap(), "131072");
    assert_eq!(calls(&bench, "max_mem").last().unwrap(), "max_mem 1 132096");
    bench.pass(1000 * MS);
    assert_eq!(bench.node("/local/domain/1/memory/target").unwrap(), "524288");
    let raised = calls(&bench, "max_mem");
    assert_eq!(raised[raised.len() - 2..], ["max_mem 1 307200", "max_mem 1 525312"]);
    bench.pass(1100 * MS);
    assert_eq!((calls(&bench, "pause").len(), calls(&bench, "unpause").len()), (1, 2));
    assert_eq!(bench.node("/local/domain/1/control/sysrq").unwrap(), "c");
    bench.pass(1000 * MS);
    assert_eq!(bench.node("/local/domain/1/control/shutdown").unwrap(), "poweroff");
    assert!(calls(&bench, "destroy").is_empty());
    bench.pass(1000 * MS);
    assert_eq!(calls(&bench, "destroy").len(), 1);
    let printed = bench.printed();
    assert!(printed.contains("(d0) control: script line 1: lin (domain 1): target 131072 KiB: done\n"), "{printed}");
    assert!(printed.contains("domain 1 (lin) was destroyed"));
}

#[test]
fn lines_wait_for_a_stage() {
    let script = "stage 1 0 lin target 128M\nstage 3 1000 lin poweroff\nat 0 lin sysrq h\n";
    let mut bench = Bench::new("", script);
    bench.built(1, "lin", 256);
    bench.pass(9000 * MS);
    let target = |bench: &mut Bench| bench.node("/local/domain/1/memory/target").unwrap();
    assert_eq!(target(&mut bench), "262144");
    assert_eq!(bench.node("/local/domain/1/control/sysrq").unwrap(), "h");
    for (text, expected) in [("x", "262144"), ("-1", "262144"), ("1", "131072")] {
        let request = [b"data/stage\0", text.as_bytes()].concat();
        assert_eq!(bench.store(1, MessageType::WRITE, &request).0, MessageType::WRITE);
        assert_eq!(target(&mut bench), expected, "{text}");
    }
    bench.pass(9000 * MS);
    // One beyond counts, and going back does not.
    for text in ["4", "0"] {
        assert_eq!(
            bench.store(1, MessageType::WRITE, &[b"data/stage\0", text.as_bytes()].concat()).0,
            MessageType::WRITE
        );
    }
    bench.pass(900 * MS);
    assert_ne!(bench.node("/local/domain/1/control/shutdown").as_deref(), Some("poweroff"));
    bench.pass(200 * MS);
    assert_eq!(bench.node("/local/domain/1/control/shutdown").as_deref(), Some("poweroff"));
}

#[test]
fn a_watch_sees_the_last_line_although_nothing_else_happens() {
    let mut bench = Bench::new("", "at 1000 lin poweroff\n");
    bench.built(1, "lin", 256);
    bench.settle();
    assert_eq!(bench.store(1, MessageType::WATCH, b"control/shutdown\0token\0").0, MessageType::WATCH);
    let port = bench.world.borrow().domains[&DomId(1)].params[&STORE_EVTCHN] as u32;
    let sent = |bench: &Bench| bench.world.borrow().domains[&DomId(1)].sent[&port];
    let before = sent(&bench);
    // Before anything else is due.
    bench.pass(1500 * MS);
    assert_eq!(bench.node("/local/domain/1/control/shutdown").unwrap(), "poweroff");
    assert!(sent(&bench) > before, "the guest sleeps on");
}

#[test]
fn a_line_is_obeyed_once_and_waits_for_who_is_started_anew() {
    let mut bench = Bench::new("", "at 1000 a reboot\nat 3000 a poweroff\n");
    bench.built(1, "a", 16);
    bench.pass(1000 * MS);
    assert_eq!(bench.node("/local/domain/1/control/shutdown").unwrap(), "reboot");
    bench.shut_down(1, SHUTDOWN_REBOOT);
    bench.pass(2500 * MS);
    bench.gone(1);
    bench.built(2, "a", 16);
    bench.settle();
    assert_eq!(bench.node("/local/domain/2/control/shutdown").unwrap(), "poweroff");
}

#[test]
fn a_script_for_nobody_does_not_keep_it_awake() {
    let mut bench = Bench::new("", "at 0 nobody destroy\n");
    bench.built(1, "a", 16);
    assert_eq!(bench.pass(100_000 * MS), Next::Wait(u64::MAX));
    assert!(bench.printed().contains("(d0) control: script line 1: there is no domain nobody\n"));
}

/// The model's guests obey at once.
fn obey(bench: &mut Bench) {
    let ids: Vec<DomId> = bench.world.borrow().domains.keys().copied().filter(|id| id.0 != 0).collect();
    for id in ids {
        let target: u64 = bench.node(&format!("/local/domain/{}/memory/target", id.0)).unwrap().parse().unwrap();
        let mut world = bench.world.borrow_mut();
        let pages = target / 4 + 2;
        let before = world.domains[&id].info.tot_pages;
        assert!(pages <= world.domains[&id].info.max_pages, "a target beyond the maximum");
        world.free_pages = (world.free_pages + before).checked_sub(pages).expect("more than the host has");
        world.domains.get_mut(&id).unwrap().info.tot_pages = pages;
    }
}

#[test]
fn the_share_policy_divides_what_the_host_has() {
    let mut bench = Bench::new("policy=share interval=100", "at 0 pinned target 64M\n");
    bench.world.borrow_mut().free_pages = 256 * 256;
    for (id, name) in [(1, "a"), (2, "b"), (3, "pinned")] {
        bench.built(id, name, 128);
        bench.world.borrow_mut().domains.get_mut(&DomId(id)).unwrap().info.max_pages = 1024 * 256;
    }
    for _ in 0..100 {
        bench.pass(100 * MS);
        obey(&mut bench);
    }
    let target = |bench: &mut Bench, id: u16| -> u64 { bench.control.record(DomId(id)).unwrap().target / 1024 };
    assert_eq!(target(&mut bench, 3), 64, "the script's target stays");
    let (a, b) = (target(&mut bench, 1), target(&mut bench, 2));
    assert!(a.abs_diff(b) <= 4 && a > 250, "{a} {b}");
    assert!(bench.world.borrow().free_pages >= 15 * 256);
}

#[test]
fn the_pressure_policy_reads_reports() {
    let mut bench = Bench::new("policy=pressure interval=100", "");
    for (id, name) in [(1, "idle"), (2, "needy"), (3, "silent")] {
        bench.built(id, name, 256);
        bench.world.borrow_mut().domains.get_mut(&DomId(id)).unwrap().info.max_pages = 512 * 256;
    }
    bench.settle();
    let mut report = |path: &str, value: &str| bench.control.server().write(path.as_bytes(), value.as_bytes()).unwrap();
    report("/local/domain/1/data/memory/committed", "51200");
    report("/local/domain/1/data/memory/free", "150000");
    report("/local/domain/2/data/memory/wish", "409600");
    for _ in 0..50 {
        bench.pass(100 * MS);
        obey(&mut bench);
    }
    let target = |id: u16| bench.control.record(DomId(id)).unwrap().target;
    assert!(target(1) < 200 << 10, "{}", target(1));
    assert!(target(2) >= 390 << 10, "{}", target(2));
    assert_eq!(target(3), 256 << 10);
}
