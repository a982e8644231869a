//! `memory_op`: what lies where in the domain's address space.
#![allow(unsafe_code)] // Mapping special pages and moving own ones.

use super::memory::{Block, decrease, populate};
use super::{Outcome, Stop, Test, is_privileged, wrong_call};
use crate::{check, check_eq, cpu, page, paging, start_info, xen};
use core::sync::atomic::Ordering;
use ebb_guest_hypercall::shared::{self, SharedInfo};
use ebb_guest_hypercall::{DomId, Errno, Gfn, memory};
use ebb_guest_logic::pattern;
use shared_abi::hypercall::MEMORY_OP;
use shared_abi::memory as abi;
use shared_abi::xen::{GuestHandle, PAGE_SIZE};

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("memory-map", map),
    ("memory-map-privileged", privileged),
    ("physmap-shared-info-moves", shared_info_moves),
    ("physmap-page-moves", page_moves),
    ("physmap-batch", batch),
    ("physmap-errors", errors),
];

fn map() -> Outcome {
    let mut entries = [abi::E820Entry::default(); 64];
    let count = match memory::memory_map(&mut entries) {
        Err(Errno::ENOSYS) => return Err(Stop::Skip("this domain has no memory map by hypercall".into())),
        other => other?,
    };
    let info = start_info::get();
    check_eq!(count, info.memory_map.len(), "entries by hypercall and at start");
    for (entry, known) in entries[..count].iter().zip(&info.memory_map) {
        check_eq!({ entry.addr }, known.start, "an entry's start");
        check_eq!({ entry.size }, known.end - known.start, "an entry's size");
        check_eq!({ entry.type_ }, known.kind, "an entry's type");
    }
    check_eq!(memory::memory_map(&mut entries[..1]), Ok(1), "a map with room for one entry");
    let mut argument = abi::MemoryMap { nr_entries: 64, pad: 0, buffer: GuestHandle::new(0x7000_0000_0000) };
    let address = (&raw mut argument).expose_provenance() as u64;
    let unmapped = wrong_call(MEMORY_OP, [abi::MEMORY_MAP.into(), address, 0, 0, 0]);
    check_eq!(unmapped, Err(Errno::EFAULT), "a buffer that is not mapped");
    Ok(())
}

fn privileged() -> Outcome {
    if is_privileged() {
        return machine();
    }
    let mut argument = abi::MemoryMap::default();
    let address = (&raw mut argument).expose_provenance() as u64;
    let machine = wrong_call(MEMORY_OP, [abi::MACHINE_MEMORY_MAP.into(), address, 0, 0, 0]);
    check_eq!(machine, Err(Errno::EPERM), "the host's memory map");
    Ok(())
}

/// The map of the whole machine, which a privileged domain may see.
fn machine() -> Outcome {
    let mut entries = [abi::E820Entry::default(); 128];
    let buffer = GuestHandle::new(entries.as_mut_ptr().expose_provenance() as u64);
    let mut argument = abi::MemoryMap { nr_entries: 0, pad: 0, buffer: GuestHandle::new(0) };
    let mut ask = |nr_entries: u32, buffer| {
        argument = abi::MemoryMap { nr_entries, pad: 0, buffer };
        let address = (&raw mut argument).expose_provenance() as u64;
        let result = wrong_call(MEMORY_OP, [abi::MACHINE_MEMORY_MAP.into(), address, 0, 0, 0]);
        (result, argument.nr_entries)
    };
    let (result, count) = ask(0, GuestHandle::new(0));
    check_eq!(result, Ok(0), "asking for the number of entries");
    check_eq!(ask(count, buffer).0, Err(Errno::EINVAL), "room for no entry more than there are");
    check_eq!(ask(128, buffer), (Ok(0), count), "the machine's map");
    let ram = entries[..count as usize].iter().filter(|entry| entry.type_ == abi::E820_RAM);
    let pages = ram.map(|entry| entry.size / PAGE_SIZE).sum::<u64>();
    check!(pages > page::ram_pages(), "{pages} pages of RAM in {count} entries, less than this domain has");
    Ok(())
}

/// A gfn that nothing uses, near the one of `shared_info`.
fn free_gfn() -> Gfn {
    Gfn(xen::shared_info_gfn().0 + 0x40)
}

fn add(space: u32, idx: u64, gpfn: Gfn) -> Result<(), Errno> {
    // SAFETY: tests map at gfns that nothing uses, or that they have emptied.
    unsafe { memory::add_to_physmap(space, idx, gpfn) }
}

