//! The store's view of the machine: frames out of the heap, and the caller's page by its gfn.

use core::sync::atomic::AtomicU64;

use ebb_tmem::{Charge, Fault, Frame, Frames, GuestPage, Kind, PAGE_SIZE, Page, Shortage};
use shared_abi::xen::{DomId, Gfn, Mfn};

use crate::domain::Domain;
use crate::heap::{self, Extent, FrameHeap, Owner};
use crate::hypercall::Call;
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, MachineAddress, PAGE_SHIFT};

/// Frames of the heap, owned by the domain that is charged.
pub(super) struct MachineFrames<'a, M: Machine> {
    pub machine: &'a M,
    pub heap: &'a FrameHeap,
}

fn owner(charge: Charge) -> Owner {
    let domain = DomId(charge.client.0);
    match charge.kind {
        Kind::Ephemeral => Owner::TmemEphemeral(domain),
        Kind::Persistent => Owner::TmemPersistent(domain),
    }
}

fn frame_of(extent: Extent) -> Frame {
    // The heap knows frames by 32 bits.
    Frame::new(extent.into_record().0.0 as u32)
}

fn shortage(short: heap::Shortage) -> Shortage {
    match short {
        heap::Shortage::Maximum => Shortage::Maximum,
        heap::Shortage::Memory => Shortage::Memory,
    }
}

fn address(frame: u32, offset: usize) -> MachineAddress {
    MachineAddress::in_frame(Mfn(u64::from(frame)), offset)
}

impl<M: Machine> Frames for MachineFrames<'_, M> {
    fn allocate(&self, charge: Charge) -> Result<Frame, Shortage> {
        self.heap.try_allocate(self.machine, 0, owner(charge), false).map(frame_of).map_err(shortage)
    }

    fn allocate_any(&self, charge: Charge) -> Result<Frame, Shortage> {
        self.heap.allocate_uncleared(self.machine, owner(charge)).map(frame_of).map_err(shortage)
    }

    fn free(&self, frame: Frame, _charge: Charge) {
        // The heap's record says whose it is, and the heap clears it before anybody else has it.
        self.heap.free(Extent::from_record(Mfn(u64::from(frame.into_number())), 0));
    }

    fn cpu(&self) -> usize {
        usize::from(self.machine.this_cpu().0)
    }

    fn time(&self) -> u64 {
        self.machine.tsc()
    }

    fn word(&self, frame: u32, index: usize) -> &AtomicU64 {
        self.machine.word64(address(frame, index * 8))
    }

    fn read(&self, frame: u32, offset: usize, bytes: &mut [u8]) {
        self.machine.read(address(frame, offset), bytes);
    }

    fn write(&self, frame: u32, offset: usize, bytes: &[u8]) {
        self.machine.write(address(frame, offset), bytes);
    }
}

/// A page of a domain's, by its gfn.
pub(super) struct GuestFrame<'a, M: Machine> {
    pub hv: &'a Hypervisor<M>,
    pub domain: &'a Domain<M>,
    pub gfn: Gfn,
}

impl<M: Machine> GuestFrame<'_, M> {
    fn address(&self) -> Result<u64, Fault> {
        self.gfn.0.checked_mul(1 << PAGE_SHIFT).ok_or(Fault)
    }
}

impl<M: Machine> GuestPage<MachineFrames<'_, M>> for GuestFrame<'_, M> {
    fn read(&self, page: &mut Page) -> Result<(), Fault> {
        self.hv.read_physical(self.domain, self.address()?, page).map_err(|_| Fault)
    }

    fn read_frame(&self, _frames: &MachineFrames<'_, M>, frame: u32) -> Result<(), Fault> {
        let to = Mfn(u64::from(frame));
        self.hv.read_physical_frame(self.domain, self.address()?, to).map_err(|_| Fault)
    }

    fn write(&self, page: &Page) -> Result<(), Fault> {
        self.hv.write_physical(self.domain, self.address()?, page).map_err(|_| Fault)
    }

    fn write_frame(&self, _frames: &MachineFrames<'_, M>, frame: u32) -> Result<(), Fault> {
        let from = Mfn(u64::from(frame));
        self.hv.write_physical_frame(self.domain, self.address()?, from).map_err(|_| Fault)
    }
}

/// A page in a buffer of the caller's, by virtual address: saving and restoring. It may lie in two pages, so a copy
/// out can fail half-way; what it gives is then worth nothing, and the caller is told.
pub(super) struct BufferPage<'a, 'c, M: Machine> {
    pub call: &'a Call<'c, M>,
    pub address: u64,
}

impl<M: Machine> GuestPage<MachineFrames<'_, M>> for BufferPage<'_, '_, M> {
    fn read(&self, page: &mut Page) -> Result<(), Fault> {
        self.call.read_guest_bytes(self.address, page).map_err(|_| Fault)
    }

    fn read_frame(&self, frames: &MachineFrames<'_, M>, frame: u32) -> Result<(), Fault> {
        let mut part = [0; 512];
        for offset in (0..PAGE_SIZE).step_by(part.len()) {
            let address = self.address.checked_add(offset as u64).ok_or(Fault)?;
            self.call.read_guest_bytes(address, &mut part).map_err(|_| Fault)?;
            frames.write(frame, offset, &part);
        }
        Ok(())
    }

    fn write(&self, page: &Page) -> Result<(), Fault> {
        self.call.write_guest_bytes(self.address, page).map_err(|_| Fault)
    }

    fn write_frame(&self, frames: &MachineFrames<'_, M>, frame: u32) -> Result<(), Fault> {
        let mut part = [0; 512];
        for offset in (0..PAGE_SIZE).step_by(part.len()) {
            frames.read(frame, offset, &mut part);
            let address = self.address.checked_add(offset as u64).ok_or(Fault)?;
            self.call.write_guest_bytes(address, &part).map_err(|_| Fault)?;
        }
        Ok(())
    }
}
