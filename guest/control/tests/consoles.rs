//! Consoles: lines, fairness, hostile rings, what is typed.

mod common;

use common::{Bench, MS};
use ebb_control::console::{ALLOWANCE, PERIOD, ROUND};
use ebb_control::{Control, Next};
use ebb_ring::Page;
use shared_abi::hvm::params::{CONSOLE_EVTCHN, CONSOLE_PFN};
use shared_abi::io::console::{IN_CONS, IN_SIZE, OUT_PROD, OUT_SIZE};
use shared_abi::xen::DomId;

fn bench(domains: u16) -> Bench {
    let mut bench = Bench::new("stay", "");
    (1..=domains).for_each(|id| bench.built(id, &format!("dom{id}"), 16));
    bench.settle();
    bench.printed();
    bench
}

#[test]
fn lines_come_out_whole_and_named() {
    let mut bench = bench(2);
    bench.print_from(1, b"one ");
    bench.settle();
    bench.print_from(2, b"first of two\nsecond of two\n");
    bench.settle();
    bench.print_from(1, b"line\r\n");
    bench.settle();
    assert_eq!(bench.printed(), "(d2) first of two\n(d2) second of two\n(d1) one line\n");
}

#[test]
fn a_prompt_comes_out_after_a_while() {
    let mut bench = bench(2);
    bench.print_from(1, b"login: ");
    assert_eq!(bench.settle(), Next::Wait(300 * MS));
    assert_eq!(bench.printed(), "");
    bench.pass(300 * MS);
    assert_eq!(bench.printed(), "(d1) login: ");
    bench.print_from(1, b"root\n");
    bench.settle();
    assert_eq!(bench.printed(), "root\n", "the line goes on");
    bench.print_from(1, b"$ ");
    bench.pass(400 * MS);
    bench.print_from(2, b"hello\n");
    bench.print_from(1, b"ls\n");
    bench.settle();
    assert_eq!(bench.printed(), "(d1) $ ls\n(d2) hello\n");
    bench.print_from(1, b"$ ");
    bench.pass(400 * MS);
    bench.print_from(2, b"hello\n");
    bench.settle();
    bench.print_from(1, b"pwd\n");
    bench.settle();
    assert_eq!(bench.printed(), "(d1) $ \n(d2) hello\n(d1) pwd\n");
}

#[test]
fn a_line_without_an_end_is_bounded() {
    let mut bench = bench(1);
    for _ in 0..8 {
        bench.print_from(1, &[b'x'; 256]);
        bench.settle();
    }
    let printed = bench.printed();
    assert_eq!(printed.matches('x').count(), 2048);
    assert_eq!(printed.matches("(d1) ").count(), 1);
}

#[test]
fn bad_indexes_close_one_console_once() {
    let mut bench = bench(2);
    bench.page(1, CONSOLE_PFN).store(OUT_PROD, OUT_SIZE + 1);
    bench.raise(1, CONSOLE_EVTCHN);
    bench.settle();
    assert_eq!(bench.printed(), "(d0) control: domain 1 has lost its console: its ring makes no sense\n");
    bench.raise(1, CONSOLE_EVTCHN);
    bench.print_from(2, b"still here\n");
    bench.settle();
    assert_eq!(bench.printed(), "(d2) still here\n");
    // Its XenStore is another matter.
    let value = bench.store(1, shared_abi::io::xs_wire::MessageType::READ, b"name\0").1;
    assert_eq!(value, b"dom1");
}

/// One step with a guest that refills its ring as fast as it is read.
fn flooded(bench: &mut Bench) -> Next {
    while bench.print_from(1, b"flood flood flood flood flood\n") > 0 {}
    Control::step(&mut bench.control)
}

#[test]
fn a_flood_delays_nobody() {
    let mut bench = bench(2);
    for _ in 0..20 {
        flooded(&mut bench);
    }
    bench.printed();
    bench.print_from(2, b"a quiet word\n");
    flooded(&mut bench);
    let printed = bench.printed();
    assert!(printed.contains("(d2) a quiet word\n"));
    assert!(printed.len() <= 2 * ROUND, "one turn's worth, with its marks");
}

#[test]
fn a_flood_does_not_have_all_our_time() {
    let mut bench = bench(1);
    let mut taken = 0;
    let due = loop {
        match flooded(&mut bench) {
            Next::Again => taken += 1,
            Next::Wait(due) => break due,
            Next::End => unreachable!(),
        }
        assert!(taken < 1000, "there is no end");
    };
    assert!(taken >= ALLOWANCE / ROUND - 1);
    assert_eq!(due, PERIOD);
    bench.world.borrow_mut().now = due;
    assert_eq!(flooded(&mut bench), Next::Again);
}

#[test]
fn what_is_typed_goes_to_the_chosen_one() {
    let mut bench = bench(3);
    bench.type_in(b"for the first\r\x01n");
    bench.settle();
    bench.type_in(b"for the second\x01\x01\x013\rthird\x01pback");
    bench.settle();
    assert_eq!(bench.read_by(1), b"for the first\r");
    assert_eq!(bench.read_by(2), b"for the second\x01back");
    assert_eq!(bench.read_by(3), b"third");
    let world = bench.world.borrow();
    let domain = &world.domains[&DomId(2)];
    assert!(domain.sent[&(domain.params[&CONSOLE_EVTCHN] as u32)] >= 1, "it is told");
    drop(world);
    bench.printed();
    bench.type_in(b"\x017\r\x01?\x01l");
    bench.settle();
    let printed = bench.printed();
    assert!(printed.contains("(d0) control: there is no domain 7 with a console\n"));
    assert!(printed.contains("(d0) Ctrl-A, then:\n"));
    assert!(printed.contains("(d0) * domain 2 (dom2) served, target 16384 KiB\n"), "{printed}");
}

#[test]
fn who_does_not_read_loses_input_and_nothing_else() {
    let mut bench = bench(1);
    let long = vec![b'k'; 5000];
    bench.type_in(&long);
    bench.settle();
    let warning = "(d0) control: domain 1 does not read what is typed: it is lost\n";
    assert_eq!(bench.printed(), warning, "said once");
    assert_eq!(bench.read_by(1).len(), IN_SIZE as usize);
    bench.type_in(b"again");
    bench.settle();
    assert_eq!(bench.read_by(1), b"again");
    bench.page(1, CONSOLE_PFN).store(IN_CONS, 0x8000_0000);
    bench.type_in(b"nonsense");
    bench.print_from(1, b"output goes on\n");
    bench.settle();
    assert!(bench.printed().contains("(d1) output goes on\n"));
}

#[test]
fn escape_sequences_stay_inside() {
    let mut bench = bench(1);
    bench.print_from(1, b"\x1b[2J\x1b]0;(d2) fake\x07\x1b[1;1Hplain\n\r(d2) not from two\n");
    bench.settle();
    assert_eq!(bench.printed(), "(d1) plain\n(d1) (d2) not from two\n");
}