fn shared_info_moves() -> Outcome {
    let (home, other) = (xen::shared_info_gfn(), free_gfn());
    let address = other.0 * PAGE_SIZE;
    // SAFETY: nothing is mapped there.
    unsafe { paging::map(address, address, PAGE_SIZE, paging::WRITE | paging::NO_EXECUTE)? };
    let before = xen::shared_info().wc_sec.load(Ordering::SeqCst);
    // The 2-level ABI looks at the page in upcalls: none may come while it is away.
    let interrupts = cpu::interrupts_off();
    let moved = add(abi::MAPSPACE_SHARED_INFO, 0, other);
    // SAFETY: mapped above; if the call failed, the read gives all ones.
    let there: &SharedInfo = unsafe { shared::at(address) };
    let after = there.wc_sec.load(Ordering::SeqCst);
    let back = add(abi::MAPSPACE_SHARED_INFO, 0, home);
    let again = xen::shared_info().wc_sec.load(Ordering::SeqCst);
    if interrupts {
        cpu::interrupts_on();
    }
    check_eq!(moved, Ok(()), "moving shared_info");
    check_eq!(back, Ok(()), "moving it back");
    check_eq!(after, before, "the wall clock at the other place");
    check_eq!(again, before, "the wall clock at the old place");
    // SAFETY: the mapping was the test's own.
    unsafe { paging::unmap_page(address)? };
    Ok(())
}

fn page_moves() -> Outcome {
    let block = Block::take()?;
    let pages = memory::current_reservation()?;
    pattern::fill(block.words(1), 1, 42);
    check_eq!(decrease(&[block.page(2)], 0), Ok(1), "giving page 2");
    check_eq!(add(abi::MAPSPACE_GMFN, block.page(1).0, block.page(2)), Ok(()), "moving page 1 to 2");
    check_eq!(pattern::check(block.words(2), 1, 42), Ok(()), "the page that moved");
    check_eq!(memory::current_reservation()?, pages - 1, "pages after the move");
    check_eq!(decrease(&[block.page(1)], 0), Ok(0), "giving the place it left");
    check_eq!(populate(&[block.page(1)], 0), Ok(1), "getting a page there");
    check_eq!(memory::current_reservation()?, pages, "pages in the end");
    block.words(1)[9] = 1;
    check_eq!(pattern::check(block.words(2), 1, 42), Ok(()), "the page that moved, again");
    Ok(())
}

fn batch() -> Outcome {
    let block = Block::take()?;
    pattern::fill(block.words(1), 1, 43);
    check_eq!(decrease(&block.pages(2..4), 0), Ok(2), "giving pages 2 and 3");
    let idxs = [block.page(1).0, 1 << 40];
    let gpfns = [block.page(2), block.page(3)];
    let mut errs = [77i32; 2];
    let mut argument = abi::AddToPhysmapBatch {
        domid: DomId::SELF,
        space: abi::MAPSPACE_GMFN as u16,
        size: 2,
        foreign_domid: DomId(0),
        idxs: GuestHandle::new(idxs.as_ptr().expose_provenance() as u64),
        gpfns: GuestHandle::new(gpfns.as_ptr().expose_provenance() as u64),
        errs: GuestHandle::new(errs.as_mut_ptr().expose_provenance() as u64),
    };
    let address = (&raw mut argument).expose_provenance() as u64;
    let result = wrong_call(MEMORY_OP, [abi::ADD_TO_PHYSMAP_BATCH.into(), address, 0, 0, 0]);
    check_eq!(result, Ok(0), "the batch");
    let errs = core::hint::black_box(errs);
    check_eq!(errs[0], 0, "the first item");
    check!(errs[1] < 0, "the second item, which does not exist, gave {}", errs[1]);
    check_eq!(pattern::check(block.words(2), 1, 43), Ok(()), "the page that moved");
    check_eq!(populate(&[block.page(1), block.page(3)], 0), Ok(2), "filling the holes");
    Ok(())
}

fn errors() -> Outcome {
    check_eq!(add(99, 0, free_gfn()), Err(Errno::EINVAL), "a space that does not exist");
    check_eq!(add(abi::MAPSPACE_GMFN_FOREIGN, 0, free_gfn()), Err(Errno::ENOSYS), "a foreign page without a batch");
    check!(add(abi::MAPSPACE_GMFN, 1 << 40, free_gfn()).is_err(), "a page that does not exist was moved");
    check!(
        add(abi::MAPSPACE_GRANT_TABLE, 1 << 20, free_gfn()).is_err(),
        "a grant frame that does not exist was mapped"
    );
    let absent = Gfn(page::layout().end + (1 << 20));
    // SAFETY: nothing is there.
    check_eq!(unsafe { memory::remove_from_physmap(absent) }, Err(Errno::ENOENT), "removing what is absent");
    Ok(())
}
