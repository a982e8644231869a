//! `memory_op`: giving memory away and getting it back.
#![allow(unsafe_code)] // Pages that come and go.

use super::{Outcome, Stop, Test, is_ebb, is_privileged, wrong_call};
use crate::{check, check_eq, page};
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use ebb_guest_hypercall::{DomId, Errno, Gfn, memory};
use ebb_guest_logic::frames::{BLOCK_ORDER, BLOCK_PAGES};
use ebb_guest_logic::pattern;
use shared_abi::hypercall::MEMORY_OP;
use shared_abi::memory as abi;
use shared_abi::xen::GuestHandle;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("memory-figures", figures),
    ("memory-cycle-4k", cycle_4k),
    ("memory-cycle-2m", cycle_2m),
    ("memory-long-list", long_list),
    ("memory-stops-at-absent", stops_at_absent),
    ("memory-limits", limits),
    ("memory-exchange", exchange),
    ("memory-errors", errors),
];

/// A block of 512 pages for a test, given back in the end.
pub struct Block(u64);

impl Block {
    /// Takes one.
    pub fn take() -> Result<Self, Stop> {
        page::take(BLOCK_ORDER).map(Self).ok_or_else(|| Stop::Skip("there is no free 2 MiB extent".into()))
    }

    /// Page `index` of it.
    pub fn page(&self, index: u64) -> Gfn {
        Gfn(self.0 + index)
    }

    /// Some of its pages.
    pub fn pages(&self, range: Range<u64>) -> Vec<Gfn> {
        range.map(|index| self.page(index)).collect()
    }

    /// A page's contents; it must be there.
    pub fn words(&self, index: u64) -> &'static mut [u64; pattern::WORDS] {
        // SAFETY: the block is the test's, which uses one reference at a time.
        unsafe { page::words(self.0 + index) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        page::give(self.0, BLOCK_ORDER);
    }
}

/// Gives extents away; the count.
pub fn decrease(extents: &[Gfn], order: u32) -> Result<usize, Errno> {
    // SAFETY: tests pass pages of their own blocks, or none at all.
    unsafe { memory::decrease_reservation(extents, order) }
}

/// Gets extents; the count.
pub fn populate(extents: &[Gfn], order: u32) -> Result<usize, Errno> {
    // SAFETY: tests pass pages that they have given away.
    unsafe { memory::populate_physmap(extents, order) }
}

fn figures() -> Outcome {
    let (current, maximum) = (memory::current_reservation()?, memory::maximum_reservation()?);
    check!(current <= maximum, "{current} pages of at most {maximum}");
    let ram = page::ram_pages();
    check!(is_privileged() || (ram..ram + 2048).contains(&current), "{current} pages, but the memory map has {ram}");
    let last = memory::maximum_gpfn()?;
    check!(last + 1 >= page::layout().ram.end(), "the greatest gfn {last:#x} is inside RAM");
    check!(memory::maximum_ram_page()? > 0, "the host's greatest frame is 0");
    Ok(())
}

fn cycle_4k() -> Outcome {
    let block = Block::take()?;
    let before = memory::current_reservation()?;
    pattern::fill(block.words(7), 7, 99);
    pattern::fill(block.words(8), 8, 99);
    check_eq!(decrease(&[block.page(7)], 0), Ok(1), "giving a page");
    check_eq!(memory::current_reservation()?, before - 1, "pages after giving one");
    check_eq!(populate(&[block.page(7)], 0), Ok(1), "getting it back");
    check_eq!(memory::current_reservation()?, before, "pages after getting it back");
    if is_ebb() {
        check!(block.words(7).iter().all(|word| *word == 0), "a page that came is not clean");
    }
    pattern::fill(block.words(7), 7, 100);
    check_eq!(pattern::check(block.words(7), 7, 100), Ok(()), "the page that came");
    check_eq!(pattern::check(block.words(8), 8, 99), Ok(()), "its neighbour");
    Ok(())
}

