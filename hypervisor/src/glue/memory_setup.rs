//! The machine's memory, handed to the core: a table with an entry for each frame, and the free ranges.
#![allow(unsafe_code)] // The frame table is made from early memory.

use alloc::vec::Vec;

use ebb_core::heap::FrameInfo;
use shared_abi::xen::Mfn;

use crate::memory;

const PAGE: u64 = 4096;

/// What the core's heap starts from.
pub struct Frames {
    /// One entry for each frame from 0 to the highest in use.
    pub frames: &'static mut [FrameInfo],
    /// Free frames: first and count.
    pub ranges: Vec<(Mfn, u64)>,
    /// Frames that the hypervisor itself uses (image, heap, tables, modules).
    pub hypervisor_frames: u64,
}

/// Takes all free memory from the early allocator. Once.
pub fn take_memory() -> Frames {
    let Ok((table, count)) = memory::map_frame_table(size_of::<FrameInfo>() as u64) else {
        crate::machine::refuse(format_args!("too little memory: no room for a record of each frame"));
    };
    // SAFETY: the table was just made for this alone and stays mapped; `FrameInfo` is integers for which zero is a
    // value, and a page is aligned enough for it. Where the table describes no RAM it is a read-only page of zeroes
    // that stands in many places: the core writes only records of frames that the ranges below give it.
    let frames = unsafe { core::slice::from_raw_parts_mut(table.cast::<FrameInfo>(), count as usize) };
    let ranges: Vec<(Mfn, u64)> = memory::seal()
        .iter()
        .map(|range| (Mfn(range.start.div_ceil(PAGE)), (range.end / PAGE).saturating_sub(range.start.div_ceil(PAGE))))
        .filter(|&(_, count)| count > 0)
        .collect();
    let free: u64 = ranges.iter().map(|&(_, count)| count).sum();
    let hypervisor_frames = (memory::figures().ram / PAGE).saturating_sub(free);
    Frames { frames, ranges, hypervisor_frames }
}
