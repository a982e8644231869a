//! Copies between the hypervisor and a guest's memory, by the guest's virtual addresses or by guest-physical ones.
//!
//! A virtual address is translated as the guest's processor would: through its page tables in force at the exit, with
//! every table found through the domain's p2m. Supervisor rights are needed, no more. A guest's memory may change at
//! any moment, so bytes are copied once and never borrowed; a copy holds the p2m lock for reading, so no frame changes
//! hands under it.
//!
//! Walks are remembered per vCPU ([`WalkCache`]) with what each entry on the way contained. Before one is used again
//! the entries are loaded and compared, so a guest that changes its tables never gets a stale answer, whether or not
//! it flushed; and it is dropped when the domain's p2m has lost a translation since.
//!
//! Errors: `EFAULT` for an address that does not translate, is read-only where it is written, or wraps. A copy that
//! fails half-way has done the pages before.

mod cache;
mod walk;

use shared_abi::xen::{Errno, Gfn, GuestHandle, Mfn};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::domain::Domain;
use crate::hypercall::{Call, GuestPaging};
use crate::hypervisor::Hypervisor;
use crate::locks::{ReadGuard, rank};
use crate::machine::{Machine, MachineAddress, PAGE_SHIFT, PAGE_SIZE};
use crate::p2m::P2m;
use crate::vcpu::{Vcpu, VcpuRef};
pub use cache::WalkCache;
use core::sync::atomic::Ordering;

/// The p2m, held for reading.
type Held<'a, M> = ReadGuard<'a, P2m<M>, { rank::P2M }>;

/// What a copy does with the frame it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl<M: Machine> Call<'_, M> {
    /// Copies in from `address` of the caller's.
    ///
    /// # Errors
    /// `EFAULT`: see the module.
    #[inline]
    pub fn read_guest_bytes(&self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let machine = &self.hv.machine;
        if let Some((_held, at)) = self.locate(address, bytes.len(), Access::Read) {
            copy_in(machine, at, bytes);
            return Ok(());
        }
        self.each_page(address, bytes.len(), Access::Read, |at, range| machine.read(at, &mut bytes[range]))
    }

    /// Copies out to `address` of the caller's.
    ///
    /// # Errors
    /// `EFAULT`: see the module.
    #[inline]
    pub fn write_guest_bytes(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let machine = &self.hv.machine;
        if let Some((_held, at)) = self.locate(address, bytes.len(), Access::Write) {
            copy_out(machine, at, bytes);
            return Ok(());
        }
        self.each_page(address, bytes.len(), Access::Write, |at, range| machine.write(at, &bytes[range]))
    }

    /// Reads a structure.
    ///
    /// # Errors
    /// `EFAULT`: see the module.
    #[inline]
    pub fn read_guest<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_guest_bytes(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a structure.
    ///
    /// # Errors
    /// `EFAULT`: see the module.
    #[inline]
    pub fn write_guest<T: IntoBytes + Immutable>(&self, address: u64, value: &T) -> Result<(), Errno> {
        self.write_guest_bytes(address, value.as_bytes())
    }

    /// Reads consecutive structures.
    ///
    /// # Errors
    /// `EFAULT`: see the module.
    pub fn read_guest_slice<T: FromBytes + IntoBytes>(&self, address: u64, values: &mut [T]) -> Result<(), Errno> {
        self.read_guest_bytes(address, values.as_mut_bytes())
    }

    /// Writes consecutive structures.
    ///
    /// # Errors
    /// `EFAULT`: see the module.
    pub fn write_guest_slice<T: IntoBytes + Immutable>(&self, address: u64, values: &[T]) -> Result<(), Errno> {
        self.write_guest_bytes(address, values.as_bytes())
    }

    /// Reads element `index` of the array at `handle`.
    ///
    /// # Errors
    /// `EFAULT`: see the module, and when the element's address wraps.
    pub fn read_element<T: FromBytes + IntoBytes>(&self, handle: GuestHandle<T>, index: u64) -> Result<T, Errno> {
        self.read_guest(handle.element(index).ok_or(Errno::EFAULT)?.address())
    }

    /// Writes element `index` of the array at `handle`.
    ///
    /// # Errors
    /// As [`Call::read_element`].
    pub fn write_element<T: IntoBytes + Immutable>(
        &self,
        handle: GuestHandle<T>,
        index: u64,
        value: &T,
    ) -> Result<(), Errno> {
        self.write_guest(handle.element(index).ok_or(Errno::EFAULT)?.address(), value)
    }

    /// Reads elements of the array at `handle`, from `index` on.
    ///
    /// # Errors
    /// As [`Call::read_element`].
    pub fn read_elements<T: FromBytes + IntoBytes>(
        &self,
        handle: GuestHandle<T>,
        index: u64,
        values: &mut [T],
    ) -> Result<(), Errno> {
        self.read_guest_slice(handle.element(index).ok_or(Errno::EFAULT)?.address(), values)
    }

    /// Writes elements of the array at `handle`, from `index` on.
    ///
    /// # Errors
    /// As [`Call::read_element`].
    pub fn write_elements<T: IntoBytes + Immutable>(
        &self,
        handle: GuestHandle<T>,
        index: u64,
        values: &[T],
    ) -> Result<(), Errno> {
        self.write_guest_slice(handle.element(index).ok_or(Errno::EFAULT)?.address(), values)
    }

    /// The guest-physical frame behind a virtual address of the caller's, and the offset in it.
    ///
    /// # Errors
    /// `EFAULT` when the address does not translate to memory.
    pub fn guest_frame_of(&self, address: u64) -> Result<(Gfn, usize), Errno> {
        let p2m = self.current.domain().memory.p2m.read();
        let found = walk::walk(&self.hv.machine, &p2m, &self.paging, address, Access::Read).ok_or(Errno::EFAULT)?;
        Ok((found.gfn, page_offset(address)))
    }

    /// Calls `copy` with the machine address of each part of `length` bytes at `address` that lies in one page, and the
    /// range of bytes it is.
    #[inline(never)]
    fn each_page(
        &self,
        address: u64,
        length: usize,
        access: Access,
        mut copy: impl FnMut(MachineAddress, core::ops::Range<usize>),
    ) -> Result<(), Errno> {
        if length == 0 {
            return Ok(());
        }
        address.checked_add(length as u64 - 1).ok_or(Errno::EFAULT)?;
        let p2m = self.current.domain().memory.p2m.read();
        let mut done = 0;
        while done < length {
            let at = address + done as u64;
            let part = (PAGE_SIZE - page_offset(at)).min(length - done);
            let walks = &self.current.walks;
            let mfn = walks.locate(&self.hv.machine, &p2m, &self.paging, at, access).ok_or(Errno::EFAULT)?;
            copy(MachineAddress::in_frame(mfn, page_offset(at)), done..done + part);
            done += part;
        }
        Ok(())
    }

    /// Where `length` bytes at `address` are, if they are there and in one page; nothing of the p2m changes as long as
    /// the guard is held.
    #[inline(never)]
    fn locate(&self, address: u64, length: usize, access: Access) -> Option<(Held<'_, M>, MachineAddress)> {
        if !fits_page(address, length) {
            return None;
        }
        let current: &Vcpu<M> = self.current;
        let p2m = self.current.domain().memory.p2m.read();
        let mfn = current.walks.locate(&self.hv.machine, &p2m, &self.paging, address, access)?;
        Some((p2m, MachineAddress::in_frame(mfn, page_offset(address))))
    }
}

