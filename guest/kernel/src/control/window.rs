//! Where other domains' pages appear: guest-physical addresses above everything that the memory map mentions, mapped at
//! the same virtual addresses, a page at a time.
//!
//! A slot is held by one [`Slot`] at a time. Its page-table entry stays once it was made: what it leads to comes and goes
//! in the hypervisor's tables, which the hypervisor keeps coherent.
#![allow(unsafe_code)] // Mapping addresses outside RAM.

use crate::{page, paging, start_info};
use alloc::vec::Vec;
use ebb_guest_hypercall::Gfn;
use shared_abi::xen::PAGE_SIZE;
use spin::Mutex;

/// Slots there can be.
const SLOTS: u64 = 4096;
/// No device and no RAM of the early map is above this page.
const FOUR_GIB: u64 = 1 << 20;

struct Window {
    /// The first slot's page; 0 before it is known.
    start: u64,
    /// Slots that were made.
    made: u64,
    /// Those of them that nobody holds.
    free: Vec<u64>,
}

static WINDOW: Mutex<Window> = Mutex::new(Window { start: 0, made: 0, free: Vec::new() });

/// A page of address space that nobody else uses. Dropping it gives it back: nothing may be there then.
#[derive(Debug)]
pub struct Slot(u64);

impl Slot {
    /// A free slot.
    pub fn take() -> Result<Slot, &'static str> {
        let mut window = WINDOW.lock();
        if window.start == 0 {
            let map = &start_info::get().memory_map;
            let top = map.iter().map(|entry| entry.pages_touched().end).max().unwrap_or(0);
            window.start = top.max(page::layout().end).max(FOUR_GIB).next_multiple_of(512);
        }
        if let Some(page) = window.free.pop() {
            return Ok(Slot(page));
        }
        if window.made == SLOTS {
            return Err("too many pages of other domains");
        }
        let page = window.start + window.made;
        let address = page * PAGE_SIZE;
        // SAFETY: nothing of the kernel's is above the memory map and the allocator's end; what appears here is accessed
        // by atomics only.
        unsafe { paging::map(address, address, PAGE_SIZE, paging::WRITE | paging::NO_EXECUTE)? };
        window.made += 1;
        Ok(Slot(page))
    }

    /// Its place in guest-physical memory.
    pub fn gfn(&self) -> Gfn {
        Gfn(self.0)
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.0 * PAGE_SIZE
    }

    /// Never uses the slot again: something is there that could not be taken away.
    pub fn lose(self) {
        core::mem::forget(self);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        WINDOW.lock().free.push(self.0);
    }
}