fn cycle_2m() -> Outcome {
    let block = Block::take()?;
    let before = memory::current_reservation()?;
    block.words(511)[0] = 12345;
    check_eq!(decrease(&[block.page(0)], BLOCK_ORDER), Ok(1), "giving 2 MiB");
    check_eq!(memory::current_reservation()?, before - BLOCK_PAGES, "pages after giving 2 MiB");
    check_eq!(populate(&[block.page(0)], BLOCK_ORDER), Ok(1), "getting 2 MiB");
    check_eq!(memory::current_reservation()?, before, "pages after getting 2 MiB");
    for index in 0..BLOCK_PAGES {
        pattern::fill(block.words(index), index, 5);
    }
    for index in 0..BLOCK_PAGES {
        check_eq!(pattern::check(block.words(index), index, 5), Ok(()), "a page of the extent");
    }
    Ok(())
}

fn long_list() -> Outcome {
    let block = Block::take()?;
    let before = memory::current_reservation()?;
    // Backwards, so that nothing merges on the way.
    let pages: Vec<Gfn> = (0..BLOCK_PAGES).rev().map(|index| block.page(index)).collect();
    check_eq!(decrease(&pages, 0), Ok(512), "giving 512 pages");
    check_eq!(memory::current_reservation()?, before - 512, "pages after giving 512");
    check_eq!(populate(&pages[..100], 0), Ok(100), "getting 100 of them");
    check_eq!(populate(&pages[100..], 0), Ok(412), "getting the others");
    check_eq!(memory::current_reservation()?, before, "pages after getting all");
    for index in 0..BLOCK_PAGES {
        block.words(index)[3] = index;
    }
    let right = (0..BLOCK_PAGES).filter(|index| block.words(*index)[3] == *index).count();
    check_eq!(right, 512, "pages that hold what was written");
    Ok(())
}

fn stops_at_absent() -> Outcome {
    let block = Block::take()?;
    check_eq!(decrease(&[block.page(20)], 0), Ok(1), "giving page 20");
    check_eq!(decrease(&[block.page(20)], 0), Ok(0), "giving it again");
    check_eq!(decrease(&block.pages(19..22), 0), Ok(1), "giving pages 19 to 21");
    check_eq!(populate(&block.pages(19..21), 0), Ok(2), "getting 19 and 20");
    block.words(21)[0] = 21;
    check_eq!(block.words(21)[0], 21, "page 21, which was not given");
    Ok(())
}

fn limits() -> Outcome {
    let block = Block::take()?;
    let before = memory::current_reservation()?;
    check_eq!(decrease(&[], 0), Ok(0), "giving nothing");
    check_eq!(populate(&[], 0), Ok(0), "getting nothing");
    for order in [19, 31, 32, 63, u32::MAX] {
        check_eq!(decrease(&[block.page(0)], order), Ok(0), format!("giving an extent of order {order}"));
        check_eq!(populate(&[block.page(0)], order), Ok(0), format!("getting an extent of order {order}"));
    }
    check_eq!(memory::current_reservation()?, before, "pages after all that");
    if !is_privileged() {
        let spare = memory::maximum_reservation()? - before;
        // Nothing beyond the maximum: pages that were given may come back, no more.
        check_eq!(decrease(&[block.page(0)], 0), Ok(1), "giving a page");
        let end = page::layout().end + 512;
        let wanted: Vec<Gfn> = (0..spare + 9).map(|index| Gfn(end + index)).collect();
        let got = populate(&wanted, 0)?;
        check!(got as u64 <= spare + 1, "{got} pages, but the maximum leaves room for {}", spare + 1);
        check_eq!(decrease(&wanted[..got], 0), Ok(got), "giving them again");
        check_eq!(populate(&[block.page(0)], 0), Ok(1), "getting the page back");
    }
    Ok(())
}

