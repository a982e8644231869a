//! The arguments of memory operations, whatever the caller's width: read once, widened to the 64-bit structures.

use shared_abi::memory::{
    AddToPhysmap, AddToPhysmapBatch, MemAcquireResource, MemoryExchange, MemoryMap, MemoryReservation,
    RemoveFromPhysmap,
};
use shared_abi::xen::compat::{
    AddToPhysmap32, AddToPhysmapBatch32, MemAcquireResource32, MemoryExchange32, MemoryMap32, MemoryReservation32,
    RemoveFromPhysmap32,
};
use shared_abi::xen::{Errno, Gfn, GuestHandle};
use zerocopy::{FromBytes, IntoBytes};

use crate::hypercall::{Call, Width};
use crate::machine::Machine;

/// A structure that a 32-bit caller lays out as `Narrow`.
pub(super) trait Argument: FromBytes + IntoBytes {
    type Narrow: FromBytes + IntoBytes;
    fn widen(narrow: Self::Narrow) -> Self;
}

fn handle<T: ?Sized>(address: u32) -> GuestHandle<T> {
    GuestHandle::new(u64::from(address))
}

impl Argument for MemoryReservation {
    type Narrow = MemoryReservation32;

    fn widen(narrow: MemoryReservation32) -> Self {
        Self {
            extent_start: handle(narrow.extent_start),
            nr_extents: u64::from(narrow.nr_extents),
            extent_order: narrow.extent_order,
            mem_flags: narrow.mem_flags,
            domid: narrow.domid,
            pad: [0; 3],
        }
    }
}

impl Argument for MemoryExchange {
    type Narrow = MemoryExchange32;

    fn widen(narrow: MemoryExchange32) -> Self {
        Self {
            in_: MemoryReservation::widen(narrow.in_),
            out: MemoryReservation::widen(narrow.out),
            nr_exchanged: u64::from(narrow.nr_exchanged),
        }
    }
}

impl Argument for AddToPhysmap {
    type Narrow = AddToPhysmap32;

    fn widen(narrow: AddToPhysmap32) -> Self {
        Self {
            domid: narrow.domid,
            size: narrow.size,
            space: narrow.space,
            idx: u64::from(narrow.idx),
            gpfn: widen_gfn(narrow.gpfn),
        }
    }
}

impl Argument for AddToPhysmapBatch {
    type Narrow = AddToPhysmapBatch32;

    fn widen(narrow: AddToPhysmapBatch32) -> Self {
        Self {
            domid: narrow.domid,
            space: narrow.space,
            size: narrow.size,
            foreign_domid: narrow.foreign_domid,
            idxs: handle(narrow.idxs),
            gpfns: handle(narrow.gpfns),
            errs: handle(narrow.errs),
        }
    }
}

impl Argument for RemoveFromPhysmap {
    type Narrow = RemoveFromPhysmap32;

    fn widen(narrow: RemoveFromPhysmap32) -> Self {
        Self { domid: narrow.domid, pad: [0; 3], gpfn: widen_gfn(narrow.gpfn) }
    }
}

impl Argument for MemoryMap {
    type Narrow = MemoryMap32;

    fn widen(narrow: MemoryMap32) -> Self {
        Self { nr_entries: narrow.nr_entries, pad: 0, buffer: handle(narrow.buffer) }
    }
}

impl Argument for MemAcquireResource {
    type Narrow = MemAcquireResource32;

    fn widen(narrow: MemAcquireResource32) -> Self {
        Self {
            domid: narrow.domid,
            type_: narrow.type_,
            id: narrow.id,
            nr_frames: narrow.nr_frames,
            pad: narrow.pad,
            frame: narrow.frame,
            frame_list: handle(narrow.frame_list),
        }
    }
}

/// The invalid frame of a 32-bit caller is the invalid frame.
fn widen_gfn(gfn: u32) -> Gfn {
    Gfn(if gfn == u32::MAX { u64::MAX } else { u64::from(gfn) })
}

impl<M: Machine> Call<'_, M> {
    /// The structure that the second argument points to.
    pub(super) fn memory_argument<T: Argument>(&self) -> Result<T, Errno> {
        match self.width {
            Width::Bits64 => self.read_guest(self.args[1]),
            Width::Bits32 => self.read_guest(self.args[1]).map(T::widen),
        }
    }

    /// Reads `xen_pfn_t`s (or `xen_ulong_t`s) from element `index` of an array on, as many as can be read in order:
    /// says how many.
    pub(super) fn read_numbers(&self, list: u64, index: u64, numbers: &mut [u64]) -> usize {
        if self.read_all_numbers(list, index, numbers).is_ok() {
            return numbers.len();
        }
        self.read_some_numbers(list, index, numbers)
    }

    /// The list ends somewhere in between: finds out where.
    #[cold]
    #[inline(never)]
    fn read_some_numbers(&self, list: u64, index: u64, numbers: &mut [u64]) -> usize {
        let readable = |(number, index)| self.read_all_numbers(list, index, core::slice::from_mut(number)).is_ok();
        numbers.iter_mut().zip(index..).map(readable).take_while(|readable| *readable).count()
    }

    #[inline]
    fn read_all_numbers(&self, list: u64, index: u64, numbers: &mut [u64]) -> Result<(), Errno> {
        match self.width {
            Width::Bits64 => self.read_elements(GuestHandle::<u64>::new(list), index, numbers),
            Width::Bits32 => {
                for (number, index) in numbers.iter_mut().zip(index..) {
                    let narrow = self.read_element(GuestHandle::<u32>::new(list), index)?;
                    *number = widen_gfn(narrow).0;
                }
                Ok(())
            }
        }
    }
}