impl WalkCache {
    /// The frame behind a virtual address, from the cache if what it remembers still holds.
    #[inline]
    fn locate<M: Machine>(
        &self,
        machine: &M,
        p2m: &P2m<M>,
        paging: &GuestPaging,
        address: u64,
        access: Access,
    ) -> Option<Mfn> {
        match self.find(machine, p2m, &cache::Key::new(paging, address), access) {
            Some(mfn) => Some(mfn),
            None => self.walk(machine, p2m, paging, address, access),
        }
    }

    #[cold]
    #[inline(never)]
    fn walk<M: Machine>(
        &self,
        machine: &M,
        p2m: &P2m<M>,
        paging: &GuestPaging,
        address: u64,
        access: Access,
    ) -> Option<Mfn> {
        let found = walk::walk(machine, p2m, paging, address, access)?;
        self.remember(p2m, &cache::Key::new(paging, address), &found);
        Some(found.mfn)
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Copies in from a domain's guest-physical memory.
    ///
    /// # Errors
    /// `EFAULT` for an address without memory, or that wraps.
    pub fn read_physical(&self, domain: &Domain<M>, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        self.each_physical_page(domain, address, bytes.len(), Access::Read, |at, range| {
            copy_in(&self.machine, at, &mut bytes[range]);
        })
    }

    /// Copies out to a domain's guest-physical memory.
    ///
    /// # Errors
    /// `EFAULT` for an address without writable memory, or that wraps.
    pub fn write_physical(&self, domain: &Domain<M>, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.each_physical_page(domain, address, bytes.len(), Access::Write, |at, range| {
            copy_out(&self.machine, at, &bytes[range]);
        })
    }

    /// Copies a whole frame of the hypervisor's to a page of a domain's guest-physical memory.
    ///
    /// # Errors
    /// As [`Hypervisor::write_physical`].
    pub(crate) fn write_physical_frame(&self, domain: &Domain<M>, address: u64, from: Mfn) -> Result<(), Errno> {
        debug_assert!(page_offset(address) == 0);
        self.each_physical_page(domain, address, PAGE_SIZE, Access::Write, |at, _| {
            self.machine.copy_frame(from, at.frame());
        })
    }

    /// Copies a page of a domain's guest-physical memory to a frame that only the caller knows of.
    ///
    /// # Errors
    /// As [`Hypervisor::read_physical`].
    pub(crate) fn read_physical_frame(&self, domain: &Domain<M>, address: u64, to: Mfn) -> Result<(), Errno> {
        debug_assert!(page_offset(address) == 0);
        self.each_physical_page(domain, address, PAGE_SIZE, Access::Read, |at, _| {
            self.machine.copy_frame(at.frame(), to);
        })
    }

    /// Reads the bytes at a virtual address of a vCPU that is not in a hypercall (an instruction to decode), as far as
    /// they are there: says how many. Only the CPU that has the vCPU calls this.
    pub fn read_virtual(&self, vcpu: &VcpuRef<M>, paging: &GuestPaging, address: u64, bytes: &mut [u8]) -> usize {
        let p2m = vcpu.domain().memory.p2m.read();
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let part = (PAGE_SIZE - page_offset(at)).min(bytes.len() - done);
            let Some(mfn) = vcpu.walks.locate(&self.machine, &p2m, paging, at, Access::Read) else { break };
            copy_in(&self.machine, MachineAddress::in_frame(mfn, page_offset(at)), &mut bytes[done..done + part]);
            done += part;
        }
        done
    }