fn exchange() -> Outcome {
    let block = Block::take()?;
    let before = memory::current_reservation()?;
    let scattered = block.pages(0..BLOCK_PAGES);
    // SAFETY: the block is the test's own.
    let (done, refused) = unsafe { memory::exchange(&scattered, 0, &[block.page(0)], BLOCK_ORDER) };
    match refused {
        Some(Errno::EOPNOTSUPP | Errno::ENOSYS) if !is_ebb() => {
            return Err(Stop::Skip("this hypervisor does not exchange for translated domains".into()));
        }
        Some(Errno::ENOMEM) => check_eq!(done, 0, "pages exchanged when memory is short"),
        other => {
            check_eq!(other, None, "the exchange's error");
            check_eq!(done, 512, "pages exchanged");
        }
    }
    check_eq!(memory::current_reservation()?, before, "pages after the exchange");
    for index in 0..BLOCK_PAGES {
        pattern::fill(block.words(index), index, 3);
    }
    for index in 0..BLOCK_PAGES {
        check_eq!(pattern::check(block.words(index), index, 3), Ok(()), "a page after the exchange");
    }
    // SAFETY: refused: the sizes differ.
    let (done, refused) = unsafe { memory::exchange(&scattered[..3], 0, &[block.page(0)], BLOCK_ORDER) };
    check!(refused.is_some() && done == 0, "3 pages were exchanged for 512");
    Ok(())
}

/// A reservation with every field open.
fn reservation(list: u64, count: u64, order: u32, domid: DomId, command: u64) -> Result<i64, Errno> {
    let argument = abi::MemoryReservation {
        extent_start: GuestHandle::new(list),
        nr_extents: count,
        extent_order: order,
        domid,
        ..Default::default()
    };
    let address = (&raw const argument).expose_provenance() as u64;
    wrong_call(MEMORY_OP, [command, address, 0, 0, 0])
}

fn errors() -> Outcome {
    const DECREASE: u64 = abi::DECREASE_RESERVATION as u64;
    const POPULATE: u64 = abi::POPULATE_PHYSMAP as u64;
    const UNMAPPED: u64 = 0x7000_0000_0000;
    let op = |command: u64, address: u64| wrong_call(MEMORY_OP, [command, address, 0, 0, 0]);
    check_eq!(op(63, 0), Err(Errno::ENOSYS), "an operation that does not exist");
    for command in [abi::CURRENT_RESERVATION, abi::ADD_TO_PHYSMAP, abi::MEMORY_MAP] {
        check_eq!(op(command.into(), UNMAPPED), Err(Errno::EFAULT), "an argument that is not mapped");
    }
    // These three never give an error for their own argument: nothing was done, which is a count of 0.
    for command in [DECREASE, POPULATE] {
        check_eq!(op(command, UNMAPPED), Ok(0), "a reservation that is not mapped");
    }
    let before = memory::current_reservation()?;
    check_eq!(reservation(0, u64::MAX, 0, DomId::SELF, DECREASE), Ok(0), "a huge count");
    check_eq!(reservation(0, 3, 0, DomId::SELF, DECREASE | 5 << 6), Ok(5), "a start behind the end");
    let unmapped = reservation(0x7000_0000_0000, 4, 0, DomId::SELF, DECREASE);
    check!(matches!(unmapped, Ok(0) | Err(Errno::EFAULT)), "a list that is not mapped: {unmapped:?}");
    let stranger = reservation(0, 1, 0, DomId(0x7000), POPULATE);
    check!(matches!(stranger, Ok(0) | Err(Errno::ESRCH)), "a domain that does not exist: {stranger:?}");
    let mut domain = abi::MemoryDomain { domid: DomId(0x7000) };
    let address = (&raw mut domain).expose_provenance() as u64;
    check_eq!(op(abi::CURRENT_RESERVATION.into(), address), Err(Errno::ESRCH), "pages of a domain that does not exist");
    check_eq!(memory::current_reservation()?, before, "pages after all that");
    if !is_privileged() {
        // Xen looks for the domain before the privilege, and takes no DOMID_SELF here.
        let claim = reservation(0, 1, 0, DomId::SELF, abi::CLAIM_PAGES.into());
        check!(matches!(claim, Err(Errno::EPERM | Errno::EINVAL)), "a claim without the privilege gave {claim:?}");
    }
    Ok(())
}
