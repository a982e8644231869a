//! The balloon, against the real hypervisor.

use super::{Outcome, Stop, Test};
use crate::{balloon, check, check_eq, page};
use ebb_guest_hypercall::memory;
use ebb_guest_logic::frames::BLOCK_PAGES;

/// This group's tests.
pub const TESTS: &[Test] = &[("balloon-cycle", cycle)];

const PATIENCE: u64 = 60_000_000_000;

fn cycle() -> Outcome {
    balloon::start()?;
    let start = balloon::stats();
    let reserved = memory::current_reservation()?;
    // Two superpages and a few pages, and no more than is free.
    let less = (2 * BLOCK_PAGES + 77).min(page::free_pages() / 2);
    if less < 100 {
        return Err(Stop::Skip("there is too little free memory".into()));
    }
    for round in 0..3 {
        let target = start.current - less - round;
        check_eq!(balloon::set_target(target), target, "the target that was accepted");
        check!(balloon::wait_for_target(PATIENCE), "the balloon does not get down: {:?}", balloon::stats());
        let gone = reserved - memory::current_reservation()?;
        check_eq!(gone, less + round, "pages that the domain gave");
        check_eq!(balloon::stats().low - start.low, less + round, "pages in the balloon");
        balloon::set_target(start.current);
        check!(balloon::wait_for_target(PATIENCE), "the balloon does not get up: {:?}", balloon::stats());
        check_eq!(memory::current_reservation()?, reserved, "pages that the domain has in the end");
    }
    let end = balloon::stats();
    check_eq!(end.rejected, 0, "pages from the allocator that were not its to give");
    check!(end.superpages_got > 0 || end.superpages_given == 0, "superpages went and none came: {end:?}");
    Ok(())
}