    fn each_physical_page(
        &self,
        domain: &Domain<M>,
        address: u64,
        length: usize,
        access: Access,
        mut copy: impl FnMut(MachineAddress, core::ops::Range<usize>),
    ) -> Result<(), Errno> {
        if length == 0 {
            return Ok(());
        }
        address.checked_add(length as u64 - 1).ok_or(Errno::EFAULT)?;
        let p2m = domain.memory.p2m.read();
        let mut done = 0;
        while done < length {
            let at = address + done as u64;
            let part = (PAGE_SIZE - page_offset(at)).min(length - done);
            let found = p2m.lookup(&self.machine, Gfn(at >> PAGE_SHIFT)).ok_or(Errno::EFAULT)?;
            if access == Access::Write && !found.writable {
                return Err(Errno::EFAULT);
            }
            copy(MachineAddress::in_frame(found.mfn, page_offset(at)), done..done + part);
            done += part;
        }
        Ok(())
    }
}

/// Whether `length` bytes at `address`, at least one, are in one page. Then they do not wrap either.
#[inline]
fn fits_page(address: u64, length: usize) -> bool {
    length != 0 && page_offset(address) + length <= PAGE_SIZE
}

fn page_offset(address: u64) -> usize {
    address as usize % PAGE_SIZE
}

/// Most bytes copied as words; a longer copy is better done by the machine.
const WORDS: usize = 512;

/// Copies out of RAM, word by word where size and alignment allow: whole words are then read at once.
#[inline(always)]
fn copy_in<M: Machine>(machine: &M, at: MachineAddress, bytes: &mut [u8]) {
    let shape = at.0 as usize | bytes.len();
    if shape.is_multiple_of(8) && bytes.len() <= WORDS {
        for (index, chunk) in bytes.chunks_exact_mut(8).enumerate() {
            let word = machine.word64(MachineAddress(at.0 + 8 * index as u64)).load(Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    } else if shape.is_multiple_of(4) && bytes.len() <= WORDS {
        for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
            let word = machine.word32(MachineAddress(at.0 + 4 * index as u64)).load(Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    } else {
        machine.read(at, bytes);
    }
}

/// The reverse of [`copy_in`].
#[inline(always)]
fn copy_out<M: Machine>(machine: &M, at: MachineAddress, bytes: &[u8]) {
    let shape = at.0 as usize | bytes.len();
    if shape.is_multiple_of(8) && bytes.len() <= WORDS {
        for (index, chunk) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let word = machine.word64(MachineAddress(at.0 + 8 * index as u64));
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
    } else if shape.is_multiple_of(4) && bytes.len() <= WORDS {
        for (index, chunk) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let word = machine.word32(MachineAddress(at.0 + 4 * index as u64));
            word.store(u32::from_le_bytes(*chunk), Ordering::Relaxed);
        }
    } else {
        machine.write(at, bytes);
    }
}
